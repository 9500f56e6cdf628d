"""Solvers: from starting kernels along a path of widths to fitted kernels at each recorded width, for many problems.

The problems, those of all toys of a batch and of all widths that start afresh, advance in lockstep: each step is a few
array operations and one pass over the pool for all of them. What a problem does depends on no other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sparker._backends import Kernels
from sparker._objective import Objective, Point

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

LONGEST_STEP = 2.0  # of an amplitude: a factor of e^2 in e^f
PATIENCE, MOST_PIVOTS = 3, 200  # see `minimize_in_box`
FRACTIONS = (1.0, 0.3, 0.1, 0.03)  # of a step, until one does not make the objective worse


@dataclass(frozen=True, slots=True)
class Paths:
    """Fitted kernels of P problems at every recorded width.

    Attributes
    ----------
    widths, losses : ndarray of shape (P, m)
        Recorded widths and unpenalised Neyman-Pearson losses L there; a loss that is not finite is a fit that failed.
    amplitudes : ndarray of shape (P, m, M)
    centers : ndarray of shape (P, m, M, d)
    loss_curve : ndarray of shape (P, m * n_steps)
        Minimised value after each step; nan for steps that were not needed.
    converged : ndarray of bool of shape (P, m)
        Whether the amplitudes are optimal at the recorded width.
    """

    widths: Array
    losses: Array
    amplitudes: Array
    centers: Array
    loss_curve: Array
    converged: Mask


class Solver(Protocol):
    """What `SparKerTest` needs of a solver."""

    def solve(self, objective: Objective, toys: Array, centers: Array, schedule: Array) -> Paths:
        """Follow `schedule` (P, m, n_steps) from `centers` (P, M, d), recording at the end of each row."""


class _State(NamedTuple):
    """Kernels of all problems and the objective there."""

    kernels: Kernels
    at: Point

    def replaced(self, problems: Array, other: "_State") -> "_State":
        """Take the state of some problems from `other`, which has these alone."""
        mine, new = (*self.kernels, *self.at), (*other.kernels, *other.at)
        parts = [part.copy() for part in mine]
        for part, of_other in zip(parts, new, strict=True):
            part[problems] = of_other
        return _State(Kernels(*parts[:4]), Point(*parts[4:]))

    def take(self, problems: Array) -> "_State":
        """Some of the problems."""
        return _State(self.kernels.take(problems), Point(*(part[problems] for part in self.at)))

    @property
    def finite(self) -> Mask:
        """Whether the fit can go on."""
        hessian = np.isfinite(self.at.amplitude_hessian).all(axis=(1, 2))
        return np.asarray(np.isfinite(self.at.value) & hessian & np.isfinite(self.at.amplitude_gradient).all(axis=1))


def _evaluate(objective: Objective, kernels: Kernels) -> _State:
    return _State(kernels, objective(kernels))


def _follow(
    objective: Objective,
    toys: Array,
    centers: Array,
    schedule: Array,
    step: Callable[[_State, Array], _State],
    finish: Callable[[_State, Array], tuple[_State, Mask]],
    tol: float,
) -> Paths:
    """Take `step` at every width of `schedule` and `finish` at the end of each row, where the kernels are recorded.

    Both are given the state of all problems and the numbers of those that go on. A row of equal widths ends early for
    a problem once a step gains less than `tol` (``tol = -inf``: never).
    """
    n_problems, n_kernels, _ = centers.shape
    start = Kernels(toys, np.zeros((n_problems, n_kernels)), centers, schedule[:, 0, 0])
    state = _evaluate(objective, start)
    curve = np.full(schedule.shape, np.nan)
    recorded, converged = [], []
    for j in range(schedule.shape[1]):
        going = np.flatnonzero(state.finite)
        constant = np.array_equal(schedule[:, j, 0], schedule[:, j, -1])
        for k in range(schedule.shape[2]):
            if not len(going):
                break
            state = _widen(objective, state, going, schedule[:, j, k])
            before = state.at.value
            state = step(state, going)
            curve[going, j, k] = state.at.value[going]
            if constant:
                going = going[before[going] - state.at.value[going] >= tol]
        state, done = finish(state, np.flatnonzero(state.finite))
        losses = state.at.loss if objective.loss == "np" else objective.neyman_pearson(state.kernels)
        recorded.append((state.kernels.widths, losses, state.kernels.amplitudes, state.kernels.centers))
        converged.append(done)
    widths, losses, amplitudes, moved = (np.stack(part, axis=1) for part in zip(*recorded, strict=True))
    return Paths(widths, losses, amplitudes, moved, curve.reshape(n_problems, -1), np.stack(converged, axis=1))


def _widen(objective: Objective, state: _State, going: Array, widths: Array) -> _State:
    """The same kernels at other widths."""
    if np.array_equal(state.kernels.widths[going], widths[going]):
        return state
    kernels = state.kernels.take(going)._replace(widths=widths[going])
    return state.replaced(going, _evaluate(objective, kernels))


@dataclass(frozen=True)
class NewtonSolver:
    """Damped Newton steps in the amplitudes together with scaled gradient steps in the centres.

    L is convex in the amplitudes, so that an M x M system all but solves them; with negative reference weights it is
    neither convex nor bounded, and the bound on |a_i| ends the descent. A centre moves along its gradient by the length
    that its Gauss-Newton curvature suggests, at most `reach` widths: the step does not know the dimension.
    A step that makes the objective worse is shortened, and refused if that does not help.

    Attributes
    ----------
    max_amplitude : float
        Bound on |a_i|.
    tol : float
        A step that gains less ends the steps at a width; amplitudes have converged when a Newton step promises less.
    reach : float
        Longest step of a centre, in widths.
    max_polish : int
        Newton steps in the amplitudes alone, at each recorded width, before "not converged".
    """

    max_amplitude: float
    tol: float = 1e-3
    reach: float = 0.4
    max_polish: int = 50

    def solve(self, objective: Objective, toys: Array, centers: Array, schedule: Array) -> Paths:
        """See `Solver`."""

        def step(state: _State, going: Array) -> _State:
            some = state.take(going)
            return self._descend(objective, state, going, self._newton(some), self._shift(some))[0]

        def finish(state: _State, going: Array) -> tuple[_State, Mask]:
            return self._polish(objective, state, going)

        return _follow(objective, toys, centers, schedule, step, finish, self.tol)

    def _newton(self, state: _State) -> Array:
        """Newton step of the amplitudes within their bounds, shape (P, M).

        Eigenvalues are taken as if they were at least a little above 0: kernels that are broad or close to each other
        make the Hessian all but singular. Negative reference weights may curve L down: the absolute eigenvalues keep
        every step a descent (Nocedal and Wright, Numerical Optimization, 3.4). Far from the solution the quadratic
        model overshoots, so that no step is longer than `LONGEST_STEP`.
        """
        curvature, axes = np.linalg.eigh(state.at.amplitude_hessian)
        curvature = np.abs(curvature)
        curvature = np.maximum(curvature, 1e-9 + 1e-9 * curvature.max(axis=1, keepdims=True))
        hessian = (axes * curvature[:, None]) @ axes.transpose(0, 2, 1)
        amplitudes = state.kernels.amplitudes
        lower = np.maximum(-self.max_amplitude - amplitudes, -LONGEST_STEP)
        upper = np.minimum(self.max_amplitude - amplitudes, LONGEST_STEP)
        return minimize_in_box(hessian, state.at.amplitude_gradient, lower, upper)

    def _shift(self, state: _State) -> Array:
        """Step of the centres: gradient over mean curvature of a coordinate, at most `reach` widths long."""
        gradient = state.at.center_gradient
        curvature = np.abs(state.at.center_curvature[:, :, None]) / gradient.shape[2]
        length = np.linalg.norm(gradient, axis=2, keepdims=True)
        # The smaller of the Newton-like step 1 / curvature and the longest step; a kernel that nothing moves stays.
        reach = self.reach * state.kernels.widths[:, None, None]
        return -gradient * reach / np.maximum(np.maximum(length, reach * curvature), 1e-150)

    def _descend(
        self, objective: Objective, state: _State, going: Array, step: Array, shift: Array
    ) -> tuple[_State, Array]:
        """The longest of a few fractions of a step that does not make the objective worse, and who took none."""
        left = np.arange(len(going))  # of the problems that go on, those still without a step
        for fraction in FRACTIONS:
            at = state.kernels.take(going[left])
            amplitudes = at.amplitudes + fraction * step[left]
            amplitudes = np.clip(amplitudes, -self.max_amplitude, self.max_amplitude)  # rounding
            centers = at.centers + fraction * shift[left]
            trial = _evaluate(objective, at._replace(amplitudes=amplitudes, centers=centers))
            better = (trial.at.value <= state.at.value[going[left]]) & trial.finite
            state = state.replaced(going[left[better]], trial.take(np.flatnonzero(better)))
            left = left[~better]
            if not len(left):
                break
        return state, going[left]

    def _polish(self, objective: Objective, state: _State, going: Array) -> tuple[_State, Mask]:
        """Amplitudes at fixed centres to the end: the recorded t is their maximum, never below 0."""
        converged = np.zeros(len(state.at.value), dtype=bool)
        for _ in range(self.max_polish):
            some = state.take(going)
            step = self._newton(some)
            promise = -np.sum(step * some.at.amplitude_gradient, axis=1)
            converged[going[promise < self.tol]] = True
            left = promise >= self.tol
            going, step, promise = going[left], step[left], promise[left]
            if not len(going):
                break
            still = np.zeros((len(going), *state.kernels.centers.shape[1:]))
            state, stuck = self._descend(objective, state, going, step, still)
            # No fraction helps: at the floor of the rounding of a float32 sum, or truly stuck.
            stays = np.isin(going, stuck)
            converged[going[stays & (promise < 100 * self.tol)]] = True
            going = going[~stays]
        return state, converged


def minimize_in_box(hessian: Array, gradient: Array, lower: Array, upper: Array) -> Array:
    """Minimum of g s + s H s / 2 over lower <= s <= upper for each of P problems, H positive definite; shape (P, M).

    Block principal pivoting (Judice and Pires, Comput. Oper. Res. 21 (1994) 587): entries that leave the box are held
    at its edge, held ones that the gradient pulls inside are let go, all at once while that helps and else the last
    of them alone, which ends at the minimum. Nearly singular problems of many entries may be left after `MOST_PIVOTS`,
    at a step inside the box that may not lead down.
    """
    n_problems, n_entries = gradient.shape
    held = np.zeros(gradient.shape, dtype=np.int8)  # -1 at the lower edge, 1 at the upper
    step = np.zeros(gradient.shape)
    fewest, patience = np.full(n_problems, n_entries + 1), np.full(n_problems, PATIENCE)
    left = np.arange(n_problems)
    for _ in range(MOST_PIVOTS):
        at, low, high = held[left], lower[left], upper[left]
        step[left] = _hold(hessian[left], gradient[left], np.where(at < 0, low, high), at != 0)
        slope = gradient[left] + (hessian[left] @ step[left][:, :, None])[:, :, 0]
        slack = 1e-12 * np.abs(gradient[left]).max(axis=1, keepdims=True)
        over = (step[left] > high + 1e-12).astype(np.int8) - (step[left] < low - 1e-12)
        wrong = (over != 0) & (at == 0) | (at * slope > slack)
        count = wrong.sum(axis=1)
        better = count < fewest[left]
        fewest[left] = np.minimum(fewest[left], count)
        patience[left] = np.where(better, PATIENCE, patience[left] - 1)
        last = wrong & (np.cumsum(wrong[:, ::-1], axis=1)[:, ::-1] == 1)
        change = np.where((patience[left] >= 0)[:, None], wrong, last)
        held[left] = np.where(change, np.where(at == 0, over, 0), at)
        left = left[count > 0]
        if not len(left):
            break
    return np.clip(step, lower, upper)


def _hold(hessian: Array, gradient: Array, edge: Array, held: Mask) -> Array:
    """Minimum of the quadratic with some entries held at an edge."""
    fixed = np.where(held, edge, 0.0)
    slope = np.where(held, -fixed, gradient + (hessian @ fixed[:, :, None])[:, :, 0])
    masked = np.where(held[:, :, None] | held[:, None], np.eye(held.shape[1]), hessian)
    return -np.linalg.solve(masked, slope[:, :, None])[:, :, 0]


@dataclass(frozen=True)
class AdamSolver:
    """Adam on amplitudes and centres, each coordinate with its own step, as in arXiv:2511.03095.

    Attributes
    ----------
    max_amplitude : float
        Amplitudes are clipped to this size after each step.
    learning_rate : float
        Size of a step in an amplitude, and in each coordinate of a centre in the units of X.
    """

    max_amplitude: float
    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999

    def solve(self, objective: Objective, toys: Array, centers: Array, schedule: Array) -> Paths:
        """See `Solver`."""
        of_amplitudes, of_centers = self._moments(), self._moments()

        def step(state: _State, going: Array) -> _State:
            at = state.kernels
            amplitudes = self._move(at.amplitudes, of_amplitudes.direction(state.at.amplitude_gradient))
            moved = at.centers - self.learning_rate * of_centers.direction(state.at.center_gradient)
            return _evaluate(objective, at._replace(amplitudes=amplitudes, centers=moved))

        return self._run(objective, toys, centers, schedule, step)

    def _moments(self) -> "_Moments":
        return _Moments(self.beta1, self.beta2)

    def _move(self, amplitudes: Array, direction: Array) -> Array:
        return np.clip(amplitudes - self.learning_rate * direction, -self.max_amplitude, self.max_amplitude)

    @staticmethod
    def _run(
        objective: Objective, toys: Array, centers: Array, schedule: Array, step: Callable[[_State, Array], _State]
    ) -> Paths:
        """A fixed number of steps, which has no test of convergence."""

        def finish(state: _State, going: Array) -> tuple[_State, Mask]:
            return state, np.ones(len(state.at.value), dtype=bool)

        return _follow(objective, toys, centers, schedule, step, finish, -np.inf)


class AlternatingSolver(AdamSolver):
    """Sparse coding and dictionary learning by turns, as in SparKer-NPLM.

    Each step is one Adam update of the amplitudes at fixed centres, then one of the centres at the new amplitudes.
    """

    def solve(self, objective: Objective, toys: Array, centers: Array, schedule: Array) -> Paths:
        """See `Solver`."""
        of_amplitudes, of_centers = self._moments(), self._moments()

        def step(state: _State, going: Array) -> _State:
            amplitudes = self._move(state.kernels.amplitudes, of_amplitudes.direction(state.at.amplitude_gradient))
            coded = _evaluate(objective, state.kernels._replace(amplitudes=amplitudes))
            moved = coded.kernels.centers - self.learning_rate * of_centers.direction(coded.at.center_gradient)
            return _evaluate(objective, coded.kernels._replace(centers=moved))

        return self._run(objective, toys, centers, schedule, step)


class _Moments:
    """Running first and second moments of the gradient (Kingma and Ba, arXiv:1412.6980, algorithm 1)."""

    def __init__(self, beta1: float, beta2: float) -> None:
        self.betas = (beta1, beta2)
        self.first: Array | float = 0.0
        self.second: Array | float = 0.0
        self.n_steps = 0

    def direction(self, gradient: Array) -> Array:
        beta1, beta2 = self.betas
        self.n_steps += 1
        self.first = beta1 * self.first + (1 - beta1) * gradient
        self.second = beta2 * self.second + (1 - beta2) * gradient**2
        unbiased = self.first / (1 - beta1**self.n_steps)
        return unbiased / (np.sqrt(self.second / (1 - beta2**self.n_steps)) + 1e-8)
