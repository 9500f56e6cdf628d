"""The kernels as formulas, on the array-API namespace: the readable definition and the oracle of every fast twin.

Notation, one place for all of it: rows ``x`` of ``X`` (n, d), kernels ``i = 1..M`` with centre ``mu_i`` and amplitude
``a_i``, one width ``sigma``::

    k_i(x)   = exp(-||x - mu_i||^2 / (2 sigma^2))
    p_i(x)   = k_i(x) / sum_j k_j(x)                        the softmax gate (competition)
    phi_i(x) = p_i(x) k_i(x)   with competition             (arXiv:2511.03095, eq. 2)
             = k_i(x)          without                      (SparKer-NPLM)
    f(x)     = sum_i a_i phi_i(x)                           log density ratio
    L        = sum_x w_x (e^f - 1) - sum_x c_x f            Neyman-Pearson loss, "np" (arXiv:2511.03095, eq. 3)

with ``w_x`` the weight of row x as reference and ``c_x`` its count as data. For comparison two losses of classifiers,
whose odds are s / (1 - s) = e^f, each less its value at f = 0::

    s(x)     = 1 / (1 + e^-f)
    L_bce    = -sum_x w_x log(1 - s) - sum_x c_x log s      binary cross-entropy, "bce"
    L_mse    = sum_x w_x s^2 + sum_x c_x (1 - s)^2          mean squared error, "mse"

``_kernels_numba`` and ``_kernels_matmul`` offer the same functions with the same arguments. Arrays keep the dtype of
``X`` (float32 or float64); sums are float64.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "Evaluation",
    "activations",
    "batch_value_and_gradient",
    "log_density_ratio",
    "responsibilities",
    "squared_distances",
    "value_and_gradient",
]

LOSSES = ("np", "bce", "mse")

# Array-API code has no common static type for "an array of any library".
Array = Any


class Evaluation(NamedTuple):
    """The loss and its derivatives at one point, all NumPy float64 on the host; for P problems with P as first axis.

    Attributes
    ----------
    value : float
        L.
    amplitude_gradient : ndarray of shape (M,)
        dL/da_i.
    amplitude_hessian : ndarray of shape (M, M)
        sum_x h_x phi_i phi_j, with h = w e^f the second derivative of "np" in f: L is convex in the amplitudes.
    center_gradient : ndarray of shape (M, d)
        dL/dmu_i.
    center_curvature : ndarray of shape (M,)
        Trace of the Gauss-Newton Hessian of the centre, sum_x h_x ||df/dmu_i||^2: the natural length of a step.
    """

    value: Any
    amplitude_gradient: npt.NDArray[np.float64]
    amplitude_hessian: npt.NDArray[np.float64]
    center_gradient: npt.NDArray[np.float64]
    center_curvature: npt.NDArray[np.float64]


@cache
def executor(n_threads: int) -> ThreadPoolExecutor:
    """Threads that the twins share their chunks of rows out to."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="sparker")


def read_only(array: Any) -> Any:
    """Read-only view. Workers get large arrays read-only, for which numba compiles anew: so let all be read-only."""
    view = array.view()
    view.flags.writeable = False
    return view


def _namespace(x: Array) -> Any:
    """The array-API namespace of an array; CuPy's do not name theirs, which is CuPy itself."""
    if hasattr(x, "__array_namespace__"):
        return x.__array_namespace__()
    return sys.modules[type(x).__module__.partition(".")[0]]


def to_host(array: Any) -> Any:
    """NumPy array of an array on a device; anything else as it is."""
    return array.get() if hasattr(array, "__cuda_array_interface__") and hasattr(array, "get") else array


def squared_distances(X: Array, centers: Array) -> Array:
    """Squared Euclidean distances, shape (n, M); a sum of squared differences, so that no digits cancel."""
    xp = _namespace(X)
    return xp.stack([xp.sum((X - centers[i, :]) ** 2, axis=1) for i in range(centers.shape[0])], axis=1)


def _log_kernels(X: Array, centers: Array, width: float) -> Array:
    return squared_distances(X, centers) * (-0.5 / (width * width))


def _softmax(log_kernels: Array) -> Array:
    xp = _namespace(log_kernels)
    # The plain ratio is 0 / 0 for rows far from every kernel: subtract the largest log first.
    kernels = xp.exp(log_kernels - xp.max(log_kernels, axis=1, keepdims=True))
    return kernels / xp.sum(kernels, axis=1, keepdims=True)


def responsibilities(X: Array, centers: Array, width: float) -> Array:
    """Gate p_i(x), shape (n, M); rows sum to 1, however far from every kernel."""
    return _softmax(_log_kernels(X, centers, width))


def activations(X: Array, centers: Array, width: float, competition: bool) -> Array:
    """phi_i(x), shape (n, M)."""
    log_kernels = _log_kernels(X, centers, width)
    xp = _namespace(X)
    kernels = xp.exp(log_kernels)
    return _softmax(log_kernels) * kernels if competition else kernels


def log_density_ratio(X: Array, amplitudes: Array, centers: Array, width: float, competition: bool) -> Array:
    """f(x), shape (n,)."""
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
    """L, its gradient, the Hessian of the amplitudes and the curvature of the centres in one pass.

    Parameters
    ----------
    X : array of shape (n, d)
        Rows of the pool.
    reference_weight, data_weight : arrays of shape (n,)
        w_x and c_x, in the dtype of X.
    amplitudes : array of shape (M,)
        In the dtype of X, as are the centres.
    centers : array of shape (M, d)
        Kernel centres.
    width : float
        sigma > 0, in the units of X.
    competition : bool
        Whether the softmax gate is on.
    loss : {"np", "bce", "mse"}, default="np"
        Which loss is L.

    Returns
    -------
    Evaluation
    """
    xp = _namespace(X)
    log_kernels = _log_kernels(X, centers, width)
    gate = _softmax(log_kernels) if competition else None
    phi = xp.exp(log_kernels) if gate is None else gate * xp.exp(log_kernels)
    f = phi @ amplitudes
    value, residual, curving = _terms(f, reference_weight, data_weight, loss)
    # df/dmu_i = slope_i (x - mu_i) / sigma^2
    slope = amplitudes * phi if gate is None else 2 * amplitudes * phi - gate * f[:, None]
    amplitude_gradient = _sum(residual[:, None] * phi)
    hessian = xp.stack([_sum((curving * phi[:, i])[:, None] * phi) for i in range(phi.shape[1])], axis=0)
    gradient, curvature = [], []
    for i in range(centers.shape[0]):
        offset = X - centers[i, :]
        gradient.append(_sum((residual * slope[:, i])[:, None] * offset) / width**2)
        curvature.append(_sum(curving * slope[:, i] ** 2 * xp.sum(offset**2, axis=1)) / width**4)
    return Evaluation(
        float(_sum(value)),
        _numpy(amplitude_gradient),
        _numpy(hessian),
        _numpy(xp.stack(gradient, axis=0)),
        _numpy(xp.stack(curvature, axis=0)),
    )


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
) -> Evaluation:
    """`value_and_gradient` of many problems; the twins do it in one pass over the rows.

    Parameters
    ----------
    X : array of shape (n, d)
        Rows of a block that begins at row `offset` of its pool.
    reference_weights, data_weights : array of shape (n_toys, n_pool)
        w_x and c_x of every toy, on the whole pool.
    offset : int
        Place of the block in the pool.
    toys : ndarray of int64 of shape (P,)
        Toy of each problem; problems of a toy come one after the other.
    amplitudes, centers, widths : array of shape (P, M), (P, M, d), (P,)
        Kernels of each problem.
    competition, loss
        See `value_and_gradient`.

    Returns
    -------
    Evaluation
        Every part has P as its first axis.
    """
    part = slice(offset, offset + X.shape[0])
    found = [
        value_and_gradient(
            X,
            reference_weights[toy, part],
            data_weights[toy, part],
            amplitudes[p, :],
            centers[p, :, :],
            float(widths[p]),
            competition,
            loss,
        )
        for p, toy in enumerate(toys.tolist())
    ]
    return Evaluation(*(np.array(parts) for parts in zip(*found, strict=True)))


def _terms(f: Array, weight: Array, count: Array, loss: str) -> tuple[Array, Array, Array]:
    """Each row's part of the loss, and its first and second derivative in f (Gauss-Newton for "mse")."""
    xp = _namespace(f)
    if loss == "np":
        expected = weight * xp.exp(f)
        return weight * xp.expm1(f) - count * f, expected - count, expected
    s = 1 / (1 + xp.exp(-f))
    if loss == "bce":
        # log((1 + e^f) / 2) without overflow: e^f is at most e^88 in float32
        value = (weight + count) * xp.log1p(xp.expm1(f) / 2) - count * f
        return value, weight * s - count * (1 - s), (weight + count) * s * (1 - s)
    slope = s * (1 - s)
    value = weight * (s**2 - 0.25) + count * ((1 - s) ** 2 - 0.25)
    return value, 2 * slope * (weight * s - count * (1 - s)), 2 * (weight + count) * slope**2


def _sum(terms: Array) -> Array:
    xp = _namespace(terms)
    return xp.sum(terms, axis=0, dtype=xp.float64)


def _numpy(array: Array) -> npt.NDArray[np.float64]:
    return np.asarray(to_host(array), dtype=np.float64)
