"""Generators of sample pairs whose true log density ratio is known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["SamplePair", "make_exponential", "make_square"]

Array = npt.NDArray[Any]

# Mean and width of the peaks on the exponential background, with their expected counts, and the broad excess.
EXPONENTIAL_SIGNALS: dict[str, tuple[float, Any]] = {
    "bulk": (90.0, stats.norm(1.6, 0.16)),
    "tail": (10.0, stats.norm(6.4, 0.16)),
    "extreme": (5.0, stats.norm(9.0, 0.16)),
    "broad": (90.0, stats.gamma(3.0)),
}


@dataclass(frozen=True)
class SamplePair:
    """A reference sample, a data sample and the truth about them.

    Attributes
    ----------
    reference : ndarray of shape (n_reference, d), float64
        Anomaly-free sample.
    data : ndarray of shape (n_data, d), float64
        Background and signal rows, in random order.
    is_signal : ndarray of bool of shape (n_data,)
        Which data rows are signal.
    expected_count : float
        Expected number of background rows in the data, N(D|H0).
    centers : ndarray of shape (n_signals, d)
        Where the planted signals sit.
    counts : ndarray of shape (n_signals,)
        Their expected numbers of rows.
    true_log_ratio : callable
        X of shape (n, d) to the log of expected data density over expected background density, shape (n,).
    """

    reference: Array
    data: Array
    is_signal: npt.NDArray[np.bool_]
    expected_count: float
    centers: Array
    counts: Array
    true_log_ratio: Callable[[Array], Array]


def make_exponential(
    signal: str | None = "bulk",
    *,
    n_reference: int = 10_000,
    expected_count: float = 2000.0,
    random_state: int | np.random.Generator | None = None,
) -> SamplePair:
    """Exponential background in one dimension with one of four signals.

    Background e^-x with Poisson(2000) rows; signals Poisson(90), Poisson(10) and Poisson(5) rows in a Gaussian peak of
    standard deviation 0.16 at 1.6 ("bulk"), 6.4 ("tail") and 9.0 ("extreme"), or Poisson(90) rows of density
    x^2 e^-x / 2 ("broad").

    Parameters
    ----------
    signal : {"bulk", "tail", "extreme", "broad"} or None, default="bulk"
        Which signal is added; None draws the data under the null.
    n_reference : int, default=10000
        Rows of the reference.
    expected_count : float, default=2000.0
        Mean of the Poisson number of background rows in the data. Signals do not scale with it.
    random_state : int, Generator or None, default=None
        Source of the random numbers.

    Returns
    -------
    pair : SamplePair
        One feature.

    Raises
    ------
    ValueError
        If `signal` is unknown.

    References
    ----------
    .. [1] R. T. D'Agnolo and A. Wulzer, "Learning new physics from a machine", arXiv:1806.02350.
    """
    if signal is not None and signal not in EXPONENTIAL_SIGNALS:
        raise ValueError(f"signal is {signal!r}: needed is one of {sorted(EXPONENTIAL_SIGNALS)} or None.")
    rng = np.random.default_rng(random_state)
    reference = rng.exponential(size=(n_reference, 1))
    background = rng.exponential(size=(rng.poisson(expected_count), 1))
    count, density = EXPONENTIAL_SIGNALS[signal] if signal else (0.0, stats.norm(0.0, 1.0))
    rows = density.rvs(size=(rng.poisson(count), 1), random_state=rng)

    def true_log_ratio(X: Array) -> Array:
        x = np.asarray(X, dtype=np.float64)[:, 0]
        return np.log1p(count / expected_count * np.exp(density.logpdf(x) + x))

    center = np.array([[density.mean()]]) if signal else np.empty((0, 1))
    return _shuffled(
        rng, reference, background, rows, expected_count, center, np.array([count])[: len(center)], true_log_ratio
    )


def make_square(
    *,
    n_reference: int = 10_000,
    expected_count: float = 2000.0,
    counts: tuple[float, float, float] = (40.0, 30.0, 20.0),
    random_state: int | np.random.Generator | None = None,
) -> SamplePair:
    """Uniform unit square with three small Gaussian clumps.

    The clumps sit at (0.25, 0.7), (0.7, 0.8) and (0.6, 0.25), with standard deviation 0.02.

    Parameters
    ----------
    n_reference : int, default=10000
        Rows of the reference.
    expected_count : float, default=2000.0
        Mean of the Poisson number of background rows in the data.
    counts : tuple of 3 floats, default=(40, 30, 20)
        Means of the Poisson numbers of rows in the clumps.
    random_state : int, Generator or None, default=None
        Source of the random numbers.

    Returns
    -------
    pair : SamplePair
        Two features.
    """
    rng = np.random.default_rng(random_state)
    centers, width = np.array([[0.25, 0.7], [0.7, 0.8], [0.6, 0.25]]), 0.02
    reference = rng.uniform(size=(n_reference, 2))
    background = rng.uniform(size=(rng.poisson(expected_count), 2))
    rows = np.concatenate(
        [rng.normal(c, width, size=(rng.poisson(n), 2)) for c, n in zip(centers, counts, strict=True)]
    )

    def true_log_ratio(X: Array) -> Array:
        X = np.asarray(X, dtype=np.float64)
        peaks = [n * np.exp(stats.norm.logpdf(X, c, width).sum(axis=1)) for c, n in zip(centers, counts, strict=True)]
        return np.log1p(sum(peaks) / expected_count)

    return _shuffled(rng, reference, background, rows, expected_count, centers, np.array(counts), true_log_ratio)


def _shuffled(
    rng: np.random.Generator,
    reference: Array,
    background: Array,
    signal: Array,
    expected_count: float,
    centers: Array,
    counts: Array,
    true_log_ratio: Callable[[Array], Array],
) -> SamplePair:
    order = rng.permutation(len(background) + len(signal))
    return SamplePair(
        reference,
        np.concatenate([background, signal])[order],
        (np.arange(len(order)) >= len(background))[order],
        expected_count,
        centers,
        counts,
        true_log_ratio,
    )
