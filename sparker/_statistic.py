"""The SparKer statistic: from a pool and its two weights to t, and the largest single-kernel score, at each width."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparker import _schedule, _starts
from sparker._backends import Backend, one_blas_thread
from sparker._objective import Objective
from sparker._pool import Pool, Weights
from sparker._solvers import AdamSolver, NewtonSolver, Path, Solver

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is learned before any label is seen, and frozen for all toys.

    Attributes
    ----------
    schedule : ndarray of shape (n_widths, n_steps)
        Widths of all steps; the last column is recorded.
    candidates : ndarray of shape (n_candidates, d)
        Candidate centres of the score start; no rows with ``start="random"``.
    places : ndarray of shape (n_widths,)
        Number of places that a kernel of each recorded width can tell apart.
    """

    schedule: Array
    candidates: Array
    places: Array


@dataclass(frozen=True)
class SparKerStatistic:
    """t = max(0, -2 L) of a few moving kernels, at each of several widths (arXiv:2511.03095, eqs. 2 and 3).

    BLAS runs on one thread throughout: with several the last bits of its sums would change.

    The attributes are the parameters of `sparker.SparKerTest` of the same names.
    """

    n_kernels: int
    n_widths: int
    width_init: float | None
    width_final: float | None
    annealing: str
    competition: bool
    solver: str
    start: str
    n_candidates: int
    max_iter: int
    tol: float
    alpha: float
    max_amplitude: float
    learning_rate: float
    backend: str

    def learn(self, pool: Pool, rng: np.random.Generator) -> Plan:
        """Width range and candidates from the rows of a pool, labels unseen."""
        first, last = _schedule.width_range(pool, rng, self.width_init, self.width_final)
        score = self.start == "score"
        # Kernels that start afresh at every recorded width stay at it; others anneal from one to the next.
        widths = _schedule.schedule(first, last, self.n_widths, self.max_iter, "none" if score else self.annealing)
        places = _schedule.distinct_places(pool, widths[:, -1])
        candidates = np.empty((0, pool.n_features), pool.dtype)
        if score:
            with one_blas_thread():
                candidates = _starts.dictionary(pool, self.n_candidates, rng)
        return Plan(widths, candidates, places)

    def fit(
        self,
        pool: Pool,
        weights: Weights,
        plan: Plan,
        rng: np.random.Generator,
        scores: Array | None,
        n_jobs: int | None = 1,
    ) -> Path:
        """Fit the kernels along the widths of the plan; `scores` (n_widths, n_candidates) choose their start."""
        objective = Objective(pool, weights, self.competition, self.alpha, Backend(self.backend, n_jobs))

        def start(j: int) -> Array | None:
            if scores is None:
                return _starts.random_rows(pool, weights, self.n_kernels, rng) if j == 0 else None
            chosen = _starts.select(scores[j], plan.candidates, plan.schedule[j, -1], self.n_kernels)
            return plan.candidates[chosen].astype(np.float64)

        with one_blas_thread():
            return self._solver().solve(objective, plan.schedule, start)

    def share(self, pool: Pool, toys: Sequence[Weights], plan: Plan) -> Sequence[Array | None]:
        """Scores (n_widths, n_candidates) of all candidates for each toy; None without a score start."""
        if self.start != "score":
            return [None] * len(toys)
        with one_blas_thread():
            return list(_starts.scores(pool, toys, plan.candidates, plan.schedule[:, -1]))

    def evaluate(
        self, pool: Pool, weights: Weights, plan: Plan, rng: np.random.Generator, shared: Array | None
    ) -> tuple[Array, bool]:
        """Entries of the statistic, see `entries`, and whether all amplitudes converged."""
        path = self.fit(pool, weights, plan, rng, shared)
        return self.entries(path, shared), bool(path.converged.all())

    def entries(self, path: Path, scores: Array | None) -> Array:
        """T at each recorded width, then (score start) the largest squared score of a single kernel there."""
        t = np.maximum(-2.0 * path.losses, 0.0)
        return t if scores is None else np.concatenate([t, np.square(scores).max(axis=1)])

    def _solver(self) -> Solver:
        if self.solver == "adam":
            return AdamSolver(self.max_amplitude, self.learning_rate)
        return NewtonSolver(self.max_amplitude, self.tol)
