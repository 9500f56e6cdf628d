"""
Kernels that organise themselves in the plane
=============================================

Kernels start on random rows, all of them broad, and narrow step by step. While they are broad they share the plane
out among themselves; as they narrow, they are drawn to the anomalies. Not every random start finds all of them, and by
default kernels start on the largest scores.
"""

import matplotlib.pyplot as plt
import numpy as np

from sparker import SparKerTest
from sparker.datasets import make_square

# %%
# Three clumps on a uniform square. ``start="random"`` anneals one set of kernels through all widths.
pair = make_square(counts=(60, 45, 30), random_state=4)
test = SparKerTest(
    n_kernels=8, n_widths=30, start="random", width_init=0.4, width_final=0.02, max_iter=5, random_state=4
).fit(pair.reference, pair.data)

# %%
# ``path_centers_`` holds the centres at each recorded width: the trajectories, from thin to thick as kernels narrow.
figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
axes[0].scatter(*pair.data.T, s=3, color="#c8c8c8")
axes[0].scatter(*pair.centers.T, s=200, facecolors="none", edgecolors="black", label="planted clumps")
for i in range(test.n_kernels):
    path = test.path_centers_[:, i]
    (line,) = axes[0].plot(*path.T, linewidth=1)
    axes[0].scatter(*path.T, s=np.linspace(2, 40, len(path)), color=line.get_color())
axes[0].set(xlabel="x", ylabel="y", title="trajectories of the centres", aspect="equal", xlim=(0, 1), ylim=(0, 1))
axes[0].plot([], [], "o", markersize=4, color="#c8c8c8", label="data")
axes[0].legend(loc="lower left", framealpha=1)
axes[1].plot(test.path_widths_, test.path_amplitudes_)
axes[1].set(xscale="log", xlabel="kernel width $\\sigma$", ylabel="amplitude", title="kernels light up as they arrive")
axes[1].set_xticks([0.4, 0.2, 0.1, 0.05, 0.02], ["0.4", "0.2", "0.1", "0.05", "0.02"])
axes[1].minorticks_off()
axes[1].invert_xaxis()
plt.show()
