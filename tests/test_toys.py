"""Toys: who is data, who is reference, and with what weight."""

from contextlib import nullcontext

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from sparker import SparKerTest, _starts, _toys
from sparker._pool import Pool, are_counts


def make_pool(n_reference=50, n_data=20, weight=None, dtype=np.float64):
    rows = np.random.default_rng(3).normal(size=(n_reference + n_data, 2)).astype(dtype)
    return Pool([rows[:n_reference], rows[n_reference:]], weight)


def observe(pool, n_reference=50, calibration="permutation", expected=None, seed=0):
    return _toys.observe(pool, n_reference, calibration, expected, np.random.default_rng(seed))


def draw_many(toys, n=200):
    return [toys.draw(np.random.default_rng(i))[1] for i in range(n)]


def assert_apart(weights):
    """No row is data and reference of the same toy."""
    assert not np.any((weights.reference > 0) & (weights.data > 0))


class TestObserved:
    def test_reference_is_scaled_to_the_data_or_to_the_expected_count(self):
        pool = make_pool()
        for expected, count in ((None, 20), (35.0, 35)):
            weights = observe(pool, expected=expected).weights
            assert_allclose(weights.reference, [count / 50] * 50 + [0] * 20, rtol=1e-12)
            assert_array_equal(weights.data, [0] * 50 + [1] * 20)
            assert_allclose(weights.unit, count / 50, rtol=1e-12)

    def test_raw_weights_count(self, rng):
        raw = rng.uniform(0.5, 2, 70)
        weights = observe(make_pool(weight=raw)).weights
        assert_array_equal(weights.data[50:], raw[50:])
        assert_allclose(weights.reference[:50], raw[:50] * raw[50:].sum() / raw[:50].sum(), rtol=1e-12)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_weights_have_the_dtype_of_the_rows(self, dtype):
        weights = observe(make_pool(dtype=dtype)).weights
        assert weights.reference.dtype == weights.data.dtype == dtype

    def test_rows_that_the_pair_does_not_use_are_never_drawn(self):
        observed = observe(make_pool(), calibration="split")
        unused = observed.weights.reference + observed.weights.data == 0
        assert np.count_nonzero(unused) == 20
        assert not np.any(unused[observed.pool.draw(np.linspace(0, 1, 500, endpoint=False))])

    @pytest.mark.parametrize(
        ("calibration", "weighted"),
        [("permutation", False), ("split", False), ("split", True), ("bootstrap", False), ("bootstrap", True)],
    )
    @pytest.mark.filterwarnings("ignore:calibration:UserWarning")
    def test_the_pair_learns_from_as_many_rows_as_its_toys_are_drawn_from(self, rng, calibration, weighted):
        weight = np.append(rng.choice([0.8, 0.9, 1.0], 50), np.ones(20)) if weighted else None
        observed = observe(make_pool(weight=weight), calibration=calibration)
        assert_allclose(observed.pool.n_drawn, _toys.make_toys(observed, calibration).pool.n_drawn, rtol=1e-12)

    @pytest.mark.parametrize("sample", [20_000, 60])
    def test_rows_given_up_are_no_candidates_and_make_no_sample(self, rng, monkeypatch, sample):
        """Also where all rows are more than candidates are chosen from, and those used are not."""
        monkeypatch.setattr(_starts, "SAMPLE", sample)
        observed = observe(make_pool(), calibration="split")
        used = Pool([observed.pool.rows(np.flatnonzero(observed.pool.weight))])
        want, got = (_starts.dictionary(p, 20, np.random.default_rng(1)) for p in (used, observed.pool))
        assert_allclose(got, want, rtol=1e-12)

    def test_a_pair_that_gives_up_more_rows_still_learns_from_as_many(self):
        """As beside toys with varied weights, which refuse rows."""
        observed = _toys.observe(make_pool(), 50, "split", None, np.random.default_rng(0), 35)
        assert observed.pool.weight.sum() == 35
        assert observed.pool.n_drawn == observed.reference_pool().n_drawn

    @pytest.mark.parametrize("calibration", ["split", "bootstrap"])
    def test_the_reference_pool_holds_every_reference_row_and_no_other(self, calibration):
        pool = make_pool()
        reference = observe(pool, calibration=calibration).reference_pool()
        assert_array_equal(np.concatenate(reference.blocks), pool.blocks[0])
        assert_array_equal(reference.weight, 1)

    def test_split_gives_up_as_many_reference_rows_as_toys_do(self):
        weights = [observe(make_pool(), calibration="split", seed=seed).weights for seed in (0, 0, 1)]
        for w in weights:
            assert np.count_nonzero(w.reference) == 30
            assert_allclose(w.reference.sum(), 20, rtol=1e-12)
            assert_array_equal(w.data, [0] * 50 + [1] * 20)
        assert_array_equal(weights[0].reference, weights[1].reference)
        assert np.any(weights[0].reference != weights[2].reference)

    @pytest.mark.parametrize(("n_reference", "enough"), [(39, False), (40, True)])
    def test_split_needs_twice_as_many_reference_rows(self, n_reference, enough):
        pool = make_pool(n_reference)
        if enough:
            observe(pool, n_reference, "split")
        else:
            with pytest.raises(ValueError, match="twice as many reference .* found 39 and 20"):
                observe(pool, n_reference, "split")


class TestPermutationAndSplit:
    @pytest.mark.parametrize(("calibration", "n_pool"), [("permutation", 70), ("split", 50)])
    def test_every_row_is_in_exactly_one_sample(self, calibration, n_pool):
        toys = _toys.make_toys(observe(make_pool(), calibration=calibration), calibration)
        assert toys.pool.n_rows == n_pool
        for weights in draw_many(toys, 20):
            assert_apart(weights)
            assert np.sum(weights.data) == 20
            assert_array_equal(np.unique(weights.data), [0, 1])
            assert_allclose(weights.reference[weights.data == 0], 20 / (n_pool - 20), rtol=1e-12)

    def test_split_uses_the_reference_rows_alone(self):
        pool = make_pool()
        toys = _toys.make_toys(observe(pool, calibration="split"), "split")
        assert_array_equal(np.concatenate(toys.pool.blocks), pool.blocks[0])

    @pytest.mark.parametrize("calibration", ["permutation", "split"])
    def test_every_row_is_data_equally_often(self, calibration):
        toys = _toys.make_toys(observe(make_pool(), calibration=calibration), calibration)
        counts = np.sum([weights.data for weights in draw_many(toys, 500)], axis=0)
        expected = 500 * 20 / toys.pool.n_rows
        assert np.max(np.abs(counts - expected)) < 4.5 * np.sqrt(expected)

    def test_toys_are_a_function_of_the_generator_and_know_no_row_order(self, rng):
        pool = make_pool()
        X = np.concatenate(pool.blocks)
        order = rng.permutation(70)
        rows = []
        for p in (pool, pool, Pool([X[order]])):
            weights = _toys.PermutationToys(p, 20, None).draw(np.random.default_rng(5))[1]
            rows.append(sorted(p.rows(np.flatnonzero(weights.data)).tolist()))
        assert rows[0] == rows[1] == rows[2]

    @pytest.mark.parametrize("calibration", ["permutation", "split", "bootstrap"])
    @pytest.mark.filterwarnings("ignore:calibration:UserWarning")
    def test_one_seed_draws_independent_toys_from_different_samples(self, rng, calibration):
        """The mean rank of a toy's data varies over samples as it does over seeds."""

        def mean_rank(seed):
            pool = Pool([rng.normal(size=(50, 1)), rng.normal(size=(20, 1))])
            toys = _toys.make_toys(observe(pool, calibration=calibration), calibration)
            weights = toys.draw(np.random.default_rng(seed))[1]
            ranks = np.argsort(toys.pool.order)
            return np.average(ranks, weights=weights.data)

        same, others = ([mean_rank(seed) for seed in seeds] for seeds in ([5] * 300, range(300)))
        assert_allclose(np.std(same), np.std(others), rtol=0.25)

    def test_expected_count_makes_poisson_counts(self):
        toys = _toys.make_toys(observe(make_pool(), expected=30.0), "permutation")
        drawn = draw_many(toys, 1000)
        counts = np.array([weights.data.sum() for weights in drawn])
        assert_allclose(counts.mean(), 30, atol=4 * np.sqrt(30 / 1000))
        assert_allclose(counts.var(), 30, rtol=0.25)
        for weights in drawn[:20]:
            assert_apart(weights)
            assert np.count_nonzero(weights.reference) == 70 - weights.data.sum()
            assert_allclose(weights.reference.sum(), 30, rtol=1e-12)
        assert "approximate" in toys.name

    @pytest.mark.parametrize(
        ("calibration", "value", "message"),
        [
            ("permutation", 1.5, "equal weight"),
            ("split", 2.0, "event weights > 0, and found counts of rows"),
            ("split", -0.5, "event weights > 0, and found negative weights"),
        ],
    )
    def test_refuse_unequal_weights(self, calibration, value, message):
        weight = np.ones(70)
        weight[3] = value
        observed = observe(make_pool(weight=weight), calibration=calibration)
        with pytest.raises(ValueError, match=message):
            _toys.make_toys(observed, calibration)

    @pytest.mark.parametrize("expected", [None, 20.0])
    def test_split_of_weighted_rows_takes_data_by_weight_and_makes_up_for_them(self, expected):
        rng = np.random.default_rng(0)
        x, weight = rng.random((400, 1)), rng.uniform(0.2, 1, 400)
        pool = Pool([x, rng.random((20, 1))], np.append(weight, np.ones(20)))
        total = weight.sum()
        observed = _toys.observe(pool, 400, "split", expected, rng)
        for weights in (observed.weights, *draw_many(_toys.make_toys(observed, "split"), 20)):
            of_reference, given_up = weights.reference[:400], weights.reference[:400] == 0
            count = given_up.sum()
            assert count == (20 if expected is None or weights is observed.weights else weights.data.sum())
            want = np.where(given_up, 0, weight / (1 - count * weight / total))
            assert_allclose(of_reference / of_reference.sum(), want / want.sum())
            if weights is not observed.weights:
                assert_array_equal(weights.data > 0, given_up)
        drawn = draw_many(_toys.make_toys(observed, "split"), 2000)
        mean = np.mean([[weights.data, weights.reference] for weights in drawn], axis=0)
        scale = 20 / total  # 4.5 deviations of Poisson numbers of draws, and what is left is unbiased
        assert np.all(np.abs(mean[0] - scale * weight) < 4.5 * np.sqrt(scale * weight / 2000))
        assert_allclose(mean[1].reshape(8, 50).sum(axis=1), scale * weight.reshape(8, 50).sum(axis=1), rtol=0.01)

    def test_split_refuses_weights_without_a_bound_where_their_rows_may_be_data(self):
        x = np.random.default_rng(0).exponential(size=(600, 1))
        for weight, n_data, refused in (
            (np.exp(0.3 * x), 5, True),
            (np.exp(0.3 * x), 1, False),
            (np.exp(-x), 20, False),
        ):
            pool = Pool([x, x[:n_data]], np.append(weight, np.ones(n_data)))
            with pytest.raises(ValueError, match="up to 0.02 .* no upper bound") if refused else nullcontext():
                _toys.observe(pool, 600, "split", None, np.random.default_rng(0))

    def test_split_takes_half_of_the_largest_weight_where_there_is_a_bound(self):
        weight = np.append(np.repeat([1.0, 9.0], [390, 10]), np.ones(20))
        for value, message in ((9.0, None), (15.0, "expected 0.569 times .* takes up to 0.5. Pass")):
            weight[390:400] = value + 0.5
            pool = Pool([np.arange(400.0)[:, None], np.ones((20, 1))], weight)
            with pytest.raises(ValueError, match=message) if message else nullcontext():
                _toys.observe(pool, 400, "split", None, np.random.default_rng(0))

    def test_split_thins_the_reference_by_the_data_that_are_there_if_they_are_more_than_expected(self):
        weight = np.append(np.random.default_rng(0).uniform(0.3, 1, 400), np.ones(90))
        weight[3] = 4.0
        pool = Pool([np.arange(400.0)[:, None], np.ones((90, 1))], weight)
        with pytest.raises(ValueError, match="largest weight is expected .* takes up to"):
            _toys.observe(pool, 400, "split", 10.0, np.random.default_rng(0))

    def test_split_learns_as_much_from_the_observed_pair_as_from_toys(self):
        """Weights must not tell reference rows from data where directions are learned: the spread has one law."""
        entries = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            samples, weight = (rng.normal(size=(300, 30)), rng.normal(size=(75, 30))), rng.uniform(0.2, 1, 300)
            test = SparKerTest(1, n_widths=1, n_candidates=10, n_toys=9, calibration="split", random_state=seed)
            test.fit(*samples, sample_weight=weight)
            entries.append([test.statistics_[-1], test.calibrate().values[:, -1].mean()])
        observed, toys = np.mean(entries, axis=0)
        assert observed < 3 * toys  # one-sided squares of a normal number, 20 of them: mean 0.5, deviation 0.25

    def test_split_refuses_a_weight_that_would_always_be_drawn(self):
        weight = np.append(10.0, np.full(419, 0.5))
        pool = Pool([np.arange(400.0)[:, None], np.ones((20, 1))], weight)
        with pytest.raises(
            ValueError, match="largest weight is expected 0.955 times.*takes up to 0.02 of weights that seem"
        ):
            _toys.observe(pool, 400, "split", None, np.random.default_rng(0))
        weight[:5] = [10, 0.5, 0.5, 0.5, 0.5]
        with pytest.raises(ValueError, match="A toy wants 21 data rows"):
            _toys.thin(weight[:400], 21, np.arange(400), np.random.default_rng(0))

    @pytest.mark.filterwarnings("ignore:calibration=.bootstrap")
    @pytest.mark.parametrize("calibration", ["permutation", "split", "bootstrap"])
    def test_refuse_weighted_data(self, calibration):
        weight = np.ones(70)
        weight[60] = 2
        observed = observe(make_pool(weight=weight), calibration=calibration)
        with pytest.raises(ValueError, match="data rows"):
            _toys.make_toys(observed, calibration)

    def test_take_reference_weights_that_are_equal(self):
        weight = np.concatenate([np.full(50, 0.25), np.ones(20)])
        toys = _toys.make_toys(observe(make_pool(weight=weight)), "permutation")
        weights = toys.draw(np.random.default_rng(0))[1]
        assert_allclose(weights.reference.sum(), 20, rtol=1e-12)
        assert weights.data.sum() == 20


@pytest.mark.parametrize("shape", [-1.0, -0.3, 0.3, 0.6])
def test_the_shape_of_the_tail_of_weights_is_that_of_their_law(shape):
    weight = 1 + stats.genpareto.rvs(shape, size=100_000, random_state=0)
    assert_allclose(_toys.tail_shape(weight), shape, atol=0.05)


@pytest.mark.filterwarnings("error")
def test_weights_have_a_bound_that_rows_share_or_too_few_rows_to_tell():
    for weight in (np.ones(100), np.repeat([1.0, 5.0], [95, 5]), np.arange(1.0, 21)):
        assert _toys.tail_shape(weight) == -np.inf


class TestBootstrap:
    def make(self, weight=None, expected=None):
        observed = observe(make_pool(weight=weight), calibration="bootstrap", expected=expected)
        with pytest.warns(UserWarning, match="bootstrap.*conservative"):
            return _toys.make_toys(observed, "bootstrap")

    def test_redraws_the_data_and_leaves_the_other_rows(self):
        toys = self.make()
        assert_array_equal(np.concatenate(toys.pool.blocks), make_pool().blocks[0])
        most = []
        for weights in draw_many(toys, 20):
            assert weights.data.sum() == 20
            left = weights.data == 0
            assert_allclose(weights.reference, np.where(left, 20 / left.sum(), 0), rtol=1e-12)
            most.append(weights.data.max())
        assert max(most) >= 2, "with replacement"

    def test_draws_data_in_proportion_to_weight_and_keeps_the_weight_of_other_rows(self):
        weight = np.concatenate([np.full(25, 0.5), np.full(25, 1.5), np.ones(20)])
        drawn = draw_many(self.make(weight), 400)
        heavy = np.sum([weights.data[25:] for weights in drawn]) / (400 * 20)
        assert_allclose(heavy, 0.75, atol=0.02)
        for weights in drawn:
            raw = weights.reference / weights.reference.max() * 1.5
            assert_allclose(raw, np.where(weights.data > 0, 0, weight[:50]), rtol=1e-6)

    def test_a_row_that_is_several_loses_those_that_were_drawn(self):
        weight = np.repeat([1.0, 3.0, 1.0], [25, 25, 20])
        for weights in draw_many(self.make(weight), 20):
            left = np.maximum(weight[:50] - weights.data, 0)
            assert_allclose(weights.reference, 20 * left / left.sum(), rtol=1e-6)

    def test_expected_count_makes_poisson_counts(self):
        counts = [weights.data.sum() for weights in draw_many(self.make(expected=30.0), 1000)]
        assert_allclose(np.mean(counts), 30, atol=4 * np.sqrt(30 / 1000))

    def test_negative_weights_take_data_away_and_keep_their_sign_in_the_reference(self):
        """Reference of density 1 on (0, 1) and of +2 - 1 on (5, 6): as many data rows on both."""
        rng = np.random.default_rng(0)
        x = np.concatenate([rng.random(100), 5 + rng.random(200), 5 + rng.random(100), [0.5]])
        weight = np.repeat([0.9, 0.9, -0.9, 1.0], [100, 200, 100, 1])
        pool = Pool([x[:-1, None], x[-1:, None]], weight)
        observed = _toys.observe(pool, 400, "bootstrap", 60.0, rng)
        with pytest.warns(UserWarning, match="bootstrap.*conservative"):
            toys = _toys.make_toys(observed, "bootstrap")
        upper = x[:-1] > 4
        shares, counts, balance, used_negatives = [], [], [], 0
        for weights in draw_many(toys, 400):
            assert weights.data.min() >= 0
            assert_allclose(weights.data, np.round(weights.data), atol=0)
            counts.append(weights.data.sum())
            shares.append(weights.data[upper].sum() / counts[-1])
            used_negatives += np.count_nonzero(weights.reference[-100:] == 0)
            balance.append(weights.reference[upper].sum() / weights.reference.sum())
            assert np.all((weights.reference[:300] >= 0) & (weights.reference[-100:].max() <= 0))
        assert_allclose(np.mean(shares), 0.5, atol=4 * np.std(shares) / 20)
        assert_allclose(np.mean(counts), 60, atol=4 * np.sqrt(60 / 400))
        assert_allclose(np.mean(balance), 0.5, atol=0.02)
        assert used_negatives > 0, "negative rows that took data away are no reference either"

    def test_each_negative_draw_takes_its_nearest_positive_draw(self):
        pool = Pool([np.array([[0.0], [1.0], [2.0], [10.0], [1.1], [9.0]])])
        kept = _toys._without_nearest(pool, np.array([0, 1, 1, 2, 3]), np.array([4, 5, 4]))
        assert kept.tolist() == [True, False, False, True, False]

    def test_warn_where_a_row_would_be_drawn_more_than_once(self):
        weight = np.ones(70)
        weight[7] = 60.5
        observed = observe(make_pool(weight=weight), calibration="bootstrap")
        with (
            pytest.warns(UserWarning, match="bootstrap.*conservative"),
            pytest.warns(UserWarning, match=r"largest weight is expected 11.1 times"),
        ):
            _toys.make_toys(observed, "bootstrap")

    @pytest.mark.filterwarnings("ignore:calibration:UserWarning")
    def test_counts_of_rows_leave_what_as_many_rows_would(self):
        pool = Pool([np.arange(20.0)[:, None], np.ones((200, 1))], np.append(np.arange(400, 420), np.ones(200)))
        observed = _toys.observe(pool, 20, "bootstrap", None, np.random.default_rng(0))
        toys = _toys.make_toys(observed, "bootstrap")
        assert np.all(toys.draw(np.random.default_rng(0))[1].reference > 0)

    def test_refuse_a_reference_of_which_toys_may_leave_nothing(self):
        pool = Pool([np.arange(10.0)[:, None], np.ones((20, 1))])
        observed = _toys.observe(pool, 10, "bootstrap", None, np.random.default_rng(0))
        with (
            pytest.warns(UserWarning, match="conservative"),
            pytest.raises(ValueError, match="20 data rows, about 1.4 of 10: needed are 5"),
        ):
            _toys.make_toys(observed, "bootstrap")

    def test_a_reference_of_no_positive_sum_is_an_error(self):
        pool = make_pool()
        with pytest.raises(ValueError, match="add up to -50"):
            _toys.pair_weights(pool, np.repeat([-1.0, 0.0], [50, 20]), np.repeat([0.0, 1.0], [50, 20]), None)


class TestCallable:
    def make(self, function, n_reference, expected=None, dtype=np.float64):
        pool = make_pool(n_reference, dtype=dtype)
        return _toys.make_toys(observe(pool, n_reference, calibration=function, expected=expected), function)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_pair_becomes_a_pool_and_its_weights(self, dtype):
        toys = self.make(lambda rng: (rng.normal(size=(8, 2)), rng.normal(size=(20, 2))), 8, dtype=dtype)
        pool, weights = toys.draw(np.random.default_rng(0))
        again = np.random.default_rng(0)
        assert_array_equal(pool.blocks[0], again.normal(size=(8, 2)).astype(dtype))
        assert_array_equal(pool.blocks[1], again.normal(size=(20, 2)).astype(dtype))
        assert pool.dtype == weights.data.dtype == dtype
        assert_allclose(weights.reference, [20 / 8] * 8 + [0] * 20, rtol=1e-6)
        assert_array_equal(weights.data, [0] * 8 + [1] * 20)

    def test_third_item_weights_the_reference(self):
        raw = np.array([1.0, 2.0, 5.0])
        toys = self.make(lambda rng: (np.zeros((3, 2)), np.ones((4, 2)), raw), 8, expected=16.0)
        _, weights = toys.draw(np.random.default_rng(0))
        assert_allclose(weights.reference, [2, 4, 10, 0, 0, 0, 0], rtol=1e-12)

    def test_its_weights_may_be_negative(self):
        raw = np.array([1.0, -2.0, 5.0])
        toys = self.make(lambda rng: (np.zeros((3, 2)), np.ones((4, 2)), raw), 8, expected=16.0)
        assert_allclose(toys.draw(np.random.default_rng(0))[1].reference, [4, -8, 20, 0, 0, 0, 0], rtol=1e-12)

    @pytest.mark.parametrize(("raw", "n_rows"), [([0.5] * 3, 3), ([0.5, 0.0, 2.5], 2), ([2, 1, 0], 3), ([2, -1], 3)])
    def test_rows_of_weight_2_count_twice_where_weights_are_counts(self, raw, n_rows):
        raw = np.array(raw, dtype=float)
        for n_reference in (n_rows, n_rows + 1):
            toys = self.make(lambda rng: (np.zeros((len(raw), 2)), np.ones((20, 2)), raw), n_reference)
            if n_reference == n_rows:
                toys.draw(np.random.default_rng(0))
                continue
            with pytest.raises(ValueError, match=f"returned {n_rows} reference rows; needed are {n_reference},"):
                toys.draw(np.random.default_rng(0))

    @pytest.mark.parametrize(
        ("pair", "message"),
        [
            ((np.zeros((3, 1)), np.zeros((2, 2))), r"reference rows of shape \(3, 1\).*\(n, 2\)"),
            ((np.zeros((3, 2)), np.zeros((2, 3))), r"data rows of shape \(2, 3\).*\(n, 2\)"),
            ((np.zeros((3, 2)), np.zeros(2)), r"data rows of shape \(2,\).*\(n, 2\)"),
            ((np.zeros((3, 2)), np.zeros((0, 2))), r"data rows of shape \(0, 2\).*n >= 1"),
            ((np.zeros((3, 2)), np.ones((20, 2)), np.ones(4)), "weight"),
            ((np.zeros((3, 2)), np.ones((20, 2)), np.array([1.0, -2.0, 1.0])), "sum > 0"),
            ((np.zeros((3, 2)),), "calibration"),
            ((np.zeros((3, 2)), np.ones((2, 2)), np.ones(3), np.ones(2)), "calibration"),
        ],
        ids=["columns", "data columns", "flat data", "no data", "weight length", "weight sum", "1-tuple", "4-tuple"],
    )
    def test_what_does_not_fit_is_refused_by_name(self, pair, message):
        with pytest.raises(ValueError, match=message):
            self.make(lambda rng: pair, 3).draw(np.random.default_rng(0))


def test_event_weights_that_are_whole_numbers_divided_by_pi_are_none(rng):
    for values in ([1.0, 2.0], [10.0, 20.0], [1.0, 10.0, 100.0]):
        assert are_counts(rng.choice(values, 100))
        assert not are_counts(rng.choice(values, 100) / np.pi)
