"""Widths: the range that the data support, and the path through it."""

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from sparker._pool import Pool

Widths = npt.NDArray[np.float64]

N_PAIRS = 10_000
BLOCK = 1 << 18  # entries of rows at a time


def pair_distances(pool: Pool, rng: np.random.Generator) -> Widths:
    """Distances of 10 000 random pairs of rows, labels unseen, without those that are 0; 1 if there are no others."""
    i, j = (pool.draw(rng.random(N_PAIRS)) for _ in range(2))
    size = max(1, BLOCK // pool.n_features)
    parts = [slice(start, start + size) for start in range(0, N_PAIRS, size)]
    with np.errstate(over="ignore"):
        squared = [np.sum((pool.rows(i[part]).astype(np.float64) - pool.rows(j[part])) ** 2, axis=1) for part in parts]
    distances = np.sqrt(np.concatenate(squared))
    return distances[distances > 0] if distances.any() else np.ones(1)


# A width in the units of X, or a factor and a percentile: that factor times that percentile of the distances.
Width = float | tuple[float, float]


def width_range(pool: Pool, rng: np.random.Generator, first: Width | None, last: Width | None) -> tuple[float, float]:
    """Widest and narrowest width: what is given, or from the distances of random pairs of rows, labels unseen.

    Widest: the 99th percentile. Narrowest: half the 1st percentile, but at most a quarter of the median: in many
    dimensions all distances are nearly equal and half the 1st percentile is still broad. An end that is not given
    gives way to one that is.
    """
    distances = pair_distances(pool, rng)
    with np.errstate(invalid="ignore"):  # distances that overflow are refused below, where they matter
        low, median, high = np.quantile(distances, [0.01, 0.5, 0.99])
        first, last = (
            width[0] * float(np.percentile(distances, width[1])) if isinstance(width, tuple) else width
            for width in (first, last)
        )
    if first is not None and last is not None and first < last:
        raise ValueError(f"width_init is {first} and width_final {last}: the first must be the wider one.")
    widest = max(high, last or 0.0) if first is None else first
    narrowest = min(0.5 * low, 0.25 * median, widest) if last is None else last
    if not (np.isfinite(widest) and np.isfinite(narrowest)):
        raise ValueError("The distances between rows are too large for their dtype. Rescale the features.")
    return widest, narrowest


def schedule(first: float, last: float, n_widths: int, n_steps: int, annealing: str) -> Widths:
    """Widths of all solver steps, shape (n_widths, n_steps); row j ends at the j-th recorded width.

    Parameters
    ----------
    first, last : float
        Widest and narrowest width.
    n_widths, n_steps : int
        Recorded widths, and steps for each.
    annealing : {"geometric", "linear", "logarithmic", "none"}
        Spacing of the widths. "logarithmic": 1/width grows with log(1 + step), so that it falls fast first, as the
        temperature of Geman and Geman (IEEE PAMI 6 (1984) 721) does. "none" keeps the recorded widths of "geometric"
        and stays at each for all its steps.
    """
    if annealing == "none":
        return np.repeat(_space(first, last, n_widths, "geometric")[:, None], n_steps, axis=1)
    steps = _space(first, last, n_widths * n_steps, annealing)
    return steps.reshape(n_widths, n_steps)


def _space(first: float, last: float, n: int, annealing: str) -> Widths:
    if n == 1:
        return np.array([last])
    if annealing == "logarithmic":
        passed = np.log1p(np.arange(n)) / np.log(n)
        return 1 / ((1 - passed) / first + passed / last)
    return np.geomspace(first, last, n) if annealing == "geometric" else np.linspace(first, last, n)


def distinct_places(pool: Pool, widths: Widths) -> Widths:
    """Number of places in the pool that kernels of each width tell apart, shape of `widths`; at most 256.

    For rows i, j spread evenly over the pool, n^2 / sum_ij corr(i, j) with corr = exp(-||x_i - x_j||^2 / (4 sigma^2)),
    the overlap of two kernels: 1 if all overlap, n if none do.
    """
    n = 256
    rows = pool.rows(pool.draw((np.arange(n) + 0.5) / n)).astype(np.float64)
    squared = cdist(rows, rows, "sqeuclidean")
    return np.array([n**2 / np.exp(squared * (-0.25 / width**2)).sum() for width in widths])
