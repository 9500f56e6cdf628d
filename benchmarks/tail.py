"""Whether the 95 % band of a fitted tail covers the Z that is counted on two hundred times as many toys.

Run: python benchmarks/tail.py [--toys 100000] [--set-size 500] [--reference 300] [--data 100] [--jobs 2]. The toys are
cut into disjoint sets; each set extrapolates to p = 1e-3 and 1e-4. Three nulls: chi-squared with 10 degrees of freedom,
where a hundred times as many other draws are counted; that of a small search (permutation toys of one exponential pair,
at several widths), whose toys are kept in benchmarks/runs/ and resumed from there; eight chi-squared scales with a part
in common. There the count is over all other toys, by the very aggregate of the set. ``entry`` is each scale alone.
``low_is_below`` is the share of bands whose lower end does not claim too much; ``count_error`` the error of the counted
Z, the same for all sets. Writes benchmarks/tables/tail.csv; cells that stand in it are not run again.
"""

import argparse
from pathlib import Path

import numpy as np
from common import TABLES, Table
from joblib import Parallel, delayed
from scipy import stats

from sparker import SparKerTest
from sparker._aggregation import Rule
from sparker._tail import MODELS, aggregate_beyond, extrapolate

RUNS = Path(__file__).parent / "runs"
CASES = [
    *(("chi2", model, "power-mean") for model in MODELS),
    ("search", "pareto", "power-mean"),
    ("search", "pareto", "min-mean"),
    ("correlated", "pareto", "power-mean"),
    ("correlated", "pareto", "min-mean"),
    ("search", "gamma", "power-mean"),
    ("search", "chi2", "power-mean"),
]
NEIGHBOURS = 5  # rows on either side of the quantile that serve as observed ones
WIDEST = {1e-3: 0.5, 1e-4: 0.9}


def search_null(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Toys of a small search, from their file as far as they are there, and the weights of its entries."""
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
    null = test.calibrate(RUNS / f"tail_{args.reference}_{args.data}.npz").values
    return null, test.scales_["weight"]


def one_set(null: np.ndarray, start: int, size: int, counted: np.ndarray, model: str, rule: Rule) -> np.ndarray:
    """Z, low, high and counted Z at both p, shape (2, n_entries + 1, 4): of each entry, and of the aggregate."""
    toys, n = null[start : start + size], len(counted)
    aggregates = aggregate_beyond(toys, counted, rule) if toys.shape[1] > 1 else counted[:, 0]
    if counted is null:
        aggregates[start : start + size] = -np.inf  # a set must not hold the row that it is asked about
    order, ordered = np.argsort(-aggregates), np.sort(counted, axis=0)
    out = []
    for k, p in enumerate(WIDEST):
        rank = round(p * n) + start // size % (2 * NEIGHBOURS + 1) - NEIGHBOURS
        at_quantile, at_row = ordered[-round(p * n)], counted[order[rank - 1]]
        rng = np.random.default_rng([start, k])
        found = extrapolate(toys, np.stack([at_quantile, at_row]), rule, model, rng)
        z = np.stack([found.z, found.low, found.high, np.full_like(found.z, stats.norm.isf(p))], axis=-1)
        z[1, :, 3] = stats.norm.isf(rank / (n - size * (counted is null)))
        out.append(np.concatenate([z[0, :-1], z[1, -1:]]))
    return np.array(out)


def add_row(table: Table, cell: dict, found: np.ndarray) -> None:
    """Summarise Z, low, high and counted Z of shape (n, 4)."""
    z, low, high, truth = found.T
    made = np.isfinite(z)
    n = int(made.sum())
    half, p = 0.5 * (high - low), cell["p"]
    row = {**cell, "n": len(z), "refused": len(z) - n}
    for name, value in (
        ("coverage", (low <= truth) & (truth <= high)),
        ("low_is_below", low <= truth),
        ("share_narrow", half <= WIDEST[p]),
    ):
        row[name] = round(float(value[made].mean()), 3) if n else ""
    row["median_half_width"] = round(float(np.median(half[made])), 3) if n else ""
    row["mean_error"] = round(float(np.mean((z - truth)[made])), 3) if n else ""
    row["count_error"] = round(float(np.sqrt(p / cell["counted"]) / stats.norm.pdf(stats.norm.isf(p))), 3)
    table.add(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toys", type=int, default=100_000)
    parser.add_argument("--set-size", type=int, default=500)
    parser.add_argument("--reference", type=int, default=300)
    parser.add_argument("--data", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, default=TABLES / "tail.csv")
    args = parser.parse_args()
    table = Table(args.output, ["null", "of", "model", "rule", "p"])
    rng = np.random.default_rng(1)
    chi2, many = rng.chisquare(10, size=(args.toys, 1)), rng.chisquare(10, size=(100 * args.toys, 1))
    common, own = rng.chisquare(4, size=(args.toys, 1)), rng.chisquare(2, size=(args.toys, 8))
    search, weights = search_null(args)
    nulls = {"chi2": (chi2, many), "search": (search, search), "correlated": (common + own, common + own)}
    for name, model, rule in CASES:
        null, counted = nulls[name]
        joined = Rule(rule, weights if name == "search" else None)
        kinds = ["entry"] if name == "chi2" else ["aggregate"] if rule == "min-mean" else ["aggregate", "entry"]
        cells = [{"null": name, "of": of, "model": model, "rule": rule, "p": p} for of in kinds for p in WIDEST]
        if all(table.has(**cell) for cell in cells):
            continue
        starts = range(0, len(null) - args.set_size + 1, args.set_size)
        tasks = (delayed(one_set)(null, start, args.set_size, counted, model, joined) for start in starts)
        found = np.array(Parallel(args.jobs)(tasks))
        for cell in cells:
            entries = slice(-1, None) if cell["of"] == "aggregate" else slice(0, -1)
            of_cell = found[:, list(WIDEST).index(cell["p"]), entries].reshape(-1, 4)
            add_row(table, {**cell, "counted": len(counted)}, of_cell)


if __name__ == "__main__":
    main()
