"""
Annealing against a fixed width
===============================

A narrow kernel that starts far from an anomaly feels nothing of it. A broad one feels it, but cannot single it out.
Kernels that start broad and narrow step by step do both: here on random starts, twenty times each.
"""

import matplotlib.pyplot as plt
import numpy as np

from sparker import SparKerTest
from sparker.datasets import make_square

pair = make_square(counts=(80, 0, 0), n_reference=4000, random_state=0)
true_place, narrow, broad = pair.centers[0], 0.03, 0.3
schedules = {
    "fixed, narrow": {"width_init": narrow, "width_final": narrow},
    "fixed, broad": {"width_init": broad, "width_final": broad},
    "annealed": {"width_init": broad, "width_final": narrow},
}

# %%
# One kernel, 60 steps, from a random data row. How far from the clump does it end, and with which t?
distance, t = {}, {}
for name, widths in schedules.items():
    fits = [
        SparKerTest(
            n_kernels=1, n_widths=1, start="random", max_iter=60, companions=False, random_state=seed, **widths
        ).fit(pair.reference, pair.data)
        for seed in range(20)
    ]
    distance[name] = [np.linalg.norm(fit.centers_[0] - true_place) for fit in fits]
    t[name] = [fit.statistics_[0] for fit in fits]
    print(f"{name:14s} on the clump in {np.mean(np.array(distance[name]) < 0.04):.0%} of the starts")

# %%
# Only a kernel on the clump has a large t.
figure, ax = plt.subplots(layout="constrained")
for name, marker in zip(schedules, "sx.", strict=True):
    ax.plot(distance[name], t[name], marker, label=name, markersize=9, alpha=0.7)
ax.set(xlabel="distance of the kernel from the clump", ylabel="$t$")
ax.legend()
plt.show()
