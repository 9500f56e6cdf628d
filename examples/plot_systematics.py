"""
A reference that is not quite right
===================================

The reference of a search is often simulated, and no simulation is right to the last per cent. With many rows a test
sees a distortion of 5 % as clearly as an anomaly: if the distortion is ignored, the test makes a false discovery.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone

from sparker import SparKerTest, systematic_p_value

# %%
# A detector has two halves, x < 0.5 and x > 0.5. Its simulation takes them to be alike. In truth the second half sees
# 5 % more than that, and the first 5 % less. There is no anomaly.
rng = np.random.default_rng(2)


def efficiency(x, size):
    """Density of the varied reference over that of the simulated one."""
    return np.where(x > 0.5, 1 + size, 1 - size)


reference = rng.random((24_000, 1))
proposed = rng.random((26_000, 1))
data = proposed[1.05 * rng.random(26_000) < efficiency(proposed[:, 0], 0.05)][:10_000]

# %%
# The distortion is ignored: toys follow the simulation. ``calibration="split"`` takes them from the reference alone.
test = SparKerTest(2, n_toys=59, calibration="split", random_state=0)
test.fit(reference, data=data)
result = test.result()
print(f"ignored:  p = {result.pvalue:.3g}")

# %%
# Now the toys' data are drawn from variations of the reference. Each is a set of weights of the reference rows, the
# density of the variation over that of the simulation. The largest p-value holds whichever of them is true.
x = reference[:, 0]
found = systematic_p_value(test, {f"{size:+.0%}": efficiency(x, size) for size in (-0.05, 0.0, 0.05)})
print(f"included: p = {found.pvalue:.3g}")

# %%
# The price is power: an anomaly that looks like the distortion is no longer found. One that does not is.
clump = data.copy()
clump[:120] = rng.normal(0.3, 0.005, size=(120, 1))
with_clump = clone(test).fit(reference, data=clump)
print(f"with a clump: p = {systematic_p_value(with_clump, [efficiency(x, 0.05)]).pvalue:.3g}")

figure, ax = plt.subplots(layout="constrained")
ax.plot(list(found.pvalues), list(found.pvalues.values()), "o", markersize=9, color="#0072b2")
ax.axhline(1 / 60, color="#888888", linestyle=":", label="smallest p of 59 toys")
ax.set(
    yscale="log",
    ylim=(0.01, 1.2),
    xlabel="distortion that the toys allow for",
    ylabel="p-value of data without an anomaly",
)
ax.margins(x=0.2)
ax.legend(loc="center right")
plt.show()
