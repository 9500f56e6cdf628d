"""From the statistics at several scales to one p-value, calibrated on the same toys."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from sparker._results import counted_p_value

Array = npt.NDArray[Any]

# Ties: sums of float32 rows agree to about 1e-6, whatever the order; SciPy's slack of 100 eps is below that.
SLACK = 1e-5

TAIL = 0.2  # largest share of the rows whose log p comes from the fitted tail
MIN_TAIL = 5  # rows without which there is no tail to fit

EXPONENT = -0.75  # of the power mean: -1 is the harmonic mean, at -infinity the minimum remains


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
        finite = excess[np.isfinite(excess)]  # others are those of failed toys
        if len(finite) >= MIN_TAIL:
            body = (u - ordered[len(values) // 2, k]) / np.log(0.5 * len(values) / n_tail)
            log_p[above, k] = np.log(above.mean()) - excess / max(finite.mean(), body)
    return log_p


# How log p is found, and what turns it (n, k), with weights (k,) of sum 1, into one number per row; larger is more
# significant. Scales are correlated, so that no closed form of their null is right: the number is only ever ranked
# among those of the toys.
RULES: dict[str, tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]] = {
    # weighted generalised mean (Vovk and Wang, Biometrika 107 (2020) 791): between the minimum and the product
    "power-mean": (extended_log_p, lambda log_p, weights: logsumexp(EXPONENT * log_p, axis=1, b=weights)),
    # arXiv:2511.03095: a signal at one scale, or a weaker one at several
    "min-mean": (counted_log_p, lambda log_p, _: -0.5 * log_p.min(axis=1) - 0.5 * log_p.mean(axis=1)),
    "min": (counted_log_p, lambda log_p, _: -log_p.min(axis=1)),
    "product": (counted_log_p, lambda log_p, _: -log_p.sum(axis=1)),
    "mean": (counted_log_p, lambda log_p, _: np.log(log_p.shape[1]) - logsumexp(log_p, axis=1)),
}


class Rule(NamedTuple):
    """How the p-values of the scales are joined.

    Attributes
    ----------
    name : key of `RULES`
    weights : ndarray of shape (n_scales,) or None
        Of the scales, of sum 1, for "power-mean" alone; None: equal.
    """

    name: str
    weights: Array | None = None

    def log_p(self, values: Array) -> Array:
        """Log p of every row among all rows, at each scale; both (n_rows, n_scales)."""
        return RULES[self.name][0](values)

    def combine(self, log_p: Array) -> Array:
        """One number for each row of log p; larger is more significant."""
        n = log_p.shape[1]
        return RULES[self.name][1](log_p, np.full(n, 1 / n) if self.weights is None else self.weights)


def aggregate(null: Array, observed: Array, rule: Rule) -> tuple[float, Array]:
    """Aggregate over scales of the observed row and of each toy.

    Parameters
    ----------
    null : ndarray of shape (n_toys, n_scales)
    observed : ndarray of shape (n_scales,)
    rule : Rule

    Returns
    -------
    observed_aggregate : float
    null_aggregate : ndarray of shape (n_toys,)
        The observed row is treated like any other of the n_toys + 1, so that the rank of its aggregate among
        theirs is uniform under the null, whatever the map.
    """
    combined = rule.combine(rule.log_p(np.concatenate([observed[None], null])))
    return float(combined[0]), combined[1:]


def p_value(null: Array, observed: Array, rule: Rule, stopping: int | None = None) -> float:
    """Counted p of the observed row among the toys, see `counted_p_value`."""
    return counted_p_value(count_exceedances(null, observed, rule), len(null), stopping)


def count_exceedances(null: Array, observed: Array, rule: Rule) -> int:
    """How many toys have an aggregate that reaches the observed one."""
    statistic, aggregates = aggregate(null, observed, rule)
    return int(exceedances(aggregates, np.array(statistic)))
