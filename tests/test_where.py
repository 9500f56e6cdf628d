"""Local and corrected p-values of kernels, and intervals of their excess."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from sparker import KernelSummary, SparKerTest, _toys, _where
from sparker._aggregation import extended_log_p
from sparker._backends import Backend, stack
from sparker._calibration import generator
from sparker._objective import Objective
from sparker._pool import Pool, Weights
from sparker._solvers import NewtonSolver
from sparker._statistic import SparKerStatistic


@pytest.fixture
def make(quick):
    return lambda **changes: SparKerTest(**(quick | changes))


def squared_score(pool, weights, center, width):
    rows = pool.rows(np.arange(pool.n_rows))
    kernel = np.exp(-np.sum((rows - center) ** 2, axis=1) / (2 * width**2))
    return (kernel @ (weights.data - weights.reference)) ** 2 / (kernel**2 @ weights.spread())


class TestLocal:
    def test_counts_the_toys_of_the_test_at_the_same_places(self, make, samples, rng):
        places, width = rng.normal(size=(4, 2)), 0.6
        test = make(n_toys=40).fit(*samples)
        observed = test._fitted.observed
        toys = [_toys.make_toys(observed, "permutation").draw(generator(test.seed_, i)) for i in range(40)]
        for place, p in zip(places, test.local_p_values(places, width), strict=True):
            q = squared_score(observed.pool, observed.weights, place, width)
            null = np.array([squared_score(*toy, place, width) for toy in toys])
            assert np.min(np.abs(null / q - 1)) > 1e-4, "a tie: the count would hang on rounding"
            assert_allclose(p, (1 + np.sum(null >= q)) / 41, rtol=1e-12)

    def test_as_many_toys_as_the_bank_has(self, make, samples):
        bank = make(n_toys=60).fit(*samples).calibrate()
        few = make(n_toys=3, null_distribution=bank).fit(*samples)
        assert_array_equal(
            few.local_p_values([[2.0, 1.0]], 0.3), make(n_toys=60).fit(*samples).local_p_values([[2.0, 1.0]], 0.3)
        )

    @pytest.mark.parametrize("calibration", ["split", "bootstrap", "callable"])
    @pytest.mark.filterwarnings("ignore:calibration=.bootstrap")
    def test_goes_with_every_calibration(self, make, samples, calibration):
        def draw(rng):
            return rng.normal(size=(120, 2)), rng.normal(size=(40, 2))

        test = make(n_toys=99, calibration=draw if calibration == "callable" else calibration).fit(*samples)
        planted, empty = test.local_p_values([[2.0, 1.0], [9.0, 9.0]], 0.15)
        assert planted <= 0.03
        assert empty == 1

    def test_runs_no_fit_of_a_toy(self, make, samples, monkeypatch):
        test = make().fit(*samples)
        monkeypatch.setattr(SparKerStatistic, "fit", None)
        test.local_p_values([[0.0, 0.0]], 1.0)
        assert not hasattr(test, "null_distribution_")

    def test_warns_at_places_that_were_fitted(self, make, samples):
        test = make().fit(*samples)
        places = np.concatenate([test.centers_[:1], [[0.0, 0.0]]])
        with pytest.warns(UserWarning, match="1 of 2 places are centres of kernels fitted to these data"):
            test.local_p_values(places, test.width_)

    def test_refuses_what_does_not_fit(self, make, samples):
        test = make().fit(*samples)
        with pytest.raises(ValueError, match="centers has 3 features, but X has 2"):
            test.local_p_values(np.zeros((1, 3)), 1.0)
        for width in (0.0, np.nan, np.inf, "wide"):
            with pytest.raises(ValueError, match="width is .*: needed is a finite number > 0"):
                test.local_p_values([[0.0, 0.0]], width)
        for width in (1e-160, 1e300):
            with pytest.raises(ValueError, match="leave the range of float64"):
                test.local_p_values([[0.0, 0.0]], width)
        with pytest.raises(ValueError, match="Features as large as 1e"):
            test.local_p_values([[0.0, 1e200]], 1.0)
        samples[1][0] += 1
        with pytest.raises(ValueError, match="changed in place"):
            test.local_p_values([[0.0, 0.0]], 1.0)

    def test_a_toy_that_cannot_be_drawn_counts_as_reaching_any_score(self, samples):
        class NoRows(_toys.PermutationToys):
            def draw(self, rng):
                if rng.bit_generator.seed_seq.spawn_key[0] == 3:
                    raise ValueError("no rows")
                return super().draw(rng)

        places, pool = np.array([[0.0, 0.0], [-1.0, 1.0]]), Pool(samples)
        toys = NoRows(pool, 40, None), _toys.PermutationToys(pool, 40, None)
        broken, whole = (_where.scores_of_toys(t, [(5, i) for i in range(20)], places, 1.0) for t in toys)
        assert np.all(np.isinf(broken[3]))
        assert_allclose(np.delete(broken, 3, axis=0), np.delete(whole, 3, axis=0), rtol=1e-12)

    def test_is_uniform_at_a_fixed_place_under_the_null(self, make):
        p = []
        for seed in range(200):
            rng = np.random.default_rng([seed, 1])
            test = make(n_toys=19, n_widths=1, random_state=seed).fit(
                rng.normal(size=(80, 1)), rng.normal(size=(40, 1))
            )
            p.append(test.local_p_values([[0.7]], 0.4)[0])
        assert stats.kstest(np.array(p) - np.random.default_rng(0).random(200) / 20, "uniform").pvalue > 0.01


class TestCorrected:
    def test_no_kernel_is_more_significant_than_the_largest_score(self, rng):
        null, observed = rng.chisquare(2, size=(99, 4)), rng.chisquare(2, size=4)
        largest = (-extended_log_p(np.concatenate([observed[None], null]))).max(axis=1)
        best = (1 + np.sum(largest[1:] >= largest[0])) / 100
        found = [_where.corrected_p_values(null, observed, np.array([1e9, 0.0]), k) for k in range(4)]
        assert_allclose(min(p[0] for p in found), best, rtol=1e-12)
        assert_array_equal([p[1] for p in found], 1)

    def test_falls_with_the_score(self, rng):
        null = rng.chisquare(2, size=(199, 3))
        p = _where.corrected_p_values(null, np.full(3, 50.0), np.linspace(0, 60, 80), 1)
        assert np.all(np.diff(p) <= 0)
        assert (p[0], p[-1]) == (1, 1 / 200)

    def test_knows_how_far_a_score_is_beyond_all_toys(self, rng):
        """The observed row alone is above: a kernel a little below it is far above the toys still."""
        null = rng.chisquare(2, size=(99, 8))
        (p,) = _where.corrected_p_values(null, np.full(8, 80.0), np.array([70.0]), 3)
        assert p == 0.01

    def test_failed_toys_count_as_more_surprising(self, rng):
        null = rng.chisquare(2, size=(99, 3))
        null[:4] = np.inf
        (p,) = _where.corrected_p_values(null, np.full(3, 80.0), np.array([70.0]), 0)
        assert p == 0.05

    def test_knows_the_search(self, rng):
        """p of the largest of five independent scores."""
        null = rng.chisquare(1, size=(20_000, 5))
        q = stats.chi2.isf(0.01, 1)
        (p,) = _where.corrected_p_values(null, np.full(5, q), np.array([q]), 2)
        assert_allclose(p, 1 - 0.99**5, rtol=0.15)

    def test_widths_of_larger_scores_do_not_drown_the_others(self, rng):
        null = rng.chisquare(1, size=(999, 2)) * [1, 100]
        (p,) = _where.corrected_p_values(null, np.array([30.0, 0.0]), np.array([30.0]), 0)
        assert p <= 0.002

    @pytest.mark.slow
    def test_any_kernel_at_most_at_the_nominal_rate_under_the_null(self):
        n_sets, smallest = 200, []
        for seed in range(n_sets):
            rng = np.random.default_rng([seed, 9])
            samples = rng.normal(size=(200, 2)), rng.normal(size=(60, 2))
            test = SparKerTest(3, n_widths=4, n_candidates=60, n_toys=19, random_state=seed).fit(*samples)
            smallest.append(min(kernel.corrected_pvalue for kernel in test.kernel_significance()))
        for alpha in (0.05, 0.1, 0.2):
            assert np.sum(np.array(smallest) <= alpha) <= stats.binom.isf(0.005, n_sets, alpha)


class TestKernelSignificance:
    def test_extends_the_kernel_table(self, make, samples):
        test = make(n_kernels=3, n_toys=39).fit(*samples)
        table = test.kernel_table()
        assert not hasattr(test, "null_distribution_"), "kernel_table runs no toys"
        found = test.kernel_significance()
        assert len(found) == 3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            local = test.local_p_values([kernel.center for kernel in table], test.width_)
        for kernel, plain, p in zip(found, table, local, strict=True):
            for name in KernelSummary.__dataclass_fields__:
                assert_array_equal(getattr(kernel, name), getattr(plain, name))
            assert kernel.local_pvalue == p
            assert 1 / 40 <= kernel.corrected_pvalue <= 1
            low, high = kernel.expected_excess_interval
            if abs(kernel.amplitude) == test.max_amplitude:
                assert np.isnan([low, high]).all()
                continue
            assert_allclose((low + high) / 2, kernel.expected_excess, rtol=1e-12)
            assert high > low
        at_bound = [abs(kernel.amplitude) == test.max_amplitude for kernel in found]
        assert any(at_bound)
        assert not all(at_bound)

    def test_finds_what_was_planted(self):
        rng = np.random.default_rng(0)
        data = np.concatenate([rng.normal(size=(400, 2)), rng.normal([2.0, 1.0], 0.1, size=(25, 2))])
        test = SparKerTest(n_toys=99, n_widths=4, n_candidates=300, random_state=0).fit(
            rng.normal(size=(1500, 2)), data
        )
        first = test.kernel_significance()[0]
        assert np.linalg.norm(first.center - [2, 1]) < 0.2
        assert first.corrected_pvalue == first.local_pvalue == 0.01

    @pytest.mark.parametrize("n_widths", [1, 3])
    @pytest.mark.parametrize(("n_near", "kind"), [(3, "rare"), (25, "score"), (120, "dense")])
    def test_kernels_are_compared_with_places_of_as_many_rows(self, rng, monkeypatch, n_near, kind, n_widths):
        """With the largest scores of toys where rows are rare, where they are dense, or of all places."""
        found, compare = [], _where.corrected_p_values

        def spy(null, observed, scores, column):
            found.append(column)
            return compare(null, observed, scores, column)

        monkeypatch.setattr(_where, "corrected_p_values", spy)
        data = np.concatenate([rng.normal(size=(600, 1)), rng.normal(100.0, 0.01, size=(n_near, 1))])
        test = SparKerTest(1, n_widths=n_widths, width_init=1.0, width_final=1.0, n_toys=9, random_state=0)
        test.fit(np.concatenate([rng.normal(size=(1000, 1)), [[100.0]]]), data).kernel_significance()
        assert_allclose(test.centers_, 100, atol=1)
        kinds = [kind for kind in test.scales_["kind"] if kind in ("score", "rare", "dense")]
        assert [kinds[column] for column in found] == [kind]

    def test_expected_excess_of_kernels_together(self, rng, make):
        """Of one: that of the table. Of several: what the model without all of them expects less."""
        reference, data = rng.normal(size=(1500, 2)), rng.normal(size=(400, 2))
        data[:60] = 0.2 * data[:60] + [1.0, 0.5]
        test = make(n_kernels=3, n_toys=9, max_amplitude=20.0).fit(reference, data)
        table = test.kernel_significance()
        for i, kernel in enumerate(table):
            want = [kernel.expected_excess, *kernel.expected_excess_interval]
            assert_allclose(test.expected_excess([i]), want, rtol=1e-12)
        weight = len(data) / len(reference)
        excess, low, high = test.expected_excess()
        f = test.score_samples(reference)
        assert_allclose(excess, weight * np.sum(np.expm1(f)), rtol=1e-9)
        assert low < excess < high
        last = np.flatnonzero((test.centers_ == table[2].center).all(axis=1))[0]
        without = test.transform(reference)[:, last]
        assert_allclose(test.expected_excess([0, 1])[0], weight * np.sum(np.exp(f) - np.exp(without)), rtol=1e-9)
        assert test.expected_excess([2, 0]) == test.expected_excess(np.array([0, 2]))

    def test_expected_excess_needs_positions_in_the_table(self, make, samples):
        test = make(n_kernels=2).fit(*samples)
        for kernels in ([], [0, 0], [2], [-1], [0.0], [[0]], 1, [True]):
            with pytest.raises(ValueError, match="0 to 1"):
                test.expected_excess(kernels)

    def test_needs_scores_and_the_loss_of_the_interval(self, make, samples):
        with pytest.raises(ValueError, match='start="score"'):
            make(start="random").fit(*samples).kernel_significance()
        kernel = make(loss="bce").fit(*samples).kernel_significance()[0]
        assert np.isnan(kernel.expected_excess_interval).all()

    def test_radius_is_where_the_kernel_has_fallen_to_the_level(self, make, samples):
        kernel = make().fit(*samples).kernel_table()[0]
        for level in (0.05, 0.5, 0.9):
            assert_allclose(np.exp(-(kernel.radius(level) ** 2) / (2 * kernel.width**2)), level, rtol=1e-12)
        with pytest.raises(ValueError, match="level is 1"):
            kernel.radius(1)


class TestExcessDeviation:
    CENTERS, WIDTH, AMPLITUDES = np.array([[0.3], [0.5]]), 0.15, np.array([0.8, -0.5])

    @pytest.mark.parametrize("mode", ["counting", "shape only", "event weights"])
    @pytest.mark.parametrize("competition", [True, False])
    def test_covers_the_truth_at_known_places(self, rng, mode, competition):
        """68 % of the intervals hold the excess that endless samples of the same densities have."""
        n_data, n_reference, inside, n_sets = 400, 1200, 0, 300
        expected = None if mode == "shape only" else float(n_data)

        def density(X):
            return np.exp(_activations(X, competition) @ self.AMPLITUDES)

        grid = (np.arange(4000)[:, None] + 0.5) / 4000
        total = n_data / np.sum(density(grid)) if expected is None else n_data / 4000
        want, _ = _fit_excess(grid, np.ones(4000), grid, total * density(grid), competition, expected)
        for _ in range(n_sets):
            size = 4 * n_data if expected is None else rng.poisson(3 * n_data)
            proposed = rng.random((size, 1))
            data = proposed[3 * rng.random(size) < density(proposed)][: n_data if expected is None else None]
            reference, raw = rng.random((n_reference, 1)), np.ones(n_reference)
            if mode == "event weights":  # draws of density (1 + x) / 1.5
                reference = np.sqrt(1 + 3 * reference) - 1
                raw = 1.5 / (1 + reference[:, 0])
            excess, deviation = _fit_excess(reference, raw, data, np.ones(len(data)), competition, expected)
            inside += np.abs(excess - want) < deviation
        low, high = stats.binom.interval(0.999, n_sets, 0.6827)
        assert np.all((inside >= low) & (inside <= high)), inside

    def test_of_a_fixed_count_is_smaller(self, rng):
        phi = [np.exp(-((rng.random((n, 1)) - [0.2, 0.6]) ** 2) / 0.1) for n in (300, 100)]
        weights = Weights(np.repeat([1 / 3, 0], [300, 100]), np.repeat([0.0, 1.0], [300, 100]), 1 / 3)
        of_fit = np.array([0.3, 0.1]), np.eye(2) > 0, weights, 0.1
        fixed, free = (_where.excess_deviation(*phi, *of_fit, shape_only) for shape_only in (True, False))
        assert np.all(fixed < free)


def _activations(X, competition):
    return Backend("numba").activations(X, TestExcessDeviation.CENTERS, TestExcessDeviation.WIDTH, competition)


def _fit_excess(reference, raw, data, counts, competition, expected):
    """Excess of each kernel and of both, and its deviation, amplitudes fitted at the true places."""
    pool = Pool([reference, data], np.append(raw, counts))
    of_data = np.arange(pool.n_rows) >= len(reference)
    weights = _toys.pair_weights(pool, np.where(of_data, 0, pool.weight), of_data * pool.weight, expected)
    objective = Objective(pool, stack([weights], np.arange(pool.n_rows)), competition, 0.0, Backend("numba"))
    schedule = np.full((1, 1, 10), TestExcessDeviation.WIDTH)
    solver, centers = NewtonSolver(5.0, tol=1e-8, reach=0.0), TestExcessDeviation.CENTERS[None]
    amplitudes = solver.solve(objective, np.zeros(1, np.int64), centers, schedule).amplitudes[0, 0]
    phi = [_activations(X, competition) for X in (reference, data)]
    groups = np.array([[1, 0], [0, 1], [1, 1]], dtype=bool)
    parts = amplitudes * phi[0]
    f, others = parts.sum(axis=1, keepdims=True), np.stack([parts[:, 1], parts[:, 0], 0 * parts[:, 0]], axis=1)
    excess = weights.reference[: len(reference)] @ (np.exp(f) - np.exp(others))
    return excess, _where.excess_deviation(*phi, amplitudes, groups, weights, 0.0, expected is None)


class TestWhichToys:
    def test_local_p_counts_the_very_toys_of_the_test(self, make, samples):
        place = [[0.3, -0.2]]
        whole = make(n_toys=60).fit(*samples)
        first = make(n_toys=20).fit(*samples)
        later = make(n_toys=40).fit(*samples)
        later.calibrate(first=20)
        counts = [p.local_p_values(place, 0.7)[0] * (n + 1) - 1 for p, n in ((whole, 60), (first, 20), (later, 40))]
        assert_allclose(counts[0], counts[1] + counts[2], atol=1e-9)

    def test_stopping_leaves_the_local_p_alone(self, make, samples):
        all_of_them, stopped = (make(n_toys=60, stopping=stopping).fit(*samples) for stopping in (None, 1))
        stopped.p_value()
        got, want = (test.local_p_values([[0.3, -0.2]], 0.7) for test in (stopped, all_of_them))
        assert_array_equal(got, want)


class TestRefusals:
    def test_places_with_columns_in_another_order(self, make, samples):
        frames = [pd.DataFrame(sample, columns=["a", "b"]) for sample in samples]
        test = make().fit(frames[0], data=frames[1])
        place = pd.DataFrame({"b": [0.0], "a": [2.0]})
        assert_array_equal(test.local_p_values(place[["a", "b"]], 0.5), test.local_p_values([[2.0, 0.0]], 0.5))
        with pytest.raises(ValueError, match="centers has the columns"):
            test.local_p_values(place, 0.5)

    def test_the_table_of_samples_that_were_changed(self, make, samples):
        test = make().fit(*samples)
        samples[1][0] += 1
        with pytest.raises(ValueError, match="changed in place after fit"):
            test.kernel_table()

    @pytest.mark.parametrize("n", [-1, 2.5])
    def test_a_number_of_rows_that_is_none(self, make, samples, n):
        with pytest.raises(ValueError, match="n_nearest is"):
            make().fit(*samples).kernel_table(n)


def test_kernels_compare_and_hash_as_objects(make, samples):
    test = make().fit(*samples)
    for one, two in ((test.kernel_table(), test.kernel_table()), ([test.result()], [test.result()])):
        assert one != two  # and no error of arrays that are compared
        assert len({*one, *two}) == len(one) + len(two)


def test_print_is_one_line(make, samples):
    test = make(n_toys=19).fit(*samples)
    kernel, tested = test.kernel_table()[0], test.kernel_significance()[0]
    what = {1: "excess", -1: "deficit"}[kernel.sign]
    assert str(kernel).startswith(f"{what} of {abs(kernel.excess):.1f} rows, score {kernel.score:+.1f}, at [")
    assert str(tested) == f"{kernel}, corrected p = {tested.corrected_pvalue:.3g}"
