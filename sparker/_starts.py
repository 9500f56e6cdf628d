"""Where kernels start: random rows of the data, or the candidates on which a score test finds the largest excess.

The score of a candidate kernel k at f = 0 is ``U = sum_x (c_x - w_x) k(x)``, the derivative of -L with respect to its
amplitude; its variance under the null is ``V = sum_x v_x k(x)^2`` with ``v_x = w_x + c_x N(D|H0) / N_R``, which pools
both samples: for unweighted rows it does not depend on the labels, and an excess where the reference has no rows has a
finite score. `sparker._pool.Weights.spread` is v for any weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sparker._pool import Pool, Weights

Array = npt.NDArray[Any]

SAMPLE = 20_000  # rows from which spread-out candidates are chosen

FEWEST, MOST, PAIRS = 200, 1000, 40_000_000  # candidates, and pairs of them with the rows of the pool

BLOCK = 1 << 17  # entries of a block of the kernel matrix: it stays in the second-level cache
ROUNDING = 1e-6  # of a float32 sum, against the sum of its terms
REACH = 6.0  # widths; a kernel there is 1.5e-8, below the resolution of float32


def random_rows(pool: Pool, weights: Weights, n_kernels: int, rng: np.random.Generator) -> Array:
    """Data rows drawn by weight, shape (n_kernels, d)."""
    return pool.rows(pool.draw(rng.random(n_kernels), weights.data)).astype(np.float64)


def enough(n_rows: int) -> int:
    """Number of candidates for a pool: enough to have one near a small clump, at bounded cost."""
    return max(FEWEST, min(MOST, PAIRS // n_rows))


def dictionary(pool: Pool, n_candidates: int, rng: np.random.Generator) -> Array:
    """Candidate centres chosen without looking at labels, shape (n_candidates, d) or fewer rows.

    Half are random rows, which lie where the pool is dense. Half are spread out, to cover the sparse regions: the seeds
    of k-means|| (Bahmani et al., VLDB 2012), drawn in proportion to the squared distance from all candidates of
    earlier rounds; every round doubles their number, so that a pass over the rows is a matrix product. In columns of
    heavy tails rows that are spread out alone would all be outliers. They come back in lexicographic order.
    """
    if pool.n_rows > SAMPLE:
        pool = Pool([pool.rows(pool.draw(rng.random(SAMPLE)))])
    rows, weight = pool.rows(pool.order) - pool.origin, pool.weight[pool.order]
    # Equal rows, which are neighbours in this order, are one candidate: two copies must be like one row of weight 2.
    first = np.append(True, np.any(rows[1:] != rows[:-1], axis=1))
    weight = np.add.reduceat(weight, np.flatnonzero(first))
    rows = rows[first]
    norms = np.sum(rows**2, axis=1)
    cumulative = np.cumsum(weight)
    new = np.searchsorted(cumulative, rng.random(n_candidates - n_candidates // 2) * cumulative[-1], side="right")
    chosen = list(np.unique(np.minimum(new, len(rows) - 1)))
    distances = _nearest(rows, norms, np.array(chosen))
    distances[chosen] = 0  # rounding leaves a little
    probability = weight * distances
    while len(chosen) < n_candidates and probability.any():
        cumulative = np.cumsum(probability, dtype=np.float64)
        uniform = rng.random(min(len(chosen), n_candidates - len(chosen)))
        new = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
        new = np.unique(np.minimum(new, len(rows) - 1))  # rounding may reach the end
        distances = np.minimum(distances, _nearest(rows, norms, new))
        chosen.extend(new)
        distances[chosen] = 0  # rounding leaves a little
        probability = weight * distances
    return rows[np.sort(chosen)] + pool.origin


def _nearest(rows: Array, norms: Array, chosen: Array) -> Array:
    """Squared distance of each row from the nearest chosen one."""
    nearest = np.full(len(rows), np.inf)
    for start in range(0, len(chosen), 64):
        part = chosen[start : start + 64]
        nearest = np.minimum(nearest, (norms[:, None] - 2 * (rows @ rows[part].T) + norms[part]).min(axis=1))
    return np.maximum(nearest, 0)


def scores(pool: Pool, toys: Sequence[Weights], candidates: Array, widths: Array) -> Array:
    """U / sqrt(V) of every candidate at every width for every toy, shape (n_toys, n_widths, n_candidates).

    The kernel matrix of candidates and rows is the same for all toys on a pool: each block is computed once and
    multiplied by the weights of all of them. Rows and candidates come in lexicographic order, so that a block meets
    only the candidates within reach along the first feature.
    """
    difference, variance = score_weights(toys)
    centers = candidates.astype(pool.dtype) - pool.origin
    norms = np.sum(centers**2, axis=1)[:, None]
    score = np.zeros((len(widths), len(centers), difference.shape[1]))
    spread = np.zeros((len(widths), len(centers), variance.shape[1]))
    size = max(64, BLOCK // len(centers))
    for start in range(0, pool.n_rows, size):
        block = pool.order[start : start + size]
        rows = pool.rows(block) - pool.origin
        distances = np.maximum(norms - 2 * (centers @ rows.T) + np.sum(rows**2, axis=1), 0)
        block_difference, block_variance = difference[block], variance[block]
        for m, width in enumerate(widths):
            ends = [rows[0, 0] - REACH * width, rows[-1, 0] + REACH * width]
            near = slice(*np.searchsorted(centers[:, 0], ends))
            kernels = distances[near] * pool.dtype.type(-0.5 / width**2)
            np.exp(kernels, out=kernels)
            score[m, near] += kernels @ block_difference
            spread[m, near] += np.square(kernels, out=kernels) @ block_variance
    standardised = score / np.sqrt(np.maximum(spread, np.finfo(np.float64).tiny))
    # What is left of U where both samples are alike is rounding, and must not be ranked.
    floor = ROUNDING * np.sum(np.abs(difference), axis=0, dtype=np.float64)
    return np.moveaxis(np.where(np.abs(score) > floor, standardised, 0.0), 2, 0)


def scores_at(pool: Pool, weights: Weights, centers: Array, width: float) -> Array:
    """U / sqrt(V) of kernels at given centres, shape (n_kernels,)."""
    order = np.argsort(centers[:, 0], kind="stable")
    out = np.empty(len(centers))
    out[order] = scores(pool, [weights], centers[order], np.array([width]))[0, 0]
    return out


def score_weights(toys: Sequence[Weights]) -> tuple[Array, Array]:
    """Columns c - w and v of all toys, of shape (n, n_toys); one column of v where all toys have the same."""
    difference = np.empty((len(toys[0].data), len(toys)), dtype=toys[0].data.dtype)
    variance = np.empty_like(difference)
    for k, toy in enumerate(toys):
        difference[:, k] = toy.data - toy.reference
        variance[:, k] = toy.spread()
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
