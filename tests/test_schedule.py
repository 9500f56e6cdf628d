"""Widths: the range from the pool and the path through it."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sparker._pool import Pool
from sparker._schedule import distinct_places, schedule, width_range


def find_range(X, seed, first=None, last=None):
    return width_range(Pool([X]), np.random.default_rng(seed), first, last)


@pytest.mark.parametrize(("annealing", "space"), [("geometric", np.geomspace), ("linear", np.linspace)])
def test_steps_go_evenly_from_first_to_last(annealing, space):
    widths = schedule(8.0, 0.5, 3, 4, annealing)
    assert widths.shape == (3, 4)
    assert_allclose(widths.ravel(), space(8.0, 0.5, 12), rtol=1e-12)
    assert np.all(np.diff(widths.ravel()) < 0)


def test_without_annealing_every_recorded_width_is_held():
    assert_allclose(schedule(8.0, 0.5, 5, 3, "none"), np.repeat([[8.0], [4.0], [2.0], [1.0], [0.5]], 3, axis=1))


def test_logarithmic_steps_fall_fast_first():
    widths = schedule(8.0, 0.5, 4, 3, "logarithmic").ravel()
    rate = np.diff(1 / widths) / np.diff(np.log(np.arange(1, 13)))
    assert_allclose(widths[[0, -1]], [8.0, 0.5], rtol=1e-12)
    assert_allclose(rate, rate[0], rtol=1e-9)


@pytest.mark.parametrize("annealing", ["geometric", "linear", "logarithmic", "none"])
def test_one_width_is_the_narrowest(annealing):
    assert_allclose(schedule(8.0, 0.5, 1, 2, annealing)[0, -1], 0.5, rtol=1e-12)


def test_range_of_one_feature_follows_the_percentiles(rng):
    X = rng.normal(size=(2000, 1))
    widest, narrowest = find_range(X, 0)
    distances = np.abs(X - X.T)[np.triu_indices(2000, 1)]
    assert_allclose(widest, np.quantile(distances, 0.99), rtol=0.06)
    assert_allclose(narrowest, 0.5 * np.quantile(distances, 0.01), rtol=0.3)


def test_range_follows_the_concentration_of_distances(rng):
    widest, narrowest = find_range(rng.normal(size=(500, 400)), 0)
    typical = np.sqrt(2 * 400)
    assert_allclose(narrowest, typical / 4, rtol=0.02)
    assert typical < widest < 2 * typical


def test_range_scales_with_the_features_and_knows_no_row_order(rng):
    X = rng.normal(size=(300, 2))
    want = np.array(find_range(X, 1))
    assert_allclose(find_range(8 * X, 1), 8 * want, rtol=1e-12)
    assert_allclose(find_range(rng.permutation(X), 1), want, rtol=1e-12)


def test_pairs_at_distance_zero_do_not_count(rng):
    X = np.concatenate([np.zeros((900, 2)), rng.normal(size=(100, 2))])
    _, narrowest = find_range(X, 0)
    assert 1e-3 < narrowest < 1


def test_all_rows_equal_have_a_range():
    assert find_range(np.ones((20, 2)), 0) == (1, 0.25)


def test_given_widths_are_taken(rng):
    X = rng.normal(size=(200, 2))
    widest, narrowest = find_range(X, 0)
    assert find_range(X, 0, first=50.0) == (50.0, narrowest)
    assert find_range(X, 0, last=0.01) == (widest, 0.01)
    assert find_range(X, 0, first=1.5, last=0.25) == (1.5, 0.25)


def test_number_of_places_goes_from_one_to_the_number_of_rows(rng):
    X = np.repeat(100.0 * np.arange(8), 25)[:, None]
    places = distinct_places(Pool([X]), np.array([1e5, 30.0, 1.0]))
    assert_allclose(places[[0, 2]], [1, 8], rtol=1e-3)
    assert 1 < places[1] < 8


@pytest.mark.parametrize("d", [1, 2, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
class TestRangeOfNumbers:
    def test_squares_that_overflow_are_an_error(self, rng, d, dtype):
        scale = np.sqrt(float(np.finfo(dtype).max))
        for n_rows in (50, 1):  # one row is enough
            X = rng.normal(size=(50, d))
            X[:n_rows] *= scale
            with pytest.raises(ValueError, match=f"too large for {np.dtype(dtype)}.*Rescale the features"):
                find_range(X.astype(dtype), 0)

    def test_squares_that_underflow_are_an_error(self, rng, d, dtype):
        X = rng.normal(size=(50, d))
        scale = np.sqrt(float(np.finfo(dtype).tiny)) / 1e10
        with pytest.raises(ValueError, match=f"too near to each other for squared distances in {np.dtype(dtype)}"):
            find_range((X * scale).astype(dtype), 0)

    def test_widths_that_overflow_are_an_error(self, rng, d, dtype):
        X = rng.normal(size=(50, d)).astype(dtype)
        for first, last in ((1.0, 1e-80), (1e80, 1.0)):
            with pytest.raises(ValueError, match="leave the range of"):
                width_range(Pool([X]), np.random.default_rng(0), first, last)

    def test_what_passes_gives_the_same_in_other_units(self, rng, d, dtype):
        X = rng.normal(size=(50, d)).astype(dtype)
        for power in (-40, 40):
            want = np.ldexp(find_range(X, 0), power)
            assert_array_equal(find_range(np.ldexp(X, power), 0), want)
