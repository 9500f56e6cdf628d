"""Widths: the range that the data support, and the path through it."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import pdist

from sparker._pool import Pool

Widths = npt.NDArray[np.float64]

N_PAIRS = 10_000
BLOCK = 1 << 18  # entries of rows at a time
UNRESOLVED = 0.01  # error of a squared distance, against that of a width, from which on float32 is not enough


def pair_distances(pool: Pool, rng: np.random.Generator) -> Widths:
    """Distances of 10 000 random pairs of rows, labels unseen, without those that are 0; 1 if there are no others."""
    i, j = (pool.draw(rng.random(N_PAIRS)) for _ in range(2))
    size = max(1, BLOCK // pool.n_features)
    parts = [slice(start, start + size) for start in range(0, N_PAIRS, size)]
    with np.errstate(over="ignore"):
        squared = [np.sum((pool.rows(i[part]).astype(np.float64) - pool.rows(j[part])) ** 2, axis=1) for part in parts]
    distances = np.sqrt(np.concatenate(squared))
    return distances[distances > 0] if distances.any() else np.ones(1)


def is_wide(pool: Pool) -> bool:
    """Whether samples are so much wider than the narrowest kernels that digits of products would cancel."""
    _, last = _from_distances(pair_distances(pool, np.random.default_rng(0)))
    with np.errstate(over="ignore"):
        extent = np.max(np.sum((pool.some_rows().astype(np.float64) - pool.origin) ** 2, axis=1))
    return bool(np.finfo(pool.dtype).eps * extent > UNRESOLVED * last**2)


def _from_distances(distances: Widths) -> tuple[float, float]:
    """Widest and narrowest width, see `width_range`."""
    low, median, high = np.quantile(distances, [0.01, 0.5, 0.99])
    return float(high), float(min(0.5 * low, 0.25 * median))


# A width in the units of X, or a factor and a percentile: that factor times that percentile of the distances.
Width = float | tuple[float, float]


def width_range(pool: Pool, rng: np.random.Generator, first: Width | None, last: Width | None) -> tuple[float, float]:
    """Widest and narrowest width: what is given, or from the distances of random pairs of rows, labels unseen.

    Widest: the 99th percentile. Narrowest: half the 1st percentile, but at most a quarter of the median: in many
    dimensions all distances are nearly equal and half the 1st percentile is still broad. An end that is not given
    gives way to one that is.
    """
    check_range(pool)
    distances = pair_distances(pool, rng)
    high, low = _from_distances(distances)
    first, last = (
        width[0] * float(np.percentile(distances, width[1])) if isinstance(width, tuple) else width
        for width in (first, last)
    )
    if first is not None and last is not None and first < last:
        raise ValueError(f"width_init is {first} and width_final {last}: the first must be the wider one.")
    widest = max(high, last or 0.0) if first is None else first
    narrowest = min(low, widest) if last is None else last
    check_widths((narrowest, widest), pool.dtype)
    return widest, narrowest


def check_widths(widths: npt.ArrayLike, dtype: np.dtype[Any]) -> None:
    """Refuse widths whose powers overflow or underflow."""
    (least, most), narrowest, widest = _bounds(dtype), np.min(widths), np.max(widths)
    if narrowest < least or widest > most:
        raise ValueError(
            f"Kernel widths from {narrowest:.3g} to {widest:.3g} leave the range of {dtype}: needed are widths "
            f"between {least:.2g} and {most:.2g}. Rescale the features."
        )


def _bounds(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Least and largest width whose powers stay in range: 1 / width^2 in the dtype, 1 / width^4 in float64."""
    numbers, wide = np.finfo(dtype), np.finfo(np.float64)
    least = max(float(np.sqrt(numbers.tiny / numbers.eps)), float(wide.tiny) ** 0.25)
    return least, min(float(np.sqrt(numbers.max * numbers.eps)), float(wide.max) ** 0.25)


def check_range(pool: Pool) -> None:
    """Refuse features whose squared distances overflow, or all underflow."""
    low, high = (np.array([getattr(block, name)(axis=0) for block in pool.blocks]) for name in ("min", "max"))
    check_size(np.concatenate([low, high]))
    low, high = low.min(axis=0).astype(np.float64), high.max(axis=0).astype(np.float64)
    range_, least = float(np.max(high / 2 - low / 2)), _bounds(pool.dtype)[0]
    if 0 < range_ < least:
        raise ValueError(
            f"Features that differ by {2 * range_:.3g} at most are too near to each other for squared distances in "
            f"{pool.dtype}. Rescale the features."
        )


def check_size(rows: npt.NDArray[Any]) -> None:
    """Refuse rows whose squared distances overflow."""
    largest = float(np.maximum(-rows.min(initial=0), rows.max(initial=0)))
    limit = float(np.sqrt(np.finfo(rows.dtype).max / rows.shape[1])) / 4
    if largest > limit:
        raise ValueError(
            f"Features as large as {largest:.3g} are too large for {rows.dtype}, in which squared distances must be "
            f"finite: needed are numbers up to {limit:.3g}. Rescale the features, or drop outliers."
        )


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
    squared = pdist(rows, "sqeuclidean")  # of each pair once
    return np.array([n**2 / (n + 2 * np.exp(squared * (-0.25 / width**2)).sum()) for width in widths])
