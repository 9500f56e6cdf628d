"""
What local means: where kernels fail
====================================

A kernel finds a place where rows crowd. Anomalies that are spread evenly over a large volume crowd nowhere. In low
dimension some of them stick out of the background; what sees those is the spread of the whole sample, a companion of
the kernels.
"""

import matplotlib.pyplot as plt
import numpy as np

from sparker import SparKerTest
from sparker.datasets import make_clump, make_uniform_anomalies

# %%
# The same share of anomalies, once in a clump and once spread over a cube, in six features.
options = {"n_features": 6, "n_reference": 4000, "n_data": 1000, "random_state": 0}
pairs = {"clump": make_clump(fraction=0.03, **options), "uniform": make_uniform_anomalies(0.03, **options)}
results = {
    name: SparKerTest(n_toys=199, random_state=0).fit(pair.reference, pair.data).result()
    for name, pair in pairs.items()
}

# %%
# Smallest p-value of each kind of entry: mean and spread are companions, all others are those of kernels.
kinds = list(dict.fromkeys(results["clump"].scales["kind"].tolist()))
figure, ax = plt.subplots(layout="constrained")
for offset, (name, result) in zip((-0.2, 0.2), results.items(), strict=True):
    smallest = [result.scales["pvalue"][result.scales["kind"] == kind].min() for kind in kinds]
    ax.bar(np.arange(len(kinds)) + offset, -np.log10(smallest), width=0.4, label=f"{name}: p = {result.pvalue:.3g}")
ax.axhline(np.log10(200), color="#888888", linestyle=":", label="smallest p of 199 toys")
ax.set_xticks(range(len(kinds)), kinds)
ax.set(ylabel="$-\\log_{10}$ of the smallest p", title="what sees a clump, and what sees a haze")
figure.legend(loc="outside upper center", ncols=3, fontsize="small")
plt.show()
