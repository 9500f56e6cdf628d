"""Where power is measured: data sets with a known truth and real ones, each at several strengths of its anomaly.

A cell draws one pair of samples from a seed; reference and data are new in each draw. Real rows are drawn without
replacement, so that reference and data of a pair are disjoint; rows are standardised by the pooled rows, but for
embeddings.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import real_data

from sparker import datasets

Draw = Callable[[float, np.random.Generator], datasets.SamplePair]


@dataclass(frozen=True)
class Cell:
    """A data set at several strengths; strength 0 is the null.

    Attributes
    ----------
    name : str
    draw : callable
        Strength and generator to a `SamplePair`; ``true_log_ratio`` is None where it is not known.
    strengths : tuple of float
        Of the anomaly: a fraction of the data, or what the data set takes.
    expected_count : float or None
        For a counting experiment.
    measured : tuple of float or None
        Those of the strengths at which power is measured; None: all.
    """

    name: str
    draw: Draw
    strengths: tuple[float, ...]
    expected_count: float | None = None
    measured: tuple[float, ...] | None = None

    def pair(self, strength: float, index: int, seed: int) -> datasets.SamplePair:
        """Draw number `index` at a strength; the same for all systems."""
        stream = (0.0, *self.strengths).index(strength)
        key = [seed, stream, index, *self.name.encode()]
        return self.draw(strength, np.random.default_rng(key))


def _exponential(signal: str, strength: float, rng: np.random.Generator) -> datasets.SamplePair:
    return datasets.make_exponential(signal if strength else None, random_state=rng)


def _mixture(change: str, strength: float, rng: np.random.Generator) -> datasets.SamplePair:
    return datasets.make_mixture(change if strength else None, strength=strength or 1.0, random_state=rng)


def _square(strength: float, rng: np.random.Generator) -> datasets.SamplePair:
    counts = (40 * strength, 30 * strength, 20 * strength)
    return datasets.make_square(counts=counts, random_state=rng)


def _clump(strength: float, rng: np.random.Generator, **options: Any) -> datasets.SamplePair:
    return datasets.make_clump(fraction=strength, random_state=rng, **options)


def _uniform(strength: float, rng: np.random.Generator) -> datasets.SamplePair:
    return datasets.make_uniform_anomalies(strength, random_state=rng)


def _glitches(strength: float, rng: np.random.Generator) -> datasets.SamplePair:
    return datasets.make_glitches(strength, random_state=rng)


@cache
def _load(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    return real_data.load(folder, name)


def _real(folder: Path, name: str, strength: float, rng: np.random.Generator) -> datasets.SamplePair:
    background, anomaly = _load(folder, name)
    n_data = 5000 if name == "dimuon_sm_eft_a" else 1000
    reference, data, is_anomaly = real_data.draw_pair(background, anomaly, n_data, strength, rng, name)
    return datasets.SamplePair(
        reference, data, is_anomaly, float(n_data), np.empty((0, data.shape[1])), np.empty(0), None
    )


def synthetic() -> list[Cell]:
    """Data sets whose true likelihood ratio is known."""
    cells = [
        Cell(f"exponential {signal}", partial(_exponential, signal), (1.0,), 2000.0)
        for signal in datasets.EXPONENTIAL_SIGNALS
    ]
    cells.append(Cell("square", _square, (0.3, 0.5, 0.7), 2000.0))
    for change, strengths in (
        ("shift", (0.2, 0.3, 0.4)),
        ("grow", (0.15, 0.2, 0.3)),
        ("sharpen", (0.1, 0.2, 0.3)),
        ("spread", (0.1, 0.2, 0.3)),
    ):
        cells.append(Cell(f"mixture {change}", partial(_mixture, change), strengths))
    cells.append(Cell("uniform", _uniform, (0.01, 0.02, 0.05)))
    cells.append(Cell("glitches", _glitches, (0.005, 0.01, 0.02)))
    for d in (1, 2, 5, 10, 30, 100, 300, 1000):
        cells.append(Cell(f"clump d={d}", partial(_clump, n_features=d), (0.02,)))
    for d in (10, 100, 1000):
        cells.append(Cell(f"clump 2 of {d}", partial(_clump, n_features=d, width=0.2, n_clumped=2), (0.02,)))
    return cells


def real(folder: Path) -> list[Cell]:
    """The files of the real data folder."""
    strong = {"svhn_resnet18": (0.05, 0.1, 0.2)}
    return [Cell(name, partial(_real, folder, name), strong.get(name, (0.01, 0.02, 0.05))) for name in real_data.FILES]


def ablated(cells: list[Cell]) -> list[Cell]:
    """One strength of some of the cells, at which a change can help as well as harm, for the ablations."""
    chosen = {
        "exponential bulk": 1.0,
        "exponential tail": 1.0,
        "exponential extreme": 1.0,
        "exponential broad": 1.0,
        "square": 0.5,
        "mixture shift": 0.3,
        "mixture sharpen": 0.3,
        "mixture spread": 0.2,
        "uniform": 0.01,
        "glitches": 0.02,
        "clump d=5": 0.02,
        "magic_gamma": 0.02,
        "nsl_kdd_train20": 0.01,
        "agnews_minilm": 0.05,
    }
    return [replace(cell, measured=(chosen[cell.name],)) for cell in cells if cell.name in chosen]


def ratios() -> list[Cell]:
    """A clump against references of several sizes."""
    return [
        Cell(f"clump d=5, N_R/N_D={ratio}", partial(_clump, n_features=5, n_reference=1000 * ratio), (0.02,))
        for ratio in (1, 2, 5, 20)
    ]
