"""Shared by the studies: tables on disk that a killed run resumes from, and binomial bands."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

TABLES = Path(__file__).parent / "tables"


class Table:
    """A CSV file with one row for each finished cell; a cell that stands in it is not run again."""

    def __init__(self, path: Path, keys: list[str]) -> None:
        self.path = path
        self.keys = keys
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))

    def find(self, **cell: Any) -> dict[str, Any] | None:
        """Return the row of a cell that has been run, or None."""
        return next((row for row in self.rows if all(row[key] == str(cell[key]) for key in self.keys)), None)

    def has(self, **cell: Any) -> bool:
        """Whether the cell has been run."""
        return self.find(**cell) is not None

    def add(self, row: dict[str, Any]) -> None:
        """Append a row and write the file."""
        self.rows.append({name: str(value) for name, value in row.items()})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        print("  ".join(f"{name}={value}" for name, value in row.items()), flush=True)


def binomial_band(p: float, n: int, level: float = 0.99) -> tuple[float, float]:
    """Central interval of the observed share in n trials of probability p."""
    low, high = stats.binom.interval(level, n, p)
    return float(low / n), float(high / n)


def standard_error(shares: list[float]) -> float:
    """Standard error of a mean over independent references."""
    return float(np.std(shares, ddof=1) / np.sqrt(len(shares))) if len(shares) > 1 else float("nan")


def most_pairs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each system in each cell the row with the most null pairs."""
    found = {}
    for row in sorted(rows, key=lambda row: int(row["n_null"])):
        found[row["cell"], row["strength"], row["system"]] = row
    return list(found.values())
