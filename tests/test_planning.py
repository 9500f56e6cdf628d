"""Power curves and numbers of toys."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from sparker import PowerCurve, SparKerTest, power_curve, toys_needed
from sparker._pool import Pool
from sparker._toys import SplitToys
from sparker.peers import LikelihoodRatioTest, MMDTest, StaticKernelTest
from sparker.planning import _Trials


def far(n, rng):
    return rng.normal(6, 0.1, size=(n, 2))


def make_curve(p_values, fractions=(0.0, 0.1, 0.2, 0.4), alpha=0.05):
    return PowerCurve(np.array(fractions), np.array(p_values), alpha, 100, 20, None)


class TestTrials:
    @pytest.fixture
    def null(self, samples):
        return SplitToys(Pool([samples[0]]), 40, None)

    def test_without_anomalies_are_null_toys(self, null):
        for seed in range(5):
            pool, weights = _Trials(null, far, 0.0).draw(np.random.default_rng(seed))
            rows, of_toy = null.draw(np.random.default_rng(seed))
            for part, want in ((weights.reference, of_toy.reference), (weights.data, of_toy.data)):
                assert_array_equal(pool.rows(np.flatnonzero(part)), rows.rows(np.flatnonzero(want)))
                assert_allclose(part.sum(), want.sum(), rtol=1e-12)

    def test_data_never_meet_the_reference_they_came_from(self, null, samples):
        pool, weights = _Trials(null, far, 0.3).draw(np.random.default_rng(0))
        reference, data = ({*map(tuple, pool.rows(np.flatnonzero(w)))} for w in (weights.reference, weights.data))
        assert not reference & data
        assert reference <= {*map(tuple, samples[0])}

    def test_anomalies_replace_a_binomial_number_of_rows(self, null):
        counts = []
        for seed in range(400):
            pool, weights = _Trials(null, far, 0.25).draw(np.random.default_rng(seed))
            data = pool.rows(np.flatnonzero(weights.data))
            assert len(data) == 40
            assert np.count_nonzero(weights.reference) == 80
            counts.append(np.sum(data[:, 0] > 5))
        assert_allclose(np.mean(counts), 10, atol=4 * np.sqrt(7.5 / 400))
        assert_allclose(np.var(counts), 7.5, rtol=0.35)

    def test_replaced_rows_are_any_of_the_data(self):
        """Not those that come first in a reference that is sorted: the mean of what stays is that of the reference."""
        null = SplitToys(Pool([np.linspace(0, 1, 200)[:, None]]), 50, None)
        means = []
        for seed in range(200):
            pool, weights = _Trials(null, lambda n, rng: np.full((n, 1), 9.0), 0.5).draw(np.random.default_rng(seed))
            data = pool.rows(np.flatnonzero(weights.data))
            means.append(data[data < 5].mean())
        assert_allclose(np.mean(means), 0.5, atol=4 * np.std(means) / np.sqrt(200))

    def test_a_sampler_of_the_wrong_shape_is_an_error(self, null):
        with pytest.raises(TypeError, match=r"anomaly_sampler\(\d+, rng\) returned rows of shape \(\d+, 1\)"):
            _Trials(null, lambda n, rng: np.zeros((n, 1)), 0.5).draw(np.random.default_rng(0))


class TestPowerCurve:
    def test_rises_from_the_level_to_one(self, samples, quick):
        test = SparKerTest(**(quick | {"n_toys": 39}))
        options = {"n_data": 40, "test": test, "n_trials": 30, "random_state": 0}
        curve = power_curve(samples[0], far, [0.5, 0.0], **options)
        assert_array_equal(curve.fractions, [0, 0.5])
        assert curve.p_values.shape == (2, 30)
        assert str(curve).splitlines()[-1].split()[:2] == ["0.5", "1.000"]
        assert curve.power[0] <= stats.binom.isf(1e-4, 30, 0.05) / 30
        assert curve.power[1] == 1
        assert (curve.n_reference, curve.n_data, len(curve.null_distribution)) == (120, 40, 39)
        two = power_curve(samples[0], far, [0.5, 0.0], n_jobs=2, **options)
        assert_array_equal(two.p_values, curve.p_values)

    def test_takes_any_test_and_a_poisson_count(self, samples):
        for test in (MMDTest(n_toys=19), StaticKernelTest(n_toys=19, expected_count=30.0)):
            curve = power_curve(samples[0], far, [0.9], n_data=30, test=test, n_trials=5, random_state=0)
            assert curve.power[0] == 1

    def test_a_warning_of_unlike_spreads_points_at_the_call(self, samples, quick):
        options = {"n_data": 40, "test": SparKerTest(**quick), "n_trials": 2, "alpha": 0.2, "random_state": 0}
        with pytest.warns(UserWarning, match="over 100 times as wide") as caught:
            power_curve(samples[0] * [1, 1000], far, [0.5], **options)
        assert {warning.filename for warning in caught} == {__file__}

    def test_is_the_same_in_float32_where_rows_are_repeated(self, quick):
        rows, test = np.repeat([0.0, 1.0], [599, 1])[:, None], SparKerTest(**quick)
        options = {"n_data": 100, "test": test, "n_trials": 20, "random_state": 0}
        one, other = (
            power_curve(rows.astype(dtype), lambda n, rng: np.ones((n, 1)), [0.01], **options)
            for dtype in (np.float32, np.float64)
        )
        assert_array_equal(one.p_values, other.p_values)

    @pytest.mark.slow
    def test_no_anomalies_are_found_at_the_level(self, quick):
        """p of trials without anomalies is uniform over references."""
        p = []
        for seed in range(40):
            X = np.random.default_rng([seed, 5]).normal(size=(150, 2))
            test = SparKerTest(**(quick | {"n_toys": 19}))
            p += power_curve(X, far, [0.0], n_data=40, test=test, n_trials=5, random_state=seed).p_values[0].tolist()
        rejected = np.sum(np.array(p) <= 0.1)
        assert rejected <= stats.binom.isf(0.002, 200, 0.1)
        assert rejected >= stats.binom.ppf(0.002, 200, 0.1)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"n_data": 20.5}, "n_data is 20.5: needed is a whole number"),
            ({"n_trials": 3.0}, "n_trials is 3.0: needed is a whole number"),
            ({"n_data": 61}, "n_data is 61, the reference has 120 rows: needed are at least twice as many"),
            ({"alpha": 0.01}, "alpha is 0.01: with 19 toys no p is below 0.05"),
            ({"fractions": [0.1, 1.5]}, "fractions are .*needed are numbers from 0 to 1"),
        ],
    )
    def test_refuses_what_cannot_be(self, samples, quick, changes, message):
        options = {"fractions": [0.1], "n_data": 40, "test": SparKerTest(**quick)} | changes
        with pytest.raises(ValueError, match=message):
            power_curve(samples[0], far, options.pop("fractions"), **options)

    def test_power_and_band_are_those_of_the_trials(self):
        p = np.repeat([[0.5], [0.05], [0.01], [0.01]], 20, axis=1)
        p[1, :12] = 0.6
        curve = make_curve(p)
        assert_array_equal(curve.power, [0, 0.4, 1, 1])
        low, high = curve.band
        assert_allclose(low[1], stats.beta.ppf((1 - 0.6827) / 2, 8, 13), rtol=1e-9)
        assert_allclose(high[1], stats.beta.isf((1 - 0.6827) / 2, 9, 12), rtol=1e-9)

    def test_smallest_fraction_is_where_the_curve_crosses(self):
        p = np.ones((4, 100))
        for row, found in zip(p, (5, 40, 80, 100), strict=True):
            row[:found] = 0.01
        fraction, low, high = make_curve(p).smallest_fraction(0.6)
        assert_allclose(fraction, 0.15, rtol=1e-12)
        assert low < fraction < high
        assert make_curve(p).smallest_fraction(0.01)[0] == 0
        assert make_curve(p[:2], (0.0, 0.1)).smallest_fraction(0.9) == (math.inf,) * 3

    def test_a_dip_of_the_curve_is_levelled(self):
        p = np.ones((3, 10))
        for row, found in zip(p, (6, 4, 10), strict=True):
            row[:found] = 0.01
        # 0.6 and 0.4 are 0.5 and 0.5
        assert_allclose(make_curve(p, (0.0, 0.1, 0.2)).smallest_fraction(0.75)[0], 0.15, rtol=1e-12)
        with pytest.raises(ValueError, match="power is 1"):
            make_curve(p, (0.0, 0.1, 0.2)).smallest_fraction(1)


class TestToysNeeded:
    @pytest.mark.parametrize("z", [0.5, 1.6449, 3.0, 5.0])
    def test_is_the_smallest_number_whose_resolution_is_enough(self, z):
        n = toys_needed(z)
        assert stats.norm.isf(1 / (n + 1)) >= z
        assert stats.norm.isf(1 / n) < z

    def test_relative_error_is_that_of_a_binomial_count(self):
        n, p = toys_needed(3, relative_error=0.05), stats.norm.sf(3)
        assert_allclose(stats.binom.std(n, p) / (n * p), 0.05, rtol=1e-4)
        assert toys_needed(3, relative_error=100) == toys_needed(3)

    def test_refuses_what_no_number_reaches(self):
        for z in (math.inf, math.nan, 50.0, 37.6):
            with pytest.raises(ValueError, match="no number of toys is enough"):
                toys_needed(z)
        with pytest.raises(ValueError, match="relative_error is 0"):
            toys_needed(3, relative_error=0)


@pytest.mark.parametrize(
    ("test", "error", "message"),
    [
        (SparKerTest(stopping=5), ValueError, "stopping of the test is set"),
        (LikelihoodRatioTest(np.ravel), TypeError, "test is LikelihoodRatioTest: needed is one that takes toys"),
        (SparKerTest, TypeError, r"test is the class SparKerTest: needed is an instance, SparKerTest\(\)"),
    ],
)
def test_tests_that_a_power_curve_cannot_use_are_named(rng, test, error, message):
    with pytest.raises(error, match=message):
        power_curve(rng.normal(size=(200, 2)), far, [0.1], n_data=20, test=test)
