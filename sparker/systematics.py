"""p-values where the reference is not known exactly: toys drawn from variations of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from sparker import _aggregation, _calibration
from sparker._base import Fitted, TwoSampleTest
from sparker._pool import Pool, Weights
from sparker._results import counted_p_value, z_score
from sparker._toys import CallableToys, Toys, data_count, pair_weights

__all__ = ["SystematicResult", "systematic_p_value"]

Array = npt.NDArray[Any]

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


@dataclass(frozen=True)
class _VariedToys:
    """Split toys whose data follow a variation of the reference, while the reference stays as it is.

    Rows come in random order; each is accepted as data with a probability in proportion to its weight until there are
    enough, those refused are given up, and the rest is the reference: exact draws of both, of which no row is in both.
    """

    pool: Pool
    n_data: int
    expected: float | None
    weight: Array
    name: str = "split, varied"

    def draw(self, rng: np.random.Generator) -> tuple[Pool, Weights]:
        """See `sparker._toys.Toys`."""
        n = self.pool.n_rows
        count = data_count(rng, self.n_data, self.expected, n)
        order = self.pool.scrambled[rng.permutation(n)]
        accepted = np.flatnonzero(rng.random(n) * self.weight.max() < self.weight[order])
        if len(accepted) < count or accepted[count - 1] == n - 1:
            raise ValueError(f"A varied toy wants {count} data rows, and some for the reference, out of {n}.")
        data, reference = np.zeros(n), np.zeros(n)
        data[order[accepted[:count]]] = 1.0
        reference[order[accepted[count - 1] + 1 :]] = 1.0
        return self.pool, pair_weights(self.pool, reference, data, self.expected)


def systematic_p_value(
    test: TwoSampleTest,
    variations: Mapping[str, Variation] | Sequence[Variation],
    *,
    combine: str = "worst",
    n_toys: int | None = None,
) -> SystematicResult:
    """Return the p-value of a fitted test where data without anomalies may follow a variation of the reference.

    The statistic of the samples stays what it is. Its null distribution is that of toys whose reference is drawn like
    the nominal one, and whose data are drawn from a variation: a distortion that the reference may have is then part of
    the null hypothesis.

    Parameters
    ----------
    test : SparKerTest or another test
        Fitted. Weights need ``calibration="split"``, whose toys they vary.
    variations : dict or sequence of weights and callables
        What the data may follow. Weights: for every reference row the density of the varied reference over that of the
        nominal one, times any constant; >= 0. A callable ``draw(rng)`` returns ``(reference, data)`` or ``(reference,
        data, reference_weight)``, a nominal reference and varied data. Weights of 1 are the nominal reference itself,
        which counts only if it is given.
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
    if combine not in ("worst", "average"):
        raise ValueError(f'combine is {combine!r}: needed is "worst" or "average".')
    named = dict(variations) if isinstance(variations, Mapping) else {str(k): v for k, v in enumerate(variations)}
    if not named:
        raise ValueError("variations is empty: needed is at least one set of weights or callable.")
    fitted = test._fitted
    test._refuse_changed()
    test._warm_up()
    # Each variation has its own toys: p among all of them together needs them to be independent.
    more = np.random.SeedSequence([test.seed_, 1]).generate_state(len(named)).tolist()
    nulls = []
    for seed, (name, variation) in zip([test.seed_, *more], named.items(), strict=False):
        toys = _toys_of(fitted, name, variation)
        plan = None
        if toys.pool is not None:
            plan = fitted.statistic.learn(toys.pool, _calibration.generator(test.seed_, _calibration.PLAN_STREAM))
        n = fitted.n_toys if n_toys is None else n_toys
        nulls.append(_calibration.simulate(fitted.statistic, toys, plan, seed, n, test.n_jobs, test.verbose))
    p_values = [_p_value(null.values, test) for null in nulls]
    combined = max(p_values) if combine == "worst" else _p_value(np.concatenate([null.values for null in nulls]), test)
    return SystematicResult(
        pvalue=combined,
        zscore=float(z_score(combined)),
        combine=combine,
        pvalues=dict(zip(named, p_values, strict=True)),
        n_toys=len(nulls[0]),
        n_failed=int(sum(null.failed.sum() for null in nulls)),
    )


def _toys_of(fitted: Fitted, name: str, variation: Variation) -> Toys:
    """Toys of one variation, or a ValueError that names it."""
    observed = fitted.observed
    if callable(variation):
        return CallableToys(variation, observed.pool.n_features, observed.pool.dtype, observed.expected)
    if fitted.calibration != "split" or np.ptp(observed.raw_weight) > 0:
        raise ValueError(
            f'Weights, as those of {name!r}, vary the toys of calibration="split" and rows of equal weight. Fit with '
            "these, or pass callables."
        )
    weight, n = np.asarray(variation, dtype=np.float64), observed.n_reference
    if weight.shape != (n,) or not np.all(np.isfinite(weight)) or weight.min() < 0 or not weight.any():
        raise ValueError(
            f"The variation {name!r} has weights of shape {weight.shape}: needed are {n} finite numbers >= 0, not all "
            "of them 0."
        )
    count = observed.n_data if observed.expected is None else observed.expected
    wanted = count * weight.max() / weight.mean()
    if wanted > n / 2:
        raise ValueError(
            f"The variation {name!r} has a largest weight of {weight.max() / weight.mean():.3g} times the mean: its "
            f"toys would use up {wanted:.0f} of {n} reference rows. Pass more of them, or a callable."
        )
    return _VariedToys(observed.reference_pool(), observed.n_data, observed.expected, weight)


def _p_value(null: Array, test: TwoSampleTest) -> float:
    observed, aggregates = _aggregation.aggregate(null, test.statistics_, test._fitted.aggregation)
    return counted_p_value(int(_aggregation.exceedances(aggregates, np.array(observed))), len(null))
