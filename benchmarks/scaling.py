"""How time grows with rows, features, kernels and toys.

Run on an idle machine: python benchmarks/scaling.py [--repeats 3] [--largest]. One of the four is varied alone about
N_R = 20 000, d = 4, 3 kernels, 8 widths; a fit is timed, and for toys their calibration on 1000 rows; float32, one
process, one thread; shortest of the repeats. ``--largest`` adds the largest size of each (10 million rows, 4096
features, 100 kernels, 10 000 toys). Printed are the slopes of log time over log size, between neighbouring sizes and of
the line through all sizes from the one on at which it takes 50 ms, where start-up no longer counts. Writes
benchmarks/tables/scaling.csv; sizes that stand in it are not run again.
"""

import argparse
import time

import numpy as np
from common import TABLES, Table

from sparker import SparKerTest

SIZES = {
    "rows": (1000, 10_000, 100_000, 1_000_000, 10_000_000),
    "features": (1, 4, 16, 64, 256, 1024, 4096),
    "kernels": (1, 3, 10, 30, 100),
    "toys": (16, 100, 1000, 10_000),
}
USUAL = {"rows": 20_000, "features": 4, "kernels": 3, "toys": 0}
COUNTED = 0.05


def seconds(rows: int, features: int, kernels: int, toys: int) -> float:
    """Of one fit, or of its toys, which are then those of a small pool."""
    rng = np.random.default_rng(0)
    rows = 1000 if toys else rows
    reference = rng.normal(size=(rows, features)).astype(np.float32)
    data = rng.normal(size=(rows // 10, features)).astype(np.float32)
    test = SparKerTest(n_kernels=kernels, n_toys=toys or 1, random_state=0)
    start = time.perf_counter()
    test.fit(reference, data=data)
    if toys:
        start = time.perf_counter()
        test.calibrate()
    return time.perf_counter() - start


def slopes(sizes: list[int], times: list[float]) -> float:
    """Slope of the line through the logs, from the first time on that counts."""
    kept = [i for i, t in enumerate(times) if t >= COUNTED]
    if len(kept) < 2:
        return float("nan")
    return float(np.polyfit(np.log([sizes[i] for i in kept]), np.log([times[i] for i in kept]), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--largest", action="store_true")
    args = parser.parse_args()
    table = Table(TABLES / "scaling.csv", ["varied", "size"])
    seconds(1000, 4, 3, 16)  # compiles
    for varied, sizes in SIZES.items():
        chosen = sizes if args.largest else sizes[:-1]
        missing = [size for size in chosen if not table.has(varied=varied, size=size)]
        found = dict.fromkeys(missing, np.inf)
        for _ in range(args.repeats):
            for size in missing:
                if found[size] == np.inf or found[size] < 30:  # long ones once
                    found[size] = min(found[size], seconds(**{**USUAL, varied: size}))
        for size in missing:
            table.add({"varied": varied, "size": size, "seconds": round(found[size], 4)})
    for varied in SIZES:
        rows = sorted((int(row["size"]), float(row["seconds"])) for row in table.rows if row["varied"] == varied)
        at, times = (list(part) for part in zip(*rows, strict=True))
        local = np.diff(np.log(times)) / np.diff(np.log(at))
        print(f"{varied:9s} slope {slopes(at, times):.3f}, between sizes {np.round(local, 2)}")


if __name__ == "__main__":
    main()
