"""Whether a calibration that is killed again and again ends with the numbers of one that was not.

Run: python benchmarks/resume.py [--kills 10] [--toys 6000]. A process calibrates a small search into a file; it gets
SIGKILL at a random moment, and another goes on from the file, until it has been killed so many times; the last is left
to end. Then every array of the file is compared, bit for bit, with those of a calibration that was not killed. Writes
benchmarks/tables/resume.csv.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import TABLES, Table

from sparker import NullDistribution, SparKerTest
from sparker._null import ARRAYS


def calibrate(path: Path, n_toys: int) -> NullDistribution:
    rng = np.random.default_rng(0)
    test = SparKerTest(n_kernels=2, n_widths=4, n_candidates=50, max_iter=3, n_toys=n_toys, random_state=0)
    return test.fit(rng.exponential(size=(300, 1)), rng.exponential(size=(100, 1))).calibrate(path)


def toys_in(path: Path) -> int:
    return len(NullDistribution.load(path)) if path.exists() else 0


def equal(a: NullDistribution, b: NullDistribution) -> bool:
    arrays = all(getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in ARRAYS)
    return arrays and (a.failures, a.origin) == (b.failures, b.origin)


def kill_once(path: Path, n_toys: int, wait: float) -> None:
    """Start a calibration, and kill it so many seconds after it has written something."""
    before = toys_in(path)
    process = subprocess.Popen([sys.executable, __file__, "--child", str(path), "--toys", str(n_toys)])
    while process.poll() is None and toys_in(path) == before:
        time.sleep(0.002)
    time.sleep(wait)
    process.kill()
    process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--toys", type=int, default=6000)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        calibrate(args.child, args.toys)
        return
    rng = np.random.default_rng()
    output = TABLES / "resume.csv"
    output.unlink(missing_ok=True)
    table = Table(output, ["kill"])
    with tempfile.TemporaryDirectory() as folder:
        killed, whole = Path(folder) / "killed.npz", Path(folder) / "whole.npz"
        want = calibrate(whole, args.toys)
        for kill in range(args.kills):
            wait = float(rng.uniform(0, 0.5))
            kill_once(killed, args.toys, wait)
            partial = NullDistribution.load(killed)
            n = len(partial)
            same = partial.values.tobytes() == want.values[:n].tobytes()
            table.add({"kill": kill, "seconds_after_a_write": round(wait, 3), "toys_in_file": n, "equal_so_far": same})
        got = calibrate(killed, args.toys)
        same = equal(got, want) and equal(NullDistribution.load(killed), want)
        table.add({"kill": "none", "seconds_after_a_write": "", "toys_in_file": len(got), "equal_so_far": same})


if __name__ == "__main__":
    main()
