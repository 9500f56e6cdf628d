"""Where kernels start: random rows of the data, or the candidates on which a score test finds the largest excess.

The score of a candidate kernel k at f = 0 is ``U = sum_x (c_x - w_x) k(x)``, the derivative of -L with respect to its
amplitude; its variance under the null is ``V = sum_x v_x k(x)^2`` with ``v_x = w_x + min(1, N(D|H0) / N_R) c_x``, which
pools both samples: for unweighted rows it does not depend on the labels, and an excess where the reference has no rows
has a finite score.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sparker._pool import Pool, Weights

Array = npt.NDArray[Any]

SAMPLE = 20_000  # rows from which spread-out candidates are chosen
BLOCK = 1 << 16  # entries of a block of the kernel matrix: it stays in the second-level cache


def random_rows(pool: Pool, weights: Weights, n_kernels: int, rng: np.random.Generator) -> Array:
    """Data rows drawn by weight, shape (n_kernels, d)."""
    return pool.rows(pool.draw(rng.random(n_kernels), weights.data)).astype(np.float64)


def dictionary(pool: Pool, n_candidates: int, rng: np.random.Generator) -> Array:
    """Candidate centres chosen without looking at labels, shape (n_candidates, d) or fewer rows.

    Half are rows drawn by weight; half are spread out by k-means++ sampling (each row drawn in proportion to its squared
    distance from those already chosen; Arthur and Vassilvitskii 2007), so that sparse regions are covered too.
    """
    rows = pool.rows(pool.draw(rng.random(n_candidates - n_candidates // 2)))
    return np.concatenate([rows, _spread_out(pool, n_candidates // 2, rng)])


def _spread_out(pool: Pool, n: int, rng: np.random.Generator) -> Array:
    """k-means++ seeds, from a sample of the pool where it is large."""
    if pool.n_rows > SAMPLE:
        pool = Pool([pool.rows(pool.draw(rng.random(SAMPLE)))])
    chosen = np.empty((n, pool.n_features), dtype=pool.dtype)
    distances = np.ones(pool.n_rows)
    for k in range(n):
        if not distances.any():  # fewer distinct rows than candidates
            return chosen[:k]
        chosen[k] = pool.rows(pool.draw(rng.random(1), pool.weight * distances))[0]
        for X, part in pool.parts():
            new = np.sum((X - chosen[k]) ** 2, axis=1, dtype=np.float64)
            distances[part] = new if k == 0 else np.minimum(distances[part], new)
    return chosen


def scores(pool: Pool, toys: Sequence[Weights], candidates: Array, widths: Array) -> Array:
    """U / sqrt(V) of every candidate at every width for every toy, shape (n_toys, n_widths, n_candidates).

    The kernel matrix of candidates and rows is the same for all toys on a pool: each block is computed once and
    multiplied by the weights of all of them.
    """
    difference, variance = _score_weights(toys)
    centers = candidates.astype(pool.dtype) - pool.origin
    norms = np.sum(centers**2, axis=1)[:, None]
    score = np.zeros((len(widths), len(centers), difference.shape[1]))
    spread = np.zeros((len(widths), len(centers), variance.shape[1]))
    size = max(64, BLOCK // len(centers))
    for X, part in pool.parts():
        for start in range(0, len(X), size):
            rows = X[start : start + size] - pool.origin
            columns = slice(part.start + start, part.start + start + len(rows))
            distances = np.maximum(norms - 2 * (centers @ rows.T) + np.sum(rows**2, axis=1), 0)
            for m, width in enumerate(widths):
                kernels = np.exp(distances * pool.dtype.type(-0.5 / width**2))
                score[m] += kernels @ difference[columns]
                spread[m] += np.square(kernels, out=kernels) @ variance[columns]
    standardised = score / np.sqrt(np.maximum(spread, np.finfo(np.float64).tiny))
    return np.moveaxis(standardised, 2, 0)


def _score_weights(toys: Sequence[Weights]) -> tuple[Array, Array]:
    """Columns c - w and v of all toys; one column of v where it is the same for all."""
    difference = np.stack([toy.data - toy.reference for toy in toys], axis=1)
    # A data row counts like a reference row of raw weight 1; weights far below 1 stand for no rows at all.
    units = [toy.data.dtype.type(min(toy.unit, 1.0)) for toy in toys]
    variance = np.stack([toy.reference + unit * toy.data for toy, unit in zip(toys, units, strict=True)], axis=1)
    if np.ptp(variance, axis=1).max() <= 1e-5 * variance.max():
        variance = variance[:, :1]
    return difference, variance


def select(score: Array, candidates: Array, width: float, n_kernels: int) -> Array:
    """Indices of the best candidate, then of the best given those chosen, and so on, shape (n_kernels,).

    ``score`` holds the standardised scores at one width. What the chosen kernels explain is taken away by their overlap
    with the others, corr(i, j) = exp(-||mu_i - mu_j||^2 / (4 sigma^2)), the correlation of two scores where
    the density is flat: forward selection as in orthogonal matching pursuit.
    """
    score = score.copy()
    remaining = np.ones(len(score))
    chosen: list[int] = []
    basis: list[Array] = []
    for _ in range(n_kernels):
        # A candidate that is all but explained has no score of its own.
        gain = np.where(remaining > 0.1, score**2 / np.maximum(remaining, 0.1), -1.0)
        best = int(np.argmax(gain))
        overlap = np.exp(np.sum((candidates - candidates[best]) ** 2, axis=1) * (-0.25 / width**2))
        for direction in basis:
            overlap -= direction * direction[best]
        direction = overlap / np.sqrt(max(remaining[best], 0.1))
        score -= direction * score[best] / np.sqrt(max(remaining[best], 0.1))
        remaining -= direction**2
        chosen.append(best)
        basis.append(direction)
    return np.array(chosen)
