"""False alarms where reference weights grow towards a tail, with toys of the modes that take weights.

Run: python benchmarks/weights.py [--sets 1000] [--jobs 2]. The reference is exponential, its weights e^(b x), and the
data follow them; rates of p at or below 5 and 10 % over independent sets, with 19 toys each. "split" refuses a set
whose largest weight would use up more than half of the reference: the share of such sets stands beside the rates of the
others, where there are a hundred. Resumable; writes benchmarks/tables/weights.csv.
"""

import argparse
import warnings

import numpy as np
from common import TABLES, Table
from joblib import Parallel, delayed

from sparker import SparKerTest

CASES = [(600, 30, 0.4), (2000, 30, 0.3), (2000, 100, 0.2), (6000, 30, 0.4)]


def p_value(calibration: str, n_reference: int, n_data: int, slope: float, seed: int) -> float:
    """The p of one null set; nan where it was refused."""
    rng = np.random.default_rng([seed, n_reference, n_data])
    reference = rng.exponential(size=(n_reference, 1))
    data = rng.exponential(1 / (1 - slope), size=(n_data, 1))
    test = SparKerTest(n_toys=19, calibration=calibration, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return test.fit(reference, data, sample_weight=np.exp(slope * reference[:, 0])).p_value()
        except ValueError as error:
            if "largest weight" not in str(error):
                raise
            return np.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    table = Table(TABLES / "weights.csv", ["calibration", "n_reference", "n_data", "slope", "n_sets"])
    for n_reference, n_data, slope in CASES:
        for calibration in ("split", "bootstrap"):
            key = {"calibration": calibration, "n_reference": n_reference, "n_data": n_data, "slope": slope}
            if table.has(**key, n_sets=args.sets):
                continue
            cells = [delayed(p_value)(*key.values(), seed) for seed in range(args.sets)]
            p = np.array(Parallel(args.jobs)(cells))
            kept = p[np.isfinite(p)]
            rates = {f"rate_{level}": "" for level in (5, 10)}
            if len(kept) >= 100:
                rates = {f"rate_{level}": round(float(np.mean(kept <= level / 100 + 1e-9)), 4) for level in (5, 10)}
            table.add({**key, "n_sets": args.sets, "refused": round(float(np.mean(np.isnan(p))), 4), **rates})


if __name__ == "__main__":
    main()
