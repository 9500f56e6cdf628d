"""Try the test on real files: quiet on background, loud on injected anomalies, and pointing at them.

Run: python benchmarks/real_data.py --data FOLDER [--seeds 5] [--toys 199] [--jobs 2]. The folder holds the eight .npz
files that its README describes; without it the program says so and stops. Protocol: reference of 4000 background rows
or half of the background, data of 1000 rows (dimuon 5000), all rows disjoint; a share f of the data is replaced by
anomalies (dimuon: 70, all there are); columns standardised by the pooled rows but for embeddings; shape only. Median
of p and Z, fitted excess against the injected count, share of anomalies among the 50 data rows nearest to the
strongest kernel, seconds of wall time. Resumable; writes benchmarks/tables/real_data.csv (medians) and
real_data_runs.csv (each run).
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from common import TABLES, Table

from sparker import SparKerTest

FRACTIONS = (0.0, 0.02, 0.05)
EMBEDDINGS = ("svhn_resnet18", "agnews_minilm", "sms_spam_minilm")
FILES = ("htru2_pulsars", "magic_gamma", "shuttle", "nsl_kdd_train20", "dimuon_sm_eft_a", *reversed(EMBEDDINGS))


def load(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Background and anomalies of a file."""
    with np.load(folder / f"{name}.npz") as file:
        if name == "dimuon_sm_eft_a":
            return file["sm"][:, :5], file["eft"][file["eft"][:, 5] > 300][:, :5]
        if name == "agnews_minilm":
            return file["embedding"][file["label"] != 4], file["embedding"][file["label"] == 4]
        anomaly = file["anomaly"]
        if name == "nsl_kdd_train20":
            anomaly = anomaly[file["anomaly_category"] == "probe"]
        return file["background"], anomaly


def draw(folder: Path, name: str, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reference, data, and which data rows are anomalies."""
    background, anomaly = load(folder, name)
    rng = np.random.default_rng([seed, FILES.index(name)])
    n_data = 5000 if name == "dimuon_sm_eft_a" else 1000
    return draw_pair(background, anomaly, n_data, fraction, rng, name)


def draw_pair(
    background: np.ndarray, anomaly: np.ndarray, n_data: int, fraction: float, rng: np.random.Generator, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Disjoint rows of the reference and of the data, and which of the data are anomalies."""
    n_reference = min(4000, len(background) // 2)
    n_anomaly = round(fraction * n_data)
    rows = rng.permutation(len(background))
    reference = background[rows[:n_reference]].astype(np.float32)
    normal = background[rows[n_reference : n_reference + n_data - n_anomaly]]
    data = np.concatenate([normal, anomaly[rng.permutation(len(anomaly))[:n_anomaly]]]).astype(np.float32)
    if name not in EMBEDDINGS:
        pooled = np.concatenate([reference, data]).astype(np.float64)
        mean, deviation = pooled.mean(axis=0), pooled.std(axis=0)
        deviation[deviation == 0] = 1.0
        reference, data = (((x - mean) / deviation).astype(np.float32) for x in (reference, data))
    return reference, data, np.arange(len(data)) >= len(normal)


def run(folder: Path, name: str, fraction: float, seed: int, n_toys: int, n_jobs: int) -> dict[str, float]:
    """One test."""
    reference, data, is_anomaly = draw(folder, name, fraction, seed)
    start = time.perf_counter()
    test = SparKerTest(n_toys=n_toys, random_state=seed, n_jobs=n_jobs).fit(reference, data=data)
    result = test.result()
    seconds = time.perf_counter() - start
    strongest = test.kernel_table(n_nearest=50)[0]
    return {
        "p": result.pvalue,
        "z": result.zscore,
        "injected": int(is_anomaly.sum()),
        "excess": sum(k.excess for k in test.kernel_table() if k.sign > 0),
        "near_share": float(is_anomaly[strongest.nearest_rows].mean()),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the .npz files")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--toys", type=int, default=199)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=TABLES / "real_data.csv")
    args = parser.parse_args()
    missing = [name for name in FILES if not (args.data / f"{name}.npz").exists()]
    if missing:
        sys.exit(f"{args.data} lacks {', '.join(missing)} (.npz): pass the folder of the real data sets with --data.")
    runs = Table(args.output.with_name(args.output.stem + "_runs.csv"), ["file", "fraction", "seed", "n_toys"])
    for name in FILES:
        for fraction in FRACTIONS:
            for seed in range(args.seeds):
                cell = {"file": name, "fraction": fraction, "seed": seed, "n_toys": args.toys}
                if not runs.has(**cell):
                    found = run(args.data, name, fraction, seed, args.toys, args.jobs)
                    runs.add({**cell, **{key: round(value, 4) for key, value in found.items()}})
    args.output.unlink(missing_ok=True)
    summary = Table(args.output, ["file", "fraction"])
    for name in FILES:
        for fraction in FRACTIONS:
            rows = [r for r in runs.rows if r["file"] == name and r["fraction"] == str(fraction)]
            medians = {
                key: round(float(np.median([float(r[key]) for r in rows])), 4)
                for key in ("p", "z", "injected", "excess", "near_share", "seconds")
            }
            summary.add({"file": name, "fraction": fraction, "n_seeds": len(rows), "n_toys": args.toys, **medians})
    for fraction, good in ((0.05, lambda p: p < 0.01), (0.0, lambda p: p > 0.05)):
        count = sum(good(float(r["p"])) for r in summary.rows if r["fraction"] == str(fraction))
        print(f"f = {fraction}: median p {'< 0.01' if fraction else '> 0.05'} on {count} of {len(FILES)} files")


if __name__ == "__main__":
    main()
