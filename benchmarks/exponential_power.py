"""Power at 5 % of the defaults on the one-dimensional exponential benchmark, averaged over references.

Run: python benchmarks/exponential_power.py [--references 5] [--null 300] [--signal 200] [--jobs 2]. For each reference
of 10 000 rows, null and signal data come from the generator and meet the same reference (expected_count = 2000); the
power is the share of signal data whose aggregate p among the null data is at most 0.05. Single references differ by
0.15: only the mean is quoted. Resumable; writes benchmarks/tables/exponential_power.csv. Parameters of the test may be
overridden, for ablations: --set n_kernels=5 --set competition=False --output other.csv.
"""

import argparse
import ast
from pathlib import Path
from typing import Any

import numpy as np
from common import TABLES, Table, standard_error
from joblib import Parallel, delayed

from sparker import SparKerTest
from sparker._aggregation import Rule, aggregate
from sparker._results import counted_p_value
from sparker.datasets import make_exponential

SIGNALS = ("bulk", "tail", "extreme", "broad")
STREAMS = {None: 0, **{name: i + 1 for i, name in enumerate(SIGNALS)}}


def statistics(reference_seed: int, signal: str | None, toy: int, params: dict[str, Any]) -> np.ndarray:
    """Statistic of one data sample against the reference of this seed."""
    reference = make_exponential(None, random_state=np.random.default_rng([reference_seed, 0])).reference
    rng = np.random.default_rng([reference_seed, 1, STREAMS[signal], toy])
    data = make_exponential(signal, n_reference=1, random_state=rng).data
    params = {"expected_count": 2000, "random_state": toy, **params}
    return SparKerTest(**params).fit(reference.astype(np.float32), data=data.astype(np.float32)).statistics_


def power(null: np.ndarray, signal: np.ndarray, rule: Rule) -> float:
    """Share of signal rows whose aggregate p among the null rows is at most 0.05."""
    hits = 0
    for row in signal:
        observed, toys = aggregate(null, row, rule)
        hits += counted_p_value(int(np.sum(toys >= observed - 1e-9)), len(null)) <= 0.05
    return hits / len(signal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--first", type=int, default=100, help="seed of the first reference")
    parser.add_argument("--null", type=int, default=300)
    parser.add_argument("--signal", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--output", type=Path, default=TABLES / "exponential_power.csv")
    args = parser.parse_args()
    params = {name: ast.literal_eval(value) for name, value in (item.split("=", 1) for item in args.set)}
    test = SparKerTest(**params)
    rule = Rule(test.aggregation, test._make_statistic().entry_weights)
    table = Table(args.output, ["reference", "n_null", "n_signal"])
    for seed in range(args.first, args.first + args.references):
        if table.has(reference=seed, n_null=args.null, n_signal=args.signal):
            continue
        jobs = [(None, i) for i in range(args.null)] + [(s, i) for s in SIGNALS for i in range(args.signal)]
        rows = np.array(Parallel(args.jobs)(delayed(statistics)(seed, s, i, params) for s, i in jobs))
        null, signals = rows[: args.null], rows[args.null :].reshape(len(SIGNALS), args.signal, -1)
        found = {name: power(null, sample, rule) for name, sample in zip(SIGNALS, signals, strict=True)}
        table.add({"reference": seed, "n_null": args.null, "n_signal": args.signal, **found})
    seeds = {str(seed) for seed in range(args.first, args.first + args.references)}
    for name in SIGNALS:
        found = [float(row[name]) for row in table.rows if row["reference"] in seeds]
        print(f"{name:8s} {np.mean(found):.3f} +- {standard_error(found):.3f} (mean over {len(found)} references)")


if __name__ == "__main__":
    main()
