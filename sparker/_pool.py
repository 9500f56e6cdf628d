"""The rows of both samples as one list of blocks, and the draws from it that respect weights and row order.

A sample pair, observed or toy, is one pool and two weights for each row: its weight as reference and its count as data.
Permutations, bootstraps, event weights and Poisson counts differ in these two vectors alone; no toy copies rows.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

Array = npt.NDArray[Any]

# Toys that share a pass over the pool. Fixed: the last bits of a matrix product depend on its shape, so a batch must
# depend neither on the number of toys nor on that of jobs.
BATCH = 16
DEVICE_BATCH = 256  # on a GPU
DEVICE_THREADS = 4  # most batches at a time on a GPU: the host draws toys and sends weights while others are fitted

SEEN = 1024  # rows from which it is seen where a pool lies and whether its rows are repeated
NORMS = 1024  # rows at a time in `Pool.norms`
HASHED = 1 << 18  # entries at a time in `Pool.keys`
MOST_COUNTED = 2.0**52  # from here on there are no fractions in float64
COMPARED = 64  # most columns at a time in `Pool.order`
PACKED_FEATURES, PACKED_SIZE = 3, 1 << 18  # most features, or entries, of a pool of which `Pool.packed` is a copy
MORTON_BITS = 10  # of each feature


@dataclass(frozen=True, slots=True)
class Weights:
    """The two weights of every row of a pool, in the dtype of the pool.

    Attributes
    ----------
    reference : ndarray of shape (n,)
        w_x, summing to the expected data count under the null, N(D|H0).
    data : ndarray of shape (n,)
        c_x, summing to N_D.
    unit : float
        w of a reference row of pool weight 1, N(D|H0) / N_R for unweighted rows.
    noise : ndarray of shape (n,) or None
        Variance of w_x as a sum of draws. None: unit |w_x|, since w is a multiple of rows of weight 1.
    """

    reference: Array
    data: Array
    unit: float
    noise: Array | None = None

    @property
    def size(self) -> float:
        """Sum of all weights of either sample."""
        return float(np.sum(np.abs(self.reference), dtype=np.float64) + np.sum(self.data, dtype=np.float64))

    def effective_sizes(self) -> tuple[float, float]:
        """Of reference and data, see `effective_size`."""
        return effective_size(self.reference), effective_size(self.data)

    @property
    def plain(self) -> bool:
        """Whether `spread` is reference + unit x data."""
        return self.noise is None and bool(self.reference.min() >= 0)

    def spread(self) -> Array:
        """Variance of each row's part in a difference of data and reference, pooled over both, shape (n,).

        A row near x tells the density of the data there, w or c, and the variance of the reference, w^2 or u c with
        u = sum w^2 / sum w; both are averaged with the weights 1 / (1 + u) of reference and u / (1 + u) of data that
        are best for the first. Where all weights are whole numbers it is w + u c, and for equal ones it does not
        depend on the labels. A negative weight adds to the variance of the reference, and takes nothing from the
        density, so that no sum over a region is negative.
        """
        if self.plain:
            return self.reference + self.data.dtype.type(self.unit) * self.data  # to the same bits whatever the labels
        size = np.abs(self.reference)
        noise = self.unit * size if self.noise is None else self.noise
        u = float(noise.sum(dtype=np.float64) / self.reference.sum(dtype=np.float64))
        pooled = (np.maximum(self.reference, 0) + noise) / (1 + u) + u * self.data
        return pooled.astype(self.data.dtype, copy=False)


class Pool:
    """Rows of reference and data, never concatenated.

    Parameters
    ----------
    blocks : sequence of ndarray of shape (n_b, d)
        C-contiguous, all float32 or all float64.
    weight : ndarray of shape (n,), optional
        Weight of each row; default 1. Its size draws rows without looking at labels; a negative one takes away where
        the row is reference.

    Attributes
    ----------
    weight : ndarray of shape (n,)
        Size of each weight.
    signed_weight : ndarray of shape (n,)
    n_drawn : float
        Rows that a toy is drawn from, one of weight 2 counted twice, and one of weight 0 not.
    n_distinct : int
        Most rows that may differ from each other in a toy. Both may be less than there is here: what is learned from
        the observed pair is as much as can be learned from a toy.
    """

    def __init__(self, blocks: Sequence[Array], weight: Array | None = None) -> None:
        self.blocks = tuple(block for block in blocks if len(block))
        self.n_rows = sum(len(block) for block in self.blocks)
        self.n_features = self.blocks[0].shape[1]
        self.dtype = self.blocks[0].dtype
        self.signed_weight = np.ones(self.n_rows) if weight is None else np.asarray(weight, dtype=np.float64)
        self.weight = np.abs(self.signed_weight)
        self.n_drawn, self.n_distinct = float(self.weight.sum()), self.n_rows
        self._bounds: dict[int, list[Array]] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrays that come by the network may begin anywhere, and NumPy is slow on those."""
        self.__dict__.update({name: _aligned(value) for name, value in state.items()})

    def prepare(self) -> None:
        """Compute what all toys on this pool need, once, before it is sent to others."""
        _ = self.order, self.scrambled, self.origin, self.packed

    def parts(self) -> Iterator[tuple[Array, slice]]:
        """Yield each block with the range of its rows in the pool."""
        start = 0
        for block in self.blocks:
            yield block, slice(start, start + len(block))
            start += len(block)

    def rows(self, indices: Array) -> Array:
        """Copy of the rows at `indices`, in their order."""
        return self._columns(indices, slice(0, self.n_features))

    @cached_property
    def order(self) -> npt.NDArray[np.intp]:
        """Row indices in lexicographic order: the order in which rows came must not change what is drawn."""
        values = self._column(0)
        order = np.argsort(values, kind="stable")
        tie = np.append(False, values[order[1:]] == values[order[:-1]])
        places = np.arange(self.n_rows)
        # A column matters only among the rows that tie in all before it, of which there are few or none as a rule; and
        # equal rows, which tie to the end, are sorted by none.
        start = 1
        while start < self.n_features:
            tied = tie | np.append(tie[1:], False)
            places, tie = places[tied], tie[tied]
            if not len(places):
                break
            stop = min(2 * start, start + COMPARED, self.n_features)
            rows = order[places]
            columns = self._columns(rows, slice(start, stop))
            if np.any(tie[1:] & np.any(columns[1:] != columns[:-1], axis=1)):
                again = np.lexsort((*columns.T[::-1], np.cumsum(~tie)))
                order[places], columns = rows[again], columns[again]
                tie[1:] &= np.all(columns[1:] == columns[:-1], axis=1)
            start = stop
        return order

    def _column(self, j: int) -> Array:
        return np.concatenate([block[:, j] for block in self.blocks])

    def _columns(self, indices: Array, columns: slice) -> Array:
        """Some columns of the rows at `indices`, a few at a time: a large copy between costs more than the rest."""
        out = np.empty((len(indices), columns.stop - columns.start), dtype=self.dtype)
        size = max(1, HASHED // out.shape[1])
        for block, part in self.parts():
            inside = np.flatnonzero((indices >= part.start) & (indices < part.stop))
            for start in range(0, len(inside), size):
                here = inside[start : start + size]
                out[here] = block[indices[here] - part.start, columns]
        return out

    @cached_property
    def scrambled(self) -> npt.NDArray[np.intp]:
        """Row indices ordered by a hash of the values in each row: what toys are drawn from.

        Like `order` it does not know how rows came; unlike there, a place in it says nothing about the row. By place in
        lexicographic order toy i of a seed would take the same quantiles of every sample, and all samples that are
        tested with one seed would share the luck of its toys.
        """
        return np.argsort(self.keys(), kind="stable")

    def keys(self) -> npt.NDArray[np.uint64]:
        """A hash of the values in each row: equal for equal rows."""
        key = np.zeros(self.n_rows, dtype=np.uint64)
        size = max(1, HASHED // self.n_features)
        for block, part in self.parts():
            for start in range(0, len(block), size):  # rows together, which may be in a file
                rows = np.ascontiguousarray(block[start : start + size]).astype(np.float64) + 0.0  # -0.0 is 0.0
                with np.errstate(over="ignore"):  # without the compiler, keys are numbers of NumPy
                    _hash(rows.view(np.uint64), key[part][start : start + size])
        return key

    def fingerprint(self) -> str:
        """Digest of rows and weights: the same however rows came, and whichever are data."""
        digest = hashlib.blake2b(f"{self.dtype} {self.n_features}".encode(), digest_size=16)
        digest.update(np.sort(_mix(self.keys() ^ (self.signed_weight + 0.0).view(np.uint64))).data)
        return digest.hexdigest()

    def draw(self, uniform: Array, weight: Array | None = None, order: Array | None = None) -> npt.NDArray[np.intp]:
        """Rows at given fractions in [0, 1) of the cumulative weight in lexicographic `order`, with replacement.

        A row of weight 2 is drawn like two equal rows of weight 1, and row order does not matter.
        """
        if weight is None and order is None:
            order, cumulative = self.order, self._cumulative
        else:
            order = self.order if order is None else order
            cumulative = np.cumsum((self.weight if weight is None else weight)[order], dtype=np.float64)
        # The last row of positive weight ends the range: rounding must not draw a row of weight 0 behind it.
        last = int(np.searchsorted(cumulative, cumulative[-1]))
        found = np.searchsorted(cumulative, np.asarray(uniform) * cumulative[-1], side="right")
        return order[np.minimum(found, last)]

    def thinned(self, n_rows: int) -> "Pool":
        """`n_rows` rows of equal weight, spread evenly over this pool by weight; the pool itself if it has no more."""
        if round(self.n_drawn) <= n_rows:
            return self
        return Pool([self.rows(self.draw((np.arange(n_rows) + 0.5) / n_rows))])

    @cached_property
    def counts(self) -> bool:
        """Whether weights are whole numbers: a row of weight 2 is then two rows, not one that weighs twice as much."""
        return are_counts(self.weight)

    @cached_property
    def _cumulative(self) -> Array:
        return np.cumsum(self.weight[self.order], dtype=np.float64)

    @cached_property
    def origin(self) -> Array:
        """Where matrix products are centred: the median of up to 1024 rows, evenly spaced in lexicographic weight.

        It is 0 where the rows lie about 0 already, nearer than they are to each other: then nothing has to be moved.
        """
        n = min(self.n_rows, SEEN)
        rows = self.rows(self.draw((np.arange(n) + 0.5) / n))
        median = np.median(rows, axis=0).astype(self.dtype)
        spread = np.mean(np.sum((rows - median).astype(np.float64) ** 2, axis=1))
        return median if np.sum(median.astype(np.float64) ** 2) > spread else np.zeros_like(median)

    def some_rows(self) -> Array:
        """Up to 1024 rows, evenly spaced in `order`."""
        n = min(self.n_rows, SEEN)
        return self.rows(self.order[np.arange(n) * self.n_rows // n])

    @cached_property
    def packed(self) -> "tuple[Pool, Array]":
        """The rows as one block in which neighbours are close, and their places in this pool: for repeated passes.

        With few features passes leave out blocks of rows that no kernel reaches; with few rows calls cost more than
        passes. A large pool of many features is itself.
        """
        everyone = np.arange(self.n_rows)
        if self.n_features > PACKED_FEATURES and self.n_rows * self.n_features > PACKED_SIZE:
            return self, everyone
        order = everyone
        if self.n_features <= PACKED_FEATURES:
            order = self.order if self.n_features == 1 else self._morton()
        packed = Pool([self.rows(order)], self.signed_weight[order])
        packed.origin = self.origin
        return packed, order

    def bounds(self, size: int) -> list[Array]:
        """Smallest and largest value of each feature in every `size` rows, (n_boxes, 2, d) for each block."""
        if size not in self._bounds:
            both = np.minimum, np.maximum
            self._bounds[size] = [
                np.stack([extreme.reduceat(X, np.arange(0, len(X), size)) for extreme in both], axis=1)
                for X in self.blocks
            ]
        return self._bounds[size]

    def _morton(self) -> npt.NDArray[np.intp]:
        """Order along a space-filling curve: the bits of all columns, interleaved (G. Morton, 1966)."""
        key = np.zeros(self.n_rows, dtype=np.int64)
        for j in range(self.n_features):
            column = self._column(j)
            edges = np.quantile(column, np.linspace(0, 1, 2**MORTON_BITS + 1)[1:-1])
            place = np.searchsorted(edges, column, side="right")
            for bit in range(MORTON_BITS):
                key |= ((place >> bit) & 1) << (bit * self.n_features + j)
        return np.argsort(key, kind="stable")

    @cached_property
    def norms(self) -> Array:
        """Squared distance of every row from `origin`, in the dtype of the rows."""
        norms = np.empty(self.n_rows, dtype=self.dtype)
        for start in range(0, self.n_rows, NORMS):
            rows = self.rows(np.arange(start, min(start + NORMS, self.n_rows))) - self.origin
            norms[start : start + len(rows)] = np.einsum("nd,nd->n", rows, rows)
        return norms


def _aligned(value: Any) -> Any:
    """An array, or those of a tuple, at an address that suits its dtype."""
    if isinstance(value, tuple):
        return tuple(map(_aligned, value))
    return np.require(value, requirements="A") if isinstance(value, np.ndarray) else value


def effective_size(weight: Array) -> float:
    """Number of rows of equal weight with the same relative variance, (sum w)^2 / sum w^2 (Kish, Survey Sampling)."""
    weight = weight.astype(np.float64)
    return float(weight.sum() ** 2 / np.square(weight).sum())


def are_counts(weight: Array) -> bool:
    """Whether all are whole numbers, and not so large that every number is a whole one."""
    return bool(np.all(weight == np.round(weight)) and np.max(np.abs(weight), initial=0) < MOST_COUNTED)


def unit_mean(weight: Array) -> Array:
    """Weights scaled to sizes of mean 1; whole numbers that differ are counts of rows, and stay."""
    counts = np.ptp(weight) > 0 and are_counts(weight)
    return weight if counts else weight / (math.fsum(np.abs(weight)) / len(weight))  # whatever the order of rows


@register_jitable
def _mix(key: Any) -> Any:
    """Scramble 64-bit integers (the finaliser of SplitMix64, Steele et al., OOPSLA 2014)."""
    key = key + np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _hash(bits: Array, keys: Array) -> None:
    """Take the values of each row into its key, one after the other."""
    for i in range(len(bits)):
        key = keys[i]
        for j in range(bits.shape[1]):
            key = _mix(key ^ bits[i, j])
        keys[i] = key
