"""p, Z and their uncertainty, and the result that carries them."""

import dataclasses
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from sparker._results import (
    TwoSampleResult,
    clopper_pearson,
    counted_p_value,
    negative_binomial_interval,
    z_score,
)


def make_result(**changes):
    fields = {
        "statistic": 2.5,
        "pvalue": 0.01,
        "zscore": 2.3263,
        "interval": (0.0, 0.0366),
        "at_resolution": True,
        "scales": {
            "kind": np.array(["t", "score"]),
            "width": np.array([0.5, 0.5]),
            "statistic": np.array([12.0, 9.5]),
            "pvalue": np.array([0.01, 0.02]),
        },
        "n_toys": 99,
        "n_failed": 0,
        "n_not_converged": 1,
        "calibration": "permutation",
        "aggregation": "min-mean",
        "n_reference": 1000,
        "n_data": 300,
        "n_features": 2,
        "n_effective_reference": 1000.0,
        "n_effective_data": 300.0,
        "expected_count": None,
        "seed": 7,
        "version": "0.1",
        "null_distribution": object(),
    }
    return TwoSampleResult(**(fields | changes))


@pytest.mark.parametrize(("n_exceed", "n_toys", "p"), [(0, 99, 0.01), (4, 99, 0.05), (19, 19, 1.0), (0, 1, 0.5)])
def test_p_value_counts_the_observed_one_and_is_never_zero(n_exceed, n_toys, p):
    assert_allclose(counted_p_value(n_exceed, n_toys), p, rtol=1e-15)


def test_z_score_is_one_sided_and_keeps_the_digits_of_small_p():
    assert_allclose(z_score(0.5), 0, atol=1e-15)
    assert_allclose(z_score(np.array([0.15865525393145707, 2.866515718791933e-07])), [1, 5], rtol=1e-12)
    assert_allclose(z_score(1e-30), 11.464024688444773, rtol=1e-10)


@pytest.mark.parametrize(("n_exceed", "n_toys"), [(0, 99), (3, 99), (50, 99), (99, 99)])
def test_interval_is_that_of_clopper_and_pearson(n_exceed, n_toys):
    low = stats.beta.ppf(0.025, n_exceed, n_toys - n_exceed + 1) if n_exceed else 0.0
    high = stats.beta.ppf(0.975, n_exceed + 1, n_toys - n_exceed) if n_exceed < n_toys else 1.0
    assert_allclose(clopper_pearson(n_exceed, n_toys), (low, high), rtol=1e-10)


@pytest.mark.parametrize(
    ("n_exceed", "n_toys", "stopping", "p"),
    [(3, 60, 3, 0.05), (4, 60, 3, 0.05), (3, 3, 3, 1.0), (2, 99, 3, 0.03), (0, 99, 3, 0.01), (5, 99, None, 0.06)],
)
def test_p_value_of_toys_that_stop(n_exceed, n_toys, stopping, p):
    assert_allclose(counted_p_value(n_exceed, n_toys, stopping), p, rtol=1e-15)


@pytest.mark.parametrize(("stopping", "n_toys"), [(1, 1), (1, 40), (5, 5), (5, 6), (10, 200)])
def test_negative_binomial_interval_ends_where_the_tails_do(stopping, n_toys):
    low, high = negative_binomial_interval(stopping, n_toys)
    # stopping by toy n: at least so many among n; not before it: fewer among n - 1
    assert_allclose(stats.binom.sf(stopping - 1, n_toys, low), 0.025, rtol=1e-9)
    if n_toys == stopping:
        assert high == 1
    else:
        assert_allclose(stats.binom.cdf(stopping - 1, n_toys - 1, high), 0.025, rtol=1e-9)
    assert low < stopping / n_toys <= high


@pytest.mark.parametrize("p", [0.02, 0.1, 0.4])
def test_interval_of_toys_that_stop_covers_exactly_computed(p):
    h, n_max = 4, 200
    stopped = np.arange(h, n_max + 1)
    probability = stats.nbinom.pmf(stopped - h, h, p)
    covered = [low <= p <= high for low, high in (negative_binomial_interval(h, n) for n in stopped)]
    left = [low <= p <= high for low, high in (clopper_pearson(k, n_max) for k in range(h))]
    share = probability @ covered + stats.binom.pmf(np.arange(h), n_max, p) @ left
    assert_allclose(probability.sum() + stats.binom.cdf(h - 1, n_max, p), 1, rtol=1e-9)
    assert 0.95 <= share < 0.99


def test_text_says_what_the_tail_says():
    fields = {"tail_model": "gamma", "tail_pvalue": 3e-5, "tail_zscore": 4.01, "tail_interval": (3.7, 4.4)}
    text = str(make_result(**fields, tail_goodness=0.3))
    assert "tail (gamma): p = 3e-05, Z = 4.01 (95 % band 3.70 to 4.40), goodness of fit p = 0.3" in text
    assert "Z > 2.33" in text
    text = str(make_result(tail_model="chi2", tail_note="goodness of fit p = 0.005 < 0.01"))
    assert "tail (chi2) refused: goodness of fit p = 0.005 < 0.01; Z by counting stands" in text
    assert "tail" not in str(make_result())


def test_text_says_that_toys_stopped():
    assert "99 toys, permutation; 0 failed; seed 7; stopped at 5 that reach" in str(
        make_result(stopping=5, stopped=True)
    )
    assert "stopped" not in str(make_result(stopping=5))


def test_to_dict_has_no_nan_of_a_refused_tail():
    scales = make_result().scales | {"tail_pvalue": np.array([np.nan, 1e-5]), "tail_zscore": np.array([np.nan, 4.2])}
    content = json.loads(json.dumps(make_result(scales=scales).to_dict(), allow_nan=False))
    assert content["scales"]["tail_pvalue"] == [None, 1e-5]
    assert content["scales"]["tail_zscore"] == [None, 4.2]


def test_to_dict_is_ready_for_json():
    result = make_result()
    content = json.loads(json.dumps(result.to_dict()))
    assert set(content) == {field.name for field in dataclasses.fields(result)} - {"null_distribution"}
    assert content["pvalue"] == 0.01
    assert content["interval"] == [0.0, 0.0366]
    assert content["scales"]["kind"] == ["t", "score"]
    assert content["scales"]["statistic"] == [12.0, 9.5]


def test_text_says_greater_at_the_resolution_limit_only():
    assert "Z > 2.33" in str(make_result())
    text = str(make_result(at_resolution=False))
    assert "Z = 2.33" in text
    assert ">" not in text


def test_text_has_a_table_of_p_values_by_width():
    columns = {"kind": ["t", "t", "score", "score", "mean"], "width": [2.0, 0.5, 2.0, 0.5, np.inf]}
    scales = {name: np.array(column) for name, column in columns.items()}
    scales |= {
        "statistic": np.zeros(5),
        "pvalue": np.array([1, 0.5, 0.25, 0.125, 0.75]),
    }
    lines = [line.split() for line in str(make_result(scales=scales)).splitlines()[-4:]]
    assert lines == [
        ["width", "t", "score"],
        ["2", "1.0000", "0.2500"],
        ["0.5", "0.5000", "0.1250"],
        ["mean", "0.7500"],
    ]


def test_text_names_the_mode():
    assert "shape only" in str(make_result())
    assert "expected count 250" in str(make_result(expected_count=250.0))


def test_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_result().pvalue = 0.5


def test_text_names_effective_sizes_only_where_they_differ():
    assert "effective" not in str(make_result())
    assert "effective" not in str(make_result(n_effective_reference=1000.0, n_effective_data=300.0))
    assert "effective sizes: 200 reference" in str(make_result(n_effective_reference=200.0, n_effective_data=300.0))
    assert "effective" not in str(make_result(n_effective_reference=700.0, n_effective_data=300.0, calibration="split"))
    split = make_result(n_effective_reference=650.0, n_effective_data=300.0, calibration="split")
    assert "effective sizes: 650 reference and 300 data rows" in str(split)
