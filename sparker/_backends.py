"""Picks the implementation of the kernels."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from joblib import effective_n_jobs
from threadpoolctl import ThreadpoolController

from sparker import _kernels, _kernels_cupy, _kernels_matmul, _kernels_numba
from sparker._kernels import Evaluation
from sparker._pool import PACKED_FEATURES, Pool, Weights

Array = npt.NDArray[Any]

BACKENDS = ("auto", "numba", "matmul", "numpy", "cupy")

# Above this dimension a matrix product reads the rows faster than the fused loops.
MATMUL_FEATURES = 48
# A lone fit runs on threads only where a pass is long against waking them: rows x kernels x (features + what an
# exponential costs in features).
PARALLEL_WORK, EXPONENTIAL = 2_500_000, 10


class Kernels(NamedTuple):
    """The kernels of P problems, each of which belongs to a toy.

    Attributes
    ----------
    toys : ndarray of int64 of shape (P,)
        Problems of a toy come one after the other.
    amplitudes, centers, widths : ndarray of shape (P, M), (P, M, d), (P,)
    """

    toys: Array
    amplitudes: Array
    centers: Array
    widths: Array

    def take(self, problems: Array) -> "Kernels":
        """Some of the problems."""
        return Kernels(*(part[problems] for part in self))


class StackedWeights(NamedTuple):
    """The two weights of several toys on one pool, each of shape (n_toys, n)."""

    reference: Array
    data: Array


def stack(toys: Sequence[Weights], order: Array) -> StackedWeights:
    """Weights of toys side by side, their rows in a given order."""
    shape, dtype = (len(toys), len(order)), toys[0].data.dtype
    stacked = StackedWeights(np.empty(shape, dtype), np.empty(shape, dtype))
    for k, toy in enumerate(toys):
        np.take(toy.reference, order, out=stacked.reference[k], mode="clip")
        np.take(toy.data, order, out=stacked.data[k], mode="clip")
    return stacked


class Backend:
    """The kernel functions on the blocks of a pool.

    Parameters
    ----------
    name : {"auto", "numba", "matmul", "numpy", "cupy"}
        "auto": "matmul" above 48 features, else "numba". "numpy" is the slow definition itself, "cupy" the GPU.
    n_jobs : int or None
        Most threads inside a pass.
    alone : bool
        Whether its problems are all there are; those of a batch of toys must not depend on each other to the bit.
    """

    def __init__(self, name: str = "auto", n_jobs: int | None = 1, alone: bool = True) -> None:
        self.name = name
        self.n_jobs = n_jobs
        self.alone = alone

    def _module(self, n_features: int) -> ModuleType:
        name = self.name
        if name in ("auto", "cupy"):  # what a GPU does is called before this
            name = "matmul" if n_features > MATMUL_FEATURES else "numba"
        return {"numba": _kernels_numba, "matmul": _kernels_matmul, "numpy": _kernels}[name]

    def value_and_gradient(
        self, pool: Pool, weights: StackedWeights, kernels: Kernels, competition: bool, loss: str
    ) -> Evaluation:
        """`sparker._kernels.value_and_gradient` of every problem, summed over the blocks of the pool."""
        if self.name == "cupy":
            return _kernels_cupy.value_and_gradient(pool, weights, kernels, competition, loss)
        module = self._module(pool.n_features)
        at = kernels.amplitudes.astype(pool.dtype), kernels.centers.astype(pool.dtype), kernels.widths
        parts = []
        for k, (X, part) in enumerate(pool.parts()):
            options: dict[str, Any] = {}
            if module is not _kernels:
                options["n_threads"] = n_threads(self.n_jobs, len(X) * at[0].size * (X.shape[1] + EXPONENTIAL))
            if module is _kernels_matmul:
                options |= {"origin": pool.origin, "norms": pool.norms[part], "alone": self.alone}
            if module is _kernels_numba and pool.n_features <= PACKED_FEATURES:
                options["boxes"] = pool.bounds(_kernels_numba.BLOCK)[k]
            arguments = weights.reference, weights.data, part.start, kernels.toys, *at, competition, loss
            parts.append(module.batch_value_and_gradient(X, *arguments, **options))
        return parts[0] if len(parts) == 1 else Evaluation(*(sum(terms) for terms in zip(*parts, strict=True)))

    def activations(self, X: Any, centers: Any, width: float, competition: bool) -> Any:
        """Phi of every row, shape (n, M); see `sparker._kernels.activations`."""
        return self._module(X.shape[1]).activations(X, centers.astype(X.dtype), width, competition)

    def warm_up(self, dtype: np.dtype[Any], n_features: int) -> None:
        """Compile what toys will call, once, in this process: workers then only read the compiler's cache."""
        module = self._module(n_features)
        if self.name != "cupy" and module is not _kernels:
            x = np.zeros((1, 1), dtype=dtype)
            module.value_and_gradient(x, x[0], x[0], x[0], x, 1.0, True)


def n_threads(n_jobs: int | None, work: int) -> int:
    """Threads of a lone fit for as much work, see `PARALLEL_WORK`."""
    return min(effective_n_jobs(n_jobs), numba.get_num_threads()) if work > PARALLEL_WORK else 1


def choose(name: str) -> str:
    """Backend that stands for "auto": the GPU where there is one, else the CPU, which chooses by dimension."""
    if name == "cupy":
        _kernels_cupy.cupy()  # or says what is missing
    return "cupy" if name == "auto" and _kernels_cupy.is_available() else name


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looking the libraries up takes a millisecond: once is enough


def one_blas_thread() -> AbstractContextManager[Any]:
    """Context in which matrix products run on one thread: with several the last bits of their sums would change."""
    limit: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limit
