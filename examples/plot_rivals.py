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
# Z of each test on each pair, one sample of each: no statement about power. For that see the benchmark page.
z = {
    name: [test.fit(pair.reference, pair.data).result().zscore for pair in pairs.values()]
    for name, test in tests.items()
}
figure, ax = plt.subplots(layout="constrained")
for offset, (name, values) in zip((-0.25, 0, 0.25), z.items(), strict=True):
    ax.bar(np.arange(len(pairs)) + offset, values, width=0.25, label=name)
    print(f"{name:15s}", dict(zip(pairs, np.round(values, 2), strict=True)))
ax.axhline(2.326, color="#888888", linestyle=":", label="largest Z of 99 toys")
ax.axhline(0, color="black", linewidth=0.8)
ax.set_xticks(range(len(pairs)), pairs)
ax.set_ylabel("Z")
ax.legend()
plt.show()
