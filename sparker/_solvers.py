"""Solvers: from starting kernels along a path of widths to fitted kernels at each recorded width."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import lsq_linear

from sparker._objective import Objective, Point

Array = npt.NDArray[Any]

LONGEST_STEP = 2.0  # of an amplitude

# Centres at which a recorded width starts afresh with amplitudes 0, or None to go on from where the last one ended.
Start = Callable[[int], Array | None]


@dataclass(frozen=True, slots=True)
class Path:
    """Fitted kernels at every recorded width.

    Attributes
    ----------
    widths, losses : ndarray of shape (m,)
        Recorded widths and unpenalised Neyman-Pearson losses L there.
    amplitudes : ndarray of shape (m, M)
    centers : ndarray of shape (m, M, d)
    loss_curve : ndarray of shape (n_iter,)
        Minimised value after each step.
    converged : ndarray of bool of shape (m,)
        Whether the amplitudes are optimal at the recorded width.
    """

    widths: Array
    losses: Array
    amplitudes: Array
    centers: Array
    loss_curve: Array
    converged: npt.NDArray[np.bool_]


class Solver(Protocol):
    """What `SparKerTest` needs of a solver."""

    def solve(self, objective: Objective, schedule: Array, start: Start) -> Path:
        """Follow `schedule` (m, n_steps), recording at the end of each row."""


@dataclass(frozen=True, slots=True)
class _State:
    """Kernels and, once evaluated, the objective there at one width."""

    amplitudes: Array
    centers: Array
    width: float
    at: Point

    @classmethod
    def evaluate(cls, objective: Objective, amplitudes: Array, centers: Array, width: float) -> "_State":
        return cls(amplitudes, centers, width, objective(amplitudes, centers, width))

    def widen(self, objective: Objective, width: float) -> "_State":
        return self if width == self.width else self.evaluate(objective, self.amplitudes, self.centers, width)


def _follow(
    objective: Objective,
    schedule: Array,
    start: Start,
    step: Callable[[_State], _State],
    finish: Callable[[_State], tuple[_State, bool]],
    tol: float,
) -> Path:
    """Take `step` at every width of `schedule` and `finish` at the end of each row, where the kernels are recorded.

    A row of equal widths ends early once a step gains less than `tol` (``tol = -inf``: never).
    """
    curve: list[float] = []
    recorded: list[tuple[_State, bool]] = []
    state: _State | None = None
    for j, widths in enumerate(schedule):
        centers = start(j)
        if centers is not None:
            state = _State.evaluate(objective, np.zeros(len(centers)), centers, widths[0])
        assert state is not None
        for width in widths:
            before = state.widen(objective, width)
            state = step(before)
            curve.append(state.at.value)
            if widths[0] == widths[-1] and before.at.value - state.at.value < tol:
                break
        state, converged = finish(state)
        recorded.append((state, converged))
    return Path(
        np.array([state.width for state, _ in recorded]),
        np.array([_neyman_pearson(objective, state) for state, _ in recorded]),
        np.array([state.amplitudes for state, _ in recorded]),
        np.array([state.centers for state, _ in recorded]),
        np.array(curve),
        np.array([converged for _, converged in recorded]),
    )


def _neyman_pearson(objective: Objective, state: _State) -> float:
    if objective.loss == "np":
        return state.at.loss
    return objective.neyman_pearson(state.amplitudes, state.centers, state.width)


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

    def solve(self, objective: Objective, schedule: Array, start: Start) -> Path:
        """See `Solver`."""
        return _follow(
            objective,
            schedule,
            start,
            lambda state: self._descend(objective, state, self._newton(state), self._shift(state)),
            lambda state: self._polish(objective, state),
            self.tol,
        )

    def _newton(self, state: _State) -> Array:
        """Newton step of the amplitudes, solved anew within their bounds where it would leave them."""
        gradient, hessian = state.at.amplitude_gradient, state.at.amplitude_hessian
        # Along eigenvectors: kernels that are broad or close to each other make the Hessian all but singular. Far from
        # the solution the quadratic model overshoots; no component is longer than 2, a factor of e^2 in e^f. Negative
        # reference weights may curve L down: the absolute eigenvalues keep every step a descent (Nocedal and Wright,
        # Numerical Optimization, 3.4).
        curvature, axes = np.linalg.eigh(hessian)
        curvature = np.abs(curvature)
        curvature = np.maximum(curvature, 1e-9 + 1e-9 * curvature.max())
        slope = axes.T @ gradient
        step = -axes @ np.clip(slope / curvature, -LONGEST_STEP, LONGEST_STEP)
        if np.all(np.abs(state.amplitudes + step) <= self.max_amplitude):
            return step
        lower = np.maximum(-self.max_amplitude - state.amplitudes, -LONGEST_STEP)
        upper = np.minimum(self.max_amplitude - state.amplitudes, LONGEST_STEP)
        root = np.sqrt(curvature)
        # min g s + s H s / 2 as the least squares of H^(1/2) s + H^(-1/2) g, lower < upper for the solver's sake
        bounds = (np.minimum(lower, 0) - 1e-12, np.maximum(upper, 0) + 1e-12)
        bounded = lsq_linear(root[:, None] * axes.T, -slope / root, bounds, method="bvls")
        return np.clip(bounded.x, lower, upper)

    def _shift(self, state: _State) -> Array:
        """Step of the centres: gradient over mean curvature of a coordinate, at most `reach` widths long."""
        gradient = state.at.center_gradient
        curvature = np.abs(state.at.center_curvature[:, None]) / gradient.shape[1]
        length = np.linalg.norm(gradient, axis=1, keepdims=True)
        # The smaller of the Newton-like step 1 / curvature and the longest step; a kernel that nothing moves stays.
        longest = self.reach * state.width * curvature
        return -gradient * self.reach * state.width / np.maximum(np.maximum(length, longest), 1e-150)

    def _descend(self, objective: Objective, state: _State, step: Array, shift: Array | float) -> _State:
        """The longest of a few fractions of a step that does not make the objective worse, or no step."""
        for fraction in (1.0, 0.3, 0.1, 0.03):
            amplitudes, centers = state.amplitudes + fraction * step, state.centers + fraction * shift
            new = _State.evaluate(objective, amplitudes, centers, state.width)
            if new.at.value <= state.at.value:
                return new
        return state

    def _polish(self, objective: Objective, state: _State) -> tuple[_State, bool]:
        """Amplitudes at fixed centres to the end: the recorded t is their maximum, never below 0."""
        for _ in range(self.max_polish):
            step = self._newton(state)
            promise = -float(step @ state.at.amplitude_gradient)
            if promise < self.tol:
                return state, True
            new = self._descend(objective, state, step, 0.0)
            if new is state:
                # No fraction helps: at the floor of the rounding of a float32 sum, or truly stuck.
                return state, promise < 100 * self.tol
            state = new
        return state, False


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

    def solve(self, objective: Objective, schedule: Array, start: Start) -> Path:
        """See `Solver`."""
        moments = _Moments(self.beta1, self.beta2)

        def step(state: _State) -> _State:
            n_kernels = len(state.amplitudes)
            gradient = np.concatenate([state.at.amplitude_gradient, state.at.center_gradient.ravel()])
            move = self.learning_rate * moments.direction(gradient)
            amplitudes = np.clip(state.amplitudes - move[:n_kernels], -self.max_amplitude, self.max_amplitude)
            centers = state.centers - move[n_kernels:].reshape(state.centers.shape)
            return _State.evaluate(objective, amplitudes, centers, state.width)

        # A fixed number of steps has no test of convergence.
        return _follow(objective, schedule, start, step, lambda state: (state, True), -np.inf)


class AlternatingSolver(AdamSolver):
    """Sparse coding and dictionary learning by turns, as in SparKer-NPLM.

    Each step is one Adam update of the amplitudes at fixed centres, then one of the centres at the new amplitudes.
    """

    def solve(self, objective: Objective, schedule: Array, start: Start) -> Path:
        """See `Solver`."""
        of_amplitudes, of_centers = _Moments(self.beta1, self.beta2), _Moments(self.beta1, self.beta2)

        def step(state: _State) -> _State:
            move = self.learning_rate * of_amplitudes.direction(state.at.amplitude_gradient)
            amplitudes = np.clip(state.amplitudes - move, -self.max_amplitude, self.max_amplitude)
            coded = _State.evaluate(objective, amplitudes, state.centers, state.width)
            move = self.learning_rate * of_centers.direction(coded.at.center_gradient)
            return _State.evaluate(objective, amplitudes, coded.centers - move, state.width)

        return _follow(objective, schedule, start, step, lambda state: (state, True), -np.inf)


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
