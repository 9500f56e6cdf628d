"""The SparKer statistic: from a pool and its two weights to t at each width, and what is tested beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparker import _companions, _joint, _schedule, _starts
from sparker._backends import Backend, one_blas_thread, stack
from sparker._device import CudaNewtonSolver, device_share, device_stack
from sparker._objective import Objective
from sparker._pool import Pool, Weights
from sparker._solvers import AdamSolver, AlternatingSolver, NewtonSolver, Paths, Solver

Array = npt.NDArray[Any]

# Of all entries of a kind in the aggregate, chosen on data sets of benchmarks/power.py and on searches, see doc/dev.
WEIGHTS = {"t": 2.5, "score": 0.5, "rare": 1.5, "dense": 1.5, "joint": 2.0, "mean": 0.3, "spread": 1.2}

OF_WIDTHS = ("t", "score", "rare", "dense")  # kinds with an entry at each width

ROUNDING = 1e-12  # of L, against the number of rows


@dataclass(frozen=True, slots=True)
class Plan:
    """What is learned before any label is seen, and frozen for all toys.

    Attributes
    ----------
    schedule : ndarray of shape (n_widths, n_steps)
        Widths of all steps; the last column is recorded.
    candidates : ndarray of shape (n_candidates, d)
        Candidate centres of the score start; no rows with ``start="random"``.
    kept : ndarray of bool of shape (n_widths, n_candidates)
        Candidates that are looked at with each recorded width.
    places : ndarray of shape (n_widths,)
        Number of places that a kernel of each recorded width can tell apart.
    moments : Moments or None
        Mean and covariance, for the companions; None without them.
    joint : Joint or None
        For the joint score; None with ``start="random"``.
    """

    schedule: Array
    candidates: Array
    kept: Array
    places: Array
    moments: _companions.Moments | None
    joint: _joint.Joint | None


@dataclass(frozen=True, slots=True)
class Shared:
    """What one toy gets from the passes over the pool that it shares with others.

    Attributes
    ----------
    scores : Scores or None
        Score of every candidate; None without a score start.
    companions : ndarray of shape (2,) or (0,)
        Entries of the companions; none without them.
    """

    scores: _starts.Scores | None
    companions: Array


@dataclass(frozen=True, slots=True)
class Path:
    """Fitted kernels of one toy at every recorded width.

    Attributes
    ----------
    widths, losses : ndarray of shape (m,)
        Recorded widths and unpenalised Neyman-Pearson losses L there.
    amplitudes : ndarray of shape (m, M)
    centers : ndarray of shape (m, M, d)
    loss_curve : ndarray of shape (n_iter,)
        Minimised value after each step, one width after the other.
    converged : ndarray of bool of shape (m,)
        Whether the amplitudes are optimal at the recorded width.
    """

    widths: Array
    losses: Array
    amplitudes: Array
    centers: Array
    loss_curve: Array
    converged: Array

    def failure(self) -> ValueError | None:
        """What is wrong where a loss is not finite: it must not become a silent nan."""
        bad = np.flatnonzero(~np.isfinite(self.losses))
        if not len(bad):
            return None
        return ValueError(
            f"The loss is {self.losses[bad[0]]} at width {self.widths[bad[0]]:.6g}: the features or weights are too "
            "large for their dtype. Rescale the features, or pass float64."
        )


def _path_of_toy(paths: Paths, problems: Array) -> Path:
    """Widths of a toy one after the other, be they problems of their own or rows of one."""

    def join(part: Array) -> Array:
        return part[problems].reshape(-1, *part.shape[2:])

    curve = join(paths.loss_curve).ravel()
    return Path(
        join(paths.widths),
        join(paths.losses),
        join(paths.amplitudes),
        join(paths.centers),
        curve[~np.isnan(curve)],
        join(paths.converged),
    )


@dataclass(frozen=True)
class SparKerStatistic:
    """t = max(0, -2 L) of a few moving kernels, at each of several widths (arXiv:2511.03095, eqs. 2 and 3).

    Beside it the largest score of a single kernel at each width, the joint score, and the global companions.

    BLAS runs on one thread throughout: with several the last bits of its sums would change.

    The attributes are the parameters of `sparker.SparKerTest` of the same names.
    """

    n_kernels: int
    n_widths: int
    width_init: _schedule.Width | None
    width_final: _schedule.Width | None
    annealing: str
    competition: bool
    loss: str
    solver: str
    start: str
    n_candidates: int | None
    companions: bool
    max_iter: int
    tol: float
    alpha: float
    entropy: float
    max_amplitude: float
    learning_rate: float
    backend: str

    @property
    def on_device(self) -> bool:
        """See `sparker._calibration.Statistic`."""
        return self.backend == "cupy"

    @property
    def entry_weights(self) -> Array:
        """See `sparker._calibration.Statistic`."""
        kinds = self._kinds()
        found = np.array([WEIGHTS[kind] / kinds.count(kind) for kind in kinds])
        return found / found.sum()

    def _kinds(self) -> list[str]:
        """Kind of each of the `entries`."""
        score = self.start == "score"
        of_widths = [kind for kind in (OF_WIDTHS if score else OF_WIDTHS[:1]) for _ in range(self.n_widths)]
        return of_widths + ["joint"] * score + list(_companions.KINDS) * self.companions

    @property
    def _joint_width(self) -> int:
        """Which of the recorded widths has the joint score: nearest to three sevenths of the way to the narrowest."""
        return round((self.n_widths - 1) * 3 / 7)

    def learn(self, pool: Pool, rng: np.random.Generator) -> Plan:
        """Width range, candidates and moments from the rows of a pool, labels unseen."""
        first, last = _schedule.width_range(pool, rng, self.width_init, self.width_final)
        score = self.start == "score"
        # Kernels that start afresh at every recorded width stay at it; others anneal from one to the next.
        widths = _schedule.schedule(first, last, self.n_widths, self.max_iter, "none" if score else self.annealing)
        places = _schedule.distinct_places(pool, widths[:, -1])
        candidates, kept = np.empty((0, pool.n_features), pool.dtype), np.empty((len(widths), 0), bool)
        moments = joint = None
        with one_blas_thread():
            if score:
                wanted = self.n_candidates or _starts.enough(round(pool.n_drawn), pool.n_features)
                candidates = _starts.dictionary(pool, min(wanted, pool.n_distinct), rng)
                kept = _starts.apart(candidates, widths[:, -1])
                m = self._joint_width
                joint = _joint.learn(pool, candidates, kept[m], widths[m, -1], rng)
            if self.companions:
                moments = _companions.learn(pool)
        return Plan(widths, candidates, kept, places, moments, joint)

    def fit(
        self,
        pool: Pool,
        toys: Sequence[Weights],
        plan: Plan,
        rngs: Sequence[np.random.Generator],
        shared: Sequence[Shared],
        n_jobs: int | None = 1,
        alone: bool = True,
    ) -> list[Path]:
        """Fit the kernels of each toy along the widths of the plan; the scores choose their start."""
        objective = self._objective(pool, toys, n_jobs, alone)
        n_toys, n_widths = len(toys), self.n_widths
        with one_blas_thread():
            if self.start == "score":  # every width of every toy is a problem of its own
                scores = np.stack([of_toy.scores.values for of_toy in shared if of_toy.scores is not None])
                chosen = _starts.select(scores, plan.candidates, plan.schedule[:, -1], self.n_kernels, plan.kept)
                centers = plan.candidates[chosen.reshape(-1, self.n_kernels)].astype(np.float64)
                owners, schedule = np.repeat(np.arange(n_toys), n_widths), np.tile(plan.schedule, (n_toys, 1))[:, None]
            else:
                random = zip(toys, rngs, strict=True)
                centers = np.stack([_starts.random_rows(pool, toy, self.n_kernels, rng) for toy, rng in random])
                owners, schedule = np.arange(n_toys), np.tile(plan.schedule, (n_toys, 1, 1))
            paths = self._solver().solve(objective, owners, centers, schedule)
        return [_path_of_toy(paths, owners == k) for k in range(n_toys)]

    def _objective(self, pool: Pool, toys: Sequence[Weights], n_jobs: int | None, alone: bool) -> Objective:
        packed, order = pool.packed
        weights = device_stack(toys, order) if self.on_device else stack(toys, order)
        backend = Backend(self.backend, n_jobs, alone)
        return Objective(packed, weights, self.competition, self.alpha, backend, self.loss, self.entropy)

    def share(self, pool: Pool, toys: Sequence[Weights], plan: Plan, n_jobs: int | None = 1) -> Sequence[Shared]:
        """Scores and companions of each toy; those of a lone pair on up to `n_jobs` threads."""
        scores: Sequence[_starts.Scores | None] = [None] * len(toys)
        companions = np.empty((len(toys), 0))
        widths = plan.schedule[:, -1]
        with one_blas_thread():
            if self.on_device:
                scores, companions = device_share(pool, toys, plan.candidates, widths, plan.kept, plan.moments)
            else:
                if self.start == "score":
                    scores = _starts.scores(pool, toys, plan.candidates, widths, n_jobs, plan.kept)
                if plan.moments is not None:
                    companions = _companions.companions(pool, toys, plan.moments)
        return [Shared(*of_toy) for of_toy in zip(scores, companions, strict=True)]

    def evaluate(
        self,
        pool: Pool,
        toys: Sequence[Weights],
        plan: Plan,
        rngs: Sequence[np.random.Generator],
        shared: Sequence[Shared],
    ) -> list[tuple[Array, bool] | ValueError]:
        """Entries of the statistic of each toy, see `entries`, and whether all amplitudes converged."""
        paths = self.fit(pool, toys, plan, rngs, shared, alone=False)
        found: list[tuple[Array, bool] | ValueError] = []
        for path, of_toy, weights in zip(paths, shared, toys, strict=True):
            failure = path.failure()
            found.append(failure or (self.entries(path, plan, of_toy, weights), bool(path.converged.all())))
        return found

    def entries(self, path: Path, plan: Plan, shared: Shared, weights: Weights) -> Array:
        """T at each width, the largest squared scores of single kernels there, the joint score, and the companions."""
        # Where both samples are alike what is left of L is rounding, and must not be ranked.
        found = [np.where(path.losses < -ROUNDING * weights.size, -2.0 * path.losses, 0.0)]
        if shared.scores is not None and plan.joint is not None:
            joint = plan.joint.entry(shared.scores.values[self._joint_width])
            found += [shared.scores.largest().ravel(), np.array([joint])]
        return np.concatenate([*found, shared.companions])

    def scales(self, path: Path) -> dict[str, Array]:
        """Kind, width and weight of each of the `entries`; a companion is as wide as the sample, its width is inf."""
        kinds = np.array(self._kinds())
        widths = np.full(len(kinds), np.inf)
        for kind in OF_WIDTHS:
            widths[kinds == kind] = path.widths[: np.sum(kinds == kind)]
        widths[kinds == "joint"] = path.widths[self._joint_width]
        return {"kind": kinds, "width": widths, "weight": self.entry_weights}

    def _solver(self) -> Solver:
        if self.solver == "adam":
            return AdamSolver(self.max_amplitude, self.learning_rate)
        if self.solver == "alternating":
            return AlternatingSolver(self.max_amplitude, self.learning_rate)
        return (CudaNewtonSolver if self.on_device else NewtonSolver)(self.max_amplitude, self.tol)
