"""Median significance of a search in one dimension, against the best that is possible (table 1 of SparKer-NPLM).

Run: python benchmarks/search.py [--rows 10000] [--references 5] [--null 3000] [--signal 200] [--jobs 2]
                                 [--backend auto] [--entries]

Null and signal data come from the generator and meet one reference of `rows` rows; Z is that of the aggregate among the
null data, one-sided: counted where at least 10 null data reach it, beyond that from an exponential tail fitted to the
upper 100 aggregates, and marked. Counted p of rivals and of the papers' settings would end there: they get the tail
of those of the defaults. Z_id is that of the true likelihood ratio, from its exact law with a Poisson total.
Means over references of the median over signal data, with standard errors; z_permutation is the median Z of the
package's own test with 499 permutation toys, for 20 signal data. Resumable: entries are kept in benchmarks/runs; writes
benchmarks/tables/search.csv. ``--entries``, of the defaults: Z over Z_id, or 0 below, of entries alone, of each kind of
them, and of all others, to benchmarks/tables/search_entries.csv.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import TABLES, Table, standard_error
from joblib import Parallel, delayed
from scipy import stats
from scipy.special import ndtri_exp

from sparker import SparKerTest, presets
from sparker._aggregation import RULES, Rule, aggregate, extended_log_p
from sparker.datasets import EXPONENTIAL_SIGNALS, make_exponential
from sparker.peers import MMDTest, StaticKernelTest

RUNS = Path(__file__).parent / "runs"
CHUNK = 200
RULES |= {f"{name}, tails": (extended_log_p, RULES[name][1]) for name in ("min", "min-mean")}
COUNTED, UPPER = 10, 100  # null data that reach a row for its p to be counted; those that the tail is fitted to

SYSTEMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sparker": (SparKerTest, {}),
    "SparKer, arXiv:2511.03095": (SparKerTest, presets.SPARKER),
    "SparKer-NPLM, 2000 passes": (SparKerTest, presets.sparker_nplm(n_passes=2000)),
    "static kernels": (StaticKernelTest, {"n_kernels": 100}),
    "MMD": (MMDTest, {}),
}


def draw(n_rows: int, reference_seed: int, signal: str | None, toy: int) -> tuple[np.ndarray, np.ndarray]:
    """The reference of a seed, and data number `toy`."""
    rng = np.random.default_rng([reference_seed, 0])
    reference = make_exponential(None, n_reference=n_rows, random_state=rng).reference
    stream = (None, *EXPONENTIAL_SIGNALS).index(signal)
    rng = np.random.default_rng([reference_seed, 1, stream, toy])
    return reference.astype(np.float32), make_exponential(signal, n_reference=1, random_state=rng).data.astype(
        np.float32
    )


def make(system: str, backend: str, **options: Any) -> Any:
    """The test of a system."""
    kind, params = SYSTEMS[system]
    on_device = {"backend": backend} if kind is SparKerTest else {}
    counting = {} if kind is MMDTest else {"expected_count": 2000}
    return kind(**params, **on_device, **counting, **options)


def one(system: str, backend: str, n_rows: int, reference_seed: int, signal: str | None, toy: int) -> np.ndarray:
    """Entries of one data sample."""
    reference, data = draw(n_rows, reference_seed, signal, toy)
    return make(system, backend, random_state=toy).fit(reference, data=data).statistics_


def entries(system: str, seed: int, signal: str | None, count: int, args: argparse.Namespace) -> np.ndarray:
    """Entries of `count` data samples, computed or read."""
    name = f"search {system} {args.rows} reference {seed} {signal}".replace(" ", "_").replace("/", "-")
    path = RUNS / f"{name}.npy"
    rows = np.load(path) if path.exists() else np.empty((0, 0))
    while len(rows) < count:
        chunk = range(len(rows), min(len(rows) + CHUNK, count))
        draws = (delayed(one)(system, args.backend, args.rows, seed, signal, i) for i in chunk)
        new = np.array(Parallel(args.jobs)(draws))
        rows = new if not len(rows) else np.concatenate([rows, new])
        path.parent.mkdir(exist_ok=True)
        np.save(path, rows)
    return rows[:count]


def log_p(null: np.ndarray, row: np.ndarray, rule: Rule) -> float:
    """Log p of a row among the null rows, beyond their counts from an exponential tail of the aggregate."""
    observed, toys = aggregate(null, row, rule)
    n_reached = int(np.sum(toys >= observed - 1e-9))
    if n_reached >= COUNTED:
        return float(np.log((1 + n_reached) / (1 + len(toys))))
    upper = np.sort(toys)[-UPPER - 1 :]
    return float(np.log(UPPER / len(toys)) - (observed - upper[0]) / np.mean(upper[1:] - upper[0]))


def medians(
    system: str, rule: Rule, signal: str, args: argparse.Namespace, columns: Any = slice(None)
) -> tuple[list[float], bool]:
    """Median Z beside each reference, by all entries or some, and whether a fitted tail was needed."""
    found, beyond = [], False
    for seed in range(300, 300 + args.references):
        null = entries(system, seed, None, args.null, args)[:, columns]
        rows = entries(system, seed, signal, args.signal, args)[:, columns]
        median = np.median([log_p(null, row, rule) for row in rows])
        found.append(float(-ndtri_exp(median)))
        beyond |= bool(median < np.log(COUNTED / args.null))
    return found, beyond


def of_entries(args: argparse.Namespace, ideal: dict[str, float]) -> None:
    """Z over Z_id of parts of the statistic of the defaults."""
    statistic = make("sparker", args.backend)._make_statistic()
    kinds, weights = np.array(statistic._kinds()), statistic.entry_weights
    parts = {"all": kinds != ""}
    for kind in dict.fromkeys(statistic._kinds()):
        parts |= {kind: kinds == kind, f"without {kind}": kinds != kind}
        of_kind = np.flatnonzero(kinds == kind)
        if len(of_kind) > 1:
            parts |= {f"{kind} at width {k + 1}": np.arange(len(kinds)) == i for k, i in enumerate(of_kind)}
    table = Table(TABLES / "search_entries.csv", ["rows", "n_null", "n_signal", "references", "entries"])
    for name, part in parts.items():
        key = {"rows": args.rows, "n_null": args.null, "n_signal": args.signal, "references": args.references}
        if not table.has(**key, entries=name):
            rule = Rule("power-mean", weights[part] / weights[part].sum())
            z = {signal: np.mean(medians("sparker", rule, signal, args, part)[0]) for signal in EXPONENTIAL_SIGNALS}
            ratios = {signal: round(max(float(z[signal]), 0.0) / ideal[signal], 3) for signal in z}
            table.add({**key, "entries": name, **ratios})


def by_permutation(system: str, backend: str, n_rows: int, reference_seed: int, signal: str, toy: int) -> float:
    """Z of the package's own test."""
    reference, data = draw(n_rows, reference_seed, signal, toy)
    test = make(system, backend, n_toys=499, random_state=toy).fit(reference, data=data)
    return float(test.result().zscore)


def ideal_z(signal: str, step: float = 1e-3, size: int = 2**18) -> float:
    """Z of the median likelihood ratio under the signal: sums of log ratios over Poisson numbers of rows.

    The law of such a sum is exact up to the grid of step `step`: its Fourier transform is exp(rate (phi - 1)), with phi
    that of the law of one row.
    """
    f = make_exponential(signal, n_reference=1, random_state=0).true_log_ratio
    count, density = EXPONENTIAL_SIGNALS[signal]
    x = (np.arange(2_000_000) + 0.5) * 2e-5
    place = f(x[:, None]) / step
    below = np.floor(place).astype(int)

    def law(rate: np.ndarray) -> np.ndarray:
        above = place - below  # a value between two points of the grid is shared by them, to keep its mean
        grid = np.bincount(below, rate * (1 - above), size) + np.bincount(below + 1, rate * above, size)
        return np.fft.irfft(np.exp(np.fft.rfft(grid) - rate.sum()), size)

    background = 2000 * np.exp(-x) * 2e-5
    median = np.searchsorted(np.cumsum(law(background + count * density.pdf(x) * 2e-5)), 0.5)
    return float(stats.norm.isf(law(background)[median:].sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--null", type=int, default=3000)
    parser.add_argument("--signal", type=int, default=200)
    parser.add_argument("--permuted", type=int, default=20, help="signal data that are tested by permutation as well")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--backend", default="auto", help="of sparker")
    parser.add_argument("--systems", nargs="*", default=["sparker"], choices=list(SYSTEMS))
    parser.add_argument("--entries", action="store_true", help="of the defaults, one by one")
    args = parser.parse_args()
    table = Table(TABLES / "search.csv", ["system", "rows", "signal", "n_null", "n_signal", "references"])
    ideal = {signal: ideal_z(signal) for signal in EXPONENTIAL_SIGNALS}
    if args.entries:
        of_entries(args, ideal)
        return
    for system in args.systems:
        test = make(system, args.backend)
        name = f"{test.aggregation}, tails"
        rule = Rule(name if name in RULES else test.aggregation, test._make_statistic().entry_weights)
        for signal in EXPONENTIAL_SIGNALS:
            key = {"system": system, "rows": args.rows, "signal": signal, "n_null": args.null}
            key |= {"n_signal": args.signal, "references": args.references}
            if table.has(**key):
                continue
            of_references, beyond = medians(system, rule, signal, args)
            permuted = Parallel(args.jobs)(
                delayed(by_permutation)(system, args.backend, args.rows, 300, signal, i) for i in range(args.permuted)
            )
            z = float(np.mean(of_references))
            table.add(
                {
                    **key,
                    "z": round(z, 3),
                    "error": round(standard_error(of_references), 3),
                    "z_ideal": round(ideal[signal], 3),
                    "ratio": round(z / ideal[signal], 3),
                    "fitted": beyond,
                    "z_permutation": round(float(np.median(permuted)), 2) if permuted else "",
                }
            )


if __name__ == "__main__":
    main()
