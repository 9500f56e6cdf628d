"""The kernels of `sparker._kernels`, fused and compiled: the twin for the CPU and small or moderate dimension.

Rows are taken in blocks that stay in the cache, transposed so that every inner loop runs over rows and vectorises; the
exponential is a polynomial with its power of two put together from bits, since ``math.exp`` does not vectorise there.
Blocks are gathered into chunks whose size follows from the number of rows, each with its own partial sums, added in
order: the result does not depend on the number of threads.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.extending import intrinsic, overload
from numba.np.numpy_support import as_dtype

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

BLOCK = 512  # rows in flight: all scratch of a block fits in a 256 kB cache up to d = 64, M = 16
CHUNK = 8 * BLOCK  # most rows to a partial sum
CHUNKS = 16  # partial sums that few rows are shared out to, so that threads get equal parts
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
    """Constants of `_exp` for one float dtype: polynomial, range reduction and reach of kernels.

    ln 2 is split in two (Cody and Waite): the high part ends in zeros, so that its small multiples are exact.
    """
    half = 0.5 * math.log(2)
    polynomial = np.polynomial.Chebyshev.interpolate(np.exp, degree, domain=[-half, half])
    coefficients = polynomial.convert(kind=np.polynomial.Polynomial).coef
    coefficients[0] = 1.0  # exp(0) is exactly 1: rows beyond reach of every kernel cost no loss
    # kernels below a quarter of the resolution are out of reach
    negligible = math.log(0.25 * np.finfo(dtype).eps)
    constants = (1 / math.log(2), ln2_high, math.log(2) - ln2_high, *limits, 0.5, negligible)
    return tuple(map(dtype, coefficients[::-1])), tuple(map(dtype, constants))


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


def _power_of_two(power: Any) -> Any:
    """2^power of the same float type, for a whole number in its range."""
    return type(power)(2) ** power


@intrinsic
def _from_bits(typing_context: Any, power: Any) -> Any:
    """Put the float together from its bits: ``ldexp`` does not vectorise."""
    info = np.finfo(as_dtype(power))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(power)
        integer = ir.IntType(info.bits)
        biased = builder.add(builder.fptosi(arguments[0], integer), integer(info.maxexp - 1))
        return builder.bitcast(builder.shl(biased, integer(info.nmant)), kind)

    return power(power), generate


@overload(_power_of_two)
def _typed_power_of_two(power: Any) -> Any:
    def implementation(power: Any) -> Any:
        return _from_bits(power)

    return implementation


@_inline
def _reduce(x: float, table: Any) -> tuple[float, float]:
    """Split x into power ln 2 + r: r and 2^power."""
    _, (log2e, ln2_high, ln2_low, lowest, highest, half, _) = table
    clipped = min(max(x, lowest), highest)
    power = np.floor(clipped * log2e + half)
    return (clipped - power * ln2_high) - power * ln2_low, _power_of_two(power)


@_inline
def _exp(x: float, table: Any) -> float:
    """Exponential of x."""
    rest, power = _reduce(x, table)
    coefficients = table[0]
    value = coefficients[0]
    for c in range(1, len(coefficients)):
        value = value * rest + coefficients[c]
    return value * power


@_inline
def _expm1(x: float, table: Any) -> float:
    """Exponential of x, less 1, without cancellation at small x."""
    rest, power = _reduce(x, table)
    coefficients = table[0]
    value = coefficients[0]
    for c in range(1, len(coefficients) - 1):
        value = value * rest + coefficients[c]
    return value * rest * power + (power - coefficients[-1])


@_inline
def _load(X: Array, start: int, rows: Array) -> tuple[int, int]:
    """Transpose the block of X from `start` into `rows` (d, BLOCK); its size, and that to which it is padded.

    The padding repeats the first row.
    """
    size = min(BLOCK, len(X) - start)
    n = (size + LANES - 1) // LANES * LANES
    whole = size // LANES * LANES
    for first in range(0, whole, LANES):  # a tile of rows at a time stays in the first-level cache
        for j in range(X.shape[1]):
            row = rows[j]
            for k in range(LANES):
                row[first + k] = X[start + first + k, j]
    for j in range(X.shape[1]):
        rows[j, whole:size] = X[start + whole : start + size, j]
        rows[j, size:n] = X[start, j]
    return size, n


@_inline
def _distances(rows: Array, centers: Array, distances: Array, n: int) -> None:
    """Squared distances of a block; four features at a time, since loads and stores cost more than arithmetic."""
    n_features = centers.shape[1]
    for i in range(len(centers)):
        distance, center = distances[i], centers[i]
        if n_features < 4:
            a, t, done = rows[0], center[0], 1
            for k in range(n):
                distance[k] = (a[k] - t) ** 2
        else:
            a, b, c, d, done = rows[0], rows[1], rows[2], rows[3], 4
            t, u, v, w = center[0], center[1], center[2], center[3]
            for k in range(n):
                distance[k] = (a[k] - t) ** 2 + (b[k] - u) ** 2 + (c[k] - v) ** 2 + (d[k] - w) ** 2
        whole = n_features // 4 * 4
        for j in range(done, whole, 4):
            a, b, c, d = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
            t, u, v, w = center[j], center[j + 1], center[j + 2], center[j + 3]
            for k in range(n):
                distance[k] += (a[k] - t) ** 2 + (b[k] - u) ** 2 + (c[k] - v) ** 2 + (d[k] - w) ** 2
        for j in range(max(done, whole), n_features):
            a, t = rows[j], center[j]
            for k in range(n):
                distance[k] += (a[k] - t) ** 2


@_inline
def _in_reach(box: Array, centers: Array, farthest: float) -> bool:
    """Whether a kernel is within the squared distance `farthest` of the box (2, d) of a block."""
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
def _kernels(distances: Array, scale: float, least: float, phi: Array, n: int, table: Any) -> None:
    """Phi <- k of a block, from its squared distances, 0 where log k < `least`; scale = -1 / (2 sigma^2)."""
    zero = phi.dtype.type(0)
    for i in range(len(distances)):
        for b in range(n):
            log_kernel = distances[i, b] * scale
            phi[i, b] = zero if log_kernel < least else _exp(log_kernel, table)


@_inline
def _softmax(distances: Array, scale: float, gate: Array, work: Array, n: int, table: Any) -> None:
    """Gate of a block in the log domain, right however far a row is from every kernel."""
    nearest, total = work[0], work[1]
    nearest[:n] = distances[0, :n]
    for i in range(1, len(distances)):
        for b in range(n):
            nearest[b] = min(nearest[b], distances[i, b])
    total[:n] = 0
    for i in range(len(distances)):
        for b in range(n):
            gate[i, b] = _exp((distances[i, b] - nearest[b]) * scale, table)
            total[b] += gate[i, b]
    for i in range(len(distances)):
        for b in range(n):
            gate[i, b] /= total[b]


@_inline
def _compete(phi: Array, gate: Array, amplitudes: Array, work: Array, n: int) -> None:
    """Fill the gate from the kernels in phi, then phi = gate k, and leave f in `work[0]`.

    The kernels themselves serve where `_softmax` would be needed for the gate alone: a row out of reach of all kernels,
    whose gate is not right, has f = 0 and adds nothing to any sum.
    """
    one, tiny, f, share = phi.dtype.type(1), phi.dtype.type(1e-30), work[0], work[1]
    share[:n] = phi[0, :n]
    for i in range(1, len(phi)):
        for b in range(n):
            share[b] += phi[i, b]
    for b in range(n):
        share[b] = one / (share[b] + tiny)
    f[:n] = 0
    for i in range(len(phi)):
        for b in range(n):
            own = phi[i, b] * share[b]
            gate[i, b] = own
            phi[i, b] *= own
            f[b] += amplitudes[i] * phi[i, b]


@_inline
def _add_up(phi: Array, amplitudes: Array, work: Array, n: int) -> None:
    """Leave f without the gate in `work[0]`."""
    f = work[0]
    f[:n] = 0
    for i in range(len(phi)):
        for b in range(n):
            f[b] += amplitudes[i] * phi[i, b]


@_inline
def _loss(weights: Array, counts: Array, loss: int, work: Array, n: int, table: Any) -> float:
    """Leave the second and first derivative of the loss in f in `work[1:3]` and return the loss of a block."""
    f, curving, residual = work[0], work[1], work[2]
    one, half, two = f.dtype.type(1), f.dtype.type(0.5), f.dtype.type(2)
    total = 0.0
    if loss == 0:  # "np"
        for b in range(n):
            excess = _expm1(f[b], table)
            curving[b] = weights[b] * (excess + one)
            residual[b] = curving[b] - counts[b]
            total += np.float64(weights[b] * excess - counts[b] * f[b])
        return total
    for b in range(n):
        excess = _expm1(f[b], table)
        odds, weight, count = excess + one, weights[b], counts[b]
        rest = one / (one + odds)
        s = odds * rest
        slope = s * rest
        if loss == 1:  # "bce"
            total += np.float64((weight + count) * np.log1p(half * excess) - count * f[b])
            residual[b] = weight * s - count * rest
            curving[b] = (weight + count) * slope
        else:  # "mse"; s^2 - 1/4 = (s - 1/2) (s + 1/2)
            total += np.float64((s - half) * (weight * (s + half) - count * (rest + half)))
            residual[b] = two * slope * (weight * s - count * rest)
            curving[b] = two * (weight + count) * slope * slope
    return total


@_inline
def _add_kernel(
    i: int,
    distances: Array,
    phi: Array,
    gate: Array,
    competition: bool,
    amplitude: float,
    nowhere: Array,
    work: Array,
    sums: Array,
    curvature: int,
    n: int,
) -> None:
    """Add kernel i's amplitude gradient, row of the Hessian and curvature, whose sums begin at `curvature`.

    The derivative of the loss along its centre, but for the distance, is left in `work[3]`.
    """
    f, curving, residual, slope, product = work[0], work[1], work[2], work[3], work[4]
    n_kernels = len(phi)
    of_amplitude, of_center, two = phi.dtype.type(0), phi.dtype.type(0), phi.dtype.type(2)
    for b in range(n):
        part = amplitude * phi[i, b]
        steep = two * part - gate[i, b] * f[b] if competition else part
        of_amplitude += residual[b] * phi[i, b]
        of_center += curving[b] * steep * steep * distances[i, b]
        product[b] = curving[b] * phi[i, b]
        slope[b] = steep * residual[b]
    sums[1 + i] += np.float64(of_amplitude)
    sums[curvature + i] += np.float64(of_center)
    _add_products(product, phi, nowhere, sums[1 + n_kernels + i * n_kernels :], i + 1, n)


@_inline
def _add_gradients(
    rows: Array,
    distances: Array,
    phi: Array,
    gate: Array,
    competition: bool,
    amplitudes: Array,
    centers: Array,
    nowhere: Array,
    work: Array,
    sums: Array,
    n: int,
) -> None:
    """Add the block's gradient, Hessian and curvature sums; see `unpack` for their order.

    A block adds up in the dtype of the rows: these sums steer the steps, and no digit of them is reported.
    """
    n_kernels, n_features = centers.shape
    gradient = 1 + n_kernels + n_kernels * n_kernels
    curvature = gradient + n_kernels * n_features
    for i in range(n_kernels):
        _add_kernel(i, distances, phi, gate, competition, amplitudes[i], nowhere, work, sums, curvature, n)
        _add_products(work[3], rows, centers[i], sums[gradient + i * n_features :], n_features, n)


@_inline
def _add_products(x: Array, rows: Array, origin: Array, sums: Array, n_rows: int, n: int) -> None:
    """Add the sum of x_b (rows_jb - origin_j) over b to sums_j; four j at a time, which share the loads of x."""
    zero = x.dtype.type(0)
    whole = n_rows // 4 * 4
    for j in range(0, whole, 4):
        p, q, r, s = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
        of_p, of_q, of_r, of_s = origin[j], origin[j + 1], origin[j + 2], origin[j + 3]
        t, u, v, w = zero, zero, zero, zero
        for b in range(n):
            t += x[b] * (p[b] - of_p)
            u += x[b] * (q[b] - of_q)
            v += x[b] * (r[b] - of_r)
            w += x[b] * (s[b] - of_s)
        sums[j] += np.float64(t)
        sums[j + 1] += np.float64(u)
        sums[j + 2] += np.float64(v)
        sums[j + 3] += np.float64(w)
    for j in range(whole, n_rows):
        p, of_p, total = rows[j], origin[j], zero
        for b in range(n):
            total += x[b] * (p[b] - of_p)
        sums[j] += np.float64(total)


@_compile
def _sum_chunks(
    first: int,
    last: int,
    chunk_size: int,
    partial: Array,
    X: Array,
    weights: Array,
    counts: Array,
    offset: int,
    boxes: Array,
    toys: Array,
    amplitudes: Array,
    centers: Array,
    scales: Array,
    competition: bool,
    loss: int,
) -> None:
    """Fill chunks first to last - 1 of `partial` (n_chunks, P, ...) with their sums; see `unpack` for the order.

    Every block of rows is loaded once for all problems that reach it; where there are no `boxes` all do.
    """
    n_problems, n_kernels, n_features = centers.shape
    table = _table(X)
    rows = np.empty((n_features, BLOCK), X.dtype)
    distances = np.empty((n_kernels, BLOCK), X.dtype)
    phi = np.empty((n_kernels, BLOCK), X.dtype)
    gate = np.empty((n_kernels, BLOCK), X.dtype)
    work = np.empty((7, BLOCK), X.dtype)
    nowhere = np.zeros(n_kernels, X.dtype)
    least = table[1][-1]  # products of smaller kernels are denormal numbers, far slower than others
    weight, count = work[5], work[6]
    for chunk in range(first, last):
        for start in range(chunk * chunk_size, min((chunk + 1) * chunk_size, len(X)), BLOCK):
            size = n = 0
            loaded = -1  # toy whose weights are there
            for p in range(n_problems):
                if len(boxes) and not _in_reach(boxes[start // BLOCK], centers[p], least / scales[p]):
                    continue  # f = 0 there, and nothing is added to any sum
                if n == 0:
                    size, n = _load(X, start, rows)
                    weight[size:n] = 0
                    count[size:n] = 0
                sums = partial[chunk, p]
                if toys[p] != loaded:
                    loaded = toys[p]
                    weight[:size] = weights[loaded, offset + start : offset + start + size]
                    count[:size] = counts[loaded, offset + start : offset + start + size]
                _distances(rows, centers[p], distances, n)
                _kernels(distances, scales[p], least, phi, n, table)
                if competition:
                    _compete(phi, gate, amplitudes[p], work, n)
                else:
                    _add_up(phi, amplitudes[p], work, n)
                sums[0] += _loss(weight, count, loss, work, n, table)
                of_problem = amplitudes[p], centers[p], nowhere, work, sums, n
                _add_gradients(rows, distances, phi, gate, competition, *of_problem)


@_compile
def add_block(
    sums: Array,
    products: Array,
    norms: Array,
    norms_of_centers: Array,
    weights: Array,
    counts: Array,
    start: int,
    toys: Array,
    amplitudes: Array,
    scales: Array,
    competition: bool,
    loss: int,
) -> None:
    """Add a block of n rows to the sums (P, ...) of the first P problems whose products (>= P M, n) x mu are known.

    The rows begin at `start` in the weights. Each product is replaced by the derivative of the loss along its centre,
    but for the distance, whose sum over the rows stands in place of the centre gradient in `sums`.
    """
    n_problems, n_kernels = amplitudes.shape
    n = products.shape[1]
    table = _table(products)
    phi = np.empty((n_kernels, n), products.dtype)
    gate = np.empty((n_kernels, n), products.dtype)
    work = np.empty((5, n), products.dtype)
    nowhere = np.zeros(n_kernels, products.dtype)
    zero, two, least = products.dtype.type(0), products.dtype.type(2), table[1][-1]
    gradient = 1 + n_kernels + n_kernels * n_kernels
    for p in range(n_problems):
        distances = products[p * n_kernels : (p + 1) * n_kernels]
        of_centers = norms_of_centers[p * n_kernels : (p + 1) * n_kernels]
        weight, count = weights[toys[p], start : start + n], counts[toys[p], start : start + n]
        for i in range(n_kernels):
            for b in range(n):
                distances[i, b] = max(norms[b] + of_centers[i] - two * distances[i, b], zero)
        _kernels(distances, scales[p], least, phi, n, table)
        if competition:
            _compete(phi, gate, amplitudes[p], work, n)
        else:
            _add_up(phi, amplitudes[p], work, n)
        sums[p, 0] += _loss(weight, count, loss, work, n, table)
        for i in range(n_kernels):
            of_kernel = amplitudes[p, i], nowhere, work, sums[p], gradient + n_kernels, n
            _add_kernel(i, distances, phi, gate, competition, *of_kernel)
            total = zero
            for b in range(n):
                distances[i, b] = work[3, b]
                total += work[3, b]
            sums[p, gradient + i] += np.float64(total)


@_compile
def _forward(X: Array, centers: Array, scale: float, competition: bool) -> Array:
    """phi, gate and squared distances of every row, shape (3, n, M)."""
    n_kernels, n_features = centers.shape
    table = _table(X)
    out = np.empty((3, len(X), n_kernels), X.dtype)
    rows = np.empty((n_features, BLOCK), X.dtype)
    distances = np.empty((n_kernels, BLOCK), X.dtype)
    phi = np.empty((n_kernels, BLOCK), X.dtype)
    gate = np.ones((n_kernels, BLOCK), X.dtype)
    work = np.empty((2, BLOCK), X.dtype)
    for start in range(0, len(X), BLOCK):
        size, n = _load(X, start, rows)
        _distances(rows, centers, distances, n)
        _kernels(distances, scale, -np.inf, phi, n, table)
        if competition:
            _softmax(distances, scale, gate, work, n, table)
            for i in range(n_kernels):
                for b in range(n):
                    phi[i, b] *= gate[i, b]
        for i in range(n_kernels):
            for b in range(size):
                out[0, start + b, i] = phi[i, b]
                out[1, start + b, i] = gate[i, b]
                out[2, start + b, i] = distances[i, b]
    return out


@_compile
def fill_distances(rows: Array, centers: Array, which: Array, distances: Array) -> None:
    """Fill squared distances (M, n) for the centres `which` of M, from the features (d, n) of n rows."""
    for i in which:
        _distances(rows, centers[i : i + 1], distances[i : i + 1], rows.shape[1])


@_compile
def fill_kernels(distances: Array, which: Array, scale: float, least: float, out: Array) -> None:
    """Fill `out` (k, n) with the kernels of the k rows `which` of squared distances (M, n), where log k >= `least`."""
    table = _table(distances)
    for i in range(len(which)):
        of_kernel = distances[which[i]]
        for b in range(out.shape[1]):
            out[i, b] = _exp(max(of_kernel[b] * scale, least), table)


@_compile
def add_scores(
    distances: Array,
    which: Array,
    scale: float,
    least: float,
    difference: Array,
    variance: Array,
    score: Array,
    spread: Array,
    reached: Array,
) -> None:
    """Add a block of rows to the sums of kernels `which` for one pair, see `sparker._starts.ScoreSums`."""
    table = _table(distances)
    for i in which:
        of_kernel = distances[i]
        of_score = of_spread = of_reached = distances.dtype.type(0)
        for b in range(len(difference)):
            kernel = _exp(max(of_kernel[b] * scale, least), table)
            part = kernel * variance[b]
            of_score += kernel * difference[b]
            of_spread += kernel * part
            of_reached += part
        score[i] += np.float64(of_score)
        spread[i] += np.float64(of_spread)
        reached[i] += np.float64(of_reached)


def n_sums(n_kernels: int, n_features: int) -> int:
    """Number of sums of a problem, see `unpack`."""
    return 1 + n_kernels * (2 + n_kernels + n_features)


def unpack(sums: Array, n_kernels: int, n_features: int, widths: Array) -> Evaluation:
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
    return _forward(read_only(X), read_only(centers), X.dtype.type(-0.5 / width**2), competition)


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
        n_threads=n_threads,
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
    boxes: Array | None = None,
    n_threads: int = 1,
) -> Evaluation:
    """See `sparker._kernels.batch_value_and_gradient`; chunks go to `n_threads` threads, to the same bits.

    Blocks of rows that no kernel reaches cost nothing where their bounds are given, see `sparker._pool.Pool.bounds`.
    """
    n_problems, n_kernels, n_features = centers.shape
    scales = (-0.5 / widths**2).astype(X.dtype)
    chunk_size = min(CHUNK, BLOCK * -(-len(X) // (CHUNKS * BLOCK)))
    n_chunks = -(-len(X) // chunk_size)
    partial = np.zeros((n_chunks, n_problems, n_sums(n_kernels, n_features)))
    boxes = np.empty((0, 2, n_features), X.dtype) if boxes is None else boxes
    of_rows = [read_only(array) for array in (X, reference_weights, data_weights)]
    of_kernels = [read_only(array) for array in (toys, amplitudes, centers)]

    def add(first: int, last: int) -> None:
        options = scales, competition, LOSSES.index(loss)
        _sum_chunks(first, last, chunk_size, partial, *of_rows, offset, read_only(boxes), *of_kernels, *options)

    if n_threads == 1:
        add(0, n_chunks)
    else:
        # Python threads around one compiled function that lets go of the lock: a second version compiled with
        # parallel=True would round differently, and aborts the process when two threads enter it.
        edges = [n_chunks * k // n_threads for k in range(n_threads + 1)]
        first, *others = pairwise(edges)
        handed_out = [executor(n_threads).submit(add, *ends) for ends in others]
        add(*first)
        for part in handed_out:
            part.result()
    sums = np.zeros(partial.shape[1:])
    for chunk in partial:  # one by one: their order must not depend on how NumPy sums
        sums += chunk
    return unpack(sums, n_kernels, n_features, widths)
