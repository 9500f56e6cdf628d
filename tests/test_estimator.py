"""`SparKerTest` as a whole: the scikit-learn contract, the two samples in every form, and what the fit says of them."""

import inspect
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparker import SparKerTest, _starts
from sparker._statistic import SparKerStatistic
from sparker.peers import MMDTest, StaticKernelTest

SMALL = {"n_kernels": 2, "n_widths": 2, "n_candidates": 8, "max_iter": 2, "n_toys": 3}
BOTH_STARTS = pytest.mark.parametrize("start", ["score", "random"])


@parametrize_with_checks(
    [SparKerTest(random_state=0, **SMALL), SparKerTest(random_state=0, start="random", solver="adam", **SMALL)]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.fixture
def make(quick):
    """Function that makes a quick test with other parameters."""
    return lambda **changes: SparKerTest(**(quick | changes))


@pytest.fixture
def pooled(samples):
    return np.concatenate(samples), np.repeat([0, 1], [120, 40])


def assert_same_fit(got, want, rtol=1e-12):
    for name in ("statistics_", "path_widths_", "path_amplitudes_", "path_centers_", "width_", "loss_curve_"):
        assert_allclose(getattr(got, name), getattr(want, name), rtol=rtol, atol=rtol, err_msg=name)


class TestForms:
    """Every form of the two samples gives the same numbers; refusals are in test_samples.py."""

    @BOTH_STARTS
    @pytest.mark.filterwarnings("ignore:The labels are")
    def test_all_forms_agree(self, make, samples, pooled, start):
        X, y = pooled
        names = np.where(y == 1, "signal?", "reference")
        want = make(start=start).fit(*samples)
        want_p = want.p_value()
        for got in (
            make(start=start).fit(samples[0], data=samples[1]),
            make(start=start).fit(X, y),
            make(start=start).fit(X, names),
            make(start=start).fit(pd.DataFrame(X), pd.Series(y)),
            make(start=start).fit(X, y, sample_weight=np.ones(160)),
            make(start=start).fit(*samples, sample_weight=np.ones(120)),
        ):
            assert_same_fit(got, want, rtol=0)
            assert got.p_value() == want_p

    def test_a_column_of_labels_agrees_after_a_warning(self, make, pooled):
        X, y = pooled
        with pytest.warns(DataConversionWarning):
            got = make().fit(X, y[:, None])
        assert_same_fit(got, make().fit(X, y), rtol=0)

    def test_behind_a_scaler_labels_give_the_numbers_of_data_scaled_by_hand(self, make, pooled, samples):
        X, y = pooled
        X = X * [1.0, 1000.0] + [0, 5]
        pipe = make_pipeline(StandardScaler(), make()).fit(X, y)
        scaled = (X - X.mean(axis=0)) / X.std(axis=0)
        by_hand = make().fit(scaled, y)
        assert_allclose(pipe[-1].statistics_, by_hand.statistics_, rtol=1e-9)
        assert pipe[-1].p_value() == by_hand.p_value()
        assert pipe[-1].p_value() == make().fit(scaled[y == 0], scaled[y == 1]).p_value()
        assert_allclose(pipe.transform(X), by_hand.transform(scaled), rtol=1e-9)
        assert_allclose(pipe.decision_function(X), by_hand.decision_function(scaled), rtol=1e-9)

    def test_behind_a_scaler_a_second_sample_may_be_transformed_too(self, make, samples):
        reference, data = (sample * [1.0, 1000.0] + [0, 5] for sample in samples)
        with config_context(enable_metadata_routing=True):
            pipe = Pipeline(
                [("scale", StandardScaler()), ("test", make().set_fit_request(data=True))], transform_input=["data"]
            ).fit(reference, data=data)
        scale = StandardScaler().fit(reference)
        by_hand = make().fit(scale.transform(reference), scale.transform(data))
        assert_allclose(pipe[-1].statistics_, by_hand.statistics_, rtol=1e-9)
        assert pipe[-1].p_value() == by_hand.p_value()

    def test_behind_a_scaler_a_second_sample_warns_of_the_mistake(self, make, samples):
        reference, data = (sample + 1000 for sample in samples)
        with pytest.warns(UserWarning, match="Pipeline transformed the reference"):
            make_pipeline(StandardScaler(), make()).fit(reference, data)

    def test_names_of_columns_are_kept(self, make, samples):
        frames = [pd.DataFrame(sample, columns=["mass", "angle"]) for sample in samples]
        test = make().fit(frames[0], data=frames[1])
        assert test.feature_names_in_.tolist() == ["mass", "angle"]
        test.score_samples(frames[1])
        with pytest.raises(ValueError, match="feature names"):
            test.score_samples(frames[1][["angle", "mass"]])

    @pytest.mark.filterwarnings("ignore:The labels are")
    def test_labels_name_the_classes(self, make, pooled):
        X, y = pooled
        test = make().fit(X, np.where(y == 1, "new", "known")[::1])
        assert test.classes_.tolist() == ["known", "new"]
        assert set(test.predict(X)) <= {"known", "new"}


@pytest.mark.parametrize("d", [4, 60])
def test_float32_rows_far_apart_are_fitted_as_in_float64(make, rng, d):
    rows = rng.normal(size=(600, d)) + 1e4 * (rng.random((600, 1)) < 0.4)
    rows[580:] = rng.normal(0.5, 0.3, size=(20, d))
    reference, data = np.split(rows.astype(np.float32), [480])
    one, other = (make(n_toys=3).fit(reference.astype(t), data=data.astype(t)) for t in (np.float32, np.float64))
    assert_array_equal(one.calibrate().values, other.calibrate().values)
    assert_array_equal(one.statistics_, other.statistics_)
    scores = one.score_samples(data)
    assert scores.dtype == np.float32
    assert_allclose(scores, other.score_samples(data.astype(np.float64)), rtol=1e-6, atol=1e-6)


class TestWeightsAndOrder:
    """Whole fits know neither the order of rows nor the difference between weight 2 and two rows."""

    @pytest.mark.filterwarnings("ignore:.*rows are there more than once")
    @BOTH_STARTS
    def test_integer_reference_weights_are_repeated_rows(self, make, samples, rng, start):
        reference, data = samples
        copies = rng.integers(0, 4, 120)
        weighted = make(start=start).fit(reference, data, sample_weight=copies)
        assert_same_fit(weighted, make(start=start).fit(np.repeat(reference, copies, axis=0), data), rtol=1e-6)

    @pytest.mark.filterwarnings("ignore:.*rows are there more than once")
    @BOTH_STARTS
    def test_integer_weights_of_pooled_rows_are_repeated_rows(self, make, pooled, rng, start):
        X, y = pooled
        copies = rng.integers(0, 3, 160)
        weighted = make(start=start).fit(X, y, sample_weight=copies)
        repeated = make(start=start).fit(np.repeat(X, copies, axis=0), np.repeat(y, copies))
        assert_same_fit(weighted, repeated, rtol=1e-6)

    @pytest.mark.parametrize("calibration", ["split", "bootstrap"])
    @pytest.mark.filterwarnings("ignore:calibration:UserWarning")
    def test_only_ratios_of_event_weights_count(self, make, samples, rng, calibration):
        weight = rng.uniform(0.5, 1.5, 120)
        one, other = (
            make(calibration=calibration).fit(*samples, sample_weight=scale * weight) for scale in (1.0, 2.0**60)
        )
        assert_allclose(other.calibrate().values, one.calibrate().values, rtol=1e-9)
        assert_allclose(other.statistics_, one.statistics_, rtol=1e-9)

    @BOTH_STARTS
    def test_rows_may_come_in_any_order(self, make, samples, rng, start):
        shuffled = [rng.permutation(sample) for sample in samples]
        want, got = make(start=start).fit(*samples), make(start=start).fit(*shuffled)
        assert_same_fit(got, want, rtol=1e-6)
        assert_allclose(got.calibrate().values, want.calibrate().values, rtol=1e-6, atol=1e-9)
        assert got.p_value() == want.p_value()

    def test_rows_that_tie_in_some_features_may_come_in_any_order(self, make, samples, rng):
        rounded = [np.round(sample) for sample in samples]
        shuffled = [rng.permutation(sample) for sample in rounded]
        assert_same_fit(make().fit(*shuffled), make().fit(*rounded), rtol=1e-6)

    def test_a_common_weight_of_the_reference_changes_nothing(self, make, samples):
        want = make().fit(*samples)
        got = make().fit(*samples, sample_weight=np.full(120, 0.3))
        assert_same_fit(got, want, rtol=1e-9)
        assert got.p_value() == want.p_value()

    def test_the_scale_of_event_weights_means_nothing(self, make, samples, rng):
        weight = rng.uniform(0.2, 2, 120)
        want, got = (make(calibration="bootstrap").fit(*samples, sample_weight=w) for w in (weight, 1e-3 * weight))
        assert_same_fit(got, want, rtol=1e-9)

    def test_half_at_weight_two_and_half_at_zero_is_the_half(self, make, samples):
        got = make().fit(*samples, sample_weight=np.repeat([2.0, 0.0], 60))
        want = make().fit(samples[0][:60], samples[1])
        assert_same_fit(got, want, rtol=1e-9)
        assert_array_equal(got.calibrate().values, want.calibrate().values)

    @BOTH_STARTS
    def test_negative_weights_go_through(self, make, samples, rng, start):
        weight = np.where(rng.random(120) < 0.2, -0.8, 1.1)
        test = make(calibration="bootstrap", start=start).fit(*samples, sample_weight=weight)
        with pytest.warns(UserWarning, match="bootstrap.*conservative"):
            result = test.result()
        assert np.all(np.isfinite(test.statistics_))
        assert np.max(np.abs(test.path_amplitudes_)) <= test.max_amplitude
        assert result.n_failed == 0
        assert_allclose(result.n_effective_reference, weight.sum() ** 2 / (weight**2).sum(), rtol=1e-12)
        assert result.n_effective_data == 40
        assert "effective sizes" in str(result)
        with pytest.raises(ValueError, match="equal weight"):
            make(start=start).fit(*samples, sample_weight=weight).p_value()

    def test_negative_weights_are_no_part_of_rivals_without_a_minimum(self, samples):
        weight = np.append(-0.5, np.ones(119))
        for rival in (MMDTest(), StaticKernelTest()):
            with pytest.raises(ValueError, match="reference weights >= 0"):
                rival.fit(*samples, sample_weight=weight)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("kind", "calibration"), [("event", "split"), ("event", "bootstrap"), ("signed", "bootstrap")]
    )
    def test_a_weighted_reference_that_follows_the_data_rejects_at_most_at_the_nominal_rate(self, kind, calibration):
        """Density 2 x on (0, 1), from uniform draws of weight x, or from 2 x + g - g with g on (0.2, 0.7)."""
        n_sets, rejected = 250, 0
        for seed in range(n_sets):
            rng = np.random.default_rng([seed, kind == "event"])
            data = np.sqrt(rng.random((60, 1)))
            if kind == "event":
                reference = rng.random((500, 1))
                weight = reference[:, 0]
            else:
                pair = rng.uniform(0.2, 0.7, (100, 1))
                reference = np.concatenate([np.sqrt(rng.random((300, 1))), pair])
                weight = np.repeat([1.0, 1.0, -1.0], [300, 50, 50])
            test = SparKerTest(2, n_widths=3, n_candidates=60, calibration=calibration, n_toys=9, random_state=seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                rejected += test.fit(reference, data, sample_weight=weight).p_value() <= 0.1
        assert rejected <= stats.binom.isf(0.005, n_sets, 0.1)

    def test_rows_of_weight_zero_are_as_if_absent(self, make, samples):
        weight = np.repeat([0.0, 1.0], [30, 90])
        got = make().fit(*samples, sample_weight=weight)
        assert_same_fit(got, make().fit(samples[0][30:], samples[1]), rtol=0)
        assert got.result().n_reference == 90

    @BOTH_STARTS
    def test_features_may_have_any_scale(self, make, samples, start):
        want, got = make(start=start).fit(*samples), make(start=start).fit(*(1024 * sample for sample in samples))
        assert_allclose(got.statistics_, want.statistics_, rtol=1e-9, atol=1e-9)
        assert_allclose(got.path_widths_, 1024 * want.path_widths_, rtol=1e-12)


class TestFit:
    def test_statistics_are_twice_the_fall_of_the_loss(self, make, samples):
        for start, competition in (("score", True), ("random", False)):
            test = make(start=start, competition=competition).fit(*samples)
            best = np.flatnonzero(test.path_widths_ == test.width_)[0]
            f = [test.score_samples(sample) for sample in samples]
            loss = np.sum(40 / 120 * np.expm1(f[0])) - np.sum(f[1])
            assert_allclose(test.statistics_[best], -2 * loss, rtol=1e-9)

    @pytest.mark.parametrize("options", [{}, {"start": "random"}, {"competition": False}, {"n_kernels": 12}])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_no_statistic_is_negative(self, make, samples, options, dtype):
        test = make(n_toys=60, **options).fit(*(sample.astype(dtype) for sample in samples))
        assert np.all(test.statistics_ >= 0)
        assert np.all(test.calibrate().values >= 0)

    @pytest.mark.parametrize(("start", "per_width", "joint"), [("score", 4, ["joint"]), ("random", 1, [])])
    @pytest.mark.parametrize("companions", [True, False])
    @pytest.mark.parametrize("n_widths", [1, 4])
    def test_length_of_the_statistics_follows_from_the_parameters(
        self, make, samples, start, per_width, joint, companions, n_widths
    ):
        params = {"start": start, "n_widths": n_widths, "companions": companions}
        test = make(**params).fit(*samples)
        of_widths = ["t", "score", "rare", "dense"][:per_width]
        kinds = list(np.repeat(of_widths, n_widths)) + joint + ["mean", "spread"] * companions
        assert test.scales_["kind"].tolist() == kinds
        assert test.statistics_.shape == test.scales_["width"].shape == (len(kinds),)
        assert_array_equal(test.scales_["width"][: per_width * n_widths], np.tile(test.path_widths_, per_width))
        assert np.isin(test.scales_["width"][test.scales_["kind"] == "joint"], test.path_widths_).all()
        assert np.isinf(test.scales_["width"][per_width * n_widths + len(joint) :]).all()
        same = make(**params).fit(np.ones((30, 2)), np.ones((10, 2)))
        assert same.statistics_.shape == test.statistics_.shape

    def test_entries_beside_t_are_the_largest_squared_scores(self, make, samples):
        test = make(n_candidates=40).fit(*samples)
        scores, rare, dense = (test.statistics_[test.scales_["kind"] == kind] for kind in ("score", "rare", "dense"))
        assert np.all(rare <= scores)
        assert np.all(dense <= scores)
        # the score at its best place is near what its own likelihood gains
        assert np.all(scores > 0)
        assert scores.max() > stats.chi2.isf(1e-3, 1)

    def test_fitted_attributes(self, make, samples):
        test = make(n_kernels=3).fit(*samples)
        assert test.path_widths_.shape == (3,)
        assert test.path_amplitudes_.shape == (3, 3)
        assert test.path_centers_.shape == (3, 3, 2)
        best = np.flatnonzero(test.path_widths_ == test.width_)[0]
        assert_array_equal(test.amplitudes_, test.path_amplitudes_[best])
        assert_array_equal(test.centers_, test.path_centers_[best])
        assert np.all(np.diff(test.path_widths_) < 0)
        assert test.n_iter_ == len(test.loss_curve_) <= 9
        assert test.converged_ is True
        assert test.n_features_in_ == 2

    def test_a_fit_that_is_interrupted_leaves_nothing_behind(self, make, samples, monkeypatch):
        test = make().fit(*samples)
        test.p_value()

        def interrupt(self, fitted):
            raise KeyboardInterrupt

        monkeypatch.setattr(SparKerTest, "_observe", interrupt)
        with pytest.raises(KeyboardInterrupt):
            test.fit(samples[0], samples[0][:50] + 1)
        with pytest.raises(NotFittedError):
            test.p_value()
        with pytest.raises(NotFittedError):
            test.score_samples(samples[0])

    def test_looking_at_a_fitted_test_runs_no_toys(self, make, samples):
        test = make().fit(*samples)
        test._repr_html_()
        inspect.getmembers(test)
        assert not hasattr(test, "null_distribution_")
        null = test.calibrate()
        assert test.null_distribution_ is null is test.calibrate()

    def test_given_widths_are_the_ends_of_the_path(self, make, samples):
        for start in ("score", "random"):
            path = make(start=start, width_init=2.0, width_final=0.5).fit(*samples).path_widths_
            assert_allclose(path[-1], 0.5, rtol=1e-12)
            assert np.all((path >= 0.5 - 1e-12) & (path <= 2))
        assert_allclose(make(width_init=2.0, width_final=0.5).fit(*samples).path_widths_, [2, 1, 0.5], rtol=1e-12)
        linear = make(width_init=2.0, width_final=0.5, annealing="linear", start="random", max_iter=1)
        assert_allclose(linear.fit(*samples).path_widths_, [2, 1.25, 0.5], rtol=1e-12)

    @pytest.mark.parametrize("options", [{}, {"start": "random"}, {"start": "random", "solver": "adam"}])
    def test_backends_agree(self, make, samples, options):
        want = make(backend="numpy", **options).fit(*samples)
        for backend in ("numba", "matmul", "auto"):
            assert_same_fit(make(backend=backend, **options).fit(*samples), want, rtol=1e-6)

    def test_an_automatic_width_gives_way_to_a_given_one(self, make, samples):
        assert_allclose(make(width_final=100.0).fit(*samples).path_widths_, 100, rtol=1e-12)
        assert_allclose(make(width_init=1e-3).fit(*samples).path_widths_, 1e-3, rtol=1e-12)
        with pytest.raises(ValueError, match=r"width_init is 0\.5 and width_final 2\.0"):
            make(width_init=0.5, width_final=2.0).fit(*samples)

    def test_amplitudes_keep_to_their_bound(self, make, samples):
        test = make(max_amplitude=0.3).fit(*samples)
        assert_allclose(np.max(np.abs(test.path_amplitudes_)), 0.3, rtol=1e-12)

    def test_penalty_shrinks_the_amplitudes(self, make, samples):
        norms = [np.linalg.norm(make(alpha=alpha).fit(*samples).path_amplitudes_) for alpha in (0.0, 1.0, 100.0)]
        assert norms[0] > norms[1] > 10 * norms[2]

    def test_all_rows_equal_give_t_of_zero(self, make):
        for start in ("score", "random"):
            test = make(start=start).fit(np.full((30, 2), 7.0), np.full((20, 2), 7.0))
            assert_array_equal(test.statistics_[:3], 0)
            assert_allclose(test.score_samples(np.full((1, 2), 7.0)), 0, atol=1e-12)

    def test_a_constant_feature_says_nothing(self, make, samples):
        want = make(width_init=2.0, width_final=0.5).fit(*samples)
        more = [np.column_stack([sample, np.full(len(sample), 3.0)]) for sample in samples]
        got = make(width_init=2.0, width_final=0.5).fit(*more)
        assert_array_equal(got.centers_[:, 2], 3)
        assert_allclose(got.statistics_[3:], want.statistics_[3:], rtol=1e-9, atol=1e-9)
        assert np.all(np.isfinite(got.calibrate().values))

    def test_more_kernels_than_candidates_are_refused(self, make, samples):
        with pytest.raises(ValueError, match="n_kernels is 17, but there may be as few as 16 candidates to start on"):
            make(n_kernels=17).fit(*samples)

    def test_no_difference_at_all_has_a_p_value_of_one(self, make):
        """The same share of ones in both: what is left is rounding."""
        for n_reference, n_data in ((200, 100), (1500, 520)):
            equal = make(n_toys=9).fit(np.ones((n_reference, 2)), np.ones((n_data, 2)))
            is_score = np.isin(equal.scales_["kind"], ["score", "rare", "dense"])
            assert_array_equal(equal.statistics_, np.where(is_score, _starts.LONE, 0))
            assert equal.p_value() == 1
        balanced = make().fit(np.repeat([[0.0], [1.0]], [200, 100], 0), np.repeat([[0.0], [1.0]], [40, 20], 0))
        assert_array_equal(balanced.statistics_[~np.isin(balanced.scales_["kind"], ["score", "rare", "dense"])], 0)

    def test_one_feature_and_one_data_row(self, make, samples):
        test = make().fit(samples[0][:, :1], samples[1][:1, :1])
        assert 1 / 20 <= test.p_value() <= 1

    def test_fewer_rows_than_kernels(self, make, samples):
        for start in ("score", "random"):
            test = make(n_kernels=9, start=start).fit(samples[0][:4], samples[1][:3])
            assert test.centers_.shape == (9, 2)
            assert np.all(np.isfinite(test.statistics_))

    @BOTH_STARTS
    def test_a_loss_that_is_not_finite_raises(self, make, samples, start, monkeypatch):
        fit = SparKerStatistic.fit

        def broken(*args):
            (path,) = fit(*args)
            path.losses[1] = np.nan
            return [path]

        monkeypatch.setattr(SparKerStatistic, "fit", broken)
        with pytest.raises(ValueError, match=r"The loss is nan at width \d.*float64"):
            make(start=start).fit(*samples)

    def test_no_convergence_warns_with_width_and_remedy(self, make, samples):
        test = make(tol=1e-300)
        with pytest.warns(ConvergenceWarning, match=r"did not converge at the widths .*\d.*Raise"):
            test.fit(*samples)
        assert test.converged_ is False

    def test_float32_agrees_with_float64(self, make, samples):
        single, double = (make().fit(*(sample.astype(dtype) for sample in samples)) for dtype in ("f4", "f8"))
        assert single.transform(samples[0].astype("f4")).dtype == np.float32
        assert_allclose(single.statistics_, double.statistics_, rtol=1e-2, atol=1e-2)

    @pytest.mark.parametrize(
        "params",
        [
            {"n_kernels": 0},
            {"n_widths": 0},
            {"width_init": 0.0},
            {"annealing": "slow"},
            {"solver": "sgd"},
            {"start": "zero"},
            {"tol": 0.0},
            {"alpha": -1.0},
            {"max_amplitude": 0.0},
            {"expected_count": 0.0},
            {"calibration": "asymptotic"},
            {"aggregation": "max"},
            {"backend": "torch"},
            {"n_toys": 0},
            {"random_state": "seed"},
        ],
        ids=lambda params: next(iter(params)),
    )
    def test_parameters_are_checked_in_fit(self, make, samples, params):
        test = make(**params)
        with pytest.raises(ValueError, match=f"'{next(iter(params))}' parameter of SparKerTest must be"):
            test.fit(*samples)


class TestReading:
    """The model at `width_`."""

    @pytest.fixture
    def test(self, make, samples):
        return make(n_kernels=3).fit(*samples)

    @pytest.fixture
    def X(self, rng):
        return rng.normal(size=(25, 2))

    def test_transform_is_amplitude_times_gate_times_kernel(self, make, samples, X):
        for competition in (True, False):
            test = make(competition=competition).fit(*samples)
            squared = np.sum((X[:, None] - test.centers_) ** 2, axis=2)
            phi = np.exp(-squared / (2 * test.width_**2))
            if competition:
                phi *= phi / phi.sum(axis=1, keepdims=True)
            assert_allclose(test.transform(X), test.amplitudes_ * phi, rtol=1e-9, atol=1e-12)

    def test_contributions_add_up_to_the_log_density_ratio(self, test, X):
        assert test.transform(X).shape == (25, 3)
        assert_allclose(test.transform(X).sum(axis=1), test.score_samples(X), rtol=1e-12)
        assert test.get_feature_names_out().tolist() == ["sparkertest0", "sparkertest1", "sparkertest2"]

    def test_transform_can_make_a_frame(self, test, X):
        test.set_output(transform="pandas")
        assert test.transform(X).columns.tolist() == ["sparkertest0", "sparkertest1", "sparkertest2"]

    def test_decision_function_adds_the_log_odds_of_the_samples(self, make, samples, X, rng):
        raw = rng.uniform(0.5, 2, 120)
        for options, weight, count in (({}, None, 40), ({"expected_count": 70.0}, None, 70), ({}, raw, 40)):
            test = make(**options).fit(*samples, sample_weight=weight)
            prior = np.log(count / (120 if weight is None else raw.sum()))
            assert_allclose(test.decision_function(X), test.score_samples(X) + prior, rtol=1e-9)

    def test_predict_proba_and_predict_follow_the_decision_function(self, test, X):
        decision = test.decision_function(X)
        probability = test.predict_proba(X)
        assert_allclose(probability[:, 1], 1 / (1 + np.exp(-decision)), rtol=1e-9)
        assert_allclose(probability.sum(axis=1), 1, rtol=1e-12)
        assert_array_equal(test.predict(X), (decision > 0).astype(int))

    @pytest.mark.parametrize("background", ["uniform", "exponential"])
    @pytest.mark.parametrize("competition", [True, False])
    def test_score_samples_is_the_true_log_density_ratio(self, rng, background, competition):
        draw = getattr(rng, background)
        peak = stats.norm(*{"uniform": (0.4, 0.05), "exponential": (2.0, 0.2)}[background])
        density = {"uniform": stats.uniform(), "exponential": stats.expon()}[background]
        n, signal = 20_000, 3000
        data = np.concatenate([draw(size=(rng.poisson(n), 1)), peak.rvs((rng.poisson(signal), 1), random_state=rng)])
        test = SparKerTest(
            competition=competition,
            expected_count=n,
            width_init=4 * peak.std(),
            width_final=peak.std() / 2,
            n_candidates=100,
            random_state=0,
        ).fit(draw(size=(5 * n, 1)), data)
        x = np.linspace(*peak.interval(0.999), 300)
        truth = np.log1p(signal / n * peak.pdf(x) / density.pdf(x))
        near = peak.pdf(x) > peak.pdf(peak.mean()) / 3
        assert truth[near].max() > 0.75
        # a relative error of sqrt(1 / 60) in the least populated tenth of the peak would be 0.13
        assert_allclose(test.score_samples(x[:, None])[near], truth[near], rtol=0, atol=0.15)
        assert_allclose(test.score_samples(peak.mean() + peak.std() * np.array([[-60.0], [60.0]])), 0, atol=1e-6)

    def test_kernel_table_tells_where_the_clump_is_and_how_many_rows_it_holds(self, rng):
        reference = rng.normal(size=(4000, 2))
        data = np.concatenate([rng.normal(size=(1000, 2)), rng.normal([1.0, 0.5], 0.2, size=(60, 2))])
        test = SparKerTest(n_kernels=1, n_widths=1, width_final=0.2, random_state=0).fit(reference, data)
        (kernel,) = test.kernel_table(n_nearest=8)
        assert kernel.sign == 1
        assert np.linalg.norm(kernel.center - [1, 0.5]) < 0.35
        assert kernel.width == test.width_ == 0.2
        assert kernel.score > 5
        assert 35 < kernel.expected_excess < 100
        assert 40 < kernel.excess < 80
        assert np.sum(kernel.nearest_rows >= 1000) >= 3

    @pytest.mark.parametrize("n_kernels", [1, 4])
    def test_excess_counts_rows_once_also_where_the_reference_has_none(self, rng, n_kernels):
        reference, data = rng.normal(size=(800, 2)), rng.normal(size=(300, 2))
        data[:12] = rng.normal([3.5, 3.5], 0.2, size=(12, 2))
        test = SparKerTest(n_kernels=n_kernels, n_widths=1, width_final=0.3, random_state=0).fit(reference, data)
        near = [k for k in test.kernel_table() if np.linalg.norm(k.center - [3.5, 3.5]) < 1]
        assert 8 < sum(k.excess for k in near) < 13

    def test_excess_is_shared_out(self, test, samples):
        f_reference, f_data = (test.score_samples(sample) for sample in samples)
        table = test.kernel_table()
        more = np.sum(np.maximum(1 - np.exp(-f_data), 0))
        fewer = 40 / 120 * np.sum(np.minimum(np.exp(f_reference) - 1, 0))
        assert_allclose(sum(k.excess for k in table if k.sign > 0), more, rtol=1e-9)
        assert_allclose(sum(k.excess for k in table if k.sign < 0), fewer, rtol=1e-9, atol=1e-12)

    def test_kernel_table_is_consistent(self, test, samples):
        reference, data = samples
        parts = test.transform(reference)
        f = parts.sum(axis=1, keepdims=True)
        want = 40 / 120 * np.sum(np.exp(f) - np.exp(f - parts), axis=0)
        table = test.kernel_table(n_nearest=4)
        assert len(table) == 3
        for kernel in table:
            i = np.flatnonzero((test.centers_ == kernel.center).all(axis=1))[0]
            assert kernel.amplitude == test.amplitudes_[i]
            assert kernel.sign == np.sign(kernel.amplitude)
            assert_allclose(kernel.expected_excess, want[i], rtol=1e-6, atol=1e-9)
            order = np.argsort(np.linalg.norm(data - kernel.center, axis=1))
            assert_array_equal(kernel.nearest_rows, order[:4])
        scores = np.array([kernel.score for kernel in table])
        assert np.all(np.diff(np.abs(scores)) <= 0)

    def test_kernel_table_numbers_pooled_rows_as_they_were_passed(self, make, pooled, rng):
        X, y = pooled
        order = rng.permutation(160)
        X, y = X[order], y[order]
        for kernel in make().fit(X, y).kernel_table(n_nearest=5):
            assert_array_equal(y[kernel.nearest_rows], 1)
            distances = np.linalg.norm(X - kernel.center, axis=1)
            assert_allclose(distances[kernel.nearest_rows], np.sort(distances[y == 1])[:5], rtol=1e-12)

    def test_kernel_table_makes_a_frame(self, test):
        frame = pd.DataFrame(test.kernel_table())
        fields = ["center", "width", "amplitude", "sign", "score", "excess", "expected_excess", "nearest_rows"]
        assert frame.columns.tolist() == fields

    def test_kernel_table_copes_with_fewer_data_rows_than_asked_for(self, make, samples):
        assert make().fit(samples[0], samples[1][:3]).kernel_table()[0].nearest_rows.shape == (3,)


class TestTools:
    def test_pickle_keeps_everything(self, make, samples):
        test = make().fit(*samples)
        again = pickle.loads(pickle.dumps(test))
        assert again.p_value() == test.p_value()
        after = pickle.loads(pickle.dumps(test))
        assert_array_equal(after.calibrate().values, test.calibrate().values)
        assert_array_equal(after.score_samples(samples[1]), test.score_samples(samples[1]))

    def test_clone_keeps_the_parameters_alone(self, make, samples):
        test = make(n_kernels=4, aggregation="min").fit(*samples)
        copy = clone(test)
        assert copy.get_params() == test.get_params()
        with pytest.raises(NotFittedError):
            copy.p_value()

    def test_fit_stores_parameters_untouched(self, make, samples):
        test = make()
        before = test.get_params()
        test.fit(*samples).p_value()
        assert test.get_params() == before

    @pytest.mark.parametrize("method", ["score_samples", "transform", "decision_function", "predict_proba", "predict"])
    def test_before_fit_what_takes_rows_says_so(self, make, samples, method):
        with pytest.raises(NotFittedError):
            getattr(make(), method)(samples[1])

    @pytest.mark.parametrize("method", ["kernel_table", "p_value", "test_statistic", "result", "get_feature_names_out"])
    def test_before_fit_what_reports_says_so(self, make, method):
        with pytest.raises(NotFittedError):
            getattr(make(), method)()

    def test_permutation_importance_finds_the_feature(self, make, rng):
        X = rng.normal(size=(600, 2))
        y = np.repeat([0, 1], 300)
        X[y == 1, 1] += 2
        test = make().fit(X, y)
        importance = permutation_importance(test, X, y, n_repeats=3, random_state=0).importances_mean
        assert importance[1] > 0.2
        assert abs(importance[0]) < 0.1

    def test_cross_validation_beats_chance_where_samples_differ(self, make, rng):
        X = rng.normal(size=(400, 2))
        y = np.repeat([0, 1], 200)
        X[y == 1] += 1.5
        assert cross_val_score(make(), X, y, cv=3, scoring="roc_auc").min() > 0.8
