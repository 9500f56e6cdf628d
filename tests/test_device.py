"""The GPU backend: on a device where there is one, and everywhere its own sources on the CPU.

``fake_cupy`` stands for CuPy: its arrays refuse to meet NumPy's without being sent, as those of a device do, and its
kernels are ``_cuda.cu`` as a C++ compiler sees it, with as many threads to a block as `THREADS`.
"""

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path
from threading import Lock, get_ident, local
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sparker import SparKerTest, _calibration, _device, _kernels_cupy
from sparker._backends import Backend, Kernels, StackedWeights
from sparker._companions import companions, learn
from sparker._objective import Objective
from sparker._pool import Pool
from sparker._solvers import NewtonSolver
from sparker._starts import scores
from sparker._toys import BootstrapToys, PermutationToys

SOURCE = Path(_kernels_cupy.__file__).with_name("_cuda.cu")
SHIM = Path(__file__).with_name("cuda_on_cpu.h")
LAUNCHERS = """
#if FUSED
extern "C" void launch_fit(unsigned x, unsigned y, const REAL* rows, const REAL* boxes, long long n,
    const REAL* weights, const REAL* counts, const int* toys, const double* starts, const double* schedule,
    int n_widths, int n_steps, double alpha, double max_amplitude, double tol, double reach, int max_polish,
    double negligible, double* losses,
    double* amplitudes, double* centers, double* curve, unsigned char* converged) {
  launch(x, y, THREADS, [=] { fit(rows, boxes, n, weights, counts, toys, starts, schedule, n_widths, n_steps, alpha,
      max_amplitude, tol, reach, max_polish, negligible, losses, amplitudes, centers, curve, converged); });
}
#endif
#if FUSED
extern "C" void launch_advance_all(unsigned x, unsigned y, int d, const double* schedule, int n_widths, int n_steps,
    double alpha, double max_amplitude, double tol, double reach, int max_polish, const double* sums,
    const double* center_sums, double* a, double* b, double* c, double* e, double* f, double* g, double* h, double* i,
    double* j, double* k, double* l, double* m, double* n, double* o, double* p, int* q, double* r, double* s,
    double* t, double* u, unsigned char* v) {
  launch(x, y, THREADS, [=] { advance_all(d, schedule, n_widths, n_steps, alpha, max_amplitude, tol, reach, max_polish,
      sums, center_sums, a, b, c, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v); });
}
#endif
extern "C" void launch_terms(unsigned x, unsigned y, REAL* products, const REAL* norms, const REAL* center_norms,
    long long n, const REAL* weights, const REAL* counts, long long n_pool, long long first, const int* toys,
    const REAL* amplitudes, const double* widths, double* sums) {
  launch(x, y, THREADS, [=] { terms(products, norms, center_norms, n, weights, counts, n_pool, first, toys, amplitudes,
      widths, sums); });
}
"""
NAMES = ("empty", "zeros", "full", "matmul", "sum", "maximum", "exp", "abs", "take")
LAUNCHING = Lock()
COMPILER = shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs g++ to compile _cuda.cu for the CPU")


class OnDevice(np.ndarray):
    """An array that meets NumPy's own only in indices and by `asarray` and `asnumpy`, like one of CuPy."""

    __cuda_array_interface__ = {}

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        for x in (*inputs, *out):
            if type(x) is np.ndarray and x.ndim:
                raise TypeError(f"Unsupported type {type(x)}")
        plain = [x.view(np.ndarray) if isinstance(x, OnDevice) else x for x in inputs]
        if out:
            options["out"] = tuple(x.view(np.ndarray) for x in out)
        found = getattr(ufunc, method)(*plain, **options)
        return found.view(OnDevice) if isinstance(found, np.ndarray) else on_device(found)

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"{function.__name__} of an array on the device")

    def __setitem__(self, index, value):
        if type(value) is np.ndarray and value.ndim:
            raise TypeError("a NumPy array cannot be assigned to one on the device")
        super().__setitem__(index, value)

    def get(self):
        return np.array(self.view(np.ndarray))


def on_device(array):
    return np.asarray(array).view(OnDevice)


def host(array):
    return array.view(np.ndarray) if isinstance(array, OnDevice) else array


class Compiled:
    """`cupy.RawModule` by a C++ compiler."""

    def __init__(self, folder, code, options):
        name = "_".join(option.partition("=")[2] for option in options if option.startswith("-D"))
        library = folder / f"{name}.so"
        if not library.exists():
            source = folder / f"{name}.cpp"
            source.write_text(f"#include <{SHIM}>\n{code}\n{LAUNCHERS}")
            command = [COMPILER, "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-Wall", "-Werror"]
            command += [option for option in options if option.startswith("-D")]
            subprocess.run([*command, str(source), "-o", str(library)], check=True)
        self.library = ctypes.CDLL(str(library))

    def get_function(self, name):
        def launch(grid, block, arguments):
            x, y = (*grid, 1)[:2]
            assert block == (_kernels_cupy.THREADS,)
            with LAUNCHING:  # it knows one grid at a time
                getattr(self.library, f"launch_{name}")(ctypes.c_uint(x), ctypes.c_uint(y), *map(to_c, arguments))

        return launch


class Device:
    """`cupy.cuda.Device`: without a number the current one of this thread."""

    current = local()

    def __init__(self, number=None):
        self.id = getattr(self.current, "id", 0) if number is None else number

    def __enter__(self):
        self.before, self.current.id = Device().id, self.id

    def __exit__(self, *_):
        self.current.id = self.before


def to_c(argument):
    if isinstance(argument, OnDevice):
        assert argument.flags.c_contiguous
        return ctypes.c_void_p(argument.ctypes.data)
    return {np.int32: ctypes.c_int32, np.int64: ctypes.c_int64, np.float64: ctypes.c_double}[type(argument)](argument)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda")


@pytest.fixture
def fake_cupy(compiled, monkeypatch):
    """A device of 1 GiB made of NumPy; its free memory can be set."""

    def made(function):
        return lambda *args, **options: on_device(function(*map(host, args), **options))

    xp = SimpleNamespace(
        RawModule=lambda code, options: Compiled(compiled, code, options),
        asarray=lambda array: on_device(np.array(array) if type(array) is np.ndarray else array),
        asnumpy=lambda array: array.get(),
        get_default_memory_pool=lambda: SimpleNamespace(free_all_blocks=lambda: None),
        concatenate=lambda parts: on_device(np.concatenate([host(part) for part in parts])),
        free=1 << 30,
        **{name: made(getattr(np, name)) for name in NAMES},
    )
    xp.cuda = SimpleNamespace(runtime=SimpleNamespace(memGetInfo=lambda: (xp.free, 1 << 30)), Device=Device)
    xp.cuda.get_current_stream = lambda: SimpleNamespace(synchronize=lambda: None)
    for name, value in {"cupy": lambda: xp, "THREADS": 4, "BOX": 64, "ROWS": 128, "COLUMNS": 24}.items():
        monkeypatch.setattr(_kernels_cupy, name, value)
    monkeypatch.setattr(_kernels_cupy, "_on_device", type(_kernels_cupy._on_device)())
    monkeypatch.setattr("sparker._pool.DEVICE_BATCH", 16)
    monkeypatch.setattr("sparker._calibration.DEVICE_BATCH", 16)
    _kernels_cupy.module.cache_clear()
    yield xp
    _kernels_cupy.module.cache_clear()


def make_objective(rng, backend, dtype=np.float64, d=2, n=200, loss="np", competition=True, negative=False):
    """Three toys on one pool, the same for every backend."""
    X = rng.normal(size=(n, d)).astype(dtype)
    X[-n // 6 :, 0] = 0.3 * X[-n // 6 :, 0] + 1
    data = np.stack([rng.permutation(np.arange(n) % 3 == 0) for _ in range(3)]).astype(dtype)
    data[0] = np.arange(n) >= n - n // 3
    reference = (1 - data) * dtype(0.5)
    if negative:
        reference[:, ::7] *= -0.5
    weights = StackedWeights(reference.astype(dtype), data)
    return Objective(Pool([X]), weights, competition, 0.1, Backend(backend), loss)


def make_kernels(rng, d=2, n_problems=7, n_kernels=3):
    toys = np.sort(rng.integers(3, size=n_problems))
    shape = (n_problems, n_kernels)
    widths = np.geomspace(2, 0.2, n_problems)
    return Kernels(toys, rng.normal(size=shape), rng.normal(size=(*shape, d)), widths)


@needs_compiler
class TestOnTheCPU:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize(("loss", "competition"), [("np", True), ("np", False), ("bce", True), ("mse", False)])
    def test_passes_are_the_definition(self, fake_cupy, dtype, loss, competition):
        rng, kernels = np.random.default_rng(0), make_kernels(np.random.default_rng(1), n_problems=11)
        got = make_objective(rng, "cupy", dtype, loss=loss, competition=competition)(kernels)
        want = make_objective(np.random.default_rng(0), "numpy", dtype, loss=loss, competition=competition)(kernels)
        tolerance = {"rtol": 1e-10, "atol": 1e-10} if dtype is np.float64 else {"rtol": 1e-4, "atol": 1e-3}
        for one, other in zip(got, want, strict=True):
            assert_allclose(one, other, **tolerance)

    def test_rows_that_do_not_fit_are_sent_block_by_block(self, fake_cupy):
        kernels = make_kernels(np.random.default_rng(1))
        want = make_objective(np.random.default_rng(0), "cupy")(kernels)
        fake_cupy.free = 1000
        objective = make_objective(np.random.default_rng(0), "cupy")
        for one, other in zip(objective(kernels), want, strict=True):
            assert_array_equal(one, other)
        assert _kernels_cupy._on_device[objective.pool] == {0: None}

    def test_rows_are_kept_by_each_device_that_asks(self, fake_cupy):
        pool = make_objective(np.random.default_rng(0), "cupy").pool
        first = _kernels_cupy.resident(pool)
        with Device(1):
            other = _kernels_cupy.resident(pool)
        assert other is not first
        assert _kernels_cupy.resident(pool) is first

    @pytest.mark.parametrize(
        ("kind", "d", "n_kernels"),
        [("constant", 1, 3), ("constant", 4, 5), ("annealed", 1, 3), ("negative", 2, 3), ("no gate", 2, 1)],
    )
    @pytest.mark.parametrize(
        ("path", "dtype"),
        [("one launch", np.float32), ("one launch", np.float64), ("passes", np.float64)],
    )
    def test_fits_follow_the_newton_solver(self, fake_cupy, monkeypatch, dtype, d, n_kernels, kind, path):
        if path == "passes":
            monkeypatch.setattr(_kernels_cupy, "FUSED_COORDINATES", 0)
        found = {}
        for backend, solver in (("numpy", NewtonSolver(5.0)), ("cupy", _device.CudaNewtonSolver(5.0))):
            rng = np.random.default_rng([d, n_kernels])
            options = {"negative": kind == "negative", "competition": kind != "no gate"}
            objective = make_objective(rng, backend, dtype, d, **options)
            kernels = make_kernels(rng, d, 6, n_kernels)
            schedule = np.repeat(kernels.widths[:, None, None], 6, axis=2)
            if kind == "annealed":
                schedule = np.geomspace(2, 0.2, 8).reshape(1, 2, 4) * np.linspace(1, 1.2, 6)[:, None, None]
            found[backend] = solver.solve(objective, kernels.toys, kernels.centers, schedule)
        got, want = found["cupy"], found["numpy"]
        assert_array_equal(got.widths, want.widths)
        assert_array_equal(got.converged, want.converged)
        tolerance = {"rtol": 1e-6, "atol": 1e-8} if dtype is np.float64 else {"rtol": 0.02, "atol": 0.02}
        assert_allclose(got.losses, want.losses, **tolerance)
        if dtype is np.float64:
            assert_allclose(got.amplitudes, want.amplitudes, rtol=1e-4, atol=1e-6)
            assert_allclose(got.centers, want.centers, rtol=1e-4, atol=1e-6)
            assert_allclose(got.loss_curve, want.loss_curve, rtol=1e-6, atol=1e-8)  # nan where the other has nan

    def test_the_batch_is_split_to_fit_and_the_numbers_stay(self, fake_cupy):
        found = []
        for free in (1 << 30, 2 * 200 * 8 * 3):  # all three toys, one at a time
            rng = np.random.default_rng(3)
            objective, kernels = make_objective(rng, "cupy"), make_kernels(rng)
            _kernels_cupy.resident(objective.pool)
            fake_cupy.free = free
            schedule = np.repeat(kernels.widths[:, None, None], 4, axis=2)
            found.append(_device.CudaNewtonSolver(5.0).solve(objective, kernels.toys, kernels.centers, schedule))
            fake_cupy.free = 1 << 30
        for name in _device.NAMES:
            assert_array_equal(getattr(found[0], name), getattr(found[1], name))

    @pytest.mark.parametrize("most", [64, 0])  # one launch, passes
    def test_twice_the_same_bits_whatever_else_is_in_the_batch(self, fake_cupy, monkeypatch, most):
        monkeypatch.setattr(_kernels_cupy, "FUSED_COORDINATES", most)
        rng = np.random.default_rng(3)
        objective, kernels = make_objective(rng, "cupy", np.float32), make_kernels(rng)
        schedule = np.repeat(kernels.widths[:, None, None], 4, axis=2)
        solver = _device.CudaNewtonSolver(5.0)
        whole = solver.solve(objective, kernels.toys, kernels.centers, schedule)
        some = solver.solve(objective, kernels.toys[2:5], kernels.centers[2:5], schedule[2:5])
        for name in _device.NAMES:
            assert_array_equal(getattr(some, name), getattr(whole, name)[2:5])
        point, of_some = objective(kernels), objective(kernels.take(np.array([2, 3])))
        assert_array_equal(of_some.center_gradient, point.center_gradient[2:4])
        assert_array_equal(of_some.value, point.value[2:4])

    @pytest.mark.parametrize("weighted", [False, True])
    def test_scores_and_companions_are_those_of_the_cpu(self, fake_cupy, weighted):
        rng = np.random.default_rng(0)
        weight = rng.uniform(-0.2, 2, size=300) if weighted else None
        pool = Pool([rng.normal(3, 1, size=(300, 3))], weight)
        kind = BootstrapToys if weighted else PermutationToys
        toys = [kind(pool, 60, None).draw(rng)[1] for _ in range(3)]
        candidates, kept, widths = pool.rows(pool.order[::10]), rng.random((2, 30)) < 0.5, np.array([1.0, 0.3])
        moments = learn(pool)
        found, of_companions = _device.device_share(pool, toys, candidates, widths, kept, moments)
        for got, want in zip(found, scores(pool, toys, candidates, widths, kept=kept), strict=True):
            assert_allclose(got.values, want.values, rtol=1e-6, atol=1e-8)
            assert_allclose(got.rows, want.rows, rtol=1e-6, atol=1e-8)
        assert_allclose(of_companions, companions(pool, toys, moments), rtol=1e-9)

    @pytest.mark.parametrize(
        ("options", "tolerance"),
        [
            ({"solver": "adam", "start": "random", "max_iter": 3}, 1e-10),
            # A step that gains nothing but rounding is taken on one side and refused on the other: single fits move.
            ({}, 0.05),
            ({"n_kernels": 20}, 0.05),
        ],
    )
    def test_a_whole_test_agrees_with_the_cpu(self, fake_cupy, monkeypatch, options, tolerance):
        monkeypatch.setattr(_kernels_cupy, "THREADS", 2)
        rng = np.random.default_rng(0)
        samples = rng.normal(size=(200, 2)), np.concatenate([rng.normal(size=(50, 2)), rng.normal(2, 0.2, size=(8, 2))])
        params = {"n_toys": 9, "n_widths": 2, "n_candidates": 40, "random_state": 0, **options}
        want = SparKerTest(backend="numba", **params).fit(*samples)
        got = SparKerTest(backend="cupy", n_jobs=2, **params).fit(*samples)
        assert_allclose(got.statistics_, want.statistics_, rtol=0.1 * tolerance, atol=0.01 * tolerance)
        assert_allclose(got.calibrate().values, want.calibrate().values, rtol=tolerance, atol=tolerance)
        assert_allclose(got.score_samples(samples[1]), want.score_samples(samples[1]), atol=tolerance)
        assert got.p_value() == want.p_value()

    def test_batches_on_several_threads_give_the_same_bits(self, fake_cupy, monkeypatch):
        monkeypatch.setattr(_kernels_cupy, "THREADS", 2)
        monkeypatch.setattr("sparker._calibration.cpu_count", lambda: 3)
        rng = np.random.default_rng(0)
        samples = rng.normal(size=(30, 1)), rng.normal(size=(12, 1))
        params = {"backend": "cupy", "n_toys": 40, "n_widths": 1, "random_state": 0}
        seen, evaluate = set(), _calibration._evaluate_batch

        def evaluate_batch(*batch):
            seen.add(get_ident())
            assert Device().id == 1
            return evaluate(*batch)

        monkeypatch.setattr(_calibration, "_evaluate_batch", evaluate_batch)
        found = []
        for size in (_calibration.DEVICE_BYTES, 1):
            seen.clear()
            monkeypatch.setattr(_calibration, "DEVICE_BYTES", size)
            with Device(1):  # as chosen by the user
                found.append(SparKerTest(**params).fit(*samples).calibrate().values)
            assert (len(seen) > 1) == (size > 1)
        assert_array_equal(*found)

    def test_toys_stop_early_where_they_do_on_the_cpu(self, fake_cupy, monkeypatch):
        monkeypatch.setattr(_kernels_cupy, "THREADS", 2)
        rng = np.random.default_rng(0)
        samples = rng.normal(size=(30, 1)), rng.normal(size=(12, 1))
        params = {"n_toys": 60, "stopping": 3, "n_widths": 1, "random_state": 0}
        found = [SparKerTest(backend=name, **params).fit(*samples).calibrate() for name in ("cupy", "numba")]
        assert len(found[0]) == len(found[1]) < 60
        assert_allclose(found[0].values, found[1].values, rtol=0.05, atol=0.05)

    def test_auto_takes_the_device(self, fake_cupy, monkeypatch):
        rng = np.random.default_rng(0)
        test = SparKerTest(n_widths=2, n_candidates=20).fit(rng.normal(size=(60, 1)), rng.normal(size=(20, 1)))
        assert test._fitted.statistic.backend == "cupy"
        assert test.backend == "auto"

    def test_more_kernels_than_a_thread_takes(self, fake_cupy):
        rng = np.random.default_rng(0)
        with pytest.raises(ValueError, match="n_kernels=65"):
            make_objective(rng, "cupy")(make_kernels(rng, n_kernels=65))


class TestWithout:
    """No CuPy, or no device: as where the tests run as a rule."""

    @pytest.fixture(autouse=True)
    def _no_device(self, monkeypatch):
        monkeypatch.setattr(_kernels_cupy, "cupy", _kernels_cupy.cupy.__wrapped__)
        if importlib.util.find_spec("cupy"):
            import cupy

            if cupy.cuda.is_available():
                pytest.skip("there is a device")

    def test_cupy_is_one_clear_error(self, rng):
        with pytest.raises(ImportError, match=r'backend="cupy".*pip install "sparker\[gpu\]"'):
            SparKerTest(backend="cupy").fit(rng.normal(size=(30, 1)), rng.normal(size=(10, 1)))

    def test_auto_falls_back_and_says_so(self, rng, caplog):
        samples = rng.normal(size=(60, 1)), rng.normal(size=(20, 1))
        SparKerTest(n_widths=2, n_candidates=20).fit(*samples)
        assert not caplog.records
        with caplog.at_level("INFO", logger="sparker"):
            test = SparKerTest(n_widths=2, n_candidates=20, verbose=1).fit(*samples)
        assert test._fitted.statistic.backend == "auto"
        assert "no CUDA device" in caplog.text

    def test_no_device_is_named(self, monkeypatch):
        import sys

        fake = SimpleNamespace(__version__="14", cuda=SimpleNamespace(is_available=lambda: False))
        monkeypatch.setitem(sys.modules, "cupy", fake)
        with pytest.raises(ImportError, match="no CUDA device"):
            _kernels_cupy.cupy()


def test_arrays_of_a_device_are_accepted(rng):
    X, Y = rng.normal(size=(60, 2)), rng.normal(size=(20, 2))
    params = {"n_widths": 2, "n_candidates": 20, "random_state": 0}
    want = SparKerTest(**params).fit(X, data=Y)
    for got in (
        SparKerTest(**params).fit(on_device(X), data=on_device(Y)),
        SparKerTest(**params).fit(on_device(X), on_device(Y), sample_weight=on_device(np.ones(60))),
        SparKerTest(**params).fit(on_device(np.r_[X, Y]), on_device(np.repeat([0, 1], [60, 20]))),
    ):
        assert_array_equal(got.statistics_, want.statistics_)
        assert type(got.statistics_) is np.ndarray
    assert_array_equal(want.score_samples(on_device(Y)), want.score_samples(Y))
    assert type(want.transform(on_device(Y))) is np.ndarray


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("dtype", "n_kernels"), [("float32", 3), ("float64", 3), ("float32", 20)])
def test_sources_compile_for_a_device(monkeypatch, arch, dtype, n_kernels):
    spec = importlib.util.find_spec("nvidia.cuda_nvrtc") if importlib.util.find_spec("nvidia") else None
    if spec is None:
        pytest.skip("needs NVRTC: pip install nvidia-cuda-nvrtc-cu12")
    library = next(Path(next(iter(spec.submodule_search_locations)), "lib").glob("libnvrtc.so.*"))
    nvrtc, program = ctypes.CDLL(str(library)), ctypes.c_void_p()
    made = {}
    fake = SimpleNamespace(RawModule=lambda **given: made.update(given))
    monkeypatch.setattr(_kernels_cupy, "cupy", lambda: fake)
    for loss in ("np", "bce", "mse"):
        _kernels_cupy.module.__wrapped__(np.dtype(dtype), n_kernels, 1, True, loss)
        options = [option.encode() for option in (*made["options"], f"--gpu-architecture={arch}")]
        assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), made["code"].encode(), b"_cuda.cu", 0, None, None) == 0
        failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        assert not failed, log.value.decode()
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        assert size.value > 0
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
