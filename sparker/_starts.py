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

from sparker._pool import BATCH, Pool, Weights

Array = npt.NDArray[Any]

SAMPLE = 20_000  # rows from which spread-out candidates are chosen
MAX_SPREAD = 256  # each costs a pass over that sample
BLOCK = 1 << 17  # entries of a block of the kernel matrix: it stays in the second-level cache
REACH = 6.0  # widths; a kernel there is 1.5e-8, below the resolution of float32


def random_rows(pool: Pool, weights: Weights, n_kernels: int, rng: np.random.Generator) -> Array:
    """Data rows drawn by weight, shape (n_kernels, d)."""
    return pool.rows(pool.draw(rng.random(n_kernels), weights.data)).astype(np.float64)


def dictionary(pool: Pool, n_candidates: int, rng: np.random.Generator) -> Array:
    """Candidate centres chosen without looking at labels, shape (n_candidates, d) or fewer rows.

    Half are rows drawn by weight; half, but at most 256, are spread out by k-means++ sampling (each row drawn in proportion to its squared
    distance from those already chosen; Arthur and Vassilvitskii 2007), so that sparse regions are covered too. The two kinds
    alternate, so that any first part of the dictionary holds both.
    """
    spread = _spread_out(pool, min(n_candidates // 2, MAX_SPREAD), rng)
    rows = pool.rows(pool.draw(rng.random(n_candidates - len(spread))))
    return np.concatenate([np.stack([rows[: len(spread)], spread], axis=1).reshape(-1, pool.n_features), rows[len(spread) :]])


def default_n_candidates(n_rows: int) -> int:
    """As many as keep the kernel matrix at 6e7 entries, between 100 and 2000."""
    return int(np.clip(60_000_000 // n_rows, 100, 2000))


def _spread_out(pool: Pool, n: int, rng: np.random.Generator) -> Array:
    """k-means++ seeds, from a sample of the pool where it is large."""
    if pool.n_rows > SAMPLE:
        pool = Pool([pool.rows(pool.draw(rng.random(SAMPLE)))])
    rows, weight = pool.rows(pool.order), pool.weight[pool.order]
    chosen = np.empty((n, pool.n_features), dtype=pool.dtype)
    distances = np.ones(pool.n_rows)
    for k in range(n):
        cumulative = np.cumsum(weight * distances)
        if not cumulative[-1] > 0:  # fewer distinct rows than candidates
            return chosen[:k]
        chosen[k] = rows[np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")]
        new = np.einsum("nd,nd->n", rows - chosen[k], rows - chosen[k])
        distances = new.astype(np.float64) if k == 0 else np.minimum(distances, new)
    return chosen


def scores(pool: Pool, toys: Sequence[Weights], candidates: Array, widths: Array, n_used: Array) -> Array:
    """U / sqrt(V) of the candidates at every width for every toy, shape (n_toys, n_widths, n_candidates).

    At width j only the first ``n_used[j]`` candidates are looked at; the score of the others is 0. The kernel matrix of
    candidates and rows is the same for all toys on a pool: each block is computed once and multiplied by the weights
    of all of them. Rows come in lexicographic order, so that a block meets only the candidates within reach
    along the first feature.
    """
    difference, variance = _score_weights(toys)
    centers = candidates.astype(pool.dtype) - pool.origin
    norms = np.sum(centers**2, axis=1)[:, None]
    along = [np.argsort(centers[:n, 0], kind="stable") for n in n_used]
    score = np.zeros((len(widths), len(centers), difference.shape[1]))
    spread = np.zeros((len(widths), len(centers), variance.shape[1]))
    size = max(64, BLOCK // len(centers))
    for start in range(0, pool.n_rows, size):
        block = pool.order[start : start + size]
        rows = pool.rows(block) - pool.origin
        distances = np.maximum(norms - 2 * (centers @ rows.T) + np.sum(rows**2, axis=1), 0)
        block_difference, block_variance = difference[block], variance[block]
        for m, width in enumerate(widths):
            ends = np.searchsorted(centers[along[m], 0], [rows[0, 0] - REACH * width, rows[-1, 0] + REACH * width])
            near = along[m][ends[0] : ends[1]]
            kernels = distances[near]
            kernels *= pool.dtype.type(-0.5 / width**2)
            np.exp(kernels, out=kernels)
            score[m, near] += kernels @ block_difference
            spread[m, near] += np.square(kernels, out=kernels) @ block_variance
    standardised = score / np.sqrt(np.maximum(spread, np.finfo(np.float64).tiny))
    return np.moveaxis(standardised, 2, 0)[: len(toys)]


def _score_weights(toys: Sequence[Weights]) -> tuple[Array, Array]:
    """Columns c - w and v of all toys; one column of v where it is the same for all."""
    # A product's last bits depend on its shape: batches of toys are padded to one size with toys of weight 0.
    n_columns = 1 if len(toys) == 1 else -(-len(toys) // BATCH) * BATCH
    difference = np.zeros((len(toys[0].data), n_columns), dtype=toys[0].data.dtype)
    for k, toy in enumerate(toys):
        difference[:, k] = toy.data - toy.reference
    # A data row counts like a reference row of raw weight 1; weights far below 1 stand for no rows at all.
    units = [toy.data.dtype.type(min(toy.unit, 1.0)) for toy in toys]
    variance = np.zeros_like(difference)
    for k, (toy, unit) in enumerate(zip(toys, units, strict=True)):
        variance[:, k] = toy.reference + unit * toy.data
    if np.ptp(variance[:, : len(toys)], axis=1).max() <= 1e-5 * variance.max():
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
