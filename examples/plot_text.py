"""
Text: messages of a kind that is new
====================================

Short messages, turned into vectors by their words. Among the new ones are a few of a kind that the reference does not
hold: no single word gives them away, their combination does.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from sparker import SparKerTest

# %%
# A generator of messages: a subject, a verb and an object from the vocabulary of one of four themes, and some filler.
THEMES = {
    "delivery": ("parcel order courier invoice", "arrives leaves waits ships", "today tomorrow office door"),
    "meeting": ("team client manager board", "meets calls postpones joins", "monday room agenda report"),
    "travel": ("train flight hotel taxi", "departs books cancels confirms", "airport station seat ticket"),
    # the new kind borrows its words from the others
    "scam": ("parcel client invoice flight", "waits confirms calls cancels", "door ticket report agenda"),
}
FILLER = ["please", "kindly", "the", "your", "our", "a", "for", "with", "about", "now", "and", "very", "soon", "again"]


def write(theme, rng):
    """Return one message."""
    words = [rng.choice(part.split(), size=2) for part in THEMES[theme]]
    return " ".join(rng.permutation(np.concatenate([*words, rng.choice(FILLER, size=4)])))


rng = np.random.default_rng(0)
known = list(THEMES)[:3]
reference = [write(rng.choice(known), rng) for _ in range(3000)]
themes = np.array([*rng.choice(known, size=760), *["scam"] * 40])
data = [write(theme, rng) for theme in themes]

# %%
# Vectors are learned from both samples together, labels unseen, so that the permutation stays exact.
vectors = TruncatedSVD(20, random_state=0).fit_transform(TfidfVectorizer().fit_transform(reference + data))
test = SparKerTest(n_toys=99, random_state=0, n_jobs=-1).fit(vectors[:3000], vectors[3000:])
print(test.result())

# %%
# The messages with the largest log density ratio.
f = test.score_samples(vectors[3000:])
order = np.argsort(-f)
for row in order[:5]:
    print(f"{f[row]:5.2f}  {themes[row]:9s} {data[row]}")

figure, ax = plt.subplots(layout="constrained")
bins = np.linspace(f.min(), f.max() + 1e-9, 40)
ax.hist([f[themes != "scam"], f[themes == "scam"]], bins, stacked=True, label=["known kinds", "new kind"])
ax.set(yscale="log", xlabel="log density ratio $f$", ylabel="messages")
ax.legend(loc="upper right")
plt.show()
