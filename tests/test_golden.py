"""The method is what the documents say and the benchmarks measured: the numbers of a small problem.

Whoever changes the method on purpose writes the new numbers here, and measures anew.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sparker import SparKerTest
from sparker._schedule import distinct_places

OBSERVED = {
    "t": [
        4.595673,
        7.168113,
        24.45141,
        36.54751,
        71.24955,
        105.782,
        103.3606,
        102.9401,
    ],
    "score": [
        5.0,
        5.0,
        5.0,
        7.855814,
        11.0469,
        22.51595,
        25.33539,
        19.73822,
    ],
    "rare": [5.0, 5.0, 5.0, 6.318749, 7.868574, 22.51595, 25.33539, 19.73822],
    "dense": [5.0, 5.0, 5.0, 5.244182, 5.0, 5.0, 5.0, 5.0],
    "joint": [0.5120115],
    "mean": [2.83787],
    "spread": [0.0],
}
THIRD_TOY = {
    "t": [3.880334, 7.011413, 10.04696, 21.3143, 30.60878, 32.9476, 55.74712, 64.73021],
    "score": [5.0, 5.0, 5.0, 5.0, 5.0, 7.33146, 9.739082, 7.460327],
    "rare": [5.0, 5.0, 5.0, 5.0, 5.0, 7.017984, 9.739082, 7.460327],
    "dense": [5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0],
    "joint": [0.3212643],
    "mean": [2.170822],
    "spread": [0.0],
}
AGGREGATE = 3.737700


@pytest.fixture(scope="module")
def fitted():
    """The defaults on 400 and 150 rows, enough for a joint score of as many kernels as it takes."""
    rng = np.random.default_rng(20261127)
    reference = rng.normal(size=(400, 2))
    data = np.concatenate([rng.normal(size=(140, 2)), rng.normal([1.5, 1], 0.1, size=(10, 2))])
    return SparKerTest(n_toys=99, random_state=0).fit(reference, data)


@pytest.mark.parametrize(("which", "want"), [("observed", OBSERVED), ("toy", THIRD_TOY)])
def test_the_entries_are_those_that_were_measured(fitted, which, want):
    found = fitted.statistics_ if which == "observed" else fitted.calibrate().values[2]
    for kind, values in want.items():
        assert_allclose(found[fitted.scales_["kind"] == kind], values, rtol=1e-5, atol=1e-6, err_msg=kind)


def test_the_aggregate_is_that_which_was_measured(fitted):
    assert_allclose(fitted.test_statistic(), AGGREGATE, rtol=1e-6)


def test_the_width_that_describes_is_that_of_the_largest_t_for_its_number_of_places(rng):
    reference, data = rng.normal(size=(300, 2)), rng.normal([0.3, 0], 1.1, size=(100, 2))
    test = SparKerTest(random_state=0).fit(reference, data)
    places = distinct_places(test._fitted.observed.pool, test.path_widths_)
    t = test.statistics_[test.scales_["kind"] == "t"]
    best = np.argmax(t - 2 * 3 * np.log(places))
    assert test.width_ == test.path_widths_[best]
    assert best != np.argmax(t)  # else the number of places is not seen
