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


def assert_rows_of(rows, X):
    """Up to rounding."""
    assert_allclose(cdist(rows, X).min(axis=1), 0, atol=1e-12)


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
        assert_array_equal(np.lexsort(candidates.T[::-1]), np.arange(31))
        assert_rows_of(candidates, X)
        again = _starts.dictionary(Pool([rng.permutation(X)]), 31, np.random.default_rng(seed))
        assert_allclose(again, candidates, rtol=1e-9)

    def test_are_fewer_on_large_pools(self):
        assert [_starts.enough(n, 2) for n in (10, 40_000, 80_000, 10**7)] == [1000, 1000, 500, 200]
        assert [_starts.enough(n, 1) for n in (10, 200_000, 400_000, 10**7)] == [1000, 1000, 500, 200]

    def test_cover_sparse_regions(self, rng):
        X = np.concatenate([rng.normal(size=(5000, 1)), [[40.0], [-60.0]]])
        candidates = _starts.dictionary(Pool([X]), 20, rng)
        assert_rows_of(np.array([[40.0], [-60.0]]), candidates)

    def test_are_no_more_than_the_distinct_rows(self, rng):
        X = np.repeat(rng.normal(size=(3, 2)), 10, axis=0)
        candidates = _starts.dictionary(Pool([X]), 40, rng)
        assert_rows_of(candidates, X)
        assert_rows_of(X, candidates)
        assert len(candidates) == 3

    def test_do_not_tell_a_row_of_weight_two_from_two_rows(self, rng, seed):
        X, copies = rng.normal(size=(40, 2)), rng.integers(0, 4, 40)
        pools = Pool([X], copies), Pool([np.repeat(X, copies, axis=0)])
        got, want = (_starts.dictionary(pool, 25, np.random.default_rng(seed)) for pool in pools)
        assert_allclose(got, want, rtol=1e-9)

    def test_rows_of_weight_zero_are_none(self, rng):
        X = np.arange(40.0)[:, None]
        weight = np.where(X[:, 0] < 20, 1.0, 0.0)
        assert _starts.dictionary(Pool([X], weight), 60, rng).max() < 19.5


class TestScores:
    """How significant the excess at a candidate is, signed, in standard deviations."""

    def score(self, pool, toys, candidates, *widths):
        return np.array([of_toy.values for of_toy in _starts.scores(pool, toys, candidates, np.array(widths))])

    @pytest.fixture
    def candidates(self, pool):
        return pool.rows(pool.order[::11])  # in lexicographic order, as `dictionary` returns them

    def test_equal_the_formula(self, pool, rng, candidates):
        X = np.concatenate(pool.blocks)
        toys = [draw_toy(pool, rng), Weights(rng.uniform(0, 1, 90), rng.integers(0, 3, 90).astype(float), 0.3)]
        got = self.score(pool, toys, candidates, 2.0, 0.4, 0.05)
        for toy, of_toy in zip(toys, got, strict=True):
            for width, score in zip((2.0, 0.4, 0.05), of_toy, strict=True):
                k = np.exp(-cdist(X, candidates, "sqeuclidean") / (2 * width**2))
                variance = toy.reference + toy.unit * toy.data
                want = (toy.data - toy.reference) @ k / np.sqrt(variance @ k**2 + _starts.PSEUDO)
                # kernels may be cut where they are below the resolution of float32
                assert_allclose(score, want, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize(("n_reference", "n_data"), [(300, 60), (60, 300)])
    def test_come_with_the_rows_of_the_smaller_sample_in_reach(self, rng, n_reference, n_data):
        pool = Pool([rng.normal(size=(n_reference, 2)), rng.normal(size=(n_data, 2))])
        candidates, widths = pool.rows(pool.order[::40]), np.array([3.0, 0.3])
        distances = cdist(np.concatenate(pool.blocks), candidates, "sqeuclidean")
        want = [np.exp(-distances / (2 * width**2)).sum(axis=0) * 60 / 360 for width in widths]
        for of_toy in _starts.scores(pool, [draw_toy(pool, rng, n_data) for _ in range(2)], candidates, widths):
            assert_allclose(of_toy.rows, want, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("d", [2, 5])
    def test_of_a_lone_pair_have_the_same_bits_for_any_number_of_threads(self, rng, monkeypatch, d):
        monkeypatch.setattr(_starts, "LONE_BLOCK", 1 << 10)
        pool, seen = Pool([rng.normal(size=(900, d)), rng.normal(size=(100, d))]), []
        candidates, widths = pool.rows(pool.order[::25]), np.array([2.0, 0.4])
        executor = _starts.executor
        monkeypatch.setattr(_starts, "executor", lambda n: seen.append(n) or executor(n))
        monkeypatch.setattr(_starts, "n_threads", lambda n_jobs, work: n_jobs)
        toy = draw_toy(pool, rng, 100)
        one, two, three = (_starts.score_sums(pool, [toy], candidates, widths, n_jobs) for n_jobs in (1, 2, 3))
        assert seen == [2, 3]
        for want, *got in zip(one, two, three, strict=True):
            for of_threads in got:
                assert_array_equal(of_threads, want)
        want = _starts.score_sums(pool, [toy, toy], candidates, widths)
        assert_allclose(one.score[..., 0], want.score[..., 1], rtol=1e-6, atol=1e-6)

    def test_largest_of_all_and_where_rows_are_rare_or_dense(self):
        values = np.array([[1.0, -4.0, 2.0], [0.5, -3.0, 0.0]])
        rows = np.array([[0.0, 8.0, 4.9], [5.0, 1e6, 0.0]])
        want = [
            [16.0, 9.0],
            [16 * 5 / 8, _starts.LONE],  # with 8 rows in reach instead of 5 a candidate counts by 5 / 8
            [_starts.LONE, 9.0],  # and by 8 / 30 where rows are dense, which one row alone may have
        ]
        assert_allclose(_starts.Scores(values, rows).largest(), want, rtol=1e-12)

    def test_largest_hardly_change_with_the_rows_in_reach(self, rng):
        """Rare, dense or not: candidates of toys may be others than those of the observed pair."""
        values, rows = rng.normal(size=(3, 50)), 10 ** rng.uniform(-3, 4, size=(3, 50))
        want = _starts.Scores(values, rows).largest()
        got = _starts.Scores(values, rows * rng.uniform(0.99, 1.01, size=rows.shape)).largest()
        assert_allclose(got, want, rtol=0.02)

    @pytest.mark.parametrize(("n_reference", "n_data"), [(300, 60), (60, 300)])
    def test_have_the_variance_of_poisson_counts_under_the_null(self, rng, n_reference, n_data):
        """Whichever sample is the larger one; a score at one place, over 800 permutations.

        Of Poisson counts it is 1; permutations keep both counts, which takes the mean of the kernel away.
        """
        pool = Pool([rng.normal(size=(n_reference, 1)), rng.normal(size=(n_data, 1))])
        toys = [draw_toy(pool, rng, n_data) for _ in range(800)]
        score = self.score(pool, toys, np.array([[0.5]]), 0.3)[:, 0, 0]
        kernel = np.exp(-0.5 * (np.concatenate(pool.blocks)[:, 0] - 0.5) ** 2 / 0.3**2)
        want = np.sqrt(1 - kernel.mean() ** 2 / np.mean(kernel**2))
        unit = n_data / n_reference
        variance = np.sum(kernel**2) * unit / (1 + unit) * (1 + unit)
        want *= np.sqrt(variance / (variance + _starts.PSEUDO * max(1, unit) ** 2))
        assert_allclose([score.mean(), score.std()], [0, want], atol=0.1)
        assert _starts.score_weights(toys)[1].shape == (n_reference + n_data, 1)  # the same for all: blind to labels

    def test_at_given_centres_come_in_their_order(self, pool, rng, candidates):
        toy, shuffled = draw_toy(pool, rng), rng.permutation(candidates)
        got = _starts.scores_at(pool, [toy], shuffled, 0.4)[0].values[0]
        order = np.lexsort(shuffled.T[::-1])
        assert_allclose(got[order], self.score(pool, [toy], candidates, 0.4)[0, 0], rtol=1e-9, atol=1e-12)

    def count(self, n_data, n_reference, unit):
        """Pool of one place with the given counts, its neighbours out of reach, and weights in which they balance."""
        blocks = [np.zeros((n_reference, 2)), np.full((1000, 2), 1e3), np.zeros((n_data, 2)), np.full((300, 2), 1e3)]
        is_data = np.repeat([0.0, 0.0, 1.0, 1.0], [len(block) for block in blocks])
        return Pool(blocks), Weights(unit * (1 - is_data), is_data, unit)

    @pytest.mark.parametrize("unit", [1.0, 0.3])
    @pytest.mark.parametrize("excess", [-3.0, -1.0, 1.0, 3.0])
    def test_of_an_isolated_place_are_those_of_counts_on_and_off(self, unit, excess):
        n_reference = 40_000
        expected = unit * n_reference
        n_data = round(expected + excess * np.sqrt(expected * (1 + unit)))
        got = self.score(*self.as_arguments(n_data, n_reference, unit), 1.0)
        assert_allclose(got, excess, rtol=0.03)

    def as_arguments(self, n_data, n_reference, unit):
        pool, weights = self.count(n_data, n_reference, unit)
        return pool, [weights], np.zeros((1, 2))

    def test_are_zero_where_the_samples_balance(self):
        assert_allclose(self.score(*self.as_arguments(30, 100, 0.3), 1.0), 0, atol=1e-6)

    def test_are_zero_where_no_row_is_near(self, pool, rng):
        assert_allclose(self.score(pool, [draw_toy(pool, rng)], np.full((1, 2), 1e4), 0.1), 0, atol=1e-6)

    @pytest.mark.parametrize(("n_data", "n_reference", "sign"), [(5, 0, 1), (0, 50, -1)])
    def test_are_finite_where_one_sample_is_absent(self, n_data, n_reference, sign):
        score = self.score(*self.as_arguments(n_data, n_reference, 0.3), 1.0)
        assert np.isfinite(score)
        assert sign * score > 1

    def test_of_a_few_rows_are_not_rounding_beside_millions(self):
        pool, counts = Pool([np.array([[0.0], [0.0], [100.0]])]), np.array([4e6, 4e6, 5.0])
        weights = Weights(counts * [1, 0, 0], counts * [0, 1, 1], 1.0)
        score = self.score(pool, [weights], np.array([[0.0], [100.0]]), 1.0)
        assert_allclose(score, [[[0, 5 / np.sqrt(5 + _starts.PSEUDO)]]], rtol=1e-9)

    def test_are_near_standard_normal_under_the_null(self, rng):
        pool = Pool([rng.normal(size=(2000, 2))])
        toys = [draw_toy(pool, rng, 400) for _ in range(160)]
        score = self.score(pool, toys, pool.rows(pool.order[::100]), 0.5)[:, 0]
        # at the width of the features part of the fluctuation is common to all places: the spread is below 1
        assert_allclose(score.mean(), 0, atol=0.15)
        assert_allclose(score.std(), 0.9, atol=0.15)

    @pytest.mark.parametrize("n_toys", [1, 3, 17])
    def test_of_a_toy_do_not_depend_on_the_others(self, pool, rng, candidates, n_toys):
        toys = [draw_toy(pool, rng) for _ in range(n_toys)]
        got = self.score(pool, toys, candidates, 2.0, 0.4, 0.05)
        assert got.shape == (n_toys, 3, len(candidates))
        for toy, score in zip(toys, got, strict=True):
            assert_allclose(score, self.score(pool, [toy], candidates, 2.0, 0.4, 0.05)[0], rtol=1e-6, atol=1e-6)

    def test_know_no_row_order(self, pool, rng, candidates):
        toy = draw_toy(pool, rng)
        shuffled = rng.permutation(90)
        other = Weights(toy.reference[shuffled], toy.data[shuffled], toy.unit)
        got = self.score(Pool([np.concatenate(pool.blocks)[shuffled]]), [other], candidates, 1.0, 0.3)
        assert_allclose(got, self.score(pool, [toy], candidates, 1.0, 0.3), rtol=1e-6, atol=1e-6)

    def test_of_float32_rows_are_finite(self, rng):
        pool = Pool([rng.normal(size=(60, 2)).astype(np.float32) + 100])
        assert np.all(np.isfinite(self.score(pool, [draw_toy(pool, rng)], pool.rows(pool.order), 3.0, 1e-3)))


class TestApart:
    @pytest.mark.parametrize("d", [1, 3])
    def test_kept_ones_are_apart_and_the_others_next_to_one_before_them(self, rng, d):
        candidates, widths = rng.normal(size=(200, d)) + 30, np.array([5.0, 1.0, 1e-4])
        kept = _starts.apart(candidates, widths)
        distances = cdist(candidates, candidates)
        for of_width, width in zip(kept, widths, strict=True):
            close = distances < _starts.APART * width
            assert close[np.ix_(of_width, of_width)].sum() == of_width.sum()  # each with itself alone
            assert all((close[i, :i] & of_width[:i]).any() for i in np.flatnonzero(~of_width))
        assert kept[0].sum() < kept[1].sum()
        assert kept[2].all()

    def test_of_equal_candidates_one_is_kept(self):
        assert _starts.apart(np.ones((4, 2)), np.array([0.5])).tolist() == [[True, False, False, False]]

    @pytest.mark.parametrize("d", [1, 2, 5])
    def test_scores_of_others_are_0(self, rng, d):
        pool = Pool([rng.normal(size=(300, d)), rng.normal(size=(60, d))])
        candidates, widths = pool.rows(pool.order[::6]), np.array([3.0, 0.3])
        kept, toys = rng.random((2, 60)) < 0.4, [draw_toy(pool, rng, 60) for _ in range(2)]
        for got, want in zip(
            _starts.scores(pool, toys, candidates, widths, kept=kept),
            _starts.scores(pool, toys, candidates, widths),
            strict=True,
        ):
            assert_allclose(got.values, kept * want.values, rtol=1e-6, atol=1e-6)
            assert_allclose(got.rows, kept * want.rows, rtol=1e-6, atol=1e-6)

    def test_others_are_not_selected(self, rng):
        candidates, kept = rng.normal(size=(40, 2)), np.arange(40)[None] % 4 == 0
        score = np.where(kept, rng.normal(size=40), 0.0)
        chosen = _starts.select(score[None], candidates, np.array([0.5]), 4, kept)
        assert np.all(chosen % 4 == 0)
        want = _starts.select(score[None, :, ::4], candidates[::4], np.array([0.5]), 4)
        assert_array_equal(chosen, 4 * want)


def select(score, candidates, width, n_kernels):
    """Of one toy at one width."""
    return _starts.select(score[None, None], candidates, np.array([width]), n_kernels)[0, 0]


class TestSelect:
    @pytest.fixture
    def candidates(self):
        return np.linspace(0, 10, 41)[:, None]

    def test_takes_the_largest_squared_score_first(self, candidates, rng):
        score = rng.normal(size=41)
        assert select(score, candidates, 0.01, 3).tolist() == np.argsort(-(score**2))[:3].tolist()

    def test_takes_two_separate_peaks_rather_than_one_twice(self, candidates):
        score = 6 * np.exp(-((candidates[:, 0] - 2) ** 2) / 4) - 4 * np.exp(-((candidates[:, 0] - 8) ** 2) / 4)
        chosen = candidates[select(score, candidates, 1.0, 2), 0]
        assert_allclose(chosen, [2, 8], atol=0.26)

    def test_leaves_the_scores_as_they_are(self, candidates, rng):
        score = rng.normal(size=41)
        before = score.copy()
        select(score, candidates, 1.0, 5)
        assert_array_equal(score, before)

    def test_gives_every_kernel_a_place_even_if_all_candidates_are_equal(self):
        chosen = select(np.full(4, 2.0), np.zeros((4, 2)), 1.0, 6)
        assert chosen.shape == (6,)
        assert np.all((chosen >= 0) & (chosen < 4))

    def test_of_many_toys_and_widths_is_that_of_each(self, rng):
        candidates, score = rng.normal(size=(40, 2)), rng.normal(size=(3, 2, 40))
        chosen = _starts.select(score, candidates, np.array([2.0, 0.3]), 4)
        assert chosen.shape == (3, 2, 4)
        for toy, width in np.ndindex(3, 2):
            assert_array_equal(chosen[toy, width], select(score[toy, width], candidates, [2.0, 0.3][width], 4))


@pytest.mark.parametrize("value", [1e8, 1e12, 3.4e38])
@pytest.mark.parametrize("d", [1, 2, 6])
def test_one_row_far_away_does_not_make_the_others_one_place(rng, value, d):
    candidates = np.concatenate([rng.normal(size=(100, d)), np.full((1, d), value)])
    found = _starts.apart(candidates, np.array([1.0, 0.1]))
    assert_array_equal(found[:, :-1], _starts.apart(candidates[:-1], np.array([1.0, 0.1])))
    assert found[:, -1].all()
    squared = _starts._pair_distances(candidates)[:-1, :-1]
    assert_allclose(squared, cdist(candidates[:-1], candidates[:-1], "sqeuclidean"), atol=1e-12)
