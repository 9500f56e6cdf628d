"""
Pull the anomaly out: rows and features
=======================================

The p-value says that there is something. Which rows are it, and in which features are they special? A toy of triggers
in two gravitational-wave detectors, with a family of short glitches in one of them.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.inspection import permutation_importance
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparker import SparKerTest
from sparker.datasets import GLITCH_FEATURES, make_glitches

# %%
# Pooled rows and labels go through a Pipeline, so that both samples are scaled alike.
pair = make_glitches(0.03, random_state=0)
X = np.concatenate([pair.reference, pair.data])
y = np.repeat([0, 1], [len(pair.reference), len(pair.data)])
model = make_pipeline(StandardScaler(), SparKerTest(n_toys=199, random_state=0)).fit(X, y)
print(f"p = {model[-1].p_value():.3f}")

# %%
# Rows: by their log density ratio. How many of the first ones are glitches?
f = model.score_samples(pair.data)
order = np.argsort(-f)
found = np.cumsum(pair.is_signal[order])

# %%
# Features: how much worse the log density ratio tells the samples apart when one feature is shuffled.
importance = permutation_importance(model, X, y, scoring="roc_auc", n_repeats=3, random_state=0).importances_mean

figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
axes[0].plot(np.arange(1, len(f) + 1), found, label="by log density ratio")
axes[0].plot([0, len(f)], [0, pair.is_signal.sum()], "--", color="#888888", label="by chance")
axes[0].set(xlim=(0, 200), xlabel="rows looked at", ylabel="glitches found")
axes[0].legend()
axes[1].barh(GLITCH_FEATURES, importance)
axes[1].set_xlabel("loss of AUC when the feature is shuffled")
plt.show()
