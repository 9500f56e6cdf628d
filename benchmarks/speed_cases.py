"""Cases of the speed studies, and passes over their rows."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparker._backends import Backend, Kernels, StackedWeights
from sparker._pool import Pool


@dataclass(frozen=True)
class Case:
    """Rows, features and kernels of a pass, and the width of the kernels."""

    n_rows: int
    n_features: int
    n_kernels: int

    @property
    def name(self) -> str:
        """Rows x features x kernels."""
        return f"{self.n_rows} x {self.n_features} x {self.n_kernels}"

    @property
    def width(self) -> float:
        """Half of the median distance of rows: kernels reach most of them, and nothing is left out."""
        return 0.5 * (2 * self.n_features) ** 0.5

    def samples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows in float32, and their two weights: a hundredth are data."""
        rng = np.random.default_rng(0)
        X = rng.normal(size=(self.n_rows, self.n_features)).astype(np.float32)
        count = (rng.random(self.n_rows) < 0.01).astype(np.float32)
        return X, (1 - count) * count.sum() / (1 - count).sum(), count


CASES = (Case(202_000, 1, 5), Case(7000, 16, 16), Case(22_000, 1000, 5))


def make_pass(case: Case, n_toys: int = 1, n_threads: int = 1) -> Callable[[], Any]:
    """Loss, gradient and Hessian of one set of kernels for each of `n_toys` toys, in one pass over the rows."""
    X, weight, count = case.samples()
    pool, _ = Pool([X]).packed
    rng = np.random.default_rng(1)
    centers = X[rng.integers(case.n_rows, size=(n_toys, case.n_kernels))]
    kernels = Kernels(
        np.arange(n_toys), rng.normal(size=(n_toys, case.n_kernels)), centers, np.full(n_toys, case.width)
    )
    weights = StackedWeights(np.tile(weight, (n_toys, 1)), np.tile(count, (n_toys, 1)))
    backend = Backend("auto", n_threads, alone=n_toys == 1)

    def run() -> Any:
        return backend.value_and_gradient(pool, weights, kernels, True, "np")

    run()  # compiles, and computes what is computed once
    return run


def shortest(functions: dict[str, Callable[[], Any]], repeats: int, pause: float = 0.0) -> dict[str, float]:
    """Shortest time of each function in seconds; they take turns, so that all meet the same noise.

    With a pause, which threads of the one before that wait in a loop need to go to sleep, a function runs for a while
    before it is timed: passes follow each other in a fit.
    """
    found = dict.fromkeys(functions, np.inf)
    for _ in range(repeats):
        for name, function in functions.items():
            if pause:
                time.sleep(pause)
                end = time.perf_counter() + pause
                while time.perf_counter() < end:
                    function()
            start = time.perf_counter()
            function()
            found[name] = min(found[name], time.perf_counter() - start)
    return found
