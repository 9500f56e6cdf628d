"""From what the user passes to a reference, a data sample and their weights: every accepted form, every refusal."""

import hashlib
import warnings
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import assert_all_finite, check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, validate_data

from sparker._kernels import to_host
from sparker._pool import Pool, unit_mean
from sparker._schedule import is_wide
from sparker._starts import SORTED_FEATURES

Array = npt.NDArray[Any]

FLOATS = (np.float64, np.float32)
COPIES = 125_000_000  # rows times features, and `SORTING`, of the largest pool whose rows are compared with each other
SORTING = 24  # a key of each row is made from its entries and sorted, which takes a second or a few
SPREAD = 10.0  # ratio of the ranges of a column that no anomaly makes
UNLIKE = 100.0  # ratio of the ranges of two columns of which kernels, which are round, see one
ROUNDING = 1e-10  # ratio of ranges of which the smaller one is rounding
FEWEST_ALONE = 5  # repeated rows of the data alone that are no accident
FEWEST_FOR_SPREAD, MOST_FOR_SPREAD = 20, 200  # rows from which these are known


@dataclass(frozen=True)
class Samples:
    """Reference and data after validation; rows of weight 0 are gone.

    Attributes
    ----------
    reference, data : ndarray of shape (n_reference, d), (n_data, d)
    reference_weight, data_weight : ndarray of shape (n_reference,), (n_data,)
        Raw weights, float64, none of them 0; those of the data positive, those of the reference of positive sum.
    data_rows : ndarray of shape (n_data,)
        Row of each data row in the array that the user passed it in.
    classes : ndarray of shape (2,)
        Labels of reference and data.
    pooled : bool
        Whether they came as pooled rows with labels, perhaps scaled together.
    """

    reference: Array
    data: Array
    reference_weight: Array
    data_weight: Array
    data_rows: npt.NDArray[np.intp]
    classes: Array
    pooled: bool = False

    def pool(self) -> Pool:
        """Reference rows, then data rows.

        Beside data of weight 1 the scale of reference weights means nothing, unless they are counts of rows: the
        weights by which rows are drawn must not tell reference from data.
        """
        weight = self.reference_weight
        if np.all(self.data_weight == 1):
            weight = unit_mean(weight)
        return Pool([self.reference, self.data], np.concatenate([weight, self.data_weight]))

    def as_float64(self) -> Self:
        """The same samples in float64."""
        return replace(self, reference=self.reference.astype(np.float64), data=self.data.astype(np.float64))

    def fingerprint(self) -> str:
        """Digest of rows and weights: toys drawn from other rows than were fitted would be wrong without a word."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.reference, self.data, self.reference_weight, self.data_weight):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def float32_suffices(pool: Pool) -> bool:
    """Whether float32 tells what it must, see the parameter X of ``fit``.

    Where half of the rows or more are copies of others there are few distinct pairs of samples, and toys that should
    tie with the data would not, by the rounding of their sums. Matrix products, which give the distances in more than a
    few features, lose their digits where samples are much wider than kernels.
    """
    rows = pool.some_rows()
    repeated = len(rows) > 1 and np.mean(np.all(rows[1:] == rows[:-1], axis=1)) >= 0.5
    return not (repeated or (pool.n_features > SORTED_FEATURES and is_wide(pool)))


def read_samples(estimator: Any, X: Any, y: Any, data: Any, sample_weight: Any) -> Samples:
    """Validate the arguments of ``fit`` and set ``n_features_in_`` and ``feature_names_in_`` on the estimator."""
    X, y, data, sample_weight = (to_host(array) for array in (X, y, data, sample_weight))
    if data is not None and y is not None:
        raise ValueError("fit got both y and data: pass the second sample once, as data= or as a 2-D y.")
    if data is None and y is None:
        raise ValueError(
            "This estimator requires y to be passed, but the target y is None. Pass the data sample, "
            "fit(reference, data), or the pooled rows with their labels, fit(X, y)."
        )
    if X is None:
        raise ValueError("The reference, X, is None: needed are rows of numbers.")
    refuse_columns("The reference, X,", X)
    if 0 in _shape(X)[:1]:
        raise ValueError("The reference, X, has 0 rows: at least one is needed.")
    second = data if data is not None else _second_sample(X, y)
    if second is None:
        return _from_labels(estimator, X, y, sample_weight)
    refuse_columns("data", second)
    names = names_of(X)
    X = validate_data(estimator, X, dtype=FLOATS, order="C")
    if 0 in _shape(second)[:1]:
        raise ValueError("data has 0 rows: at least one is needed.")
    second = check_array(second, dtype=FLOATS, order="C", input_name="data")
    if second.shape[1] != X.shape[1]:
        raise ValueError(f"data has {second.shape[1]} features, but the reference has {X.shape[1]}: they must agree.")
    check_names(names, data if data is not None else y, "data")
    X, second = _same_dtype(X, second)
    _warn_if_scaled_apart(X, second)
    weight = _weights(sample_weight, X)
    kept = weight != 0
    _check_sign(weight[kept], np.empty(0))
    _check_positive(reference=int(kept.sum()))
    return Samples(
        X if kept.all() else X[kept],
        second,
        weight[kept],
        np.ones(len(second)),
        np.arange(len(second)),
        np.array([0, 1]),
    )


def _second_sample(X: Any, y: Any) -> Any:
    """Return y if it is a second sample, None if it is labels; refuse what could be either."""
    shape, of_X = _shape(y), _shape(X)
    n_features = of_X[1] if len(of_X) == 2 else None
    if len(shape) == 2 and shape[1] == n_features:
        if n_features == 1 and shape[0] == of_X[0] and len(np.unique(np.asarray(y))) <= 2:
            raise ValueError(
                f"y of shape {shape} may be labels or a second sample of one feature: pass y.ravel() or data=."
            )
        return y
    if len(shape) == 2 and shape[1] != 1:
        raise ValueError(
            f"y has shape {shape}: needed are labels of shape (n_samples,), or a second sample with the "
            f"{n_features} features of X."
        )
    return None


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(array.shape) if hasattr(array, "shape") else np.asarray(array).shape


def _from_labels(estimator: Any, X: Any, y: Any, sample_weight: Any) -> Samples:
    """The pooled form: rows of both samples with labels of two classes, the first of which is the reference."""
    X = validate_data(estimator, X, dtype=FLOATS, order="C")
    if len(_shape(y)) == 2 and len(X) != len(y):
        raise ValueError(
            f"y of shape {_shape(y)} is no label for each of the {len(X)} rows of X, and as a second sample it has "
            f"{_shape(y)[1]} feature, but X has {X.shape[1]}: they must agree."
        )
    if len(_shape(y)) == 2:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected; it is read as labels. Pass y.ravel().",
            DataConversionWarning,
            stacklevel=5,
        )
    y = column_or_1d(y)
    check_consistent_length(X, y)
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    kind = type_of_target(y, input_name="y")
    classes, label = np.unique(y, return_inverse=True)
    if len(classes) == 2 and classes.dtype.kind not in "biuf":
        warnings.warn(
            f"The labels are {classes[0]} and {classes[1]}: {classes[0]}, the first in sorted order, is the reference. "
            "Pass 0 for reference and 1 for data.",
            UserWarning,
            stacklevel=5,
        )
    if len(classes) > 2:
        raise ValueError(f"Only binary classification is supported. The type of the target is {kind}.")
    if len(classes) < 2:
        raise ValueError(f"y holds one class, {classes[0]!r}: needed are two, reference and data.")
    weight = _weights(sample_weight, X)
    reference, data = (np.flatnonzero((label == k) & (weight != 0)) for k in (0, 1))
    _check_sign(weight[reference], weight[data])
    _check_positive(reference=len(reference), data=len(data))
    return Samples(
        X[reference],
        X[data],
        weight[reference],
        weight[data],
        data,
        classes,
        pooled=True,
    )


def _weights(sample_weight: Any, X: Array) -> Array:
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    return np.asarray(weight, dtype=np.float64)


def _check_sign(reference: Array, data: Array) -> None:
    """Negative weights, of a generator at next-to-leading order say, are for the reference alone."""
    if np.any(data < 0):
        raise ValueError("Negative values in sample_weight of the data: only the reference may have negative weights.")
    if np.any(reference < 0) and reference.sum() <= 0:
        raise ValueError(
            f"Negative values in sample_weight: those of the reference add up to {reference.sum():.6g}, needed is a "
            "sum > 0."
        )


def _check_positive(**n_rows: int) -> None:
    for name, n in n_rows.items():
        if n == 0:
            raise ValueError(f"sample_weight is 0 for every row of the class {name}: at least one must be positive.")


def _same_dtype(X: Array, data: Array) -> tuple[Array, Array]:
    dtype = np.result_type(X, data)
    return X.astype(dtype, copy=False), data.astype(dtype, copy=False)


def names_of(rows: Any) -> list[Any] | None:
    """Names of the columns, be they strings or numbers, or None if there are none."""
    columns = getattr(rows, "columns", None)
    return None if columns is None else list(columns)


def refuse_columns(name: str, rows: Any) -> None:
    """Name the columns of a table that hold no numbers; dates and times, of which NumPy would make some, hold none."""
    if getattr(getattr(rows, "dtype", None), "kind", "") in ("m", "M"):
        raise ValueError(f"{name} holds {rows.dtype}: needed are numbers.")
    if not (hasattr(rows, "iloc") and hasattr(rows, "columns")):  # no frame of pandas
        return
    kinds = [dtype.kind for dtype in rows.dtypes]
    others = [j for j, kind in enumerate(kinds) if kind not in "iufc"]
    odd = [rows.columns[j] for j in others if kinds[j] in "mM" or not _are_numbers(rows.iloc[:, j])]
    if odd:
        raise ValueError(f"{name} has columns that are not numbers, {odd}: turn them into numbers, or leave them out.")


def _are_numbers(column: Any) -> bool:
    """Whether a column, of texts say, can be one of numbers."""
    values = column.cat.categories if hasattr(column, "cat") else column
    try:
        np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return bool(values.dtype.kind not in "mM")


def check_names(names: Any, rows: Any, what: str) -> None:
    """Refuse rows whose columns have other names or another order than those of the reference, if both have any."""
    columns = names_of(rows)
    if names is not None and columns is not None and list(names) != columns:
        raise ValueError(f"{what} has the columns {columns}, but the reference has {list(names)}: pass them alike.")


def warn_if_copied(pool: Pool, n_reference: int) -> None:
    """Warn where rows are repeated within a sample, but hardly ever between the samples, or the other way round.

    Of independent rows of one law, the m copies of a repeated row are all among the data with probability
    C(N_D, m) / C(N, m), and in both samples with 1 - (C(N_R, m) + C(N_D, m)) / C(N, m). Rows that one sample repeats
    by itself are not independent, and no relabelling of the pool looks like them; nor does it like data taken from the
    reference.
    """
    if pool.n_rows * (pool.n_features + SORTING) > COPIES:
        return
    _, place, copies = np.unique(pool.keys(), return_inverse=True, return_counts=True)
    in_data = np.bincount(place, np.arange(pool.n_rows) >= n_reference, len(copies))
    repeated = copies > 1
    m, of_data, n = copies[repeated], in_data[repeated], pool.n_rows
    in_one = [np.exp(_log_binomial(k, m) - _log_binomial(n, m)) for k in (n_reference, n - n_reference)]
    mixed, expected = int(np.sum((of_data > 0) & (of_data < m))), float(np.sum(1 - sum(in_one)))
    alone, expected_alone = int(np.sum(of_data == m)), float(np.sum(in_one[1]))
    consequence = "rows that one sample repeats make p too small. Drop the copies."
    if _is_no_chance(mixed, expected):
        found = f"{mixed} of them in both samples, where {expected:.0f}"
        if mixed > expected:
            consequence = "data that were taken from the reference make p too large. Pass a reference without them."
    elif alone >= FEWEST_ALONE and alone > expected_alone and _is_no_chance(alone, expected_alone):
        found = f"{alone} of them in the data alone, where {expected_alone:.1g}"
    else:
        return
    warnings.warn(
        f"{repeated.sum()} rows are there more than once, {found} would be if rows were independent: {consequence}",
        UserWarning,
        stacklevel=4,
    )


def _is_no_chance(found: int, expected: float) -> bool:
    """Whether a count is as far from what is expected as happens less often than 1e-4, by the bound of Chernoff."""
    if expected <= 0:
        return found > 0
    return expected - found + (found * np.log(found / expected) if found else 0.0) > -np.log(1e-4)


def _log_binomial(n: int, m: Array) -> Array:
    """Log of n over m; -inf where m > n."""
    inside = np.minimum(m, n)
    return np.where(m <= n, gammaln(n + 1) - gammaln(inside + 1) - gammaln(n - inside + 1), -np.inf)


def _warn_if_scaled_apart(X: Array, data: Array) -> None:
    """Warn where it looks as if one of the samples was transformed, and the other was not."""
    if len(data) < 2:
        return
    found = ""
    if ((data.min(axis=0) > X.max(axis=0)) | (data.max(axis=0) < X.min(axis=0))).all():
        found = "The ranges of reference and data do not overlap in any feature"
    elif min(len(X), len(data)) >= FEWEST_FOR_SPREAD:
        of_reference, of_data = (_ranges(rows) for rows in (X, data))
        both = np.all((of_reference > 0) & (of_data > 0), axis=0)
        ratio = np.where(both, of_data, 1.0) / np.where(both, of_reference, 1.0)
        apart = np.abs(np.log(ratio)).min(axis=0)
        j = int(np.argmax(apart))
        if apart[j] > np.log(SPREAD):
            times = f"{ratio[0, j]:.3g} times"
            found = f"The middle half of the data is {times} as wide as that of the reference in feature {j}"
    if found:
        warnings.warn(
            f"{found}. If a Pipeline transformed the reference, it passed the data untouched: pass pooled rows and "
            "labels, fit(X, y), or use transform_input.",
            UserWarning,
            stacklevel=5,
        )


def warn_if_unlike_spreads(rows: Array, names: Any = None, stacklevel: int = 3) -> None:
    """Warn where columns are so much wider than others that distances, and so kernels, ignore the latter.

    Even the whole range of these is narrow then, so that columns that are mostly 0 are not taken for narrow ones.
    Columns as narrow as rounding are nothing, scaled or not.
    """
    if len(rows) < FEWEST_FOR_SPREAD:
        return
    some = rows[:: max(1, len(rows) // MOST_FOR_SPREAD)] / np.float64(UNLIKE)  # whose ranges are in range
    of_some, of_most = np.ptp(some, axis=0), _ranges(some)[1]
    wide = int(np.argmax(of_most))
    of_some[of_some <= ROUNDING * of_most[wide]] = np.inf
    narrow = int(np.argmin(of_some))
    if of_most[wide] / UNLIKE > of_some[narrow]:
        wider, other = (j if names is None else repr(names[j]) for j in (wide, narrow))
        warnings.warn(
            f"Feature {wider} of the reference is over {UNLIKE:g} times as wide as feature {other}: kernels, as wide "
            "in all features, would not see the latter. Scale both samples alike, or leave columns out.",
            UserWarning,
            stacklevel=stacklevel,
        )


def _ranges(rows: Array) -> Array:
    """Range of the middle half and of 90 % of each column, shape (2, d), from some of the rows.

    Where a feature is 0, or nearly so, in about three quarters of the rows, the first differs between any two samples.
    """
    quantiles = np.quantile(rows[:: max(1, len(rows) // MOST_FOR_SPREAD)], [0.25, 0.75, 0.05, 0.95], axis=0)
    return np.asarray(quantiles[1::2] - quantiles[::2], dtype=np.float64)
