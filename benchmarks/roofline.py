"""How near a pass comes to what the machine allows.

Run on an idle machine: python benchmarks/roofline.py [--repeats 20]. Measured here, on one thread: the bandwidth of
reading rows from memory, the float32 rate of matrix products (a multiplication and an addition are two operations), and
the rate of the package's own vectorised float32 exp in the cache, which is faster than NumPy's. A pass over n rows, d
features and M kernels (value, gradient, Hessian, with the gate) has to read n (d + 2) numbers, to take n (M + 1)
exponentials, and to do n M (6 d + M + 20) operations: distance and gradient are a subtraction and a multiply-add each
for every feature, half of the symmetric Hessian is M + 1, and about 20 make gate, f, slopes and curvature. With matrix
products the two cost 4 d. The limit is the longer of the reading and of the sum of the other two. Writes
benchmarks/tables/roofline.csv.
"""

import argparse

import numba
import numpy as np
from common import TABLES, Table
from speed_cases import CASES, Case, make_pass, shortest
from threadpoolctl import threadpool_limits

from sparker._backends import MATMUL_FEATURES
from sparker._kernels_numba import _FAST, _exp, _table


@numba.njit(fastmath=_FAST, error_model="numpy")
def exp(x: np.ndarray, out: np.ndarray) -> None:
    """Exponentials of an array that stays in the cache, a thousand times."""
    table = _table(x)
    for _ in range(1000):
        for b in range(len(x)):
            out[b] = _exp(x[b], table)


def machine(repeats: int) -> dict[str, float]:
    """Numbers read, operations, and exponentials a second."""
    large, square = np.ones(50_000_000, np.float32), np.ones((1500, 1500), np.float32)
    x = np.linspace(-20, 0, 512, dtype=np.float32)
    out = np.empty_like(x)
    exp(x, out)
    functions = {"read": large.max, "product": lambda: square @ square, "exp": lambda: exp(x, out)}
    with threadpool_limits(1):
        seconds = shortest(functions, repeats)
    return {
        "read": large.size / seconds["read"],
        "product": 2 * 1500**3 / seconds["product"],
        "exp": 1000 * x.size / seconds["exp"],
    }


def limit(case: Case, rates: dict[str, float]) -> float:
    """Seconds that the machine needs for a pass."""
    n, d, m = case.n_rows, case.n_features, case.n_kernels
    read = n * (d + 2) / rates["read"]
    operations = n * m * ((4 if d > MATMUL_FEATURES else 6) * d + m + 20)
    return max(read, operations / rates["product"] + n * (m + 1) / rates["exp"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    (TABLES / "roofline.csv").unlink(missing_ok=True)
    table = Table(TABLES / "roofline.csv", ["case"])
    rates = machine(args.repeats)
    for case in CASES:
        taken = shortest({"pass": make_pass(case)}, args.repeats)["pass"]
        allowed = limit(case, rates)
        table.add(
            {
                "case": case.name,
                "limit_ms": round(1e3 * allowed, 3),
                "taken_ms": round(1e3 * taken, 3),
                "share_of_limit": round(allowed / taken, 3),
                "read_gb_s": round(4e-9 * rates["read"], 1),
                "product_gflop_s": round(1e-9 * rates["product"], 1),
                "exp_per_ns": round(1e-9 * rates["exp"], 2),
            }
        )


if __name__ == "__main__":
    main()
