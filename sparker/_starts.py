"""Where kernels start: random rows of the data, or the candidates on which a score test finds the largest excess.

The score of a candidate kernel k at f = 0 is ``U = sum_x (c_x - w_x) k(x)``, the derivative of -L with respect to its
amplitude; its variance under the null is ``V = sum_x v_x k(x)^2`` with ``v_x = w_x + c_x N(D|H0) / N_R``, which pools
both samples: for unweighted rows it does not depend on the labels, and an excess where the reference has no rows has a
finite score. `sparker._pool.Weights.spread` is v for any weights. To V comes a fifth of a row of the smaller sample, so
that a row or two where there are no others do not outscore what is significant.

A lone row thus has a squared score below 5, which is the least that an entry can be: one row, wherever it is, is no
evidence. A pool whose widest kernels reach all but an outlier would else rank the score of that row among those of
toys from another pool, whose kernels all reach both samples alike and score nothing.

Scores are near Gaussian where a kernel reaches many rows and skewed where it reaches few. The largest of all is decided
by the places that fluctuate most, so that the largest where rows are rare and the largest where they are dense are
entries with p-values of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sparker._backends import EXPONENTIAL, n_threads
from sparker._kernels import executor
from sparker._kernels_numba import add_scores, fill_distances, fill_kernels
from sparker._pool import Pool, Weights

Array = npt.NDArray[Any]

SAMPLE = 20_000  # rows from which spread-out candidates are chosen

PSEUDO = 0.2  # rows added to V
LONE = 1 / PSEUDO  # squared score that one row alone can have at most
RARE, DENSE = 5.0, 30.0  # expected rows in reach of a candidate, below which rows are rare, and above which dense

FEWEST, MOST, PAIRS = 200, 1000, 40_000_000  # candidates, and pairs of them with the rows of the pool
LINE = 5  # times as many pairs in one dimension, where most candidates are out of reach or too close to others
APART = 0.2  # least distance of candidates in widths; what a score loses is below a hundredth

PARTS = 8  # of the rows, which threads share
BLOCK = 1 << 17  # entries of a block of the kernel matrix: it stays in the second-level cache
LONE_BLOCK = 1 << 19  # the same for one pair alone: threads get in each other's way between short operations
ROUNDING = 1e-6  # of a float32 sum, against the sum of its terms
SORTED_FEATURES = 3
MIDDLE = 100  # candidates whose median is the origin of distances
LOWEST = -40.0  # of log k: far below the resolution of a sum, and its square is no denormal number, which is slow
REACH = 6.0  # widths; a kernel there is 1.5e-8, below the resolution of float32


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one pair.

    Attributes
    ----------
    values : ndarray of shape (n_widths, n_candidates)
        U / sqrt(V) of every candidate at every width.
    rows : ndarray of shape (n_widths, n_candidates)
        Rows of the smaller sample that each of them is expected to reach, sum_x k(x) over a pool of that size.
    """

    values: Array
    rows: Array

    def largest(self) -> Array:
        """Largest squared score at each width: of all candidates, where rows are rare, and where they are dense.

        Of shape (3, n_widths). Where rows are rare, or dense, others count less, by how many rows they have in reach.
        With a sharp edge there might be candidates of the observed pair and none of the toys, where these have other
        candidates. What a lone row could score is the least of them.
        """
        squared = np.square(self.values)
        rare, dense = RARE / np.maximum(self.rows, RARE), np.minimum(self.rows, DENSE) / DENSE
        found = np.stack([squared.max(axis=1), (squared * rare).max(axis=1), (squared * dense).max(axis=1)])
        return np.maximum(found, LONE)

    def classes(self) -> npt.NDArray[np.intp]:
        """Which row of `largest` each candidate is like: 1 where rows are rare, 2 where they are dense, else 0."""
        return np.where(self.rows < RARE, 1, np.where(self.rows >= DENSE, 2, 0))


def random_rows(pool: Pool, weights: Weights, n_kernels: int, rng: np.random.Generator) -> Array:
    """Data rows drawn by weight, shape (n_kernels, d)."""
    return pool.rows(pool.draw(rng.random(n_kernels), weights.data)).astype(np.float64)


def enough(n_rows: int, n_features: int) -> int:
    """Number of candidates for a pool: enough to have one near a small clump, at bounded cost."""
    return max(FEWEST, min(MOST, PAIRS * (LINE if n_features == 1 else 1) // n_rows))


def apart(candidates: Array, widths: Array) -> npt.NDArray[np.bool_]:
    """Which candidates are looked at with each width, shape (n_widths, n_candidates): none next to another.

    In their order, each that is not within `APART` widths of one before it that is.
    """
    squared = _pair_distances(candidates)
    np.fill_diagonal(squared, np.inf)
    nearest = squared.min(axis=1)
    kept = np.ones((len(widths), len(candidates)), dtype=bool)
    for of_width, reach in zip(kept, (APART * widths) ** 2, strict=True):
        for i in np.flatnonzero(nearest < reach):
            if of_width[i]:
                of_width[squared[i] < reach] = False
    return kept


def _pair_distances(candidates: Array) -> Array:
    """Squared distances of all pairs of candidates, in place: a new array of this size costs more than its sums.

    About the median of some: far from the mean, where a single row may have carried it, small distances would cancel.
    """
    middle = np.median(candidates[:: max(1, len(candidates) // MIDDLE)].astype(np.float64), axis=0)
    rows = candidates.astype(np.float64) - middle
    norms = np.sum(rows**2, axis=1)
    squared = rows @ rows.T
    squared *= -2
    squared += norms
    squared += norms[:, None]
    return np.maximum(squared, 0, out=squared)


def dictionary(pool: Pool, n_candidates: int, rng: np.random.Generator) -> Array:
    """Candidate centres chosen without looking at labels, shape (n_candidates, d) or fewer rows.

    Half are random rows, which lie where the pool is dense. Half are spread out, to cover the sparse regions: the seeds
    of k-means|| (Bahmani et al., VLDB 2012), drawn in proportion to the squared distance from all candidates of
    earlier rounds; every round doubles their number, so that a pass over the rows is a matrix product. In columns of
    heavy tails rows that are spread out alone would all be outliers. They come back in lexicographic order.
    """
    if round(pool.n_drawn) > SAMPLE:
        drawn, counts = np.unique(pool.draw(rng.random(SAMPLE)), return_counts=True)
        pool = Pool([pool.rows(drawn)], counts)
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
    """Squared distance of each row from the nearest chosen one, in blocks of rows that stay in cache."""
    nearest = np.empty(len(rows))
    centers, of_centers = -2 * rows[chosen], norms[chosen, None]
    size = max(64, BLOCK // len(chosen))
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        squared = centers @ rows[part].T
        squared += of_centers
        nearest[part] = squared.min(axis=0)
    return np.maximum(nearest + norms, 0)


def scores(
    pool: Pool,
    toys: Sequence[Weights],
    candidates: Array,
    widths: Array,
    n_jobs: int | None = 1,
    kept: Array | None = None,
) -> list[Scores]:
    """Scores of every candidate at every width, for every toy; those of a lone pair on up to `n_jobs` threads.

    Of the widths of some candidates only, see `apart`, where `kept` says so; the others have score 0.
    """
    return standardise(score_sums(pool, toys, candidates, widths, n_jobs, kept), [toy.unit for toy in toys])


class ScoreSums(NamedTuple):
    """Sums over the rows of a pool; those of several pools add up.

    Attributes
    ----------
    score, spread, reached : ndarray of shape (n_widths, n_candidates, n_toys)
        U, V, and sum_x v_x k(x); the last two with one column where it is that of all toys.
    """

    score: Array
    spread: Array
    reached: Array


def score_sums(
    pool: Pool,
    toys: Sequence[Weights],
    candidates: Array,
    widths: Array,
    n_jobs: int | None = 1,
    kept: Array | None = None,
) -> ScoreSums:
    """Sums from which the scores are made, 0 where a candidate is not `kept`."""
    blocks = _Blocks(pool, toys, candidates, widths, kept)
    # One pair alone has sums of parts of the rows, added in order: the same bits for any number of threads.
    starts = range(0, pool.n_rows, blocks.size)
    length = -(-len(starts) // (PARTS if blocks.is_lone else 1))
    parts = [starts[k : k + length] for k in range(0, len(starts), length)]
    threads = n_threads(n_jobs, pool.n_rows * len(candidates) * len(widths) * EXPONENTIAL)
    done = map(blocks.sums, parts) if threads == 1 else executor(threads).map(blocks.sums, parts)
    return ScoreSums(*(reduce(np.add, of_parts) for of_parts in zip(*done, strict=True)))


class _Blocks:
    """Sums of scores over blocks of the rows of a pool; threads share it.

    The kernel matrix of candidates and rows is the same for all toys on a pool: each block is computed once and
    multiplied by the weights of all of them. Candidates come in lexicographic order, and rows where they have few
    features, so that a block meets only the candidates within reach along the first one.
    """

    def __init__(
        self, pool: Pool, toys: Sequence[Weights], candidates: Array, widths: Array, kept: Array | None
    ) -> None:
        self.pool, self.widths, self.is_lone = pool, widths, len(toys) == 1
        self.difference, self.variance = score_weights(toys)
        self.centers = candidates.astype(pool.dtype) - pool.origin
        self.norms, self.doubled = np.sum(self.centers**2, axis=1)[:, None], -2 * self.centers
        everyone = np.ones((len(widths), len(candidates)), dtype=bool)
        self.looked_at = [np.flatnonzero(of_width) for of_width in (everyone if kept is None else kept)]
        self.along_first = [self.centers[looked_at, 0] for looked_at in self.looked_at]
        # Along more features than a few no kernel is out of reach: rows are read as they come, they may be in a file,
        # and distances are computed once for all widths.
        self.has_few_features = pool.n_features <= SORTED_FEATURES
        self.order = pool.order if self.has_few_features else np.arange(pool.n_rows)
        self.size = max(64, (LONE_BLOCK if self.is_lone else BLOCK) // len(candidates))

    def sums(self, starts: range) -> list[Array]:
        """U, V and sum_x v_x k(x), as in `ScoreSums`, over the blocks that begin at `starts`."""
        n_columns = self.difference.shape[1], self.variance.shape[1], self.variance.shape[1]
        found = [np.zeros((len(self.widths), len(self.centers), n)) for n in n_columns]
        # Made once: where memory is given back to the system, as on workers of Dask, new arrays cost more than sums.
        memory = [np.empty(len(self.centers) * self.size, self.pool.dtype) for _ in range(2)]
        for start in starts:
            self._add(self.order[start : start + self.size], found, *memory)
        return found

    def _add(self, block: Array, found: list[Array], distances: Array, kernels: Array) -> None:
        """Add the sums over the rows `block`, in memory for distances and kernels."""
        rows = self.pool.rows(block) - self.pool.origin
        difference, variance = self.difference[block], self.variance[block]
        distances = distances[: len(self.centers) * len(rows)].reshape(len(self.centers), len(rows))
        if self.has_few_features:
            features = np.ascontiguousarray(rows.T)
        else:
            distances_by_products(rows, self.doubled, self.norms, distances)
        first, last = rows[:, 0].min(), rows[:, 0].max()
        for m, width in enumerate(self.widths):
            reach = [first - REACH * width, last + REACH * width]
            near = self.looked_at[m][slice(*np.searchsorted(self.along_first[m], reach))]
            if self.has_few_features:
                fill_distances(features, self.centers, near, distances)
            of_width = distances, near, rows.dtype.type(-0.5 / width**2), rows.dtype.type(LOWEST)
            if self.is_lone:
                add_scores(*of_width, difference[:, 0], variance[:, 0], *(part[m, :, 0] for part in found))
                continue
            score, spread, reached = (part[m] for part in found)
            of_near = kernels[: len(near) * len(rows)].reshape(len(near), len(rows))
            fill_kernels(*of_width, of_near)
            score[near] += of_near @ difference
            reached[near] += of_near @ variance
            spread[near] += np.square(of_near, out=of_near) @ variance


def warm_up(dtype: np.dtype[Any]) -> None:
    """Compile what the scores of several toys call, in this process, see `Backend.warm_up`."""
    zero, which = np.zeros((1, 1), dtype), np.zeros(1, np.intp)
    fill_distances(zero, zero, which, zero)
    fill_kernels(zero, which, dtype.type(0), dtype.type(0), zero)


def distances_by_products(rows: Array, doubled: Array, norms: Array, distances: Array) -> None:
    """Fill squared distances of shape (n_centers, n_rows), from the centres times -2 and their squared norms."""
    np.matmul(doubled, rows.T, out=distances)
    distances += norms
    distances += np.sum(rows**2, axis=1)
    np.maximum(distances, 0, out=distances)


def standardise(sums: ScoreSums, units: Sequence[float]) -> list[Scores]:
    """Scores of toys whose reference rows weigh `units`."""
    unit = np.array(units)
    # A data row is a step of 1 in U, a reference row one of u: the larger step belongs to the smaller sample.
    step = np.maximum(1.0, unit)
    standardised = sums.score / np.sqrt(sums.spread + PSEUDO * step**2)
    reached = sums.reached / (1 + unit)
    # What is left of U where both samples are alike, with so many rows of either, is rounding, and must not be ranked.
    values = np.where(np.abs(sums.score) > ROUNDING * reached, standardised, 0.0)
    rows = reached / step
    return [Scores(values[:, :, k], rows[:, :, k]) for k in range(len(unit))]


def scores_at(pool: Pool, toys: Sequence[Weights], centers: Array, width: float) -> list[Scores]:
    """Scores of kernels at given centres, in any order, and one width, for every toy."""
    order = np.argsort(centers[:, 0], kind="stable")
    back = np.argsort(order)
    found = scores(pool, toys, centers[order], np.array([width]))
    return [Scores(of_toy.values[:, back], of_toy.rows[:, back]) for of_toy in found]


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


def select(
    score: Array, candidates: Array, widths: Array, n_kernels: int, kept: Array | None = None
) -> npt.NDArray[np.intp]:
    """Indices of the best candidate, then of the best given those chosen, and so on.

    What the chosen kernels explain is taken away by their overlap with the others,
    corr(i, j) = exp(-||mu_i - mu_j||^2 / (4 sigma^2)), the correlation of two scores where the density is flat: forward
    selection as in orthogonal matching pursuit.

    Parameters
    ----------
    score : ndarray of shape (n_toys, n_widths, n_candidates)
        Standardised scores.
    candidates : ndarray of shape (n_candidates, d)
    widths : ndarray of shape (n_widths,)
    n_kernels : int
    kept : ndarray of bool of shape (n_widths, n_candidates), default=None
        Candidates to choose from; None: all.

    Returns
    -------
    chosen : ndarray of shape (n_toys, n_widths, n_kernels)
    """
    squared = _pair_distances(candidates)
    at = (*np.ogrid[: score.shape[0], : score.shape[1]],)
    scale = (-0.25 / widths**2)[:, None]
    score = score.copy()
    remaining = np.ones(score.shape)
    if kept is not None:
        remaining *= kept
    chosen = np.empty((*score.shape[:2], n_kernels), dtype=np.intp)
    basis: list[Array] = []
    for k in range(n_kernels):
        # A candidate that is all but explained has no score of its own.
        gain = np.where(remaining > 0.1, score**2 / np.maximum(remaining, 0.1), -1.0)
        best = chosen[:, :, k] = np.argmax(gain, axis=2)
        overlap = np.exp(squared[best] * scale)
        for earlier in basis:
            overlap -= earlier * earlier[*at, best][:, :, None]
        root = np.sqrt(np.maximum(remaining[*at, best], 0.1))[:, :, None]
        direction = overlap / root
        score -= direction * (score[*at, best][:, :, None] / root)
        remaining -= direction**2
        basis.append(direction)
    return chosen
