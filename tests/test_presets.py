"""The papers' settings run, and are what they say."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.distance import pdist

from sparker import SparKerTest, presets


def test_sparker_anneals_linearly_over_the_range_of_the_paper(samples):
    test = SparKerTest(**{**presets.SPARKER, "max_iter": 3}, n_toys=9, random_state=0).fit(*samples)
    distances = pdist(np.concatenate(samples))
    schedule = test._fitted.plan.schedule
    assert_allclose(schedule[0, 0], 2 * np.quantile(distances, 0.99), rtol=0.05)
    assert_allclose(schedule[-1, -1], 0.5 * np.quantile(distances, 0.01), rtol=0.3)
    assert_allclose(np.diff(schedule.ravel()), np.diff(schedule.ravel())[0], rtol=1e-6)
    assert test.centers_.shape == (5, 2)
    assert test.statistics_.shape == (5,)
    assert 0.1 <= test.p_value() <= 1


def test_sparker_nplm_takes_a_step_at_least():
    with pytest.raises(ValueError, match="n_passes is 1: needed are at least 2"):
        presets.sparker_nplm(n_passes=1)


def test_sparker_nplm_stays_at_the_90_percent_quantile(samples):
    params = presets.sparker_nplm(4, n_passes=60)
    test = SparKerTest(**params, n_toys=9, random_state=0).fit(*samples)
    assert_allclose(test.width_, np.quantile(pdist(np.concatenate(samples)), 0.9), rtol=0.03)
    assert test.n_iter_ == 30
    assert test.statistics_.shape == (1,)
    assert 0.1 <= test.p_value() <= 1


def test_penalty_on_the_mean_square_of_the_amplitudes():
    params = presets.sparker_nplm(20, lambda_a=0.5, lambda_h=0.25)
    assert (params["alpha"], params["entropy"]) == (0.5 / 20, 0.25)


@pytest.mark.parametrize("params", [presets.SPARKER, presets.SPARKER_NPLM])
def test_hold_parameters_of_the_estimator(params):
    SparKerTest(**params)._validate_params()


@pytest.mark.parametrize("width", [(1.0,), (0.0, 50), (np.inf, 50), (1.0, 101), ("a", 5)])
def test_a_width_that_is_no_percentile_is_named(samples, width):
    with pytest.raises(ValueError, match="width_init is .*: a tuple must be a finite factor > 0 and a percentile"):
        SparKerTest(width_init=width).fit(*samples)


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_other_losses_give_a_statistic_below_that_of_the_neyman_pearson_loss(samples, quick, loss):
    """At one width, without a penalty, t of the loss that t is made of is the largest, up to where centres end."""
    params = quick | {"n_widths": 1, "width_final": 1.0, "alpha": 0.0, "n_kernels": 1, "max_iter": 40}
    best, other = (SparKerTest(**params, loss=name).fit(*samples) for name in ("np", loss))
    assert 0.5 * best.statistics_[0] < other.statistics_[0] <= best.statistics_[0] * 1.01
    assert SparKerTest(**quick, loss=loss).fit(*samples).p_value() <= 0.1
