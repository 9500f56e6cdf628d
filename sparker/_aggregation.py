"""From p-values at several scales to one, calibrated on the same toys."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Ties: sums of float32 rows agree to about 1e-6, whatever the order; SciPy's slack of 100 eps is below that.
SLACK = 1e-5

# Each turns log p (n, k) into one number per row; larger is more significant. Scales are correlated, so that no closed
# form of their null is right: the number is only ever ranked among the same number of toys.
RULES: dict[str, Callable[[Array], Array]] = {
    # arXiv:2511.03095: a signal at one scale, or a weaker one at several
    "min-mean": lambda log_p: -0.5 * log_p.min(axis=1) - 0.5 * log_p.mean(axis=1),
    "min": lambda log_p: -log_p.min(axis=1),
    "product": lambda log_p: -log_p.sum(axis=1),
    "mean": lambda log_p: -np.log(np.exp(log_p).mean(axis=1)),
}


def exceedances(null: Array, observed: Array) -> Array:
    """How many toys reach each observed value, ties included; ``null`` (n, ...) sorted or not, ``observed`` (...)."""
    return np.sum(null >= observed - SLACK * np.abs(observed), axis=0)


def pooled_p_values(values: Array) -> Array:
    """Share of all rows that reach each row, itself included, at each scale: its p-value, in the shape of `values`."""
    n = len(values)
    ordered = np.sort(values, axis=0)
    with np.errstate(invalid="ignore"):  # a failed toy is +inf
        threshold = np.where(np.isfinite(values), values - SLACK * np.abs(values), values)
    below = [np.searchsorted(ordered[:, k], threshold[:, k], side="left") for k in range(values.shape[1])]
    return (n - np.stack(below, axis=1)) / n


def aggregate(null: Array, observed: Array, rule: str) -> tuple[float, Array]:
    """Aggregate over scales of the observed row and of each toy.

    Parameters
    ----------
    null : ndarray of shape (n_toys, n_scales)
    observed : ndarray of shape (n_scales,)
    rule : key of `RULES`

    Returns
    -------
    observed_aggregate : float
    null_aggregate : ndarray of shape (n_toys,)
        p-values are ranks among the n_toys + 1 pooled rows, the observed row treated like any other, so that
        the rank of its aggregate among theirs is uniform under the null.
    """
    combined = RULES[rule](np.log(pooled_p_values(np.concatenate([observed[None], null]))))
    return float(combined[0]), combined[1:]
