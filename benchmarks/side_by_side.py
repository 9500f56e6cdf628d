"""Passes and fits beside those of a plain PyTorch implementation of the same formula, and tests beside other tests.

Run on an idle machine: pip install torch dcor hyppo, then OPENBLAS_NUM_THREADS=1 python benchmarks/side_by_side.py
[passes | tests] [--repeats 5] [--threads 2]; our passes share blocks out to threads, whose products must be serial, as
they are in a fit. The peer is what a reader of the paper would write: float32, ``torch.cdist``, softmax gate, autograd;
a fit of the paper is a thousand such passes with Adam. Ours are float32, too. All take turns in one run, after a pause,
since threads of PyTorch keep their core busy for a while after a pass, and untimed turns; shortest times.
``ten_toys`` is a pass for ten toys at once, per toy; ``fit`` is a whole default fit with that many kernels, beside 1000
passes of the peer (timed over 20). Writes benchmarks/tables/side_by_side.csv.

Tests are whole ones with 99 permutations of 1000 and 1000 rows in five features, on one thread, each in a process of
its own, the second of two runs, with the peak of its memory; static kernels and MMD are those of `sparker.peers`.
Beside them, the mean power at 5 % over the cells of benchmarks/tables/power_judge.csv that both have, where that is
there, of the system and of sparker. Writes benchmarks/tables/tests.csv.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import TABLES, Table
from speed_cases import CASES, Case, make_pass, shortest

from sparker import SparKerTest
from sparker.peers import MMDTest, StaticKernelTest

PAUSE = 0.3  # seconds
LONGEST = 300  # seconds of both runs of a test
N_ROWS, N_FEATURES, N_PERMUTATIONS = 1000, 5, 99


def torch_pass(case: Case, n_threads: int) -> Callable[[], Any]:
    """One step of gradient descent, but for the step."""
    import torch

    torch.set_num_threads(n_threads)
    X, weight, count = map(torch.from_numpy, case.samples())
    generator = torch.Generator().manual_seed(0)
    amplitudes = torch.randn(case.n_kernels, generator=generator, requires_grad=True)
    centers = X[torch.randint(case.n_rows, (case.n_kernels,), generator=generator)].clone().requires_grad_(True)

    def run() -> None:
        amplitudes.grad = centers.grad = None
        log_kernels = -0.5 / case.width**2 * torch.cdist(X, centers) ** 2
        f = (torch.softmax(log_kernels, dim=1) * torch.exp(log_kernels)) @ amplitudes
        loss = torch.sum(weight * torch.expm1(f) - count * f)
        loss.backward()

    run()
    return run


def default_fit(case: Case, n_threads: int) -> Callable[[], Any]:
    X, _, count = case.samples()
    test = SparKerTest(case.n_kernels, random_state=0, n_jobs=n_threads)

    def run() -> None:
        test.fit(X[count == 0], data=X[count == 1])

    run()
    return run


def sparker_test(make: Callable[..., Any]) -> Callable[[np.ndarray, np.ndarray], Any]:
    return lambda x, y: make(n_toys=N_PERMUTATIONS, random_state=0).fit(x, data=y).p_value()


def dcor_test(x: np.ndarray, y: np.ndarray) -> Any:
    import dcor

    return dcor.homogeneity.energy_test(x, y, num_resamples=N_PERMUTATIONS, random_state=0)


def hyppo_test(name: str) -> Callable[[np.ndarray, np.ndarray], Any]:
    def run(x: np.ndarray, y: np.ndarray) -> Any:
        import hyppo.ksample

        return getattr(hyppo.ksample, name)().test(x, y, reps=N_PERMUTATIONS, workers=1, auto=False, random_state=0)

    return run


# Each test, and the name of the same statistic in the power study.
TESTS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "sparker": sparker_test(SparKerTest),
    "static kernels": sparker_test(lambda **given: StaticKernelTest(n_kernels=100, **given)),
    "MMD": sparker_test(MMDTest),
    "energy distance, dcor": dcor_test,
    "energy distance, hyppo": hyppo_test("Energy"),
    "MMD, hyppo": hyppo_test("MMD"),
}


def seconds_and_memory(test: Callable[[np.ndarray, np.ndarray], Any]) -> tuple[float, float]:
    """Of the second run in this process, and the peak of the process in MB."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(N_ROWS, N_FEATURES)) for _ in range(2))
    for _ in range(2):
        start = time.perf_counter()
        test(x, y)
        seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def mean_powers(name: str) -> tuple[float, float] | tuple[str, str]:
    """Of a system and of sparker, over the cells that have both."""
    rows = Table(TABLES / "power_judge.csv", []).rows
    found = {(row["system"], row["cell"], row["strength"]): float(row["power_5"]) for row in rows}
    cells = [key[1:] for key in found if key[0] == name and ("sparker", *key[1:]) in found]
    if not cells:
        return "", ""
    means = [np.mean([found[system, *cell] for cell in cells]) for system in (name, "sparker")]
    return round(float(means[0]), 3), round(float(means[1]), 3)


def tests() -> None:
    (TABLES / "tests.csv").unlink(missing_ok=True)
    table = Table(TABLES / "tests.csv", ["test"])
    for name in TESTS:
        command = [sys.executable, __file__, "--one", name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LONGEST)
        except subprocess.CalledProcessError as error:
            print(f"{name}: left out, {error.stderr.strip().splitlines()[-1]}")
            continue
        except subprocess.TimeoutExpired:
            row = {"test": name, "seconds": f"> {LONGEST // 2}", "peak_mb": ""}
        else:
            seconds, memory = (float(value) for value in done.stdout.split())
            row = {"test": name, "seconds": round(seconds, 3), "peak_mb": round(memory, 1)}
        power, of_sparker = mean_powers(name.partition(",")[0])
        table.add({**row, "mean_power_5": power, "sparker_there": of_sparker})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["passes", "tests"], help="of the study; without it, both")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", choices=TESTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(*seconds_and_memory(TESTS[args.one]))
        return
    if args.part != "passes":
        tests()
    if args.part == "tests":
        return
    try:
        import torch
    except ImportError:
        raise SystemExit("The peer of this study needs PyTorch: pip install torch.") from None
    (TABLES / "side_by_side.csv").unlink(missing_ok=True)
    table = Table(TABLES / "side_by_side.csv", ["case"])
    for case in CASES:
        peer = torch_pass(case, args.threads)
        seconds = shortest(
            {
                "torch": peer,
                "ours": make_pass(case, n_threads=args.threads),
                "ten": make_pass(case, 10, n_threads=args.threads),
                "fit": default_fit(case, args.threads),
                "torch20": lambda peer=peer: [peer() for _ in range(20)],
            },
            args.repeats,
            PAUSE,
        )
        thousand = 50 * seconds["torch20"]
        table.add(
            {
                "case": case.name,
                "threads": args.threads,
                "torch_pass_ms": round(1e3 * seconds["torch"], 2),
                "pass_ms": round(1e3 * seconds["ours"], 3),
                "ratio": round(seconds["torch"] / seconds["ours"], 1),
                "ten_toys_ms": round(100 * seconds["ten"], 3),
                "ratio_ten_toys": round(10 * seconds["torch"] / seconds["ten"], 1),
                "torch_1000_passes_s": round(thousand, 2),
                "fit_s": round(seconds["fit"], 4),
                "ratio_fit": round(thousand / seconds["fit"], 1),
                "torch": torch.__version__,
                "numpy": np.__version__,
            }
        )


if __name__ == "__main__":
    main()
