"""False alarms where reference weights grow towards a tail or have both signs, with the modes that take weights.

Run: python benchmarks/weights.py [--sets 1000] [--jobs 2]. The reference is exponential. Its weights are e^(b x), which
have no upper bound for b > 0, and the data follow them; or a fifth of them are -1, the others 1, and the data are
exponential; or weights are uniform and know nothing of twenty normal features. Rates of p at or below 5 and 10 % over
independent sets, with 19 toys each. "split" refuses a set in which one row is expected in too many toys: the share of
such sets stands beside the rates of the others, where there are a hundred. Resumable; writes
benchmarks/tables/weights.csv.
"""

import argparse
import warnings

import numpy as np
from common import TABLES, Table
from joblib import Parallel, delayed

from sparker import SparKerTest

SIGNS, APART = "1 or -1", "0.2 to 1, d = 20"
CASES = [
    ("-0.4", 600, 30),
    ("-1", 2000, 300),
    (APART, 400, 100),
    ("0.4", 600, 30),
    ("0.3", 2000, 30),
    ("0.2", 2000, 100),
    ("0.4", 6000, 30),
    ("0.2", 6000, 30),
    (SIGNS, 600, 30),
    (SIGNS, 2000, 100),
]


def draw(of: str, n_reference: int, n_data: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reference, data and weights of the reference."""
    if of == APART:
        reference, data = rng.normal(size=(n_reference, 20)), rng.normal(size=(n_data, 20))
        return reference, data, rng.uniform(0.2, 1, n_reference)
    reference = rng.exponential(size=(n_reference, 1))
    if of == SIGNS:
        return reference, rng.exponential(size=(n_data, 1)), np.where(rng.random(n_reference) < 0.2, -1.0, 1.0)
    slope = float(of)
    return reference, rng.exponential(1 / (1 - slope), size=(n_data, 1)), np.exp(slope * reference[:, 0])


def p_value(calibration: str, of: str, n_reference: int, n_data: int, seed: int) -> float:
    """The p of one null set; nan where it was refused."""
    reference, data, weight = draw(of, n_reference, n_data, np.random.default_rng([seed, n_reference, n_data]))
    test = SparKerTest(n_toys=19, calibration=calibration, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return float(test.fit(reference, data, sample_weight=weight).p_value())
        except ValueError as error:
            if "largest weight" not in str(error):
                raise
            return np.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    table = Table(TABLES / "weights.csv", ["calibration", "weights", "n_reference", "n_data", "n_sets"])
    for of, n_reference, n_data in CASES:
        for calibration in ("bootstrap",) if of == SIGNS else ("split", "bootstrap"):
            key = {"calibration": calibration, "weights": of, "n_reference": n_reference, "n_data": n_data}
            if table.has(**key, n_sets=args.sets):
                continue
            p = np.array(Parallel(args.jobs)(delayed(p_value)(*key.values(), seed) for seed in range(args.sets)))
            kept = p[np.isfinite(p)]
            row = {"refused": f"{np.mean(np.isnan(p)):.4f}"}
            for level in (5, 10):
                row[f"rate_{level}"] = f"{np.mean(kept <= level / 100 + 1e-9):.4f}" if len(kept) >= 100 else ""
            table.add({**key, "n_sets": args.sets, **row})


if __name__ == "__main__":
    main()
