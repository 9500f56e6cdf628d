"""What every two-sample test shares: samples in, one fit, toys on demand, p-value and result out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from sparker import _aggregation, _calibration, _tail, _toys
from sparker._calibration import Statistic
from sparker._kernels import to_host
from sparker._null import NullDistribution, load_run, run_of
from sparker._results import (
    TwoSampleResult,
    clopper_pearson,
    counted_p_value,
    negative_binomial_interval,
    z_score,
)
from sparker._samples import FLOATS, Samples, float32_suffices, read_samples, warn_if_copied, warn_if_unlike_spreads
from sparker._version import __version__

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Fitted:
    """What a fit leaves for the toys: everything as it stood then, whatever happens to the estimator's parameters.

    Attributes
    ----------
    statistic : Statistic
    samples : Samples
    fingerprint : str
        Digest of the samples at fit.
    observed : Observed
    plan : object
        What the statistic learned without labels.
    calibration, aggregation, n_toys, tail, stopping, null_distribution
        Parameters of the estimator.
    """

    statistic: Statistic
    samples: Samples
    fingerprint: str
    observed: _toys.Observed
    plan: Any
    calibration: str | Callable[..., Any]
    aggregation: _aggregation.Rule
    n_toys: int
    tail: str | None
    stopping: int | None
    null_distribution: NullDistribution | None


class TwoSampleTest(ClassifierMixin, BaseEstimator, ABC):
    """Base class: a statistic over scales, calibrated by toys.

    Subclasses give `_make_statistic`, `_observe` (fit the observed pair, set the fitted attributes, ``scales_`` with
    the kind and width of each entry among them, and return the entries of the statistic) and `_log_density_ratio`.
    """

    scales_: dict[str, Array]
    null_distribution_: Any
    expected_count: float | None
    _has_kernels = True  # which are as wide in all features
    _splits = True  # whether toys of calibration="split", drawn from arrays, suit it

    _parameter_constraints: dict[str, list[Any]] = {
        "n_toys": [Interval(Integral, 1, None, closed="left")],
        "expected_count": [Interval(Real, 0, None, closed="neither"), None],
        "calibration": [StrOptions({"permutation", "split", "bootstrap"}), callable],
        "aggregation": [StrOptions(set(_aggregation.RULES))],
        "tail": [StrOptions(set(_tail.MODELS)), None],
        "stopping": [Interval(Integral, 1, None, closed="left"), None],
        "null_distribution": [NullDistribution, None],
        "random_state": ["random_state", np.random.Generator],
        "n_jobs": [Interval(Integral, 1, None, closed="left"), Interval(Integral, None, -1, closed="right"), None],
        "verbose": ["verbose"],
    }

    @abstractmethod
    def _make_statistic(self) -> Statistic:
        """Return the statistic with the present parameters."""

    @abstractmethod
    def _observe(self, fitted: Fitted) -> Array:
        """Fit the observed pair and return the entries of its statistic."""

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, *, data: Any = None, sample_weight: Any = None) -> Self:
        """Fit the statistic to the observed samples; runs no toys.

        Parameters
        ----------
        X : array-like of shape (n_reference, n_features) or (n_samples, n_features)
            The reference, or the pooled rows where `y` holds labels. float32 stays float32, all else
            becomes float64, and so do float32 rows of which half or more are copies of others (toys that tie
            would not, by the rounding of their sums), or that with more than three features reach some hundred
            widths of the narrowest kernels from their middle. No NaN, no infinity, not sparse.
        y : array-like of shape (n_data, n_features) or (n_samples,), default=None
            Two-dimensional: the data sample. One-dimensional: labels of two classes, the first of which in
            sorted order is the reference. **Only labels are safe behind a Pipeline**, which transforms X and passes y
            on untouched.
        data : array-like of shape (n_data, n_features), default=None
            The data sample, as a keyword; works with ``Pipeline(transform_input=["data"])``.
        sample_weight : array-like of shape (n_reference,) or (n_samples,), default=None
            Weights of the rows of X. Reference weights are scaled to the expected data count; some may be negative,
            their sum must be positive. Whole numbers that differ are counts of rows, others are event weights, see
            "Weights" in the user guide. Data weights are >= 0. Rows of weight 0 are dropped.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If a sample is empty, not finite, or of another number of features; if `y` is neither two
            classes nor a second sample; if weights of the data are negative, or those of a sample all 0, or those of
            the reference do not have a positive sum; if features are so large or so small that squares of their
            distances leave the range of the dtype; if `null_distribution` does not fit.
        """
        self._forget()
        samples = read_samples(self, X, y, data, sample_weight)
        self.classes_ = samples.classes
        bank = self.null_distribution
        of_bank = bank is not None and self.random_state is None
        self.seed_ = int(bank.seeds[0]) if of_bank else _draw_seed(self.random_state)
        rng = _calibration.generator(self.seed_, _calibration.POOL_STREAM)
        pool = samples.pool()
        if pool.dtype == np.float32 and not float32_suffices(pool):
            samples = samples.as_float64()
            pool = samples.pool()
        warn_if_copied(pool, len(samples.reference))
        if self._has_kernels:
            warn_if_unlike_spreads(samples.reference, getattr(self, "feature_names_in_", None), stacklevel=4)
        observed = _toys.observe(pool, len(samples.reference), self.calibration, self.expected_count, rng)
        statistic = self._make_statistic()
        self._fitted = Fitted(
            statistic,
            samples,
            samples.fingerprint(),
            observed,
            statistic.learn(observed.pool, rng),
            self.calibration,
            _aggregation.Rule(self.aggregation, statistic.entry_weights),
            self.n_toys,
            self.tail,
            self.stopping,
            bank,
        )
        if bank is not None:
            self._check_bank(bank)
        self._evaluate_observed()
        return self

    def _evaluate_observed(self) -> None:
        """Set ``statistics_``, all of them finite: no toy would reach a nan, and p would be as small as can be."""
        statistics = self._observe(self._fitted)
        if not np.all(np.isfinite(statistics)):
            raise ValueError(
                "The statistic is not finite: the features or weights are too large or too small for their dtype. "
                "Rescale them, or pass float64."
            )
        self.statistics_ = statistics

    def _forget(self) -> None:
        """Drop the last fit: one that is interrupted must not leave its statistics beside other toys."""
        for name in [name for name in vars(self) if name.endswith("_") and not name.startswith("_")]:
            delattr(self, name)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "statistics_")

    def calibrate(self, path: Any = None, *, first: int | None = None) -> NullDistribution:
        """Simulate the toys on the first call, and keep them as ``null_distribution_`` until the next fit.

        Whatever needs a p-value calls this. With the parameter `null_distribution` there is nothing to simulate.

        Parameters
        ----------
        path : str or path-like, default=None
            File to which finished toys are written while others are simulated. A calibration that is killed goes on
            from there when it is called again, with the numbers of one that was not killed: after a fit with the same
            seed, so that `random_state` has to be given. Once it is done the file
            holds the null distribution: ``NullDistribution.load(path)``.
        first : int, default=None
            Number of the first toy. Jobs that share a calibration each take `n_toys` toys from another number on, and
            ``NullDistribution.merge`` joins them. None: 0, or whichever toys there are.

        Returns
        -------
        null_distribution : NullDistribution
            The statistic of the toys.

        Raises
        ------
        ValueError
            If the weights do not allow this calibration (see the `calibration` parameter), if the samples were
            changed in place after fit, if the file is that of another calibration, if `first` is given beside the
            parameter `null_distribution`, or if more than 5 % of the toys fail, and more than one.
        """
        check_is_fitted(self)
        fitted = self._fitted
        if first is not None and fitted.null_distribution is not None:
            raise ValueError(f"first is {first}: with null_distribution there are no toys to simulate.")
        null = getattr(self, "null_distribution_", fitted.null_distribution)
        if null is None or (first is not None and null.numbers[0] != first):
            self.null_distribution_ = self._simulate(first or 0, fitted.n_toys, path, fitted.stopping)
            return self.null_distribution_
        self.null_distribution_ = null
        if path is not None and not (Path(path).exists() and len(load_run(path, run_of(null))) >= len(null)):
            null.save(path)
        return null

    def _simulate(self, first: int, n_toys: int, path: Any, stopping: int | None) -> NullDistribution:
        fitted = self._fitted
        self._refuse_changed()
        toys = self._make_toys()
        plan = fitted.plan
        if toys.pool is not None and toys.pool is not fitted.observed.pool:
            # The observed pair learned from its own rows, labels unseen; so do toys, whose rows are the reference.
            plan = fitted.statistic.learn(toys.pool, _calibration.generator(self.seed_, _calibration.PLAN_STREAM))
        self._warm_up()

        def count(values: Array) -> int:
            return _aggregation.count_exceedances(values, self.statistics_, fitted.aggregation)

        return _calibration.simulate(
            fitted.statistic,
            toys,
            plan,
            self.seed_,
            n_toys,
            n_jobs=self._toy_jobs,
            verbose=self.verbose,
            first=first,
            origin=self._describe(toys),
            path=path,
            stopping=None if stopping is None else (stopping, count),
        )

    def _describe(self, toys: _toys.Toys) -> dict[str, Any]:
        """What toys of another calibration must share with these."""
        fitted = self._fitted
        return _calibration.describe(fitted.statistic, toys, fitted.observed, self.seed_, fitted.samples.pooled)

    @property
    def _toy_jobs(self) -> int | None:
        """Processes for toys."""
        return self.n_jobs

    def _make_toys(self) -> _toys.Toys:
        return _toys.make_toys(self._fitted.observed, self._fitted.calibration)

    def _simulate_more(self, bank: NullDistribution, n_toys: int) -> NullDistribution:
        """`n_toys` toys behind those of a bank that fits this test."""
        check_is_fitted(self)
        bank.refuse_if_stopping("extended")
        if self._fitted.stopping is not None:
            raise ValueError(
                f"stopping of the test is {self._fitted.stopping}: a bank is extended with it set to None."
            )
        self._check_bank(bank)
        first = int(bank.numbers[bank.seeds == self.seed_].max(initial=-1)) + 1
        return self._simulate(first, n_toys, None, None)

    def _check_bank(self, bank: NullDistribution) -> None:
        """Refuse toys of another calibration, in one error that names what differs."""
        fitted = self._fitted
        if fitted.stopping is not None:
            raise ValueError("stopping is for toys yet to be simulated: set it to None beside null_distribution.")
        bank.refuse_if_stopping("used again")
        needed = self._describe(self._make_toys())
        if bank.origin.get("samples") == _calibration.POOLED:
            # A scaler of a Pipeline would have seen the data of that pool, and this reference only beside other data.
            needed["samples"] = _calibration.APART
        bank.check(needed)
        bank.check_failures()

    def test_statistic(self) -> float:
        """Aggregate of the statistic over scales; simulates the toys on first use.

        Returns
        -------
        statistic : float
            Larger means less compatible with the reference.
        """
        return self._aggregate()[0]

    def p_value(self) -> float:
        """Probability, under the null, of a statistic as large as the observed one; simulates the toys on first use.

        Returns
        -------
        p_value : float
            (1 + #{toys >= observed}) / (1 + n_toys), in [1 / (n_toys + 1), 1]; stopping / n_toys where toys
            stopped early.

        Raises
        ------
        ValueError
            If the weights do not allow this calibration (see the `calibration` parameter), or if more than
            5 % of the toys fail, and more than one.
        """
        check_is_fitted(self)
        null = self.calibrate()
        return _aggregation.p_value(null.values, self.statistics_, self._fitted.aggregation, null.stopping)

    def result(self) -> TwoSampleResult:
        """Everything the test says, in one frozen object; simulates the toys on first use.

        Returns
        -------
        result : TwoSampleResult
            p-value, Z and its uncertainty, and the table of scales.
        """
        statistic, aggregates = self._aggregate()
        null, fitted = self.calibrate(), self._fitted
        n_exceed = int(_aggregation.exceedances(aggregates, np.array(statistic)))
        p_value = counted_p_value(n_exceed, len(null), null.stopping)
        interval, stopped = clopper_pearson(n_exceed, len(null)), False
        if null.stopping is not None and n_exceed >= null.stopping:
            interval, stopped = negative_binomial_interval(null.stopping, len(null)), True
        of_scales, of_aggregate = self._find_tail(stopped)
        n_effective = fitted.observed.weights.effective_sizes()
        at_each = [counted_p_value(n, len(null)) for n in _aggregation.exceedances(null.values, self.statistics_)]
        return TwoSampleResult(
            statistic=statistic,
            pvalue=p_value,
            zscore=float(z_score(p_value)),
            interval=interval,
            at_resolution=n_exceed == 0,
            scales={**self.scales_, "statistic": self.statistics_, "pvalue": np.array(at_each), **of_scales},
            n_toys=len(null),
            n_failed=int(null.failed.sum()),
            n_not_converged=int((~null.converged & ~null.failed).sum()),
            calibration=null.calibration,
            aggregation=fitted.aggregation.name,
            n_reference=fitted.observed.n_reference,
            n_data=fitted.observed.n_data,
            n_features=fitted.observed.pool.n_features,
            expected_count=fitted.observed.expected,
            seed=self.seed_,
            version=__version__,
            null_distribution=null,
            stopping=null.stopping,
            stopped=stopped,
            **of_aggregate,
            n_effective_reference=n_effective[0],
            n_effective_data=n_effective[1],
        )

    def _find_tail(self, stopped: bool) -> tuple[dict[str, Array], dict[str, Any]]:
        """Columns of the table of scales and fields of the result that a tail adds."""
        model = self._fitted.tail
        if model is None:
            return {}, {}
        if stopped:
            return {}, {"tail_model": model, "tail_note": "toys stopped early, since p is not small"}
        rng = _calibration.generator(self.seed_, _calibration.TAIL_STREAM)
        null = self.calibrate().values
        found = _tail.extrapolate(null, self.statistics_, self._fitted.aggregation, model, rng)
        p_value = np.maximum(np.exp(found.log_p), np.finfo(np.float64).tiny)  # never 0; Z goes on
        columns = {"pvalue": p_value, "zscore": found.z, "low": found.low, "high": found.high}
        columns = {f"tail_{name}": column for name, column in {**columns, "goodness": found.goodness}.items()}
        of_aggregate: dict[str, Any] = {"tail_model": model, "tail_note": found.note}
        of_aggregate["tail_goodness"] = float(found.goodness[-1])
        if not found.note:
            of_aggregate |= {"tail_pvalue": float(p_value[-1]), "tail_zscore": float(found.z[-1])}
            of_aggregate["tail_interval"] = (float(found.low[-1]), float(found.high[-1]))
        return {name: column[:-1] for name, column in columns.items()}, of_aggregate

    @abstractmethod
    def _log_density_ratio(self, X: Array) -> Array:
        """Fitted log density ratio of validated rows, shape (n_samples,)."""

    def score_samples(self, X: Any) -> Array:
        """Log density ratio f(x) of data to reference, at ``width_`` where the test has one; higher is more data-like.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_density_ratio : ndarray of shape (n_samples,)
            log of expected data over reference scaled to the expected count; 0 is nothing special.
        """
        check_is_fitted(self)
        return self._log_density_ratio(validate_data(self, to_host(X), dtype=FLOATS, order="C", reset=False))

    def decision_function(self, X: Any) -> Array:
        """Log odds that a row is data: f(x) + log(N(D|H0) / sum of the raw reference weights).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_odds : ndarray of shape (n_samples,)
            Positive where a row is more likely data than reference, at the sizes of the samples.
        """
        log_ratio = self.score_samples(X)
        expected = self._fitted.observed.weights.reference.sum(dtype=np.float64)
        return log_ratio + np.log(expected / self._fitted.samples.reference_weight.sum())

    def predict_proba(self, X: Any) -> Array:
        """Probability of reference and of data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, 2)
            Columns in the order of ``classes_``.
        """
        data = expit(self.decision_function(X))
        return np.stack([1 - data, data], axis=1)

    def predict(self, X: Any) -> Array:
        """Label of the likelier class of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Elements of ``classes_``.
        """
        is_data = self.decision_function(X) > 0
        return self.classes_[is_data.astype(int)]

    def _aggregate(self) -> tuple[float, Array]:
        check_is_fitted(self)
        null = self.calibrate()
        return _aggregation.aggregate(null.values, self.statistics_, self._fitted.aggregation)

    def _refuse_changed(self) -> None:
        if self._fitted.samples.fingerprint() != self._fitted.fingerprint:
            raise ValueError(
                "The samples were changed in place after fit: their toys would not belong to it. Fit again."
            )

    def _warm_up(self) -> None:
        """Compile, in this process, what the workers will call."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.poor_score = True
        return tags


def refuse_unless_splits(test: Any) -> None:
    """Refuse what is no test, or one that a reference in an array, split into toys, does not suit."""
    if not isinstance(test, TwoSampleTest):
        if isinstance(test, type) and issubclass(test, TwoSampleTest):
            raise TypeError(f"test is the class {test.__name__}: needed is an instance, {test.__name__}().")
        hint = " Scale the samples by the reference first, and pass the last step." if hasattr(test, "steps") else ""
        raise TypeError(f"test is {type(test).__name__}: needed is SparKerTest or another test.{hint}")
    if not test._splits:
        raise TypeError(
            f'test is {type(test).__name__}: needed is one that takes toys of calibration="split" from an array.'
        )


def _draw_seed(random_state: Any) -> int:
    """One integer from any kind of random state, an integer itself; a live generator is never kept."""
    if isinstance(random_state, Integral):
        return int(random_state)
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31))
    if random_state is None:
        return int(np.random.default_rng().integers(2**31))
    return int(check_random_state(random_state).randint(2**31 - 1))
