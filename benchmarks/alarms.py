"""False alarms of every system of the papers and of the rivals that are estimators, each by its own p.

Run: python benchmarks/alarms.py [--sets 1000] [--jobs 2]. Null pairs of 150 and 30 exponential rows in one feature,
others for each system, with 19 permutation toys; the likelihood ratio, which is told of a signal that is not there, has
toys of the generator. SparKer-NPLM has 2000 passes. Rates of p at or below 5 and 10 % and their 99 % limits.
Resumable; writes benchmarks/tables/alarms.csv.
"""

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from common import TABLES, Table
from joblib import Parallel, delayed
from scipy import stats

from sparker import SparKerTest, presets
from sparker.datasets import make_exponential
from sparker.peers import LikelihoodRatioTest, MMDTest, StaticKernelTest

N_REFERENCE, N_DATA, N_TOYS = 150, 30, 19


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A null pair."""
    return rng.exponential(size=(N_REFERENCE, 1)), rng.exponential(size=(N_DATA, 1))


def _likelihood_ratio(**options: Any) -> LikelihoodRatioTest:
    truth = make_exponential("tail", n_reference=1, random_state=0).true_log_ratio
    return LikelihoodRatioTest(truth, calibration=draw, **options)


def _static(n_widths: int, **options: Any) -> StaticKernelTest:
    return StaticKernelTest(n_kernels=20, n_widths=n_widths, **options)


SYSTEMS: dict[str, Callable[..., Any]] = {
    "sparker": SparKerTest,
    "sparker, bce": lambda **options: SparKerTest(loss="bce", **options),
    "sparker, mse": lambda **options: SparKerTest(loss="mse", **options),
    "SparKer, arXiv:2511.03095": lambda **options: SparKerTest(**presets.SPARKER, **options),
    "SparKer-NPLM, 2000 passes": lambda **options: SparKerTest(**presets.sparker_nplm(n_passes=2000), **options),
    "static kernels": lambda **options: _static(1, **options),
    "static kernels, 5 widths": lambda **options: _static(5, **options),
    "MMD": MMDTest,
    "likelihood ratio": _likelihood_ratio,
}


def p_value(system: str, seed: int) -> float:
    """Of one null pair."""
    reference, data = draw(np.random.default_rng([seed, *system.encode()]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that did not converge, which toys do not either
        return float(SYSTEMS[system](n_toys=N_TOYS, random_state=seed).fit(reference, data=data).p_value())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    table = Table(TABLES / "alarms.csv", ["system", "n_sets"])
    for system in SYSTEMS:
        if table.has(system=system, n_sets=args.sets):
            continue
        p = np.array(Parallel(args.jobs)(delayed(p_value)(system, seed) for seed in range(args.sets)))
        row: dict[str, Any] = {"system": system, "n_sets": args.sets}
        for level in (0.05, 0.1):
            row[f"rate_{100 * level:g}"] = round(float(np.mean(p <= level + 1e-9)), 4)
            row[f"limit_{100 * level:g}"] = round(float(stats.binom.ppf(0.99, args.sets, level)) / args.sets, 4)
        table.add(row)


if __name__ == "__main__":
    main()
