"""From the statistics at several scales to one p-value, calibrated on the same toys."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

Array = npt.NDArray[Any]

# Ties: sums of float32 rows agree to about 1e-6, whatever the order; SciPy's slack of 100 eps is below that.
SLACK = 1e-5

TAIL = 0.2  # largest share of the rows whose log p comes from the fitted tail
MIN_TAIL = 5  # rows without which there is no tail to fit


def reached(values: Array) -> Array:
    """The value that a toy must reach to count as a tie or more: a relative slack below, +inf for a failed toy."""
    return values - SLACK * np.where(np.isfinite(values), np.abs(values), 0.0)


def exceedances(null: Array, observed: Array) -> Array:
    """How many toys reach each observed value, ties included; ``null`` (n_toys, ...), ``observed`` (...)."""
    return np.sum(null >= reached(observed), axis=0)


def counted_log_p(values: Array) -> Array:
    """Log of p of every row among all rows, at each scale: the share of rows that reach it, itself included.

    Both shapes are (n_rows, n_scales).
    """
    n = len(values)
    ordered = np.sort(values, axis=0)
    thresholds = reached(values)
    below = [np.searchsorted(ordered[:, k], thresholds[:, k], side="left") for k in range(values.shape[1])]
    return np.log((n - np.stack(below, axis=1)) / n)


def extended_log_p(values: Array) -> Array:
    """`counted_log_p`, with the uppermost rows on an exponential tail, since counts tell few of them apart.

    Of n rows the upper sqrt(n) are a tail, at most a fifth: the more toys, the farther out it begins, and the less
    depends on its shape. There, log p = log(share above u) - (value - u) / scale, with u the value at which the tail
    begins. The scale is the mean excess over u, or that of an exponential through the median and u if it is longer:
    where many values pile up at u, toys just above it must not seem extreme. A value far from all others is in the
    mean, too: with m rows in the tail its log p is at most m below that of u. Every row meets the same map.
    """
    log_p = counted_log_p(values)
    n_tail = int(min(TAIL * len(values), np.sqrt(len(values))))
    if n_tail < MIN_TAIL:
        return log_p
    ordered = np.sort(values, axis=0)
    for k, u in enumerate(ordered[-n_tail - 1]):
        above = reached(values[:, k]) > u  # what ties with u has no tail
        excess = values[above, k] - u
        if len(excess) >= MIN_TAIL:
            body = (u - ordered[len(values) // 2, k]) / np.log(0.5 * len(values) / n_tail)
            log_p[above, k] = np.log(above.mean()) - excess / max(excess[np.isfinite(excess)].mean(), body)
    return log_p


# How log p is found, and what turns it (n, k) into one number per row; larger is more significant. Scales are
# correlated, so that no closed form of their null is right: the number is only ever ranked among those of the toys.
RULES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    # generalised mean of exponent -1/2 (Vovk and Wang, Biometrika 107 (2020) 791): between the minimum and the product
    "power-mean": (extended_log_p, lambda log_p: _log_mean_exp(-0.5 * log_p)),
    # arXiv:2511.03095: a signal at one scale, or a weaker one at several
    "min-mean": (counted_log_p, lambda log_p: -0.5 * log_p.min(axis=1) - 0.5 * log_p.mean(axis=1)),
    "min": (counted_log_p, lambda log_p: -log_p.min(axis=1)),
    "product": (counted_log_p, lambda log_p: -log_p.sum(axis=1)),
    "mean": (counted_log_p, lambda log_p: -_log_mean_exp(log_p)),
}


def _log_mean_exp(x: Array) -> Array:
    return logsumexp(x, axis=1) - np.log(x.shape[1])


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
        The observed row is treated like any other of the n_toys + 1, so that the rank of its aggregate among
        theirs is uniform under the null, whatever the map.
    """
    find_log_p, combine = RULES[rule]
    combined = combine(find_log_p(np.concatenate([observed[None], null])))
    return float(combined[0]), combined[1:]


def count_exceedances(null: Array, observed: Array, rule: str) -> int:
    """How many toys have an aggregate that reaches the observed one."""
    statistic, aggregates = aggregate(null, observed, rule)
    return int(exceedances(aggregates, np.array(statistic)))
