"""Picks the implementation of the kernels."""

from contextlib import AbstractContextManager
from functools import cache
from types import ModuleType
from typing import Any

import numba
import numpy as np
from joblib import effective_n_jobs
from threadpoolctl import ThreadpoolController

from sparker import _kernels, _kernels_matmul, _kernels_numba
from sparker._kernels import Evaluation
from sparker._pool import Pool, Weights

BACKENDS = ("auto", "numba", "matmul", "numpy")

# Above this dimension a matrix product reads the rows faster than the fused loops.
MATMUL_FEATURES = 48
# A lone fit runs on threads only where a pass is long against handing out its parts.
PARALLEL_WORK = 2_000_000


class Backend:
    """The kernel functions on the blocks of a pool.

    Parameters
    ----------
    name : {"auto", "numba", "matmul", "numpy"}
        "auto": "matmul" above 48 features, else "numba". "numpy" is the slow definition itself.
    n_jobs : int or None
        Most threads inside a pass.
    """

    def __init__(self, name: str = "auto", n_jobs: int | None = 1) -> None:
        self.name = name
        self.n_jobs = n_jobs

    def _module(self, n_features: int) -> ModuleType:
        name = self.name
        if name == "auto":
            name = "matmul" if n_features > MATMUL_FEATURES else "numba"
        return {"numba": _kernels_numba, "matmul": _kernels_matmul, "numpy": _kernels}[name]

    def value_and_gradient(
        self, pool: Pool, weights: Weights, amplitudes: Any, centers: Any, width: float, competition: bool, loss: str
    ) -> Evaluation:
        """Sum of `sparker._kernels.value_and_gradient` over the blocks of the pool."""
        module = self._module(pool.n_features)
        amplitudes, centers = amplitudes.astype(pool.dtype), centers.astype(pool.dtype)
        parts = []
        for k, (X, part) in enumerate(pool.parts()):
            options: dict[str, Any] = {}
            if module is _kernels_matmul:
                X, options["squared_norms"] = pool.moved[k]
            elif module is _kernels_numba:
                options["n_threads"] = self._n_threads(X.size * len(amplitudes))
            origin = pool.origin if module is _kernels_matmul else pool.dtype.type(0)
            parts.append(
                module.value_and_gradient(
                    X,
                    weights.reference[part],
                    weights.data[part],
                    amplitudes,
                    centers - origin,
                    width,
                    competition,
                    loss,
                    **options,
                )
            )
        return parts[0] if len(parts) == 1 else Evaluation(*(sum(terms) for terms in zip(*parts, strict=True)))

    def activations(self, X: Any, centers: Any, width: float, competition: bool) -> Any:
        """Phi of every row, shape (n, M); see `sparker._kernels.activations`."""
        return self._module(X.shape[1]).activations(X, centers.astype(X.dtype), width, competition)

    def _n_threads(self, work: int) -> int:
        return min(effective_n_jobs(self.n_jobs), numba.get_num_threads()) if work > PARALLEL_WORK else 1

    def warm_up(self, dtype: np.dtype[Any]) -> None:
        """Compile what toys will call, once, in this process: workers then only read the compiler's cache."""
        if self.name in ("auto", "numba"):
            x = np.zeros((1, 1), dtype=dtype)
            _kernels_numba.value_and_gradient(x, x[0], x[0], x[0], x, 1.0, True)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looking the libraries up takes a millisecond: once is enough


def one_blas_thread() -> AbstractContextManager[Any]:
    """Context in which matrix products run on one thread: with several the last bits of their sums would change."""
    limit: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limit
