"""Tails: known truth, continuity with the counted p, refusals, and the same map for all rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import psi

from sparker import SparKerTest
from sparker._aggregation import RULES, SLACK, Rule, counted_log_p
from sparker._tail import HELD, MAX_SHAPE, MIN_GOODNESS, MODELS, Tail, aggregate_beyond, extrapolate, fit, goodness
from sparker.peers import MMDTest

ALL_MODELS = pytest.mark.parametrize("model", MODELS)
DRAWS = {
    "gamma": lambda rng, n: rng.gamma(3.0, 2.0, n),
    "chi2": lambda rng, n: rng.chisquare(7, n),
    "pareto": lambda rng, n: rng.exponential(2.0, n),
}
TRUTH = {"gamma": stats.gamma(3.0, scale=2.0), "chi2": stats.chi2(7), "pareto": stats.expon(scale=2.0)}


def p_at(tail, x):
    return np.exp(tail.at(np.zeros(len(x), int)).log_p(np.asarray(x)))


class TestFit:
    def test_gamma_is_that_of_maximum_likelihood(self, rng):
        x = rng.gamma(0.7, 3.0, (3, 400))
        tail = fit(x, "gamma")
        for k in range(3):
            shape, _, scale = stats.gamma.fit(x[k], floc=0)
            assert_allclose((tail.shape[k], tail.scale[k]), (shape, scale), rtol=1e-6)

    @pytest.mark.parametrize("dof", [0.3, 1, 5, 80])
    def test_chi2_solves_its_likelihood_equation(self, rng, dof):
        x = rng.chisquare(dof, (1, 400))
        tail = fit(x, "chi2")
        assert_allclose(psi(tail.shape[0]), np.mean(np.log(x / 2)), rtol=1e-9)
        assert tail.scale[0] == 2

    def test_pareto_matches_the_moments_of_the_excess(self, rng):
        x = stats.genpareto.rvs(0.05, scale=2, size=(1, 600_000), random_state=rng)
        tail = fit(x, "pareto")
        assert_allclose(tail.shape[0], 0.05, atol=0.02)
        excess = x[tail.above(x)] - tail.threshold[0]
        assert_allclose(tail.scale[0] / (1 - tail.shape[0]), excess.mean(), rtol=1e-9)

    def test_few_excesses_say_little_beside_what_is_known_of_the_shape(self, rng):
        def shapes(n, deviation):
            return fit(stats.genpareto.rvs(0.08, size=(300, n), random_state=rng), "pareto", deviation).shape

        assert np.std(shapes(500, 0.05)) < 0.03 < np.std(shapes(500, np.inf))
        assert 0 < np.mean(shapes(500, 0.05)) < 0.04
        assert 0.06 < np.mean(shapes(50_000, 0.05)) < 0.08

    @pytest.mark.parametrize("shape", [-0.5, 0.6])
    def test_pareto_holds_its_shape(self, rng, shape):
        x = stats.genpareto.rvs(shape, size=(1, 20_000), random_state=rng)
        assert fit(x, "pareto").shape[0] == np.sign(shape) * MAX_SHAPE

    @pytest.mark.parametrize("model", ["gamma", "chi2"])
    def test_atom_at_zero_is_left_out(self, rng, model):
        x = rng.chisquare(3, (1, 300))
        with_atom = fit(np.concatenate([x, np.zeros((1, 500))], axis=1), model)
        alone = fit(x, model)
        assert_allclose((with_atom.shape, with_atom.scale), (alone.shape, alone.scale), rtol=1e-12)
        assert_allclose(np.exp(with_atom.log_share), 161 / 801, rtol=0.02)

    @ALL_MODELS
    def test_truth_comes_back_from_many_toys(self, rng, model):
        tail = fit(DRAWS[model](rng, (1, 200_000)), model)
        x = TRUTH[model].isf([1e-2, 1e-4, 1e-6])
        assert_allclose(np.log(p_at(tail, x)), np.log(TRUTH[model].sf(x)), rtol=0.06)

    @ALL_MODELS
    def test_meets_the_counted_p_at_the_threshold(self, rng, model):
        x = DRAWS[model](rng, (1, 501))
        tail = fit(x, model)
        u = tail.threshold
        assert_allclose(p_at(tail, u), (1 + np.sum(x > u)) / 502, rtol=1e-12)
        just_above = u * (1 + 2e-5)
        assert_allclose(p_at(tail, just_above), p_at(tail, u), rtol=1e-3)

    @ALL_MODELS
    @given(seed=st.integers(0, 2**32 - 1))
    def test_p_falls_and_never_ends(self, model, seed):
        rng = np.random.default_rng(seed)
        tail = fit(rng.gamma(rng.uniform(0.3, 20), size=(1, 200)), model)
        log_p = tail.at(np.zeros(2001, int)).log_p(tail.threshold + tail.scale * np.linspace(0, 1500, 2001))
        assert np.all(np.isfinite(log_p))
        assert np.all(np.diff(log_p) < 0)

    def test_gamma_goes_on_where_the_smallest_float_ends(self):
        tail = Tail(
            "gamma", np.array([1.0]), np.zeros(1), np.array([4.0]), np.array([1.0]), stats.gamma.logsf([1.0], 4)
        )
        x = np.array([590.0, 605.0, 900.0])
        # Gamma(4, x) = e^-x (x^3 + 3 x^2 + 6 x + 6)
        want = [np.log(y**3 + 3 * y**2 + 6 * y + 6) - y for y in (x, np.ones(1))]
        assert_allclose(np.log(p_at(tail, x[:1])), want[0][:1] - want[1], rtol=1e-10)
        assert_allclose(tail.at(np.zeros(3, int)).log_p(x), want[0] - want[1], rtol=1e-5)

    def test_hazard_of_a_negative_shape_is_held(self):
        tail = Tail("pareto", np.zeros(1), np.zeros(1), np.array([-0.1]), np.array([2.0]), np.zeros(1))
        y = np.array([1.0, HELD, HELD + 1, HELD + 30])
        log_p = tail.at(np.zeros(4, int)).log_p(2 * y)
        assert_allclose(log_p[:2], stats.genpareto.logsf(y[:2], -0.1), rtol=1e-12)
        assert_allclose(np.diff(log_p[1:]), [-1 / 0.5, -29 / 0.5], rtol=1e-12)


class TestGoodness:
    @ALL_MODELS
    def test_is_uniform_for_the_right_model(self, rng, model):
        x = DRAWS[model](rng, (150, 200))
        p = goodness(fit(x, model), x, rng)
        assert stats.kstest(p, "uniform").pvalue > 1e-3
        assert np.mean(p < MIN_GOODNESS) <= stats.binom.ppf(0.999, 150, MIN_GOODNESS) / 150

    @ALL_MODELS
    def test_refuses_another_tail(self, rng, model):
        x = np.abs(rng.standard_t(2, (5, 1000))) ** 1.5
        assert np.all(goodness(fit(x, model), x, rng) < MIN_GOODNESS)

    @ALL_MODELS
    def test_refuses_what_has_no_tail(self, rng, model):
        nearly_constant = np.zeros((1, 400))
        nearly_constant[0, :5] = 1 + np.arange(5)
        for x in (np.zeros((1, 400)), np.ones((1, 400)), nearly_constant):
            assert goodness(fit(x, model), x, rng)[0] == 0


def extrapolate_what_is_fine(draw, observed, rule, model, rng):
    """On the first null whose fits are all accepted: one right fit in twenty is not, six in a row never are."""
    for _ in range(6):
        null = draw()
        found = extrapolate(null, observed, rule, model, rng)
        if np.all(np.isfinite(found.log_p)):
            return null, found
    pytest.fail("right models are refused again and again")


class TestExtrapolate:
    @ALL_MODELS
    @pytest.mark.parametrize("rule", RULES)
    def test_one_scale_covers_the_truth(self, rng, model, rule):
        x = TRUTH[model].isf([1e-4])
        _, found = extrapolate_what_is_fine(lambda: DRAWS[model](rng, (500, 1)), x, Rule(rule), model, rng)
        assert found.note == ""
        assert found.z[0] == found.z[1]
        # in every case of the seeds 0 to 99, so wider than 95 %
        assert abs(found.z[0] - stats.norm.isf(1e-4)) < 1.2
        assert 0 < found.low[0] < found.z[0] < found.high[0] < found.low[0] + 2.5

    @pytest.mark.parametrize("rule", RULES)
    def test_several_scales_are_near_the_truth(self, rng, rule):
        """The truth of independent exponential scales is counted on the exact aggregate of many."""
        many = rng.exponential(size=(400_000, 3))
        exact = Rule(rule).combine(-many)
        at = np.argsort(-exact)[200]  # p = 5e-4
        z = [extrapolate(toys, many[at], Rule(rule), "pareto", rng).z[-1] for toys in np.split(many[:3000], 3)]
        assert np.sum(np.isfinite(z)) >= 1
        assert np.nanmax(np.abs(z - stats.norm.isf(5e-4))) < 1

    @ALL_MODELS
    def test_below_the_threshold_is_counted(self, rng, model):
        observed = TRUTH[model].isf([0.4, 0.5])
        null, found = extrapolate_what_is_fine(
            lambda: DRAWS[model](rng, (300, 2)), observed, Rule("power-mean"), model, rng
        )
        want = counted_log_p(np.concatenate([observed[None], null]))[0]
        assert_allclose(found.log_p[:2], want, rtol=1e-12)

    @ALL_MODELS
    def test_many_rows_at_once_are_as_each_alone(self, rng, model):
        null, rows = DRAWS[model](rng, (150, 2)), DRAWS[model](rng, (3, 2)) * 3
        whole = extrapolate(null, rows, Rule("min-mean"), model, np.random.default_rng(2))
        for k in range(3):
            one = extrapolate(null, rows[k], Rule("min-mean"), model, np.random.default_rng(2))
            for name in ("log_p", "z", "low", "high"):
                assert_allclose(getattr(whole, name)[k], getattr(one, name), rtol=1e-12)

    @pytest.mark.parametrize("model", ["gamma", "chi2"])
    def test_an_atom_at_zero_has_p_one(self, rng, model):
        def draw():
            return rng.chisquare(5, (400, 2)) * (rng.random((400, 2)) < 0.6)

        _, found = extrapolate_what_is_fine(draw, np.array([0.0, 25.0]), Rule("power-mean"), model, rng)
        assert (found.log_p[0], found.z[0], found.low[0]) == (0, -np.inf, -np.inf)
        assert abs(found.z[1] - stats.norm.isf(0.6 * stats.chi2.sf(25, 5))) < 1
        assert found.low[1] < found.z[1] < found.high[1]

    def test_aggregate_is_not_bounded_by_the_number_of_toys(self, rng):
        null = rng.chisquare(5, (400, 3))
        for rule in RULES:
            aggregates = aggregate_beyond(null, np.outer([40.0, 80.0, 800.0], np.ones(3)), Rule(rule))
            assert aggregate_beyond(null, null, Rule(rule)).max() < aggregates[0] < aggregates[1] < aggregates[2]

    @pytest.mark.parametrize("rule", RULES)
    def test_aggregate_is_by_one_map_for_toys_and_observed(self, rng, rule):
        null = rng.exponential(size=(200, 3))
        whole = aggregate_beyond(null, null, Rule(rule))
        assert_allclose(aggregate_beyond(null, null[7:9], Rule(rule)), whole[7:9], rtol=1e-12)
        # what is not in the tail is counted
        bulk = np.all(null < np.quantile(null, 0.79, axis=0), axis=1)
        counted = np.log((1 + np.sum(null[None] >= null[:, None] * (1 - SLACK), axis=1)) / 201)
        assert_allclose(whole[bulk], Rule(rule).combine(counted)[bulk], rtol=1e-12)

    @pytest.mark.parametrize(("n_above", "has_tail"), [(9, False), (10, True)])
    def test_a_few_toys_above_what_nearly_all_tie_at_are_counted(self, rng, n_above, has_tail):
        null = np.maximum(rng.chisquare(4, size=(500, 2)), 5.0)
        null[n_above:, 0] = 5.0
        null[:n_above, 0] = 5.0 + rng.exponential(size=n_above)
        near, far = aggregate_beyond(null, np.array([[12.0, 6.0], [200.0, 6.0]]), Rule("power-mean"))
        assert (far > near) == has_tail

    @pytest.mark.parametrize("rule", RULES)
    def test_toys_meet_the_map_of_the_others(self, rng, rule):
        null = rng.chisquare(4, size=(201, 3))
        null = np.concatenate([null, null[:20]])  # 20 of them twice
        copies = np.ones(221)
        copies[:20] = copies[201:] = 2
        found = aggregate_beyond(null, null, Rule(rule), copies)
        largest = np.argsort(-found)[:10]
        for k in [*largest, 0, 5, 100]:
            others = null[np.any(null != null[k], axis=1)]
            assert len(others) == 221 - copies[k]
            # the quantile where the tail begins is that of all
            assert_allclose(found[k], aggregate_beyond(others, null[[k]], Rule(rule))[0], rtol=0.05)
        # in its own map the most extreme toy is less so
        assert found[largest[0]] > aggregate_beyond(null, null, Rule(rule))[largest[0]]

    def test_a_refused_scale_has_no_z(self, rng):
        heavy = np.abs(rng.standard_t(2, (500, 1))) ** 1.5
        null = np.concatenate([rng.chisquare(5, (500, 1)), heavy], axis=1)
        found = extrapolate(null, np.array([5.0, 1e9]), Rule("min"), "chi2", rng)
        assert_array_equal(np.isnan(found.z), found.goodness < MIN_GOODNESS)
        assert np.isnan(found.z[1])

    @pytest.mark.parametrize(
        ("change", "model", "note"),
        [
            (lambda x: x[:99], "gamma", "99 toys are fewer than the 100"),
            (lambda x: np.where(np.arange(len(x))[:, None] == 3, np.inf, x), "pareto", "a failed toy reaches every"),
            (lambda x: x - 1e-3 - x.min(), "chi2", 'below 0 has no chi2 distribution: tail="pareto"'),
            (lambda x: np.round(x / 4), "gamma", "goodness of fit p = 0.005 < 0.05"),
        ],
    )
    def test_refusals_say_why(self, rng, change, model, note):
        found = extrapolate(change(rng.chisquare(5, (300, 1))), np.array([20.0]), Rule("min"), model, rng)
        assert note in found.note
        assert np.isnan(found.z[-1])
        assert np.isnan(found.log_p[-1])


class TestInATest:
    @ALL_MODELS
    def test_counted_p_is_what_it_is_without(self, samples, quick, model):
        quick = quick | {"n_toys": 150}
        plain = SparKerTest(**quick).fit(*samples).result()
        test = SparKerTest(**quick, tail=model).fit(*samples)
        result = test.result()
        assert (result.pvalue, result.statistic, result.interval) == (plain.pvalue, plain.statistic, plain.interval)
        assert result.tail_model == model
        assert test.result().to_dict() == result.to_dict()
        for name in ("tail_pvalue", "tail_zscore", "tail_low", "tail_high", "tail_goodness"):
            assert result.scales[name].shape == result.scales["kind"].shape
        assert (result.tail_pvalue is None) == bool(result.tail_note)

    def test_a_strong_signal_goes_beyond_the_toys(self, rng, quick):
        reference = rng.normal(size=(400, 2))
        data = np.concatenate([rng.normal(size=(100, 2)), rng.normal(1.5, 0.1, size=(60, 2))])
        quick = quick | {"n_widths": 5, "n_candidates": 60, "n_toys": 200, "tail": "pareto"}
        results = (SparKerTest(**(quick | {"random_state": i})).fit(reference, data).result() for i in range(6))
        result = next(result for result in results if not result.tail_note)  # one right fit in twenty is refused
        assert result.pvalue == 1 / 201
        low, high = result.tail_interval
        assert result.zscore + 1 < low < result.tail_zscore < high
        assert_allclose(stats.norm.isf(result.tail_pvalue), result.tail_zscore, rtol=1e-6)
        assert "tail (pareto): p = " in str(result)
        assert np.nanmax(result.scales["tail_zscore"]) > result.zscore + 1

    def test_statistics_below_zero_are_refused(self, samples):
        result = MMDTest(n_toys=100, tail="gamma", random_state=0).fit(*samples).result()
        assert "below 0" in result.tail_note
        assert result.tail_zscore is None

    def test_none_adds_nothing(self, samples, quick):
        result = SparKerTest(**quick).fit(*samples).result()
        assert set(result.scales) == {"kind", "width", "weight", "statistic", "pvalue"}
        assert result.tail_model is None

    def test_band_depends_on_the_seed_alone(self, samples, quick):
        results = [
            SparKerTest(**(quick | {"n_toys": 120, "n_jobs": jobs}), tail="pareto").fit(*samples).result()
            for jobs in (1, 2)
        ]
        assert_array_equal(results[0].scales["tail_low"], results[1].scales["tail_low"])
        assert results[0].tail_interval == results[1].tail_interval


@pytest.mark.slow
@ALL_MODELS
def test_band_covers_the_true_z(seed, model):
    """100 nulls of 500 toys at p = 1e-3: at least as many bands cover as 99.9 % of cases with 90 % coverage would."""
    x = TRUTH[model].isf([1e-3])
    found = [
        extrapolate(
            DRAWS[model](np.random.default_rng([seed, i]), (500, 1)), x, Rule("min"), model, np.random.default_rng(i)
        )
        for i in range(100)
    ]
    made = [f for f in found if not f.note]
    covered = sum(f.low[0] <= stats.norm.isf(1e-3) <= f.high[0] for f in made)
    assert len(made) >= stats.binom.ppf(0.0005, 100, 0.93)
    assert covered >= stats.binom.ppf(0.001, len(made), 0.9)
