"""
p-values over widths
====================

The width at which p is small tells how large an anomaly is. All widths are joined in one p-value, which pays for the
search over them.
"""

import matplotlib.pyplot as plt

from sparker import SparKerTest
from sparker.datasets import make_exponential
from sparker.displays import ScalesDisplay

# %%
# A narrow peak, and an excess as broad as the background itself. Both in one dimension, both with about ninety events.
figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
for ax, signal in zip(axes, ("bulk", "broad"), strict=True):
    pair = make_exponential(signal, n_reference=20_000, random_state=1)
    test = SparKerTest(expected_count=2000, n_toys=199, random_state=0, n_jobs=-1).fit(pair.reference, pair.data)
    ScalesDisplay.from_estimator(test, ax=ax)
    ax.text(0.68, 0.62, {"bulk": "narrow peak", "broad": "broad excess"}[signal], transform=ax.transAxes)
plt.show()
