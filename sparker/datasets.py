"""Generators of sample pairs whose true log density ratio is known."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import logsumexp

__all__ = [
    "SamplePair",
    "make_clump",
    "make_exponential",
    "make_glitches",
    "make_mixture",
    "make_square",
    "make_uniform_anomalies",
]

Array = npt.NDArray[Any]

# Mean and width of the peaks on the exponential background, with their expected counts, and the broad excess.
EXPONENTIAL_SIGNALS: dict[str, tuple[float, Any]] = {
    "bulk": (90.0, stats.norm(1.6, 0.16)),
    "tail": (10.0, stats.norm(6.4, 0.16)),
    "extreme": (5.0, stats.norm(9.0, 0.16)),
    "broad": (90.0, stats.gamma(3.0)),
}


@dataclass(frozen=True, eq=False)
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
        Expected number of data rows under the null, N(D|H0).
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
        If `signal` is unknown, or a number is out of its range.

    References
    ----------
    .. [1] R. T. D'Agnolo and A. Wulzer, "Learning new physics from a machine", arXiv:1806.02350.
    """
    if signal is not None and signal not in EXPONENTIAL_SIGNALS:
        raise ValueError(f"signal is {signal!r}: needed is one of {sorted(EXPONENTIAL_SIGNALS)} or None.")
    _check_size("n_reference", n_reference)
    _check(expected_count > 0, "expected_count", expected_count, "> 0")
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

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    _check_size("n_reference", n_reference)
    _check(expected_count > 0, "expected_count", expected_count, "> 0")
    of_clumps = np.shape(counts) == (3,) and 0 <= min(counts) <= max(counts) < np.inf
    _check(of_clumps, "counts", counts, "a tuple of three finite numbers >= 0")
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


# Five modes of the plane, on a circle.
MODES = 3 * np.column_stack([np.cos(2 * np.pi * np.arange(5) / 5), np.sin(2 * np.pi * np.arange(5) / 5)])
MODE_WIDTH = 0.6


def make_mixture(
    change: str | None = "shift",
    *,
    strength: float = 0.3,
    n_reference: int = 5000,
    n_data: int = 1000,
    random_state: int | np.random.Generator | None = None,
) -> SamplePair:
    """Five Gaussian modes in the plane, one of which changes.

    The modes sit on a circle of radius 3, with standard deviation 0.6 and a fifth of the rows each. In the data the
    first one shifts outwards by `strength` standard deviations, grows to 1 + `strength` times its share, sharpens to
    1 / (1 + `strength`) or spreads to 1 + `strength` times its standard deviation.

    Parameters
    ----------
    change : {"shift", "grow", "sharpen", "spread"} or None, default="shift"
        What the first mode does; None draws the data under the null.
    strength : float, default=0.3
        How much, >= 0; at most 4 where a mode grows, which is then all there is.
    n_reference, n_data : int, default=5000, 1000
        Rows of the samples.
    random_state : int, Generator or None, default=None
        Source of the random numbers.

    Returns
    -------
    pair : SamplePair
        Two features; ``is_signal`` marks the data rows of the mode that changed.

    Raises
    ------
    ValueError
        If `change` is unknown, or a number is out of its range.
    """
    changes = {"shift", "grow", "sharpen", "spread"}
    if change is not None and change not in changes:
        raise ValueError(f"change is {change!r}: needed is one of {sorted(changes)} or None.")
    _check_sizes(n_reference, n_data)
    most = 4.0 if change == "grow" else np.finfo(np.float64).max
    _check(0 <= strength <= most, "strength", strength, "0 or more and finite, up to 4 to grow")
    rng = np.random.default_rng(random_state)
    center, width, share = MODES[0].copy(), MODE_WIDTH, 0.2
    if change == "shift":
        center *= 1 + strength * MODE_WIDTH / 3
    elif change == "grow":
        share *= 1 + strength
    elif change is not None:
        width *= 1 / (1 + strength) if change == "sharpen" else 1 + strength
    # The first mode in both samples, and the other four, whose share shrinks where it grows.
    shares = np.array([share, *np.full(4, (1 - share) / 4)])
    centers, widths = np.array([center, *MODES[1:]]), np.array([width, *np.full(4, MODE_WIDTH)])

    def draw(n: int, shares: Array, centers: Array, widths: Array) -> tuple[Array, Array]:
        mode = rng.choice(5, size=n, p=shares)
        return centers[mode] + widths[mode, None] * rng.normal(size=(n, 2)), mode

    def log_density(X: Array, shares: Array, centers: Array, widths: Array) -> Array:
        modes = [stats.norm.logpdf(X, c, w).sum(axis=1) for c, w in zip(centers, widths, strict=True)]
        return logsumexp(modes, axis=0, b=shares[:, None])

    null = np.full(5, 0.2), MODES, np.full(5, MODE_WIDTH)
    reference, _ = draw(n_reference, *null)
    data, mode = draw(n_data, shares, centers, widths)

    def true_log_ratio(X: Array) -> Array:
        X = np.asarray(X, dtype=np.float64)
        return log_density(X, shares, centers, widths) - log_density(X, *null)

    changed = (mode == 0) & (change is not None)
    planted = centers[:1] if change else np.empty((0, 2))
    counts = np.array([share * n_data])[: len(planted)]
    return SamplePair(reference, data, changed, float(n_data), planted, counts, true_log_ratio)


def make_uniform_anomalies(
    fraction: float = 0.05,
    *,
    n_features: int = 2,
    n_reference: int = 5000,
    n_data: int = 1000,
    random_state: int | np.random.Generator | None = None,
) -> SamplePair:
    """Standard Gaussian background with anomalies spread uniformly over a cube: the opposite of local.

    Parameters
    ----------
    fraction : float, default=0.05
        Share of the data, in [0, 1), that is uniform in [-4, 4] in every feature.
    n_features : int, default=2
        Number of features.
    n_reference, n_data : int, default=5000, 1000
        Rows of the samples.
    random_state : int, Generator or None, default=None
        Source of the random numbers.

    Returns
    -------
    pair : SamplePair
        The anomalies have no place: ``centers`` has no rows.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    _check_size("n_features", n_features)
    edge = 4.0

    def log_density(X: Array) -> Array:
        inside = np.all(np.abs(X) <= edge, axis=1)
        return np.where(inside, -n_features * np.log(2 * edge), -np.inf)

    return _planted(
        np.random.default_rng(random_state),
        lambda rng, n: rng.normal(size=(n, n_features)),
        lambda X: stats.norm.logpdf(X).sum(axis=1),
        lambda rng, n: rng.uniform(-edge, edge, size=(n, n_features)),
        log_density,
        (n_reference, n_data, fraction),
        np.empty((0, n_features)),
    )


def make_clump(
    n_features: int = 2,
    *,
    fraction: float = 0.02,
    width: float = 0.5,
    n_clumped: int | None = None,
    n_reference: int = 5000,
    n_data: int = 1000,
    random_state: int | np.random.Generator | None = None,
) -> SamplePair:
    """Standard Gaussian background with a clump one standard deviation from the mean in every feature.

    In the features in which it is one, the mean squared norm of its rows is 1 + width^2 times that of background rows:
    no outliers in a few features, outliers in hundreds.

    Parameters
    ----------
    n_features : int, default=2
        Number of features d.
    fraction : float, default=0.02
        Share of the data, in [0, 1), that is in the clump.
    width : float, default=0.5
        Standard deviation of the clump in the features in which it is one.
    n_clumped : int, default=None
        In how many features it is one, the first ones; in the others its rows are like the background. None: in all.
    n_reference, n_data : int, default=5000, 1000
        Rows of the samples.
    random_state : int, Generator or None, default=None
        Source of the random numbers.

    Returns
    -------
    pair : SamplePair
        d features.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    n_clumped = n_features if n_clumped is None else n_clumped
    _check_size("n_features", n_features)
    _check(1 <= n_clumped <= n_features, "n_clumped", n_clumped, f"from 1 to {n_features}, the number of features")
    _check(width > 0, "width", width, "> 0")
    is_clumped = np.arange(n_features) < n_clumped
    center, deviation = np.where(is_clumped, 1.0, 0.0), np.where(is_clumped, width, 1.0)
    return _planted(
        np.random.default_rng(random_state),
        lambda rng, n: rng.normal(size=(n, n_features)),
        lambda X: stats.norm.logpdf(X).sum(axis=1),
        lambda rng, n: center + deviation * rng.normal(size=(n, n_features)),
        lambda X: stats.norm.logpdf(X, center, deviation).sum(axis=1),
        (n_reference, n_data, fraction),
        center[None],
    )


GLITCH_FEATURES = ("log SNR 1", "log SNR 2", "log chi-squared", "log peak frequency", "log duration", "log bandwidth")


def make_glitches(
    fraction: float = 0.02,
    *,
    n_reference: int = 5000,
    n_data: int = 1000,
    random_state: int | np.random.Generator | None = None,
) -> SamplePair:
    """Toy of the features of triggers in two gravitational-wave detectors, with short glitches in the first one.

    Background triggers follow a heavy-tailed distribution (multivariate t with 6 degrees of freedom) in six
    logarithmic features (``sparker.datasets.GLITCH_FEATURES``), in which louder triggers have a larger chi-squared and
    longer ones a narrower band. Glitches are a compact Gaussian family of short triggers at middle frequencies that
    are a little loud in one detector and not in the other.

    Parameters
    ----------
    fraction : float, default=0.02
        Share of the data, in [0, 1), that are glitches.
    n_reference, n_data : int, default=5000, 1000
        Rows of the samples.
    random_state : int, Generator or None, default=None
        Source of the random numbers.

    Returns
    -------
    pair : SamplePair
        Six features.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    mean = np.array([1.8, 1.8, 0.0, 5.0, -2.5, 4.0])
    scale = np.array([0.25, 0.25, 0.4, 0.8, 0.7, 0.6])
    correlation = np.eye(6)
    for i, j, value in ((0, 1, 0.3), (0, 2, 0.5), (1, 2, 0.5), (4, 5, -0.7), (3, 5, 0.4), (3, 4, -0.3)):
        correlation[i, j] = correlation[j, i] = value
    background = stats.multivariate_t(mean, scale[:, None] * correlation * scale, df=6)
    center = mean + scale * [1.2, -0.3, 0.3, 0.2, -1.0, 0.8]
    glitch = stats.multivariate_normal(center, np.diag((0.25 * scale) ** 2))
    return _planted(
        np.random.default_rng(random_state),
        lambda rng, n: background.rvs(n, random_state=rng).reshape(n, 6),
        background.logpdf,
        lambda rng, n: glitch.rvs(n, random_state=rng).reshape(n, 6),
        glitch.logpdf,
        (n_reference, n_data, fraction),
        center[None],
    )


def _planted(
    rng: np.random.Generator,
    draw_background: Callable[[np.random.Generator, int], Array],
    background: Callable[[Array], Array],
    draw_signal: Callable[[np.random.Generator, int], Array],
    signal: Callable[[Array], Array],
    sizes: tuple[int, int, float],
    centers: Array,
) -> SamplePair:
    """A fixed share of the data from the signal, the rest and the reference from the background; log densities."""
    n_reference, n_data, fraction = sizes
    _check_sizes(n_reference, n_data)
    _check(0 <= fraction < 1, "fraction", fraction, "in [0, 1)")
    n_signal = round(fraction * n_data)
    reference = draw_background(rng, n_reference)
    rows = draw_background(rng, n_data - n_signal), draw_signal(rng, n_signal)

    def true_log_ratio(X: Array) -> Array:
        X = np.asarray(X, dtype=np.float64)
        share = n_signal / n_data
        if share == 0:
            return np.zeros(len(X))
        return np.logaddexp(np.log1p(-share), np.log(share) + signal(X) - background(X))

    planted = centers if n_signal else centers[:0]
    counts = np.full(len(planted), float(n_signal))
    return _shuffled(rng, reference, *rows, float(n_data), planted, counts, true_log_ratio)


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


def _check_sizes(n_reference: int, n_data: int) -> None:
    _check_size("n_reference", n_reference)
    _check_size("n_data", n_data)


def _check_size(name: str, n: int) -> None:
    _check(isinstance(n, Integral) and n >= 1, name, n, "a whole number >= 1")


def _check(fits: bool, name: str, value: Any, needed: str) -> None:
    if not fits:
        raise ValueError(f"{name} is {value}: needed is {needed}.")
