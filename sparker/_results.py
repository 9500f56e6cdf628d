"""What a test returns: p, Z, their uncertainty, and the numbers at each scale."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[Any]


def counted_p_value(n_exceed: int, n_toys: int) -> float:
    """(1 + number of toys that reach the observed statistic) / (1 + n_toys), never 0.

    Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010) 39.
    """
    return (1 + n_exceed) / (1 + n_toys)


def z_score(p_value: Any) -> Any:
    """One-sided Gaussian significance; `isf` keeps the digits of small p that ``ppf(1 - p)`` loses."""
    return stats.norm.isf(p_value)


def clopper_pearson(n_exceed: int, n_toys: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the probability that a toy reaches the observed statistic."""
    interval = stats.binomtest(n_exceed, n_toys).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def effective_size(weight: Array) -> float:
    """Number of rows of equal weight with the same relative variance, (sum w)^2 / sum w^2 (Kish, Survey Sampling)."""
    weight = weight.astype(np.float64)
    return float(weight.sum() ** 2 / np.square(weight).sum())


@dataclass(frozen=True, slots=True)
class TwoSampleResult:
    """Result of a two-sample test.

    Attributes
    ----------
    statistic : float
        Aggregate over scales (see ``aggregation``); larger means less compatible with the reference.
    pvalue : float
        Probability of such a statistic under the null, in [1 / (n_toys + 1), 1].
    zscore : float
        One-sided Gaussian significance of ``pvalue``; a lower bound where ``at_resolution`` is true.
    interval : tuple of float
        95 % Clopper-Pearson interval of ``pvalue`` from the finite number of toys.
    at_resolution : bool
        No toy reached the observed statistic: Z is "greater than", and more toys may raise it.
    scales : dict of str to ndarray of shape (n_scales,)
        Table of the scales: ``kind``, ``width`` (inf: the whole sample), ``statistic`` and ``pvalue`` (each scale
        alone, not corrected for the others).
    n_toys, n_failed, n_not_converged : int
        Toys; those whose fit was not finite, which count as reaching the observed statistic; those
        whose amplitudes had not converged, which keep their value, as the observed fit would.
    calibration : str
        How the toys were drawn.
    aggregation : str
        Rule that joins the scales.
    n_reference, n_data, n_features : int
        Rows with non-zero weight, and columns.
    expected_count : float or None
        Expected data count under the null; None for a shape-only test.
    seed : int
        The integer from which every random number of the test was drawn.
    version : str
        Version of sparker.
    null_distribution : NullDistribution
        The toys.
    n_effective_reference, n_effective_data : float
        (sum w)^2 / sum w^2 of the rows that the fit uses: as many rows of equal weight say as much. ``"split"`` uses
        fewer than there are.
    """

    statistic: float
    pvalue: float
    zscore: float
    interval: tuple[float, float]
    at_resolution: bool
    scales: dict[str, Array]
    n_toys: int
    n_failed: int
    n_not_converged: int
    calibration: str
    aggregation: str
    n_reference: int
    n_data: int
    n_features: int
    expected_count: float | None
    seed: int
    version: str
    null_distribution: Any = field(repr=False)
    n_effective_reference: float = np.nan
    n_effective_data: float = np.nan

    @property
    def mode(self) -> str:
        """What is compared: "shape only", or "expected count ...": a counting experiment, the count is evidence too."""
        return "shape only" if self.expected_count is None else f"expected count {self.expected_count:g}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the toys as plain Python numbers, lists and strings.

        Returns
        -------
        fields : dict
            By name of attribute. The width of an entry that sees the whole sample is None. Z is infinite where p = 1,
            which JSON has no number for.
        """
        out: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name == "scales":
                value = {name: np.asarray(column).tolist() for name, column in value.items()}
                value["width"] = [width if np.isfinite(width) else None for width in value["width"]]
            if item.name != "null_distribution":
                out[item.name] = list(value) if isinstance(value, tuple) else value
        return out

    def _effective(self) -> list[str]:
        """A line on effective sizes where weights make them differ from the rows."""
        sizes = (self.n_effective_reference, self.n_effective_data)
        unknown = np.isnan(self.n_effective_reference)
        if unknown or self.calibration == "split" or np.allclose(sizes, (self.n_reference, self.n_data)):
            return []
        return ["effective sizes: {:.4g} reference and {:.4g} data rows".format(*sizes)]

    def __str__(self) -> str:
        p, z = f"= {self.pvalue:.4g}", f"= {self.zscore:.2f}"
        if self.at_resolution:
            p, z = f"<= {self.pvalue:.4g}", f"> {self.zscore:.2f}"
        low, high = self.interval
        lines = [
            f"p {p} (95 % interval {low:.2g} to {high:.2g}), Z {z}",
            f"{self.n_reference} reference and {self.n_data} data rows, {self.n_features} features; {self.mode}",
            *self._effective(),
            f"{self.n_toys} toys, {self.calibration}; {self.n_failed} failed; seed {self.seed}",
            f"aggregate over scales ({self.aggregation}): {self.statistic:.3f}",
            "",
            f"{'statistic':>10} {'width':>10} {'value':>10} {'p':>8}",
        ]
        columns = (self.scales[name] for name in ("kind", "width", "statistic", "pvalue"))
        lines += [f"{k:>10} {w:>10.4g} {t:>10.3f} {p:>8.4f}" for k, w, t, p in zip(*columns, strict=True)]
        return "\n".join(lines)
