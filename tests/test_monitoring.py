"""A stream of batches against one set of toys."""

import math

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.base import clone

from sparker import BatchMonitor, SparKerTest
from sparker.peers import LikelihoodRatioTest, MMDTest


@pytest.fixture
def reference(rng):
    return rng.normal(size=(800, 1))


@pytest.fixture
def make(quick, reference):
    def make(test=None, n_toys=99, **options):
        return BatchMonitor(test or SparKerTest(**(quick | {"n_toys": n_toys})), reference, **options)

    return make


def draw(rng, n=40, n_anomalies=0):
    return np.concatenate([rng.normal(size=(n - n_anomalies, 1)), rng.normal(3, 0.05, size=(n_anomalies, 1))])


class TestBatches:
    def test_p_is_that_of_a_split_test_of_the_batch(self, make, quick, reference, rng):
        monitor, batches = make(), [draw(rng), draw(rng), draw(rng, 40, 12)]
        found = [monitor.update(batch) for batch in batches]
        for batch, result in zip(batches, found, strict=True):
            alone = SparKerTest(**(quick | {"n_toys": 99, "calibration": "split"})).fit(reference, data=batch)
            assert result.pvalue == alone.p_value()
            assert_array_equal(monitor.null_distribution_.values, alone.calibrate().values)
        assert [result.number for result in found] == [1, 2, 3]
        assert_array_equal(monitor.test_.statistics_, alone.statistics_)

    def test_alarms_are_at_p_below_alpha_and_rates_are_in_units_of_time(self, make, rng):
        monitor = make(alpha=0.05, batches_per_time=24.0)
        last = [monitor.update(draw(rng, 40, n)) for n in (0, 15)][-1]
        assert last.alarm
        assert last.pvalue == 0.01
        assert_allclose(last.false_alarm_rate, 0.24, rtol=1e-12)
        assert_allclose(last.inverse_false_alarm_rate, 1 / 0.24, rtol=1e-12)
        total = monitor.result()
        assert_allclose(total.false_alarms_per_time, 1.2, rtol=1e-12)
        assert_allclose(total.inverse_false_alarm_rate, 1 / 1.2, rtol=1e-12)
        assert_allclose(total.expected_alarms, 0.1, rtol=1e-12)
        assert total.n_alarms == sum(batch.alarm for batch in total.batches)
        assert_allclose(total.alarm_rate, total.n_alarms / 2, rtol=1e-12)
        assert_allclose(total.toy_interval, stats.beta.interval(0.95, 5, 95), rtol=1e-9)
        assert total.ratio == 20

    def test_a_seed_that_is_not_fixed_is_drawn_once(self, make, quick, rng):
        monitor = make(SparKerTest(**(quick | {"random_state": None})), alpha=0.1)
        batch = draw(rng)
        assert monitor.update(batch).pvalue == monitor.update(batch).pvalue

    def test_poisson_counts_may_differ_and_others_may_not(self, make, quick, rng):
        monitor = make(SparKerTest(**(quick | {"expected_count": 40.0})), alpha=0.1)
        assert {monitor.update(draw(rng, n)).number for n in (40, 33)} == {1, 2}
        monitor = make()
        monitor.update(draw(rng))
        with pytest.raises(ValueError, match="batch has 33 rows, the toys of this test of shape only have 40"):
            monitor.update(draw(rng, 33))
        assert len(monitor.result().batches) == 1

    def test_the_largest_batch_counts_against_the_reference(self, make, quick, rng):
        monitor = make(SparKerTest(**(quick | {"n_toys": 19, "expected_count": 40.0})), alpha=0.1)
        monitor.update(draw(rng, 20))
        with pytest.warns(UserWarning, match="16 times the rows of a batch"):
            monitor.update(draw(rng, 50))
        assert monitor.result().ratio == 16

    def test_print_says_what_to_do_and_lists_the_alarms(self, make, quick, rng):
        monitor = make(SparKerTest(**(quick | {"n_toys": 19})), alpha=0.05)
        monitor.update(draw(rng))
        monitor.update(draw(rng) + 3)
        text = str(monitor.result()).splitlines()
        assert text[0].startswith("2 batches, alarms: ")
        assert "mean time between false alarms 20; reference rows to a data row" in text[2]
        assert text[-1] == "batch 2: p = 0.05"

    def test_no_toys_that_stop_early(self, make, quick):
        with pytest.raises(ValueError, match="stopping is 3"):
            make(SparKerTest(**quick, stopping=3))

    def test_takes_any_test(self, make, rng):
        monitor = make(MMDTest(n_toys=19, random_state=0), alpha=0.05)
        assert monitor.update(draw(rng, 40, 20)).alarm

    def test_reference_is_kept_as_it_was(self, make, quick, rng, reference):
        monitor, batch = make(), draw(rng)
        first = monitor.update(batch)
        reference += 1
        assert monitor.update(batch).pvalue == first.pvalue


class TestSpending:
    def test_fixed_gives_every_batch_alpha(self, make):
        assert [make(alpha=0.02)._alpha(k) for k in (1, 7, 1000)] == [0.02] * 3

    def test_union_without_end_adds_up_to_alpha(self, make):
        monitor = make(alpha=0.02, spending="union")
        alphas = [monitor._alpha(k) for k in range(1, 100_001)]
        assert sum(alphas) < 0.02
        assert_allclose(sum(alphas), 0.02, rtol=1e-4)

    def test_union_of_a_known_number_is_shared_equally_and_then_spent(self, make, rng):
        monitor = make(alpha=0.1, spending="union", n_batches=2)
        for _ in range(2):
            assert_allclose(monitor.update(draw(rng)).alpha, 0.05, rtol=1e-12)
        with pytest.raises(ValueError, match="alpha is spent: n_batches is 2"):
            monitor.update(draw(rng))
        assert_allclose(monitor.result().expected_alarms, 0.1, rtol=1e-12)

    def test_there_are_no_false_alarms_below_the_resolution(self, make, rng):
        monitor = make(n_toys=19, alpha=0.01)
        with pytest.warns(UserWarning, match="no p is below"):
            monitor.update(draw(rng))
        result = monitor.result()
        assert (result.false_alarms_per_time, result.inverse_false_alarm_rate) == (0, math.inf)
        monitor = make(n_toys=19, alpha=0.13, batches_per_time=10)
        monitor.update(draw(rng))
        assert_allclose(monitor.result().false_alarms_per_time, 1.0)  # p is 0.05, 0.1, 0.15 ...

    def test_warns_once_where_no_p_is_small_enough(self, make, rng, recwarn):
        monitor = make(n_toys=19, alpha=0.1, spending="union")  # 0.061, 0.015, 0.007
        monitor.update(draw(rng))
        assert not recwarn
        with pytest.warns(UserWarning, match=r"alpha is 0.0152 from batch 2 on, but no p is below 0.05"):
            monitor.update(draw(rng))
        monitor.update(draw(rng))
        assert monitor.result().toy_interval == (0.0, 0.0)

    def test_an_alpha_at_the_resolution_is_no_reason_to_warn(self, make, rng):
        make(n_toys=99, alpha=0.01).update(draw(rng))

    def test_an_alpha_at_the_resolution_can_be_reached(self, make, rng):
        monitor = make(n_toys=9, alpha=0.3, spending="union", n_batches=3)  # 0.3 / 3 is a little less than 0.1
        assert monitor.update(draw(rng, 40, 20)).alarm


def test_parameters_that_are_changed_later_change_nothing(make, quick, rng):
    test, batches = SparKerTest(**(quick | {"n_toys": 39})), [draw(rng) for _ in range(3)]
    want = [monitor.update(batch) for monitor in [make(clone(test), alpha=0.1)] for batch in batches]
    monitor = make(test, alpha=0.1)
    found = [monitor.update(batches[0])]
    test.set_params(n_kernels=7, n_widths=5, alpha=0.0)
    assert found + [monitor.update(batch) for batch in batches[1:]] == want


class TestRefusals:
    def test_warns_of_a_reference_below_twenty_times_a_batch(self, make, rng):
        with pytest.warns(UserWarning, match="reference has 19.5 times the rows of a batch: below 20"):
            make().update(draw(rng, 41))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"alpha": 0.0}, "alpha is 0"),
            ({"spending": "bonferroni"}, "spending is 'bonferroni'"),
            ({"n_batches": 3}, 'n_batches is 3: .*spending="union"'),
            ({"n_batches": 0, "spending": "union"}, "n_batches is 0"),
            ({"batches_per_time": math.inf}, "batches_per_time is inf"),
        ],
    )
    def test_names_what_cannot_be(self, make, options, message):
        with pytest.raises(ValueError, match=message):
            make(**options)

    def test_no_batch_no_result(self, make):
        with pytest.raises(ValueError, match=r"call update\(batch\) first"):
            make().result()


@pytest.mark.slow
def test_rate_of_false_alarms_over_references_is_at_most_alpha(quick):
    alarms, n_batches = [], 10
    for seed in range(40):
        rng = np.random.default_rng([seed, 4])
        monitor = BatchMonitor(SparKerTest(**(quick | {"n_toys": 19})), rng.normal(size=(600, 1)), alpha=0.1)
        alarms.append(sum(monitor.update(draw(rng, 30)).alarm for _ in range(n_batches)))
    # batches of one reference are correlated: the error is that of the mean over references
    error = np.std(alarms, ddof=1) / np.sqrt(len(alarms))
    assert np.mean(alarms) < 0.1 * n_batches + 3 * error
    assert np.mean(alarms) > 0.1 * n_batches - 4 * error


class TestInput:
    def test_columns_in_another_order_are_refused(self, quick, rng):
        frame = pd.DataFrame(rng.normal([0, 3], 1, size=(800, 2)), columns=["a", "b"])
        monitor, batch = BatchMonitor(SparKerTest(**quick), frame, alpha=0.05), frame[:40] + 0.01
        monitor.update(batch)
        with pytest.raises(ValueError, match=r"The batch has the columns \['b', 'a'\]"):
            monitor.update(batch[["b", "a"]])

    @pytest.mark.parametrize("test", ["SparKerTest", LikelihoodRatioTest(np.ravel)])
    def test_what_takes_no_split_toys_is_named(self, reference, test):
        with pytest.raises(TypeError, match="test is (str|LikelihoodRatioTest): needed is"):
            BatchMonitor(test, reference)

    def test_a_number_of_batches_is_whole(self, make):
        with pytest.raises(ValueError, match="n_batches is 2.5: needed is a whole number"):
            make(spending="union", n_batches=2.5)
