"""Draws from a pool respect weights and know no row order."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from sparker._pool import Pool, Weights, effective_size
from sparker._toys import pair_weights

ONE = np.nextafter(1, 0)


@pytest.fixture
def X(rng):
    return rng.integers(0, 4, size=(30, 3)).astype(float)  # many ties in every column


def test_rows_are_found_across_blocks(X):
    pool = Pool([X[:7], X[:0], X[7:8], X[8:]])
    indices = np.array([29, 7, 0, 6, 8, 8])
    assert_array_equal(pool.rows(indices), X[indices])
    assert_array_equal(np.concatenate([block for block, _ in pool.parts()]), X)
    assert [part for _, part in pool.parts()] == [slice(0, 7), slice(7, 8), slice(8, 30)]


@pytest.mark.parametrize("distinct", [True, False])
def test_order_is_lexicographic(rng, X, distinct):
    X = rng.normal(size=(30, 3)) if distinct else X
    pool = Pool([X[:11], X[11:]])
    assert pool.rows(pool.order).tolist() == sorted(X.tolist())


def test_draws_do_not_know_row_order(rng, X):
    weight, uniform = rng.uniform(0, 2, 30), rng.random(200)
    shuffled = rng.permutation(30)
    pools = Pool([X], weight), Pool([X[shuffled][:13], X[shuffled][13:]], weight[shuffled])
    assert_array_equal(*(pool.rows(pool.draw(uniform)) for pool in pools))


def test_weights_draw_like_repeated_rows(rng, X):
    copies, uniform = rng.integers(0, 4, 30), rng.random(200)
    weighted, repeated = Pool([X], copies), Pool([np.repeat(X, copies, axis=0)])
    assert_array_equal(*(pool.rows(pool.draw(uniform)) for pool in (weighted, repeated)))
    assert_array_equal(weighted.draw(uniform), Pool([X]).draw(uniform, weight=copies))


def test_draws_follow_the_cumulative_weight():
    pool = Pool([np.array([[2.0], [0.0], [1.0]])], np.array([1.0, 2.0, 1.0]))
    assert_array_equal(pool.draw(np.array([0, 0.499, 0.5, 0.749, 0.75, ONE])), [1, 1, 2, 2, 0, 0])


def test_rows_of_weight_zero_are_never_drawn(rng):
    weight = rng.uniform(size=1000)
    weight[rng.permutation(1000)[:500]] = 0
    weight[-3:] = 0
    drawn = Pool([np.arange(1000.0)[:, None]], weight).draw(np.array([0, ONE, *rng.random(2000)]))
    assert np.all(weight[drawn] > 0)


def test_origin_is_the_median_and_does_not_depend_on_row_order(rng):
    X = rng.exponential(size=(501, 2)) + 1e3
    pool = Pool([X[:100], X[100:]])
    assert_allclose(pool.origin, np.median(X, axis=0), rtol=1e-12)
    assert_array_equal(Pool([X[::-1].copy()]).origin, pool.origin)


def test_scrambled_order_follows_the_values_and_hides_them(rng, X):
    pool, again = Pool([X]), Pool([rng.permutation(X)])
    assert_array_equal(pool.rows(pool.scrambled), again.rows(again.scrambled))
    many = Pool([rng.normal(size=(5000, 1))])
    places = np.arange(5000)
    assert abs(stats.spearmanr(places, many.rows(many.scrambled)[:, 0]).statistic) < 4 / np.sqrt(5000)
    # neighbours in value are no neighbours in place
    ranked = np.argsort(many.scrambled)[many.order]
    assert abs(stats.spearmanr(ranked[1:], ranked[:-1]).statistic) < 4 / np.sqrt(5000)
    zeros = Pool([np.array([[0.0, 1.0], [-0.0, 2.0]])]), Pool([np.array([[-0.0, 1.0], [0.0, 2.0]])])
    assert_array_equal(*(p.scrambled for p in zeros))


class TestSpread:
    """The variance of a weighted difference of data and reference."""

    def test_of_whole_numbers_is_that_of_repeated_rows(self, rng):
        w, c = 0.3 * rng.integers(0, 4, 50), rng.integers(0, 3, 50).astype(float)
        assert_allclose(Weights(w, c, 0.3).spread(), w + 0.3 * c, rtol=1e-12)

    @pytest.mark.parametrize("raw", [1.0, 0.37])
    def test_of_equal_weights_does_not_know_labels(self, X, raw):
        is_data = np.arange(30) < 8
        weights = pair_weights(Pool([X], np.where(is_data, 1, raw)), np.where(is_data, 0, raw), is_data * 1.0, None)
        assert_allclose(weights.spread(), 8 / 22, rtol=1e-12)

    @pytest.mark.parametrize("kind", ["equal", "event", "signed"])
    def test_is_the_variance_of_a_score_over_samples(self, rng, kind):
        """Reference draws of density g with weights that make it 1 + x on (0, 1), the density of the data."""
        scores, variances = [], []
        for _ in range(2000):
            n_reference, n_data = rng.poisson(90), rng.poisson(60)
            x, d = rng.random(n_reference), np.sqrt(rng.random(n_data)) if kind != "equal" else rng.random(n_data)
            sign = rng.choice([-1, 1.5], n_reference, p=[0.2, 0.8])
            w = {"equal": np.ones(n_reference), "event": 2 * x, "signed": 2 * x * sign}[kind]
            raw = w * (60 / 90)  # sums to 60 on average, not in every sample: counts are part of this score
            pool = Pool([x[:, None], d[:, None]], np.append(raw if kind != "equal" else w, np.ones(n_data)))
            of_data = np.arange(n_reference + n_data) >= n_reference
            expected = raw.sum()
            weights = pair_weights(pool, np.where(of_data, 0, pool.signed_weight), of_data * 1.0, expected)
            kernel = np.exp(-((np.append(x, d) - 0.6) ** 2) / (2 * 0.2**2))
            scores.append(kernel @ (weights.data - weights.reference))
            variances.append(kernel**2 @ weights.spread())
        ratio = np.mean(variances) / np.var(scores)
        assert abs(np.mean(scores)) < 4 * np.std(scores) / np.sqrt(2000)
        # negative weights are given up in the density of the reference alone: more variance, never less
        assert 0.9 < ratio < (1.1 if kind != "signed" else 1.8)

    def test_is_never_negative(self, rng):
        w = rng.normal(0.4, 1, 200)
        spread = Weights(w * 50 / w.sum(), np.repeat([0.0, 1.0], [150, 50]), 50 / w.sum(), (w * 50 / w.sum()) ** 2)
        assert spread.spread().min() >= 0


def test_negative_weights_draw_by_their_size(X, rng):
    weight = rng.normal(0.5, 1, 30)
    uniform = rng.random(100)
    signed, sizes = Pool([X], weight), Pool([X], np.abs(weight))
    assert_array_equal(signed.draw(uniform), sizes.draw(uniform))
    assert_array_equal(signed.signed_weight, weight)


class TestOrder:
    @pytest.mark.parametrize("decimals", [0, 1, 8])
    @pytest.mark.parametrize("d", [1, 3])
    def test_is_lexicographic_whatever_ties(self, rng, decimals, d):
        rows = np.round(rng.normal(size=(200, d)), decimals)
        order = Pool([rows[:80], rows[80:]]).order
        assert_array_equal(order, np.lexsort(rows.T[::-1]))

    @pytest.mark.parametrize("changed", [1, 2, 5, 69, 149])
    def test_of_copies_that_differ_in_late_columns(self, rng, changed):
        rows = np.repeat(rng.integers(0, 2, size=(20, 150)).astype(float), 10, axis=0)[rng.permutation(200)]
        rows[::3, changed] += rng.normal(size=67)
        assert_array_equal(Pool([rows[:90], rows[90:]]).order, np.lexsort(rows.T[::-1]))


class TestOrigin:
    def test_is_the_median_of_rows_far_from_0(self, rng):
        rows = rng.normal(size=(101, 3)) + 50
        assert_array_equal(Pool([rows]).origin, np.median(rows, axis=0))

    def test_is_0_where_rows_lie_about_0(self, rng):
        assert_array_equal(Pool([rng.normal(size=(101, 3)) + 0.5]).origin, np.zeros(3))


class TestPacked:
    @pytest.mark.parametrize("d", [1, 2, 3, 5])
    def test_is_the_same_rows_in_one_block(self, rng, d):
        pool = Pool([rng.normal(size=(300, d)), rng.normal(size=(100, d))], rng.normal(size=400))
        packed, order = pool.packed
        assert len(packed.blocks) == 1
        assert_array_equal(packed.blocks[0], pool.rows(order))
        assert_array_equal(packed.signed_weight, pool.signed_weight[order])
        assert_array_equal(np.sort(order), np.arange(400))
        assert_array_equal(packed.origin, pool.origin)

    @pytest.mark.parametrize(("d", "share"), [(1, 0.2), (2, 0.4), (3, 0.6)])
    def test_rows_of_a_part_are_close_to_each_other(self, rng, d, share):
        packed, _ = Pool([rng.normal(size=(10_000, d))]).packed
        parts = packed.blocks[0].reshape(100, 100, d)
        assert np.median(parts.std(axis=1)) < share

    def test_many_rows_of_many_features_are_not_copied(self, rng):
        pool = Pool([rng.normal(size=(70_000, 4))])
        packed, order = pool.packed
        assert packed is pool
        assert_array_equal(order, np.arange(70_000))


def test_effective_size_is_that_of_kish():
    assert_allclose(effective_size(np.full(7, 0.3)), 7, rtol=1e-12)
    assert_allclose(effective_size(np.array([2.0, 1.0, -1.0, 0.0])), 4 / 6, rtol=1e-12)


def test_arrays_that_come_unaligned_are_aligned(rng):
    pool = Pool([rng.normal(size=(300, 2)), rng.normal(size=(50, 2))])
    pool.prepare()
    state = dict(vars(pool))

    def shift(array):
        room = np.empty(array.nbytes + 1, np.uint8)[1:]
        moved = room[: array.nbytes].view(array.dtype).reshape(array.shape)
        moved[...] = array
        assert not moved.flags.aligned
        return moved

    state["blocks"] = tuple(map(shift, pool.blocks))
    state["weight"] = shift(pool.weight)
    got = Pool.__new__(Pool)
    got.__setstate__(state)
    assert all(array.flags.aligned for array in (*got.blocks, got.weight))
    for one, other in zip(got.blocks, pool.blocks, strict=True):
        assert_array_equal(one, other)
    assert got.packed[0] is pool.packed[0]


class TestFingerprint:
    def test_knows_neither_the_order_of_rows_nor_blocks(self, rng):
        rows, weight = rng.normal(size=(50, 3)), rng.uniform(1, 2, 50)
        order = rng.permutation(50)
        want = Pool([rows[:20], rows[20:]], weight).fingerprint()
        assert Pool([rows[order]], weight[order]).fingerprint() == want

    def test_knows_rows_weights_and_dtype(self, rng):
        rows, weight = np.round(rng.normal(size=(50, 3)), 2), np.ones(50)
        moved, heavier, swapped = rows.copy(), weight.copy(), rows[:, [1, 0, 2]]
        moved[7, 1] += 1e-9
        heavier[7] = -1
        pools = [Pool([rows], weight), Pool([moved], weight), Pool([rows], heavier), Pool([swapped], weight)]
        pools += [Pool([rows[:49]], weight[:49]), Pool([np.zeros((50, 3), np.float32)]), Pool([np.zeros((50, 3))])]
        assert len({pool.fingerprint() for pool in pools}) == len(pools)
