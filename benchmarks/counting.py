"""Counting experiments: a rate excess of 40 % at equal shape, and none, with and without the expected count.

Run: python benchmarks/counting.py [--sets 200] [--jobs 1]. Each cell counts p <= 0.05 over independent sets of Poisson
counts, each with 19 toys, so that 5 % is a whole number of ranks. With the expected count N0 = 100 the excess is 4
standard deviations of the count; shape only it is nothing. Four widths and a hundred candidates, for speed. Resumable;
writes benchmarks/tables/counting.csv.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from common import TABLES, Table, binomial_band
from joblib import Parallel, delayed

from sparker import SparKerTest

EXPECTED = 100
N_REFERENCE = 1000


def one_p_value(mode: str, counting: bool, rate: float, seed: int) -> float:
    """Return p of one pair of equal shape whose data have `rate` times the expected count on average."""
    rng = np.random.default_rng([seed, round(100 * rate)])
    reference = rng.normal(size=(N_REFERENCE, 1))
    data = rng.normal(size=(rng.poisson(rate * EXPECTED), 1))
    test = SparKerTest(
        n_widths=4,
        n_candidates=100,
        calibration=mode,
        expected_count=EXPECTED if counting else None,
        n_toys=19,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the bootstrap says that it is blunt
        return test.fit(reference, data).p_value()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=200, help="data sets in each cell")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, default=TABLES / "counting.csv")
    args = parser.parse_args()
    table = Table(args.output, ["mode", "counting", "rate", "n_sets"])
    for mode in ("permutation", "split", "bootstrap"):
        for counting in (True, False):
            for rate in (1.0, 1.4):
                if table.has(mode=mode, counting=counting, rate=rate, n_sets=args.sets):
                    continue
                run = delayed(one_p_value)
                p = np.array(Parallel(args.jobs)(run(mode, counting, rate, seed) for seed in range(args.sets)))
                low, high = binomial_band(0.05, args.sets)
                table.add(
                    {
                        "mode": mode,
                        "counting": counting,
                        "rate": rate,
                        "n_sets": args.sets,
                        "n_toys": 19,
                        "rejected": round(float(np.mean(p <= 0.05)), 4),
                        "null_band_low": round(low, 4),
                        "null_band_high": round(high, 4),
                        "mean_p": round(float(p.mean()), 4),
                    }
                )


if __name__ == "__main__":
    main()
