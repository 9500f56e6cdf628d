"""One and two workers of a local Dask cluster, and what more of them would take.

Run on an idle machine with two cores: python benchmarks/cluster.py [--toys 200] [--rows 2000000]. Toys: a calibration
of about 0.5 s each (one thread to a worker) through joblib's backend "dask". Passes: value, gradient and Hessian
for three kernels at eight widths in four features, on a reference in the partitions of a Dask array. The time of a pass
is taken to be rows x seconds per row and worker + a constant, the trip to all workers and back, which is measured with
a few rows. Workers are told to keep their memory, see the user guide. The model says what a fit of 30 passes takes on W
workers of one thread; its bytes are those of the kernels that go out and of the sums that come back. Writes
benchmarks/tables/cluster.csv.
"""

import argparse
import time
from collections.abc import Callable

import dask
import dask.array as da
import joblib
import numpy as np
from common import TABLES, Table
from distributed import Client, LocalCluster
from speed_cases import shortest

from sparker import SparKerTest
from sparker._backends import Kernels
from sparker.distributed import PartitionedTest

D, M, N_WIDTHS, PASSES = 4, 3, 8, 30
FEW = 2000
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": 1 << 28, "MALLOC_MMAP_THRESHOLD_": 1 << 26, "OMP_NUM_THREADS": 1}


def toys(n_toys: int) -> float:
    """Seconds of a calibration; a toy of it takes about half of one."""
    rng = np.random.default_rng(0)
    reference, data = (rng.normal(size=(n, 64)).astype(np.float32) for n in (40_000, 4000))
    test = SparKerTest(n_toys=n_toys, n_kernels=10, max_iter=10, random_state=0).fit(reference, data=data)
    start = time.perf_counter()
    with joblib.parallel_config(backend="dask"):
        test.calibrate()
    return time.perf_counter() - start


def one_pass(n_rows: int, n_parts: int) -> Callable[[], object]:
    """A pass over the rows of a Dask array in as many partitions."""
    generator = da.random.RandomState(0)
    rows = generator.standard_normal((n_rows, D), chunks=(n_rows // n_parts, D)).astype(np.float32)
    data = np.random.default_rng(0).normal(size=(FEW // 4, D)).astype(np.float32)
    test = PartitionedTest(n_kernels=M, n_widths=N_WIDTHS, calibration="split", max_iter=1, random_state=0)
    fitted = test.fit(rows, data=data)._fitted
    objective = fitted.statistic._objective(fitted.observed.pool, [fitted.observed.weights], 1, True)
    centers = np.repeat(data[:M][None], N_WIDTHS, axis=0).astype(np.float64)
    widths = np.geomspace(2, 0.2, N_WIDTHS)
    kernels = Kernels(np.zeros(N_WIDTHS, np.int64), np.full((N_WIDTHS, M), 0.1), centers, widths)
    return lambda: objective(kernels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=200)
    parser.add_argument("--rows", type=int, default=2_000_000)
    args = parser.parse_args()
    dask.config.set({"distributed.nanny.pre-spawn-environ": KEEP_MEMORY})
    (TABLES / "cluster.csv").unlink(missing_ok=True)
    table = Table(TABLES / "cluster.csv", ["what", "workers"])
    passes: dict[int, float] = {}
    waits: dict[int, float] = {}
    for what in ("toys", "pass"):
        found: dict[int, float] = {}
        for workers in (1, 2):
            with (
                LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
                Client(cluster),
            ):
                if what == "toys":
                    toys(16 * workers)  # compiles on the workers
                    found[workers] = toys(args.toys)
                else:
                    waits[workers] = shortest({"pass": one_pass(FEW, 2)}, 6)["pass"]
                    found[workers] = passes[workers] = shortest({"pass": one_pass(args.rows, 2)}, 6)["pass"]
            size = f"{args.toys} toys" if what == "toys" else f"{args.rows} rows"
            row = {"what": f"{what}, {size}", "workers": workers, "seconds": round(found[workers], 3)}
            table.add(row | {"ratio": round(found[1] / found[workers], 2), "source": "measured"})
    per_row = (passes[1] - waits[1]) / args.rows
    n_bytes = 8 * N_WIDTHS * (M * (D + 2) + 1 + M * (2 + M + D))
    for n_rows, workers in ((10**8, 10), (10**9, 10), (10**10, 100), (10**10, 1000)):
        seconds = PASSES * (n_rows * per_row / workers + waits[2])
        what = f"fit of {PASSES} passes, {n_rows:.0e} rows, {n_bytes * workers} bytes a pass"
        table.add({"what": what, "workers": workers, "seconds": round(seconds, 1), "ratio": "", "source": "model"})


if __name__ == "__main__":
    main()
