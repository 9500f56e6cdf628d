"""A stream of batches tested against one reference and one set of toys, with the false alarms under control."""

import math
import warnings
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy.typing as npt
from scipy import stats
from sklearn.base import clone
from sklearn.utils import check_array

from sparker import _aggregation
from sparker._base import TwoSampleTest, refuse_unless_splits
from sparker._kernels import to_host
from sparker._null import NullDistribution
from sparker._results import clopper_pearson
from sparker._samples import FLOATS, check_names, names_of, refuse_columns

__all__ = ["BatchMonitor", "BatchResult", "MonitorResult"]

Array = npt.NDArray[Any]

ENOUGH = 20  # reference rows for a data row


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What one batch says.

    Attributes
    ----------
    number : int
        The batch, counted from 1.
    pvalue : float
        p of the batch alone.
    alpha : float
        Its share of the false alarms.
    alarm : bool
        Whether p <= alpha.
    false_alarm_rate : float
        p times the batches per unit time: how often a batch without anomalies is as significant as this one.
    inverse_false_alarm_rate : float
        Mean time between such batches.
    """

    number: int
    pvalue: float
    alpha: float
    alarm: bool
    false_alarm_rate: float
    inverse_false_alarm_rate: float


@dataclass(frozen=True, slots=True)
class MonitorResult:
    """What all batches so far say.

    Attributes
    ----------
    batches : tuple of BatchResult
        In the order they came.
    n_alarms : int
        Batches with p <= alpha.
    expected_alarms : float
        Sum of the alphas so far: the mean number of alarms if no batch holds an anomaly, over references and toys. With
        ``spending="union"`` it bounds the chance of any alarm.
    alarm_rate : float
        Share of the batches that raised an alarm, given this reference and these toys. If no batch holds an anomaly it
        is an estimate of the rate of false alarms, which for one reference is not alpha.
    alarm_interval : tuple of float
        95 % Clopper-Pearson interval of that rate, for one alpha; batches share the reference but nothing else.
    toy_interval : tuple of float
        95 % interval in which the rate of false alarms lies because toys are finite, at the alpha of the last batch.
    false_alarms_per_time : float
        The largest p of toys up to that alpha, times the batches per unit time; 0 if no p is so small.
    inverse_false_alarm_rate : float
        Mean time between false alarms at that alpha.
    ratio : float
        N_R / N_D of the largest batch.
    """

    batches: tuple[BatchResult, ...]
    n_alarms: int
    expected_alarms: float
    alarm_rate: float
    alarm_interval: tuple[float, float]
    toy_interval: tuple[float, float]
    false_alarms_per_time: float
    inverse_false_alarm_rate: float
    ratio: float

    def __str__(self) -> str:
        last, low, high = self.batches[-1], *self.toy_interval
        no_alarm = "; no p is so small, and there can be no alarm" if high == 0 else ""
        lines = [
            f"{len(self.batches)} batches, alarms: {self.n_alarms}, {self.expected_alarms:.3g} of them expected",
            f"alpha {last.alpha:.3g}; between {low:.2g} and {high:.2g} with these toys, 95 %{no_alarm}",
            f"mean time between false alarms {self.inverse_false_alarm_rate:.4g}; reference rows to a data row "
            f"{self.ratio:.3g}",
        ]
        alarms = [f"batch {batch.number}: p = {batch.pvalue:.4g}" for batch in self.batches if batch.alarm]
        return "\n".join(lines + alarms)


class BatchMonitor:
    """Test batch after batch against one reference, with toys that are drawn once.

    Toys are those of ``calibration="split"``. They do not depend on the batch, so that each batch costs one fit.

    Parameters
    ----------
    test : SparKerTest or another test
        Its parameters say how to test, and ``n_toys`` how many toys; its calibration becomes "split". A copy is fitted,
        with one seed for all batches.
    reference : array-like of shape (n_reference, n_features)
        Anomaly-free sample, at least twice as many rows as a batch; all rows weigh 1.
    alpha : float, default=0.01
        False alarms: a probability for each batch with ``spending="fixed"``, for any batch of all with "union".
    spending : {"fixed", "union"}, default="fixed"
        "fixed": every batch gets alpha, and false alarms go on. "union": batches share alpha, so that the chance of
        even one false alarm is at most alpha, however batches depend on each other (Bonferroni).
    n_batches : int, default=None
        With "union": number of batches among which alpha is shared equally; more are refused. None: batch k gets
        6 alpha / (pi k)^2, for a stream without end; soon no p is small enough.
    batches_per_time : float, default=1.0
        Batches in a unit of time, for rates.

    Attributes
    ----------
    test_ : object
        The test fitted to the last batch: its kernels say where.
    null_distribution_ : NullDistribution
        The toys, after the first batch.

    Raises
    ------
    TypeError
        If `test` is no test that takes split toys of an array.
    ValueError
        If a number is out of its range, `stopping` of the test is set, or the reference is not finite.

    Warns
    -----
    UserWarning
        If the reference is less than 20 times a batch, or an alpha is below 1 / (n_toys + 1), which no p is.

    See Also
    --------
    SparKerTest : The test of one batch.

    Notes
    -----
    All batches are compared with the same reference and toys. If these happen to be unlike the truth, every batch is
    judged by the same mistake: over references and toys the rate of false alarms is about alpha, for one of them it
    is not. What finite toys do is known: with k = floor(alpha (n_toys + 1)) the rate follows Beta(k, n_toys + 1 - k)
    ([1]_). What a finite reference does shrinks with N_D / N_R and has no such formula: take 20 reference rows for a
    data row. For the same reason evidence of batches must not be multiplied.

    A test of shape only needs batches of one size; with ``expected_count`` they may have any.

    References
    ----------
    .. [1] V. Vovk, "Conditional validity of inductive conformal predictors", Mach. Learn. 92 (2013) 349.

    Examples
    --------
    >>> import numpy as np
    >>> from sparker import BatchMonitor, SparKerTest
    >>> rng = np.random.default_rng(0)
    >>> test = SparKerTest(n_widths=3, n_candidates=50, n_toys=99, random_state=0)
    >>> monitor = BatchMonitor(test, rng.normal(size=(1200, 1)), alpha=0.01)
    >>> batches = [rng.normal(size=(50, 1)), np.append(rng.normal(size=(40, 1)), np.full((10, 1), 2.0), axis=0)]
    >>> [monitor.update(batch).alarm for batch in batches]
    [False, True]
    >>> monitor.result().expected_alarms
    0.02
    """

    def __init__(
        self,
        test: TwoSampleTest,
        reference: Any,
        *,
        alpha: float = 0.01,
        spending: str = "fixed",
        n_batches: int | None = None,
        batches_per_time: float = 1.0,
    ) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is {alpha}: needed is a number between 0 and 1.")
        if spending not in ("fixed", "union"):
            raise ValueError(f'spending is {spending!r}: needed is "fixed" or "union".')
        if n_batches is not None and (spending == "fixed" or not isinstance(n_batches, Integral) or n_batches < 1):
            raise ValueError(f'n_batches is {n_batches}: needed is a whole number >= 1, and spending="union".')
        if not 0 < batches_per_time < math.inf:
            raise ValueError(f"batches_per_time is {batches_per_time}: needed is a number > 0.")
        refuse_unless_splits(test)
        if test.stopping is not None:
            raise ValueError(
                f"stopping is {test.stopping}: toys that stop early serve only the batch that they were drawn for. Set "
                "it to None."
            )
        self.test = clone(test)  # parameters that are changed later must not meet toys of the old ones
        self._names = names_of(reference)
        refuse_columns("reference", reference)
        self.reference = check_array(to_host(reference), dtype=FLOATS, order="C", copy=True, input_name="reference")
        self.alpha = alpha
        self.spending = spending
        self.n_batches = n_batches
        self.batches_per_time = batches_per_time
        self._batches: list[BatchResult] = []
        self._n_data = 0
        self._seed: int | None = None

    def update(self, batch: Any) -> BatchResult:
        """Test one more batch; the first one simulates the toys.

        Parameters
        ----------
        batch : array-like of shape (n_data, n_features)
            Rows.

        Returns
        -------
        result : BatchResult
            p and alarm of this batch.

        Raises
        ------
        ValueError
            If alpha is spent, if the batch has another size than the first one in a test of shape only, or if it does
            not fit the reference: another number of columns, or other names.
        """
        number = len(self._batches) + 1
        alpha = self._alpha(number)
        check_names(self._names, batch, "The batch")
        refuse_columns("The batch", batch)
        batch = check_array(to_host(batch), dtype=FLOATS, order="C", input_name="batch")
        if number > 1 and self.test.expected_count is None and len(batch) != self._n_data:
            raise ValueError(
                f"The batch has {len(batch)} rows, the toys of this test of shape only have {self._n_data}: pass "
                "batches of one size (a fixed number of rows at random from each), or set expected_count."
            )
        fitted = clone(self.test).set_params(calibration="split")
        if self._seed is not None:
            fitted.set_params(random_state=self._seed)
        fitted.fit(self.reference, data=batch)
        if number == 1:
            self.null_distribution_: NullDistribution = fitted.calibrate()
            self._seed = fitted.seed_
        if len(batch) > self._n_data:
            self._n_data = len(batch)
            self._warn_if_small()
        self.test_ = fitted
        self._warn_if_out_of_reach(number, alpha)
        p = _aggregation.p_value(self.null_distribution_.values, fitted.statistics_, fitted._fitted.aggregation)
        rate = p * self.batches_per_time
        self._batches.append(BatchResult(number, p, alpha, p <= alpha * (1 + 1e-9), rate, 1 / rate))
        return self._batches[-1]

    def result(self) -> MonitorResult:
        """Sum up all batches so far.

        Returns
        -------
        result : MonitorResult
            Alarms, and the alarms to expect.

        Raises
        ------
        ValueError
            If no batch has been tested.
        """
        if not self._batches:
            raise ValueError("No batch has been tested: call update(batch) first.")
        n, n_alarms, alpha = len(self._batches), sum(b.alarm for b in self._batches), self._batches[-1].alpha
        n_toys = len(self.null_distribution_)
        k = math.floor(alpha * (n_toys + 1) * (1 + 1e-9))
        toys = stats.beta.interval(0.95, k, n_toys + 1 - k) if k else (0.0, 0.0)
        # p is a multiple of 1 / (n_toys + 1), and none is below it.
        rate = k / (n_toys + 1) * self.batches_per_time
        return MonitorResult(
            batches=tuple(self._batches),
            n_alarms=n_alarms,
            expected_alarms=sum(b.alpha for b in self._batches),
            alarm_rate=n_alarms / n,
            alarm_interval=clopper_pearson(n_alarms, n),
            toy_interval=(float(toys[0]), float(toys[1])),
            false_alarms_per_time=rate,
            inverse_false_alarm_rate=1 / rate if k else math.inf,
            ratio=len(self.reference) / self._n_data,
        )

    def _alpha(self, number: int) -> float:
        if self.spending == "fixed":
            return self.alpha
        if self.n_batches is None:
            return self.alpha * 6 / (math.pi * number) ** 2
        if number > self.n_batches:
            raise ValueError(f"alpha is spent: n_batches is {self.n_batches}, and all of them have been tested.")
        return self.alpha / self.n_batches

    def _warn_if_small(self) -> None:
        if len(self.reference) < ENOUGH * self._n_data:
            warnings.warn(
                f"The reference has {len(self.reference) / self._n_data:.3g} times the rows of a batch: below {ENOUGH} "
                "the rate of false alarms with this reference may be far from alpha.",
                UserWarning,
                stacklevel=3,
            )

    def _warn_if_out_of_reach(self, number: int, alpha: float) -> None:
        resolution = 1 / (len(self.null_distribution_) + 1)
        out_of_reach = alpha < resolution * (1 - 1e-9)
        before = number > 1 and self._batches[-1].alpha < resolution * (1 - 1e-9)
        if out_of_reach and not before:
            warnings.warn(
                f"alpha is {alpha:.3g} from batch {number} on, but no p is below {resolution:.3g}: there is no alarm. "
                "Raise n_toys or alpha.",
                UserWarning,
                stacklevel=3,
            )
