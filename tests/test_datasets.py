import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad

from sparker.datasets import (
    EXPONENTIAL_SIGNALS,
    make_clump,
    make_exponential,
    make_glitches,
    make_mixture,
    make_square,
    make_uniform_anomalies,
)

SHAPES = {
    "shift": lambda **options: make_mixture("shift", **options),
    "grow": lambda **options: make_mixture("grow", **options),
    "sharpen": lambda **options: make_mixture("sharpen", **options),
    "spread": lambda **options: make_mixture("spread", **options),
    "uniform": lambda **options: make_uniform_anomalies(0.3, **options),
    "clump": lambda **options: make_clump(3, fraction=0.2, **options),
    "clump in two": lambda **options: make_clump(4, fraction=0.2, width=0.4, n_clumped=2, **options),
    "glitches": lambda **options: make_glitches(0.1, **options),
}

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


@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
def test_log_ratio_is_that_of_the_densities(make):
    """Weighted by e^f the reference is the data: the same total, the same means, the same variances."""
    pair = make(n_reference=300_000, n_data=100_000, random_state=0)
    assert (pair.reference.shape[0], pair.data.shape[0], pair.expected_count) == (300_000, 100_000, 100_000)
    weight = np.exp(pair.true_log_ratio(pair.reference))
    for power in (0, 1, 2):
        terms, rows = weight[:, None] * pair.reference**power, pair.data**power
        error = np.sqrt(terms.var(axis=0) / 300_000 + rows.var(axis=0) / 100_000)
        assert np.all(np.abs(terms.mean(axis=0) - rows.mean(axis=0)) < 4.5 * error + 1e-12)


@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
def test_log_ratio_points_at_the_signal(make):
    pair = make(n_reference=10, n_data=20_000, random_state=1)
    f = pair.true_log_ratio(pair.data)
    assert f[pair.is_signal].mean() > f[~pair.is_signal].mean()


def test_fraction_is_that_of_the_data():
    for fraction in (0.0, 0.02, 0.5):
        pair = make_clump(2, fraction=fraction, random_state=0)
        assert pair.is_signal.sum() == 1000 * fraction
    null = make_clump(2, fraction=0, random_state=0)
    assert_array_equal(null.true_log_ratio(null.data), 0)
    assert null.centers.shape == (0, 2)
    nothing = make_mixture(None, random_state=0)
    assert_array_equal(nothing.true_log_ratio(nothing.data), 0)
    assert not nothing.is_signal.any()


def test_clump_rows_are_no_outliers():
    pair = make_clump(100, fraction=0.1, n_data=5000, random_state=0)
    norms = np.linalg.norm(pair.data, axis=1)
    assert_allclose(norms[pair.is_signal].mean(), norms[~pair.is_signal].mean(), rtol=0.15)


@pytest.mark.parametrize("make", [make_exponential, make_square, make_mixture, make_clump, make_glitches])
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


def test_unknown_change_and_fraction_are_named():
    with pytest.raises(ValueError, match="change is 'move'"):
        make_mixture("move")
    with pytest.raises(ValueError, match=r"fraction is 1\.0"):
        make_clump(fraction=1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_mixture("grow", strength=10), "strength is 10: needed is 0 or more and finite, up to 4"),
        (lambda: make_mixture("sharpen", strength=-1), "strength is -1"),
        (lambda: make_exponential(expected_count=0), "expected_count is 0: needed is > 0"),
        (lambda: make_square(counts=(1, 2)), "counts is"),
        (lambda: make_square(counts=40), "counts is 40: needed is a tuple of three finite numbers"),
        (lambda: make_mixture("shift", strength=np.inf), "strength is inf"),
        (lambda: make_exponential(n_reference=1e4), "n_reference is 10000.0: needed is a whole number"),
        (lambda: make_glitches(n_data=0), "n_data is 0: needed is a whole number >= 1"),
        (lambda: make_uniform_anomalies(n_reference=0), "n_reference is 0"),
        (lambda: make_clump(2, n_clumped=99), "n_clumped is 99: needed is from 1 to 2"),
        (lambda: make_clump(0), "n_features is 0"),
    ],
)
def test_numbers_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
