"""The objective on pools of several blocks, and the choice of the backend."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sparker import _kernels
from sparker._backends import MATMUL_FEATURES, Backend
from sparker._objective import Objective
from sparker._pool import Pool, Weights


def make_objective(problem, cut, alpha=0.0, backend="numba"):
    """Objective of a problem whose rows are split into blocks at `cut`."""
    pool = Pool(np.split(problem.X, cut))
    weights = Weights(problem.reference_weight, problem.data_weight, 1.0)
    return Objective(pool, weights, problem.competition, alpha, Backend(backend))


@pytest.mark.parametrize("backend", ["numba", "matmul", "numpy"])
def test_blocks_add_up_to_the_whole(draw_problem, backend):
    problem = draw_problem(n=50, d=3)
    point = make_objective(problem, [1, 20], backend=backend)(problem.amplitudes, problem.centers, problem.width)
    want = _kernels.value_and_gradient(*problem.arguments)
    for got, expected in zip((point.loss, *point[2:]), want, strict=True):
        assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_penalty_is_minimised_but_no_part_of_the_loss(draw_problem):
    problem, alpha, h = draw_problem(), 0.3, 1e-5
    at = problem.amplitudes, problem.centers, problem.width
    plain, objective = (make_objective(problem, [30], a) for a in (0.0, alpha))
    point = objective(*at)
    assert_allclose(point.loss, plain(*at).loss, rtol=1e-14)
    assert_allclose(point.value, point.loss + alpha * np.sum(problem.amplitudes**2), rtol=1e-14)
    steps = h * np.eye(len(problem.amplitudes))
    ahead, behind = ([objective(at[0] + sign * step, *at[1:]) for step in steps] for sign in (1, -1))
    slope = [(a.value - b.value) / (2 * h) for a, b in zip(ahead, behind, strict=True)]
    assert_allclose(point.amplitude_gradient, slope, rtol=1e-6, atol=1e-8)
    curvature = [(a.amplitude_gradient - b.amplitude_gradient) / (2 * h) for a, b in zip(ahead, behind, strict=True)]
    assert_allclose(point.amplitude_hessian, curvature, rtol=1e-6, atol=1e-8)
    assert_array_equal(point.center_gradient, plain(*at).center_gradient)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loss_that_is_not_finite_says_at_which_width(draw_problem, dtype):
    problem = draw_problem(dtype=dtype)
    huge = 1e30 if dtype is np.float32 else 1e200
    objective = make_objective(problem.change(X=problem.X * dtype(huge)), [30])
    with pytest.raises(ValueError, match=r"loss is \w+ at width 2\.5.*float64"):
        objective(problem.amplitudes, problem.centers * huge, 2.5)


@pytest.mark.parametrize(("d", "name"), [(MATMUL_FEATURES, "numba"), (MATMUL_FEATURES + 1, "matmul")])
def test_auto_takes_matrix_products_above_a_number_of_features(draw_problem, d, name):
    problem = draw_problem(n=40, d=d)
    at = problem.amplitudes, problem.centers, problem.width
    got, want = (make_objective(problem, [10], backend=backend)(*at) for backend in ("auto", name))
    for g, w in zip(got, want, strict=True):
        assert_array_equal(g, w)
