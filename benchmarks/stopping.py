"""How many toys early stopping saves, and what level and power it keeps.

Run: python benchmarks/stopping.py [--null-sets 400] [--signal-sets 30] [--stopping 10] [--toys 999] [--jobs 1]. A small
search (2 kernels, 4 widths, aggregate of ranks) on pairs of 300 reference and 100 data rows, exponential; the signal is
a clump in the data. On the null each set is run with stopping alone; with a signal all toys are simulated, and what
stopping would have done is read off their first ones, so that both p-values stand beside each other. Writes
benchmarks/tables/stopping.csv; cells that stand in it are not run again.
"""

import argparse

import numpy as np
from common import TABLES, Table, binomial_band
from joblib import Parallel, delayed

from sparker import SparKerTest
from sparker._aggregation import count_exceedances
from sparker._results import counted_p_value

LEVELS = (0.01, 0.05, 0.1)
CLUMPS = {"null": 0, "weak signal": 6, "strong signal": 14}


def one_set(clump: int, seed: int, n_toys: int, stopping: int, whole: bool) -> tuple[int, float, float]:
    """Toys until stopping, p with stopping, and p of all toys (NaN if they were not simulated)."""
    rng = np.random.default_rng([seed, clump])
    data = np.concatenate([rng.exponential(size=(100 - clump, 1)), rng.normal(3, 0.05, size=(clump, 1))])
    test = SparKerTest(
        n_kernels=2,
        n_widths=4,
        n_candidates=50,
        max_iter=3,
        n_toys=n_toys,
        random_state=seed,
        stopping=None if whole else stopping,
    ).fit(rng.exponential(size=(300, 1)), data)
    values, p = test.calibrate().values, test.p_value()
    if not whole:
        return len(values), p, np.nan
    for n in range(stopping, n_toys + 1):
        k = count_exceedances(values[:n], test.statistics_, test._fitted.aggregation)
        if k >= stopping:
            break
    return n, counted_p_value(k, n, stopping), p


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--null-sets", type=int, default=400)
    parser.add_argument("--signal-sets", type=int, default=30)
    parser.add_argument("--stopping", type=int, default=10)
    parser.add_argument("--toys", type=int, default=999)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    table = Table(TABLES / "stopping.csv", ["case", "n_sets", "stopping", "n_toys"])
    for case, clump in CLUMPS.items():
        n_sets = args.signal_sets if clump else args.null_sets
        cell = {"case": case, "n_sets": n_sets, "stopping": args.stopping, "n_toys": args.toys}
        if table.has(**cell):
            continue
        done = Parallel(args.jobs)(
            delayed(one_set)(clump, seed, args.toys, args.stopping, clump > 0) for seed in range(n_sets)
        )
        toys, stopped, whole = np.array(done).T
        row = {**cell, "mean_toys": round(float(toys.mean()), 1), "saving": round(args.toys / float(toys.mean()), 2)}
        for level in LEVELS:
            row[f"rate_{level}"] = round(float(np.mean(stopped <= level + 1e-9)), 4)
            row[f"rate_{level}_all_toys"] = round(float(np.mean(whole <= level + 1e-9)), 4) if clump else ""
            row[f"band_{level}"] = "" if clump else "{:.4f}-{:.4f}".format(*binomial_band(level, n_sets))
        table.add(row)


if __name__ == "__main__":
    main()
