"""Power of sparker and its rivals on every data set, by comparison with null samples drawn like the signal samples.

Run: python benchmarks/power.py judge [--data FOLDER] [--null 300] [--signal 200] [--seed 1] [--jobs 2] [--quick]
                                        [--only CELLS] [--systems NAME ...] [--backend auto]
     python benchmarks/power.py ablation [the same]
     python benchmarks/power.py own [the same]
     python benchmarks/power.py all [the same], one after the other

On two cores the judge takes about four hours, ablation with a hundred pairs of each about three, by the seconds in
their tables.

Every pair is new, reference and data, and the same for all systems. A system's entries are joined by its rule among
one signal row and all null rows; power is the share of signal rows whose p is at most 0.05 (and 0.01). Errors have two
parts: of the signal pairs, binomial or paired over the same pairs, and of the null pairs, by drawing these with
replacement, the same draws for all systems (``resampled``: how many signal pairs were found with each). The second is
as large as the first: with 300 null pairs a level of 5 % is one of 3.7 to 6.3 %. Where a row has none it was computed
before these were kept. Defaults were chosen on seed 0; seed 1 judges. ``--null 600``, say, where cells stand in the
table with fewer null pairs, measures again the cells that are judged and there the systems that may be best; cells in
which the defaults are best are counted for each number by itself.
`own` is the power by the package's own p with 99 toys, for the defaults, beside that of the judge.
Resumable: entries are kept in benchmarks/runs (not under version control), and a row of the table in benchmarks/tables
is not run again; ``hits`` says which signal pairs were found at 5 %. Systems that take long are left out of cells and
strengths in which the best of the others does not find 15 to 95 %.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import power_cells
import power_systems
from common import TABLES, Table, most_pairs
from joblib import Parallel, delayed
from power_cells import Cell
from power_systems import System

from sparker import SparKerTest
from sparker._aggregation import Rule, aggregate
from sparker._statistic import WEIGHTS

RUNS = Path(__file__).parent / "runs"
CHUNK, TIMED = 50, 3  # pairs that are computed before they are kept, and whose time is taken
BEHIND = 0.2  # power by which a system is behind the best that is not measured again with more pairs
DRAWS = 100  # of the null pairs with replacement, for the error that comes from their number


def entries(
    cell: Cell, system: System, strength: float, count: int, args: argparse.Namespace, truth: float = 0.0
) -> np.ndarray:
    """Entries of the first `count` pairs (n, k), computed or read.

    A system that knows the truth knows that of strength `truth`, also where the pair is a null pair.
    """
    known = f" truth {truth:g}" if system.knows_truth else ""
    name = f"{cell.name} {system.computed or system.name} {strength:g}{known} seed {args.seed}"
    path = RUNS / f"{name.replace(' ', '_').replace('/', '-')}.npy"
    rows = np.load(path) if path.exists() else np.empty((0, 0))
    while len(rows) < count:
        chunk = range(len(rows), min(len(rows) + CHUNK, count))
        new = np.array(Parallel(args.jobs)(delayed(_one)(cell, system, strength, truth, i, args) for i in chunk))
        rows = new if not len(rows) else np.concatenate([rows, new])
        path.parent.mkdir(exist_ok=True)
        np.save(path, rows)
    return rows[:count]


def _one(cell: Cell, system: System, strength: float, truth: float, index: int, args: argparse.Namespace) -> np.ndarray:
    pair = cell.pair(strength, index, args.seed)
    if system.knows_truth:
        pair = replace(pair, true_log_ratio=cell.pair(truth, 0, args.seed).true_log_ratio)
    options = {"backend": args.backend} if system.has_backend else {}
    return system.entries(pair, cell.expected_count, index, **options)


def cost(cell: Cell, system: System, strength: float, seed: int) -> float:
    """Median seconds of a system for one pair, over three."""
    spent = []
    for index in range(TIMED):
        pair = cell.pair(strength, index, seed)
        start = time.perf_counter()
        system.entries(pair, cell.expected_count, index)
        spent.append(time.perf_counter() - start)
    return float(np.median(spent))


def reaching(null: np.ndarray, signal: np.ndarray, rule: Rule) -> np.ndarray:
    """Which null rows reach each signal row, shape (n_signal, n_null)."""
    pairs = (aggregate(null, row, rule) for row in signal)
    return np.array([toys >= observed - 1e-9 for observed, toys in pairs])


def p_values(reached: np.ndarray, times: np.ndarray | None = None) -> np.ndarray:
    """The p of each signal row (rows of the result) among the null rows, which may be there several times or not."""
    n_null = reached.shape[1]
    times = np.ones((n_null, 1)) if times is None else times
    return (1 + reached @ times) / (1 + n_null)


def resampled(reached: np.ndarray) -> np.ndarray:
    """How many signal rows are found at 5 % among null rows drawn with replacement, in each of `DRAWS` draws.

    A row keeps its aggregate, whose map depends little on the draw.
    """
    n_null = reached.shape[1]
    times = np.random.default_rng(0).multinomial(n_null, np.full(n_null, 1 / n_null), size=DRAWS).T
    return np.sum(p_values(reached, times) <= 0.05, axis=0)


def judge(cells: list[Cell], systems: list[System], table: Table, args: argparse.Namespace) -> None:
    """One row for each cell, strength and system."""
    for cell in cells:
        shape = cell.pair(0.0, 0, args.seed)
        for system in systems:
            if shape.data.shape[1] > system.max_features or (system.knows_truth and shape.true_log_ratio is None):
                continue
            for strength in cell.measured or cell.strengths:
                key = {"cell": cell.name, "strength": strength, "n_null": args.null, "n_signal": args.signal}
                key["seed"] = args.seed
                if table.has(**key, system=system.name) or not is_needed(table, key, system):
                    continue
                null = entries(cell, system, 0.0, args.null, args, strength)
                signal = entries(cell, system, strength, args.signal, args, strength)
                reached = reaching(null, signal, system.rule)
                p, again = p_values(reached)[:, 0], resampled(reached)
                hits = p <= 0.05
                table.add(
                    {
                        **key,
                        "system": system.name,
                        "power_5": round(float(hits.mean()), 4),
                        "power_1": round(float(np.mean(p <= 0.01)), 4),
                        "error_5": round(float(np.hypot(_error(hits), np.std(again / len(hits)))), 4),
                        "seconds": round(cost(cell, system, strength, args.seed), 4),
                        "hits": np.packbits(hits).tobytes().hex(),
                        "resampled": again.astype("<u2").tobytes().hex(),
                    }
                )


def is_needed(table: Table, key: dict[str, Any], system: System) -> bool:
    """Whether a cell is judged and the system may be best there, as far as its time matters.

    Known with fewer null pairs, if the cell stands in the table with these; else all systems but slow ones are needed.
    """
    if system.name not in {known.name for known in power_systems.ALL}:  # an ablation
        return True
    rows = [row for row in table.rows if all(row[name] == str(key[name]) for name in ("cell", "strength", "seed"))]
    truth = {known.name for known in power_systems.ALL if known.knows_truth}
    before = [row for row in rows if int(row["n_null"]) < key["n_null"] and row["system"] not in truth]
    powers = {row["system"]: float(row["power_5"]) for row in most_pairs(before)}
    if powers:
        may_be_best = system.name == "sparker" or powers.get(system.name, 0.0) > max(powers.values()) - BEHIND
        return is_between(max(powers.values())) and may_be_best
    slow = {known.name for known in power_systems.ALL if known.is_slow}
    same = [row for row in rows if row["n_null"] == str(key["n_null"]) and row["system"] not in truth | slow]
    return not system.is_slow or is_between(max((float(row["power_5"]) for row in same), default=0.0))


def is_between(power: float) -> bool:
    """Whether the power of the best system is such that others can be told from it."""
    return 0.15 <= power <= 0.95


def difference(row: dict[str, str], other: dict[str, str]) -> tuple[float, float]:
    """Power at 5 % of a row less that of another, over the same signal and null pairs, and its error."""
    n = int(row["n_signal"])
    one, two = (unpack(of["hits"], n).astype(float) for of in (row, other))
    again = [np.frombuffer(bytes.fromhex(of["resampled"]), dtype="<u2") / n for of in (row, other)]
    of_null = np.std(again[0] - again[1]) if all(map(len, again)) else 0.0
    return float(np.mean(one - two)), float(np.hypot(np.std(one - two, ddof=1) / np.sqrt(n), of_null))


def unpack(hits: str, n: int) -> np.ndarray:
    """Which of n signal pairs were found at 5 %, from the last column of the table."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(hits), dtype=np.uint8), count=n).astype(bool)


def ablations() -> list[System]:
    """The defaults, and each of them changed alone."""
    make, ruled = power_systems.sparker, power_systems.ruled
    systems = [make()]
    systems += [ruled(f"rule {name}", name) for name in ("power-mean of counts", "min-mean", "min", "product", "mean")]
    none = dict.fromkeys(WEIGHTS, 0.0)
    systems += [ruled("no companions", mean=0, spread=0), ruled("one maximum of scores", rare=0, dense=0)]
    systems += [ruled("no joint score", joint=0), ruled("equal weights", **dict.fromkeys(WEIGHTS, 1.0))]
    systems += [ruled(f"no score where rows are {kind}", **{kind: 0}) for kind in ("rare", "dense")]
    systems += [ruled(f"{kind} alone", **none | {kind: 1.0}) for kind in ("t", "score", "joint")]
    systems.append(ruled("t and companions", score=0, rare=0, dense=0, joint=0))  # the entries that a random start has
    systems.append(make("no gate", competition=False))
    systems += [make(f"loss {loss}", loss=loss) for loss in ("bce", "mse")]
    systems += [make(f"M = {m}", n_kernels=m) for m in (1, 5, 10, 20)]
    systems += [make(f"{n} candidates", n_candidates=n) for n in (100, 300, 3000)]
    systems += [make(f"{n} widths", n_widths=n) for n in (4, 16)]
    systems.append(make("one width, 90 %", n_widths=1, width_init=(1.0, 90), width_final=(1.0, 90)))
    systems += [make(f"alpha = {alpha:g}", alpha=alpha) for alpha in (0.0, 1.0)]
    systems += [make(f"amplitudes to {a:g}", max_amplitude=a) for a in (2.0, 10.0)]
    systems += [make("1 step", max_iter=1), make("20 steps", max_iter=20)]
    annealed = {"start": "random", "max_iter": 20}
    systems += [make(f"annealed, {how}", annealing=how, **annealed) for how in ("linear", "geometric", "logarithmic")]
    systems.append(make("annealed, geometric, long", annealing="geometric", start="random", max_iter=100))
    systems.append(make("Adam, annealed", solver="adam", start="random", annealing="linear", max_iter=100))
    return systems


def own(cells: list[Cell], table: Table, args: argparse.Namespace) -> None:
    """Power by the test's own p with 99 permutation toys, as a user has it, for the defaults."""
    for cell in cells:
        (strength,) = cell.measured or cell.strengths
        key = {"cell": cell.name, "strength": strength, "n_signal": args.signal, "seed": args.seed}
        if not table.has(**key):
            p = np.array(Parallel(args.jobs)(delayed(_own_p)(cell, strength, i, args.seed) for i in range(args.signal)))
            powers = {f"power_{100 * level:g}": float(np.mean(p <= level + 1e-9)) for level in (0.05, 0.01)}
            table.add(key | {name: round(power, 4) for name, power in powers.items()} | {"error_5": _error(p <= 0.05)})


def report_own(table: Table) -> None:
    """Print the means beside those of the judge, over the cells that both have."""
    judged = Table(TABLES / "power_judge.csv", ["cell", "strength", "seed", "system"])
    pairs = [(row, judged.find(**{**row, "system": "sparker"})) for row in table.rows]
    both = [(row, of_judge) for row, of_judge in pairs if of_judge is not None]
    for power in ("power_5", "power_1") if both else ():
        means = np.mean([[float(row[power]) for row in of_cell] for of_cell in both], axis=0)
        print(f"{power}: {means[0]:.2f} by its own p, {means[1]:.2f} by the judge, over {len(both)} cells")


def _own_p(cell: Cell, strength: float, index: int, seed: int) -> float:
    pair = cell.pair(strength, index, seed)
    test = SparKerTest(n_toys=99, expected_count=cell.expected_count, random_state=index)
    return test.fit(pair.reference.astype(np.float32), data=pair.data.astype(np.float32)).p_value()


def _error(hits: np.ndarray) -> float:
    """Binomial standard error of a share."""
    return round(float(np.sqrt(hits.mean() * (1 - hits.mean()) / len(hits))), 4)


def report(table: Table, name: str, first: str) -> None:
    """A row for each system: mean power and difference from the first, over cells where the best one has 0.15 to 0.95.

    Of a system that was run with several numbers of null pairs, the largest counts that has nine tenths of its cells.
    Printed for each number of null pairs: in how many of its cells the first is best or joint best, and where it is
    not, or loses 0.1. It is best where no other was near enough to be measured with that number.
    """
    cells: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    systems: dict[tuple[str, str], set[str]] = {}
    for row in table.rows:
        cells.setdefault((row["cell"], row["strength"], row["n_null"]), {})[row["system"]] = row
        systems.setdefault((row["cell"], row["strength"]), set()).add(row["system"])
    judged, lost = [], []
    for (cell, strength, n_null), of_cell in cells.items():
        rivals = [row for system, row in of_cell.items() if system != "ideal"]
        if len(systems[cell, strength] - {"ideal"}) < 2 or not rivals:
            continue
        top = max(rivals, key=lambda row: (float(row["power_5"]), row["system"] == first))
        if first not in of_cell or not is_between(float(top["power_5"])):
            continue
        minus, error = difference(top, of_cell[first])
        judged.append((cell, strength, n_null))
        lost.append((minus, error, cell, strength, top["system"]))
    summary = Table(TABLES / name, ["system"])
    summary.rows = []
    for system in dict.fromkeys(row["system"] for row in table.rows):
        found = [key for key in judged if system in cells[key]]
        if found:
            numbers = [key[2] for key in found]
            complete = [n_null for n_null in numbers if numbers.count(n_null) > 0.9 * len({key[:2] for key in found})]
            most = max(complete or numbers, key=int)
            pairs = [(cells[key][first], cells[key][system]) for key in found if key[2] == most]
            minus, error = np.array([difference(*pair) for pair in pairs]).T
            summary.add(
                {
                    "system": system,
                    "n_null": most,
                    "cells": len(pairs),
                    "mean_power_5": round(float(np.mean([float(row["power_5"]) for _, row in pairs])), 4),
                    "sparker_minus": round(float(minus.mean()), 4),
                    "error": round(float(np.sqrt(np.sum(error**2)) / len(pairs)), 4),
                    "sparker_better": int(np.sum(minus > 2 * error)),
                    "sparker_worse": int(np.sum(minus < -2 * error)),
                    "mean_seconds": round(float(np.mean([float(row["seconds"]) for _, row in pairs])), 3),
                }
            )
    for n_null in sorted({key[2] for key in judged}, key=int):
        of_cells = [of_cell for key, of_cell in zip(judged, lost, strict=True) if key[2] == n_null]
        joint = sum(minus <= 2 * error for minus, error, *_ in of_cells)
        print(
            f"{n_null} null pairs: {first} best or joint best in {joint} of {len(of_cells)} cells; else, or 0.1 less:"
        )
        for minus, error, *where in sorted(of_cells, reverse=True):
            if minus > min(0.1, 2 * error):
                print(f"  {minus:.3f} +- {error:.3f}", *where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["judge", "ablation", "own", "all"])
    parser.add_argument("--data", type=Path, help="folder with the real data sets; without it, synthetic ones alone")
    parser.add_argument("--null", type=int, default=300)
    parser.add_argument("--signal", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--backend", default="auto", help="of sparker")
    parser.add_argument("--only", default="", help="cells whose name holds this text")
    parser.add_argument("--systems", nargs="*", default=[""], help="the first, and those whose name holds one of these")
    parser.add_argument("--quick", action="store_true", help="60 null and 60 signal pairs, to see that all runs")
    parser.add_argument("--report", action="store_true", help="only make the summary of the table")
    args = parser.parse_args()
    if args.quick:
        args.null = args.signal = 60
    for study in ("judge", "ablation", "own") if args.study == "all" else (args.study,):
        run(study, args)


def run(study: str, args: argparse.Namespace) -> None:
    """One study, with its table and summary."""
    cells = power_cells.synthetic() + (power_cells.real(args.data) if args.data else [])
    systems = power_systems.ALL
    if study != "judge":
        cells, systems = power_cells.ablated(cells), ablations()
    cells = [cell for cell in cells if args.only in cell.name]
    systems = [systems[0], *(system for system in systems[1:] if any(text in system.name for text in args.systems))]
    name = f"power_{study}{'_quick' if args.quick else ''}"
    if study == "own":
        table = Table(TABLES / f"{name}.csv", ["cell", "strength", "n_signal", "seed"])
        if not args.report:
            own(cells, table, args)
        report_own(table)
        return
    table = Table(TABLES / f"{name}.csv", ["cell", "strength", "system", "n_null", "n_signal", "seed"])
    if not args.report:
        judge(cells, systems, table, args)
        if study == "ablation":
            judge([cell for cell in power_cells.ratios() if args.only in cell.name], systems[:1], table, args)
    report(table, f"{name}_summary.csv", systems[0].name)


if __name__ == "__main__":
    main()
