"""p-values under variations of the reference."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from sparker import SparKerTest, _calibration, systematic_p_value
from sparker._pool import Pool
from sparker.peers import MMDTest
from sparker.systematics import AcceptedToys, _toys_of


@pytest.fixture
def make(quick):
    return lambda **changes: SparKerTest(**(quick | {"calibration": "split"} | changes))


@pytest.fixture
def tilted():
    """Reference uniform on (0, 1), data of density 2 x, and the weights that take one to the other; no p by chance."""
    rng = np.random.default_rng(0)
    reference = rng.random((900, 1))
    return reference, np.sqrt(rng.random((120, 1))), reference[:, 0]


class TestVariedToys:
    def test_data_follow_the_variation_and_the_reference_stays(self, rng):
        x = rng.random((600, 1))
        toys = AcceptedToys(Pool([x]), 60, None, x[:, 0], 420)
        means = []
        for seed in range(500):
            _, weights = toys.draw(np.random.default_rng(seed))
            assert not np.any((weights.data > 0) & (weights.reference > 0))
            assert weights.data.sum() == 60
            assert np.sum(weights.reference > 0) == 420
            means.append([np.average(x[:, 0], weights=part) for part in (weights.data, weights.reference)])
        want = [np.average(x[:, 0], weights=x[:, 0]), x.mean()]
        assert_allclose(np.mean(means, axis=0), want, atol=0.006)

    def test_too_few_rows_are_an_error(self, rng):
        weight = np.append(np.full(49, 1e-9), 1.0)
        with pytest.raises(ValueError, match="A toy wants 20 data and 10 reference rows out of 50"):
            AcceptedToys(Pool([rng.random((50, 1))]), 20, None, weight, 10).draw(rng)


class TestPValue:
    @pytest.mark.parametrize("expected", [None, 45.0])
    @pytest.mark.parametrize("weight", [1.0, 0.3])
    def test_weights_of_one_give_the_p_value_of_the_test(self, make, samples, weight, expected):
        test = make(expected_count=expected, n_toys=40).fit(*samples)
        found = systematic_p_value(test, {"nominal": np.full(120, weight)})
        assert found.pvalue == found.pvalues["nominal"] == test.p_value()
        assert_allclose(found.zscore, stats.norm.isf(found.pvalue), rtol=1e-12)

    def test_worst_is_the_largest_and_average_that_of_all_toys(self, make, tilted):
        reference, data, weight = tilted
        test = make(n_toys=39).fit(reference, data)
        variations = {"nominal": np.ones(900), "half": 1 + weight, "whole": weight}
        worst, average = (systematic_p_value(test, variations, combine=rule) for rule in ("worst", "average"))
        assert worst.pvalues == average.pvalues
        assert list(worst.pvalues) == list(variations)
        assert worst.pvalue == max(worst.pvalues.values())
        assert worst.pvalues["nominal"] == 1 / 40
        assert worst.pvalues["whole"] > 0.05
        assert min(worst.pvalues.values()) < average.pvalue < worst.pvalue
        alone = systematic_p_value(test, [weight], combine="average")
        assert alone.pvalue == alone.pvalues["0"]

    def test_the_pair_has_as_many_reference_rows_as_its_toys(self, make, tilted, monkeypatch):
        """With more of them a distortion shows more, and p is too small."""
        seen, evaluate_alone = [], _calibration.evaluate_alone

        def see(statistic, pool, weights, rng):
            seen.append(np.count_nonzero(weights.reference))
            return evaluate_alone(statistic, pool, weights, rng)

        monkeypatch.setattr(_calibration, "evaluate_alone", see)
        reference, data, weight = tilted
        test = make(n_toys=5).fit(reference, data)
        variations = {"nominal": np.ones(900), "half": 1 + weight, "whole": weight}
        systematic_p_value(test, variations)
        sizes = [
            np.count_nonzero(toys.draw(np.random.default_rng(seed))[1].reference)
            for seed, toys in enumerate(_toys_of(test._fitted, variations))
        ]
        assert 450 < sizes[0] < 780
        assert seen == sizes[:1]
        assert len(set(sizes)) == 1

    def test_callables_go_with_any_calibration(self, make, tilted):
        def draw(rng):
            return rng.random((900, 1)), np.sqrt(rng.random((120, 1)))

        reference, data, weight = tilted
        test = make(calibration="permutation", n_toys=199).fit(reference, data)
        assert test.p_value() == 1 / 200
        assert systematic_p_value(test, [draw], n_toys=99).n_toys == 99
        assert systematic_p_value(test, [draw]).pvalue > 4 / 200
        with pytest.raises(ValueError, match="'tilt', vary the toys of calibration=\"split\""):
            systematic_p_value(test, {"tilt": weight})

    def test_an_error_of_a_callable_names_the_variation_and_the_number_of_rows(self, make, tilted):
        reference, data, _ = tilted
        test = make(n_toys=3).fit(reference, data=data)

        def draw(rng):
            return rng.random((900, 1)), rng.random((120, 1))

        with pytest.raises(ValueError, match="variation 'tilt' returned 900 reference rows; needed are 780"):
            systematic_p_value(test, {"tilt": draw})

    def test_takes_any_test(self, tilted):
        reference, data, weight = tilted
        test = MMDTest(n_toys=39, calibration="split", random_state=0).fit(reference, data)
        found = systematic_p_value(test, {"nominal": np.ones(900), "tilt": weight})
        assert found.pvalues["nominal"] == 1 / 40
        assert found.pvalues["tilt"] > 0.05

    def test_depends_on_no_number_of_jobs(self, make, tilted):
        reference, data, weight = tilted
        one, two = (make(n_toys=20, n_jobs=n).fit(reference, data) for n in (1, 2))
        assert systematic_p_value(one, [weight]) == systematic_p_value(two, [weight])

    @pytest.mark.parametrize(
        ("weight", "message"),
        [
            (np.ones(5), r"'odd' has weights of shape \(5,\), the least of them 1: needed are 120 finite"),
            (np.linspace(-1.0, 5, 120), "the least of them -1: needed are 120 finite numbers >= 0"),
            (np.full(120, np.nan), "needed are 120 finite numbers >= 0"),
            (np.zeros(120), "not all of them 0"),
            (np.append(5.0, np.ones(119)), "'odd' does not fit.*largest weight is 4.84 times the mean"),
        ],
        ids=["length", "negative", "nan", "zero", "outlier"],
    )
    def test_refuses_weights_that_do_not_fit(self, make, samples, weight, message):
        with pytest.raises(ValueError, match=message):
            systematic_p_value(make().fit(*samples), {"odd": weight})

    def test_refuses_what_it_does_not_know(self, make, samples):
        test = make().fit(*samples)
        with pytest.raises(ValueError, match="combine is 'mean'"):
            systematic_p_value(test, [np.ones(120)], combine="mean")
        with pytest.raises(ValueError, match="needs all variations to be weights, or all callables"):
            systematic_p_value(test, [np.linspace(1, 1.1, 120), lambda rng: None], combine="average")
        with pytest.raises(ValueError, match="variations is empty"):
            systematic_p_value(test, {})

    @pytest.mark.slow
    @pytest.mark.parametrize("combine", ["worst", "average"])
    def test_data_of_a_variation_reject_at_most_at_the_nominal_rate(self, make, combine):
        n_sets, rejected, ignoring = 200, 0, 0
        for seed in range(n_sets):
            rng = np.random.default_rng([seed, 6])
            reference = rng.random((600, 1))
            truth = rng.integers(2) if combine == "average" else 1  # uniform, or tilted to 1/2 + x
            data = rng.random((120, 1))
            keep = rng.random(5000)[:, None]
            if truth:
                data = keep[rng.random(5000) * 1.5 < 0.5 + keep[:, 0]][:120]
            test = make(n_kernels=1, n_widths=2, n_toys=9, random_state=seed).fit(reference, data)
            found = systematic_p_value(test, [np.ones(600), 0.5 + reference[:, 0]], combine=combine)
            rejected += found.pvalue <= 0.1
            ignoring += found.pvalues["0"] <= 0.1
        most = stats.binom.isf(0.01, n_sets, 0.1)
        assert rejected <= most
        assert ignoring > most
