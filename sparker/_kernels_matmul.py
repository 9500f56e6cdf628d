"""The kernels of `sparker._kernels` as matrix products on blocks of rows: the twin for large dimension.

``||x - mu||^2 = ||x||^2 - 2 x mu + ||mu||^2`` loses digits when rows and centres are far from the origin, so both are
first moved to the median. It agrees with the other twins to 1e-4, not to the last digit. Callers with
many passes over the same rows
move them once (`Pool.moved`) and pass their squared norms.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from sparker._kernels import Evaluation, _terms

__all__ = [
    "Evaluation",
    "activations",
    "log_density_ratio",
    "responsibilities",
    "squared_distances",
    "value_and_gradient",
]

Array = npt.NDArray[Any]

BLOCK_BYTES = 1 << 22  # a block of rows stays in the third-level cache between its two products


def _to_median(X: Array, centers: Array) -> tuple[Array, Array, Array]:
    """Rows moved to their median, their squared norms, and the centres moved alike."""
    origin = np.median(X[:1024], axis=0).astype(X.dtype)
    moved = X - origin
    return moved, np.einsum("nd,nd->n", moved, moved), centers - origin


def _distances(rows: Array, squared_norms: Array, centers: Array) -> Array:
    distances = rows @ centers.T
    distances *= -2
    distances += squared_norms[:, None]
    distances += np.einsum("md,md->m", centers, centers)
    return np.maximum(distances, 0, out=distances)


def _gate_and_phi(distances: Array, width: float, competition: bool) -> tuple[Array | None, Array]:
    log_kernels = distances * distances.dtype.type(-0.5 / width**2)
    kernels = np.exp(log_kernels)
    if not competition:
        return None, kernels
    gate = np.exp(log_kernels - log_kernels.max(axis=1, keepdims=True))
    gate /= gate.sum(axis=1, keepdims=True)
    return gate, gate * kernels


def squared_distances(X: Array, centers: Array) -> Array:
    """See `sparker._kernels.squared_distances`."""
    return _distances(*_to_median(X, centers))


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
    squared_norms: Array | None = None,
) -> Evaluation:
    """See `sparker._kernels.value_and_gradient`; with `squared_norms` of X, X and centres count as moved already."""
    if squared_norms is None:
        X, squared_norms, centers = _to_median(X, centers)
    value = 0.0
    amplitude_gradient = np.zeros(len(centers))
    hessian = np.zeros((len(centers), len(centers)))
    center_gradient = np.zeros(centers.shape)
    curvature = np.zeros(len(centers))
    size = max(64, BLOCK_BYTES // (X.shape[1] * X.itemsize))
    for start in range(0, len(X), size):
        block = slice(start, min(start + size, len(X)))
        weight, count = reference_weight[block], data_weight[block]
        distances = _distances(X[block], squared_norms[block], centers)
        gate, phi = _gate_and_phi(distances, width, competition)
        f = phi @ amplitudes
        slope = amplitudes * phi if gate is None else 2 * amplitudes * phi - gate * f[:, None]
        terms, residual, curving = _terms(f, weight, count, loss)
        value += float(np.sum(terms, dtype=np.float64))
        amplitude_gradient += residual @ phi
        hessian += (curving[:, None] * phi).T @ phi
        curvature += curving @ (slope**2 * distances)
        slope *= residual[:, None]
        center_gradient += slope.T @ X[block] - slope.sum(axis=0)[:, None] * centers
    return Evaluation(value, amplitude_gradient, hessian, center_gradient / width**2, curvature / width**4)
