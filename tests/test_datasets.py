import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad

from sparker.datasets import EXPONENTIAL_SIGNALS, make_exponential, make_square

COUNTS = {"bulk": 90, "tail": 10, "extreme": 5, "broad": 90}


@pytest.mark.parametrize("signal", sorted(EXPONENTIAL_SIGNALS))
def test_exponential_log_ratio_integrates_to_the_signal_count(signal):
    pair = make_exponential(signal, n_reference=10, random_state=0)
    excess = quad(
        lambda x: np.exp(-x) * np.expm1(pair.true_log_ratio([[x]])[0]), 0, 40, points=[1.6, 6.4, 9], limit=200
    )
    assert_allclose(2000 * excess[0], COUNTS[signal], rtol=1e-5)


def test_square_log_ratio_integrates_to_the_counts_of_the_clumps():
    pair = make_square(n_reference=10, random_state=0)
    grid = (np.arange(1000) + 0.5) / 1000
    X = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    assert_allclose(2000 * np.mean(np.expm1(pair.true_log_ratio(X))), 90, rtol=1e-3)


@pytest.mark.parametrize("make", [make_exponential, make_square])
def test_same_seed_same_pair(make):
    first, second, other = make(random_state=3), make(random_state=3), make(random_state=4)
    assert_array_equal(first.data, second.data)
    assert_array_equal(first.reference, second.reference)
    assert_array_equal(first.is_signal, second.is_signal)
    assert not np.array_equal(first.reference, other.reference)


def test_signal_rows_sit_where_they_should():
    pair = make_exponential("tail", random_state=0)
    assert np.all(np.abs(pair.data[pair.is_signal, 0] - 6.4) < 6 * 0.16)
    assert 0 < pair.is_signal.sum() < 30
    square = make_square(counts=(500, 0, 0), random_state=0)
    assert_allclose(square.data[square.is_signal].mean(axis=0), square.centers[0], atol=0.005)


def test_null_has_no_signal_and_a_log_ratio_of_zero():
    pair = make_exponential(None, random_state=0)
    assert not pair.is_signal.any()
    assert pair.centers.shape == (0, 1)
    assert_array_equal(pair.true_log_ratio(pair.data), 0)


def test_counts_are_poisson():
    sizes = [len(make_exponential(None, n_reference=1, random_state=seed).data) for seed in range(300)]
    assert abs(np.mean(sizes) - 2000) < 5 * np.sqrt(2000 / 300)
    assert_allclose(np.var(sizes), 2000, rtol=0.4)


def test_unknown_signal_is_named():
    with pytest.raises(ValueError, match="signal is 'peak'"):
        make_exponential("peak")
