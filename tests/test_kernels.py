"""The kernel functions: derivatives, agreement of the twins, and what must hold for any rows and kernels."""

import inspect
import os
import subprocess
import sys
import threading

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from conftest import TWINS, Problem
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit

from sparker import _kernels, _kernels_matmul, _kernels_numba
from sparker._backends import one_blas_thread
from sparker._kernels_numba import BLOCK, CHUNK
from sparker._pool import Pool

FUNCTIONS = ["squared_distances", "responsibilities", "activations", "log_density_ratio", "value_and_gradient"]
BOTH_GATES = pytest.mark.parametrize("competition", [True, False], ids=["gate", "no gate"])
BOTH_DTYPES = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])


def as_batch(problem):
    """Arguments of `batch_value_and_gradient` for one problem."""
    weights = problem.reference_weight[None], problem.data_weight[None]
    kernels = problem.amplitudes[None], problem.centers[None], np.array([problem.width])
    return problem.X, *weights, 0, np.zeros(1, np.int64), *kernels, problem.competition, problem.loss


def differentiate(function, x, h=1e-3):
    """Central differences of fourth order of `function` in each entry of x, shape (x.size, *result)."""
    slopes = []
    for index in np.ndindex(x.shape):

        def moved(steps, index=index):
            y = x.copy()
            y[index] += steps * h
            return np.asarray(function(y))

        slopes.append((8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * h))
    return np.array(slopes)


def forward(twin, problem):
    """Results of all functions but `value_and_gradient`, by name."""
    X, centers, width = problem.X, problem.centers, problem.width
    return {
        "squared_distances": twin.squared_distances(X, centers),
        "responsibilities": twin.responsibilities(X, centers, width),
        "activations": twin.activations(X, centers, width, problem.competition),
        "log_density_ratio": twin.log_density_ratio(X, problem.amplitudes, centers, width, problem.competition),
    }


def assert_close(got, want, tolerance, label=""):
    """Relative to the largest entry: sums of many terms cancel in some entries."""
    assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.max(np.abs(want)), err_msg=label)


def assert_same_evaluation(got, want, tolerance):
    for name in want._fields:
        assert_close(getattr(got, name), getattr(want, name), tolerance, name)


def run_alone(script, **environment):
    """Lines that the script prints in a fresh process."""
    preamble = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import numba
import numpy as np
from conftest import _draw_problem
from numpy.testing import assert_allclose
from sparker import _kernels, _kernels_numba
from sparker._kernels_numba import CHUNK
"""
    done = subprocess.run(
        [sys.executable, "-c", preamble + script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def second_derivative(loss, f, weight, count):
    """Of a row's part of the loss, in f; Gauss-Newton for "mse"."""
    s = expit(f)
    return {
        "np": weight * np.exp(f),
        "bce": (weight + count) * s * (1 - s),
        "mse": 2 * (weight + count) * (s * (1 - s)) ** 2,
    }[loss]


@BOTH_GATES
@pytest.mark.parametrize("width", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("loss", _kernels.LOSSES)
class TestDerivatives:
    @pytest.fixture
    def problem(self, draw_problem, width, competition, loss):
        return draw_problem(width=width, competition=competition).change(loss=loss)

    def test_amplitude_gradient_and_hessian(self, twin, problem):
        def evaluate(amplitudes):
            return twin.value_and_gradient(*problem.change(amplitudes=amplitudes).arguments)

        at = evaluate(problem.amplitudes)
        slope = differentiate(lambda a: evaluate(a).value, problem.amplitudes)
        assert_close(at.amplitude_gradient, slope, 1e-6)
        if problem.loss == "mse":
            phi = twin.activations(problem.X, problem.centers, problem.width, problem.competition)
            weight = second_derivative("mse", phi @ problem.amplitudes, problem.reference_weight, problem.data_weight)
            curvature = phi.T @ (weight[:, None] * phi)
        else:
            curvature = differentiate(lambda a: evaluate(a).amplitude_gradient, problem.amplitudes)
        assert_close(at.amplitude_hessian, curvature, 1e-6)

    def test_center_gradient(self, twin, problem):
        def value(centers):
            return twin.value_and_gradient(*problem.change(centers=centers).arguments).value

        at = twin.value_and_gradient(*problem.arguments)
        slope = differentiate(value, problem.centers, h=1e-3 * problem.width)
        assert_close(at.center_gradient, slope.reshape(problem.centers.shape), 1e-6)

    def test_center_curvature_is_the_weighted_square_of_the_slope_of_f(self, twin, problem):
        def f(centers):
            return twin.log_density_ratio(problem.X, problem.amplitudes, centers, problem.width, problem.competition)

        slopes = differentiate(f, problem.centers, h=1e-3 * problem.width).reshape(*problem.centers.shape, -1)
        weight = second_derivative(problem.loss, f(problem.centers), problem.reference_weight, problem.data_weight)
        at = twin.value_and_gradient(*problem.arguments)
        assert_close(at.center_curvature, np.sum(weight * np.sum(slopes**2, axis=1), axis=1), 1e-6)


def test_definition_equals_the_formulas_term_by_term(draw_problem):
    problem = draw_problem(n=7, d=2)
    k = np.array([[np.exp(-np.sum((x - mu) ** 2) / 2 / problem.width**2) for mu in problem.centers] for x in problem.X])
    p = k / k.sum(axis=1, keepdims=True)
    for competition, phi in ((True, p * k), (False, k)):
        f = phi @ problem.amplitudes
        loss = np.sum(problem.reference_weight * (np.exp(f) - 1)) - np.sum(problem.data_weight * f)
        got = _kernels.value_and_gradient(*problem.change(competition=competition).arguments)
        assert_allclose(got.value, loss, rtol=1e-12)
        s = expit(f)
        log_loss = -problem.reference_weight @ np.log(1 - s) - problem.data_weight @ np.log(s)
        brier = problem.reference_weight @ s**2 + problem.data_weight @ (1 - s) ** 2
        total = problem.reference_weight.sum() + problem.data_weight.sum()
        for name, at_zero, value in (("bce", np.log(2), log_loss), ("mse", 0.25, brier)):
            got = _kernels.value_and_gradient(*problem.change(competition=competition, loss=name).arguments)
            assert_allclose(got.value, value - at_zero * total, rtol=1e-10)
        result = forward(_kernels, problem.change(competition=competition))
        assert_allclose(result["activations"], phi, rtol=1e-12)
        assert_allclose(result["log_density_ratio"], f, rtol=1e-12, atol=1e-15)
    assert_allclose(result["responsibilities"], p, rtol=1e-12)


class TestTwins:
    """The fast implementations against the definition."""

    TOLERANCE = {
        (_kernels_numba, np.float64): 1e-10,
        (_kernels_numba, np.float32): 1e-4,
        (_kernels_matmul, np.float64): 1e-9,
        (_kernels_matmul, np.float32): 1e-4,
    }

    def assert_agree(self, twin, problem):
        dtype = problem.X.dtype
        tolerance = self.TOLERANCE[twin, dtype.type]
        got, want = forward(twin, problem), forward(_kernels, problem)
        for name in want:
            assert got[name].dtype == dtype, name
            assert got[name].shape == want[name].shape, name
            assert_close(got[name], want[name], tolerance, name)
        got, want = (module.value_and_gradient(*problem.arguments) for module in (twin, _kernels))
        assert isinstance(got.value, float)
        for name in want._fields[1:]:
            assert getattr(got, name).dtype == np.float64, name
            assert getattr(got, name).shape == getattr(want, name).shape, name
        assert_same_evaluation(got, want, tolerance)

    @BOTH_GATES
    @BOTH_DTYPES
    @pytest.mark.parametrize("d", [1, 3, 70])
    @pytest.mark.parametrize("n", [1, BLOCK + 37, CHUNK + BLOCK + 1])
    def test_agree_at_awkward_sizes(self, fast_twin, draw_problem, n, d, dtype, competition):
        self.assert_agree(fast_twin, draw_problem(n=n, d=d, dtype=dtype, competition=competition))

    @BOTH_GATES
    @BOTH_DTYPES
    @pytest.mark.parametrize("d", [1, 3, 70])
    def test_agree_with_a_far_outlier(self, fast_twin, draw_problem, d, dtype, competition):
        problem = draw_problem(n=50, d=d, dtype=dtype, competition=competition)
        problem.X[17] = 1e3 / np.sqrt(d)
        problem.data_weight[17] = 1
        # one kernel is nearer than the others by so much that rounding cannot decide between them
        problem.centers[0] = 1 / np.sqrt(d)
        problem.centers[1:] = 0.1 * problem.centers[1:]
        self.assert_agree(fast_twin, problem)
        assert_allclose(fast_twin.responsibilities(problem.X, problem.centers, 1.0)[17, 0], 1, rtol=1e-6)

    @BOTH_DTYPES
    @pytest.mark.parametrize("loss", ["bce", "mse"])
    def test_agree_for_the_losses_of_classifiers(self, fast_twin, draw_problem, dtype, loss):
        problem = draw_problem(n=CHUNK + 5, dtype=dtype).change(loss=loss)
        for scale in (1, 30):  # odds of up to e^60
            self.assert_agree(fast_twin, problem.change(amplitudes=dtype(scale) * problem.amplitudes))

    @pytest.mark.parametrize("loss", ["np", "bce", "mse"])
    def test_agree_for_negative_reference_weights(self, fast_twin, draw_problem, rng, loss):
        problem = draw_problem(n=300, d=2)
        sign = rng.choice([-1.0, 1.0], 300, p=[0.3, 0.7])
        self.assert_agree(fast_twin, problem.change(reference_weight=sign * problem.reference_weight, loss=loss))

    @BOTH_DTYPES
    def test_agree_with_one_kernel_and_with_many(self, fast_twin, draw_problem, dtype):
        for n_kernels in (1, 20):
            self.assert_agree(fast_twin, draw_problem(n_kernels=n_kernels, dtype=dtype))

    @BOTH_GATES
    @BOTH_DTYPES
    def test_agree_far_from_the_origin(self, fast_twin, draw_problem, dtype, competition):
        problem = draw_problem(n=300, d=5, dtype=dtype, competition=competition)
        offset = dtype(1e3)
        self.assert_agree(fast_twin, problem.change(X=problem.X + offset, centers=problem.centers + offset))

    def test_keep_the_digits_of_a_small_log_density_ratio(self, draw_problem):
        problem = draw_problem()
        small = problem.change(amplitudes=1e-9 * np.abs(problem.amplitudes), data_weight=0 * problem.data_weight)
        got, want = (twin.value_and_gradient(*small.arguments).value for twin in (_kernels_numba, _kernels))
        assert want > 0
        assert_allclose(got, want, rtol=1e-12)

    @BOTH_DTYPES
    def test_numba_exponential_is_right_over_its_whole_range(self, dtype):
        tiny = np.finfo(dtype).tiny
        x = np.linspace(0, np.sqrt(-2 * np.log(tiny)), 2000).astype(dtype)
        kernel = _kernels_numba.activations(x[:, None], np.zeros((1, 1), dtype), 1.0, False)[:, 0]
        # an exponent of about -700 (-87) carries its rounding error into the result
        assert_allclose(kernel[x < 4], np.exp(-0.5 * x[x < 4].astype(np.float64) ** 2), rtol=20 * np.finfo(dtype).eps)
        assert_allclose(kernel, np.exp(dtype(-0.5) * x * x), rtol=200 * np.finfo(dtype).eps, atol=tiny)

    @BOTH_GATES
    @BOTH_DTYPES
    def test_threads_change_no_bit(self, draw_problem, dtype, competition):
        problem = draw_problem(n=3 * CHUNK + 11, d=3, dtype=dtype, competition=competition)
        serial = _kernels_numba.value_and_gradient(*problem.arguments)
        for n_threads in (2, 3, 5):
            threaded = _kernels_numba.value_and_gradient(*problem.arguments, n_threads=n_threads)
            for name in serial._fields:
                assert_array_equal(getattr(threaded, name), getattr(serial, name), err_msg=name)

    @BOTH_GATES
    @BOTH_DTYPES
    @pytest.mark.parametrize("n", [1, 64, 67])
    def test_few_centers_by_loops_or_products(self, draw_problem, monkeypatch, dtype, competition, n):
        problem, tolerance = draw_problem(n=n, d=70, dtype=dtype, competition=competition), 1e3 * np.finfo(dtype).eps
        monkeypatch.setattr(_kernels_matmul, "FEW", 0)
        want = _kernels_matmul.value_and_gradient(*problem.arguments)
        monkeypatch.setattr(_kernels_matmul, "FEW", len(problem.amplitudes))
        got = _kernels_matmul.value_and_gradient(*problem.arguments)
        for g, w in zip(got, want, strict=True):
            assert_allclose(g, w, rtol=tolerance, atol=tolerance * np.max(np.abs(w)))

    @BOTH_DTYPES
    def test_numba_gives_the_same_bits_for_read_only_arrays(self, draw_problem, dtype):
        # joblib hands large pools to workers read-only: n_jobs must not show in the numbers
        problem = draw_problem(n=1000, dtype=dtype)
        want = _kernels_numba.value_and_gradient(*problem.arguments)
        phi = _kernels_numba.activations(problem.X, problem.centers, problem.width, True)
        for array in (problem.X, problem.reference_weight, problem.data_weight, problem.amplitudes, problem.centers):
            array.flags.writeable = False
        assert_array_equal(_kernels_numba.activations(problem.X, problem.centers, problem.width, True), phi)
        got = _kernels_numba.value_and_gradient(*problem.arguments)
        for name in want._fields:
            assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)

    def test_numba_is_right_without_the_compiler(self):
        script = """
for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-4)):
    for competition in (True, False):
        problem = _draw_problem(np.random.default_rng(0), n=270, dtype=dtype, competition=competition)
        got, want = (m.value_and_gradient(*problem.arguments) for m in (_kernels_numba, _kernels))
        for g, w in zip(got, want, strict=True):
            assert_allclose(g, w, rtol=tolerance, atol=tolerance * np.max(np.abs(w)))
"""
        run_alone(script, NUMBA_DISABLE_JIT="1")

    def test_threads_share_the_chunks_out(self, draw_problem, monkeypatch):
        problem, seen, sum_chunks = draw_problem(n=3 * CHUNK), [], _kernels_numba._sum_chunks

        def record(first, last, *arguments):
            seen.append((threading.current_thread().name.split("_")[0], first, last))
            sum_chunks(first, last, *arguments)

        monkeypatch.setattr(_kernels_numba, "_sum_chunks", record)
        _kernels_numba.value_and_gradient(*problem.arguments, n_threads=2)
        assert sorted(seen) == [("MainThread", 0, 6), ("sparker", 6, 12)]

    @pytest.mark.slow
    def test_bits_do_not_depend_on_who_compiled(self, tmp_path):
        script = """
for dtype in (np.float32, np.float64):
    problem = _draw_problem(np.random.default_rng(0), n=CHUNK + 1000, dtype=dtype)
    for n_threads in (2, 1):
        for part in _kernels_numba.value_and_gradient(*problem.arguments, n_threads=n_threads):
            print(np.asarray(part).tobytes().hex())
"""
        fresh, cached = (run_alone(script, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
        assert fresh == cached
        float32, float64 = np.array(fresh).reshape(2, 2, -1)
        assert_array_equal(float32[0], float32[1])
        assert_array_equal(float64[0], float64[1])


class TestBatch:
    """Many problems in one pass are those problems one by one."""

    @pytest.mark.parametrize("competition", [True, False])
    @pytest.mark.parametrize("name", TWINS)
    def test_parts_are_those_of_each_problem_alone(self, draw_problem, rng, name, competition):
        twin, problem = TWINS[name], draw_problem(n=CHUNK + 300, d=2, competition=competition)
        toys, widths = np.array([0, 0, 2, 2, 2]), np.array([2.0, 0.5, 1.0, 0.3, 4.0])
        weights = rng.random((2, 3, len(problem.X) + 10))
        amplitudes, centers = rng.normal(size=(5, 4)), rng.normal(size=(5, 4, 2))
        arguments = problem.X, *weights, 7, toys, amplitudes, centers, widths, competition, "bce"
        found = twin.batch_value_and_gradient(*arguments)
        for p, toy in enumerate(toys):
            of_rows = problem.X, *(weight[toy, 7:-3] for weight in weights)
            want = _kernels.value_and_gradient(*of_rows, amplitudes[p], centers[p], widths[p], competition, "bce")
            for got, expected in zip(found, want, strict=True):
                assert_allclose(got[p], expected, rtol=1e-9, atol=1e-9)


class TestThreadsOfProducts:
    @pytest.mark.parametrize("n_threads", [2, 3])
    def test_the_same_bits(self, draw_problem, rng, monkeypatch, n_threads):
        monkeypatch.setattr(_kernels_matmul, "BLOCK_BYTES", 1 << 16)  # 64 rows to a block
        problem = draw_problem(n=1000, d=60)
        toys, widths = np.array([0, 0, 1]), np.array([9.0, 4.0, 9.0])
        weights = rng.random((2, 2, 1000))
        at = rng.normal(size=(3, 4)), rng.normal(size=(3, 4, 60)), widths, True
        serial, threaded = (
            _kernels_matmul.batch_value_and_gradient(problem.X, *weights, 0, toys, *at, n_threads=n)
            for n in (1, n_threads)
        )
        for one, other in zip(serial, threaded, strict=True):
            assert_array_equal(one, other)


@BOTH_DTYPES
@pytest.mark.parametrize("n", [300, 2000])  # rows of small products and of others
@pytest.mark.parametrize("n_kernels", [1, 2, 3, 4, 5, 7, 8, 16, 100])
def test_a_problem_of_a_batch_of_products_depends_on_no_other_to_the_bit(draw_problem, rng, dtype, n_kernels, n):
    problem, n_problems = draw_problem(n=n, d=60), 9
    with one_blas_thread():
        columns = np.ones((_kernels_matmul.TILE, 1), dtype) @ problem.X[:1].astype(dtype) @ problem.X.astype(dtype).T
    if np.any(columns != columns[0]):
        pytest.skip("the matrix library of this machine computes equal columns to different bits")
    X, weights = problem.X.astype(dtype), rng.random((2, n_problems, n)).astype(dtype)
    amplitudes = rng.normal(size=(n_problems, n_kernels)).astype(dtype)
    centers = rng.normal(size=(n_problems, n_kernels, 60)).astype(dtype)
    widths = rng.uniform(3, 9, n_problems)

    def evaluate(order):
        at = amplitudes[order], centers[order], widths[order]
        with one_blas_thread():  # as whole fits are
            return _kernels_matmul.batch_value_and_gradient(X, *weights, 0, order, *at, True, alone=False)

    whole = evaluate(np.arange(n_problems))
    for order in (rng.permutation(n_problems), np.array([5]), np.array([7, 2])):
        for got, want in zip(evaluate(order), whole, strict=True):
            assert_array_equal(got, want[order])


class TestReach:
    """Blocks of rows that no kernel reaches are left out, which no sum may show."""

    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    @pytest.mark.parametrize("loss", _kernels.LOSSES)
    @pytest.mark.parametrize("d", [1, 2])
    def test_narrow_kernels_on_sorted_rows(self, draw_problem, d, loss, dtype):
        problem = draw_problem(n=40 * BLOCK, d=d, width=0.05, dtype=dtype)
        order = np.argsort(problem.X[:, 0])
        problem = problem.change(
            X=problem.X[order], centers=problem.X[order[[5, 20 * BLOCK, 20 * BLOCK + 9]]] + dtype(0.01), loss=loss
        )
        (boxes,) = Pool([problem.X]).bounds(BLOCK)
        got, want = (
            module.batch_value_and_gradient(*as_batch(problem), **options)
            for module, options in ((_kernels_numba, {"boxes": boxes}), (_kernels, {}))
        )
        tolerance = 1e-10 if dtype is np.float64 else 1e-4
        for g, w in zip(got, want, strict=True):
            assert_allclose(g, w, rtol=tolerance, atol=tolerance * np.max(np.abs(w)))

    def test_a_row_at_the_edge_of_reach_counts(self):
        reach = np.sqrt(-2 * np.log(0.25 * np.finfo(np.float32).eps))
        one = np.ones(1, np.float32)
        for distance, counts in ((0.99 * reach, True), (1.01 * reach, False)):
            X = np.full((1, 1), distance, np.float32)
            problem = Problem(X, one, 0 * one, one, np.zeros((1, 1), np.float32), 1.0, False)
            (boxes,) = Pool([X]).bounds(BLOCK)
            at = _kernels_numba.batch_value_and_gradient(*as_batch(problem), boxes=boxes)
            assert (at.value[0] != 0) == counts

    def test_bounds_hold_all_rows_of_each_box(self, rng):
        X = rng.normal(size=(1000, 2))
        pool = Pool([X[:300], X[300:]])
        for block, boxes in zip(pool.blocks, pool.bounds(128), strict=True):
            for k, box in enumerate(boxes):
                rows = block[128 * k : 128 * (k + 1)]
                assert_array_equal(box, [rows.min(axis=0), rows.max(axis=0)])


class TestInterface:
    def test_twins_offer_the_same_names(self):
        for twin in TWINS.values():
            assert sorted(twin.__all__) == sorted(_kernels.__all__)
        assert set(FUNCTIONS) < set(_kernels.__all__)

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_twins_take_the_same_leading_arguments(self, fast_twin, name):
        want = list(inspect.signature(getattr(_kernels, name)).parameters)
        got = inspect.signature(getattr(fast_twin, name)).parameters
        assert list(got)[: len(want)] == want
        assert all(got[extra].default is not inspect.Parameter.empty for extra in list(got)[len(want) :])

    @BOTH_GATES
    @BOTH_DTYPES
    @pytest.mark.parametrize("library", ["array_api_strict", "cupy"])
    def test_definition_runs_on_any_array_api_library(self, draw_problem, dtype, competition, library):
        xp = pytest.importorskip(library)
        if library == "cupy" and not xp.cuda.is_available():
            pytest.skip("CuPy sees no device")
        problem = draw_problem(dtype=dtype, competition=competition)
        arrays = {
            name: xp.asarray(getattr(problem, name))
            for name in ("X", "reference_weight", "data_weight", "amplitudes", "centers")
        }
        strict = problem.change(**arrays)
        want, got = (_kernels.value_and_gradient(*p.arguments) for p in (problem, strict))
        assert all(isinstance(part, np.ndarray) for part in got[1:])
        assert_same_evaluation(got, want, 1e-12 if dtype is np.float64 else 1e-6)
        for name, array in forward(_kernels, strict).items():
            assert _kernels._namespace(array) is xp, name
            assert array.dtype == strict.X.dtype, name


class TestExtremes:
    @BOTH_GATES
    @BOTH_DTYPES
    def test_a_thousand_features_give_finite_numbers(self, twin, rng, dtype, competition):
        X = rng.normal(size=(20, 1000)).astype(dtype)
        centers = rng.normal(size=(3, 1000)).astype(dtype)
        problem = Problem(X, np.ones(20, dtype), np.ones(20, dtype), np.ones(3, dtype), centers, 1.0, competition)
        assert_allclose(twin.responsibilities(X, centers, 1.0).sum(axis=1), 1, rtol=1e-6)
        for part in twin.value_and_gradient(*problem.arguments):
            assert np.all(np.isfinite(part))

    def test_rows_beyond_reach_of_every_kernel_cost_nothing(self, twin, draw_problem):
        problem = draw_problem()
        far = problem.change(X=problem.X + 1e3)
        # the compiled exponential ends at e^-708 instead of 0
        assert_allclose(twin.value_and_gradient(*far.arguments).value, 0, atol=1e-300)

    @BOTH_GATES
    def test_a_row_that_is_not_a_number_is_not_hidden(self, twin, draw_problem, competition):
        problem = draw_problem(competition=competition)
        problem.X[3, 1] = np.nan
        problem.reference_weight[3] = 1
        assert np.isnan(twin.value_and_gradient(*problem.arguments).value)


@st.composite
def problems(draw):
    n, d, n_kernels = draw(st.integers(1, 12)), draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def array(shape, low, high):
        return draw(hnp.arrays(np.float64, shape, elements=st.floats(low, high, width=16)))

    return Problem(
        array((n, d), -3, 3),
        array(n, 0, 2),
        array(n, 0, 2),
        array(n_kernels, -2, 2),
        array((n_kernels, d), -3, 3),
        draw(st.sampled_from([0.25, 1.0, 3.0])),
        draw(st.booleans()),
    )


def assert_unchanged(twin, problem, other, tolerance=1e-9):
    """All parts of the evaluation agree, relative to the size of the terms that were summed."""
    size = 1 + np.exp(6) * (problem.reference_weight.sum() + problem.data_weight.sum())
    for got, want in zip(
        twin.value_and_gradient(*other.arguments), twin.value_and_gradient(*problem.arguments), strict=True
    ):
        assert_allclose(got, want, rtol=tolerance, atol=1e-12 * size / min(problem.width, 1) ** 4)


@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
class TestProperties:
    """At fixed parameters, for any rows."""

    @given(problem=problems(), data=st.data())
    def test_translation_changes_nothing(self, twin, problem, data):
        shift = data.draw(hnp.arrays(np.float64, problem.X.shape[1], elements=st.floats(-10, 10, width=16)))
        assert_unchanged(twin, problem, problem.change(X=problem.X + shift, centers=problem.centers + shift))

    @given(problem=problems(), data=st.data())
    def test_row_order_changes_nothing(self, twin, problem, data):
        order = np.array(data.draw(st.permutations(range(len(problem.X)))))
        parts = {name: getattr(problem, name)[order] for name in ("X", "reference_weight", "data_weight")}
        assert_unchanged(twin, problem, problem.change(**parts))

    @given(problem=problems(), data=st.data())
    def test_kernel_order_only_reorders(self, twin, problem, data):
        order = np.array(data.draw(st.permutations(range(len(problem.amplitudes)))))
        want = twin.value_and_gradient(*problem.arguments)
        other = problem.change(amplitudes=problem.amplitudes[order], centers=problem.centers[order])
        got = twin.value_and_gradient(*other.arguments)
        size = 1e-12 * (1 + np.exp(6) * problem.reference_weight.sum() + problem.data_weight.sum())
        assert_allclose(got.value, want.value, rtol=1e-9, atol=size)
        assert_allclose(got.amplitude_gradient, want.amplitude_gradient[order], rtol=1e-9, atol=size)
        assert_allclose(got.amplitude_hessian, want.amplitude_hessian[np.ix_(order, order)], rtol=1e-9, atol=size)

    @given(problem=problems(), data=st.data())
    def test_integer_weights_are_repeated_rows(self, twin, problem, data):
        n = len(problem.X)
        copies = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)))
        copies[0] = max(copies[0], 1)
        weighted = problem.change(
            reference_weight=copies * problem.reference_weight, data_weight=copies * problem.data_weight
        )
        parts = {
            name: np.repeat(getattr(problem, name), copies, axis=0) for name in ("X", "reference_weight", "data_weight")
        }
        assert_unchanged(twin, weighted, problem.change(**parts))

    @given(problem=problems(), factor=st.sampled_from([0.125, 3.0, 1000.0]))
    def test_features_and_width_scale_together(self, twin, problem, factor):
        scaled = problem.change(X=problem.X * factor, centers=problem.centers * factor, width=problem.width * factor)
        got, want = (twin.value_and_gradient(*p.arguments) for p in (scaled, problem))
        back = got._replace(
            center_gradient=got.center_gradient * factor, center_curvature=got.center_curvature * factor**2
        )
        size = 1 + np.exp(6) * (problem.reference_weight.sum() + problem.data_weight.sum())
        for name in want._fields:
            atol = 1e-12 * size / min(problem.width, 1) ** 4
            assert_allclose(getattr(back, name), getattr(want, name), rtol=1e-9, atol=atol, err_msg=name)

    @given(problem=problems())
    def test_amplitudes_of_zero_cost_nothing(self, twin, problem):
        assert twin.value_and_gradient(*problem.change(amplitudes=0 * problem.amplitudes).arguments).value == 0

    @given(problem=problems())
    def test_hessian_is_symmetric_and_not_negative(self, twin, problem):
        hessian = twin.value_and_gradient(*problem.arguments).amplitude_hessian
        assert_allclose(hessian, hessian.T, rtol=1e-12)
        assert np.linalg.eigvalsh(hessian)[0] >= -1e-12 * np.trace(hessian)
