"""
Images: a digit that the reference does not know
================================================

Eight by eight pixel images of handwritten digits. The reference holds all digits but the 8; a few 8 are hidden in the
data.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from sparker import SparKerTest

# %%
# A tenth of the data are eights: 40 of 400.
X, digit = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
known, eights = rng.permutation(np.flatnonzero(digit != 8)), rng.permutation(np.flatnonzero(digit == 8))
rows = np.concatenate([known[1200:1560], eights[:40]])
reference, data = X[known[:1200]], X[rows]

test = SparKerTest(n_toys=199, random_state=0).fit(reference, data)
print(test.result())

# %%
# The data images nearest to the strongest kernel: what is new.
strongest = test.kernel_table(n_nearest=10)[0]
print(f"{np.mean(digit[rows[strongest.nearest_rows]] == 8):.0%} of the ten images nearest to the kernel are eights")
figure, axes = plt.subplots(1, 11, figsize=(11, 1.6), layout="constrained")
axes[0].imshow(strongest.center.reshape(8, 8), cmap="gray_r")
axes[0].set_title("centre")
for ax, row in zip(axes[1:], strongest.nearest_rows, strict=True):
    ax.imshow(data[row].reshape(8, 8), cmap="gray_r")
for ax in axes:
    ax.set(xticks=[], yticks=[])
plt.show()
