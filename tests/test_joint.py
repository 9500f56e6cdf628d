"""The joint score of many kernels of one width."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist

from sparker import SparKerTest, _joint, _starts
from sparker._pool import Pool
from sparker._toys import PermutationToys, pair_weights


def learned(X, weight=None, n_candidates=40, width=0.7, seed=0):
    """Pool, candidates and joint score of some rows."""
    pool = Pool([X], weight)
    rng = np.random.default_rng(seed)
    candidates = _starts.dictionary(pool, n_candidates, rng)
    return pool, candidates, _joint.learn(pool, candidates, np.ones(len(candidates), bool), width, rng)


def correlation(X, weight, centers, width):
    """R by its definition."""
    kernels = np.exp(-0.5 * cdist(centers, X, "sqeuclidean") / width**2)
    covariance = (kernels * weight) @ kernels.T + 0.2 * np.eye(len(centers))
    deviation = np.sqrt(np.diag(covariance))
    return covariance / np.outer(deviation, deviation)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 2, 30])
def test_is_the_quadratic_form_of_its_definition(rng, dtype, d):
    X, weight = rng.normal(size=(500, d)).astype(dtype) + 3, rng.integers(1, 4, 500).astype(dtype)
    width = np.sqrt(d)
    _, candidates, joint = learned(X, weight, width=width)
    R = correlation(X.astype(np.float64), weight.astype(np.float64), candidates[joint.which], width)
    score = rng.normal(size=len(candidates))
    z = score[joint.which]
    ridged = R + _joint.RIDGE * np.eye(len(R))
    effective = np.trace(np.linalg.solve(ridged, R))
    assert_allclose(joint.entry(score), z @ np.linalg.solve(ridged, z) / effective, rtol=1e-6)


@pytest.mark.parametrize("sample", [_joint.SAMPLE, 300])
def test_is_about_one_under_permutations(rng, monkeypatch, sample):
    """Mean over 200 toys, of rows with a sparse tail; the sample has a fifteenth of them."""
    monkeypatch.setattr(_joint, "SAMPLE", sample)
    pool, candidates, joint = learned(rng.exponential(size=(4500, 1)), width=0.2)
    toys = [PermutationToys(pool, 900, None).draw(rng)[1] for _ in range(200)]
    found = [joint.entry(of_toy.values[0]) for of_toy in _starts.scores(pool, toys, candidates, np.array([0.2]))]
    assert 0.5 < np.mean(found) < 1.1
    assert np.min(found) > 0


def test_does_not_know_row_order_and_copies_are_weights(rng):
    X = rng.normal(size=(300, 3))
    copies = rng.integers(1, 4, 300)
    _, _, want = learned(X, copies.astype(float))
    order = rng.permutation(300)
    for rows, weight in ((X[order], copies[order].astype(float)), (np.repeat(X, copies, axis=0), None)):
        _, _, got = learned(rows, weight)
        assert_array_equal(got.which, want.which)
        assert_allclose(got.matrix, want.matrix, rtol=1e-6, atol=1e-6 * np.abs(want.matrix).max())


@pytest.mark.parametrize("sample", [_joint.SAMPLE, 350])
def test_rows_that_toys_are_not_drawn_from_change_nothing(rng, monkeypatch, sample):
    """The observed pair of a split has rows that it gave up; that of a bootstrap is learned from like its toys."""
    monkeypatch.setattr(_joint, "SAMPLE", sample)
    X, candidates, kept = rng.normal(size=(300, 2)), rng.normal(size=(20, 2)), np.ones(20, bool)
    given_up = Pool([rng.normal(size=(100, 2)), X], np.repeat([0.0, 1.0], [100, 300]))
    twice = Pool([X, X])
    twice.n_drawn = 300.0
    want, *others = (_joint.learn(p, candidates, kept, 0.5, rng).matrix for p in (Pool([X]), given_up, twice))
    for got in others:
        assert_allclose(got, want, rtol=1e-6, atol=1e-6 * np.abs(want).max())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # overflow
def test_looks_at_some_of_the_kept_candidates(rng, monkeypatch):
    monkeypatch.setattr(_joint, "MOST", 12)
    pool = Pool([rng.normal(size=(400, 2))])
    candidates = pool.rows(pool.order[::10])
    kept = np.arange(40) % 2 == 0
    joint = _joint.learn(pool, candidates, kept, 0.5, rng)
    assert len(joint.which) == 12
    assert kept[joint.which].all()


def test_kernels_that_no_row_of_the_sample_reaches_count_as_one_each(rng, monkeypatch):
    monkeypatch.setattr(_joint, "SAMPLE", 50)
    X = rng.normal(size=(400, 2))
    _, _, joint = learned(X, width=1e-4)
    score = rng.normal(size=40)
    assert_allclose(joint.entry(score), np.mean(score[joint.which] ** 2), rtol=1e-9)


@pytest.mark.filterwarnings("ignore:60 rows are there more than once:UserWarning")
def test_equal_rows_and_equal_samples_have_no_joint_score(rng):
    test = SparKerTest(n_toys=19, random_state=0)
    test.fit(np.ones((30, 2)), np.ones((10, 2)))
    assert_array_equal(test.statistics_, 0 + _starts.LONE * np.isin(test.scales_["kind"], ["score", "rare", "dense"]))
    X = rng.normal(size=(60, 2))
    test.fit(X, X)
    assert_array_equal(test.statistics_[test.scales_["kind"] == "joint"], 0)


def test_sees_modes_that_have_narrowed_better_than_a_single_score(rng):
    """Three modes, two fifths narrower along one feature in the data."""
    where = 4 * rng.integers(0, 3, size=(1200, 1))
    X = where + rng.normal(size=(1200, 2))
    data = X[900:].copy()
    data[:, 0] = where[900:, 0] + 0.6 * (data[:, 0] - where[900:, 0])
    pool = Pool([X[:900], data])
    candidates = _starts.dictionary(pool, 100, rng)
    joint = _joint.learn(pool, candidates, np.ones(100, bool), 0.6, rng)
    is_data = (np.arange(1200) >= 900).astype(float)
    toys = [pair_weights(pool, 1 - is_data, is_data, None)]
    toys += [PermutationToys(pool, 300, None).draw(rng)[1] for _ in range(99)]
    found = _starts.scores(pool, toys, candidates, np.array([0.6]))
    observed, *null = (joint.entry(of_toy.values[0]) for of_toy in found)
    largest_observed, *largest = (np.square(of_toy.values).max() for of_toy in found)
    assert observed > np.max(null)
    assert (largest_observed - np.mean(largest)) / np.std(largest) < (observed - np.mean(null)) / np.std(null)
