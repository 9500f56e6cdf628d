"""
Beside static kernels and MMD
=============================

All tests stand on one base and are calibrated by the same kind of toys: only the statistic differs. Two small
anomalies: three narrow clumps, and a mode that has grown.
"""

import matplotlib.pyplot as plt
import numpy as np

from sparker import SparKerTest
from sparker.datasets import make_mixture, make_square
from sparker.peers import MMDTest, StaticKernelTest

pairs = {
    "narrow clumps": make_square(counts=(25, 20, 15), n_reference=4000, expected_count=1000, random_state=0),
    "a mode grew": make_mixture("grow", strength=0.3, n_reference=4000, random_state=0),
}
tests = {
    "SparKer": SparKerTest(n_toys=99, random_state=0),
    "static kernels": StaticKernelTest(n_kernels=60, n_toys=99, random_state=0),
    "MMD": MMDTest(n_toys=99, random_state=0),
}

# %%
# Z of each test on each pair, one sample of each: no statement about power. For that see the benchmark page. An arrow
# stands where no toy reached the data, so that Z is larger than that.
figure, ax = plt.subplots(layout="constrained")
for offset, (name, test) in zip((-0.2, 0, 0.2), tests.items(), strict=True):
    found = [test.fit(pair.reference, pair.data).result() for pair in pairs.values()]
    x, z = np.arange(len(pairs)) + offset, np.array([result.zscore for result in found])
    (points,) = ax.plot(x, z, "o", markersize=9, label=name)
    more = np.array([result.at_resolution for result in found])
    arrow = {"arrowstyle": "->", "color": points.get_color(), "linewidth": 2}
    for place, value in zip(x[more], z[more], strict=True):
        ax.annotate("", (place, value + 0.35), (place, value + 0.05), arrowprops=arrow)
    print(f"{name:15s}", dict(zip(pairs, np.round(z, 2), strict=True)))
ax.axhline(2.326, color="#888888", linestyle=":", label="largest Z of 99 toys")
ax.set_xticks(range(len(pairs)), pairs)
ax.set_ylabel("Z")
ax.margins(x=0.3, y=0.2)
ax.legend(loc="center")
plt.show()
