"""
A search in one dimension, beside the best that is possible
===========================================================

The benchmark of searches for new physics: an exponential background of two thousand events and a small peak in its
tail. Nobody can do better than the likelihood ratio of whoever knows the signal; how near does a search come that
knows nothing?
"""

import matplotlib.pyplot as plt

from sparker import SparKerTest
from sparker.datasets import make_exponential
from sparker.displays import KernelsDisplay, ScalesDisplay
from sparker.peers import LikelihoodRatioTest

# %%
# Ten events are expected in a peak at 6.4. The number of background events is known: a counting experiment.
pair = make_exponential("tail", random_state=3)
print(f"{len(pair.data)} events, {pair.is_signal.sum()} of them signal")

search = SparKerTest(expected_count=2000, n_toys=499, random_state=0).fit(pair.reference, pair.data)
ideal = LikelihoodRatioTest(pair.true_log_ratio, expected_count=2000, n_toys=499, random_state=0)
ideal.fit(pair.reference, pair.data)

# %%
# Both Z are limited by the number of toys: ">" means that no toy reached the observed value.
for name, test in (("search", search), ("ideal", ideal)):
    result = test.result()
    sign = ">" if result.at_resolution else "="
    print(f"{name:7s} p = {result.pvalue:.3g}, Z {sign} {result.zscore:.2f}")

# %%
# The kernels say where. The p-values of the widths say at which scale: the narrow ones.
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
KernelsDisplay.from_estimator(search, pair.reference, pair.data, feature_names=["x"], ax=axes[0])
ScalesDisplay.from_estimator(search, ax=axes[1])
plt.show()
