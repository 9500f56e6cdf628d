"""Pure resampling: the observed pair and toy pairs drawn under the null, as pools and weights.

Each class draws one kind of toy from a generator alone; toy i is a function of (seed, i) and of nothing else.
A toy's data never meet the reference they were drawn from: fitted against their own parent sample, data look too
close to it, and false alarms multiply.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
from scipy import stats

from sparker._pool import Pool, Weights, are_counts, unit_mean

Array = npt.NDArray[Any]

FEWEST_LEFT = 5  # rows of the reference, on average, beside redrawn data
MOST_DRAWN, MOST_UNBOUNDED = 0.5, 0.02  # times that a row may be among the data of a split toy
UNBOUNDED = -0.25  # shape of a tail, less two errors: that of an exponential tail is 0
FEWEST_OF_TAIL = 5  # rows from which a shape is known at all
FAR, NEAR = 3.0, 20.0  # ratio of numbers of data rows, each with so many more, that no law of a count should have
AGAIN = 0.01  # how often too few rows are accepted, and all are asked again


class Toys(Protocol):
    """Toys under the null; ``pool`` is None where each brings its own."""

    @property
    def pool(self) -> Pool | None:
        """The shared pool."""

    @property
    def name(self) -> str:
        """What the result calls these toys."""

    def draw(self, rng: np.random.Generator) -> tuple[Pool, Weights]:
        """One toy."""


def count_rows(weight: Array) -> int:
    """Number of rows with these weights: one of weight 2 that is two rows counts twice, one of weight 0 not at all."""
    return round(float(np.sum(np.abs(unit_mean(weight[weight != 0])))))


def pair_weights(pool: Pool, reference: Array, data: Array, expected: float | None) -> Weights:
    """Weights of a pair from raw weights: the reference is scaled to the expected count, default the data's own sum."""
    total = np.sum(reference, dtype=np.float64)
    if total <= 0:
        raise ValueError(f"The reference weights add up to {total:.6g}: needed is a sum > 0. Pass more reference rows.")
    unit = float((np.sum(data, dtype=np.float64) if expected is None else expected) / total)
    scaled = (unit * reference).astype(pool.dtype, copy=False)
    noise = None if pool.counts else np.square(scaled)
    return Weights(scaled, data.astype(pool.dtype, copy=False), unit, noise)


@dataclass(frozen=True)
class Observed:
    """The observed pair as the statistic sees it.

    Attributes
    ----------
    pool, weights : Pool, Weights
        The rows, reference first, and which of them are reference and data.
    n_reference, n_data : int
        Rows of the samples, used or not.
    expected : float or None
        Expected data count; None for shape only.
    raw_weight : ndarray of shape (n_rows,)
        Weights of all rows before any was given up.
    """

    pool: Pool
    weights: Weights
    n_reference: int
    n_data: int
    expected: float | None
    raw_weight: Array

    def reference_pool(self) -> Pool:
        """The whole reference, from which toys of the modes "split" and "bootstrap" are made."""
        reference = [X for X, part in self.pool.parts() if part.start < self.n_reference]
        return Pool(reference, self.raw_weight[: self.n_reference])


def observe(
    pool: Pool,
    n_reference: int,
    calibration: Any,
    expected: float | None,
    rng: np.random.Generator,
    given_up: int | None = None,
) -> Observed:
    """Weights of the observed pair; the first `n_reference` rows of the pool are the reference.

    With ``"split"`` some of its rows are not used: `given_up` at random, or by default those that a toy could have for
    its data.
    """
    n_data = pool.n_rows - n_reference
    raw = pool.signed_weight
    used = raw.copy()
    if calibration == "split":
        if n_reference < 2 * n_data:
            raise ValueError(
                f'calibration="split" needs at least twice as many reference as data rows, found {n_reference} and '
                f'{n_data}. Pass more reference rows, or calibration="permutation".'
            )
        # Toys take their N_D data rows from the reference; the observed pair gives up as many, to be like them. What
        # is not used must not be learned from either: rows of weight 0 are never drawn.
        reference = pool.scrambled[pool.scrambled < n_reference]
        if given_up is None and np.ptp(raw[:n_reference]) > 0 and not _not_events(raw[:n_reference]):
            check_thinning(raw[:n_reference], n_data if expected is None else max(n_data, expected))
            used[:n_reference] = thin(raw[:n_reference], n_data, reference, rng)[1]
        else:
            used[reference[rng.permutation(n_reference)[: n_data if given_up is None else given_up]]] = 0
    is_data = np.arange(pool.n_rows) >= n_reference
    weights = pair_weights(pool, np.where(is_data, 0.0, used), np.where(is_data, used, 0.0), expected)
    # Rows of weight 1, as the data are: toys learn from reference rows, whose own weights would tell them from data.
    learned = Pool(pool.blocks, (used != 0) * 1.0) if calibration == "split" else pool
    # Where toys are drawn from fewer rows, or have fewer places to look at, the observed pair must be like them.
    if calibration == "split":
        learned.order = pool.order  # of the same rows: they need not be sorted again
        learned.n_drawn = float(n_reference)
    if calibration == "bootstrap":
        learned.n_drawn, learned.n_distinct = float(np.sum(np.abs(raw[:n_reference]))), n_reference
    return Observed(learned, weights, n_reference, n_data, expected, raw)


def make_toys(observed: Observed, calibration: Any) -> Toys:
    """The toys of a calibration mode, or a ValueError that says why it does not fit the weights."""
    expected, weight = observed.expected, observed.raw_weight
    if callable(calibration):
        return CallableToys.like(observed, calibration)
    _refuse_data_weights(observed)
    if calibration == "bootstrap":
        warnings.warn(
            'calibration="bootstrap" is conservative: a toy has repeated data rows, and what is left of the reference '
            "lacks them." + ("" if weight.min() < 0 else ' Where the weights allow it, "split" finds more.'),
            UserWarning,
            stacklevel=5,
        )
        reference = observed.reference_pool()
        _check_redrawing(reference, observed.n_data if expected is None else expected)
        return BootstrapToys(reference, observed.n_data, expected)
    of_reference = weight[: observed.n_reference]
    if np.ptp(of_reference) > 0:
        _refuse_weights(calibration, of_reference)
    if calibration == "split":
        pool, n_data = observed.reference_pool(), observed.n_data
        if np.ptp(of_reference) == 0:
            return SplitToys(pool, n_data, expected)
        return ThinnedToys(pool, Pool(pool.blocks), n_data, expected)
    return PermutationToys(observed.pool, observed.n_data, expected)


def _refuse_data_weights(observed: Observed) -> None:
    """Refuse weights of data rows, which no toy has: the observed pair would be another kind of pair."""
    if np.any(observed.raw_weight[observed.n_reference :] != 1):
        raise ValueError(
            "The data rows of toys have weight 1, but sample_weight gives data rows other weights: there is no p-value "
            "then. Give weights to the reference alone, and pass rows of the data that count twice as two rows."
        )


def _refuse_weights(calibration: str, weight: Array) -> None:
    """Refuse reference weights that differ where toys cannot have them."""
    if calibration == "permutation":
        raise ValueError(
            'calibration="permutation" needs reference rows of equal weight: exchanging rows of different weight '
            'changes what is compared. Use "split", "bootstrap", or a callable that draws a toy pair.'
        )
    if what := _not_events(weight):
        raise ValueError(
            f'calibration="split" needs rows of equal weight, or event weights > 0, and found {what}. Use '
            'calibration="bootstrap", or a callable that draws a toy pair. Whole numbers are counts: repeat the rows; '
            "if they are event weights, divide them by pi, since their scale does not matter."
        )


def _not_events(weight: Array) -> str:
    """What weights are that are no event weights; empty if they are."""
    return "negative weights" if weight.min() < 0 else "counts of rows" if are_counts(weight) else ""


def _check_redrawing(reference: Pool, count: float) -> None:
    """Refuse a reference of which a toy may leave no row, and warn where one row is drawn again and again."""
    rows = reference.weight if reference.counts else np.ones(reference.n_rows)  # that a row stands for
    times = count * reference.weight / reference.signed_weight.sum() / rows
    left = float(np.sum(rows * np.exp(-times)))
    if left < FEWEST_LEFT:
        raise ValueError(
            f'calibration="bootstrap" leaves a toy the reference rows that are not among its {count:g} data rows, '
            f"about {left:.2g} of {rows.sum():g}: needed are {FEWEST_LEFT}. Pass more reference rows."
        )
    if times.max() > 1:
        warnings.warn(
            f"The reference row of the largest weight is expected {times.max():.3g} times in the data of a toy: rows "
            "of weight 1 do not look like that. Pass more reference rows, or a callable that draws a toy pair.",
            UserWarning,
            stacklevel=6,
        )


def data_count(rng: np.random.Generator, n_data: int, expected: float | None, n_rows: int) -> int:
    """Data rows of a toy out of `n_rows`: N_D, or a Poisson number where a count is expected; one row is left."""
    count = n_data if expected is None else int(rng.poisson(expected))
    if count == 0:
        raise ValueError(f"A toy has no data row, for expected_count is {expected:g}: it needs to be larger.")
    if count >= n_rows:
        raise ValueError(
            f"A toy wants {count} data rows out of {n_rows}: it needs at least one reference row. "
            "Pass more reference rows, or set expected_count to None."
        )
    return count


def check_thinning(weight: Array, count: float) -> None:
    """Refuse weights of which one is too large for `thin`: much sooner where they seem to have no upper bound.

    There data may be where the reference has no rows, which toys have more rarely. That the largest weight is small is
    no comfort then: samples that lack the tail are those that give false alarms.
    """
    largest = count * weight.max() / weight.sum()
    unbounded = tail_shape(weight) > UNBOUNDED
    most, of = (MOST_UNBOUNDED, " of weights that seem to have no upper bound") if unbounded else (MOST_DRAWN, "")
    if largest > most:
        raise ValueError(
            f"The reference row of the largest weight is expected {largest:.3g} times in the data of a toy, and "
            f'calibration="split" takes up to {most}{of}. Pass more reference rows, "bootstrap", or a callable.'
        )


def tail_shape(weight: Array) -> float:
    """Shape of a generalised Pareto law of the upper fifth of weights: from 0 on they have no upper bound.

    By probability-weighted moments (Hosking and Wallis, Technometrics 29 (1987) 339). -inf where several rows share
    the largest weight, which is a bound then, and where there are too few of them to tell.
    """
    upper = np.sort(weight)[-len(weight) // 5 :]
    excess = upper[1:] - upper[0]
    if len(excess) < FEWEST_OF_TAIL or upper[-1] - upper[-2] <= 1e-12 * upper[-1]:
        return -np.inf
    above = 1 - (np.arange(1, len(upper)) - 0.35) / len(excess)
    return float(2 - excess.mean() / (excess.mean() - 2 * np.mean(above * excess)))


def thin(
    weight: Array, count: int, order: npt.NDArray[np.intp], rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], Array]:
    """Rows drawn in proportion to their weight, none twice, and the weights of the others that make up for them.

    The rows of `order` come at random, and each is accepted with a probability in proportion to its weight; the first
    `count` of those accepted are drawn, and every row stays with a probability of about 1 - count w / sum(w). Where
    rows are independent, those drawn and those that stay are so, too, and have the same law, but for the sum, as two
    samples of which the second was thinned like this: so the observed reference has to be.
    """
    share = weight / weight.sum()
    if count * share.max() >= 1:
        raise ValueError(f"A toy wants {count} data rows, among which the row of the largest weight would always be.")
    enough = stats.gamma.isf(AGAIN, count)  # of a Poisson number
    probability = share * min(enough, 1 / share.max())
    while True:
        shuffled = order[rng.permutation(len(order))]
        accepted = shuffled[rng.random(len(order)) < probability[shuffled]]
        if len(accepted) >= count:
            break
    rest = weight / (1 - count * share)
    rest[accepted[:count]] = 0
    return accepted[:count], rest


def _partition(pool: Pool, n_data: int, expected: float | None, rng: np.random.Generator) -> Weights:
    """Random rows become data, the rest reference, without replacement."""
    count = data_count(rng, n_data, expected, pool.n_rows)
    data = np.zeros(pool.n_rows, dtype=pool.dtype)
    data[pool.scrambled[rng.choice(pool.n_rows, count, replace=False, shuffle=False)]] = 1
    return pair_weights(pool, 1 - data, data, expected)


@dataclass(frozen=True)
class PermutationToys:
    """Labels permuted over the pooled rows: exact under the null for any N_R and N_D.

    With an expected count a toy takes Poisson(expected) rows as data: approximate, since the pool holds the observed
    number of rows.
    """

    pool: Pool
    n_data: int
    expected: float | None

    @property
    def name(self) -> str:
        """What the result calls these toys."""
        return "permutation" if self.expected is None else "permutation (Poisson counts, approximate)"

    def draw(self, rng: np.random.Generator) -> tuple[Pool, Weights]:
        """See `Toys`."""
        return self.pool, _partition(self.pool, self.n_data, self.expected, rng)


@dataclass(frozen=True)
class SplitToys:
    """The whole reference split into N_D data and N_R - N_D reference rows; the observed fit uses as many rows."""

    pool: Pool
    n_data: int
    expected: float | None
    name: str = "split"

    def draw(self, rng: np.random.Generator) -> tuple[Pool, Weights]:
        """See `Toys`."""
        return self.pool, _partition(self.pool, self.n_data, self.expected, rng)


@dataclass(frozen=True)
class ThinnedToys:
    """Split toys of a reference with event weights > 0, see `thin`.

    Attributes
    ----------
    reference : Pool
        The reference with its weights.
    pool : Pool
        The same rows of weight 1, from which toys learn.
    """

    reference: Pool
    pool: Pool
    n_data: int
    expected: float | None
    name: str = "split"

    def draw(self, rng: np.random.Generator) -> tuple[Pool, Weights]:
        """See `Toys`."""
        count = data_count(rng, self.n_data, self.expected, self.pool.n_rows)
        drawn, rest = thin(self.reference.weight, count, self.pool.scrambled, rng)
        data = np.zeros(self.pool.n_rows)
        data[drawn] = 1.0
        return self.pool, pair_weights(self.reference, rest, data, self.expected)


@dataclass(frozen=True)
class BootstrapToys:
    """Data redrawn from the reference with replacement, beside the rows of the reference that were not drawn.

    Data rows are drawn in proportion to their weight; rows of weight 2 that are two rows leave one if one is drawn.
    A row that is drawn twice looks like a narrow anomaly, and what is left lacks what was drawn: toys differ more than
    independent samples do, so that the test is conservative, the more the smaller N_R / N_D is. A reference that is
    redrawn, too, has rows where the data of its toy are, as no observed pair has, and p was too small. Data where the
    reference has no row are in no toy, which works the other way where weights are steep.

    Data are rows of weight 1, also where the reference has negative weights: rows are drawn by the size of their
    weights, and a negative draw takes its nearest positive draw away, as in cell resampling (Andersen and Maier,
    Eur. Phys. J. C 82 (2022) 433). What is left follows the signed density, smeared over the distance of neighbours.
    """

    pool: Pool
    n_data: int
    expected: float | None
    name: str = "bootstrap"

    def draw(self, rng: np.random.Generator) -> tuple[Pool, Weights]:
        """See `Toys`."""
        n = self.pool.n_rows
        count = self.n_data if self.expected is None else int(rng.poisson(self.expected))
        if count == 0:
            raise ValueError("A bootstrap toy has no data rows: expected_count is too small.")
        drawn, kept = self._data_rows(count, rng)
        weight, used = self.pool.signed_weight, np.bincount(drawn, minlength=n)
        rest = np.sign(weight) * np.maximum(np.abs(weight) - used, 0)
        reference = rest if self.pool.counts else np.where(used > 0, 0.0, weight)
        data = np.bincount(drawn[kept], minlength=n).astype(np.float64)
        return self.pool, pair_weights(self.pool, reference, data, self.expected)

    def _data_rows(self, count: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Indices of rows drawn for `count` data rows from the signed density, and which of them are data."""
        pool = self.pool
        positive, negative = np.maximum(pool.signed_weight, 0), np.maximum(-pool.signed_weight, 0)
        # Poisson numbers of draws of either sign have the signed density as their difference, at this difference.
        n_negative = rng.poisson(count * negative.sum() / pool.signed_weight.sum()) if negative.any() else 0
        drawn = pool.draw(rng.random(count + n_negative), positive, pool.scrambled)
        if n_negative == 0:
            return drawn, np.ones(count, dtype=bool)
        taken = pool.draw(rng.random(n_negative), negative, pool.scrambled)
        kept = _without_nearest(pool, drawn, taken)
        return np.append(drawn, taken), np.append(kept, np.zeros(n_negative, dtype=bool))


def _without_nearest(pool: Pool, drawn: npt.NDArray[np.intp], taken: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Which drawn rows are left once each taken row took the nearest of them, one after the other."""
    rows, away = pool.rows(drawn).astype(np.float64), pool.rows(taken).astype(np.float64)
    kept = np.ones(len(drawn), dtype=bool)
    for row in away:
        distances = np.where(kept, np.sum((rows - row) ** 2, axis=1), np.inf)
        kept[np.argmin(distances)] = False
    return kept


@dataclass(frozen=True)
class CallableToys:
    """Pairs from the user: ``draw(rng)`` returns reference rows, data rows and, if it likes, reference weights.

    They have the sizes of the observed pair, since t depends on them; the number of data rows may vary where one is
    expected, be its law wider than that of Poisson.
    """

    function: Callable[..., Any]
    n_features: int
    dtype: np.dtype[Any]
    expected: float | None
    n_reference: int
    n_data: int
    pool: Pool | None = None
    name: str = "callable"
    caller: str = "calibration(rng)"  # what errors call the function

    @classmethod
    def like(cls, observed: Observed, function: Callable[..., Any], caller: str = caller) -> Self:
        """Toys of the sizes of the observed pair, less the rows that it gives up."""
        _refuse_data_weights(observed)
        pool, used = observed.pool, observed.raw_weight[observed.weights.reference != 0]
        sizes = count_rows(used), observed.n_data
        return cls(function, pool.n_features, pool.dtype, observed.expected, *sizes, caller=caller)

    def draw(self, rng: np.random.Generator) -> tuple[Pool, Weights]:
        """See `Toys`."""
        pair = self.function(rng)
        if not isinstance(pair, tuple | list) or len(pair) not in (2, 3):
            found = f"{len(pair)} things" if isinstance(pair, tuple | list) else type(pair).__name__
            raise ValueError(
                f"{self.caller} returned {found}; needed are reference and data, or reference, data and "
                "reference weights."
            )
        reference, data, *rest = pair
        blocks = [np.ascontiguousarray(rows, dtype=self.dtype) for rows in (reference, data)]
        for name, rows in zip(("reference", "data"), blocks, strict=True):
            if rows.ndim != 2 or rows.shape[1] != self.n_features or not len(rows) or not np.all(np.isfinite(rows)):
                raise ValueError(
                    f"{self.caller} returned {name} rows of shape {rows.shape}; "
                    f"needed are finite numbers of shape (n, {self.n_features}) with n >= 1."
                )
        raw = np.ones(len(blocks[0])) if not rest else np.asarray(rest[0], dtype=np.float64)
        if raw.shape != (len(blocks[0]),) or not np.all(np.isfinite(raw)) or not 0 < raw.sum() < np.inf:
            raise ValueError(
                f"{self.caller} returned reference weights of shape {raw.shape}; needed are {len(blocks[0])} finite "
                "numbers of sum > 0."
            )
        self._check_sizes(count_rows(raw), len(blocks[1]))
        pool = Pool(blocks, np.concatenate([unit_mean(raw), np.ones(len(blocks[1]))]))
        is_data = np.arange(pool.n_rows) >= len(blocks[0])
        return pool, pair_weights(pool, np.where(is_data, 0.0, pool.signed_weight), is_data * 1.0, self.expected)

    def _check_sizes(self, n_reference: int, n_data: int) -> None:
        """Refuse toys that are not of the sizes of the observed pair."""
        if n_reference != self.n_reference:
            raise ValueError(
                f"{self.caller} returned {n_reference} reference rows; needed are {self.n_reference}, as many as "
                "the fit has used."
            )
        if self.expected is None and n_data != self.n_data:
            raise ValueError(
                f"{self.caller} returned {n_data} data rows; needed are {self.n_data}, as in the fit. "
                "Where the number is not fixed, set expected_count."
            )
        if self.expected is not None and not 1 / FAR < (n_data + NEAR) / (self.expected + NEAR) < FAR:
            raise ValueError(
                f"{self.caller} returned {n_data} data rows, and expected_count is {self.expected:g}: needed are "
                "numbers about it."
            )
