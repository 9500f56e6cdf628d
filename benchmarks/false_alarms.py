"""False-alarm rate at a nominal 5 % for every calibration mode and N_R / N_D = 1, 2, 5, 20.

Run: python benchmarks/false_alarms.py [--sets 400] [--jobs 2]. Each cell counts p <= 0.05 over independent null data
sets, each with 19 toys, so that 5 % is a whole number of ranks. Resumable; writes benchmarks/tables/false_alarms.csv.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from common import TABLES, Table, binomial_band
from joblib import Parallel, delayed

from sparker import SparKerTest

N_DATA = 100
N_FEATURES = 2


def one_p_value(mode: str, ratio: int, seed: int) -> float:
    """Return p of one null pair: both samples exponential in each feature."""
    rng = np.random.default_rng([seed, ratio])
    reference = rng.exponential(size=(ratio * N_DATA, N_FEATURES))
    data = rng.exponential(size=(N_DATA, N_FEATURES))
    test = SparKerTest(calibration=mode, n_toys=19, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the bootstrap says that it is blunt
        return test.fit(reference, data).p_value()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=400, help="null data sets in each cell")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=TABLES / "false_alarms.csv")
    args = parser.parse_args()
    table = Table(args.output, ["mode", "ratio", "n_sets"])
    for mode in ("permutation", "split", "bootstrap"):
        for ratio in (1, 2, 5, 20):
            if mode == "split" and ratio == 1:
                continue  # refused: the reference cannot give up N_D rows
            if table.has(mode=mode, ratio=ratio, n_sets=args.sets):
                continue
            p = np.array(Parallel(args.jobs)(delayed(one_p_value)(mode, ratio, seed) for seed in range(args.sets)))
            low, high = binomial_band(0.05, args.sets)
            rate = float(np.mean(p <= 0.05))
            fine = rate <= high if mode == "bootstrap" else low <= rate <= high
            table.add(
                {
                    "mode": mode,
                    "ratio": ratio,
                    "n_sets": args.sets,
                    "n_toys": 19,
                    "rate": round(rate, 4),
                    "band_low": round(low, 4),
                    "band_high": round(high, 4),
                    "inside": fine,
                    "mean_p": round(float(p.mean()), 4),
                }
            )


if __name__ == "__main__":
    main()
