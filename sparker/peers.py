"""Rival two-sample tests on the same base, calibrated by the same toys: static kernels, MMD, and the known truth."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.utils._param_validation import Interval, StrOptions

from sparker import _schedule
from sparker._backends import one_blas_thread
from sparker._base import Fitted, TwoSampleTest
from sparker._kernels_matmul import squared_distances
from sparker._null import NullDistribution, plain
from sparker._pool import Pool, Weights
from sparker._statistic import ROUNDING
from sparker._toys import Toys

__all__ = ["LikelihoodRatioTest", "MMDTest", "StaticKernelTest"]

Array = npt.NDArray[Any]

BLOCK = 1 << 22  # entries of a block of a kernel matrix


class _Evaluated:
    """A statistic whose batches do all the work: what is shared is the values themselves."""

    on_device = False
    entry_weights = None

    def evaluate(
        self,
        pool: Pool,
        toys: Sequence[Weights],
        plan: Any,
        rngs: Sequence[np.random.Generator],
        shared: Sequence[tuple[Array, bool]],
    ) -> list[tuple[Array, bool]]:
        """See `sparker._calibration.Statistic`."""
        return list(shared)


@dataclass(frozen=True)
class MMDStatistic(_Evaluated):
    """Unbiased estimate of the squared maximum mean discrepancy at each of several widths."""

    n_widths: int

    def learn(self, pool: Pool, rng: np.random.Generator) -> Array:
        """Widths from the median distance of the pooled rows, widest first."""
        _schedule.check_range(pool)
        median = np.quantile(_schedule.pair_distances(pool, rng), 0.5)
        widths = median * 2.0 ** np.linspace((self.n_widths - 1) / 2, -(self.n_widths - 1) / 2, self.n_widths)
        _schedule.check_widths(widths, pool.dtype)
        return widths

    def share(self, pool: Pool, toys: Sequence[Weights], plan: Array) -> list[tuple[Array, bool]]:
        """MMD^2 of every toy: each block of the kernel matrix is computed once, for all of them and all widths."""
        n_toys = len(toys)
        weights = np.column_stack([toy.reference for toy in toys] + [toy.data for toy in toys])
        sums = np.zeros((len(plan), 3, n_toys))  # reference with reference, data with data, reference with data
        with one_blas_thread():
            for rows, columns, distances in _upper_blocks(pool):
                w, c = np.split(weights[rows].astype(np.float64), 2, axis=1)
                inside = rows.stop - rows.start
                for k, width in enumerate(plan):
                    kernels = np.exp(distances * pool.dtype.type(-0.5 / width**2))
                    # The block on the diagonal counts once; what is right of it stands for its mirror image too.
                    own = (kernels[:, :inside] @ weights[rows]).astype(np.float64)
                    right = (kernels[:, inside:] @ weights[columns][inside:]).astype(np.float64)
                    once, twice = own + right, own + 2 * right
                    sums[k, 0] += np.sum(w * twice[:, :n_toys], axis=0)
                    sums[k, 1] += np.sum(c * twice[:, n_toys:], axis=0)
                    sums[k, 2] += np.sum(c * once[:, :n_toys] + w * right[:, n_toys:], axis=0)
        w_total, c_total = np.split(weights.sum(axis=0, dtype=np.float64), 2)
        w_self, c_self = np.split(np.square(weights, dtype=np.float64).sum(axis=0), 2)
        mmd = _per_pair(sums[:, 0] - w_self, w_total**2 - w_self) + _per_pair(sums[:, 1] - c_self, c_total**2 - c_self)
        return [(values, True) for values in (mmd - 2 * sums[:, 2] / (w_total * c_total)).T]


def _per_pair(total: Array, pairs: Array) -> Array:
    """Mean over pairs of rows; a lone row makes none, and a term of 0."""
    return np.where(pairs > 0, total, 0.0) / np.where(pairs > 0, pairs, 1.0)


def _upper_blocks(pool: Pool) -> Iterator[tuple[slice, slice, Array]]:
    """Squared distances of a few rows from themselves and all later ones, never an n x n matrix."""
    rows = pool.rows(np.arange(pool.n_rows))
    size = max(1, BLOCK // pool.n_rows)
    for start in range(0, pool.n_rows, size):
        block = slice(start, min(start + size, pool.n_rows))
        yield block, slice(start, pool.n_rows), squared_distances(rows[start:], rows[block]).T


def _refuse_negative(fitted: Fitted) -> None:
    if np.any(fitted.samples.reference_weight < 0):
        raise ValueError(
            "This test needs reference weights >= 0: a density that is negative somewhere has no kernel estimate, and "
            "the loss no minimum. SparKerTest takes negative weights."
        )


class _Peer(TwoSampleTest):
    """A test whose observed pair is evaluated like a toy."""

    def _observe(self, fitted: Fitted) -> Array:
        observed = fitted.observed
        values, self.converged_ = fitted.statistic.share(observed.pool, [observed.weights], fitted.plan)[0]
        return np.asarray(values)


class MMDTest(_Peer):
    """Maximum mean discrepancy with Gaussian kernels at several widths, aggregated.

    At each width sigma the statistic is the unbiased estimate of the squared MMD between reference and data
    (eq. 3 of [1]_, with the weights of the rows),

    MMD^2 = sum_{i != j} w_i w_j k_ij / (W^2 - sum w^2) + the same for the data - 2 sum_ij w_i c_j k_ij / (W N_D).

    It compares densities, whatever the numbers of rows: there is no ``expected_count``. The cost grows with the square
    of the number of rows, the memory does not. Copies of a row make pairs, a row of weight 2 does not with itself.

    Parameters
    ----------
    n_widths : int, default=3
        Number of widths: the median distance of pooled rows, times powers of 2 around 1.
    calibration : {"permutation", "split", "bootstrap"} or callable, default="permutation"
        See `sparker.SparKerTest`.
    n_toys : int, default=500
        Number of toys.
    aggregation : {"power-mean", "min-mean", "min", "product", "mean"}, default="min-mean"
        See `sparker.SparKerTest`.
    tail : {"gamma", "chi2", "pareto"} or None, default=None
        See `sparker.SparKerTest`.
    stopping : int or None, default=None
        See `sparker.SparKerTest`.
    null_distribution : NullDistribution or None, default=None
        See `sparker.SparKerTest`.
    random_state : int, RandomState, Generator or None, default=None
        Source of ``seed_``.
    n_jobs : int, default=None
        Processes for toys; None means 1, -1 all cores.
    verbose : int, default=0
        1 shows a progress bar on completed toys.

    Attributes
    ----------
    statistics_ : ndarray of shape (n_widths,)
        MMD^2 at each width, widest first. An unbiased estimate may be negative.
    scales_ : dict of str to ndarray of shape (n_widths,)
        ``kind`` ("mmd") and ``width``.
    width_ : float
        The median distance, the width of ``score_samples``.
    null_distribution_ : NullDistribution
        The toys, once ``calibrate``, ``p_value``, ``test_statistic`` or ``result`` has simulated them.
    seed_, classes_, n_features_in_, feature_names_in_
        See `sparker.SparKerTest`.

    References
    ----------
    .. [1] A. Gretton et al., "A kernel two-sample test", J. Mach. Learn. Res. 13 (2012) 723.

    Examples
    --------
    >>> import numpy as np
    >>> from sparker.peers import MMDTest
    >>> rng = np.random.default_rng(0)
    >>> test = MMDTest(n_toys=99, random_state=0)
    >>> test.fit(rng.normal(size=(300, 2)), rng.normal(0.5, 1, size=(100, 2))).p_value()
    0.01
    """

    _parameter_constraints = {
        **{name: rule for name, rule in TwoSampleTest._parameter_constraints.items() if name != "expected_count"},
        "n_widths": [Interval(Integral, 1, None, closed="left")],
    }
    expected_count = None

    def __init__(
        self,
        n_widths: int = 3,
        *,
        calibration: str | Callable[..., Any] = "permutation",
        n_toys: int = 500,
        aggregation: str = "min-mean",
        tail: str | None = None,
        stopping: int | None = None,
        null_distribution: NullDistribution | None = None,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_widths = n_widths
        self.calibration = calibration
        self.n_toys = n_toys
        self.aggregation = aggregation
        self.tail = tail
        self.stopping = stopping
        self.null_distribution = null_distribution
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _make_statistic(self) -> MMDStatistic:
        return MMDStatistic(self.n_widths)

    def _observe(self, fitted: Fitted) -> Array:
        _refuse_negative(fitted)
        self.scales_ = {"kind": np.repeat("mmd", self.n_widths), "width": fitted.plan}
        self.width_ = float(np.exp(np.mean(np.log(fitted.plan))))  # powers of 2 around the median
        return super()._observe(fitted)

    def _log_density_ratio(self, X: Array) -> Array:
        self._refuse_changed()
        observed = self._fitted.observed
        _schedule.check_size(X)
        rows = observed.pool.rows(np.arange(observed.pool.n_rows))
        out = np.empty(len(X))
        size = max(1, BLOCK // len(rows))
        for start in range(0, len(X), size):
            block = slice(start, start + size)
            log_kernels = squared_distances(rows, X[block]).T * (-0.5 / self.width_**2)
            parts = observed.weights.data, observed.weights.reference
            data, reference = (logsumexp(log_kernels, axis=1, b=weights) for weights in parts)
            out[block] = data - reference
        return out.astype(X.dtype)


@dataclass(frozen=True, slots=True)
class StaticPlan:
    """Widths, and kernel centres that stay where they are, from an origin near the rows."""

    widths: Array
    centers: Array
    origin: Array


@dataclass(frozen=True)
class StaticKernelStatistic(_Evaluated):
    """t = max(0, -2 L) of many kernels that do not move, fitted by weighted logistic regression, at each width."""

    n_kernels: int | None
    n_widths: int
    width: float | None
    penalty: float
    max_iter: int

    def learn(self, pool: Pool, rng: np.random.Generator) -> StaticPlan:
        """Widths from the distances, centres at random rows of the pool, labels unseen."""
        _schedule.check_range(pool)
        widest, narrowest = np.quantile(_schedule.pair_distances(pool, rng), [0.9, 0.01])
        widest = widest if self.width is None else self.width
        widths = np.geomspace(widest, min(0.5 * narrowest, widest), self.n_widths) if self.n_widths > 1 else [widest]
        _schedule.check_widths(widths, pool.dtype)
        n_kernels = self.n_kernels or max(10, round(pool.n_drawn**0.5))
        centers = np.unique(pool.rows(pool.draw(rng.random(n_kernels))), axis=0)  # a row drawn twice is one kernel
        return StaticPlan(np.array(widths), centers - pool.origin, pool.origin)

    def share(self, pool: Pool, toys: Sequence[Weights], plan: StaticPlan) -> list[tuple[Array, bool]]:
        """T of every toy: the features of the pool are computed once for all of them."""
        places = {id(toy): i for i, toy in enumerate(toys)}  # a batch is filled up with one toy over and over
        values, converged = np.zeros((len(toys), len(plan.widths))), np.ones(len(toys), bool)
        rows = pool.rows(np.arange(pool.n_rows)) - plan.origin
        with one_blas_thread():
            for j, width in enumerate(plan.widths):
                features = self.feature_map(plan, width).transform(rows)
                for i in places.values():
                    toy = toys[i]
                    coefficients, n_iter = self.fit(features, toy)
                    f = features @ coefficients
                    loss = np.sum(toy.reference * np.expm1(f) - toy.data * f, dtype=np.float64)
                    # what is left where both samples are alike is rounding, and must not be ranked
                    values[i, j] = -2 * loss if loss < -ROUNDING * toy.size else 0.0
                    converged[i] &= n_iter < self.max_iter
        return [(values[places[id(toy)]], bool(converged[places[id(toy)]])) for toy in toys]

    @staticmethod
    def feature_map(plan: StaticPlan, width: float) -> Nystroem:
        """Return k(x, centres) K^(-1/2): the function space of the kernel, on the centres alone."""
        return Nystroem(gamma=0.5 / width**2, n_components=len(plan.centers), random_state=0).fit(plan.centers)

    def fit(self, features: Array, weights: Weights) -> tuple[Array, int]:
        """Coefficients of f in the features, and the number of iterations."""
        reference, data = np.flatnonzero(weights.reference), np.flatnonzero(weights.data)
        rows = np.concatenate([reference, data])
        n_rows = weights.reference.sum(dtype=np.float64) / weights.unit + weights.data.sum(dtype=np.float64)
        model = LogisticRegression(
            # the penalty of Falkon is on the mean loss: (sum of weighted losses) / n + penalty ||f||^2
            C=0.5 / (self.penalty * n_rows),
            fit_intercept=False,
            solver="newton-cholesky" if features.shape[1] <= 300 else "lbfgs",
            max_iter=self.max_iter,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the toys count them
            model.fit(
                features[rows],
                np.repeat([0, 1], [len(reference), len(data)]),
                np.concatenate([weights.reference[reference], weights.data[data]]),
            )
        return model.coef_[0].astype(features.dtype), int(model.n_iter_[0])


class StaticKernelTest(_Peer):
    """Neyman-Pearson test with many static Gaussian kernels, as Falkon-NPLM [1]_.

    Kernels sit on random rows of the pool and stay there. The log density ratio f is fitted in the function space of
    these kernels (Nystroem) by weighted logistic regression with an L2 penalty,

    sum_R w log(1 + e^f) + sum_D log(1 + e^-f) + n lambda ||f||^2,

    whose minimum is the log density ratio; the statistic is t = max(0, -2 L) with L = sum_R w (e^f - 1) - sum_D f.

    Parameters
    ----------
    n_kernels : int, default=None
        Number of kernels M. None: the square root of the number of rows, at least 10.
    n_widths : int, default=1
        1: a single width. More: a geometric series from there to half the 1st percentile of the distances, aggregated.
    width : float, default=None
        (Widest) width in the units of X. None: the 90 % quantile of the distances of pooled rows.
    penalty : float, default=1e-6
        lambda, the L2 penalty on the mean loss.
    max_iter : int, default=200
        Most iterations of the logistic regression.
    expected_count : float, default=None
        See `sparker.SparKerTest`.
    calibration : {"permutation", "split", "bootstrap"} or callable, default="permutation"
        See `sparker.SparKerTest`.
    n_toys : int, default=500
        Number of toys.
    aggregation : {"power-mean", "min-mean", "min", "product", "mean"}, default="min-mean"
        See `sparker.SparKerTest`.
    tail : {"gamma", "chi2", "pareto"} or None, default=None
        See `sparker.SparKerTest`.
    stopping : int or None, default=None
        See `sparker.SparKerTest`.
    null_distribution : NullDistribution or None, default=None
        See `sparker.SparKerTest`.
    random_state : int, RandomState, Generator or None, default=None
        Source of ``seed_``.
    n_jobs : int, default=None
        Processes for toys; None means 1, -1 all cores.
    verbose : int, default=0
        1 shows a progress bar on completed toys.

    Attributes
    ----------
    statistics_ : ndarray of shape (n_widths,)
        t at each width, widest first.
    scales_ : dict of str to ndarray of shape (n_widths,)
        ``kind`` ("t") and ``width``.
    width_ : float
        The width of ``score_samples``: the one with the largest t.
    n_iter_ : int
        Iterations of the logistic regression at ``width_``.
    converged_ : bool
        Whether the logistic regressions at all widths converged.
    null_distribution_ : NullDistribution
        The toys, once ``calibrate``, ``p_value``, ``test_statistic`` or ``result`` has simulated them.
    seed_, classes_, n_features_in_, feature_names_in_
        See `sparker.SparKerTest`.

    Notes
    -----
    The features of all rows are held in memory: n_rows x n_kernels numbers.

    References
    ----------
    .. [1] M. Letizia et al., "Learning new physics efficiently with nonparametric methods", Eur. Phys. J. C 82 (2022)
       879, arXiv:2204.02317.

    Examples
    --------
    >>> import numpy as np
    >>> from sparker.peers import StaticKernelTest
    >>> rng = np.random.default_rng(0)
    >>> test = StaticKernelTest(n_toys=99, random_state=0)
    >>> test.fit(rng.normal(size=(300, 2)), rng.normal(0.5, 1, size=(100, 2))).p_value()
    0.01
    """

    _parameter_constraints = {
        **TwoSampleTest._parameter_constraints,
        "n_kernels": [Interval(Integral, 1, None, closed="left"), None],
        "n_widths": [Interval(Integral, 1, None, closed="left")],
        "width": [Interval(Real, 0, None, closed="neither"), None],
        "penalty": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_kernels: int | None = None,
        *,
        n_widths: int = 1,
        width: float | None = None,
        penalty: float = 1e-6,
        max_iter: int = 200,
        expected_count: float | None = None,
        calibration: str | Callable[..., Any] = "permutation",
        n_toys: int = 500,
        aggregation: str = "min-mean",
        tail: str | None = None,
        stopping: int | None = None,
        null_distribution: NullDistribution | None = None,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_kernels = n_kernels
        self.n_widths = n_widths
        self.width = width
        self.penalty = penalty
        self.max_iter = max_iter
        self.expected_count = expected_count
        self.calibration = calibration
        self.n_toys = n_toys
        self.aggregation = aggregation
        self.tail = tail
        self.stopping = stopping
        self.null_distribution = null_distribution
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _make_statistic(self) -> StaticKernelStatistic:
        return StaticKernelStatistic(self.n_kernels, self.n_widths, self.width, self.penalty, self.max_iter)

    def _observe(self, fitted: Fitted) -> Array:
        statistic, observed, plan = fitted.statistic, fitted.observed, fitted.plan
        assert isinstance(statistic, StaticKernelStatistic)
        _refuse_negative(fitted)
        self.scales_ = {"kind": np.repeat("t", self.n_widths), "width": plan.widths}
        values = super()._observe(fitted)
        self.width_ = float(plan.widths[np.argmax(values)])
        self._features = statistic.feature_map(plan, self.width_)
        rows = observed.pool.rows(np.arange(observed.pool.n_rows)) - plan.origin
        with one_blas_thread():
            self._coefficients, self.n_iter_ = statistic.fit(self._features.transform(rows), observed.weights)
        if not self.converged_:
            warnings.warn(
                "The logistic regression did not converge. Raise max_iter or penalty.", ConvergenceWarning, stacklevel=4
            )
        return values

    def _log_density_ratio(self, X: Array) -> Array:
        _schedule.check_size(X)
        return self._features.transform(X - self._fitted.plan.origin) @ self._coefficients


@dataclass(frozen=True)
class LikelihoodRatioStatistic(_Evaluated):
    """Twice the sum of a known log density ratio over the data."""

    log_ratio: Callable[[Array], Array]

    def learn(self, pool: Pool, rng: np.random.Generator) -> Array:
        """Log ratio of every row of the pool."""
        values = [np.asarray(self.log_ratio(X), dtype=np.float64) for X, _ in pool.parts()]
        for (X, _), found in zip(pool.parts(), values, strict=True):
            if found.shape != (len(X),) or not np.all(np.isfinite(found)):
                raise ValueError(
                    f"log_ratio(X) returned an array of shape {found.shape} for {len(X)} rows; "
                    f"needed are finite numbers of shape ({len(X)},)."
                )
        return np.concatenate(values)

    def share(self, pool: Pool, toys: Sequence[Weights], plan: Array) -> list[tuple[Array, bool]]:
        """2 sum_D f of every toy."""
        return [(np.array([2 * float(toy.data.astype(np.float64) @ plan)]), True) for toy in toys]


class LikelihoodRatioTest(_Peer):
    """The most powerful test, for whoever knows the truth: a yardstick for the others (Neyman and Pearson).

    The statistic is 2 sum_D f with the true log density ratio f = log(expected data over expected background); the
    expected number of signal rows, which the extended likelihood subtracts, is a constant and changes no p-value.

    Parameters
    ----------
    log_ratio : callable
        Takes rows of shape (n, n_features) to the true log density ratio, shape (n,); finite. Of normalised densities:
        a large constant beside it would hide what differs, since sums that agree to 1e-5 count as ties.
    expected_count : float, default=None
        See `sparker.SparKerTest`.
    calibration : "permutation" or callable, default="permutation"
        See `sparker.SparKerTest`. Other toys draw their data from the reference, and this statistic, which looks at the
        data alone, would take what a finite reference has by chance for the truth.
    n_toys : int, default=500
        Number of toys.
    tail : {"gamma", "chi2", "pareto"} or None, default=None
        See `sparker.SparKerTest`.
    stopping : int or None, default=None
        See `sparker.SparKerTest`.
    null_distribution : NullDistribution or None, default=None
        See `sparker.SparKerTest`.
    random_state : int, RandomState, Generator or None, default=None
        Source of ``seed_``.
    n_jobs : int, default=None
        Processes for toys; None means 1, -1 all cores.
    verbose : int, default=0
        1 shows a progress bar on completed toys.

    Attributes
    ----------
    statistics_ : ndarray of shape (1,)
        2 sum_D f.
    scales_ : dict of str to ndarray of shape (1,)
        ``kind`` ("log-ratio") and ``width`` (inf).
    null_distribution_ : NullDistribution
        The toys, once ``calibrate``, ``p_value``, ``test_statistic`` or ``result`` has simulated them.
    seed_, classes_, n_features_in_, feature_names_in_
        See `sparker.SparKerTest`.

    Examples
    --------
    >>> from sparker.datasets import make_exponential
    >>> from sparker.peers import LikelihoodRatioTest
    >>> pair = make_exponential("bulk", random_state=0)
    >>> test = LikelihoodRatioTest(pair.true_log_ratio, expected_count=2000, n_toys=99, random_state=0)
    >>> test.fit(pair.reference, pair.data).p_value()
    0.01
    """

    _has_kernels = False
    _parameter_constraints = {
        **{name: rule for name, rule in TwoSampleTest._parameter_constraints.items() if name != "aggregation"},
        "log_ratio": [callable],
        "calibration": [StrOptions({"permutation"}), callable],
    }
    aggregation = "min"  # of one entry
    _splits = False

    def __init__(
        self,
        log_ratio: Callable[[Array], Array],
        *,
        expected_count: float | None = None,
        calibration: str | Callable[..., Any] = "permutation",
        n_toys: int = 500,
        tail: str | None = None,
        stopping: int | None = None,
        null_distribution: NullDistribution | None = None,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.log_ratio = log_ratio
        self.expected_count = expected_count
        self.calibration = calibration
        self.n_toys = n_toys
        self.tail = tail
        self.stopping = stopping
        self.null_distribution = null_distribution
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _make_statistic(self) -> LikelihoodRatioStatistic:
        return LikelihoodRatioStatistic(self.log_ratio)

    def _describe(self, toys: Toys) -> dict[str, Any]:
        """See `TwoSampleTest`: a log ratio is known by its values too, since many have the same name."""
        values = self._log_density_ratio(self._fitted.samples.reference)
        return {**super()._describe(toys), **plain({"log_ratio_values": np.sort(values)})}

    def _observe(self, fitted: Fitted) -> Array:
        self.scales_ = {"kind": np.array(["log-ratio"]), "width": np.array([np.inf])}
        return super()._observe(fitted)

    def _log_density_ratio(self, X: Array) -> Array:
        statistic = self._fitted.statistic
        assert isinstance(statistic, LikelihoodRatioStatistic)
        return np.asarray(statistic.log_ratio(X), dtype=np.float64)
