"""
Network intrusion: a quiet scan
===============================

Connections to a server: how long, how many bytes each way, how many to the same host just before. A scan that keeps
within the ranges of normal traffic in each column is a crowd at one place of the space they span.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparker import SparKerTest
from sparker.displays import KernelsDisplay

NAMES = ["log duration", "log bytes sent", "log bytes received", "log connections before"]


def draw_normal(n, rng):
    """Browsing, transfers and look-ups."""
    kind = rng.choice(3, size=n, p=[0.6, 0.15, 0.25])
    center = np.array([[0.5, 6.0, 8.5, 1.0], [3.0, 7.0, 12.0, 0.5], [-3.0, 4.0, 4.5, 2.0]])[kind]
    scale = np.array([[1.0, 0.8, 1.2, 0.7], [1.0, 0.8, 1.5, 0.5], [0.8, 0.3, 0.6, 0.8]])[kind]
    rows = center + scale * rng.standard_t(5, size=(n, 4))
    rows[:, 2] += 0.5 * (rows[:, 0] - center[:, 0])  # longer connections receive more
    return rows


# %%
# Twenty-five connections of a scan among a thousand. All columns are in range; so are pairs of most.
rng = np.random.default_rng(0)
reference = draw_normal(5000, rng)
scan = rng.normal([-1.0, 4.6, 5.0, 3.0], [0.25, 0.15, 0.25, 0.2], size=(25, 4))
data = np.concatenate([draw_normal(975, rng), scan])

X, y = np.concatenate([reference, data]), np.repeat([0, 1], [5000, 1000])
model = make_pipeline(StandardScaler(), SparKerTest(n_toys=99, random_state=0, n_jobs=-1)).fit(X, y)
print(model[-1].result())

# %%
# The strongest kernel points at the scan: rows 975 to 999 of the data, in the columns in which it is special.
rows = model[-1].kernel_table()[0].nearest_rows - len(reference)
print(f"{np.mean(rows >= 975):.0%} of the ten connections nearest to the strongest kernel are the scan's")
KernelsDisplay.from_estimator(model, reference, data, feature_names=NAMES)
plt.show()
