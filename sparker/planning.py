"""How large an anomaly a search would find, and how many toys that takes, before there are data."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.isotonic import IsotonicRegression
from sklearn.utils import check_array

from sparker import _aggregation, _calibration
from sparker._base import TwoSampleTest, _draw_seed, refuse_unless_splits
from sparker._kernels import to_host
from sparker._null import NullDistribution
from sparker._pool import Pool, Weights
from sparker._results import clopper_pearson
from sparker._samples import FLOATS, float32_suffices, refuse_columns, warn_if_unlike_spreads
from sparker._toys import SplitToys, pair_weights
from sparker.two_sample import SparKerTest

__all__ = ["PowerCurve", "power_curve", "toys_needed"]

Array = npt.NDArray[Any]

ONE_SIGMA = 0.6827


@dataclass(frozen=True, slots=True, eq=False)
class PowerCurve:
    """Power of a test against the fraction of anomalies.

    Attributes
    ----------
    fractions : ndarray of shape (n_fractions,)
        Expected share of anomalies among the data rows, in rising order.
    p_values : ndarray of shape (n_fractions, n_trials)
        p of every trial; 1 where a fit failed.
    alpha : float
        A trial with p <= alpha finds the anomaly.
    n_reference, n_data : int
        Rows of the reference, and of the data of a trial.
    null_distribution : NullDistribution
        The toys that all trials are ranked among.
    """

    fractions: Array
    p_values: Array
    alpha: float
    n_reference: int
    n_data: int
    null_distribution: NullDistribution = field(repr=False)

    def __str__(self) -> str:
        n_trials, (low, high) = self.p_values.shape[1], self.band
        lines = [
            f"power at alpha = {self.alpha:g}: {self.n_data} data rows, {self.n_reference} reference rows, "
            f"{n_trials} trials at each fraction, {len(self.null_distribution)} toys",
            "  fraction   power   68 % band",
        ]
        rows = zip(self.fractions, self.power, low, high, strict=True)
        return "\n".join(lines + [f"{x:>10.4g}   {power:5.3f}   {a:.3f} to {b:.3f}" for x, power, a, b in rows])

    @property
    def power(self) -> Array:
        """Share of the trials that find the anomaly, shape (n_fractions,)."""
        return np.mean(self.p_values <= self.alpha, axis=1)

    @property
    def band(self) -> tuple[Array, Array]:
        """Lower and upper end of the 68 % Clopper-Pearson band of the power, from the number of trials."""
        found = np.sum(self.p_values <= self.alpha, axis=1)
        low, high = np.transpose([clopper_pearson(int(n), self.p_values.shape[1], ONE_SIGMA) for n in found])
        return low, high

    def smallest_fraction(self, power: float = 0.5) -> tuple[float, float, float]:
        """Smallest fraction of anomalies that is found with a wanted power.

        Parameters
        ----------
        power : float, default=0.5
            Wanted power, in (0, 1).

        Returns
        -------
        fraction, low, high : float
            Where the rising curve, interpolated between the fractions, reaches the power, and where the ends of its
            68 % band do; inf where one does not, and the smallest fraction where one is above it from the start.
        """
        if not 0 < power < 1:
            raise ValueError(f"power is {power}: needed is a number between 0 and 1.")
        low, high = self.band
        central, first, last = (_crossing(self.fractions, y, power) for y in (self.power, high, low))
        return central, first, last


def _crossing(x: Array, y: Array, level: float) -> float:
    """Where the best rising fit of y reaches the level, by linear interpolation."""
    rising = IsotonicRegression().fit_transform(x, y)
    above = np.flatnonzero(rising >= level)
    if not len(above):
        return math.inf
    k = int(above[0])
    if k == 0:
        return float(x[0])
    share = (level - rising[k - 1]) / (rising[k] - rising[k - 1])
    return float(x[k - 1] + share * (x[k] - x[k - 1]))


@dataclass(frozen=True)
class _Trials:
    """Pairs drawn as the null toys are, some of whose data rows are then replaced by anomalies."""

    null: SplitToys
    sampler: Callable[[int, np.random.Generator], Any]
    fraction: float
    pool: Pool | None = None  # anomalies are in no shared pool
    name: str = "split, with anomalies"

    def draw(self, rng: np.random.Generator) -> tuple[Pool, Weights]:
        """See `sparker._toys.Toys`."""
        rows, weights = self.null.draw(rng)
        reference, data = (rows.rows(np.flatnonzero(part)) for part in (weights.reference, weights.data))
        n_anomalies = int(rng.binomial(len(data), self.fraction))
        if n_anomalies:
            replaced = rng.choice(len(data), n_anomalies, replace=False)  # rows of a toy are in the order of the pool
            data[replaced] = self._anomalies(n_anomalies, rng, rows)
        pool = Pool([reference, data])
        is_data = np.arange(pool.n_rows) >= len(reference)
        return pool, pair_weights(pool, ~is_data * 1.0, is_data * 1.0, self.null.expected)

    def _anomalies(self, n: int, rng: np.random.Generator, rows: Pool) -> Array:
        found = np.asarray(self.sampler(n, rng), dtype=rows.dtype)
        if found.shape != (n, rows.n_features) or not np.all(np.isfinite(found)):
            raise TypeError(
                f"anomaly_sampler({n}, rng) returned rows of shape {found.shape}; needed are finite numbers of shape "
                f"({n}, {rows.n_features})."
            )
        return found


def power_curve(
    reference: Any,
    anomaly_sampler: Callable[[int, np.random.Generator], Any],
    fractions: Sequence[float],
    *,
    n_data: int,
    test: TwoSampleTest | None = None,
    n_trials: int = 100,
    alpha: float = 0.05,
    random_state: Any = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> PowerCurve:
    """Power of a test against the fraction of anomalies, from a reference and a guess of what anomalies are like.

    Null toys are drawn once, as ``calibration="split"`` draws them: the reference is split into data and reference. The
    pair of a trial is drawn in the same way, so that its data never meet the reference they came from; then anomalies
    replace a Binomial(N_D, fraction) number of its data rows. All trials are ranked among the same toys.

    Parameters
    ----------
    reference : array-like of shape (n_reference, n_features)
        Anomaly-free sample, at least twice as many rows as ``n_data``; all rows weigh 1.
    anomaly_sampler : callable
        ``anomaly_sampler(n, rng)`` returns n anomalies, shape (n, n_features).
    fractions : sequence of float
        Expected shares of anomalies, in [0, 1]. 0 measures the rate of false alarms.
    n_data : int
        Rows of the data.
    test : SparKerTest or another test, default=None
        Its parameters say how to test, and ``n_toys`` how many toys; None: ``SparKerTest()``. Its calibration is
        not used.
    n_trials : int, default=100
        Trials at each fraction.
    alpha : float, default=0.05
        Level of the test; at least 1 / (n_toys + 1).
    random_state : int, RandomState, Generator or None, default=None
        Source of all random numbers.
    n_jobs : int, default=None
        Processes; None means 1, -1 all cores. The numbers do not depend on it.
    verbose : int, default=0
        1 shows progress bars.

    Returns
    -------
    curve : PowerCurve
        The power with its band, for this reference.

    Raises
    ------
    TypeError
        If `test` is no test that takes split toys, or the sampler returns other than finite rows of the right shape.
    ValueError
        If a number is out of its range, `stopping` or `null_distribution` of the test is set, the reference has fewer
        than twice `n_data` rows, or more than 5 % of the toys fail.

    See Also
    --------
    sparker.displays.PowerCurveDisplay : Its picture.
    toys_needed : Number of toys for a wanted significance.

    Notes
    -----
    The band comes from the number of trials alone. Another reference of this size, or another set of toys, would move
    the whole curve. With ``expected_count`` the counts of trials are Poisson; anomalies replace rows and add none: what
    they would add to the count is not part of the power.

    Examples
    --------
    >>> import numpy as np
    >>> from sparker import SparKerTest, power_curve
    >>> reference = np.random.default_rng(0).exponential(size=(900, 1))
    >>> def peak(n, rng):
    ...     return rng.normal(5, 0.1, size=(n, 1))
    >>> test = SparKerTest(n_widths=3, n_candidates=50, n_toys=39)
    >>> curve = power_curve(reference, peak, [0, 0.05, 0.2], n_data=150, test=test, n_trials=20, random_state=0)
    >>> bool(curve.power[0] < 0.3), float(curve.power[-1])
    (True, 1.0)
    """
    test = SparKerTest() if test is None else test
    refuse_unless_splits(test)
    test._validate_params()
    for name in ("stopping", "null_distribution"):
        if getattr(test, name) is not None:
            raise ValueError(f"{name} of the test is set: a power curve draws toys of its own, for all trials.")
    refuse_columns("reference", reference)
    X = check_array(to_host(reference), dtype=FLOATS, order="C", input_name="reference")
    shares = np.sort(np.asarray(fractions, dtype=np.float64).ravel())
    if not len(shares) or shares[0] < 0 or not shares[-1] <= 1:
        raise ValueError(f"fractions are {fractions}: needed are numbers from 0 to 1.")
    for name, number in (("n_data", n_data), ("n_trials", n_trials)):
        if not isinstance(number, Integral):
            raise ValueError(f"{name} is {number!r}: needed is a whole number.")
    if len(X) < 2 * n_data or n_data < 1:
        raise ValueError(f"n_data is {n_data}, the reference has {len(X)} rows: needed are at least twice as many.")
    if n_trials < 1:
        raise ValueError(f"n_trials is {n_trials}: needed is a number >= 1.")
    if not 1 / (test.n_toys + 1) <= alpha < 1:
        raise ValueError(f"alpha is {alpha}: with {test.n_toys} toys no p is below {1 / (test.n_toys + 1):.3g}.")
    if X.dtype == np.float32 and not float32_suffices(Pool([X])):
        X = X.astype(np.float64)
    if test._has_kernels:
        warn_if_unlike_spreads(X)
    statistic, toys = test._make_statistic(), SplitToys(Pool([X]), n_data, test.expected_count)
    # One seed for the toys and one for the trials of each fraction: trial i of a fraction must not be toy i again.
    seed = _draw_seed(random_state)
    of_toys, *of_fractions = np.random.SeedSequence(seed).generate_state(1 + len(shares)).tolist()
    plan = statistic.learn(toys.pool, _calibration.generator(of_toys, _calibration.PLAN_STREAM))
    null = _calibration.simulate(statistic, toys, plan, of_toys, test.n_toys, n_jobs=n_jobs, verbose=verbose)
    rule = _aggregation.Rule(test.aggregation, statistic.entry_weights)
    p_values = np.ones((len(shares), n_trials))
    for k, (fraction, of_trials) in enumerate(zip(shares, of_fractions, strict=True)):
        trials = _Trials(toys, anomaly_sampler, float(fraction))
        found = _calibration.simulate(statistic, trials, None, of_trials, n_trials, n_jobs=n_jobs, verbose=verbose)
        for i in np.flatnonzero(~found.failed):
            p_values[k, i] = _aggregation.p_value(null.values, found.values[i], rule)
    return PowerCurve(shares, p_values, alpha, len(X), n_data, null)


def toys_needed(zscore: float, *, relative_error: float | None = None) -> int:
    """Number of toys without which a wanted significance cannot be claimed by counting.

    Parameters
    ----------
    zscore : float
        Wanted one-sided Gaussian significance Z.
    relative_error : float, default=None
        Wanted standard deviation of the counted p over p, where p is that of Z. None: just enough that p <= that of Z
        is possible, when no toy reaches the observed statistic.

    Returns
    -------
    n_toys : int
        The smallest n with 1 / (n + 1) <= p, or with (1 - p) / (p n) <= relative_error^2 if that is more.

    Raises
    ------
    TypeError
        If `zscore` is no number.
    ValueError
        If no number of toys is enough, or `relative_error` is not positive.

    See Also
    --------
    power_curve : Power against the fraction of anomalies.

    Examples
    --------
    >>> from sparker import toys_needed
    >>> toys_needed(3), toys_needed(5)
    (740, 3488555)
    >>> toys_needed(3, relative_error=0.1)
    73980
    """
    if np.asarray(zscore).dtype.kind not in "iuf":
        raise TypeError(f"zscore is {zscore!r}: needed is a number.")
    p = float(stats.norm.sf(zscore))
    if p < np.finfo(np.float64).tiny or not math.isfinite(zscore):
        raise ValueError(f"zscore is {zscore}: no number of toys is enough.")
    n_toys = max(1, math.ceil(1 / p - 1))
    if relative_error is None:
        return n_toys
    if not 0 < relative_error < math.inf:
        raise ValueError(f"relative_error is {relative_error}: needed is a number > 0.")
    return max(n_toys, math.ceil((1 - p) / (p * relative_error**2)))
