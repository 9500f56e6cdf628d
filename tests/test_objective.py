"""The objective on pools of several blocks, and the choice of the backend."""

import numpy as np
import pytest
from conftest import one_problem
from numpy.testing import assert_allclose, assert_array_equal

from sparker import _kernels
from sparker._backends import MATMUL_FEATURES
from sparker._objective import center_entropy


def entropy_of(centers, width):
    value, gradient = center_entropy(centers[None], np.array([width]))
    return value[0], gradient[0]


@pytest.mark.parametrize("backend", ["numba", "matmul", "numpy"])
def test_blocks_add_up_to_the_whole(draw_problem, backend):
    problem = draw_problem(n=50, d=3)
    point = one_problem(problem, [1, 20], backend=backend)(problem.amplitudes, problem.centers, problem.width)
    want = _kernels.value_and_gradient(*problem.arguments)
    for got, expected in zip((point.loss, *point[2:]), want, strict=True):
        assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_penalty_is_minimised_but_no_part_of_the_loss(draw_problem):
    problem, alpha, h = draw_problem(), 0.3, 1e-5
    at = problem.amplitudes, problem.centers, problem.width
    plain, objective = (one_problem(problem, [30], a) for a in (0.0, alpha))
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


def test_entropy_of_the_centers_and_its_gradient(rng):
    centers, width, h = rng.normal(size=(4, 3)), 0.8, 1e-5
    value, gradient = entropy_of(centers, width)
    q = np.array([np.mean([np.exp(-np.sum((a - b) ** 2) / (2 * width**2)) for b in centers]) for a in centers])
    assert_allclose(value, -np.sum(q * np.log(q)), rtol=1e-12)
    for index in np.ndindex(centers.shape):
        step = np.zeros(centers.shape)
        step[index] = h
        slope = (entropy_of(centers + step, width)[0] - entropy_of(centers - step, width)[0]) / (2 * h)
        assert_allclose(gradient[index], slope, rtol=1e-6, atol=1e-9)
    apart, together = np.array([[0.0], [100.0]]), np.zeros((2, 1))
    assert_allclose([entropy_of(c, 1.0)[0] for c in (apart, together)], [np.log(2), 0], atol=1e-12)


def test_entropy_is_added_to_what_is_minimised(draw_problem):
    problem = draw_problem()
    at = problem.amplitudes, problem.centers, problem.width
    plain, objective = one_problem(problem, [30]), one_problem(problem, [30]).replaced(entropy=0.7)
    value, gradient = entropy_of(problem.centers, problem.width)
    assert_allclose(objective(*at).value, plain(*at).value + 0.7 * value, rtol=1e-12)
    assert_allclose(objective(*at).center_gradient, plain(*at).center_gradient + 0.7 * gradient, rtol=1e-12)
    assert objective(*at).loss == plain(*at).loss


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_t_is_made_of_the_neyman_pearson_loss_whatever_is_minimised(draw_problem, loss):
    problem = draw_problem()
    at = problem.amplitudes, problem.centers, problem.width
    objective = one_problem(problem, [30]).replaced(loss=loss)
    assert_allclose(objective(*at).loss, _kernels.value_and_gradient(*problem.change(loss=loss).arguments).value)
    assert_allclose(objective.neyman_pearson(*at), _kernels.value_and_gradient(*problem.arguments).value, rtol=1e-10)


@pytest.mark.parametrize(("d", "name"), [(MATMUL_FEATURES, "numba"), (MATMUL_FEATURES + 1, "matmul")])
def test_auto_takes_matrix_products_above_a_number_of_features(draw_problem, d, name):
    problem = draw_problem(n=40, d=d)
    at = problem.amplitudes, problem.centers, problem.width
    got, want = (one_problem(problem, [10], backend=backend)(*at) for backend in ("auto", name))
    for g, w in zip(got, want, strict=True):
        assert_array_equal(g, w)
