"""p-values where the reference is not known exactly: toys drawn from variations of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.utils.validation import check_is_fitted

from sparker import _aggregation, _calibration
from sparker._base import Fitted, TwoSampleTest, refuse_unless_splits
from sparker._null import NullDistribution
from sparker._pool import Pool, Weights
from sparker._results import z_score
from sparker._toys import CallableToys, SplitToys, Toys, data_count, observe, pair_weights

__all__ = ["SystematicResult", "systematic_p_value"]

Array = npt.NDArray[Any]

RARELY = 1e-9  # a toy may fail

Variation = Array | Sequence[float] | Callable[[np.random.Generator], Any]


@dataclass(frozen=True, slots=True)
class SystematicResult:
    """What a test says under variations of the reference.

    Attributes
    ----------
    pvalue : float
        The largest of ``pvalues``, or that among the toys of all variations together.
    zscore : float
        One-sided Gaussian significance of ``pvalue``.
    combine : str
        "worst" or "average".
    pvalues : dict of str to float
        p-value under each variation alone.
    n_toys, n_failed : int
        Toys of each variation; failed toys of all, which count as reaching the observed statistic.
    """

    pvalue: float
    zscore: float
    combine: str
    pvalues: dict[str, float]
    n_toys: int
    n_failed: int


def systematic_p_value(
    test: TwoSampleTest,
    variations: Mapping[str, Variation] | Sequence[Variation],
    *,
    combine: str = "worst",
    n_toys: int | None = None,
) -> SystematicResult:
    """Return the p-value of a fitted test where data without anomalies may follow a variation of the reference.

    The null distribution is that of toys whose reference is drawn like the nominal one, and whose data are drawn from a
    variation: a distortion that the reference may have is then part of the null hypothesis. Toys that vary by weights
    refuse rows; the statistic of the samples is then that beside as many reference rows as these toys have.

    Parameters
    ----------
    test : SparKerTest or another test
        Fitted. Weights need ``calibration="split"``, whose toys they vary.
    variations : dict or sequence of weights and callables
        What the data may follow. Weights: for every reference row the density of the varied reference over that of the
        nominal one, times any constant; >= 0; the reference itself must have rows of equal weight. A callable
        ``draw(rng)`` returns ``(reference, data)`` or ``(reference, data, reference_weight)``, a nominal reference and
        varied data, of the sizes of the fit: N_R reference rows, with ``"split"`` N_R - N_D. Weights of 1 are the
        nominal reference itself, which counts only if it is given.
    combine : {"worst", "average"}, default="worst"
        "worst": the largest p-value, valid whichever variation is true, if it is among those given. "average": the
        p-value among all toys together, valid if the truth is drawn from the variations, each as likely as the others.
    n_toys : int, default=None
        Toys for each variation; None takes that of the test.

    Returns
    -------
    result : SystematicResult
        The combined p-value and those under each variation.

    Raises
    ------
    ValueError
        If a variation does not fit the reference or the calibration of the test.

    See Also
    --------
    SparKerTest : The test.

    Notes
    -----
    "worst" is the supremum p-value, "average" the prior predictive one ([1]_, [2]_). Neither covers a distortion that
    is not among the variations, and both lose power to anomalies that look like one.

    References
    ----------
    .. [1] G. E. P. Box, "Sampling and Bayes' inference in scientific modelling and robustness", J. R. Stat. Soc. A 143
       (1980) 383.
    .. [2] L. Demortier, "P values and nuisance parameters", PHYSTAT-LHC Workshop (2007).

    Examples
    --------
    >>> import numpy as np
    >>> from sparker import SparKerTest, systematic_p_value
    >>> rng = np.random.default_rng(0)
    >>> reference, data = rng.random((4000, 1)), np.sqrt(rng.random((300, 1)))
    >>> test = SparKerTest(n_widths=3, n_candidates=50, n_toys=49, calibration="split", random_state=0)
    >>> test.fit(reference, data=data).p_value()
    0.02
    >>> x = reference[:, 0]
    >>> found = systematic_p_value(test, {"nominal": np.ones(4000), "tilted": x})
    >>> found.pvalues["nominal"], found.pvalue > 0.05
    (0.02, True)
    """
    check_is_fitted(test)
    if test._fitted.calibration == "split":
        refuse_unless_splits(test)
    if combine not in ("worst", "average"):
        raise ValueError(f'combine is {combine!r}: needed is "worst" or "average".')
    named = dict(variations) if isinstance(variations, Mapping) else {str(k): v for k, v in enumerate(variations)}
    if not named:
        raise ValueError("variations is empty: needed is at least one set of weights or callable.")
    if n_toys is not None and (not isinstance(n_toys, Integral) or n_toys < 1):
        raise ValueError(f"n_toys is {n_toys!r}: needed is a whole number >= 1.")
    fitted = test._fitted
    test._refuse_changed()
    test._warm_up()
    toys = _toys_of(fitted, named)
    if combine == "average" and len({isinstance(of_variation, AcceptedToys) for of_variation in toys}) > 1:
        raise ValueError(
            'combine="average" needs all variations to be weights, or all callables: the sizes must agree.'
        )
    observed = _statistics_beside(test, toys)
    nulls = _simulate(test, toys, fitted.n_toys if n_toys is None else n_toys)
    rule = fitted.aggregation
    p_values = [_aggregation.p_value(null.values, values, rule) for null, values in zip(nulls, observed, strict=True)]
    together = np.concatenate([null.values for null in nulls])
    combined = max(p_values) if combine == "worst" else _aggregation.p_value(together, observed[0], rule)
    return SystematicResult(
        pvalue=combined,
        zscore=float(z_score(combined)),
        combine=combine,
        pvalues=dict(zip(named, p_values, strict=True)),
        n_toys=len(nulls[0]),
        n_failed=int(sum(null.failed.sum() for null in nulls)),
    )


def _simulate(test: TwoSampleTest, toys: Sequence[Toys], n_toys: int) -> list[NullDistribution]:
    """Null of each variation, each with toys of its own: p among all of them together needs them to be independent."""
    statistic = test._fitted.statistic
    more = np.random.SeedSequence([test.seed_, 1]).generate_state(len(toys)).tolist()
    nulls = []
    for seed, of_variation in zip([test.seed_, *more], toys, strict=False):
        plan = None
        if of_variation.pool is not None:
            rng = _calibration.generator(test.seed_, _calibration.PLAN_STREAM)
            plan = statistic.learn(of_variation.pool, rng)
        options = {"n_jobs": test.n_jobs, "verbose": test.verbose}
        nulls.append(_calibration.simulate(statistic, of_variation, plan, seed, n_toys, **options))
    return nulls


@dataclass(frozen=True)
class AcceptedToys:
    """Split toys whose data follow varied weights of the rows, while the reference stays as it is.

    Rows come in random order; each is accepted as data with a probability in proportion to its weight until there are
    enough, those refused are given up, and the last `n_reference` rows are the reference, each with its weight in the
    pool: exact draws of both, of which no row is in both.
    """

    pool: Pool
    n_data: int
    expected: float | None
    weight: Array
    n_reference: int
    name: str = "split"

    def draw(self, rng: np.random.Generator) -> tuple[Pool, Weights]:
        """See `Toys`."""
        n = self.pool.n_rows
        count = data_count(rng, self.n_data, self.expected, n)
        order = self.pool.scrambled[rng.permutation(n)]
        accepted = np.flatnonzero(rng.random(n) * self.weight.max() < self.weight[order])
        if len(accepted) < count or accepted[count - 1] >= n - self.n_reference:
            raise ValueError(f"A toy wants {count} data and {self.n_reference} reference rows out of {n}.")
        data, reference = np.zeros(n), np.zeros(n)
        data[order[accepted[:count]]] = 1.0
        kept = order[n - self.n_reference :]
        reference[kept] = self.pool.signed_weight[kept]
        return self.pool, pair_weights(self.pool, reference, data, self.expected)


def _toys_of(fitted: Fitted, variations: Mapping[str, Variation]) -> list[Toys]:
    """Toys of each variation, or a ValueError that names the one that does not fit."""
    observed = fitted.observed
    weights = {name: _checked(fitted, name, given) for name, given in variations.items() if not callable(given)}
    varied = any(np.ptp(weight) > 0 for weight in weights.values())
    n_reference = observed.n_reference - max([_used_up(fitted, *item) for item in weights.items()], default=0)

    def make(name: str, variation: Variation) -> Toys:
        if callable(variation):
            return CallableToys.like(observed, variation, f"The variation {name!r}")
        if not varied:  # the toys of the test itself
            return SplitToys(observed.reference_pool(), observed.n_data, observed.expected)
        return AcceptedToys(observed.reference_pool(), observed.n_data, observed.expected, weights[name], n_reference)

    return [make(*item) for item in variations.items()]


def _checked(fitted: Fitted, name: str, variation: Variation) -> Array:
    """The weights of a variation."""
    observed = fitted.observed
    if fitted.calibration != "split" or np.ptp(observed.raw_weight) > 0:
        found = "weights that differ" if fitted.calibration == "split" else f"calibration={fitted.calibration!r}"
        raise ValueError(
            f'Weights, as those of {name!r}, vary the toys of calibration="split" and rows of equal weight; the test '
            f'has {found}. Pass callables that draw the varied pair (see "A reference that is not exact" in the user '
            "guide), or fit with what is needed."
        )
    weight, n = np.asarray(variation, dtype=np.float64), observed.n_reference
    if weight.shape != (n,) or not np.all(np.isfinite(weight)) or weight.min() < 0 or not weight.any():
        least = f", the least of them {weight.min():.3g}" if weight.size else ""
        raise ValueError(
            f"The variation {name!r} has weights of shape {weight.shape}{least}: needed are {n} finite numbers >= 0, "
            "not all of them 0."
        )
    return weight


def _used_up(fitted: Fitted, name: str, weight: Array) -> int:
    try:
        return _rows_used_up(weight, fitted.observed.n_data, fitted.observed.expected)
    except ValueError as error:
        raise ValueError(f"The variation {name!r} does not fit. {error}") from error


def _rows_used_up(weight: Array, n_data: int, expected: float | None) -> int:
    """Reference rows that the data of varied toys take.

    With unequal weights it is the number that `AcceptedToys` take and refuse, or fewer, but for one in a thousand
    million.
    """
    if np.ptp(weight) == 0:
        return n_data
    count = n_data if expected is None else int(stats.poisson.isf(RARELY, expected))
    largest = weight.max() / weight.mean()
    used = count + int(stats.nbinom.isf(RARELY, count, 1 / largest))
    if used > len(weight) / 2:
        raise ValueError(
            f"The largest weight is {largest:.3g} times the mean: the data of toys would use up to {used} of "
            f"{len(weight)} reference rows. Pass more of them, or a callable."
        )
    return used


def _statistics_beside(test: TwoSampleTest, toys: Sequence[Toys]) -> list[Array]:
    """Entries of the observed pair with as many reference rows as toys have: with more, a distortion shows more."""
    fitted, samples = test._fitted, test._fitted.samples
    sizes = {of_variation.n_reference for of_variation in toys if isinstance(of_variation, AcceptedToys)}
    if not sizes:
        return [test.statistics_] * len(toys)
    n_reference = len(samples.reference)
    rng = _calibration.generator(test.seed_, _calibration.POOL_STREAM)
    expected = fitted.observed.expected
    observed = observe(samples.pool(), n_reference, "split", expected, rng, n_reference - sizes.pop())
    found = _calibration.evaluate_alone(fitted.statistic, observed.pool, observed.weights, rng)
    if isinstance(found, ValueError):
        raise found
    return [found[0] if isinstance(of_variation, AcceptedToys) else test.statistics_ for of_variation in toys]
