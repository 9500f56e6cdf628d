"""Seconds and memory of one fit, of a set of toys, of whole tests and of the import.

Run on an idle machine: python benchmarks/cost.py [--repeats 7]. Every figure comes from fresh processes, after a
warm-up that compiles; medians over the repeats, but whole tests, the empty cache and the memory map are run once.
Writes benchmarks/tables/cost.csv. Memory is the peak of the anonymous resident memory (RssAnon, Linux) during a fit,
over that after import and a warm-up fit, in MB beside the pool's size; with the memory map it is that of the process.
The memory map is a file of 4 GB in the folder for temporary files.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import TABLES, Table

CASES = {
    "import sparker": "import_time",
    "one fit, N_R 200 000, N_D 2000, d 1, 5 kernels, 1 thread": "lone_fit",
    "100 toys, N_R 10 000, N_D 1000, d 16, 2 jobs": "toys",
    "5000 toys, N_R 250, N_D 50, d 2, 2 jobs": "tiny",
    "test of 500 toys, N_R 200 000, N_D 2000, d 1, 5 kernels, 2 jobs": "search",
    "test of 500 toys, N_R 20 000, N_D 2000, d 512, 2 jobs": "wide",
    "first fit of a process, warm cache": "first_fit",
    "first fit of a process, empty cache": "cold_fit",
    "memory of a fit, N_R 200 000, N_D 2000, d 1": "memory_small",
    "memory of a fit, N_R 200 000, N_D 2000, d 100": "memory_large",
    "memory of a fit, memory map of 4 GB, d 256": "memory_map",
}


ONCE = ("search", "wide", "cold_fit", "memory_map")
UNITS = {"memory_map": "MB in all"}


def samples(n_reference: int, n_data: int, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return tuple(rng.exponential(size=(n, n_features)).astype(np.float32) for n in (n_reference, n_data))


def import_time() -> float:
    start = time.perf_counter()
    import sparker  # noqa: F401

    seconds = time.perf_counter() - start
    if "matplotlib" in sys.modules:
        raise RuntimeError("import sparker loaded matplotlib")
    return seconds


def first_fit() -> float:
    from sparker import SparKerTest

    reference, data = samples(1000, 200, 2)
    start = time.perf_counter()
    SparKerTest(random_state=0).fit(reference, data)
    return time.perf_counter() - start


def cold_fit() -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", "first_fit"]
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def whole_test(n_reference: int, n_features: int, n_kernels: int) -> float:
    from sparker import SparKerTest

    reference, data = samples(n_reference, 2000, n_features)
    SparKerTest(n_kernels, n_toys=32, n_jobs=2, random_state=0).fit(reference[:4000], data[:100]).p_value()
    start = time.perf_counter()
    SparKerTest(n_kernels, n_toys=500, n_jobs=2, random_state=0).fit(reference, data).p_value()
    return time.perf_counter() - start


def search() -> float:
    return whole_test(200_000, 1, 5)


def wide() -> float:
    return whole_test(20_000, 512, 3)


def lone_fit() -> float:
    from sparker import SparKerTest

    reference, data = samples(200_000, 2000, 1)
    SparKerTest(5, random_state=0).fit(reference[:1000], data)
    start = time.perf_counter()
    SparKerTest(5, random_state=0).fit(reference, data)
    return time.perf_counter() - start


def seconds_of_toys(n_toys: int, n_reference: int, n_data: int, n_features: int) -> float:
    from sparker import SparKerTest

    reference, data = samples(n_reference, n_data, n_features)
    SparKerTest(n_toys=32, n_jobs=2, random_state=0).fit(reference[:1000], data[:100]).p_value()
    test = SparKerTest(n_toys=n_toys, n_jobs=2, random_state=0).fit(reference, data)
    start = time.perf_counter()
    test.p_value()
    return time.perf_counter() - start


def toys() -> float:
    return seconds_of_toys(100, 10_000, 1000, 16)


def tiny() -> float:
    return seconds_of_toys(5000, 250, 50, 2)


def anonymous_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return float(line.split()[1]) / 1024
    raise RuntimeError("no RssAnon in /proc/self/status")


def memory(n_features: int, make: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None) -> tuple[float, float]:
    """Peak over the level after a warm-up fit, and the size of the pool, in MB; the pool is made before the fit.

    With `make`, which makes the pool, the peak is that of the process.
    """
    from sparker import SparKerTest

    reference, data = samples(1000, 200, n_features)
    SparKerTest(random_state=0).fit(reference, data)
    before = anonymous_mb() if make is None else 0.0
    reference, data = samples(200_000, 2000, n_features) if make is None else make()
    peak, done = [anonymous_mb()], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    SparKerTest(random_state=0).fit(reference, data)
    done.set()
    watcher.join()
    return peak[0] - before, (reference.nbytes + data.nbytes) / 2**20


def memory_small() -> tuple[float, float]:
    return memory(1)


def memory_large() -> tuple[float, float]:
    return memory(100)


def memory_map() -> tuple[float, float]:
    """A reference of 4 million rows in a file; the file is deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.npy"

        def make() -> tuple[np.ndarray, np.ndarray]:
            rng = np.random.default_rng(0)
            shape = 4_000_000, 256
            rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            for start in range(0, len(rows), 100_000):
                rows[start : start + 100_000] = rng.standard_normal((100_000, 256), dtype=np.float32)
            rows.flush()
            return np.load(path, mmap_mode="r"), rng.standard_normal((2000, 256), dtype=np.float32)

        return memory(256, make)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=TABLES / "cost.csv")
    parser.add_argument("--one", choices=CASES.values(), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(globals()[args.one]())
        return
    args.output.unlink(missing_ok=True)
    table = Table(args.output, ["case"])
    for case, function in CASES.items():
        command = [sys.executable, __file__, "--one", function]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        repeats = 1 if function in ONCE else args.repeats
        found = [
            subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            for _ in range(repeats)
        ]
        values = np.array([[float(v) for v in out.strip(" ()\n").split(",")] for out in found])
        table.add(
            {
                "case": case,
                "unit": "s" if values.shape[1] == 1 else UNITS.get(function, "MB over the level before"),
                "median": round(float(np.median(values[:, 0])), 3),
                "min": round(float(values[:, 0].min()), 3),
                "max": round(float(values[:, 0].max()), 3),
                "pool_mb": "" if values.shape[1] == 1 else round(float(values[0, 1]), 1),
                "repeats": repeats,
            }
        )


if __name__ == "__main__":
    main()
