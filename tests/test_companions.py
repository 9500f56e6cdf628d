"""The global companions: mean and spread of the whole sample."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from sparker import SparKerTest, _companions
from sparker._pool import Pool
from sparker._toys import PermutationToys, pair_weights


def entries(X, is_data, reference_weight=None):
    """Mean and spread entries of a pair."""
    raw = np.ones(len(X)) if reference_weight is None else reference_weight
    pool = Pool([X], np.where(is_data, 1.0, raw))
    weights = pair_weights(pool, np.where(is_data, 0.0, raw), is_data * 1.0, None)
    return _companions.companions(pool, [weights], _companions.learn(pool))[0]


@pytest.fixture
def pair(rng):
    X = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3)) + 5
    return X, np.arange(300) >= 220


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_are_hotelling_and_a_standardised_mean_of_mahalanobis_distances(pair, factor):
    X, is_data = pair
    X = np.where(is_data[:, None], X.mean(0) + factor * (X - X.mean(0)), X)
    n_r, n_d = np.sum(~is_data), np.sum(is_data)
    precision = np.linalg.inv(np.cov(X.T, ddof=0))
    shift = X[is_data].mean(0) - X[~is_data].mean(0)
    variance = n_d / n_r * len(X) / n_d**2  # of a mean difference of white rows, v = N_D / N_R for every row
    q = np.einsum("nd,de,ne->n", X - X.mean(0), precision, X - X.mean(0)) - 3
    z = (q[is_data].mean() - q[~is_data].mean()) / np.sqrt(variance * np.mean(q**2))
    assert_allclose(entries(X, is_data), [shift @ precision @ shift / variance, max(z, 0) ** 2], rtol=1e-9)
    assert (z > 0) == (factor > 1)


def test_under_permutations_have_the_means_of_chi_squared(rng):
    pool = Pool([rng.standard_t(8, size=(400, 5))])
    toys = [PermutationToys(pool, 100, None).draw(rng)[1] for _ in range(500)]
    found = _companions.companions(pool, toys, _companions.learn(pool))
    # degrees of freedom 5, and half of 1: the error of a mean over 500 toys is sqrt(2 k / 500)
    assert_allclose(found.mean(axis=0), [5, 0.5], atol=4 * np.sqrt(2 * 5 / 500))


def test_do_not_know_units_origin_or_row_order(pair, rng):
    X, is_data = pair
    want = entries(X, is_data)
    assert_allclose(entries(X * [1e-3, 1.0, 1e4] - [0, 1e9, 1], is_data), want, rtol=1e-6)
    order = rng.permutation(len(X))
    assert_allclose(entries(X[order], is_data[order]), want, rtol=1e-9)
    assert_allclose(entries(X.astype(np.float32), is_data), want, rtol=1e-4)


def test_integer_weights_are_repeated_rows(pair, rng):
    X, is_data = pair
    copies = np.where(is_data, 1, rng.integers(0, 4, len(X)))
    want = entries(np.repeat(X, copies, axis=0), np.repeat(is_data, copies))
    assert_allclose(entries(X, is_data, copies * 1.0), want, rtol=1e-9)


def test_constant_columns_change_nothing(pair):
    X, is_data = pair
    assert_allclose(entries(np.column_stack([X, np.full(300, 0.1)]), is_data), entries(X, is_data), rtol=1e-9)
    assert_array_equal(entries(np.full((30, 2), 0.1), np.arange(30) > 20), 0)


def test_constant_columns_change_nothing_beside_more_features_than_directions(rng):
    X, is_data = rng.normal(size=(300, 60)), np.arange(300) >= 200
    padded = np.column_stack([X, np.full((300, 500), 7.0)])
    assert_allclose(entries(padded, is_data), entries(X, is_data), rtol=1e-9)


def test_equal_columns_do_not_dominate(pair, rng):
    X, is_data = pair
    noise = 1e-9 * rng.normal(size=300)  # as a direction of its own it would count like a column
    mean, spread = entries(np.column_stack([X, X[:, 0] + noise]), is_data)
    assert_allclose(mean, entries(X, is_data)[0], rtol=0.05)
    assert np.isfinite(spread)


def test_more_features_than_rows_and_than_the_rank(rng):
    X = rng.normal(size=(10 * _companions.RANK, _companions.RANK + 40))
    for dtype in (np.float32, np.float64):
        for n in (100, len(X)):
            mean, spread = entries(X[:n].astype(dtype), np.arange(n) >= 80)
            assert np.isfinite([mean, spread]).all()
    whole = Pool([X])
    moments = _companions.learn(whole)
    assert moments.axes.shape == (X.shape[1], _companions.RANK)
    # the variances of all directions add up to those of the columns
    assert_allclose(moments.squared_distances.mean(), 0, atol=1e-9)


def test_a_large_pool_is_learned_from_a_sample(rng, monkeypatch):
    X = rng.normal(size=(3000, 2))
    want = _companions.learn(Pool([X]))
    monkeypatch.setattr(_companions, "SAMPLE", 1000)
    got = _companions.learn(Pool([X]))
    assert got.squared_distances.shape == (3000,)
    assert not np.array_equal(got.mean, want.mean)
    assert_allclose(got.deviation, want.deviation, rtol=0.1)


def test_enter_the_p_value_and_not_the_log_density_ratio(rng):
    """A few of the data spread twice as wide in each of 60 dimensions."""
    reference, data = rng.normal(size=(600, 60)), rng.normal(size=(200, 60))
    data[:16] *= 1.8
    test, without = (
        SparKerTest(n_toys=99, companions=companions, random_state=0).fit(reference, data)
        for companions in (True, False)
    )
    assert test.p_value() == 0.01
    table = test.result().scales
    assert table["pvalue"][table["kind"] == "spread"] == 0.01
    assert_array_equal(test.score_samples(data), without.score_samples(data))
    assert_array_equal(test.statistics_[:-2], without.statistics_)


@pytest.mark.filterwarnings("ignore:calibration:UserWarning")
@pytest.mark.parametrize("calibration", ["permutation", "split", "bootstrap"])
def test_hold_their_level_with_more_features_than_rows(calibration):
    """40 null pairs with 9 toys: p <= 0.2 in 8 of them; 3.5 standard deviations.

    Bootstrap toys have fewer distinct rows than the observed pair: variances of many directions would betray it.
    """
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        pair = rng.normal(size=(100, 200)), rng.normal(size=(40, 200))
        params = {"n_kernels": 1, "n_widths": 1, "n_candidates": 2, "max_iter": 1, "n_toys": 9, "random_state": seed}
        scales = SparKerTest(calibration=calibration, **params).fit(*pair).result().scales
        alarms += scales["pvalue"][scales["kind"] == "mean"][0] <= 0.2
    assert alarms <= 8 + 3.5 * np.sqrt(40 * 0.2 * 0.8)


# As many directions as features, fewer, and fewer rows than features.
@pytest.mark.parametrize("n_rows", [1000, 400, 50])
def test_directions_by_random_projections_are_those_of_the_covariance(rng, monkeypatch, n_rows):
    scale = np.append(np.array([6.0, 5.0, 4.0]), np.ones(57))
    pool = Pool([(rng.normal(size=(n_rows, 60)) * scale) @ stats.ortho_group.rvs(60, random_state=rng)])
    exact = _companions.learn(pool)
    monkeypatch.setattr(_companions, "EXACT", 59)
    found = _companions.learn(pool)
    assert_allclose(found.variances[-3:], exact.variances[-3:], rtol=1e-6 if n_rows > 60 else 0.05)
    assert_allclose(found.variances.sum() + found.rest * (60 - len(found.variances)), 60, rtol=1e-9)
    if n_rows == 1000:
        assert_allclose(found.squared_distances, exact.squared_distances, atol=1e-9 * exact.mean_distance)
    # The smaller variances are near each other, and which of their directions are kept is any.
    assert np.corrcoef(found.squared_distances, exact.squared_distances)[0, 1] > 0.98
    order = rng.permutation(n_rows)
    other_order = _companions.learn(Pool([pool.blocks[0][order]]))
    assert_allclose(other_order.squared_distances, found.squared_distances[order], rtol=1e-6, atol=1e-6)


def test_directions_are_as_many_as_toys_of_fewer_rows_have(rng):
    """The observed pair of a bootstrap learns from both samples, its toys from the reference alone."""
    X = rng.normal(size=(60, 40))
    both = Pool([X, rng.normal(size=(60, 40))])
    alone, free = (_companions.learn(pool).axes.shape[1] for pool in (Pool([X]), both))
    both.n_drawn = 60.0
    assert _companions.learn(both).axes.shape[1] == alone < free
