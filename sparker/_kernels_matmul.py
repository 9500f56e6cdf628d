"""The kernels of `sparker._kernels` as matrix products on blocks of rows: the twin for large dimension.

``||x - mu||^2 = ||x||^2 - 2 x mu + ||mu||^2`` loses digits when rows and centres are far from the origin, so both are
first moved to the median, a block at a time: rows may be more than the memory holds. It agrees with the other twins to
1e-4, not to the last digit. Callers with many passes over the same rows pass their origin and squared norms.

A product with few centres is bound by reading the rows, which libraries copy before they multiply: loops do not.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from sparker._kernels import Evaluation, _terms, executor, read_only

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
CHUNK = 4  # blocks to a partial sum
COLUMNS = 96  # centres in a product, a multiple of what products compute at a time
FEW = 8  # centres up to which loops are faster than a product
ROOM = 128  # numbers beside the features of a row, for kernels and their derivatives


def _median(X: Array) -> Array:
    return np.median(X[:1024], axis=0).astype(X.dtype)


def _blocks(X: Array) -> Iterator[slice]:
    size = max(64, BLOCK_BYTES // ((X.shape[1] + ROOM) * X.itemsize))
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


def _distances(rows: Array, norms: Array, centers: Array, few: bool = False) -> Array:
    """Squared distances, shape (M, n)."""
    distances = _products(read_only(centers), read_only(rows)) if few else centers @ rows.T
    distances *= -2
    distances += norms
    distances += _norms(centers)[:, None]
    return np.maximum(distances, 0, out=distances)


def _gate_and_phi(distances: Array, width: Array, competition: bool, axis: int) -> tuple[Array | None, Array]:
    """Gate and phi; the kernels of a problem stand along `axis`."""
    log_kernels = distances * (-0.5 / width**2).astype(distances.dtype)
    kernels = _exp(log_kernels)
    if not competition:
        return None, kernels
    gate = _exp(log_kernels - log_kernels.max(axis=axis, keepdims=True))
    gate /= gate.sum(axis=axis, keepdims=True)
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
    gate, _ = _gate_and_phi(squared_distances(X, centers), np.array(width), True, axis=1)
    assert gate is not None
    return gate


def activations(X: Array, centers: Array, width: float, competition: bool) -> Array:
    """See `sparker._kernels.activations`."""
    return _gate_and_phi(squared_distances(X, centers), np.array(width), competition, axis=1)[1]


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

    The last bits of a product depend on its shape. Where the problems are `alone` they share one; else they are cut
    into groups of `COLUMNS` centres, the last one padded, so that a problem does not depend on how many others there
    are. Chunks of blocks go to `n_threads` threads, to the same bits.
    """
    origin = _median(X) if origin is None else origin
    centers = centers - origin
    moved = bool(origin.any())
    n_problems = len(toys)
    size = n_problems if alone else max(1, COLUMNS // centers.shape[1])
    few = alone and n_problems * centers.shape[1] <= FEW
    groups = [np.minimum(np.arange(first, first + size), n_problems - 1) for first in range(0, n_problems, size)]

    def add(chunk: Sequence[slice]) -> Evaluation:
        sums = [_Sums(amplitudes[group], centers[group], widths[group], competition, loss, few) for group in groups]
        for block in chunk:
            rows, part = X[block] - origin if moved else X[block], slice(offset + block.start, offset + block.stop)
            of_rows = _norms(rows) if norms is None else norms[block]
            for group, of_group in zip(groups, sums, strict=True):
                of_group.add(rows, of_rows, reference_weights[toys[group], part], data_weights[toys[group], part])
        found = zip(*(of_group.found() for of_group in sums), strict=True)
        return Evaluation(*(np.concatenate(parts)[:n_problems] for parts in found))

    blocks = list(_blocks(X))
    chunks = [blocks[k : k + CHUNK] for k in range(0, len(blocks), CHUNK)]
    found = map(add, chunks) if n_threads == 1 else executor(n_threads).map(add, chunks)
    return Evaluation(*(sum(parts[1:], start=parts[0]) for parts in zip(*found, strict=True)))


class _Sums:
    """Running sums over blocks of rows, of problems with the same weights; arrays are (P, M, rows)."""

    def __init__(
        self, amplitudes: Array, centers: Array, widths: Array, competition: bool, loss: str, few: bool
    ) -> None:
        n_problems, n_kernels, n_features = centers.shape
        self.amplitudes = amplitudes[:, :, None]
        self.centers = centers.reshape(-1, n_features)
        self.widths = widths
        self.competition = competition
        self.loss = loss
        self.few = few
        self.value = np.zeros(n_problems)
        self.amplitude_gradient = np.zeros((n_problems, n_kernels))
        self.hessian = np.zeros((n_problems, n_kernels, n_kernels))
        self.center_gradient = np.zeros((n_problems * n_kernels, n_features))
        self.curvature = np.zeros((n_problems, n_kernels))

    def add(self, rows: Array, norms: Array, weight: Array, count: Array) -> None:
        """Add a block."""
        distances = _distances(rows, norms, self.centers, self.few).reshape(*self.amplitudes.shape[:2], len(rows))
        gate, phi = _gate_and_phi(distances, self.widths[:, None, None], self.competition, axis=1)
        part = self.amplitudes * phi
        f = part.sum(axis=1)
        slope = part if gate is None else 2 * part - gate * f[:, None]
        terms, residual, curving = _terms(f, weight, count, self.loss)
        residual, curving = residual[:, None], curving[:, None]
        self.value += np.sum(terms, axis=1, dtype=np.float64)
        self.amplitude_gradient += (phi @ residual.transpose(0, 2, 1))[:, :, 0]
        self.hessian += (curving * phi) @ phi.transpose(0, 2, 1)
        self.curvature += ((slope**2 * distances) @ curving.transpose(0, 2, 1))[:, :, 0]
        slope = (slope * residual).reshape(len(self.centers), len(rows))
        moved = _weighted_sums(read_only(slope), read_only(rows)) if self.few else slope @ rows
        self.center_gradient += moved - slope.sum(axis=1, keepdims=True) * self.centers

    def found(self) -> Evaluation:
        """What the rows so far add up to."""
        width = self.widths[:, None]
        gradient = self.center_gradient.reshape(*self.hessian.shape[:2], -1) / width[:, None] ** 2
        return Evaluation(self.value, self.amplitude_gradient, self.hessian, gradient, self.curvature / width**4)
