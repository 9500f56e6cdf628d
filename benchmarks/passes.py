"""How many passes SparKer-NPLM needs: its statistic after shortened schedules beside that of the paper's 100 000.

Run: python benchmarks/passes.py [--pairs 10] [--jobs 2]. Ten kernels, N_R = 20 000, 2000 expected events of the search
in one dimension, null and with its four signals; a new reference for each pair, the same for all schedules. t rises
with the number of passes; what counts is whether signal is told from null: `above_null` is the mean t of a sample less
that of the null, in standard deviations of t under the null, with its standard error. Resumable; writes
benchmarks/tables/passes_runs.csv and passes.csv.
"""

import argparse
import time
from itertools import product

import numpy as np
from common import TABLES, Table
from joblib import Parallel, delayed

from sparker import SparKerTest, presets
from sparker.datasets import EXPONENTIAL_SIGNALS, make_exponential

PASSES = (500, 2000, 10_000, 100_000)
SAMPLES = ("null", *EXPONENTIAL_SIGNALS)
N_REFERENCE, EXPECTED = 20_000, 2000


def run(sample: str, pair: int, passes: int) -> dict[str, float]:
    """Statistic and seconds of one fit."""
    rng = np.random.default_rng([pair, *sample.encode()])
    signal = None if sample == "null" else sample
    drawn = make_exponential(signal, n_reference=N_REFERENCE, random_state=rng)
    test = SparKerTest(**presets.sparker_nplm(n_passes=passes), expected_count=EXPECTED, random_state=pair)
    start = time.perf_counter()
    test.fit(drawn.reference.astype(np.float32), data=drawn.data.astype(np.float32))
    return {"t": round(float(test.statistics_[0]), 4), "seconds": round(time.perf_counter() - start, 2)}


def summarise(runs: Table) -> None:
    """Mean t of each sample and schedule, and how far it stands above the null."""
    summary = Table(TABLES / "passes.csv", ["sample", "passes"])
    summary.rows = []
    for sample, passes in product(SAMPLES, PASSES):
        rows, null = (
            [row for row in runs.rows if row["sample"] == name and row["passes"] == str(passes)]
            for name in (sample, "null")
        )
        if len(rows) < 2 or len(null) < 2:
            continue
        t, of_null = (np.array([float(row["t"]) for row in some]) for some in (rows, null))
        unit = of_null.std(ddof=1)
        error = np.hypot(t.std(ddof=1) / np.sqrt(len(t)), unit / np.sqrt(len(of_null))) / unit
        summary.add(
            {
                "sample": sample,
                "passes": passes,
                "pairs": len(t),
                "mean_t": round(float(t.mean()), 2),
                "error": round(float(t.std(ddof=1) / np.sqrt(len(t))), 2),
                "above_null": "" if sample == "null" else round(float((t.mean() - of_null.mean()) / unit), 2),
                "its_error": "" if sample == "null" else round(float(error), 2),
                "mean_seconds": round(float(np.mean([float(row["seconds"]) for row in rows])), 2),
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10, help="of each sample")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    runs = Table(TABLES / "passes_runs.csv", ["sample", "pair", "passes"])
    keys = ("sample", "pair", "passes")
    cells = [dict(zip(keys, cell, strict=True)) for cell in product(SAMPLES, range(args.pairs), sorted(PASSES))]
    left = sorted((cell for cell in cells if not runs.has(**cell)), key=lambda cell: (cell["pair"], cell["passes"]))
    results = Parallel(args.jobs, return_as="generator")(delayed(run)(**cell) for cell in left)
    for cell, found in zip(left, results, strict=True):
        runs.add({**cell, **found})
    summarise(runs)


if __name__ == "__main__":
    main()
