"""Rates of small p where the data follow a variation of the reference, not the reference itself.

Run: python benchmarks/systematics.py [--sets 1000] [--jobs 2]. The reference is uniform in d columns, the data have the
density 1 + s (2 x_1 - 1), and `systematic_p_value` is given both as weights, "nominal" and "tilted", with 19 toys each.
Shares of sets with p at most 0.05, 0.1 and 0.2, beside their 99 % limits: of p under the true variation, of the worst
p, which is what a user takes, and of p under the nominal reference, which knows of no distortion. Resumable, a row at
a time; writes benchmarks/tables/systematics.csv.
"""

import argparse

import numpy as np
from common import TABLES, Table
from joblib import Parallel, delayed
from scipy import stats

from sparker import SparKerTest, systematic_p_value

LEVELS = (0.05, 0.1, 0.2)
CASES = ((1, 1200, 100, 0.5), (5, 1200, 100, 0.5), (1, 4000, 800, 0.05), (1, 4000, 800, 0.5))


def p_values(n_features: int, n_reference: int, n_data: int, slope: float, seed: int) -> tuple[float, float, float]:
    """Of one set: under the true variation, the worst, and under the nominal reference."""
    rng = np.random.default_rng([seed, n_features, n_reference])
    reference, data = rng.random((n_reference, n_features)), rng.random((n_data, n_features))
    # of a uniform x, x where it is accepted and 1 - x where it is not
    refused = rng.random(n_data) > (1 + slope * (2 * data[:, 0] - 1)) / 2
    data[refused, 0] = 1 - data[refused, 0]
    test = SparKerTest(calibration="split", n_toys=19, random_state=seed).fit(reference, data=data)
    weights = {"nominal": np.ones(n_reference), "tilted": 1 + slope * (2 * reference[:, 0] - 1)}
    found = systematic_p_value(test, weights)
    return found.pvalues["tilted"], found.pvalue, test.p_value()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    keys = ["n_features", "n_reference", "n_data", "slope", "n_sets"]
    table = Table(TABLES / "systematics.csv", [*keys, "p"])
    for case in CASES:
        key = dict(zip(keys, (*case, args.sets), strict=True))
        if table.has(**key, p="nominal"):
            continue
        jobs = (delayed(p_values)(*case, seed) for seed in range(args.sets))
        for name, p in zip(("true", "worst", "nominal"), np.array(Parallel(args.jobs)(jobs)).T, strict=True):
            row: dict[str, float | str] = {**key, "p": name}
            for level in LEVELS:
                row[f"rate_{level:g}"] = round(float(np.mean(p <= level + 1e-9)), 4)
                row[f"limit_{level:g}"] = round(float(stats.binom.ppf(0.99, args.sets, level)) / args.sets, 4)
            table.add(row)


if __name__ == "__main__":
    main()
