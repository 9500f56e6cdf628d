"""From the statistics at several scales to one p-value."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sparker import SparKerTest
from sparker._aggregation import (
    EXPONENT,
    MIN_TAIL,
    RULES,
    TAIL,
    Rule,
    aggregate,
    counted_log_p,
    exceedances,
    extended_log_p,
)
from sparker._statistic import WEIGHTS

COUNTED = {
    "min-mean": lambda p: -0.5 * np.log(p.min()) - 0.5 * np.log(p).mean(),
    "min": lambda p: -np.log(p.min()),
    "product": lambda p: -np.log(p.prod()),
    "mean": lambda p: -np.log(p.mean()),
}
BY_HAND = COUNTED | {"power-mean": lambda p: np.log(np.mean(p**EXPONENT))}


def test_every_rule_is_checked_by_hand():
    assert set(RULES) == set(BY_HAND)


@pytest.mark.parametrize("rule", BY_HAND)
def test_small_example_by_hand(rule):
    null = np.array([[1.0, 10.0], [3.0, 20.0], [2.0, 30.0]])
    observed = np.array([2.5, 25.0])
    # ranks from the top among the four rows, the observed one included
    p_observed, p_null = np.array([2, 2]) / 4, np.array([[4, 4], [1, 3], [3, 1]]) / 4
    got_observed, got_null = aggregate(null, observed, Rule(rule))
    assert_allclose(got_observed, BY_HAND[rule](p_observed), rtol=1e-12)
    assert_allclose(got_null, [BY_HAND[rule](p) for p in p_null], rtol=1e-12)


class TestPooledP:
    def test_counts_ties_within_the_slack(self):
        values = np.array([[1.0], [1.0 + 1e-7], [1.0 - 1e-7], [1.01], [0.99]])
        assert_allclose(np.exp(counted_log_p(values)[:, 0]), [4 / 5, 4 / 5, 4 / 5, 1 / 5, 1], rtol=1e-12)

    def test_equals_a_plain_count(self, rng):
        values = rng.choice([0.0, 0.5, 1.0, 2.0, np.inf], size=(40, 3))
        want = (values[None] >= values[:, None]).mean(axis=1)
        assert_allclose(np.exp(counted_log_p(values)), want, rtol=1e-12)

    @pytest.mark.parametrize(("n", "n_tail"), [(26, 5), (101, 10), (2500, 50)])
    def test_upper_rows_lie_on_an_exponential_tail(self, rng, n, n_tail):
        values = rng.exponential(size=(n, 2))
        got, counted = extended_log_p(values), counted_log_p(values)
        for k in range(2):
            u = np.sort(values[:, k])[-n_tail - 1]
            above = values[:, k] > u
            assert above.sum() == n_tail
            assert_array_equal(got[~above, k], counted[~above, k])
            excess = values[above, k] - u
            scale = max(np.mean(excess), (u - np.sort(values[:, k])[n // 2]) / np.log(0.5 * n / n_tail))
            assert_allclose(got[above, k], np.log(n_tail / n) - excess / scale, rtol=1e-12)

    def test_a_value_far_from_all_others_does_not_hide_them(self, rng):
        values = rng.exponential(size=(400, 1))
        far = np.concatenate([values, [[1e6]]])
        got = extended_log_p(far)
        assert got[-1] == got.min() > np.log(20 / 401) - 21
        assert np.all(np.diff(got[np.argsort(far[:, 0]), 0]) <= 0)

    def test_values_that_pile_up_do_not_make_those_just_above_extreme(self):
        # half at 0, a third at 1, the rest a hair above it: the tail alone would have the scale of the hair
        values = np.repeat([0.0, 1.0], [50, 33])
        values = np.append(values, 1 + 1e-4 * np.arange(1, 18) ** 2)[:, None]
        assert extended_log_p(values).min() > np.log(1 / 100)

    def test_tail_is_near_the_truth_where_the_truth_is_exponential(self, rng):
        values = rng.exponential(size=(20_000, 1))
        at = values[:, 0] > np.log(100)
        assert_allclose(extended_log_p(values)[at, 0], -values[at, 0], rtol=0.1)

    def test_too_few_rows_for_a_tail_are_counted(self, rng):
        n = round(MIN_TAIL / TAIL) - 1
        values = rng.exponential(size=(n, 3))
        assert_array_equal(extended_log_p(values), counted_log_p(values))


@pytest.mark.parametrize(("observed", "n"), [(1.0, 4), (1.01, 2), (2.0, 2), (3.0, 1), (-1.0, 5), (0.0, 5)])
def test_exceedances_include_ties_and_failed_toys(observed, n):
    null = np.array([0.0, 1.0 - 1e-6, 1.0, 2.0, np.inf])[:, None]
    assert_array_equal(exceedances(null, np.array([observed])), [n])


def test_exceedances_allow_no_more_than_the_slack():
    assert exceedances(np.array([1 - 2e-5, 1 - 0.5e-5]), np.array(1.0)) == 1


def test_exceedances_are_counted_at_each_scale_alone():
    null = np.array([[1.0, 5.0], [2.0, 1.0], [3.0, 1.0]])
    assert exceedances(null, np.array([2.0, 2.0])).tolist() == [2, 1]


@pytest.mark.parametrize("rule", COUNTED)
def test_monotone_change_of_each_scale_changes_nothing(rng, rule):
    null, observed = rng.exponential(size=(50, 3)), rng.exponential(size=3)

    def change(values):
        return np.stack([values[..., 0] ** 3, 7 * values[..., 1], np.exp(values[..., 2])], axis=-1)

    assert_same(aggregate(change(null), change(observed), Rule(rule)), aggregate(null, observed, Rule(rule)))


@pytest.mark.parametrize("rule", BY_HAND)
def test_scale_and_order_of_the_scales_change_nothing(rng, rule):
    null, observed = rng.exponential(size=(50, 3)), rng.exponential(size=3)
    want = aggregate(null, observed, Rule(rule))
    factors = np.array([0.25, 3.0, 1e3])
    assert_same(aggregate(null * factors, observed * factors, Rule(rule)), want)
    assert_same(aggregate(null[:, [2, 0, 1]], observed[[2, 0, 1]], Rule(rule)), want)


def assert_same(got, want):
    for g, w in zip(got, want, strict=True):
        assert_allclose(g, w, rtol=1e-9)


@pytest.mark.parametrize("rule", BY_HAND)
@pytest.mark.parametrize("n", [12, 60])
def test_observed_row_is_treated_like_any_other(rng, rule, n):
    rows = rng.exponential(size=(n, 3))
    observed, null = aggregate(rows[1:], rows[0], Rule(rule))
    whole = np.array([observed, *null])
    for i in range(0, n, 5):
        alone, others = aggregate(np.delete(rows, i, axis=0), rows[i], Rule(rule))
        assert_allclose(alone, whole[i], rtol=1e-12)
        assert_allclose(others, np.delete(whole, i), rtol=1e-12)


@pytest.mark.parametrize("rule", BY_HAND)
def test_larger_at_every_scale_is_never_less_significant(rng, rule):
    null = rng.exponential(size=(60, 3))
    aggregates = [aggregate(null, np.full(3, t), Rule(rule)) for t in (0.1, 0.5, 1.0, 2.0, 4.0, 50.0)]
    counts = [exceedances(toys, np.array(observed)) for observed, toys in aggregates]
    assert np.all(np.diff(counts) <= 0)
    assert counts[0] > 40
    assert counts[-1] == 0


@pytest.mark.parametrize("rule", BY_HAND)
def test_failed_toys_reach_every_observed_statistic(rng, rule):
    null = rng.exponential(size=(60, 3))
    null[[4, 9]] = np.inf
    observed, aggregates = aggregate(null, np.full(3, 1e6), Rule(rule))
    assert not np.any(np.isnan(aggregates))
    assert exceedances(aggregates, np.array(observed)) == 2


@pytest.mark.parametrize("n_failed", [MIN_TAIL, 9])
def test_failed_toys_reach_what_all_others_tie_with(rng, n_failed):
    null = rng.exponential(size=(199, 3))
    null[:, 2] = 0
    null[:n_failed] = np.inf
    observed, aggregates = aggregate(null, np.array([1e6, 1e6, 0]), Rule("power-mean"))
    assert exceedances(aggregates, np.array(observed)) == n_failed


def test_extended_tail_does_not_rank_rounding(rng):
    values = 1 + 1e-9 * rng.normal(size=(501, 1))
    assert_allclose(extended_log_p(values), 0, atol=1e-12)
    mixed = np.concatenate([values, 5 + rng.exponential(size=(20, 1))])
    assert np.ptp(extended_log_p(mixed)[:501]) == 0


@pytest.mark.parametrize("params", [{}, {"companions": False}, {"start": "random"}, {"n_widths": 3}])
def test_kinds_of_entries_have_their_weights_however_many_there_are(params):
    statistic = SparKerTest(**params)._make_statistic()
    kinds, weights = np.array(statistic._kinds()), statistic.entry_weights
    of_kinds = {kind: weights[kinds == kind] for kind in kinds}
    total = sum(WEIGHTS[kind] for kind in of_kinds)
    for kind, found in of_kinds.items():
        assert_allclose(found, WEIGHTS[kind] / total / len(found), rtol=1e-12)
    assert_allclose(weights.sum(), 1, rtol=1e-12)


def test_weights_count_for_the_power_mean(rng):
    null, observed = rng.exponential(size=(3, 2)), rng.exponential(size=2)
    p = np.exp(counted_log_p(np.concatenate([observed[None], null])))
    got, _ = aggregate(null, observed, Rule("power-mean", np.array([0.9, 0.1])))
    assert_allclose(got, np.log(0.9 * p[0, 0] ** EXPONENT + 0.1 * p[0, 1] ** EXPONENT), rtol=1e-12)
