"""From p-values at several scales to one."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sparker._aggregation import RULES, aggregate, exceedances, pooled_p_values

BY_HAND = {
    "min-mean": lambda p: -0.5 * np.log(p.min()) - 0.5 * np.log(p).mean(),
    "min": lambda p: -np.log(p.min()),
    "product": lambda p: -np.log(p.prod()),
    "mean": lambda p: -np.log(p.mean()),
}


def test_every_rule_is_checked_by_hand():
    assert set(RULES) == set(BY_HAND)


@pytest.mark.parametrize("rule", BY_HAND)
def test_small_example_by_hand(rule):
    null = np.array([[1.0, 10.0], [3.0, 20.0], [2.0, 30.0]])
    observed = np.array([2.5, 25.0])
    # ranks from the top among the four rows, the observed one included
    p_observed, p_null = np.array([2, 2]) / 4, np.array([[4, 4], [1, 3], [3, 1]]) / 4
    got_observed, got_null = aggregate(null, observed, rule)
    assert_allclose(got_observed, BY_HAND[rule](p_observed), rtol=1e-12)
    assert_allclose(got_null, [BY_HAND[rule](p) for p in p_null], rtol=1e-12)


def test_pooled_p_values_count_ties_within_the_slack():
    values = np.array([[1.0], [1.0 + 1e-7], [1.0 - 1e-7], [1.01], [0.99]])
    assert_allclose(pooled_p_values(values)[:, 0], [4 / 5, 4 / 5, 4 / 5, 1 / 5, 1], rtol=1e-12)


def test_pooled_p_values_equal_a_plain_count(rng):
    values = rng.choice([0.0, 0.5, 1.0, 2.0, np.inf], size=(40, 3))
    want = (values[None] >= values[:, None]).mean(axis=1)
    assert_allclose(pooled_p_values(values), want, rtol=1e-12)


@pytest.mark.parametrize(("observed", "n"), [(1.0, 4), (1.01, 2), (2.0, 2), (3.0, 0), (-1.0, 5), (0.0, 5)])
def test_exceedances_include_ties(observed, n):
    null = np.array([0.0, 1.0 - 1e-6, 1.0, 2.0, np.inf])[:, None]
    # infinity is a failed toy, which reaches everything
    n = max(n, 1)
    assert_array_equal(exceedances(null, np.array([observed])), [n])


def test_exceedances_allow_no_more_than_the_slack():
    assert exceedances(np.array([1 - 2e-5, 1 - 0.5e-5]), np.array(1.0)) == 1


@pytest.mark.parametrize("rule", BY_HAND)
def test_monotone_change_of_each_scale_changes_nothing(rng, rule):
    null, observed = rng.exponential(size=(50, 3)), rng.exponential(size=3)

    def change(values):
        return np.stack([values[..., 0] ** 3, 7 * values[..., 1], np.exp(values[..., 2])], axis=-1)

    want = aggregate(null, observed, rule)
    got = aggregate(change(null), change(observed), rule)
    assert_allclose(got[0], want[0], rtol=1e-12)
    assert_allclose(got[1], want[1], rtol=1e-12)


@pytest.mark.parametrize("rule", BY_HAND)
def test_observed_row_is_treated_like_any_other(rng, rule):
    rows = rng.exponential(size=(12, 3))
    whole = np.append(*reversed(aggregate(rows[1:], rows[0], rule)))
    for i in range(12):
        alone, others = aggregate(np.delete(rows, i, axis=0), rows[i], rule)
        assert_allclose(np.sort(np.append(others, alone)), np.sort(whole), rtol=1e-12)
        assert_allclose(alone, whole[i - 1], rtol=1e-12)


@pytest.mark.parametrize("rule", BY_HAND)
def test_failed_toys_reach_every_observed_statistic(rng, rule):
    null = rng.exponential(size=(50, 3))
    null[[4, 9]] = np.inf
    observed, aggregates = aggregate(null, np.full(3, 1e6), rule)
    assert np.all(np.isfinite(aggregates))
    assert exceedances(aggregates, np.array(observed)) == 2
