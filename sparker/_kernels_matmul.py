"""The kernels of `sparker._kernels` as matrix products on blocks of rows: the twin for large dimension.

``||x - mu||^2 = ||x||^2 - 2 x mu + ||mu||^2`` loses digits when rows and centres are far from the origin, so both are
first moved to the median, a block at a time: rows may be more than the memory holds. It agrees with the other twins to
1e-4, not to the last digit. Callers with many passes over the same rows pass their origin and squared norms.

A product with few centres is bound by reading the rows, which libraries copy before they multiply: loops do not. What
lies between the two products of a block, distances to derivatives, is the compiled code of ``_kernels_numba``.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from sparker import _kernels_numba
from sparker._kernels import LOSSES, Evaluation, executor, read_only

__all__ = [
    "Evaluation",
    "activations",
    "batch_value_and_gradient",
    "log_density_ratio",
    "responsibilities",
    "squared_distances",
    "value_and_gradient",
]

Array = npt.NDArray[Any]

BLOCK_BYTES = 1 << 22  # a block of rows stays in the third-level cache between its two products
CACHED_BYTES = 1 << 19  # one of loops, in the second-level cache
CHUNK = 4  # blocks to a partial sum
COLUMNS = 96  # centres in a product of a batch, at most, if there is more than one problem in it
TILE = 12  # centres that products compute at a time: in whole tiles last bits depend on no place, with most libraries
SMALL = 1 << 21  # multiplications: libraries compute a product of half as many differently
FEW = 8  # centres up to which loops are faster than a product
ROOM = 128  # numbers beside the features of a row, for kernels and their derivatives


def _median(X: Array) -> Array:
    return np.median(X[:1024], axis=0).astype(X.dtype)


def _rows_of(X: Array, n_bytes: int) -> int:
    return int(max(64, n_bytes // ((X.shape[1] + ROOM) * X.itemsize)))


def _blocks(X: Array) -> Iterator[slice]:
    size = _rows_of(X, BLOCK_BYTES)
    for start in range(0, len(X), size):
        yield slice(start, min(start + size, len(X)))


def _norms(rows: Array) -> Array:
    return np.einsum("nd,nd->n", rows, rows)


def _compile(function: Any) -> Any:
    options = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    return numba.njit(**options)(function)


@_compile
def _products(centers: Array, rows: Array) -> Array:
    """Product ``centers @ rows.T``, four rows at a time."""
    zero, (n, d) = rows.dtype.type(0), rows.shape
    out = np.empty((len(centers), n), rows.dtype)
    whole = n - n % 4
    for start in range(0, whole, 4):
        p, q, r, s = rows[start], rows[start + 1], rows[start + 2], rows[start + 3]
        for i in range(len(centers)):
            center = centers[i]
            of_p = of_q = of_r = of_s = zero
            for j in range(d):
                of_p += p[j] * center[j]
                of_q += q[j] * center[j]
                of_r += r[j] * center[j]
                of_s += s[j] * center[j]
            out[i, start], out[i, start + 1], out[i, start + 2], out[i, start + 3] = of_p, of_q, of_r, of_s
    for start in range(whole, n):
        for i in range(len(centers)):
            total = zero
            for j in range(d):
                total += rows[start, j] * centers[i, j]
            out[i, start] = total
    return out


@_compile
def _weighted_sums(weights: Array, rows: Array) -> Array:
    """Product ``weights @ rows``, four rows at a time."""
    n, d = rows.shape
    out = np.zeros((len(weights), d), rows.dtype)
    whole = n - n % 4
    for start in range(0, whole, 4):
        p, q, r, s = rows[start], rows[start + 1], rows[start + 2], rows[start + 3]
        for i in range(len(weights)):
            of_i = out[i]
            w, x, y, z = weights[i, start], weights[i, start + 1], weights[i, start + 2], weights[i, start + 3]
            for j in range(d):
                of_i[j] += w * p[j] + x * q[j] + y * r[j] + z * s[j]
    for start in range(whole, n):
        for i in range(len(weights)):
            for j in range(d):
                out[i, j] += weights[i, start] * rows[start, j]
    return out


@_compile
def _add_block(
    sums: Array, moved: Array, rows: Array, centers: Array, of_rows: Any, weights: Any, start: int, of_kernels: Any
) -> None:
    norms, norms_of_centers = of_rows
    products = _products(centers, rows)
    _kernels_numba.add_block(sums, products, norms, norms_of_centers, *weights, start, *of_kernels)
    moved += _weighted_sums(products, rows)


@_compile
def _loop_over_blocks(
    sums: Array,
    moved: Array,
    centers: Array,
    norms_of_centers: Array,
    X: Array,
    origin: Array,
    from_origin: bool,
    norms: Array,
    weights: Any,
    offset: int,
    first: int,
    last: int,
    size: int,
    of_kernels: Any,
) -> None:
    """Add rows first to last - 1, in blocks of `size` that stay in the second-level cache, by loops alone."""
    for start in range(first, last, size):
        stop = min(start + size, last)
        of_rows = norms[start:stop], norms_of_centers
        if from_origin:
            _add_block(sums, moved, X[start:stop] - origin, centers, of_rows, weights, offset + start, of_kernels)
        else:
            _add_block(sums, moved, X[start:stop], centers, of_rows, weights, offset + start, of_kernels)


def _distances(rows: Array, norms: Array, centers: Array) -> Array:
    """Squared distances, shape (M, n)."""
    distances = centers @ rows.T
    distances *= -2
    distances += norms
    distances += _norms(centers)[:, None]
    return np.maximum(distances, 0, out=distances)


def _gate_and_phi(distances: Array, width: float, competition: bool) -> tuple[Array | None, Array]:
    """Gate and phi of squared distances (n, M)."""
    log_kernels = distances * distances.dtype.type(-0.5 / width**2)
    kernels = _exp(log_kernels)
    if not competition:
        return None, kernels
    gate = _exp(log_kernels - log_kernels.max(axis=1, keepdims=True))
    gate /= gate.sum(axis=1, keepdims=True)
    return gate, gate * kernels


def _exp(x: Array) -> Array:
    """Exponential, 0 below a quarter of the resolution: denormal products are far slower than others."""
    least = np.log(0.25 * np.finfo(x.dtype).eps)
    out = np.exp(x)
    if x.min() < least:
        out[x < least] = 0
    return out


def squared_distances(X: Array, centers: Array) -> Array:
    """See `sparker._kernels.squared_distances`."""
    origin = _median(X)
    out = np.empty((len(X), len(centers)), X.dtype)
    for block in _blocks(X):
        rows = X[block] - origin
        out[block] = _distances(rows, _norms(rows), centers - origin).T
    return out


def responsibilities(X: Array, centers: Array, width: float) -> Array:
    """See `sparker._kernels.responsibilities`."""
    gate, _ = _gate_and_phi(squared_distances(X, centers), width, True)
    assert gate is not None
    return gate


def activations(X: Array, centers: Array, width: float, competition: bool) -> Array:
    """See `sparker._kernels.activations`."""
    return _gate_and_phi(squared_distances(X, centers), width, competition)[1]


def log_density_ratio(X: Array, amplitudes: Array, centers: Array, width: float, competition: bool) -> Array:
    """See `sparker._kernels.log_density_ratio`."""
    return activations(X, centers, width, competition) @ amplitudes


def value_and_gradient(
    X: Array,
    reference_weight: Array,
    data_weight: Array,
    amplitudes: Array,
    centers: Array,
    width: float,
    competition: bool,
    loss: str = "np",
) -> Evaluation:
    """See `sparker._kernels.value_and_gradient`."""
    found = batch_value_and_gradient(
        X,
        reference_weight[None],
        data_weight[None],
        0,
        np.zeros(1, np.int64),
        amplitudes[None],
        centers[None],
        np.array([width]),
        competition,
        loss,
    )
    return Evaluation(float(found.value[0]), *(part[0] for part in found[1:]))


def batch_value_and_gradient(
    X: Array,
    reference_weights: Array,
    data_weights: Array,
    offset: int,
    toys: Array,
    amplitudes: Array,
    centers: Array,
    widths: Array,
    competition: bool,
    loss: str = "np",
    origin: Array | None = None,
    norms: Array | None = None,
    n_threads: int = 1,
    alone: bool = True,
) -> Evaluation:
    """See `sparker._kernels.batch_value_and_gradient`; `norms` are the squared distances of the rows from `origin`.

    Where the problems are `alone` they share one product; else they are cut into groups, whose products are padded, so
    that a problem depends neither on how many others there are nor on its place among them. Chunks of blocks go to
    `n_threads` threads, to the same bits.
    """
    origin = _median(X) if origin is None else origin
    centers = centers - origin
    moved = bool(origin.any())
    n_problems, n_kernels, n_features = centers.shape
    size = n_problems if alone else max(1, COLUMNS // n_kernels)
    few = alone and n_problems * n_kernels <= FEW
    weights = read_only(reference_weights), read_only(data_weights)
    if norms is None:
        norms = np.concatenate([_norms(X[block] - origin) for block in _blocks(X)])
    groups = [
        _Group(
            centers[part],
            alone,
            toys[part],
            amplitudes[part],
            widths[part],
            competition,
            LOSSES.index(loss),
        )
        for part in (slice(first, first + size) for first in range(0, n_problems, size))
    ]

    def add(chunk: Sequence[slice]) -> list[tuple[Array, Array]]:
        sums = [group.zeros() for group in groups]
        if few:
            part = chunk[0].start, chunk[-1].stop, _rows_of(X, CACHED_BYTES)
            groups[0].loop(sums[0], read_only(X), origin, moved, read_only(norms), weights, offset, *part)
            return sums
        for block in chunk:
            rows = X[block] - origin if moved else X[block]
            for group, of_group in zip(groups, sums, strict=True):
                group.multiply(of_group, rows, read_only(norms[block]), weights, offset + block.start)
        return sums

    blocks = list(_blocks(X))
    chunks = [blocks[k : k + CHUNK] for k in range(0, len(blocks), CHUNK)]
    found = map(add, chunks) if n_threads == 1 else executor(n_threads).map(add, chunks)
    parts = []
    for group, of_group in zip(groups, zip(*found, strict=True), strict=True):
        parts.append(group.evaluation(*(sum(terms[1:], start=terms[0]) for terms in zip(*of_group, strict=True))))
    return Evaluation(*map(np.concatenate, zip(*parts, strict=True)))


class _Group:
    """Problems that share matrix products, which are padded unless they are `alone`: small ones to a full group."""

    def __init__(
        self,
        centers: Array,
        alone: bool,
        toys: Array,
        amplitudes: Array,
        widths: Array,
        competition: bool,
        loss: int,
    ) -> None:
        _, self.n_kernels, n_features = self.shape = centers.shape
        flat = centers.reshape(-1, n_features)
        self.n_whole = len(flat) if alone else -(-len(flat) // TILE) * TILE
        n_most = self.n_whole if alone else max(self.n_whole, COLUMNS)
        self.centers = np.concatenate([flat, flat[:1].repeat(n_most - len(flat), axis=0)])
        self.norms = _norms(self.centers)
        self.widths = widths
        scales = (-0.5 / widths**2).astype(centers.dtype)
        self.of_kernels = read_only(toys), read_only(amplitudes), scales, competition, loss

    def zeros(self) -> tuple[Array, Array]:
        """Sums of no rows, see `_kernels_numba.unpack`, and those of rows times derivatives."""
        return np.zeros((self.shape[0], _kernels_numba.n_sums(self.n_kernels, 1))), np.zeros(self.shape)

    def multiply(
        self, sums: tuple[Array, Array], rows: Array, norms: Array, weights: tuple[Array, Array], start: int
    ) -> None:
        """Add a block of rows, which begins at `start` in the weights."""
        products = self.centers[: self.n_whole if TILE * rows.size > SMALL else None] @ rows.T
        _kernels_numba.add_block(sums[0], products, norms, self.norms, *weights, start, *self.of_kernels)
        sums[1][...] += (products @ rows)[: self.shape[0] * self.n_kernels].reshape(self.shape)

    def loop(self, sums: tuple[Array, Array], *of_rows: Any) -> None:
        """Add rows by loops, see `_loop_over_blocks`."""
        moved = sums[1].reshape(self.centers.shape)
        _loop_over_blocks(sums[0], moved, read_only(self.centers), self.norms, *of_rows, self.of_kernels)

    def evaluation(self, sums: Array, moved: Array) -> Evaluation:
        """What the rows add up to."""
        found = _kernels_numba.unpack(sums, self.n_kernels, 1, self.widths)
        centers = self.centers[: self.shape[0] * self.n_kernels].reshape(self.shape)
        gradient = moved / self.widths[:, None, None] ** 2 - found.center_gradient * centers
        return found._replace(center_gradient=gradient)
