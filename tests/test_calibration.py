"""Toys to a null distribution to a p-value: the same bits everywhere, and every toy counted."""

import logging
import warnings
from dataclasses import replace

import numba
import numpy as np
import pytest
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.base import clone
from threadpoolctl import threadpool_info

import sparker._backends
from sparker import NullDistribution, SparKerTest, systematic_p_value, two_sample_test
from sparker._aggregation import EXPONENT, Rule, aggregate, count_exceedances
from sparker._calibration import BATCH, generator, simulate
from sparker._null import MAX_FAILED, ToyFailure
from sparker._pool import Pool
from sparker._results import clopper_pearson, counted_p_value, negative_binomial_interval
from sparker._toys import CallableToys, PermutationToys
from sparker.peers import MMDTest, StaticKernelTest


class Mean:
    """Statistic of one entry: difference of the means of the first feature. Fails on the toys it is told to fail on."""

    on_device, entry_weights = False, None

    def __init__(self, failing=()):
        self.failing = set(failing)

    def learn(self, pool, rng):
        return None

    def share(self, pool, toys, plan):
        return list(range(len(toys)))

    def evaluate(self, pool, toys, plan, rngs, shared):
        return [self.evaluate_one(pool, *toy) for toy in zip(toys, rngs, strict=True)]

    def evaluate_one(self, pool, weights, rng):
        if rng.bit_generator.seed_seq.spawn_key[0] in self.failing:
            return ValueError("no luck")
        x = pool.rows(np.arange(pool.n_rows))[:, 0]
        return np.array([np.average(x, weights=weights.data) - np.average(x, weights=weights.reference)]), True


def fit(samples, quick, **changes):
    return SparKerTest(**(quick | changes)).fit(*samples)


def count_p_value(null, observed):
    return (1 + np.sum(null >= observed)) / (1 + len(null))


@pytest.fixture
def toys(samples):
    return PermutationToys(Pool(samples), 40, None)


class TestSimulate:
    def test_each_toy_is_a_function_of_the_seed_and_its_number(self, toys):
        null = simulate(Mean(), toys, None, 5, 2 * BATCH + 3)
        assert null.values.shape == (2 * BATCH + 3, 1)
        for i in (0, BATCH, 2 * BATCH + 2):
            _, weights = toys.draw(generator(5, i))
            want, _ = Mean().evaluate_one(toys.pool, weights, generator(5, 0))
            assert_array_equal(null.values[i], want)

    def test_streams_are_those_of_seed_sequence(self):
        want = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(3,))).random(4)
        assert_array_equal(generator(7, 3).random(4), want)

    def test_failed_toys_are_infinite_and_logged(self, toys, caplog):
        n = BATCH * 4
        with caplog.at_level(logging.WARNING, logger="sparker"):
            null = simulate(Mean(failing=[3, BATCH]), toys, None, 5, n)
        assert np.flatnonzero(null.failed).tolist() == [3, BATCH]
        assert_array_equal(null.values[null.failed], np.inf)
        assert np.all(np.isfinite(null.values[~null.failed]))
        assert [record.getMessage() for record in caplog.records if "toy 3: no luck" in record.getMessage()]
        others = simulate(Mean(), toys, None, 5, n).values
        assert_array_equal(null.values[~null.failed], others[~null.failed])

    @pytest.mark.parametrize(("missing", "n_failed"), [(3, 1), (25, 0)], ids=["one of the toys", "a toy beyond them"])
    def test_a_toy_that_cannot_be_drawn_fails_alone(self, toys, missing, n_failed):
        # a Poisson count may be 0: that must not end a run of hundreds of toys
        class NoRows(PermutationToys):
            def draw(self, rng):
                if rng.bit_generator.seed_seq.spawn_key[0] == missing:
                    raise ValueError("A toy wants 0 data rows")
                return super().draw(rng)

        null = simulate(Mean(), NoRows(toys.pool, 40, None), None, 5, 25)
        assert null.failed.sum() == n_failed
        want = simulate(Mean(), toys, None, 5, 25).values
        assert_array_equal(null.values[~null.failed], want[~null.failed])

    def test_a_toy_that_cannot_learn_fails_alone(self):
        class Learning(Mean):
            def learn(self, pool, rng):
                if pool.blocks[0][0, 0] > 1.9:
                    raise ValueError("no plan")

        def draw(rng):
            return rng.normal(size=(50, 2)), rng.normal(size=(20, 2))

        null = simulate(Learning(), CallableToys(draw, 2, np.dtype(float), None, 50, 20), None, 5, 200)
        first = np.array([generator(5, i).normal() for i in range(200)])
        assert_array_equal(null.failed, first > 1.9)
        assert 0 < null.failed.sum() < 10

    def test_more_than_one_toy_in_twenty_may_not_fail(self, toys):
        simulate(Mean(failing=range(2)), toys, None, 5, 40)
        assert MAX_FAILED == 0.05
        with pytest.raises(ToyFailure, match=r"3 of 40 toys failed.*5%.*seed 5.*toy 0: no luck"):
            simulate(Mean(failing=range(3)), toys, None, 5, 40)

    def test_progress_counts_completed_toys(self, toys, capsys):
        simulate(Mean(), toys, None, 5, BATCH + 1, verbose=1)
        assert f"{BATCH + 1}/{BATCH + 1}" in capsys.readouterr().err


class TestSameNumbers:
    """Bit for bit."""

    @pytest.mark.parametrize("start", ["score", "random"])
    @pytest.mark.parametrize("backend", ["numba", "matmul"])
    def test_for_any_number_of_jobs(self, samples, quick, start, backend):
        one, two = (
            fit(samples, quick, n_jobs=n_jobs, start=start, backend=backend, n_toys=2 * BATCH + 5) for n_jobs in (1, 2)
        )
        assert_array_equal(one.calibrate().values, two.calibrate().values)
        assert one.p_value() == two.p_value()

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_for_any_number_of_jobs_on_a_pool_that_workers_map_from_disk(self, rng, quick, dtype):
        n = 1_100_000 // np.dtype(dtype).itemsize  # bytes above the max_nbytes of joblib
        samples = rng.normal(size=(n, 1)).astype(dtype), rng.normal(size=(100, 1)).astype(dtype)
        one, two = (fit(samples, quick, n_jobs=n_jobs, n_widths=2, n_toys=BATCH + 2) for n_jobs in (1, 2))
        assert_array_equal(one.calibrate().values, two.calibrate().values)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_for_any_number_of_threads_in_the_lone_fit(self, rng, quick, dtype, monkeypatch):
        samples = rng.normal(size=(9000, 2)).astype(dtype), rng.normal(0.1, 1, size=(4500, 2)).astype(dtype)
        serial = fit(samples, quick)
        monkeypatch.setattr(sparker._backends, "PARALLEL_WORK", 0)
        before = numba.get_num_threads()
        if before < 2:
            pytest.skip("one core")
        try:
            for threads in (1, 2):
                numba.set_num_threads(threads)
                threaded = fit(samples, quick, n_jobs=2)
                assert_array_equal(threaded.statistics_, serial.statistics_)
                assert_array_equal(threaded.path_centers_, serial.path_centers_)
                assert_array_equal(threaded.path_amplitudes_, serial.path_amplitudes_)
        finally:
            numba.set_num_threads(before)

    def test_for_workers_that_are_threads_and_leaves_blas_as_it_was(self, rng, quick):
        samples = rng.normal(size=(300, 60)), rng.normal(size=(100, 60))
        serial = fit(samples, quick, n_toys=4 * BATCH).calibrate()
        before = [library["num_threads"] for library in threadpool_info()]
        with parallel_config(backend="threading"):
            threaded = fit(samples, quick, n_toys=4 * BATCH, n_jobs=2).calibrate()
        assert [library["num_threads"] for library in threadpool_info()] == before
        assert_array_equal(threaded.values, serial.values)

    @pytest.mark.parametrize("calibration", ["permutation", "split", "bootstrap"])
    @pytest.mark.filterwarnings("ignore:calibration=.bootstrap")
    def test_for_the_first_toys_of_a_longer_run(self, samples, quick, calibration):
        few, many = (fit(samples, quick, n_toys=n, calibration=calibration) for n in (100, 200))
        assert_array_equal(few.calibrate().values, many.calibrate().values[:100])

    @pytest.mark.parametrize("n", [1, 7, BATCH + 1])
    def test_for_a_number_of_toys_that_fills_no_batch(self, samples, quick, n):
        few, many = (fit(samples, quick, n_toys=k) for k in (n, 2 * BATCH))
        assert_array_equal(few.calibrate().values, many.calibrate().values[:n])

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_for_a_number_of_toys_that_fills_no_product(self, rng, dtype):
        samples = rng.normal(size=(300, 60)).astype(dtype), rng.normal(size=(80, 60)).astype(dtype)
        params = {"n_widths": 3, "n_candidates": 40, "random_state": 0}
        few, many = (SparKerTest(n_toys=k, **params).fit(*samples) for k in (1, BATCH))
        assert_array_equal(few.calibrate().values, many.calibrate().values[:1])

    def test_for_the_same_seed_and_other_numbers_for_another(self, samples, quick):
        nulls = [fit(samples, quick, random_state=seed).calibrate().values for seed in (3, 3, 4)]
        assert_array_equal(nulls[0], nulls[1])
        assert np.any(nulls[0] != nulls[2])

    def test_when_the_same_estimator_is_fitted_twice(self, samples, quick):
        test = fit(samples, quick)
        first = test.statistics_, test.calibrate().values
        test.fit(*samples)
        assert_array_equal(test.statistics_, first[0])
        assert_array_equal(test.calibrate().values, first[1])


class TestRandomState:
    @pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
    def test_a_live_generator_gives_one_integer_and_is_not_kept(self, samples, quick, make):
        tests = [fit(samples, quick, random_state=make(5)) for _ in range(2)]
        assert isinstance(tests[0].seed_, int)
        assert tests[0].seed_ == tests[1].seed_
        assert_array_equal(tests[0].statistics_, tests[1].statistics_)
        kept = {name: value for name, value in vars(tests[0]).items() if name != "random_state"}
        live = (np.random.Generator, np.random.RandomState)
        assert not any(isinstance(value, live) for value in [*kept.values(), *vars(tests[0]._fitted).values()])

    def test_a_live_generator_moves_on_but_toys_do_not(self, samples, quick):
        rng = np.random.default_rng(5)
        test = fit(samples, quick, random_state=rng)
        seed, null = test.seed_, test.calibrate().values
        rng.random(10)
        assert_array_equal(fit(samples, quick, random_state=np.random.default_rng(5)).calibrate().values, null)
        assert test.fit(*samples).seed_ != seed

    def test_the_printed_seed_gives_the_same_numbers(self, samples, quick):
        result = fit(samples, quick, random_state=np.random.default_rng(3)).result()
        again = fit(samples, quick, random_state=result.seed).result()
        assert (again.statistic, again.pvalue, again.seed) == (result.statistic, result.pvalue, result.seed)

    def test_none_is_another_seed_each_time(self, samples, quick):
        assert fit(samples, quick, random_state=None).seed_ != fit(samples, quick, random_state=None).seed_


class TestPValue:
    def test_counts_toys_that_reach_the_observed_aggregate(self, samples, quick):
        def combine(log_p):
            return {
                "power-mean": np.log(np.exp(EXPONENT * log_p) @ weights),  # too few toys for a tail
                "min-mean": -0.5 * log_p.min(axis=1) - 0.5 * log_p.mean(axis=1),
                "min": -log_p.min(axis=1),
                "product": -log_p.sum(axis=1),
                "mean": -np.log(np.exp(log_p).mean(axis=1)),
            }

        weights = fit(samples, quick).scales_["weight"]
        for aggregation in combine(np.zeros((1, len(weights)))):
            test = fit(samples, quick, aggregation=aggregation)
            rows = np.concatenate([test.statistics_[None], test.calibrate().values])
            aggregates = combine(np.log((rows[None] >= rows[:, None] * (1 - 1e-5)).mean(axis=1)))[aggregation]
            assert_allclose(test.test_statistic(), aggregates[0], rtol=1e-12)
            assert_allclose(test.p_value(), count_p_value(aggregates[1:] * (1 + 1e-9), aggregates[0]), rtol=1e-12)
            result = test.result()
            assert (result.pvalue, result.statistic) == (test.p_value(), test.test_statistic())
            assert result.aggregation == aggregation

    def test_result_holds_the_table_of_scales(self, samples, quick):
        test = fit(samples, quick, n_toys=39)
        result, null = test.result(), test.calibrate().values
        of_widths = [kind for kind in ("t", "score", "rare", "dense") for _ in range(3)]
        assert result.scales["kind"].tolist() == [*of_widths, "joint", "mean", "spread"]
        assert_array_equal(
            result.scales["width"], [*np.tile(test.path_widths_, 4), test.path_widths_[1], np.inf, np.inf]
        )
        assert_array_equal(result.scales["statistic"], test.statistics_)
        want = [count_p_value(null[:, k] * (1 + 1e-9), test.statistics_[k]) for k in range(15)]
        assert_allclose(result.scales["pvalue"], want, rtol=1e-12)

    def test_result_is_consistent(self, samples, quick):
        test = fit(samples, quick, n_toys=39)
        result = test.result()
        assert_allclose(result.zscore, stats.norm.isf(result.pvalue), rtol=1e-12)
        n_exceed = round(result.pvalue * 40) - 1
        assert result.at_resolution == (n_exceed == 0)
        want = stats.binomtest(n_exceed, 39).proportion_ci(0.95, method="exact")
        assert_allclose(result.interval, (want.low, want.high), rtol=1e-12)
        assert (result.n_toys, result.n_failed, result.n_reference, result.n_data) == (39, 0, 120, 40)
        assert (result.n_features, result.expected_count, result.seed) == (2, None, test.seed_)
        assert result.calibration == "permutation"
        assert result.null_distribution is test.calibrate()

    def test_failed_toys_count_against_the_observed(self, samples, quick, monkeypatch):
        test = fit(samples, quick, n_toys=39)
        evaluate = type(test._fitted.statistic).evaluate
        monkeypatch.setattr(SparKerTest, "_warm_up", lambda self: None)

        def fail_once(self, pool, toys, plan, rngs, shared):
            found = evaluate(self, pool, toys, plan, rngs, shared)
            unlucky = [rng.bit_generator.seed_seq.spawn_key == (11,) for rng in rngs]
            return [ValueError("no luck") if bad else toy for bad, toy in zip(unlucky, found, strict=True)]

        monkeypatch.setattr(type(test._fitted.statistic), "evaluate", fail_once)
        test.statistics_ = np.full(15, 1e9)
        result = test.result()
        assert result.n_failed == 1
        assert_allclose(result.pvalue, 2 / 40, rtol=1e-12)
        assert_allclose(result.scales["pvalue"], 2 / 40, rtol=1e-12)

    def test_is_one_where_all_rows_are_equal(self, quick):
        for start in ("random", "score"):
            test = SparKerTest(**(quick | {"start": start})).fit(np.ones((50, 2)), np.ones((20, 2)))
            assert_array_equal(test.statistics_[:3], 0)
            assert test.p_value() == 1, start

    def test_planted_clump_is_at_the_resolution_limit(self, rng, quick):
        reference = rng.normal(size=(400, 2))
        data = np.concatenate([rng.normal(size=(100, 2)), rng.normal(1.5, 0.1, size=(40, 2))])
        result = fit((reference, data), quick, n_widths=5, n_candidates=60).result()
        assert result.pvalue == 1 / 20
        assert result.at_resolution
        assert "Z > " in str(result)

    def test_one_call_gives_the_same(self, samples, quick):
        got, want = two_sample_test(*samples, **quick), fit(samples, quick).result()
        assert got.to_dict() == want.to_dict()
        weight = np.repeat([1.0, 2.0], 60)
        got = two_sample_test(*samples, sample_weight=weight, calibration=self.draw_pair, **quick)
        test = SparKerTest(calibration=self.draw_pair, **quick).fit(*samples, sample_weight=weight)
        assert got.to_dict() == test.result().to_dict()

    @staticmethod
    def draw_pair(rng):
        return rng.normal(size=(180, 2)), rng.normal(size=(40, 2)), rng.uniform(1, 2, 180)  # one of weight 2 is two


class TestWhenToysAreDrawn:
    def test_fit_draws_none_and_results_are_kept(self, samples, quick, monkeypatch):
        calls = []
        monkeypatch.setattr(
            sparker._calibration, "simulate", lambda *args, **given: calls.append(1) or simulate(*args, **given)
        )
        test = fit(samples, quick)
        assert not calls
        for _ in range(2):
            test.p_value(), test.test_statistic(), test.result()
        assert len(calls) == 1
        test.fit(*samples).p_value()
        assert len(calls) == 2

    def test_calibrating_does_not_change_the_model(self, samples, quick):
        test = fit(samples, quick)
        before = test.statistics_.copy(), test.width_, test.centers_.copy(), test.transform(samples[1])
        test.p_value()
        for got, want in zip(
            (test.statistics_, test.width_, test.centers_, test.transform(samples[1])), before, strict=True
        ):
            assert_array_equal(got, want)

    @pytest.mark.parametrize("which", [0, 1])
    def test_rows_changed_after_fit_are_an_error(self, samples, quick, which):
        test = fit(samples, quick)
        samples[which][3, 1] += 1
        with pytest.raises(ValueError, match="changed in place after fit.*Fit again"):
            test.p_value()
        test.fit(*samples).p_value()

    def test_parameters_changed_after_fit_change_nothing(self, samples, quick):
        want = fit(samples, quick)
        want.p_value()
        test = fit(samples, quick)
        test.set_params(
            n_kernels=1, n_toys=5, n_widths=1, competition=False, aggregation="min", calibration="split", random_state=9
        ).set_params(backend="numpy", expected_count=7.0, start="random", solver="adam")
        assert test.result().to_dict() == want.result().to_dict()
        assert_array_equal(test.calibrate().values, want.calibrate().values)
        assert_array_equal(test.score_samples(samples[1]), want.score_samples(samples[1]))


class TestStopping:
    """Besag and Clifford's rule, toy by toy."""

    @pytest.fixture
    def null_samples(self, rng):
        return rng.normal(size=(120, 2)), rng.normal(size=(40, 2))

    @pytest.mark.parametrize("rule", ["power-mean", "min-mean"])
    @pytest.mark.parametrize("h", [1, 4, 20])
    def test_ends_at_the_first_toy_where_a_plain_count_reaches_the_number(self, null_samples, quick, rule, h):
        quick = quick | {"n_toys": 150, "aggregation": rule}
        whole = fit(null_samples, quick).calibrate().values
        test = fit(null_samples, quick, stopping=h)
        counts = []
        for n in range(1, 151):
            observed, null = aggregate(whole[:n], test.statistics_, test._fitted.aggregation)
            counts.append(np.sum(null >= observed * (1 - 1e-5)))
        reached = np.flatnonzero(np.array(counts) >= h)
        n_toys = reached[0] + 1 if len(reached) else 150
        result = test.result()
        assert_array_equal(test.calibrate().values, whole[:n_toys])
        assert (result.n_toys, result.stopping, result.stopped) == (n_toys, h, len(reached) > 0)
        want = h / n_toys if len(reached) else (1 + counts[-1]) / 151
        assert result.pvalue == test.p_value() == want
        low, high = negative_binomial_interval(h, n_toys) if len(reached) else clopper_pearson(counts[-1], 150)
        assert result.interval == (low, high)
        assert not result.at_resolution or not len(reached)

    def test_is_the_same_for_any_number_of_jobs(self, null_samples, quick):
        quick = quick | {"n_toys": 400, "stopping": 9}
        one, two = (fit(null_samples, quick, n_jobs=jobs) for jobs in (1, 2))
        assert one.result().to_dict() == two.result().to_dict()
        assert one.result().n_toys < 200
        assert_array_equal(one.calibrate().values, two.calibrate().values)

    def test_that_is_never_reached_changes_nothing_but_the_name(self, samples, quick):
        plain, test = fit(samples, quick), fit(samples, quick, stopping=19)
        got, want = test.result().to_dict(), plain.result().to_dict()
        assert got == want | {"stopping": 19}

    def test_simulates_few_toys(self, toys):
        asked = []

        def count(values):
            asked.append(len(values))
            return len(values) - 2

        null = simulate(Mean(), toys, None, 5, 10_000, stopping=(3, count))
        assert len(null) == 5
        assert asked == [3, 4, 5]
        assert_array_equal(null.values, simulate(Mean(), toys, None, 5, 5).values)

    def test_goes_on_from_a_file(self, null_samples, quick, tmp_path):
        quick = quick | {"n_toys": 400, "stopping": 9}
        want = fit(null_samples, quick)
        half = want.calibrate().values[:5]
        assert len(want.calibrate()) > 5
        path = tmp_path / "toys.npz"
        before = want.calibrate()
        fields = {name: getattr(before, name)[:5] for name in ("converged", "failed", "seeds", "numbers")}
        replace(before, values=half, **fields).save(path)
        test = fit(null_samples, quick)
        test.calibrate(path)
        assert test.result().to_dict() == want.result().to_dict()
        assert len(fit(null_samples, quick).calibrate(path)) == len(before)

    def test_keeps_the_toys_of_a_file_that_other_data_needed(self, null_samples, quick, tmp_path):
        quick, path = quick | {"n_toys": 400, "stopping": 5, "calibration": "split"}, tmp_path / "toys.npz"
        reference, data = null_samples
        longer = fit((reference, data + 0.3), quick).calibrate(path)
        assert len(longer) < 400
        assert len(fit((reference, 0.9 * data), quick).calibrate(path)) < len(longer)
        assert len(NullDistribution.load(path)) == len(longer)

    def test_says_why_all_toys_fail(self, samples, quick):
        def draw(rng):
            return rng.normal(size=(119, 2)), rng.normal(size=(40, 2))

        with pytest.raises(ToyFailure, match="returned 119 reference rows; needed are 120"):
            fit(samples, quick, calibration=draw, stopping=5).p_value()

    def test_leaves_no_tail(self, null_samples, quick):
        result = fit(null_samples, quick, n_toys=400, stopping=9, tail="pareto").result()
        assert result.stopped
        assert "stopped early" in result.tail_note

    @pytest.mark.slow
    @pytest.mark.parametrize("rule", ["power-mean", "min-mean", "min"])
    def test_keeps_the_level_though_ranks_depend_on_the_rows_so_far(self, seed, rule):
        """Exchangeable rows of correlated scales: P(p <= alpha) <= alpha within what 99.9 % of cases have."""
        h, n_toys, n_sets = 4, 39, 1500
        p_values = []
        for i in range(n_sets):
            rng = np.random.default_rng([seed, i])
            rows = rng.exponential(size=(n_toys + 1, 3)) + 2 * rng.exponential(size=(n_toys + 1, 1))
            for n in range(h, n_toys + 1):
                k = count_exceedances(rows[1 : n + 1], rows[0], Rule(rule))
                if k >= h:
                    break
            p_values.append(counted_p_value(k, n, h))
        for alpha in (0.025, 0.1, 0.2, 0.5):
            assert np.sum(np.array(p_values) <= alpha + 1e-9) <= stats.binom.ppf(0.999, n_sets, alpha)
        assert np.mean(np.array(p_values) <= 0.1 + 1e-9) > 0.06  # conservative, not useless


class TestModes:
    def test_unequal_weights_are_refused_by_p_value_but_not_by_fit(self, samples, quick):
        weight = np.repeat([1.0, 2.0], 60)
        for calibration in ("permutation", "split"):
            test = SparKerTest(calibration=calibration, **quick).fit(*samples, sample_weight=weight)
            assert np.all(np.isfinite(test.statistics_))
            with pytest.raises(ValueError, match=f'"{calibration}" needs.*rows of equal weight.*bootstrap'):
                test.p_value()

    @pytest.mark.parametrize("calibration", ["permutation", "split", "bootstrap", lambda rng: None])
    def test_weighted_data_rows_are_refused_by_p_value_but_not_by_fit(self, samples, quick, calibration):
        X, y, weight = np.concatenate(samples), np.repeat([0, 1], [120, 40]), np.repeat([1.0, 2.0], [120, 40])
        test = SparKerTest(calibration=calibration, **quick).fit(X, y, sample_weight=weight)
        with pytest.raises(ValueError, match="data rows of toys have weight 1, but sample_weight"):
            test.p_value()
        with pytest.raises(ValueError, match="data rows of toys have weight 1, but sample_weight"):
            systematic_p_value(test, {"callable": lambda rng: None})

    def test_split_needs_twice_as_many_reference_rows(self, samples, quick):
        with pytest.raises(ValueError, match="twice as many reference.*found 79 and 40"):
            fit((samples[0][:79], samples[1]), quick, calibration="split")

    @pytest.mark.parametrize("calibration", ["split", "bootstrap"])
    @pytest.mark.filterwarnings("ignore:calibration=.bootstrap")
    def test_toys_from_the_reference_do_not_know_the_data(self, samples, quick, calibration):
        reference, data = samples
        tests = [fit((reference, rows), quick, calibration=calibration) for rows in (data, data[::-1] + 0.3)]
        assert_array_equal(*(test.calibrate().values for test in tests))

    def test_permutation_toys_do_not_know_the_labels(self, samples, quick, rng):
        X = np.concatenate(samples)
        y = np.repeat([0, 1], [120, 40])
        nulls = [SparKerTest(**quick).fit(X, labels).calibrate().values for labels in (y, rng.permutation(y))]
        # the pool lists reference rows first: sums come in another order
        assert_allclose(nulls[0], nulls[1], rtol=1e-6, atol=1e-9)

    def test_bootstrap_warns(self, samples, quick):
        test = fit(samples, quick, calibration="bootstrap")
        with pytest.warns(UserWarning, match="bootstrap.*conservative"):
            test.p_value()

    @pytest.mark.parametrize(("n_reference", "n_data"), [(50, 50), (30, 60), (400, 50)])
    def test_bootstrap_looks_at_as_many_places_as_its_toys(self, rng, n_reference, n_data):
        samples = rng.normal(size=(n_reference, 2)), rng.normal(size=(n_data, 2))
        test = SparKerTest(calibration="bootstrap", n_widths=2, random_state=0).fit(*samples)
        plan_of_toys = test._fitted.statistic.learn(test._fitted.observed.reference_pool(), rng)
        assert len(test._fitted.plan.candidates) <= len(plan_of_toys.candidates) <= n_reference

    def test_bootstrap_takes_a_weighted_reference(self, samples, quick):
        test = SparKerTest(calibration="bootstrap", **quick).fit(*samples, sample_weight=np.repeat([1.0, 3.0], 60))
        with pytest.warns(UserWarning, match="bootstrap.*conservative"):
            assert test.p_value() <= 1

    def test_observed_fit_under_split_is_that_of_the_rows_it_keeps(self, samples, quick):
        test = fit(samples, quick, calibration="split")
        kept = test._fitted.observed.weights.reference[:120] > 0
        assert kept.sum() == 80
        parts = test.transform(samples[0][kept])
        excess = 40 / 80 * np.sum(np.expm1(parts.sum(axis=1))) - test.score_samples(samples[1]).sum()
        best = np.flatnonzero(test.path_widths_ == test.width_)[0]
        assert_allclose(test.statistics_[best], max(0, -2 * excess), rtol=1e-9)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_callable_draws_every_toy_from_its_own_generator(self, samples, quick, weighted):
        seen = []

        def draw(rng):
            pair = rng.normal(size=(120, 2)), rng.normal(size=(40, 2))
            seen.append(pair[0][0, 0])
            return (*pair, np.full(120, 2.0)) if weighted else pair

        test = fit(samples, quick, calibration=draw)
        assert not seen
        p_value, null = test.p_value(), test.calibrate()
        assert_array_equal(seen, [generator(test.seed_, i).normal() for i in range(19)])
        assert 1 / 20 <= p_value <= 1
        assert null.calibration == "callable"

    def test_weight_common_to_all_rows_of_a_callable_toy_is_no_matter(self, samples, quick):
        def draw(rng, weight=None):
            pair = rng.normal(size=(120, 2)), rng.normal(size=(40, 2))
            return pair if weight is None else (*pair, np.full(120, weight))

        nulls = [fit(samples, quick, calibration=c) for c in (draw, lambda rng: draw(rng, 3.0))]
        assert_allclose(*(test.calibrate().values for test in nulls), rtol=1e-6, atol=1e-6)

    def test_callable_of_another_number_of_data_rows_is_named(self, samples, quick):
        def draw(rng):
            return rng.normal(size=(120, 2)), rng.normal(size=(39, 2))

        with pytest.raises(ValueError, match="returned 39 data rows; needed are 40"):
            fit(samples, quick, calibration=draw).p_value()
        assert fit(samples, quick, calibration=draw, expected_count=40.0).p_value() <= 1

    @pytest.mark.parametrize("n", [119, 121])
    def test_callable_of_another_number_of_reference_rows_is_named(self, samples, quick, n):
        """With fewer of them t is larger, with more it is smaller: p would say which."""
        test = fit(samples, quick, calibration=lambda rng: (rng.normal(size=(n, 2)), rng.normal(size=(40, 2))))
        with pytest.raises(ValueError, match=f"returned {n} reference rows; needed are 120, as many as the fit"):
            test.p_value()

    @pytest.mark.parametrize("n", [40, 2000])
    def test_callable_whose_counts_are_none_of_the_expected_is_named(self, samples, quick, n):
        draw, expected = lambda rng: (rng.normal(size=(120, 2)), rng.normal(size=(n, 2))), 400.0
        with pytest.raises(ValueError, match=f"returned {n} data rows, and expected_count is 400: needed are"):
            fit(samples, quick, calibration=draw, expected_count=expected).p_value()

    def test_callable_that_returns_other_columns_is_named(self, samples, quick):
        test = fit(samples, quick, calibration=lambda rng: (np.zeros((5, 3)), np.zeros((5, 3))))
        with pytest.raises(ValueError, match=r"reference rows of shape \(5, 3\).*\(n, 2\)"):
            test.p_value()

    def test_callable_with_equal_generators_gives_p_one(self, quick):
        # every toy is the observed pair: all tie with it
        rng = np.random.default_rng(1)
        samples = rng.normal(size=(50, 2)), rng.normal(size=(20, 2))
        fixed = {"start": "random", "n_kernels": 1, "width_init": 1.0, "width_final": 1.0, "n_widths": 1}
        test = fit((samples[0], samples[1][:1]), quick | fixed, calibration=lambda rng: (samples[0], samples[1][:1]))
        assert test.p_value() == 1

    def test_expected_count_scales_the_reference_and_counts_toys(self, samples, quick):
        test = fit(samples, quick, expected_count=60.0)
        assert_allclose(test._fitted.observed.weights.reference.sum(), 60, rtol=1e-12)
        result = test.result()
        assert result.expected_count == 60
        assert "approximate" in result.calibration

    def test_expected_count_far_below_the_data_is_significant(self, samples, quick, rng):
        null = rng.normal(size=(120, 2)), rng.normal(size=(40, 2))
        shape_only, counted = (
            fit(null, quick, expected_count=n, calibration=lambda rng: draw_poisson(rng)) for n in (None, 15.0)
        )
        assert counted.statistics_[0] > shape_only.statistics_[0] + 10
        assert counted.p_value() == 1 / 20

    def test_samples_are_not_changed(self, samples, quick):
        before = [sample.copy() for sample in samples]
        for calibration in ("permutation", "split"):
            fit(samples, quick, calibration=calibration).p_value()
        for sample, copy in zip(samples, before, strict=True):
            assert_array_equal(sample, copy)

    def test_clone_of_a_fitted_test_is_not_fitted(self, samples, quick):
        test = fit(samples, quick)
        test.p_value()
        assert not hasattr(clone(test), "statistics_")


def draw_poisson(rng):
    """Null toys of the generator: a reference of 120 rows and Poisson(15) data rows."""
    return rng.normal(size=(120, 2)), rng.normal(size=(max(1, rng.poisson(15)), 2))


@pytest.mark.slow
class TestUnderTheNull:
    """Seeded: no count may leave the interval that holds 99.9 % of cases."""

    def find_p_values(self, seed, draw, calibration, n_sets):
        """p, p with ties counted for the observed, and p with ties broken at random, which is uniform."""
        p_values = []
        for i in range(n_sets):
            rng = np.random.default_rng([seed, i])
            test = SparKerTest(
                n_kernels=2, n_widths=4, n_candidates=16, max_iter=3, n_toys=19, random_state=i, calibration=calibration
            ).fit(*draw(rng))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "calibration=.bootstrap")
                p = test.p_value()
            observed, null = aggregate(test.calibrate().values, test.statistics_, test._fitted.aggregation)
            strict = (1 + np.sum(null > observed * (1 + 1e-5))) / 20
            p_values.append((p, strict, strict + rng.integers(round(20 * (p - strict)) + 1) / 20))
        return np.array(p_values).T

    @pytest.mark.parametrize(
        ("calibration", "n_reference", "n_sets"),
        [("permutation", 20, 120), ("permutation", 60, 160), ("split", 60, 160), ("generator", 60, 60)],
    )
    def test_p_values_are_uniform(self, seed, calibration, n_reference, n_sets):
        def draw(rng):
            return rng.exponential(size=(n_reference, 1)), rng.exponential(size=(20, 1))

        calibration = draw if calibration == "generator" else calibration
        p, strict, uniform = self.find_p_values(seed, draw, calibration, n_sets)
        low, high = stats.binom.ppf([0.0005, 0.9995], n_sets, 0.05)
        assert np.sum(p < 0.051) <= high
        assert np.sum(strict < 0.051) >= low
        quarters = np.bincount(np.ceil(4 * uniform - 1e-9).astype(int) - 1, minlength=4)
        assert stats.chisquare(quarters).pvalue > 1e-3, quarters

    def test_bootstrap_gives_no_more_false_alarms_than_promised(self, seed):
        def draw(rng):
            return rng.exponential(size=(60, 1)), rng.exponential(size=(20, 1))

        p, _, _ = self.find_p_values(seed, draw, "bootstrap", 120)
        assert np.sum(p < 0.051) <= stats.binom.ppf(0.9995, 120, 0.05)

    def test_planted_clump_is_found(self, seed):
        found = 0
        for i in range(20):
            rng = np.random.default_rng([seed, i])
            reference = rng.normal(size=(300, 2))
            data = np.concatenate([rng.normal(size=(90, 2)), rng.normal([1.5, 1.5], 0.1, size=(15, 2))])
            test = SparKerTest(n_kernels=2, n_widths=5, n_candidates=60, n_toys=39, random_state=i)
            found += test.fit(reference, data).p_value() < 0.051
        assert found >= 18


class TestCounting:
    """A 40 % excess of the rate at equal shape is evidence if the expected count is known, and nothing if it is not."""

    N_SETS = 24

    def count_rejections(self, rate, expected, calibration="permutation"):
        rejected = 0
        for seed in range(self.N_SETS):
            rng = np.random.default_rng([seed, 3])
            samples = rng.normal(size=(600, 1)), rng.normal(size=(rng.poisson(100 * rate), 1))
            test = SparKerTest(2, n_widths=3, n_candidates=40, n_toys=19, random_state=seed, calibration=calibration)
            rejected += test.set_params(expected_count=expected).fit(*samples).p_value() <= 0.05
        return rejected

    @pytest.mark.slow
    @pytest.mark.parametrize("calibration", ["permutation", "split"])
    def test_power_with_the_expected_count_and_none_without(self, calibration):
        most_under_the_null = stats.binom.isf(0.002, self.N_SETS, 0.05)
        assert self.count_rejections(1.4, 100, calibration) >= 0.5 * self.N_SETS
        assert self.count_rejections(1.0, 100, calibration) <= most_under_the_null
        assert self.count_rejections(1.4, None, calibration) <= most_under_the_null

    def test_one_clear_excess_and_both_modes_are_named(self):
        rng = np.random.default_rng(0)
        samples = rng.normal(size=(600, 1)), rng.normal(size=(180, 1))
        make = SparKerTest(2, n_widths=3, n_candidates=40, n_toys=19, random_state=0)
        counting, shape = (make.set_params(expected_count=n).fit(*samples).result() for n in (100, None))
        assert counting.pvalue == 0.05
        assert shape.pvalue > 0.05
        assert counting.mode == "expected count 100"
        assert counting.calibration == "permutation (Poisson counts, approximate)"
        assert shape.mode == "shape only"

    @pytest.mark.parametrize("calibration", ["permutation", "split", "bootstrap"])
    @pytest.mark.filterwarnings("ignore:calibration=.bootstrap")
    def test_every_mode_takes_an_expected_count(self, samples, quick, calibration):
        counts = fit(samples, quick, calibration=calibration, expected_count=30.0).result()
        assert counts.mode == "expected count 30"
        assert counts.n_failed == 0

    def test_a_callable_brings_its_own_counts(self, samples, quick):
        drawn = []

        def draw(rng):
            drawn.append(rng.poisson(30.0))
            return rng.normal(size=(120, 2)), rng.normal(size=(drawn[-1], 2))

        test = fit(samples, quick, calibration=draw, expected_count=30.0)
        assert test.result().mode == "expected count 30"
        assert len(set(drawn)) > 3


def test_a_toy_that_is_not_finite_fails_and_counts_as_reaching_the_statistic(toys):
    class NotFinite(Mean):
        def evaluate(self, *args):
            found = super().evaluate(*args)
            return [(np.array([np.nan]), True) if k == 1 else value for k, value in enumerate(found)]

    null = simulate(NotFinite(), toys, None, 5, 5)
    assert null.failed.tolist() == [False, True, False, False, False]
    assert null.values[1, 0] == np.inf
    assert "toy 1: The statistic is not finite" in null.failures[0]


def test_more_toys_than_a_seed_has_are_refused(toys):
    with pytest.raises(ValueError, match="n_toys is 5000000000: a seed has"):
        simulate(Mean(), toys, None, 5, 5_000_000_000)


def as_samples(test, number):
    """Reference and data of a toy of a fitted test."""
    pool, weights = test._make_toys().draw(generator(test.seed_, number))
    rows = pool.rows(np.arange(pool.n_rows))
    return rows[weights.data == 0], rows[weights.data > 0]


EXCHANGED = {
    "defaults": SparKerTest(n_toys=6, random_state=3),
    "MMD": MMDTest(n_toys=6, random_state=3),
    "static kernels": StaticKernelTest(n_kernels=12, n_toys=6, random_state=3),
}


@pytest.mark.parametrize("kind", ["normal", "heavy-tailed", "ties", "in 60 features", "float32", "float32 ties"])
@pytest.mark.parametrize("name", EXCHANGED)
def test_a_fit_to_the_labels_of_a_permutation_toy_gives_that_toy(rng, name, kind):
    """The observed pair differs from toys in its labels alone, so that p is exact; a random start has its own luck."""
    d = 60 if kind == "in 60 features" else 2
    rows = rng.standard_t(1.5, size=(180, d)) if kind == "heavy-tailed" else rng.normal(size=(180, d))
    rows = np.round(rows) if kind.endswith("ties") else rows
    rows = rows.astype(np.float32) if kind.startswith("float32") else rows
    test = clone(EXCHANGED[name]).fit(rows[:140], data=rows[140:])
    toys = test.calibrate().values
    for number in (0, 5):
        again = clone(EXCHANGED[name]).fit(*as_samples(test, number))
        assert_allclose(again.statistics_, toys[number], rtol=1e-4 if kind == "float32" else 1e-7, atol=1e-6)


@pytest.mark.parametrize("name", EXCHANGED)
def test_toys_that_have_the_labels_of_the_data_tie_with_them_in_float32(name):
    """One row differs from all others, and is among the data, as in a sixth of the toys: no p is below that share."""
    rows = np.zeros((6000 if name == "defaults" else 1500, 1), np.float32)
    rows[-1] = 1
    reference, data = np.split(rows, [5 * len(rows) // 6])
    test = clone(EXCHANGED[name]).set_params(n_toys=39, random_state=1).fit(reference, data=data)
    assert test.p_value() == clone(test).fit(reference.astype(float), data=data).p_value()
    is_data = np.array([as_samples(test, number)[1].max() == 1 for number in range(39)])
    assert test.p_value() >= (1 + is_data.sum()) / 40
