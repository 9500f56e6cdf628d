"""Candidates, their scores, and the choice of the first kernels."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist

from sparker import _starts
from sparker._pool import Pool, Weights
from sparker._toys import PermutationToys


def draw_toy(pool, rng, n_data=20):
    return PermutationToys(pool, n_data, None).draw(rng)[1]


def as_rows(array):
    return {tuple(row) for row in array.tolist()}


@pytest.fixture
def pool(rng):
    X = rng.normal(size=(90, 2))
    return Pool([X[:60], X[60:]])


class TestCandidates:
    def test_random_rows_are_rows_of_the_data(self, pool, rng):
        weights = draw_toy(pool, rng)
        rows = _starts.random_rows(pool, weights, 200, rng)
        assert as_rows(rows) <= as_rows(pool.rows(np.flatnonzero(weights.data)))

    def test_are_rows_of_the_pool_and_know_no_row_order(self, pool, rng, seed):
        X = np.concatenate(pool.blocks)
        candidates = _starts.dictionary(pool, 31, np.random.default_rng(seed))
        assert len(candidates) == 31
        assert_allclose(cdist(candidates, X).min(axis=1), 0, atol=1e-12)
        again = _starts.dictionary(Pool([rng.permutation(X)]), 31, np.random.default_rng(seed))
        assert_allclose(again, candidates, rtol=1e-9)

    def test_cover_sparse_regions(self, rng):
        X = np.concatenate([rng.normal(size=(5000, 1)), [[40.0], [-60.0]]])
        candidates = _starts.dictionary(Pool([X]), 20, rng)
        assert_allclose([np.abs(candidates - lone).min() for lone in (40, -60)], 0, atol=1e-9)

    def test_may_be_more_than_there_are_distinct_rows(self, rng):
        X = np.repeat(rng.normal(size=(3, 2)), 10, axis=0)
        candidates = _starts.dictionary(Pool([X]), 40, rng)
        assert_allclose(cdist(candidates, X).min(axis=1), 0, atol=1e-7)
        assert_allclose(cdist(X, candidates).min(axis=1), 0, atol=1e-7)
        assert len(candidates) <= 40

    def test_rows_of_weight_zero_are_none(self, rng):
        X = np.arange(40.0)[:, None]
        weight = np.where(X[:, 0] < 20, 1.0, 0.0)
        assert _starts.dictionary(Pool([X], weight), 60, rng).max() < 20


class TestScores:
    def score(self, pool, toys, candidates, widths, n_used=None):
        n_used = np.full(len(widths), len(candidates)) if n_used is None else n_used
        return _starts.scores(pool, toys, candidates, np.asarray(widths), n_used)

    def expect(self, pool, toy, candidates, width):
        """The formula of the module's docstring."""
        X = np.concatenate(pool.blocks)
        k = np.exp(-np.sum((X[:, None] - candidates) ** 2, axis=2) / (2 * width**2))
        return (toy.data - toy.reference) @ k / np.sqrt((toy.reference + toy.unit * toy.data) @ k**2)

    @pytest.mark.parametrize("n_toys", [1, 3, 17])
    def test_equal_the_formula(self, pool, rng, n_toys):
        toys, candidates, widths = [draw_toy(pool, rng) for _ in range(n_toys)], pool.blocks[0][::7], [2.0, 0.4, 0.05]
        got = self.score(pool, toys, candidates, widths)
        want = [[self.expect(pool, toy, candidates, width) for width in widths] for toy in toys]
        # kernels may be cut where they are below the resolution of float32
        assert_allclose(got, want, rtol=1e-6, atol=1e-6)

    def test_allow_for_unequal_weights(self, pool, rng):
        weighted = Weights(rng.uniform(0, 1, 90), rng.integers(0, 3, 90).astype(float), 0.3)
        toys, candidates = [weighted, draw_toy(pool, rng)], pool.blocks[0][:5]
        got = self.score(pool, toys, candidates, [1.0])[:, 0]
        assert_allclose(got, [self.expect(pool, toy, candidates, 1.0) for toy in toys], rtol=1e-6, atol=1e-6)

    def test_look_only_at_the_candidates_in_use(self, pool, rng):
        toys, candidates, widths = [draw_toy(pool, rng)], pool.blocks[0][:6], [1.0, 0.5]
        all_scores = self.score(pool, toys, candidates, widths)
        some = self.score(pool, toys, candidates, widths, np.array([2, 6]))
        assert_array_equal(some[0, 0, 2:], 0)
        assert_allclose(some[0, 0, :2], all_scores[0, 0, :2], rtol=1e-9)
        assert_allclose(some[0, 1], all_scores[0, 1], rtol=1e-9)

    def test_of_a_toy_do_not_depend_on_the_others_of_its_batch(self, pool, rng):
        toys, candidates = [draw_toy(pool, rng) for _ in range(16)], pool.blocks[0][:5]
        whole = self.score(pool, toys, candidates, [1.0, 0.3])
        assert_array_equal(self.score(pool, toys[:5], candidates, [1.0, 0.3]), whole[:5])

    def test_know_no_row_order(self, pool, rng):
        toy, candidates = draw_toy(pool, rng), pool.blocks[0][:5]
        shuffled = rng.permutation(90)
        other = Weights(toy.reference[shuffled], toy.data[shuffled], toy.unit)
        got = self.score(Pool([np.concatenate(pool.blocks)[shuffled]]), [other], candidates, [1.0, 0.3])
        assert_allclose(got, self.score(pool, [toy], candidates, [1.0, 0.3]), rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_are_finite_where_no_row_is_near(self, dtype):
        pool = Pool([np.zeros((5, 2), dtype), np.ones((3, 2), dtype)])
        toy = Weights(*np.array([[1] * 5 + [0] * 3, [0] * 5 + [1] * 3], dtype), 0.6)
        far = np.full((1, 2), 1e4, dtype)
        assert_allclose(self.score(pool, [toy], far, [0.1]), 0, atol=1e-6)


class TestSelect:
    @pytest.fixture
    def candidates(self):
        return np.linspace(0, 10, 41)[:, None]

    def test_takes_the_largest_squared_score_first(self, candidates, rng):
        score = rng.normal(size=41)
        assert _starts.select(score, candidates, 0.01, 3).tolist() == np.argsort(-(score**2))[:3].tolist()

    def test_takes_two_separate_peaks_rather_than_one_twice(self, candidates):
        score = 6 * np.exp(-((candidates[:, 0] - 2) ** 2) / 4) - 4 * np.exp(-((candidates[:, 0] - 8) ** 2) / 4)
        chosen = candidates[_starts.select(score, candidates, 1.0, 2), 0]
        assert_allclose(chosen, [2, 8], atol=0.26)

    def test_leaves_the_scores_as_they_are(self, candidates, rng):
        score = rng.normal(size=41)
        before = score.copy()
        _starts.select(score, candidates, 1.0, 5)
        assert_array_equal(score, before)

    def test_gives_every_kernel_a_place_even_if_all_candidates_are_equal(self):
        chosen = _starts.select(np.full(4, 2.0), np.zeros((4, 2)), 1.0, 6)
        assert chosen.shape == (6,)
        assert np.all((chosen >= 0) & (chosen < 4))
