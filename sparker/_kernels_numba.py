"""The kernels of `sparker._kernels`, fused and compiled: the twin for the CPU and small or moderate dimension.

Rows are taken in blocks that stay in the cache, transposed so that every inner loop runs over rows and vectorises; the
exponential is a polynomial with its power of two put together from bits, since ``math.exp`` does not vectorise there.
Blocks are gathered into chunks of a fixed size, each with its own partial
sums, added in order: the result does not depend on the number of threads.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import overload
from numba.np.numpy_support import as_dtype

from sparker._kernels import LOSSES, Evaluation, executor

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

BLOCK = 512  # rows in flight: all scratch of a block fits in a 256 kB cache up to d = 64, M = 16
CHUNK = 8 * BLOCK  # rows to a partial sum
LANES = 16  # a short block is padded to a multiple of this, so that its loops vectorise

# Reassociation lets sums vectorise. `nnan` and `ninf` stay out: they would remove the
# tests for non-finite values.
_FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}


def _compile(function: Callable[..., Any], **options: Any) -> Any:
    return numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST, **options)(function)


def _inline(function: Callable[..., Any]) -> Any:
    # Left to itself LLVM inlines fresh code and code from the cache differently, with other last bits.
    return _compile(function, forceinline=True)


def _tables(dtype: type[np.floating[Any]], degree: int, ln2_high: float, limits: tuple[float, float]) -> Any:
    """Constants of `_exp` for one float dtype: polynomial, range reduction and reach of kernels, layout of its bits.

    ln 2 is split in two (Cody and Waite): the high part ends in zeros, so that its small multiples are exact.
    """
    half = 0.5 * math.log(2)
    polynomial = np.polynomial.Chebyshev.interpolate(np.exp, degree, domain=[-half, half])
    coefficients = polynomial.convert(kind=np.polynomial.Polynomial).coef
    coefficients[0] = 1.0  # exp(0) is exactly 1: rows beyond reach of every kernel cost no loss
    # kernels below a quarter of the resolution are out of reach
    negligible = math.log(0.25 * np.finfo(dtype).eps)
    constants = (1 / math.log(2), ln2_high, math.log(2) - ln2_high, *limits, 0.5, negligible)
    integer = np.int32 if dtype is np.float32 else np.int64
    layout = np.finfo(dtype)
    bias, shift = integer(layout.maxexp - 1), integer(layout.nmant)
    return tuple(map(dtype, coefficients[::-1])), tuple(map(dtype, constants)), bias, shift


_TABLES = {
    np.dtype(np.float32): _tables(np.float32, 6, 0.693359375, (-87.0, 88.0)),
    np.dtype(np.float64): _tables(np.float64, 12, 0.693145751953125, (-708.0, 709.0)),
}


def _table(x: Array) -> Any:
    """Constants of `_exp` for the dtype of x; known when compiling, where `_typed_table` stands for it."""
    return _TABLES[x.dtype]


@overload(_table)
def _typed_table(x: Any) -> Any:
    table = _TABLES[as_dtype(x.dtype)]

    def implementation(x: Any) -> Any:
        return table

    return implementation


@_inline
def _reduce(x: Array, bits: Array, n: int, table: Any) -> None:
    """Split x = power ln 2 + r for n entries: r goes into `x`, 2^power, as the bits of a float, into `bits`."""
    _, (log2e, ln2_high, ln2_low, lowest, highest, half, _), bias, shift = table
    for b in range(n):
        clipped = min(max(x[b], lowest), highest)
        power = np.floor(clipped * log2e + half)
        bits[b] = (bits.dtype.type(power) + bias) << shift
        x[b] = (clipped - power * ln2_high) - power * ln2_low


@_inline
def _exp(x: Array, bits: Array, n: int, table: Any) -> None:
    """X <- exp(x) in place for n entries."""
    _reduce(x, bits, n, table)
    coefficients, powers = table[0], bits.view(x.dtype)
    for b in range(n):
        value = coefficients[0]
        for c in range(1, len(coefficients)):
            value = value * x[b] + coefficients[c]
        x[b] = value * powers[b]


@_inline
def _expm1(x: Array, bits: Array, n: int, table: Any) -> None:
    """X <- exp(x) - 1 in place for n entries, without cancellation at small x."""
    _reduce(x, bits, n, table)
    coefficients, powers = table[0], bits.view(x.dtype)
    for b in range(n):
        value = coefficients[0]
        for c in range(1, len(coefficients) - 1):
            value = value * x[b] + coefficients[c]
        x[b] = value * x[b] * powers[b] + (powers[b] - coefficients[-1])


@_inline
def _load(X: Array, start: int, rows: Array) -> tuple[int, int]:
    """Transpose the block of X from `start` into `rows` (d, BLOCK); its size, and that to which it is padded.

    The padding repeats the first row.
    """
    size = min(BLOCK, len(X) - start)
    n = (size + LANES - 1) // LANES * LANES
    for j in range(X.shape[1]):
        rows[j, :size] = X[start : start + size, j]
        rows[j, size:n] = X[start, j]
    return size, n


@_inline
def _distances(rows: Array, centers: Array, distances: Array, n: int) -> None:
    for i in range(len(centers)):
        distance = distances[i]
        center, row = centers[i, 0], rows[0]
        for b in range(n):
            offset = row[b] - center
            distance[b] = offset * offset
        for j in range(1, centers.shape[1]):
            center, row = centers[i, j], rows[j]
            for b in range(n):
                offset = row[b] - center
                distance[b] += offset * offset


@_inline
def _bound(rows: Array, work: Array, box: Array, n: int) -> None:
    """Fill `box` (2, d) with the smallest and largest value of each feature in a block."""
    low, high = work[0], work[1]
    for j in range(len(rows)):
        row = rows[j]
        low[:LANES] = row[:LANES]
        high[:LANES] = row[:LANES]
        for start in range(LANES, n, LANES):  # lane by lane: a minimum of all alone does not vectorise
            for k in range(LANES):
                low[k] = min(low[k], row[start + k])
                high[k] = max(high[k], row[start + k])
        box[0, j], box[1, j] = low[0], high[0]
        for k in range(1, LANES):
            box[0, j] = min(box[0, j], low[k])
            box[1, j] = max(box[1, j], high[k])


@_inline
def _in_reach(box: Array, centers: Array, farthest: float) -> bool:
    """Whether a kernel is within the squared distance `farthest` of the box of a block."""
    zero = box.dtype.type(0)
    for i in range(len(centers)):
        distance = zero
        for j in range(centers.shape[1]):
            offset = max(max(box[0, j] - centers[i, j], centers[i, j] - box[1, j]), zero)
            distance += offset * offset
        if distance <= farthest:
            return True
    return False


@_inline
def _kernels(distances: Array, scale: float, phi: Array, bits: Array, n: int, table: Any) -> None:
    """Phi <- k of a block, from its squared distances; scale = -1 / (2 sigma^2)."""
    for i in range(len(distances)):
        for b in range(n):
            phi[i, b] = distances[i, b] * scale
        _exp(phi[i], bits, n, table)


@_inline
def _softmax(distances: Array, scale: float, gate: Array, work: Array, bits: Array, n: int, table: Any) -> None:
    """Gate of a block in the log domain, right however far a row is from every kernel."""
    nearest, total = work[0], work[1]
    nearest[:n] = distances[0, :n]
    for i in range(1, len(distances)):
        for b in range(n):
            nearest[b] = min(nearest[b], distances[i, b])
    total[:n] = 0
    for i in range(len(distances)):
        for b in range(n):
            gate[i, b] = (distances[i, b] - nearest[b]) * scale
        _exp(gate[i], bits, n, table)
        for b in range(n):
            total[b] += gate[i, b]
    for i in range(len(distances)):
        for b in range(n):
            gate[i, b] /= total[b]


@_inline
def _compete(phi: Array, gate: Array, work: Array, n: int) -> None:
    """Fill the gate from the kernels in phi, then phi = gate k.

    The kernels themselves serve where `_softmax` would be needed for the gate alone: `_exp` is never 0, and a row so
    far away that its gate is not right has f = 0 and adds nothing to any sum.
    """
    one, share = phi.dtype.type(1), work[0]
    share[:n] = phi[0, :n]
    for i in range(1, len(phi)):
        for b in range(n):
            share[b] += phi[i, b]
    for b in range(n):
        share[b] = one / share[b]
    for i in range(len(phi)):
        for b in range(n):
            gate[i, b] = phi[i, b] * share[b]
            phi[i, b] *= gate[i, b]


@_inline
def _loss(
    phi: Array,
    amplitudes: Array,
    weights: Array,
    counts: Array,
    loss: int,
    work: Array,
    bits: Array,
    n: int,
    table: Any,
) -> float:
    """Leave f, and the second and first derivative of the loss in f, in `work[0:3]` and return the loss of a block."""
    f, curving, residual, excess = work[0], work[1], work[2], work[3]
    f[:n] = 0
    for i in range(len(phi)):
        for b in range(n):
            f[b] += amplitudes[i] * phi[i, b]
    excess[:n] = f[:n]
    _expm1(excess, bits, n, table)
    one, half, two = phi.dtype.type(1), phi.dtype.type(0.5), phi.dtype.type(2)
    total = 0.0
    if loss == 0:  # "np"
        for b in range(n):
            curving[b] = weights[b] * (excess[b] + one)
            residual[b] = curving[b] - counts[b]
            total += np.float64(weights[b] * excess[b] - counts[b] * f[b])
        return total
    for b in range(n):
        odds, weight, count = excess[b] + one, weights[b], counts[b]
        rest = one / (one + odds)
        s = odds * rest
        slope = s * rest
        if loss == 1:  # "bce"
            total += np.float64((weight + count) * np.log1p(half * excess[b]) - count * f[b])
            residual[b] = weight * s - count * rest
            curving[b] = (weight + count) * slope
        else:  # "mse"; s^2 - 1/4 = (s - 1/2) (s + 1/2)
            total += np.float64((s - half) * (weight * (s + half) - count * (rest + half)))
            residual[b] = two * slope * (weight * s - count * rest)
            curving[b] = two * (weight + count) * slope * slope
    return total


@_inline
def _add_gradients(
    rows: Array,
    distances: Array,
    phi: Array,
    gate: Array,
    competition: bool,
    amplitudes: Array,
    centers: Array,
    work: Array,
    sums: Array,
    n: int,
) -> None:
    """Add the block's gradient, Hessian and curvature sums; see `_unpack` for their order.

    A block adds up in the dtype of the rows: these sums steer the steps, and no digit of them is reported.
    """
    f, curving, residual, slope, product = work[0], work[1], work[2], work[3], work[4]
    n_kernels, n_features = centers.shape
    hessian, gradient = 1 + n_kernels, 1 + n_kernels + n_kernels * n_kernels
    curvature = gradient + n_kernels * n_features
    zero, two = phi.dtype.type(0), phi.dtype.type(2)
    for i in range(n_kernels):
        amplitude, of_amplitude, of_center = amplitudes[i], zero, zero
        if competition:
            for b in range(n):
                slope[b] = two * amplitude * phi[i, b] - gate[i, b] * f[b]
        else:
            for b in range(n):
                slope[b] = amplitude * phi[i, b]
        for b in range(n):
            of_amplitude += residual[b] * phi[i, b]
            of_center += curving[b] * slope[b] * slope[b] * distances[i, b]
            product[b] = curving[b] * phi[i, b]
            slope[b] *= residual[b]
        sums[1 + i] += np.float64(of_amplitude)
        sums[curvature + i] += np.float64(of_center)
        for j in range(i + 1):
            total = zero
            for b in range(n):
                total += product[b] * phi[j, b]
            sums[hessian + i * n_kernels + j] += np.float64(total)
        for j in range(n_features):
            center, row, total = centers[i, j], rows[j], zero
            for b in range(n):
                total += slope[b] * (row[b] - center)
            sums[gradient + i * n_features + j] += np.float64(total)


@_compile
def _sum_chunks(
    first: int,
    last: int,
    partial: Array,
    X: Array,
    weights: Array,
    counts: Array,
    offset: int,
    toys: Array,
    amplitudes: Array,
    centers: Array,
    scales: Array,
    competition: bool,
    loss: int,
) -> None:
    """Fill chunks first to last - 1 of `partial` (n_chunks, P, ...) with their sums; see `_unpack` for the order.

    Every block of rows is loaded once for all problems.
    """
    n_problems, n_kernels, n_features = centers.shape
    table = _table(X)
    rows = np.empty((n_features, BLOCK), X.dtype)
    distances = np.empty((n_kernels, BLOCK), X.dtype)
    phi = np.empty((n_kernels, BLOCK), X.dtype)
    gate = np.empty((n_kernels, BLOCK), X.dtype)
    work = np.empty((7, BLOCK), X.dtype)
    bits = np.full(BLOCK, table[2])
    box = np.empty((2, n_features), X.dtype)
    weight, count = work[5], work[6]
    for chunk in range(first, last):
        for start in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(X)), BLOCK):
            size, n = _load(X, start, rows)
            _bound(rows, work, box, n)
            weight[size:n] = 0
            count[size:n] = 0
            for p in range(n_problems):
                if not _in_reach(box, centers[p], table[1][-1] / scales[p]):
                    continue  # f = 0 there, and nothing is added to any sum
                sums = partial[chunk, p]
                weight[:size] = weights[toys[p], offset + start : offset + start + size]
                count[:size] = counts[toys[p], offset + start : offset + start + size]
                _distances(rows, centers[p], distances, n)
                _kernels(distances, scales[p], phi, bits, n, table)
                if competition:
                    _compete(phi, gate, work, n)
                sums[0] += _loss(phi, amplitudes[p], weight, count, loss, work, bits, n, table)
                _add_gradients(rows, distances, phi, gate, competition, amplitudes[p], centers[p], work, sums, n)


@_compile
def _forward(X: Array, centers: Array, scale: float, competition: bool) -> Array:
    """phi, gate and squared distances of every row, shape (3, n, M)."""
    n_kernels, n_features = centers.shape
    table = _table(X)
    out = np.empty((3, len(X), n_kernels), X.dtype)
    for chunk in range((len(X) + CHUNK - 1) // CHUNK):
        rows = np.empty((n_features, BLOCK), X.dtype)
        distances = np.empty((n_kernels, BLOCK), X.dtype)
        phi = np.empty((n_kernels, BLOCK), X.dtype)
        gate = np.ones((n_kernels, BLOCK), X.dtype)
        work = np.empty((2, BLOCK), X.dtype)
        bits = np.full(BLOCK, table[2])
        for start in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(X)), BLOCK):
            size, n = _load(X, start, rows)
            _distances(rows, centers, distances, n)
            _kernels(distances, scale, phi, bits, n, table)
            if competition:
                _softmax(distances, scale, gate, work, bits, n, table)
                for i in range(n_kernels):
                    for b in range(n):
                        phi[i, b] *= gate[i, b]
            for i in range(n_kernels):
                for b in range(size):
                    out[0, start + b, i] = phi[i, b]
                    out[1, start + b, i] = gate[i, b]
                    out[2, start + b, i] = distances[i, b]
    return out


def _read_only(array: Array) -> Array:
    """Read-only view. Workers get large arrays read-only, for which numba compiles anew: so let all be read-only."""
    view = array.view()
    view.flags.writeable = False
    return view


def _unpack(sums: Array, n_kernels: int, n_features: int, widths: Array) -> Evaluation:
    """Sums of `_sum_chunks`: loss, amplitude gradient, lower Hessian, centre gradient and curvature, in this order."""
    gradient = sums[:, 1 + n_kernels + n_kernels**2 :]
    lower = sums[:, 1 + n_kernels : 1 + n_kernels + n_kernels**2].reshape(-1, n_kernels, n_kernels)
    return Evaluation(
        sums[:, 0],
        sums[:, 1 : 1 + n_kernels],
        lower + np.tril(lower, -1).transpose(0, 2, 1),
        gradient[:, : n_kernels * n_features].reshape(-1, n_kernels, n_features) / widths[:, None, None] ** 2,
        gradient[:, n_kernels * n_features :] / widths[:, None] ** 4,
    )


def _run_forward(X: Array, centers: Array, width: float, competition: bool) -> Array:
    return _forward(_read_only(X), _read_only(centers), X.dtype.type(-0.5 / width**2), competition)


def squared_distances(X: Array, centers: Array) -> Array:
    """See `sparker._kernels.squared_distances`."""
    return _run_forward(X, centers, 1.0, False)[2]


def responsibilities(X: Array, centers: Array, width: float) -> Array:
    """See `sparker._kernels.responsibilities`."""
    return _run_forward(X, centers, width, True)[1]


def activations(X: Array, centers: Array, width: float, competition: bool) -> Array:
    """See `sparker._kernels.activations`."""
    return _run_forward(X, centers, width, competition)[0]


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
    n_threads: int = 1,
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
        n_threads,
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
    n_threads: int = 1,
) -> Evaluation:
    """See `sparker._kernels.batch_value_and_gradient`; chunks go to `n_threads` threads, to the same bits."""
    n_problems, n_kernels, n_features = centers.shape
    scales = (-0.5 / widths**2).astype(X.dtype)
    n_chunks = -(-len(X) // CHUNK)
    partial = np.zeros((n_chunks, n_problems, 1 + n_kernels * (2 + n_kernels + n_features)))
    of_rows = [_read_only(array) for array in (X, reference_weights, data_weights)]
    of_kernels = [_read_only(array) for array in (toys, amplitudes, centers)]

    def add(first: int, last: int) -> None:
        options = scales, competition, LOSSES.index(loss)
        _sum_chunks(first, last, partial, *of_rows, offset, *of_kernels, *options)

    if n_threads == 1:
        add(0, n_chunks)
    else:
        # Python threads around one compiled function that lets go of the lock: a second version compiled with
        # parallel=True would round differently, and aborts the process when two threads enter it.
        edges = [n_chunks * k // n_threads for k in range(n_threads + 1)]
        for done in [executor(n_threads).submit(add, *ends) for ends in pairwise(edges)]:
            done.result()
    sums = np.zeros(partial.shape[1:])
    for chunk in partial:  # one by one: their order must not depend on how NumPy sums
        sums += chunk
    return _unpack(sums, n_kernels, n_features, widths)
