"""Every accepted form of the two samples, and every refusal."""

import warnings
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from numpy.testing import assert_array_equal
from sklearn.exceptions import DataConversionWarning
from sklearn.preprocessing import StandardScaler

from sparker import SparKerTest, _samples
from sparker._pool import Pool
from sparker._samples import read_samples, warn_if_copied, warn_if_unlike_spreads
from sparker.peers import LikelihoodRatioTest


def read(X, y=None, *, data=None, sample_weight=None, test=None):
    return read_samples(test or SparKerTest(), X, y, data, sample_weight)


def pool_up(samples, rng):
    """Pooled rows and labels in random order."""
    X = np.concatenate(samples)
    y = np.repeat([0, 1], [len(sample) for sample in samples])
    order = rng.permutation(len(X))
    return X[order], y[order]


def assert_same_rows(got, want):
    """Same reference and data with the same weights; the pooled form keeps the order of the rows within each."""
    for name in ("reference", "data", "reference_weight", "data_weight"):
        assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)


class TestForms:
    @pytest.fixture
    def want(self, samples):
        return read(samples[0], data=samples[1])

    def test_second_sample_as_data(self, samples, want):
        assert_array_equal(want.reference, samples[0])
        assert_array_equal(want.data, samples[1])
        assert_array_equal(want.reference_weight, 1)
        assert_array_equal(want.data_weight, 1)
        assert_array_equal(want.classes, [0, 1])

    def test_second_sample_as_two_dimensional_y(self, samples, want):
        assert_same_rows(read(*samples), want)

    def test_lists(self, samples, want):
        assert_same_rows(read(*(sample.tolist() for sample in samples)), want)

    def test_frames(self, samples, want):
        frames = [pd.DataFrame(sample, columns=["a", "b"]) for sample in samples]
        assert_same_rows(read(*frames), want)
        assert_same_rows(read(frames[0], data=frames[1]), want)
        assert_same_rows(read(frames[0], samples[1]), want)

    @pytest.mark.parametrize(
        "labels", [[0, 1], [-1, 1], [False, True], ["a", "b"], [2.0, 3.0], np.array(["x", "y"], dtype=object)]
    )
    def test_pooled_rows_with_labels(self, samples, want, labels):
        X = np.concatenate(samples)
        words = any(isinstance(label, str) for label in labels)
        with pytest.warns(UserWarning, match="first in sorted order") if words else nullcontext():
            got = read(X, np.repeat(labels, [120, 40]))
        assert_same_rows(got, want)
        assert got.classes.tolist() == list(labels)

    def test_first_class_in_sorted_order_is_the_reference(self, samples, want):
        X = np.concatenate(samples[::-1])
        with pytest.warns(UserWarning, match="labels are reference and signal.*: reference, the first"):
            assert_same_rows(read(X, np.repeat(["signal?", "reference"], [40, 120])), want)

    @pytest.mark.parametrize("as_frame", [False, True])
    def test_a_column_of_labels_is_ravelled_with_a_warning(self, samples, want, as_frame):
        column = np.repeat([[0], [1]], [120, 40], axis=0)
        with pytest.warns(DataConversionWarning, match=r"y\.ravel\(\)"):
            got = read(np.concatenate(samples), pd.DataFrame(column) if as_frame else column)
        assert_same_rows(got, want)

    def test_one_feature(self, samples):
        reference, data = (sample[:, :1] for sample in samples)
        want = read(reference, data=data)
        assert_same_rows(read(reference, data), want)
        assert_same_rows(read(np.concatenate([reference, data]), np.repeat([0, 1], [120, 40])), want)
        # as many data rows as reference rows, but more than two values: no labels
        assert_same_rows(read(reference[:40], data), read(reference[:40], data=data))

    def test_data_rows_are_numbered_as_they_were_passed(self, samples, rng):
        X, y = pool_up(samples, rng)
        got = read(X, y)
        assert_array_equal(X[got.data_rows], got.data)
        assert_array_equal(y[got.data_rows], 1)
        assert_array_equal(read(*samples).data_rows, np.arange(40))

    @pytest.mark.parametrize(
        ("dtypes", "dtype"),
        [(("f4", "f4"), "f4"), (("f8", "f8"), "f8"), (("f4", "f8"), "f8"), (("i8", "f4"), "f8"), (("f2", "f4"), "f8")],
    )
    def test_float32_stays_and_all_else_is_float64(self, samples, dtypes, dtype):
        got = read(*(sample.astype(d) for sample, d in zip(samples, dtypes, strict=True)))
        assert got.reference.dtype == got.data.dtype == dtype
        assert got.reference_weight.dtype == np.float64

    def test_names_of_columns_are_kept(self, samples):
        test = SparKerTest()
        read(pd.DataFrame(samples[0], columns=["mass", "angle"]), data=samples[1], test=test)
        assert test.feature_names_in_.tolist() == ["mass", "angle"]
        assert test.n_features_in_ == 2


class TestWeights:
    def test_weight_the_reference_alone_beside_a_second_sample(self, samples, rng):
        weight = rng.uniform(1, 2, 120)
        got = read(*samples, sample_weight=weight)
        assert_array_equal(got.reference_weight, weight)
        assert_array_equal(got.data_weight, 1)

    def test_weight_both_classes_of_pooled_rows(self, samples, rng):
        X, y = pool_up(samples, rng)
        weight = rng.uniform(1, 2, 160)
        got = read(X, y, sample_weight=weight)
        assert_array_equal(got.reference_weight, weight[y == 0])
        assert_array_equal(got.data_weight, weight[y == 1])

    def test_rows_of_weight_zero_are_dropped(self, samples, rng):
        X, y = pool_up(samples, rng)
        weight = rng.integers(0, 2, 160).astype(float)
        got = read(X, y, sample_weight=weight)
        assert_same_rows(got, read(X[weight > 0], y[weight > 0]))
        assert_array_equal(X[got.data_rows], got.data)
        zeros = np.concatenate([np.zeros(20), np.ones(100)])
        assert_same_rows(read(*samples, sample_weight=zeros), read(samples[0][20:], samples[1]))

    @pytest.mark.parametrize(
        ("weight", "message"),
        [
            (np.full(120, -1.0), "[Nn]egative .*sample_weight"),
            (np.zeros(120), "[Ss]ample.weight"),
            (np.ones(160), r"sample_weight.*\(160,\).*\(120,\)"),
            (np.full(120, np.nan), "sample_weight contains NaN"),
            (np.full(120, np.inf), "sample_weight contains infinity"),
            (np.ones((120, 1)), "[Ss]ample weights must be 1D"),
        ],
        ids=["negative", "all zero", "length", "nan", "inf", "column"],
    )
    def test_refusals(self, samples, weight, message):
        with pytest.raises(ValueError, match=message):
            read(*samples, sample_weight=weight)

    def test_the_reference_may_have_negative_ones(self, samples, rng):
        weight = np.where(rng.random(120) < 0.2, -0.5, 1.0)
        assert_array_equal(read(*samples, sample_weight=weight).reference_weight, weight)
        X, y = pool_up(samples, rng)
        weight = np.where((y == 0) & (rng.random(160) < 0.2), -0.5, 1.0)
        assert_array_equal(read(X, y, sample_weight=weight).reference_weight, weight[y == 0])

    def test_negative_ones_of_the_data_or_of_no_positive_sum_are_refused(self, samples, rng):
        X, y = pool_up(samples, rng)
        with pytest.raises(ValueError, match="Negative values in sample_weight of the data"):
            read(X, y, sample_weight=np.where(y == 1, -1.0, 1.0))
        with pytest.raises(ValueError, match="add up to 0, needed is a sum > 0"):
            read(*samples, sample_weight=np.repeat([-1.0, 1.0], 60))

    @pytest.mark.parametrize(("empty", "name"), [(0, "reference"), (1, "data")])
    def test_a_sample_of_weight_zero_is_named(self, samples, rng, empty, name):
        X, y = pool_up(samples, rng)
        with pytest.raises(ValueError, match=f"sample_weight is 0 for every row of the class {name}"):
            read(X, y, sample_weight=(y != empty).astype(float))


class TestRefusals:
    """Each message names the argument, what was found, and what is needed."""

    def refuse(self, message, *args, error=ValueError, **kwargs):
        with pytest.raises(error, match=message):
            read(*args, **kwargs)

    def test_both_y_and_data(self, samples):
        self.refuse("both y and data", *samples, data=samples[1])

    def test_neither_y_nor_data(self, samples):
        self.refuse(r"requires y to be passed.*fit\(reference, data\).*fit\(X, y\)", samples[0])

    def test_other_number_of_features(self, samples):
        wide = np.hstack(samples[1:] * 2)
        self.refuse("data has 4 features, but the reference has 2", samples[0], data=wide)
        self.refuse(r"y has shape \(40, 4\).*labels of shape.*2 features of X", samples[0], wide)

    def test_a_sample_of_one_feature_for_two(self, samples):
        with pytest.raises(ValueError, match=r"y of shape \(40, 1\) .* has 1 feature, but X has 2: they must agree"):
            read(samples[0], samples[1][:, :1])

    @pytest.mark.parametrize("labels", [[[0], [1]], [["a"], ["b"]]])
    def test_column_that_may_be_labels_or_a_sample(self, samples, labels):
        y = np.repeat(labels, 60, axis=0)
        self.refuse(r"y of shape \(120, 1\) may be labels.*y\.ravel\(\) or data=", samples[0][:, :1], y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # labels that are words
            read(samples[0][:, :1], y.ravel())

    def test_number_of_classes(self, samples):
        X = np.concatenate(samples)
        self.refuse("y holds one class.*needed are two", X, np.ones(160, int))
        self.refuse("Only binary classification is supported.*multiclass", X, np.arange(160) % 3)

    def test_targets_of_a_regression(self, samples, rng):
        self.refuse("Unknown label type: continuous", np.concatenate(samples), rng.normal(size=160))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_labels_that_are_not_finite(self, samples, value):
        self.refuse("Input y contains", np.concatenate(samples), np.where(np.arange(160) < 50, 0, value))

    def test_other_number_of_labels(self, samples):
        self.refuse(r"inconsistent numbers of samples: \[160, 159\]", np.concatenate(samples), np.ones(159))

    @pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
    def test_values_that_are_not_finite(self, samples, value, word):
        reference, data = (sample.copy() for sample in samples)
        reference[3, 1] = data[5, 0] = value
        self.refuse(f"X contains {word}", reference, samples[1])
        self.refuse(f"data contains {word}", samples[0], data)
        self.refuse(f"data contains {word}", samples[0], data=data)

    def test_sparse_matrices(self, samples):
        sparse = [scipy.sparse.csr_array(sample) for sample in samples]
        self.refuse("Sparse data was passed for X", sparse[0], samples[1], error=TypeError)
        self.refuse("Sparse data was passed for data", samples[0], sparse[1], error=TypeError)
        self.refuse("Sparse data was passed for data", samples[0], data=sparse[1], error=TypeError)

    def test_empty_samples(self, samples):
        reference, data = samples
        self.refuse(r"data.*0 (sample|row)|0 (sample|row).*data", reference, data[:0])
        self.refuse(r"data.*0 (sample|row)|0 (sample|row).*data", reference, data=data[:0])
        self.refuse(r"(X|reference).*0 (sample|row)|0 (sample|row).*(X|reference)", reference[:0], data)

    def test_arrays_of_other_dimensions(self, samples):
        self.refuse("Expected 2D array", samples[0][:, 0], data=samples[1])
        self.refuse("Expected 2D array", samples[0], data=samples[1][:, 0])
        self.refuse("dim 3", samples[0], samples[1][None])
        self.refuse("dim 3", samples[0], data=samples[1][None])

    def test_columns_of_other_names(self, samples):
        reference = pd.DataFrame(samples[0], columns=["a", "b"])
        for columns in (["b", "a"], ["a", "c"]):
            data = pd.DataFrame(samples[1], columns=columns)
            self.refuse(rf"data has the columns \['{columns[0]}', '{columns[1]}'\].*\['a', 'b'\]", reference, data=data)
            self.refuse("data has the columns", reference, data)

    def test_columns_that_are_numbers_in_another_order(self, samples):
        reference, data = (pd.DataFrame(rows) for rows in samples)
        self.refuse(r"data has the columns \[1, 0\].*\[0, 1\]", reference, data[[1, 0]])


class TestScaledApart:
    def test_warn_of_a_pipeline_that_transformed_one_sample(self, samples):
        for shift in (100, -100):
            with pytest.warns(UserWarning, match="ranges of reference and data do not overlap.*Pipeline"):
                read(samples[0], samples[1] + shift)

    def test_do_not_warn_where_one_feature_overlaps(self, samples):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read(samples[0], samples[1] + [100, 0])

    @pytest.mark.parametrize("factor", [20, 0.05])
    def test_warn_of_another_spread(self, samples, factor):
        with pytest.warns(
            UserWarning, match="middle half.*times as wide as that of the reference in feature 1.*Pipeline"
        ):
            read(samples[0], samples[1] * [1, factor])

    def test_do_not_warn_of_features_that_are_mostly_nearly_zero(self, rng):
        reference, data = (np.logaddexp(0, 20 * rng.normal(-0.7, 1, size=(n, 100))) for n in (400, 100))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read(reference, data)

    def test_do_not_warn_of_constant_columns_and_few_rows(self, samples):
        constant = np.array([1, 0])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read(samples[0], samples[1] * constant)
            read(samples[0] * constant, samples[1])
            read(samples[0], samples[1][:10] * [1, 20])


def test_fingerprint_knows_rows_and_weights(samples):
    want = read(*samples).fingerprint()
    assert read(*(sample.copy() for sample in samples)).fingerprint() == want
    changed = samples[1].copy()
    changed[7, 1] += 1e-9
    weight = np.ones(120)
    weight[5] += 1e-9
    others = [read(samples[0], changed), read(*samples, sample_weight=weight), read(samples[0][::-1], samples[1])]
    assert len({want, *(other.fingerprint() for other in others)}) == 4


class TestCopies:
    def test_rows_that_a_sample_repeats_by_itself_are_warned_of(self, rng, quick):
        reference, data = (rng.normal(size=(n, 2))[rng.integers(n // 2, size=n)] for n in (150, 30))
        with pytest.warns(
            UserWarning, match=r"rows are there more than once, 0 of them in both samples, where \d+ would"
        ):
            SparKerTest(**quick).fit(reference, data)

    def test_data_taken_from_the_reference_are_warned_of(self, rng, quick):
        reference = rng.normal(size=(300, 2))
        for data in (reference, reference[rng.permutation(300)[:60]]):
            with pytest.warns(
                UserWarning, match=r"\d+ of them in both samples.*taken from the reference make p too large"
            ):
                SparKerTest(**quick).fit(reference, data)

    @pytest.mark.parametrize("n_reference", [1000, 500, 100])
    @pytest.mark.parametrize("n_copies", [5, 20, 50])
    def test_copies_in_the_data_alone_are_warned_of_beside_any_reference(self, rng, quick, n_reference, n_copies):
        reference, data = (rng.normal(size=(n, 2)) for n in (n_reference, 120))
        data[:n_copies] = data[-n_copies:]
        if (n_reference, n_copies) == (100, 5):  # one in four or so would be in the data alone
            SparKerTest(**quick).fit(reference, data)
            return
        with pytest.warns(UserWarning, match=f"{n_copies} rows are there more than once, .* make p too small"):
            SparKerTest(**quick).fit(reference, data)

    def test_rows_are_compared_up_to_a_size(self, rng, monkeypatch):
        pool = Pool([rng.normal(size=(100, 2)), np.repeat(rng.normal(size=(20, 2)), 2, axis=0)])
        monkeypatch.setattr(_samples, "COPIES", 140 * (2 + _samples.SORTING))
        with pytest.warns(UserWarning, match="more than once"):
            warn_if_copied(pool, 100)
        monkeypatch.setattr(_samples, "COPIES", _samples.COPIES - 1)
        warn_if_copied(pool, 100)  # a warning is an error

    @pytest.mark.parametrize("kind", ["common", "ties", "none", "few"])
    def test_others_are_not(self, rng, quick, kind):
        rows = rng.normal(size=(180, 2))
        if kind == "common":  # both samples from one list
            rows = rows[rng.integers(90, size=180)]
        elif kind == "ties":
            rows = np.round(rows)
        elif kind == "few":
            rows[1:4] = rows[0]
        SparKerTest(**quick).fit(rows[:150], rows[150:])  # a warning is an error

    def test_chance_is_that_of_random_labels(self, rng):
        rows = rng.normal(size=(90, 1))[rng.integers(90, size=120)]
        n_warnings = 0
        for n_reference in [60, 100, 20] * 100:
            pool = Pool([rows[rng.permutation(120)]])
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                warn_if_copied(pool, n_reference)
            n_warnings += len(caught)
        assert n_warnings == 0


@pytest.mark.parametrize("what", ["words", "column", "apart", "unlike"])
def test_warnings_point_at_the_call_of_fit(samples, quick, rng, what):
    X, y = pool_up(samples, rng)
    arguments = {
        "words": (X, np.where(y, "data", "reference")),
        "column": (X, y[:, None]),
        "apart": (samples[0], 100 + samples[1]),
        "unlike": tuple(part * [1.0, 1000.0] for part in samples),
    }[what]
    with pytest.warns(
        UserWarning, match="Pass|pass|Feature 1 of the reference is over 100 times as wide as feature 0"
    ) as caught:
        SparKerTest(**quick).fit(*arguments)
    assert [warning.filename for warning in caught] == [__file__] * len(caught)


@pytest.mark.parametrize(
    "spreads", [(1, 50), (1, 0), (0, 0), (1, 1e-15)], ids=["less", "constant", "all constant", "rounding"]
)
def test_columns_of_like_spreads_or_none_get_no_warning(samples, quick, spreads):
    SparKerTest(**quick).fit(*(part * np.array(spreads, dtype=float) for part in samples))


def test_a_column_that_is_mostly_zero_is_not_narrow(rng):
    for share in (0.01, 0.055, 0.1):
        for _ in range(20):
            rows = rng.normal(size=(2000, 3))
            rows[:, 2] = (rng.random(2000) < share) * rng.exponential(size=2000)
            warn_if_unlike_spreads(StandardScaler().fit_transform(rows))  # a warning is an error


@pytest.mark.parametrize("scale", [1e300, 1e-306])
def test_spreads_are_compared_at_any_scale(rng, scale):
    rows = scale * rng.normal(size=(100, 2)) * [1, 1000]
    with pytest.warns(UserWarning, match="Feature 'b' of the reference is over 100 times as wide as feature 'a'"):
        warn_if_unlike_spreads(rows, ["a", "b"])


def test_a_test_without_kernels_has_no_word_on_widths(samples):
    LikelihoodRatioTest(lambda X: X[:, 0], n_toys=3).fit(*(part * [1, 1000] for part in samples))


class TestWhatIsNoNumber:
    def test_no_reference(self, samples):
        with pytest.raises(ValueError, match="The reference, X, is None"):
            SparKerTest().fit(None, samples[1])

    @pytest.mark.parametrize(
        "column",
        [
            pd.Series(pd.date_range("2020", periods=120)),
            pd.Series(pd.date_range("2020", periods=120, tz="UTC")),
            pd.Series(pd.to_timedelta(np.arange(120), unit="s")),
            pd.Series(["up"] * 120),
            pd.Series(["up", None] * 60, dtype="category"),
            pd.Series(pd.date_range("2020", periods=120)).astype("category"),
        ],
        ids=["dates", "dates with a zone", "times", "texts", "categories", "categories of dates"],
    )
    def test_columns_are_named(self, samples, column):
        frame = pd.DataFrame({"x": samples[0][:, 0], "when": column})
        numbers = pd.DataFrame(samples[0], columns=["x", "when"])
        with pytest.raises(ValueError, match=r"reference, X, has columns that are not numbers, \['when'\]"):
            SparKerTest().fit(frame, data=numbers)
        for second in ({"y": frame}, {"data": frame}):
            with pytest.raises(ValueError, match=r"data has columns that are not numbers, \['when'\]"):
                SparKerTest().fit(numbers, **second)

    def test_arrays_of_dates(self, samples):
        dates = np.arange(120).astype("M8[s]")[:, None]
        with pytest.raises(ValueError, match=r"reference, X, holds datetime64\[s\]: needed are numbers"):
            SparKerTest().fit(dates, data=dates[:9])

    def test_labels_of_words_in_a_frame_are_labels(self, samples, quick, rng):
        X, y = pool_up(samples, rng)
        words = pd.DataFrame({"label": np.where(y, "b", "a")})
        with pytest.warns(UserWarning, match="The labels are a and b|column-vector"):
            found = SparKerTest(**quick).fit(X, words)
        assert_array_equal(found.statistics_, SparKerTest(**quick).fit(X, y).statistics_)

    def test_numbers_in_other_guises_are_numbers(self, samples, quick):
        frame, other = (pd.DataFrame(part, columns=["x", "y"]).assign(on=part[:, 0] > 0) for part in samples)
        want = SparKerTest(**quick).fit(frame.astype(float), data=other.astype(float)).statistics_
        for dtype in (object, str, "category"):
            found = SparKerTest(**quick).fit(frame.astype({"x": dtype}), data=other)
            assert_array_equal(found.statistics_, want)
