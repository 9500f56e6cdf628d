"""
How many kernels?
=================

Each kernel more fits the signal a little better, and noise too. What counts is not t but how far t lies from that of
toys.
"""

import matplotlib.pyplot as plt
import numpy as np

from sparker import SparKerTest
from sparker.datasets import make_square

pair = make_square(counts=(30, 22, 15), n_reference=5000, random_state=2)
numbers = (1, 3, 10)
tests = [
    SparKerTest(n_kernels=m, n_toys=99, companions=False, random_state=0).fit(pair.reference, pair.data)
    for m in numbers
]

# %%
# At the width where t is largest: t grows with the number of kernels, but so does that of the toys.
figure, ax = plt.subplots(layout="constrained")
for position, test in enumerate(tests):
    at = int(np.argmax(test.statistics_[: test.n_widths]))
    null = test.calibrate().values[:, at]
    for body in ax.violinplot(null, [position], widths=0.7, showextrema=False)["bodies"]:
        body.set_color("#888888")
    ax.plot(position, test.statistics_[at], "o", color="#b2182b", label="data" if position == 0 else None)
    t, p = test.statistics_[at], test.p_value()
    print(f"{test.n_kernels:2d} kernels: t = {t:.0f}, toys {null.mean():.0f}, p = {p:.2f}")
ax.set_xticks(range(len(numbers)), [str(m) for m in numbers])
ax.set(xlabel="number of kernels", ylabel="$t$ at one width", title="data against toys under the null")
ax.plot([], [], linewidth=8, alpha=0.3, color="#888888", label="99 toys")
ax.legend(loc="upper left")
plt.show()
