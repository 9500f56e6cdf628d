"""Passes and fits beside those of a plain PyTorch implementation of the same formula.

Run on an idle machine: pip install torch, then OPENBLAS_NUM_THREADS=1 python benchmarks/side_by_side.py [--repeats 5]
[--threads 2]; our passes share blocks out to threads, whose products must be serial, as they are in a fit. The peer
is what a reader of the paper would write: float32, ``torch.cdist``, softmax gate, autograd; a fit of the paper is a
thousand such passes with Adam. Ours are float32, too. All take turns in one run; shortest times. ``ten_toys`` is a pass
for ten toys at once, per toy; ``fit`` is a whole default fit with that many kernels, beside 1000 passes of the peer
(timed over 20). Writes benchmarks/tables/side_by_side.csv.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from common import TABLES, Table
from speed_cases import CASES, Case, make_pass, shortest

from sparker import SparKerTest


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
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
