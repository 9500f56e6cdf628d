"""Pictures of a test, in the manner of scikit-learn's displays; matplotlib is imported only when something is drawn."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.pipeline import Pipeline

from sparker import _aggregation
from sparker._results import TwoSampleResult
from sparker.planning import PowerCurve

__all__ = ["KernelsDisplay", "NullDistributionDisplay", "PowerCurveDisplay", "ScalesDisplay"]

Array = npt.NDArray[Any]

# Red and blue stay apart for colour-blind readers; where colour is not enough, a sign or a marker says the same.
EXCESS, DEFICIT, NEUTRAL, DARK = "#b2182b", "#2166ac", "#c8c8c8", "#333333"
KINDS: dict[str, dict[str, Any]] = {
    "t": {"label": "$t$ (all kernels)", "color": "#0072b2", "marker": "o", "linestyle": "-"},
    "score": {"label": "score (best kernel)", "color": "#d94801", "marker": "s", "linestyle": "--"},
    "rare": {"label": "score where rows are rare", "color": "#fd8d3c", "marker": "D", "linestyle": ":"},
    "dense": {"label": "score where rows are dense", "color": "#a63603", "marker": "^", "linestyle": (0, (5, 1))},
    "joint": {"label": "joint score", "color": "#7b3294", "marker": "P", "markersize": 8, "linestyle": "None"},
    "mean": {"label": "mean of the sample", "color": "#009e73", "linestyle": "-."},
    "spread": {"label": "spread of the sample", "color": "#cc79a7", "linestyle": (0, (3, 1, 1, 1, 1, 1))},
}
FEW_DECADES = 300.0  # ratio of the ends of an axis with room for three labels in each
KERNEL_LABEL = "kernel, with its excess of rows"


class _ResultDisplay(ABC):
    """A display that a result alone can fill."""

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kwargs: Any) -> Self:
        """Plot a fitted test; simulates its toys on first use.

        Parameters
        ----------
        estimator : SparKerTest or Pipeline
            Fitted test, or a Pipeline that ends in one.
        ax : Axes, default=None
            Where to draw; None makes a figure.
        **kwargs
            For `plot`.

        Returns
        -------
        display : object
            The display, drawn.
        """
        test = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        return cls.from_result(test.result(), ax=ax, **kwargs)

    @classmethod
    def from_result(cls, result: TwoSampleResult, *, ax: Any = None, **kwargs: Any) -> Self:
        """Plot a result.

        Parameters
        ----------
        result : TwoSampleResult
            Result of a test.
        ax : Axes, default=None
            Where to draw; None makes a figure.
        **kwargs
            For `plot`.

        Returns
        -------
        display : object
            The display, drawn.
        """
        return cls._of(result).plot(ax, **kwargs)

    @classmethod
    @abstractmethod
    def _of(cls, result: TwoSampleResult) -> Self:
        """Return the display of a result, not yet drawn."""

    @abstractmethod
    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw."""


@dataclass(kw_only=True, eq=False, repr=False)
class ScalesDisplay(_ResultDisplay):
    """How significant the statistic is at each width, and at all widths together.

    Parameters
    ----------
    widths, p_values : ndarray of shape (n_scales,)
        Kernel width of each entry of the statistic, inf for one that sees the whole sample, and the p-value of this
        entry alone.
    kinds : ndarray of str of shape (n_scales,)
        Kind of each entry, such as "t" and "score".
    p_value : float
        That of the test, which joins all entries.
    n_toys : int
        Number of toys, which sets the smallest p-value that can be seen.

    Attributes
    ----------
    lines_ : dict of str to Line2D
        The p-values of each kind.
    p_value_line_, resolution_line_ : Line2D
        The p-value of the test, and 1 / (n_toys + 1).
    ax_ : Axes
    figure_ : Figure

    See Also
    --------
    NullDistributionDisplay : The toys behind the p-value of the test.
    """

    widths: Array
    p_values: Array
    kinds: Array
    p_value: float
    n_toys: int

    @classmethod
    def _of(cls, result: TwoSampleResult) -> Self:
        return cls(
            widths=result.scales["width"],
            p_values=result.scales["pvalue"],
            kinds=result.scales["kind"],
            p_value=result.pvalue,
            n_toys=result.n_toys,
        )

    def plot(self, ax: Any = None, *, width_unit: str = "units of X", **kwargs: Any) -> Self:
        """Draw p-values over widths, both on logarithmic axes.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw; None makes a figure.
        width_unit : str, default="units of X"
            What widths are measured in, for the label of the axis.
        **kwargs
            For ``Axes.plot``.

        Returns
        -------
        self : ScalesDisplay
            The display, drawn.
        """
        self.ax_, self.figure_ = _axes(ax)
        ax = self.ax_
        resolution = 1 / (self.n_toys + 1)
        self.p_value_line_ = ax.axhline(
            self.p_value, color=DARK, linewidth=1.5, label=f"whole test: $p = {self.p_value:.2g}$", zorder=1
        )
        self.resolution_line_ = ax.axhline(
            resolution,
            color="#888888",
            linestyle=":",
            linewidth=1.5,
            label=f"smallest $p$ of {self.n_toys} toys",
            zorder=1,
        )
        self.lines_ = {}
        for kind in dict.fromkeys(np.asarray(self.kinds).tolist()):
            rows = np.flatnonzero(np.asarray(self.kinds) == kind)
            rows = rows[np.argsort(self.widths[rows])]
            style = {"markersize": 5, "linewidth": 1.2, "label": kind, **KINDS.get(kind, {"marker": "^"}), **kwargs}
            if np.isinf(self.widths[rows]).all():
                self.lines_[kind] = ax.axhline(self.p_values[rows[0]], **style)
            else:
                self.lines_[kind] = ax.plot(self.widths[rows], self.p_values[rows], **style)[0]
        ax.set(xscale="log", yscale="log", ylim=(resolution / 1.6, 1.4))
        _label_decades(ax.xaxis)
        ax.set_xlabel(f"kernel width $\\sigma$ ({width_unit})")
        ax.set_ylabel("$p$-value of one entry alone")
        _legend_above(ax)
        return self


@dataclass(kw_only=True, eq=False, repr=False)
class NullDistributionDisplay(_ResultDisplay):
    """The statistic of the toys, all scales joined, and where the observed one falls.

    Parameters
    ----------
    null : ndarray of shape (n_toys,)
        Aggregate over scales of each toy.
    observed : float
        That of the observed samples.
    p_value, z_score : float
        What it means.
    at_resolution : bool, default=False
        Whether no toy reaches it, which makes p an upper and Z a lower bound.

    Attributes
    ----------
    counts_, edges_ : ndarray of shape (n_bins,), (n_bins + 1,)
        The histogram of the toys.
    bars_ : BarContainer
        Its artists.
    line_ : Line2D
        The observed aggregate.
    text_ : Text
        p and Z.
    ax_ : Axes
    figure_ : Figure

    See Also
    --------
    ScalesDisplay : The p-value at each width.
    """

    null: Array
    observed: float
    p_value: float
    z_score: float
    at_resolution: bool = False

    @classmethod
    def _of(cls, result: TwoSampleResult) -> Self:
        toys = result.null_distribution.values
        rule = _aggregation.Rule(result.aggregation, result.scales.get("weight"))
        observed, null = _aggregation.aggregate(toys, result.scales["statistic"], rule)
        return cls(
            null=null,
            observed=observed,
            p_value=result.pvalue,
            z_score=result.zscore,
            at_resolution=result.at_resolution,
        )

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the histogram of the toys and mark the observed value.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw; None makes a figure.
        **kwargs
            For ``Axes.hist``.

        Returns
        -------
        self : NullDistributionDisplay
            The display, drawn.
        """
        self.ax_, self.figure_ = _axes(ax)
        ax = self.ax_
        style = {"bins": 25, "color": NEUTRAL, "edgecolor": "white", "linewidth": 0.5, **kwargs}
        finite = self.null[np.isfinite(self.null)]
        failed = f", {len(self.null) - len(finite)} failed" if len(finite) < len(self.null) else ""
        self.counts_, self.edges_, self.bars_ = ax.hist(
            finite, label=f"{len(self.null)} toys under the null{failed}", **style
        )
        self.line_ = ax.axvline(self.observed, color=EXCESS, linewidth=2, label="observed")
        z_is = ">" if self.at_resolution else "="
        legend = _legend_above(ax)
        legend.set_title(f"$p = {self.p_value:.2g}$,  $Z {z_is} {self.z_score:.2f}$")
        self.text_ = legend.get_title()
        ax.set_xlabel("test statistic, all widths joined")
        ax.set_ylabel("toys per bin")
        ax.yaxis.get_major_locator().set_params(integer=True)
        return self


@dataclass(kw_only=True, eq=False, repr=False)
class PowerCurveDisplay:
    """Power of a test against the fraction of anomalies, with its 68 % band.

    Parameters
    ----------
    fractions, power, low, high : ndarray of shape (n_fractions,)
        Expected shares of anomalies, the power there, and the ends of its band.
    alpha : float
        Level of the test.

    Attributes
    ----------
    line_ : Line2D
        The power.
    band_ : FillBetweenPolyCollection
        Its band.
    level_line_ : Line2D
        The level: the power where there is no anomaly.
    ax_ : Axes
    figure_ : Figure

    See Also
    --------
    sparker.power_curve : Makes what is shown.
    """

    fractions: Array
    power: Array
    low: Array
    high: Array
    alpha: float

    @classmethod
    def from_curve(cls, curve: PowerCurve, *, ax: Any = None, **kwargs: Any) -> Self:
        """Plot a power curve.

        Parameters
        ----------
        curve : PowerCurve
            What `sparker.power_curve` returned.
        ax : Axes, default=None
            Where to draw; None makes a figure.
        **kwargs
            For `plot`.

        Returns
        -------
        display : PowerCurveDisplay
            The display, drawn.
        """
        low, high = curve.band
        display = cls(fractions=curve.fractions, power=curve.power, low=low, high=high, alpha=curve.alpha)
        return display.plot(ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the power over the fractions.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw; None makes a figure.
        **kwargs
            For ``Axes.plot``.

        Returns
        -------
        self : PowerCurveDisplay
            The display, drawn.
        """
        self.ax_, self.figure_ = _axes(ax)
        ax = self.ax_
        style = {"color": "#0072b2", "marker": "o", "markersize": 5, "linewidth": 1.5, "label": "power", **kwargs}
        (self.line_,) = ax.plot(self.fractions, self.power, **style)
        shade = {"color": self.line_.get_color(), "alpha": 0.25, "linewidth": 0, "label": "68 % band"}
        self.band_ = ax.fill_between(self.fractions, self.low, self.high, **shade)
        self.level_line_ = ax.axhline(
            self.alpha, color="#888888", linestyle=":", linewidth=1.5, label=f"level, {self.alpha:.3g}", zorder=1
        )
        ax.set_ylim(0, 1.02)
        ax.set_xlabel("fraction of anomalies in the data")
        ax.set_ylabel(f"power at the level {self.alpha:.3g}")
        _legend_above(ax)
        return self


@dataclass(kw_only=True, eq=False, repr=False)
class KernelsDisplay:
    """Where data and reference differ: the kernels over the samples, along one feature or two.

    Parameters
    ----------
    reference, data : ndarray of shape (n_reference, n_shown), (n_data, n_shown)
        Rows of the samples in the one or two features that are shown.
    reference_weight : ndarray of shape (n_reference,)
        Weights of the reference rows; they add up to the expected count.
    log_ratio_reference, log_ratio_data : ndarray of shape (n_reference,), (n_data,)
        Fitted log density ratio f of the rows.
    centers, radii : ndarray of shape (n_kernels, n_shown)
        Centre of each kernel, and the distance sigma sqrt(2) from it, where a kernel has fallen to 1/e.
    excess : ndarray of shape (n_kernels,)
        Excess (or deficit, negative) of data rows of each kernel.
    feature_names : sequence of str of length n_shown
        Labels of the axes.

    Attributes
    ----------
    kernels_ : list of Patch
        A span along one feature, an ellipse along two, for each kernel.
    labels_ : list of Text
        The excess of each kernel.
    edges_ : ndarray of shape (n_bins + 1,)
        One feature: the bins of all histograms.
    reference_, fit_ : StepPatch
        One feature: the reference scaled to the expected count, and the same times exp(f).
    data_ : ErrorbarContainer
        One feature: counts of the data, with 68 % Poisson intervals.
    points_ : PathCollection
        Two features: the data, coloured by f.
    colorbar_ : Colorbar
        Two features.
    ax_ : Axes
    figure_ : Figure

    See Also
    --------
    ScalesDisplay : The p-value at each width.
    """

    reference: Array
    data: Array
    reference_weight: Array
    log_ratio_reference: Array
    log_ratio_data: Array
    centers: Array
    radii: Array
    excess: Array
    feature_names: Sequence[str]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        reference: Any,
        data: Any,
        *,
        features: int | str | Sequence[int | str] | None = None,
        feature_names: Sequence[str] | None = None,
        sample_weight: Any = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Plot the kernels of a fitted test; needs no toys.

        Parameters
        ----------
        estimator : SparKerTest or Pipeline
            Fitted test, or a Pipeline that ends in one, after linear steps that have an ``inverse_transform``.
        reference, data : array-like of shape (n_reference, n_features), (n_data, n_features)
            The samples of the fit, before any step of the Pipeline.
        features : int, str, or sequence of one or two of them, default=None
            Columns to show, by number from 0 or by name. None: the only one, or the two in which the strongest kernel
            is furthest from the mean of the reference, in standard deviations.
        feature_names : sequence of str of length n_features, default=None
            Labels; None takes the names of the columns in the fit.
        sample_weight : array-like of shape (n_reference,), default=None
            Weights of the reference; None takes those of the fit.
        ax : Axes, default=None
            Where to draw; None makes a figure.
        **kwargs
            For `plot`.

        Returns
        -------
        display : KernelsDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If `data` are not rows, if there is not one weight for each row of `reference`, if `features` or
            `feature_names` do not fit the columns, or if the steps of the Pipeline are not linear.
        TypeError
            If the test has no kernels.
        """
        test = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        if not hasattr(test, "kernel_table"):
            raise TypeError(f"{type(test).__name__} has no kernels that could be drawn: needed is a SparKerTest.")
        kernels = test.kernel_table()
        centers, reach = _in_input_units(estimator, np.array([k.center for k in kernels]), np.sqrt(2) * test.width_)
        X, D = np.asarray(reference), np.asarray(data)
        if D.ndim != 2:
            raise ValueError(
                f"data has shape {D.shape}: needed are its rows, (n_data, n_features), apart from the reference."
            )
        weight = _weight_of(test, sample_weight, len(X))
        if feature_names is None:
            feature_names = getattr(estimator, "feature_names_in_", [f"feature {j}" for j in range(X.shape[1])])
        if len(feature_names) != X.shape[1]:
            raise ValueError(f"feature_names has {len(feature_names)} names: there are {X.shape[1]} columns.")
        shown = _telling_features(X, centers[0]) if features is None else _columns(features, list(feature_names))
        display = cls(
            reference=X[:, shown],
            data=D[:, shown],
            reference_weight=weight * ((test._fitted.observed.expected or len(D)) / weight.sum()),
            log_ratio_reference=estimator.score_samples(reference),
            log_ratio_data=estimator.score_samples(data),
            centers=centers[:, shown],
            radii=np.tile(reach[shown], (len(centers), 1)),
            excess=np.array([k.excess for k in kernels]),
            feature_names=[str(feature_names[j]) for j in shown],
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax: Any = None, *, n_bins: int = 50, **kwargs: Any) -> Self:
        """Draw histograms along one feature, or the rows of the data along two.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw; None makes a figure.
        n_bins : int, default=50
            Bins along one feature. They leave out the outermost 0.1 % of rows, but never a kernel.
        **kwargs
            For ``Axes.errorbar`` (one feature) or ``Axes.scatter`` (two).

        Returns
        -------
        self : KernelsDisplay
            The display, drawn.
        """
        self.ax_, self.figure_ = _axes(ax)
        ax = self.ax_
        if self.data.shape[1] == 1:
            self._plot_histograms(n_bins, kwargs)
            ax.set_ylabel("rows per bin")
        else:
            self._plot_rows(kwargs)
            ax.set_ylabel(self.feature_names[1])
        ax.set_xlabel(self.feature_names[0])
        return self

    def _plot_histograms(self, n_bins: int, style: dict[str, Any]) -> None:
        ax, x, weight = self.ax_, self.reference[:, 0], self.reference_weight
        self.edges_ = edges = np.linspace(*self._range(), n_bins + 1)
        expected, fitted = (
            np.histogram(x, edges, weights=w)[0] for w in (weight, weight * np.exp(self.log_ratio_reference))
        )
        counts = np.histogram(self.data[:, 0], edges)[0]
        self.reference_ = ax.stairs(expected, edges, fill=True, color=NEUTRAL, label="reference, scaled")
        self.fit_ = ax.stairs(fitted, edges, color="#0072b2", linewidth=1.5, label="reference $\\times\\,e^f$")
        seen = (counts > 0) | (expected > 1)
        low = np.nan_to_num(stats.gamma.ppf(0.16, counts[seen]))  # no lower end where nothing was counted
        spread = [counts[seen] - low, stats.gamma.ppf(0.84, counts[seen] + 1) - counts[seen]]
        style = {"fmt": "o", "markersize": 3, "linewidth": 1, "color": "black", "label": "data", **style}
        self.data_ = ax.errorbar(((edges[1:] + edges[:-1]) / 2)[seen], counts[seen], yerr=spread, zorder=3, **style)
        top = max(counts.max(), expected.max(), 1)
        if top > 100:
            ax.set(yscale="log", ylim=(0.5, 0.5 * (2 * top) ** 1.35))
        else:
            ax.set_ylim(0, 1.35 * top)
        self._mark_spans()
        self.kernels_[0].set_label(KERNEL_LABEL)
        _legend_above(ax)

    def _mark_spans(self) -> None:
        """One bar for each kernel in the upper quarter, which the histograms leave free."""
        self.kernels_, self.labels_ = [], []
        heights = 0.96 - 0.2 / max(len(self.excess), 4) * np.arange(len(self.excess))
        for (center,), (radius,), excess, height in zip(self.centers, self.radii, self.excess, heights, strict=True):
            style = {"color": _sign_color(excess), "transform": self.ax_.get_xaxis_transform()}
            span = [center - radius, center, center + radius]
            self.kernels_ += self.ax_.plot(span, [height] * 3, "-|", linewidth=2, scalex=False, scaley=False, **style)
            # On the side where there is more room.
            end, side = (span[2], "left") if center < self.edges_.mean() else (span[0], "right")
            style |= {"ha": side, "va": "center", "fontsize": "small", "clip_on": True}
            self.labels_.append(self.ax_.text(end, height, f" {_excess_label(excess)} ", **style))

    def _range(self) -> tuple[float, float]:
        """All but the outermost rows, and all kernels, as far as there are rows."""
        x = np.concatenate([self.reference[:, 0], self.data[:, 0]])
        low, high = np.quantile(x, [0.001, 0.999])
        low = max(x.min(), min(low, (self.centers - 1.5 * self.radii).min()))
        high = min(x.max(), max(high, (self.centers + 1.5 * self.radii).max()))
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    def _plot_rows(self, style: dict[str, Any]) -> None:
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.patches import Ellipse
        from matplotlib.patheffects import withStroke

        ax, f = self.ax_, self.log_ratio_data
        order = np.argsort(np.abs(f))  # the telling rows last, on top
        largest = max(float(np.abs(f).max()), 1e-3)
        style = {
            "s": 6,
            "cmap": LinearSegmentedColormap.from_list("deficit_excess", [DEFICIT, NEUTRAL, EXCESS]),
            "vmin": -largest,
            "vmax": largest,
            "linewidths": 0,
            "rasterized": True,
            **style,
        }
        self.points_ = ax.scatter(*self.data[order].T, c=f[order], **style)
        self.colorbar_ = self.figure_.colorbar(self.points_, ax=ax, label="$f$: log of data over reference density")
        self.kernels_, self.labels_ = [], []
        ax.plot([], [], "o", color=DARK, markerfacecolor="none", markersize=8, label=KERNEL_LABEL)
        _legend_above(ax)
        halo = [withStroke(linewidth=2.5, foreground="white")]
        for i, (center, radius, excess) in enumerate(zip(self.centers, self.radii, self.excess, strict=True)):
            color = _sign_color(excess)
            self.kernels_.append(
                ax.add_patch(Ellipse(center, *(2 * radius), fill=False, edgecolor=color, linewidth=1.5))
            )
            others = np.delete(self.centers, i, axis=0)
            # Away from the nearest kernel, so that labels of neighbours do not overlap.
            nearest = others[np.argmin(np.sum(((others - center) / radius) ** 2, axis=1))] if len(others) else center
            side = 1 if center[1] >= nearest[1] else -1
            label = ax.annotate(
                _excess_label(excess),
                center + [0, side * radius[1]],
                (0, 2 * side),
                textcoords="offset points",
                ha="center",
            )
            label.set(color=color, path_effects=halo, va="bottom" if side > 0 else "top", fontsize="small")
            self.labels_.append(label)


def _label_decades(axis: Any) -> None:
    """On a logarithmic axis, plain numbers at 1, 2 and 5 of each decade, or 1 of many, and no others between them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high < FEW_DECADES * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend_above(ax: Any) -> Any:
    """Legend over the axes, where it hides nothing."""
    return ax.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _sign_color(excess: float) -> str:
    return (DARK, EXCESS, DEFICIT)[int(np.sign(excess))]


def _excess_label(excess: float) -> str:
    text = f"{excess:+.0f}" if abs(excess) >= 1 else f"{excess:+.1g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _axes(ax: Any) -> tuple[Any, Any]:
    """Axes to draw on, and their figure."""
    if ax is None:
        _, ax = _matplotlib().pyplot.subplots(layout="constrained")
    return ax, ax.figure


def _matplotlib() -> Any:
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise ImportError("Drawing needs matplotlib: pip install 'sparker[plot]'") from error
    return matplotlib


def _in_input_units(estimator: Any, centers: Array, radius: float) -> tuple[Array, Array]:
    """Centres before the steps of a Pipeline, and how far a sphere around them reaches along each column there."""
    if not isinstance(estimator, Pipeline) or len(estimator) == 1:
        return centers, np.full(centers.shape[1], radius)
    back = estimator[:-1].inverse_transform
    zero = np.zeros((1, centers.shape[1]))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        axes = back(radius * np.eye(len(zero[0]))) - back(zero)  # a linear map takes the sphere to an ellipsoid
        there, linear = back(centers), back(zero) + centers @ axes / radius
        and_back = estimator[:-1].transform(there)
        is_linear = np.allclose(there, linear, rtol=1e-3, atol=1e-3 * np.abs(axes).max())
        is_inverse = np.allclose(and_back, centers, rtol=1e-3, atol=1e-3 * radius)
    if not (is_linear and is_inverse):
        raise ValueError(
            "The steps of the Pipeline are not linear, or have no inverse: a kernel is no ellipse in the units of X. "
            "Pass the test, estimator[-1], and transformed samples."
        )
    return there, np.linalg.norm(axes, axis=0)


def _columns(features: int | str | Sequence[int | str], names: Sequence[str]) -> list[int]:
    """Numbers of one or two columns, given by number or name."""
    given = [features] if isinstance(features, str | int | np.integer) else list(features)
    known = [*range(len(names)), *names]
    unknown = [feature for feature in given if feature not in known]
    if unknown or len(given) not in (1, 2):
        raise ValueError(
            f"features is {given}: needed are one or two columns, by number from 0 to {len(names) - 1} or by name."
        )
    return [known.index(feature) % len(names) for feature in given]


def _weight_of(test: Any, sample_weight: Any, n_rows: int) -> Array:
    """Weights of the rows of the reference that is drawn: by default those of the fit."""
    observed = test._fitted.observed
    of_fit = observed.raw_weight[: observed.n_reference]
    if sample_weight is None and (not len(of_fit) or np.ptp(of_fit) == 0):
        return np.ones(n_rows)
    weight = np.asarray(of_fit if sample_weight is None else sample_weight, dtype=np.float64)
    if weight.shape != (n_rows,):
        raise ValueError(
            f"sample_weight has shape {weight.shape}{'' if sample_weight is not None else ' in the fit'}: needed is a "
            f"weight for each of the {n_rows} rows of reference."
        )
    return weight


def _telling_features(reference: Array, center: Array) -> list[int]:
    """At most two columns in which a centre is furthest from the mean of the reference, in standard deviations."""
    deviation = reference.std(axis=0)
    away = np.abs(center - reference.mean(axis=0)) / np.where(deviation > 0, deviation, np.inf)
    return sorted(np.argsort(-away, kind="stable")[:2].tolist())
