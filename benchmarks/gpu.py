"""Whether the GPU agrees with the CPU, and how fast it is beside what it could do.

Run on a machine with a CUDA device and CuPy: python benchmarks/gpu.py [--toys 10000] [--wide-toys 2000] [--quick].
Checks first, and stops at one that fails: value, gradient and Hessian at given kernels, to 1e-4 of the largest entry in
float32 and 1e-10 in float64 (the curvature of the centres, which only sets the length of a step, is printed); losses of
whole fits in float64, to 1e-6; then 500 permutation toys of one search on either side, whose statistics must pass a
Kolmogorov-Smirnov test at every scale (p > 0.001, divided by their number), whose p-values for the same data must agree
within two binomial deviations, and of which half as many must be the first to the last bit. Then the times: of a pass,
beside the limits that are measured here (copy of memory, float32 matrix product, exponentials), and of the toys of
whole tests beside all cores of the same machine. Writes benchmarks/tables/gpu.csv; each row names the device.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from common import TABLES, Table
from joblib import effective_n_jobs
from scipy import stats
from speed_cases import Case, shortest

from sparker import SparKerTest, _device, _kernels_cupy
from sparker._backends import Backend, Kernels, StackedWeights
from sparker._objective import Objective, Point
from sparker._pool import Pool
from sparker._solvers import NewtonSolver
from sparker.datasets import make_clump, make_exponential

CASES = (Case(20_000, 1, 3), Case(7000, 16, 3), Case(2000, 1000, 5))
LARGE = (Case(202_000, 1, 3), Case(22_000, 1000, 5))


def objective(case: Case, backend: str, dtype: Any, n_toys: int) -> tuple[Objective, Kernels]:
    """The same rows, toys and kernels for every backend; eight widths of each toy."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(case.n_rows, case.n_features)).astype(dtype)
    counts = np.stack([rng.permutation(case.n_rows) < case.n_rows // 100 for _ in range(n_toys)]).astype(dtype)
    weights = (1 - counts) * counts.sum(axis=1, keepdims=True) / (1 - counts).sum(axis=1, keepdims=True)
    widths = np.tile(case.width * np.geomspace(1, 0.3, 8), n_toys)
    shape = (len(widths), case.n_kernels)
    centers = X[rng.integers(case.n_rows, size=shape)].astype(np.float64)
    kernels = Kernels(np.repeat(np.arange(n_toys), 8), rng.normal(size=shape), centers, widths)
    pool, order = Pool([X]).packed
    stacked = StackedWeights(weights[:, order].astype(dtype), counts[:, order])
    return Objective(pool, stacked, True, 0.1, Backend(backend)), kernels


def check_passes() -> None:
    """Value, gradient and Hessian beside those of the definition."""
    for case in CASES:
        for dtype, tolerance in ((np.float32, 1e-4), (np.float64, 1e-10)):
            (on_device, kernels), (on_host, _) = (objective(case, name, dtype, 3) for name in ("cupy", "numpy"))
            for name, got, want in zip(Point._fields, on_device(kernels), on_host(kernels), strict=True):
                worst = float(np.max(np.abs(got - want)) / np.max(np.abs(want)))
                print(f"{case.name} {np.dtype(dtype)} {name}: {worst:.1e}")
                if name != "center_curvature" and not worst <= tolerance:
                    sys.exit(f"{case.name} in {np.dtype(dtype)} differs from the CPU by {worst:.1e} > {tolerance:g}.")


def check_fits() -> None:
    """Whole fits in float64, in one launch and by passes: the losses where they end."""
    for case in (CASES[0], CASES[2]):
        (on_device, kernels), (on_host, _) = (objective(case, name, np.float64, 3) for name in ("cupy", "auto"))
        arguments = kernels.toys, kernels.centers, np.repeat(kernels.widths[:, None, None], 5, axis=2)
        got = _device.CudaNewtonSolver(5.0).solve(on_device, *arguments).losses
        want = NewtonSolver(5.0).solve(on_host, *arguments).losses
        worst = float(np.max(np.abs(got - want)))
        print(f"losses of fits, {case.name} float64: {worst:.1e}")
        if not worst <= 1e-6:
            sys.exit(f"Fits end at losses that differ from those of the CPU by {worst:.1e} > 1e-6.")


def check_nulls(n_toys: int) -> None:
    """Toys of one search on either side."""
    search = make_exponential("bulk", n_reference=10_000, random_state=0)
    samples = search.reference.astype(np.float32), search.data.astype(np.float32)
    tests = [SparKerTest(backend=name, n_toys=n_toys, random_state=0).fit(*samples) for name in ("cupy", "numba")]
    values = [test.calibrate().values for test in tests]
    p = [test.p_value() for test in tests]
    pairs = zip(values[0].T, values[1].T, strict=True)
    smallest = min(stats.ks_2samp(*pair, method="asymp").pvalue for pair in pairs)
    deviation = np.sqrt(max(p) * (1 - max(p)) / n_toys)
    fewer = SparKerTest(backend="cupy", n_toys=n_toys // 2, random_state=0).fit(*samples).calibrate().values
    print(f"{n_toys} toys: p = {p[0]:.4f} and {p[1]:.4f}; smallest Kolmogorov-Smirnov p of a scale {smallest:.3g}")
    if smallest < 0.001 / values[0].shape[1] or abs(p[0] - p[1]) > 2 * deviation:
        sys.exit("The null of the GPU is not that of the CPU.")
    if not np.array_equal(fewer, values[0][: len(fewer)]):
        sys.exit(f"The first {len(fewer)} of {n_toys} toys are not those of a test of {len(fewer)}.")


def seconds(xp: Any, function: Callable[[], Any], repeats: int = 10) -> float:
    """Median over repeats of the time of a call that leaves its results on the device, by events."""
    function()
    found = []
    for _ in range(repeats):
        begin, end = xp.cuda.Event(), xp.cuda.Event()
        begin.record()
        function()
        end.record()
        end.synchronize()
        found.append(1e-3 * xp.cuda.get_elapsed_time(begin, end))
    return float(np.median(found))


def limits(xp: Any) -> dict[str, float]:
    """Bytes copied (read and written), operations of matrix products, and exponentials a second."""
    source = xp.ones(1 << 28, dtype=np.float32)
    target = xp.empty_like(source)
    square = xp.ones((8192, 8192), dtype=np.float32)
    loop = "float v = x; for (int k = 0; k < 256; ++k) v = expf(-v); y = v"
    exponentials = xp.ElementwiseKernel("float32 x", "float32 y", loop, "exponentials")
    return {
        "bytes": 2 * source.nbytes / seconds(xp, lambda: xp.copyto(target, source)),
        "product": 2 * 8192**3 / seconds(xp, lambda: xp.matmul(square, square)),
        "exp": 256 * (1 << 24) / seconds(xp, lambda: exponentials(source[: 1 << 24], target[: 1 << 24])),
    }


def pass_seconds(xp: Any, case: Case, n_toys: int) -> float:
    """Shortest of five passes; of `fit`, half of a fit of one step without polishing, which makes two."""
    found, kernels = objective(case, "cupy", np.float32, n_toys)
    sent = StackedWeights(*map(xp.asarray, found.weights))
    on_device = xp.asarray(kernels.toys.astype(np.int32)), *map(xp.asarray, kernels[1:])

    def one_step() -> None:
        schedule = kernels.widths[:, None, None]
        solver = _device.CudaNewtonSolver(5.0, tol=np.inf, max_polish=0)
        solver.solve(replace(found, weights=sent), kernels.toys, kernels.centers, schedule)

    def one_pass() -> None:
        _kernels_cupy.pass_over_rows(found.pool, sent, *on_device, True, "np")
        xp.cuda.get_current_stream().synchronize()

    one_launch = _kernels_cupy.fits_a_thread(case.n_kernels, case.n_features)
    function: Callable[[], None] = one_step if one_launch else one_pass
    function()  # compiles
    return shortest({"pass": function}, 5)["pass"] / (2 if one_launch else 1)


def add_passes(xp: Any, table: Table, device: str, n_toys: int) -> None:
    """Passes of a batch of toys at eight widths beside the limits: what is read once, products, and exponentials."""
    rates = limits(xp)
    for case in LARGE:
        taken, work = pass_seconds(xp, case, n_toys), 8 * n_toys * case.n_rows
        amounts = {
            "bytes": 4 * case.n_rows * (case.n_features + 2 * n_toys),
            "product": 4 * work * case.n_kernels * case.n_features,
            "exp": work * (case.n_kernels + 1),
        }
        allowed, limit = max((amount / rates[name], name) for name, amount in amounts.items())
        table.add(
            {
                "device": device,
                "what": f"pass {case.name}, {n_toys} toys, 8 widths",
                "seconds": f"{taken:.3g}",
                "toys_per_second": "",
                "limit_seconds": f"{allowed:.3g}",
                "share_of_limit": round(allowed / taken, 3),
                "limited_by": f"{limit}: {rates[limit]:.3g} per second",
            }
        )


def add_toys(table: Table, device: str, name: str, samples: tuple[np.ndarray, np.ndarray], n_toys: int) -> None:
    """Time of the toys of one test on the device, and of a tenth as many on all cores; fit and compilation apart."""
    reference, data = (rows.astype(np.float32) for rows in samples)
    of = f"{len(reference)} + {len(data)} rows, d = {reference.shape[1]}, {name}"
    for where, backend, n in ((device, "cupy", n_toys), (f"{effective_n_jobs(-1)} cores", "numba", n_toys // 10)):
        options = {"backend": backend, "n_jobs": -1, "random_state": 0}
        SparKerTest(n_toys=19, **options).fit(reference, data=data).calibrate()
        test = SparKerTest(n_toys=n, **options).fit(reference, data=data)
        start = time.perf_counter()
        test.calibrate()
        taken = time.perf_counter() - start
        row = {
            "device": where,
            "what": f"{n} toys, {of}",
            "seconds": f"{taken:.3g}",
            "toys_per_second": f"{n / taken:.3g}",
        }
        table.add(row | dict.fromkeys(LIMITS, ""))


LIMITS = ("limit_seconds", "share_of_limit", "limited_by")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=10_000, help="of the search in one dimension")
    parser.add_argument("--wide-toys", type=int, default=2000, help="in 1000 dimensions")
    parser.add_argument("--quick", action="store_true", help="few toys, to see that all runs")
    args = parser.parse_args()
    try:
        xp = _kernels_cupy.cupy()
    except ImportError as error:
        sys.exit(str(error))
    if args.quick:
        args.toys, args.wide_toys = 256, 256
    device = xp.cuda.runtime.getDeviceProperties(0)["name"].decode()
    table = Table(TABLES / ("gpu_quick.csv" if args.quick else "gpu.csv"), ["device", "what"])
    check_passes()
    check_fits()
    check_nulls(500)
    add_passes(xp, table, device, 16 if args.quick else 256)
    pair = make_exponential("bulk", n_reference=200_000, random_state=0)
    add_toys(table, device, "search", (pair.reference, pair.data), args.toys)
    pair = make_clump(n_features=1000, n_reference=20_000, n_data=2000, random_state=0)
    add_toys(table, device, "clump", (pair.reference, pair.data), args.wide_toys)
    for n_features, n_reference, n_data in ((1, 200, 100), (16, 10_000, 1000)):
        pair = make_clump(n_features=n_features, n_reference=n_reference, n_data=n_data, random_state=0)
        add_toys(table, device, "clump", (pair.reference, pair.data), args.toys)


if __name__ == "__main__":
    main()
