"""The solvers against independent ones, and the refusal of bad steps."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import One, kernels, one_problem
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import lsq_linear, minimize
from scipy.spatial.distance import pdist

from sparker._backends import Backend, StackedWeights
from sparker._objective import Objective
from sparker._pool import Pool
from sparker._schedule import schedule
from sparker._solvers import AdamSolver, AlternatingSolver, NewtonSolver, _evaluate, minimize_in_box


def make_objective(problem, alpha=0.1):
    return one_problem(problem, alpha=alpha)


@pytest.fixture
def problem(draw_problem):
    return draw_problem(n=200, n_kernels=3, width=0.7)


@pytest.fixture
def objective(problem):
    return make_objective(problem)


def solve(solver, objective, centers, widths):
    """Paths of one problem, without the axis of problems."""
    found = solver.solve(objective.objective, np.zeros(1, np.int64), centers[None], widths[None])
    curve = found.loss_curve[0]
    return replace(
        found,
        loss_curve=curve[~np.isnan(curve)],
        **{name: getattr(found, name)[0] for name in ("widths", "losses", "amplitudes", "centers", "converged")},
    )


def run(solver, objective, problem, n_steps=15):
    """Fit from amplitudes 0 at the problem's centres, at its width."""
    return solve(solver, objective, problem.centers, np.full((1, n_steps), problem.width))


def best_amplitudes(objective, centers, width, bound):
    """The convex problem in the amplitudes alone, solved by SciPy."""

    def evaluate(amplitudes):
        point = objective(amplitudes, centers, width)
        return point.value, point.amplitude_gradient

    start = np.zeros(len(centers))
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}
    return minimize(
        evaluate, start, jac=True, method="L-BFGS-B", bounds=[(-bound, bound)] * len(start), options=options
    )


class TestNegativeWeights:
    """L is neither convex nor bounded: steps must still go down, and end."""

    @pytest.fixture
    def signed(self, draw_problem):
        problem = draw_problem(n=200, n_kernels=3, width=0.7, competition=False)
        # few negative ones in all, but no others under one kernel
        near = np.linalg.norm(problem.X - problem.centers[0], axis=1) < 0.7
        return problem.change(reference_weight=np.where(near, -0.5, 1.5))

    def test_the_hessian_is_indefinite_and_newton_steps_go_down(self, signed, rng):
        objective = make_objective(signed, alpha=0.0)
        solver, lowest = NewtonSolver(5.0, tol=1e-9, reach=0.0), []
        for _ in range(30):
            amplitudes = rng.uniform(-4, 4, 3)
            state = _evaluate(objective.objective, kernels(amplitudes, signed.centers, signed.width))
            lowest.append(np.linalg.eigvalsh(state.at.amplitude_hessian[0])[0])
            assert np.sum(solver._newton(state) * state.at.amplitude_gradient) <= 0
        assert min(lowest) < 0, "no point where L curves down"

    @pytest.mark.parametrize("bound", [1.0, 5.0])
    def test_amplitudes_end_at_a_constrained_minimum(self, signed, bound):
        objective = make_objective(signed, alpha=0.0)
        path = run(NewtonSolver(bound, tol=1e-10, reach=0.0), objective, signed)
        amplitudes = path.amplitudes[0]
        at = objective(amplitudes, signed.centers, signed.width)
        inside = np.abs(amplitudes) < bound
        assert np.max(np.abs(amplitudes)) <= bound
        assert_allclose(at.amplitude_gradient[inside], 0, atol=1e-2)  # of a curvature of 1e4
        assert np.all((np.sign(amplitudes) * at.amplitude_gradient)[~inside] <= 1e-9)
        assert path.converged.all()

    def test_no_step_goes_up_and_the_loss_is_finite(self, signed):
        objective = make_objective(signed)
        path = run(NewtonSolver(5.0), objective, signed)
        start = objective(np.zeros(3), signed.centers, signed.width).value
        assert np.all(np.diff([start, *path.loss_curve]) <= 0)
        assert np.isfinite(path.losses).all()
        assert path.losses[0] <= 0


class TestNewton:
    @pytest.mark.parametrize("competition", [True, False])
    @pytest.mark.parametrize(("alpha", "bound"), [(0.0, 80.0), (0.5, 80.0), (0.0, 0.15)])
    def test_amplitudes_at_fixed_centres_are_those_of_scipy(self, problem, alpha, bound, competition):
        objective = make_objective(problem.change(competition=competition), alpha)
        path = run(NewtonSolver(bound, tol=1e-13, reach=0.0), objective, problem)
        want = best_amplitudes(objective, problem.centers, problem.width, bound)
        assert_array_equal(path.centers[0], problem.centers)
        assert_allclose(path.amplitudes[0], want.x, rtol=1e-5, atol=1e-5)
        at = objective(path.amplitudes[0], problem.centers, problem.width)
        assert_allclose(at.value, want.fun, rtol=1e-10)
        if bound < 1:
            assert np.any(np.abs(want.x) == bound), "the bound is meant to matter here"

    @pytest.mark.parametrize("competition", [True, False])
    @pytest.mark.parametrize("bound", [0.3, 2.0])
    def test_bounded_amplitudes_of_broad_kernels_are_those_of_scipy(self, draw_problem, bound, competition):
        # broad kernels are all but equal, and their best amplitudes large and of either sign: bounds matter
        for _ in range(10):
            problem = draw_problem(n=200, n_kernels=3, width=3.0, competition=competition)
            objective = make_objective(problem, alpha=0.0)
            path = run(NewtonSolver(bound, tol=1e-9, reach=0.0), objective, problem)
            want = best_amplitudes(objective, problem.centers, problem.width, bound)
            assert path.losses[0] <= want.fun + 1e-6 * abs(want.fun)
            assert np.max(np.abs(path.amplitudes)) <= bound
            assert path.converged.all()

    @pytest.mark.parametrize("loss", ["bce", "mse"])
    def test_amplitudes_that_minimise_the_loss_of_a_classifier(self, problem, objective, loss):
        objective = objective.replaced(loss=loss)
        path = run(NewtonSolver(5.0, tol=1e-13, reach=0.0), objective, problem, n_steps=40)
        want = best_amplitudes(objective, problem.centers, problem.width, 5.0)
        assert_allclose(path.amplitudes[0], want.x, rtol=1e-3, atol=1e-3)
        assert_allclose(path.losses[0], objective.neyman_pearson(want.x, problem.centers, problem.width), rtol=1e-3)

    def test_recorded_amplitudes_are_optimal_at_the_recorded_centres(self, problem, objective):
        path = run(NewtonSolver(5.0), objective, problem)
        want = best_amplitudes(objective, path.centers[0], problem.width, 5.0)
        assert path.converged.all()
        assert_allclose(objective(path.amplitudes[0], path.centers[0], problem.width).value, want.fun, atol=1e-3)

    def test_moving_the_centres_gains(self, problem, objective):
        held, moved = (run(NewtonSolver(5.0, reach=reach), objective, problem) for reach in (0.0, 0.4))
        assert moved.loss_curve[-1] < held.loss_curve[-1] - 0.1

    def test_centres_step_within_reach(self, problem, objective):
        # at amplitudes 0 nothing pulls at a centre: the second step is the first that moves one
        path = run(NewtonSolver(5.0, reach=0.1), objective, problem, n_steps=2)
        steps = np.linalg.norm(path.centers[0] - problem.centers, axis=1)
        assert np.all(steps <= 0.1 * problem.width * (1 + 1e-9))
        assert np.any(steps > 0)

    def test_kernels_out_of_reach_of_all_rows_step_within_reach_too(self, draw_problem):
        problem = draw_problem(n=50, d=1, n_kernels=33, competition=False)
        start = problem.centers.copy()
        start[3:, 0] = np.max(problem.X) + np.linspace(8, 40, 30)  # the others keep the fit going
        solver = NewtonSolver(5.0, tol=1e-12, reach=0.4)
        path = run(solver, make_objective(problem), problem.change(centers=start), n_steps=5)
        assert np.all(np.abs(path.centers[0] - start) <= 5 * 0.4 * (1 + 1e-9))

    @pytest.mark.parametrize("width", [0.05, 0.7, 5.0])
    def test_loss_never_grows_at_a_width_and_t_is_not_negative(self, draw_problem, width):
        problem = draw_problem(n=100, n_kernels=4, width=width)
        objective = make_objective(problem)
        start = objective(np.zeros(4), problem.centers, width).value
        path = run(NewtonSolver(5.0), objective, problem)
        assert np.all(np.diff(np.concatenate([[start], path.loss_curve])) <= 0)
        assert np.all(path.losses <= 0)

    @pytest.mark.parametrize("spoil", ["center_gradient", "amplitude_gradient"])
    def test_a_bad_step_is_refused(self, problem, objective, spoil):
        class Wrong:
            loss = "np"

            def __call__(self, at):
                point = objective.objective(at)
                return point._replace(**{spoil: -1e3 * getattr(point, spoil)})

        path = run(NewtonSolver(5.0), One(Wrong()), problem)
        assert np.all(np.diff(np.concatenate([[0.0], path.loss_curve])) <= 0)
        assert path.losses[0] <= 0

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_step_to_a_loss_that_is_not_finite_is_refused(self, problem, objective, bad):
        class Wall:
            loss = "np"

            def __call__(self, at):
                point = objective.objective(at)
                behind = np.abs(at.amplitudes).max(axis=1) > 0.1
                return point._replace(value=np.where(behind, bad, point.value))

        path = run(NewtonSolver(5.0), One(Wall()), problem)
        assert np.max(np.abs(path.amplitudes)) <= 0.1
        assert path.losses[0] < 0

    def test_records_what_it_reached(self, problem, objective):
        widths = schedule(3.0, 0.3, 4, 5, "geometric")
        path = solve(NewtonSolver(5.0), objective, problem.centers, widths)
        assert_array_equal(path.widths, widths[:, -1])
        assert path.loss_curve.shape == (20,)
        for width, loss, amplitudes, centers in zip(
            path.widths, path.losses, path.amplitudes, path.centers, strict=True
        ):
            assert_allclose(objective(amplitudes, centers, width).loss, loss, rtol=1e-12)

    def test_says_when_amplitudes_are_not_optimal(self, problem, objective):
        path = run(NewtonSolver(5.0, tol=1e-12, max_polish=0), objective, problem, n_steps=1)
        assert path.converged.tolist() == [False]

    def test_kernels_on_equal_places_share_the_amplitude(self, problem, objective):
        centers = np.repeat(problem.centers[:1], 3, axis=0)
        path = solve(NewtonSolver(5.0, tol=1e-12, reach=0.0), objective, centers, np.full((1, 20), 0.7))
        want = best_amplitudes(objective, centers, 0.7, 5.0)
        assert_allclose(path.amplitudes[0], want.x, rtol=1e-4, atol=1e-4)
        assert_allclose(path.amplitudes[0], path.amplitudes[0][0], rtol=1e-6)


class TestMinimizeInBox:
    @pytest.mark.parametrize("n_entries", [1, 3, 12])
    def test_against_scipy(self, rng, n_entries):
        roots = rng.normal(size=(60, n_entries, n_entries)) * np.geomspace(1, 1e-2, n_entries)
        hessian = roots @ roots.transpose(0, 2, 1) + 1e-6 * np.eye(n_entries)
        gradient = rng.normal(size=(60, n_entries))
        lower, upper = -rng.random((60, n_entries)), rng.random((60, n_entries))
        lower[::3, 0] = 0  # at its edge already
        got = minimize_in_box(hessian, gradient, lower, upper)
        at_edge = 0
        for k in range(60):
            root = np.linalg.cholesky(hessian[k])
            bounds = lower[k] - 1e-12, upper[k]
            want = lsq_linear(root.T, -np.linalg.solve(root, gradient[k]), bounds, method="bvls", tol=1e-14).x
            values = [gradient[k] @ s + s @ hessian[k] @ s / 2 for s in (got[k], want)]
            assert values[0] <= values[1] + 1e-9
            at_edge += np.sum((want <= lower[k]) | (want >= upper[k]))
        assert at_edge > 30
        assert np.all((lower <= got) & (got <= upper))

    def test_inside_the_box_it_is_the_newton_step(self, rng):
        hessian = np.array([[[2.0, 0.5], [0.5, 1.0]]])
        got = minimize_in_box(hessian, np.array([[0.2, -0.1]]), -np.ones((1, 2)), np.ones((1, 2)))
        assert_allclose(got[0], -np.linalg.solve(hessian[0], [0.2, -0.1]), rtol=1e-12)


class TestLockstep:
    """What a problem does depends on no other."""

    @pytest.fixture
    def batch(self, draw_problem, rng):
        """Toys of two weights on one pool, three problems each, at their own widths."""
        problem = draw_problem(n=300, n_kernels=3)
        stacked = StackedWeights(rng.random((2, 300)), rng.random((2, 300)))
        objective = Objective(Pool([problem.X[:100], problem.X[100:]]), stacked, True, 0.1, Backend("numba"))
        centers = rng.normal(size=(6, 3, problem.X.shape[1]))
        return objective, np.repeat([0, 1], 3), centers, np.array([3.0, 0.7, 0.1, 3.0, 0.7, 0.1])

    @pytest.mark.parametrize("backend", ["numba", "matmul", "numpy"])
    @pytest.mark.parametrize(
        "solver", [NewtonSolver(0.5), NewtonSolver(5.0), AdamSolver(5.0, 0.05), AlternatingSolver(5.0, 0.05)]
    )
    @pytest.mark.parametrize("annealed", [False, True])
    def test_a_toy_gives_the_same_numbers_alone_and_in_a_batch(self, batch, backend, solver, annealed):
        objective, toys, centers, widths = batch
        objective = replace(objective, backend=Backend(backend, alone=False))
        schedule = np.tile(widths[:, None, None], (1, 2, 4))
        if annealed:
            schedule = schedule * np.geomspace(1, 0.5, 8).reshape(2, 4)
        whole = solver.solve(objective, toys, centers, schedule)
        # with matrix products the problems of a toy share their shape
        for some in [slice(0, 3), slice(3, 6)] if backend == "matmul" else [slice(k, k + 1) for k in range(6)]:
            alone = solver.solve(objective, toys[some], centers[some], schedule[some])
            for name in ("widths", "losses", "amplitudes", "centers", "loss_curve", "converged"):
                assert_array_equal(getattr(alone, name), getattr(whole, name)[some])

    def test_a_problem_that_is_not_finite_stops_no_other(self, batch):
        objective, toys, centers, widths = batch
        schedule = np.tile(widths[:, None, None], (1, 1, 4))
        want = NewtonSolver(5.0).solve(objective, toys, centers, schedule)
        weights = StackedWeights(objective.weights.reference.copy(), objective.weights.data)
        weights.reference[1, 7] = np.inf
        got = NewtonSolver(5.0).solve(replace(objective, weights=weights), toys, centers, schedule)
        assert not np.isfinite(got.losses[3:]).any()
        assert not got.converged[3:].any()
        assert_array_equal(got.losses[:3], want.losses[:3])
        assert_array_equal(got.centers[:3], want.centers[:3])

    @pytest.mark.parametrize("backend", ["numba", "matmul", "numpy"])
    @pytest.mark.parametrize("solver", [NewtonSolver(5.0), AdamSolver(5.0, 0.05), AlternatingSolver(5.0, 0.05)])
    def test_if_none_is_finite_all_losses_say_so(self, batch, backend, solver):
        objective, toys, centers, widths = batch
        weights = StackedWeights(np.full_like(objective.weights.reference, np.inf), objective.weights.data)
        objective = replace(objective, weights=weights, backend=Backend(backend, alone=False))
        with np.errstate(all="ignore"):
            found = solver.solve(objective, toys, centers, np.tile(widths[:, None, None], (1, 2, 4)))
        assert not np.isfinite(found.losses).any()


class TestAdam:
    def test_follows_the_published_algorithm(self, problem, objective):
        n_steps, rate = 12, 0.05
        path = run(AdamSolver(80.0, rate), objective, problem, n_steps)
        x = np.concatenate([np.zeros(3), problem.centers.ravel()])
        first, second = np.zeros_like(x), np.zeros_like(x)
        for step in range(1, n_steps + 1):
            point = objective(x[:3], x[3:].reshape(3, -1), problem.width)
            gradient = np.concatenate([point.amplitude_gradient, point.center_gradient.ravel()])
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            x = x - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        assert_allclose(path.amplitudes[0], x[:3], rtol=1e-9, atol=1e-12)
        assert_allclose(path.centers[0], x[3:].reshape(3, -1), rtol=1e-9, atol=1e-12)
        assert_allclose(path.loss_curve[-1], objective(x[:3], x[3:].reshape(3, -1), problem.width).value, rtol=1e-9)

    def test_loss_falls_towards_that_of_newton(self, problem, objective):
        adam = run(AdamSolver(5.0, 0.05), objective, problem, 300)
        newton = run(NewtonSolver(5.0), objective, problem, 100)
        assert len(adam.loss_curve) == 300
        assert adam.loss_curve[-1] < 0.8 * newton.loss_curve[-1] < 0

    def test_amplitudes_stay_within_their_bound(self, problem, objective):
        path = run(AdamSolver(0.2, 0.05), objective, problem, 50)
        assert_allclose(np.max(np.abs(path.amplitudes)), 0.2, rtol=1e-12)


class TestAlternating:
    def test_updates_amplitudes_then_centres(self, problem, objective):
        n_steps, rate = 8, 0.05
        path = run(AlternatingSolver(80.0, rate), objective, problem, n_steps)
        parts = {"amplitudes": np.zeros(3), "centers": problem.centers}
        moments = {name: [np.zeros_like(part), np.zeros_like(part)] for name, part in parts.items()}
        for step in range(1, n_steps + 1):
            for name in parts:
                point = objective(parts["amplitudes"], parts["centers"], problem.width)
                gradient = point.amplitude_gradient if name == "amplitudes" else point.center_gradient
                first, second = moments[name]
                first[:] = 0.9 * first + 0.1 * gradient
                second[:] = 0.999 * second + 0.001 * gradient**2
                direction = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
                parts[name] = parts[name] - rate * direction
        assert_allclose(path.amplitudes[0], parts["amplitudes"], rtol=1e-9, atol=1e-12)
        assert_allclose(path.centers[0], parts["centers"], rtol=1e-9, atol=1e-12)

    def test_loss_falls_and_amplitudes_keep_to_their_bound(self, problem, objective):
        path = run(AlternatingSolver(0.5, 0.02), objective, problem, 200)
        assert len(path.loss_curve) == 200
        assert path.loss_curve[-1] < path.loss_curve[0] < 0.05
        assert np.max(np.abs(path.amplitudes)) <= 0.5

    def test_entropy_merges_centres_that_overlap(self, problem, objective):
        def nearest(entropy):
            path = run(AlternatingSolver(5.0, 0.02), objective.replaced(entropy=entropy), problem, 150)
            return pdist(path.centers[0]).min()

        assert nearest(100.0) < 0.1 * nearest(0.0)
