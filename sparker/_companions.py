"""Global companions of the kernels: whether the sample as a whole has moved, or spread, against the reference.

Anomalies that are diffuse outliers in many dimensions raise no local density that a kernel could see, but move the
mean of the data and their mean squared distance from the centre. With z(x) the whitened row, U = sum_x (c_x - w_x) z
and V = sum_x v_x (`sparker._starts` defines v), the entries are

    mean    ||U||^2 / V                                                         (Hotelling's T^2)
    spread  (sum_x (c_x - w_x) q_x)_+^2 / sum_x v_x q_x^2,   q = ||z||^2 - its mean   (Mahalanobis distances)

Only data that spread farther than the reference count: rows that are added where there are few move q up, and what
gathers in the middle is what kernels see.
Like the candidates of the kernels, mean and covariance come from the pool, labels unseen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh
from sklearn.utils.extmath import randomized_svd

from sparker._pool import Pool, Weights
from sparker._starts import ROUNDING, score_weights

Array = npt.NDArray[Any]

KINDS = ("mean", "spread")

SAMPLE = 20_000  # rows from which the covariance is learned
EXACT = 1024  # features beyond which the sample shrinks, and its directions are found by random projections
RANK = 256  # most directions with a variance of their own; the others share one
ROWS_PER_DIRECTION = 10  # without which a direction has no variance of its own
SMALLEST = 0.01  # variance of a direction, in variances of a column: nearly dependent columns must not dominate
BLOCK = 1 << 20  # entries of a block of rows in float64


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and covariance of a pool as probabilistic PCA (Tipping and Bishop, J. R. Stat. Soc. B 61 (1999) 611).

    Attributes
    ----------
    mean, deviation : ndarray of shape (d,)
        Of the columns; the deviation of a constant column is inf, which takes it out.
    axes : ndarray of shape (d, k)
        Leading eigenvectors of the correlation matrix.
    variances : ndarray of shape (k,)
        Their eigenvalues.
    rest : float
        Variance of every other direction.
    mean_distance : float
        Mean squared Mahalanobis distance of the rows of the pool from the mean.
    squared_distances : ndarray of shape (n,)
        Squared Mahalanobis distance of each row of the pool, less `mean_distance`.
    """

    mean: Array
    deviation: Array
    axes: Array
    variances: Array
    rest: float
    mean_distance: float
    squared_distances: Array

    def squared_norm(self, z: Array) -> Array:
        """||z||^2 in the whitened space, of standardised vectors z of shape (n, d)."""
        along = np.square(z @ self.axes)
        return (np.sum(z**2, axis=1) - np.sum(along, axis=1)) / self.rest + np.sum(along / self.variances, axis=1)


def learn(pool: Pool) -> Moments:
    """Moments of a pool."""
    d = pool.n_features
    sample = pool.thinned(SAMPLE * EXACT // max(d, EXACT))
    total = sample.weight.sum()
    zero, one = np.zeros(d), np.ones(d)
    mean = _sum(sample.weight[part] @ X for X, part in _blocks(sample, zero, one)) / total
    square = _sum(sample.weight[part] @ X**2 for X, part in _blocks(sample, mean, one)) / total
    # What is left of a constant column is rounding of its mean.
    deviation = np.where(square > (1e-12 * mean) ** 2, np.sqrt(square), np.inf)
    root = np.sqrt(sample.weight)[:, None]
    weighted = (root[part] * z for z, part in _blocks(sample, mean, deviation))
    # Variances of as many directions as rows could not be told from noise. The bootstrap needs this to be valid: its
    # toys have fewer distinct rows than the observed pair.
    rank = max(1, min(d, RANK, int(min(total, pool.n_drawn) / ROWS_PER_DIRECTION)))
    if d <= EXACT:
        correlation = _sum(z.T @ z for z in weighted) / total  # of one array with itself: half of the products
        variances, axes = eigh(correlation, subset_by_index=[d - rank, d - 1])
        trace = np.trace(correlation)
    else:
        rows = np.concatenate(list(weighted))
        rows /= np.sqrt(total)
        # Projections of the features, not of the rows, whose order must not matter.
        _, roots, directions = randomized_svd(rows, rank, n_iter=2, transpose=False, random_state=0)
        variances, axes, trace = roots[::-1] ** 2, directions[::-1].T, np.vdot(rows, rows)
    # Directions of constant columns are none.
    rest = (trace - variances.sum()) / max(np.isfinite(deviation).sum() - rank, 1)
    moments = Moments(mean, deviation, axes, np.maximum(variances, SMALLEST), max(rest, SMALLEST), 0.0, np.empty(0))
    moments = on_pool(moments, pool)
    mean_distance = float(np.average(moments.squared_distances, weights=pool.weight))
    return replace(moments, mean_distance=mean_distance, squared_distances=moments.squared_distances - mean_distance)


def on_pool(moments: Moments, pool: Pool) -> Moments:
    """The same moments, with the distances of the rows of another pool."""
    blocks = _blocks(pool, moments.mean, moments.deviation)
    distances = np.concatenate([moments.squared_norm(z) for z, _ in blocks])
    return replace(moments, squared_distances=distances - moments.mean_distance)


def companions(pool: Pool, toys: Sequence[Weights], moments: Moments) -> Array:
    """Both entries of every toy on the pool that `moments` belong to, shape (n_toys, 2)."""
    return entries(sums(pool, toys, moments), moments)


class Sums(NamedTuple):
    """Sums over the rows of a pool; those of several pools add up.

    Attributes
    ----------
    moved : ndarray of shape (d, n_toys)
        sum_x (c_x - w_x) z.
    spread, noise, variance, size : ndarray of shape (n_toys,)
        Sums of (c - w) q, v q^2, v and |c - w|; noise and variance with one entry where it is that of all toys.
    """

    moved: Array
    spread: Array
    noise: Array
    variance: Array
    size: Array


def sums(pool: Pool, toys: Sequence[Weights], moments: Moments) -> Sums:
    """Sums from which the entries are made."""
    difference, variance = (part.astype(np.float64) for part in score_weights(toys))
    return Sums(
        _sum(z.T @ difference[part] for z, part in _blocks(pool, moments.mean, moments.deviation)),
        moments.squared_distances @ difference,
        np.square(moments.squared_distances) @ variance,
        np.sum(variance, axis=0),
        np.sum(np.abs(difference), axis=0),
    )


def entries(of: Sums, moments: Moments) -> Array:
    """Both entries of every toy, shape (n_toys, 2)."""
    mean = moments.squared_norm(of.moved.T) / of.variance
    spread = np.square(np.maximum(of.spread, 0)) / np.maximum(of.noise, np.finfo(np.float64).tiny)
    found = np.stack([mean, spread], axis=1)
    # What is left where both samples are alike is rounding, and must not be ranked.
    floor = np.square(ROUNDING * of.size) / of.variance
    return np.where(found > floor[:, None], found, 0.0)


def _sum(terms: Iterator[Array]) -> Array:
    """One block at a time."""
    return reduce(np.add, terms)


def _blocks(pool: Pool, mean: Array, deviation: Array) -> Iterator[tuple[Array, slice]]:
    """Standardised rows in float64, a few at a time, and where in the pool they stand."""
    size = max(1, BLOCK // pool.n_features)
    for X, part in pool.parts():
        for start in range(0, len(X), size):
            rows = X[start : start + size]
            yield (rows - mean) / deviation, slice(part.start + start, part.start + start + len(rows))
