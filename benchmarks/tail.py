"""Whether the 95 % band of a fitted tail covers the Z that is counted on two hundred times as many toys.

Run: python benchmarks/tail.py [--toys 100000] [--set-size 500] [--reference 300] [--data 100] [--jobs 1]. The toys are
cut into disjoint sets; each set extrapolates to p = 1e-3 and 1e-4. Two nulls: chi-squared with 10 degrees of freedom,
where a hundred times as many other draws are counted, and that of a small search (permutation toys of one exponential
pair, at several widths), whose toys are kept in benchmarks/runs/ and resumed from there; there the count is over all
toys. Of the search both the aggregate and each entry alone are studied. The counted Z has an error of its own, the same
for all sets: ``count_error``. Writes benchmarks/tables/tail.csv; cells that stand in it are not run again.
"""

import argparse
from pathlib import Path

import numpy as np
from common import TABLES, Table, binomial_band
from joblib import Parallel, delayed
from scipy import stats

from sparker import SparKerTest
from sparker._aggregation import RULES, counted_log_p
from sparker._tail import MODELS, extrapolate

RUNS = Path(__file__).parent / "runs"
RULE = "power-mean"
NEIGHBOURS = 5  # rows on either side of the quantile that serve as observed ones
WIDEST = {1e-3: 0.5, 1e-4: 0.9}


def search_null(args: argparse.Namespace) -> np.ndarray:
    """Toys of a small search, from their file as far as they are there."""
    rng = np.random.default_rng(0)
    reference, data = rng.exponential(size=(args.reference, 1)), rng.exponential(size=(args.data, 1))
    test = SparKerTest(
        n_kernels=2,
        n_widths=4,
        n_candidates=50,
        max_iter=3,
        n_toys=args.toys,
        random_state=0,
        n_jobs=args.jobs,
        verbose=1,
    ).fit(reference, data)
    RUNS.mkdir(exist_ok=True)
    return test.calibrate(RUNS / f"tail_{args.reference}_{args.data}.npz").values


def observed_rows(null: np.ndarray, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows near the quantile of the aggregate of counted p, and their counted Z among all rows."""
    aggregate = RULES[RULE][1](counted_log_p(null))
    rank = round(p * len(null))
    ranks = np.arange(rank - NEIGHBOURS, rank + NEIGHBOURS + 1)
    return np.argsort(-aggregate)[ranks - 1], stats.norm.isf(ranks / len(null))


def observed_for(of: str, null: np.ndarray, n_sets: int, p: float) -> tuple[np.ndarray, np.ndarray]:
    """One observed row for each set, and its Z by counting."""
    if of == "entry":
        quantile = np.sort(null, axis=0)[-round(p * len(null))]
        return np.tile(quantile, (n_sets, 1)), np.full(n_sets * null.shape[1], stats.norm.isf(p))
    rows, z = observed_rows(null, p)
    at = []
    for i in range(n_sets):  # a set must not hold the row that it is asked about
        own = rows * n_sets // len(null) == i
        at.append(next(j for j in np.roll(np.arange(len(rows)), -i) if not own[j]))
    return null[rows[at]], z[at]


def one_set(toys: np.ndarray, observed: np.ndarray, model: str, seed: int) -> np.ndarray:
    """Z, low and high at each row's entries and aggregate; NaN where the fit was refused."""
    found = extrapolate(toys, observed, RULE, model, np.random.default_rng(seed))
    return np.stack([found.z, found.low, found.high], axis=-1)


def add_row(table: Table, cell: dict, found: np.ndarray, truth: np.ndarray) -> None:
    """Summarise (n, 3) triples of Z, low and high."""
    z, low, high = found.T
    made = np.isfinite(z)
    n = int(made.sum())
    covered = (low <= truth) & (truth <= high)
    half = 0.5 * (high - low)
    table.add(
        {
            **cell,
            "n": len(z),
            "refused": len(z) - n,
            "coverage": round(float(covered[made].mean()), 3) if n else "",
            "band_of_0.95": "{:.3f}-{:.3f}".format(*binomial_band(0.95, n)) if n else "",
            "median_half_width": round(float(np.median(half[made])), 3) if n else "",
            "share_within_width": round(float(np.mean(half[made] <= WIDEST[cell["p"]])), 3) if n else "",
            "count_error": round(
                float(np.sqrt(cell["p"] / cell["counted"]) / stats.norm.pdf(stats.norm.isf(cell["p"]))), 3
            ),
            "mean_error": round(float(np.mean((z - truth)[made])), 3) if n else "",
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toys", type=int, default=100_000)
    parser.add_argument("--set-size", type=int, default=500)
    parser.add_argument("--reference", type=int, default=300)
    parser.add_argument("--data", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, default=TABLES / "tail.csv")
    args = parser.parse_args()
    table = Table(args.output, ["null", "of", "model", "p"])
    chi2 = np.random.default_rng(1).chisquare(10, size=(args.toys, 1))
    many = np.random.default_rng(2).chisquare(10, size=(100 * args.toys, 1))
    search = search_null(args)
    for name, null, counted in (("chi2", chi2, many), ("search", search, search)):
        kinds = ("entry",) if name == "chi2" else ("aggregate", "entry")
        cases = [(of, p) for of in kinds for p in WIDEST]
        n_sets = len(null) // args.set_size
        sets = np.split(null[: n_sets * args.set_size], n_sets)
        asked, truths = zip(*(observed_for(of, counted, n_sets, p) for of, p in cases), strict=True)
        for model in reversed(MODELS):  # the cheapest first
            cells = [{"null": name, "of": of, "model": model, "p": p} for of, p in cases]
            if all(table.has(**cell) for cell in cells):
                continue
            found = np.array(
                Parallel(args.jobs)(
                    delayed(one_set)(toys, rows, model, i)
                    for i, (toys, rows) in enumerate(zip(sets, np.stack(asked, axis=1), strict=True))
                )
            )
            for k, (cell, truth) in enumerate(zip(cells, truths, strict=True)):
                of_case = found[:, k, -1:] if cell["of"] == "aggregate" else found[:, k, :-1]
                add_row(table, {**cell, "counted": len(counted)}, of_case.reshape(-1, 3), truth)


if __name__ == "__main__":
    main()
