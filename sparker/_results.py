"""What a test returns: p, Z, their uncertainty, and the numbers at each scale."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[Any]


def counted_p_value(n_exceed: int, n_toys: int, stopping: int | None = None) -> float:
    """(1 + number of toys that reach the observed statistic) / (1 + n_toys), never 0.

    Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010) 39. Toys that were drawn until `stopping` of them reached
    it: stopping / n_toys (Besag and Clifford, Biometrika 78 (1991) 301).

    The latter is no smaller than it may be also where an aggregate ranks each row among the rows so far, so that the
    count can go down again when a toy is added. Let the n_toys + 1 rows be exchangeable, and let k_n be the count after
    n toys. That p <= h / n means that the count did not reach h before toy n, hence that k_(n - 1) < h: that the
    observed row is among the upper h of n rows by a map that treats all rows alike, with ties counted against it. The
    probability of that is at most h / n, whatever the counts before; their going down only makes the rule stop earlier.
    """
    if stopping is not None and n_exceed >= stopping:
        return stopping / n_toys
    return (1 + n_exceed) / (1 + n_toys)


def z_score(p_value: Any) -> Any:
    """One-sided Gaussian significance; `isf` keeps the digits of small p that ``ppf(1 - p)`` loses."""
    return stats.norm.isf(p_value)


def clopper_pearson(n_exceed: int, n_toys: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the probability that a toy reaches the observed statistic."""
    interval = stats.binomtest(n_exceed, n_toys).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def negative_binomial_interval(stopping: int, n_toys: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the same probability where toys were drawn until `stopping` of them reached the statistic.

    Its ends are the probabilities at which so few toys, or so many, have a chance of (1 - level) / 2: exact, as that of
    Clopper and Pearson, which stands where the simulation ended before.
    """
    tail = 0.5 * (1 - level)
    low = stats.beta.ppf(tail, stopping, n_toys - stopping + 1)
    high = stats.beta.isf(tail, stopping, n_toys - stopping) if n_toys > stopping else 1.0
    return float(low), float(high)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class TwoSampleResult:
    """Result of a two-sample test.

    Attributes
    ----------
    statistic : float
        Aggregate over scales (see ``aggregation``); larger means less compatible with the reference.
    pvalue : float
        Probability of such a statistic under the null, in [1 / (n_toys + 1), 1]: counted, whatever the tail says.
    zscore : float
        One-sided Gaussian significance of ``pvalue``; a lower bound where ``at_resolution`` is true.
    interval : tuple of float
        95 % interval of ``pvalue`` from the finite number of toys: Clopper-Pearson, or that of the negative binomial
        distribution where toys stopped early.
    at_resolution : bool
        No toy reached the observed statistic: Z is "greater than", and more toys may raise it.
    scales : dict of str to ndarray of shape (n_scales,)
        Table of the scales: ``kind``, ``width`` (inf: the whole sample), ``statistic`` and ``pvalue`` (each scale
        alone, not corrected for the others; where toys stopped early it only describes); of SparKer also ``weight``,
        the share of each in the aggregate. With a tail also ``tail_pvalue``, ``tail_zscore``, ``tail_low`` and
        ``tail_high`` (the band of Z), NaN where its fit was refused, and ``tail_goodness``.
    n_toys, n_failed, n_not_converged : int
        Toys; those whose fit was not finite, which count as reaching the observed statistic; those
        whose amplitudes had not converged, which keep their value, as the observed fit would.
    calibration : str
        How the toys were drawn.
    aggregation : str
        Rule that joins the scales.
    n_reference, n_data, n_features : int
        Rows with non-zero weight, and columns.
    n_effective_reference, n_effective_data : float
        (sum w)^2 / sum w^2 of the rows that the fit uses: as many rows of equal weight say as much. ``"split"`` uses
        fewer than there are.
    expected_count : float or None
        Expected data count under the null; None for a shape-only test.
    seed : int
        The integer from which every random number of the test was drawn.
    version : str
        Version of sparker.
    null_distribution : NullDistribution
        The toys.
    stopping : int or None
        Exceedances at which toys were to stop.
    stopped : bool
        Whether they did.
    tail_model : str or None
        Model of the tail of the scales that the user asked for, or None. That of the aggregate of several scales is
        generalised Pareto in any case.
    tail_pvalue, tail_zscore : float or None
        p and Z of the aggregate from the tail; None where it was not asked for or was refused.
    tail_interval : tuple of float or None
        95 % band of ``tail_zscore``: the error of the fit to so many toys, not that of the model.
    tail_goodness : float or None
        p of the upper-tail Anderson-Darling test of the fit; below 0.05 the fit is refused.
    tail_note : str
        Why the fit was refused; empty where it was not.
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
    n_effective_reference: float
    n_effective_data: float
    expected_count: float | None
    seed: int
    version: str
    null_distribution: Any
    stopping: int | None = None
    stopped: bool = False
    tail_model: str | None = None
    tail_pvalue: float | None = None
    tail_zscore: float | None = None
    tail_interval: tuple[float, float] | None = None
    tail_goodness: float | None = None
    tail_note: str = ""

    @property
    def mode(self) -> str:
        """What is compared: "shape only", or "expected count ...": a counting experiment, the count is evidence too."""
        return "shape only" if self.expected_count is None else f"expected count {self.expected_count:g}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the toys as plain Python numbers, lists and strings.

        Returns
        -------
        fields : dict
            By name of attribute. The width of an entry that sees the whole sample is None, and so are numbers of a
            refused tail. Z is infinite where p = 1, which JSON has no number for.
        """
        out: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name == "scales":
                value = {name: np.asarray(column).tolist() for name, column in value.items()}
                for name in [name for name in value if name == "width" or name.startswith("tail_")]:
                    value[name] = [number if np.isfinite(number) else None for number in value[name]]
            if item.name != "null_distribution":
                out[item.name] = list(value) if isinstance(value, tuple) else value
        return out

    def _effective(self) -> list[str]:
        """A line on effective sizes where weights make them differ from the rows."""
        sizes = (self.n_effective_reference, self.n_effective_data)
        given_up = self.n_data if self.calibration == "split" else 0
        if np.allclose(sizes, (self.n_reference - given_up, self.n_data)):
            return []
        return ["effective sizes: {:.4g} reference and {:.4g} data rows".format(*sizes)]

    def __repr__(self) -> str:
        z = f"zscore{'>' if self.at_resolution else '='}{self.zscore:.3g}"
        return f"TwoSampleResult(pvalue={self.pvalue:.4g}, {z}, n_toys={self.n_toys}, calibration={self.calibration!r})"

    def __str__(self) -> str:
        z = f"> {self.zscore:.2f}, no toy reached it" if self.at_resolution else f"= {self.zscore:.2f}"
        low, high = self.interval
        lines = [
            f"p = {self.pvalue:.4g} (95 % interval {low:.2g} to {high:.2g}), Z {z}",
            *self._tail_lines(),
            f"{self.n_reference} reference and {self.n_data} data rows, {self.n_features} features; {self.mode}",
            *self._effective(),
            f"{self.n_toys} toys, {self.calibration}; {self.n_failed} failed; seed {self.seed}"
            + (f"; stopped at {self.stopping} that reach the statistic" if self.stopped else ""),
            f"aggregate over scales ({self.aggregation}): {self.statistic:.3f}",
            "",
            *_table(self.scales),
        ]
        return "\n".join(lines)

    def _tail_lines(self) -> list[str]:
        if self.tail_model is None:
            return []
        if self.tail_interval is None:
            return [f"tail ({self.tail_model}) refused: {self.tail_note}; Z by counting stands"]
        low, high = self.tail_interval
        return [
            f"tail ({self.tail_model}): p = {self.tail_pvalue:.2g}, Z = {self.tail_zscore:.2f} "
            f"(95 % band {low:.2f} to {high:.2f}), goodness of fit p = {self.tail_goodness:.2g}"
        ]


def _table(scales: dict[str, Array]) -> list[str]:
    """Lines of a table of the p-values, a line for each width and a column for each kind."""
    names, widths = list(map(str, scales["kind"])), np.asarray(scales["width"])
    p = {(name, width): f"{value:.4f}" for name, width, value in zip(names, widths, scales["pvalue"], strict=True)}
    columns = [
        name for name in dict.fromkeys(names) if any((name, width) in p for width in widths[np.isfinite(widths)])
    ]
    lines = ["p of each entry alone, by width", "  ".join(f"{head:>10}" for head in ("width", *columns))]
    for width in dict.fromkeys(widths[np.isfinite(widths)].tolist()):
        cells = (p.get((name, width), "").rjust(max(10, len(name))) for name in columns)
        lines.append("  ".join([f"{width:>10.4g}", *cells]))
    lines += [f"{name:>10}  {cell}" for (name, width), cell in p.items() if np.isinf(width)]
    return lines
