"""The null distribution kept: back from a file, joined without doubles, refused where it does not fit."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy import stats
from sklearn.base import clone

from sparker import NullDistribution, SparKerTest
from sparker._calibration import BATCH, simulate
from sparker._null import ARRAYS, SCHEMA, ToyFailure
from sparker._pool import Pool
from sparker._toys import PermutationToys
from sparker.peers import MMDTest


class Mean:
    """Difference of means; what it is told to do happens before toy `at`."""

    on_device, entry_weights = False, None

    def __init__(self, at=None, action=None, failing=()):
        self.at, self.action, self.failing = at, action, failing

    def learn(self, pool, rng):
        return None

    def share(self, pool, toys, plan):
        return list(range(len(toys)))

    def evaluate(self, pool, toys, plan, rngs, shared):
        return [self.evaluate_one(pool, *toy) for toy in zip(toys, rngs, strict=True)]

    def evaluate_one(self, pool, weights, rng):
        number = rng.bit_generator.seed_seq.spawn_key[0]
        if number == self.at:
            self.action()
        if number in self.failing:
            return ValueError("no luck")
        x = pool.rows(np.arange(pool.n_rows))[:, 0]
        means = [np.average(x, weights=w) for w in (weights.data, weights.reference)]
        return np.array([means[0] - means[1]]), number % 7 != 3


def fit(samples, quick, **changes):
    return SparKerTest(**(quick | changes)).fit(*samples)


def assert_same(got, want):
    for name in ARRAYS:
        assert_array_equal(getattr(got, name), getattr(want, name))
        assert getattr(got, name).dtype == getattr(want, name).dtype
    names = ("calibration", "failures", "origin", "stopping")
    assert [getattr(got, name) for name in names] == [getattr(want, name) for name in names]


def make_bank(n=4, seed=3, first=0, failing=(), values=None, **fields):
    numbers = np.arange(first, first + n)
    failed = np.isin(numbers, failing)
    values = np.random.default_rng([seed, first]).normal(size=(n, 2)) if values is None else values
    values[failed] = np.inf
    fields = {"calibration": "permutation", "origin": {"rows": "abc", "n_data": 4}} | fields
    messages = tuple(f"toy {i}: no luck (seed {seed})" for i in numbers[failed])
    return NullDistribution(values, ~failed, failed, np.full(n, seed), numbers, failures=messages, **fields)


@pytest.fixture
def toys(samples):
    return PermutationToys(Pool(samples), 40, None)


class TestFile:
    @given(
        st.lists(st.floats(allow_nan=False), min_size=1, max_size=30),
        st.integers(0, 2**32 - 1),
        st.text(max_size=5),
        st.one_of(st.none(), st.integers(1, 9)),
    )
    def test_gives_back_the_same(self, tmp_path_factory, values, seed, text, stopping):
        path = tmp_path_factory.mktemp("banks") / "bank.npz"
        origin = {"rows": text, "tol": 0.1 + 0.2, "width_init": [2.0, 99], "expected_count": None}
        bank = make_bank(len(values), seed, values=np.array(values)[:, None], origin=origin, stopping=stopping)
        bank.save(path)
        assert_same(NullDistribution.load(path), bank)

    def test_of_a_test_gives_the_same_result(self, samples, quick, tmp_path):
        want = fit(samples, quick)
        want.calibrate().save(tmp_path / "bank.npz")
        bank = NullDistribution.load(tmp_path / "bank.npz")
        assert_same(bank, want.calibrate())
        got = fit(samples, quick, null_distribution=bank, n_toys=3)
        assert got.result().to_dict() == want.result().to_dict()
        assert got.calibrate() is bank

    def test_holds_no_pickle_and_a_header_in_json(self, samples, quick, tmp_path):
        path = tmp_path / "bank"  # NumPy alone would append a suffix
        fit(samples, quick).calibrate(path)
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            assert {*file} == {"header", *ARRAYS}
        assert header["schema"] == SCHEMA
        assert header["origin"]["n_kernels"] == 2

    def test_is_replaced_whole_or_not_at_all(self, tmp_path, monkeypatch):
        path = tmp_path / "bank.npz"
        make_bank(4).save(path)
        before = path.read_bytes()

        def write_half(file, **arrays):
            file.write(before[:100])
            raise KeyboardInterrupt

        monkeypatch.setattr(np, "savez", write_half)
        with pytest.raises(KeyboardInterrupt):
            make_bank(9).save(path)
        assert path.read_bytes() == before

    def test_that_is_none_is_named(self, tmp_path):
        path = tmp_path / "bank.npz"
        for content in (b"", b"no zip", b"PK\x03\x04 broken"):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=r"bank\.npz holds no null distribution: it is no \.npz file"):
                NullDistribution.load(path)
        np.savez(path, a=np.zeros(3))
        with pytest.raises(ValueError, match="holds no null distribution.*header"):
            NullDistribution.load(path)
        with pytest.raises(FileNotFoundError):
            NullDistribution.load(tmp_path / "missing.npz")

    def test_of_another_schema_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sparker._null.SCHEMA", 1)
        make_bank().save(tmp_path / "bank.npz")
        monkeypatch.undo()
        with pytest.raises(ValueError, match=f"another schema than {SCHEMA}"):
            NullDistribution.load(tmp_path / "bank.npz")


class TestMerge:
    @given(st.permutations(range(4)))
    def test_order_does_not_matter(self, order):
        parts = [make_bank(5, 3), make_bank(4, 3, first=5, failing=[6]), make_bank(3, 2, first=9), make_bank(2, 8)]
        first, *others = (parts[k] for k in order)
        got = first.merge(*others)
        assert_same(got, parts[2].merge(parts[0], parts[1], parts[3]))
        assert len(got) == 14
        assert np.all(np.diff(got.seeds) >= 0)

    def test_jobs_with_toys_of_their_own_make_the_whole(self, samples, quick):
        whole = fit(samples, quick, n_toys=50).calibrate()
        jobs = [fit(samples, quick, n_toys=n).calibrate(first=first) for first, n in ((21, 29), (0, 3), (3, 18))]
        assert_same(jobs[0].merge(*jobs[1:]), whole)

    def test_one_test_in_a_loop_over_jobs_simulates_the_toys_of_each(self, samples, quick):
        test = fit(samples, quick, n_toys=10)
        jobs = [test.calibrate(first=first) for first in (10, 0, 20)]
        assert [job.numbers[0] for job in jobs] == [10, 0, 20]
        assert test.calibrate() is jobs[-1]
        assert_array_equal(jobs[1].merge(jobs[0], jobs[2]).values, fit(samples, quick, n_toys=30).calibrate().values)

    def test_a_first_toy_beside_a_bank_is_refused(self, samples, quick):
        bank = fit(samples, quick, n_toys=10).calibrate()
        with pytest.raises(ValueError, match="first is 10: with null_distribution"):
            fit(samples, quick, null_distribution=bank).calibrate(first=10)

    def test_no_toy_twice(self):
        with pytest.raises(ValueError, match=r"Toy 2 \(seed 3\) is in two .* 1 more"):
            make_bank(4).merge(make_bank(4, first=2))
        bank = make_bank(4)
        with pytest.raises(ValueError, match="is in two"):
            bank.merge(bank)

    def test_other_toys_are_refused_by_name(self):
        other = make_bank(first=4, origin={"rows": "abd", "n_data": 5})
        with pytest.raises(ValueError, match="rows: found 'abd', needed 'abc'; n_data: found 5, needed 4"):
            make_bank().merge(other)

    def test_failures_stay_with_their_toys(self, tmp_path):
        a, b = make_bank(40, first=40, failing=[41]), make_bank(40, failing=[7, 3])
        a.save(tmp_path / "a.npz")
        merged = b.merge(NullDistribution.load(tmp_path / "a.npz"))
        assert np.flatnonzero(merged.failed).tolist() == [3, 7, 41]
        assert merged.failures == tuple(f"toy {i}: no luck (seed 3)" for i in (3, 7, 41))
        assert np.all(merged.values[merged.failed] == np.inf)
        merged.check_failures()


class TestExtend:
    @pytest.mark.parametrize("calibration", ["permutation", "split", "callable"])
    @pytest.mark.parametrize("n", [3, BATCH, BATCH + 5])
    def test_equals_one_long_run(self, samples, quick, calibration, n):
        mode = draw_pair if calibration == "callable" else calibration
        want = fit(samples, quick, n_toys=n + 20, calibration=mode).calibrate()
        bank = fit(samples, quick, n_toys=n, calibration=mode).calibrate()
        assert_same(bank.extend(fit(samples, quick, calibration=mode, null_distribution=bank), 20), want)

    def test_by_another_seed_adds_its_first_toys(self, samples, quick):
        bank = fit(samples, quick, calibration="split", n_toys=5).calibrate()
        test = fit(samples, quick, calibration="split", random_state=9)
        more = bank.extend(test, 4).extend(test, 3)
        assert more.seeds.tolist() == [0] * 5 + [9] * 7
        assert more.numbers.tolist() == [*range(5), *range(7)]
        assert_array_equal(more.values[5:], test.calibrate().values[:7])

    def test_by_another_test_is_refused(self, samples, quick):
        bank = fit(samples, quick).calibrate()
        with pytest.raises(ValueError, match="n_kernels: found 2, needed 1"):
            bank.extend(fit(samples, quick, n_kernels=1), 5)


def draw_pair(rng):
    return rng.normal(size=(120, 2)), rng.normal(size=(40, 2))


class TestFit:
    """Which tests a null distribution serves, and what the others are told."""

    def refuse(self, match, samples, quick, bank, **changes):
        with pytest.raises(ValueError, match=match) as error:
            fit(samples, quick, null_distribution=bank, **changes)
        return str(error.value)

    def test_permutation_serves_its_pool_alone(self, samples, quick):
        reference, data = samples
        bank = fit(samples, quick).calibrate()
        other = data.copy()
        other[0, 0] += 1e-9
        message = self.refuse("does not fit this test. rows: found '", (reference, other), quick, bank)
        assert message.count("found") == 1
        self.refuse("n_data: found 40, needed 120", (data, reference), quick, bank)
        self.refuse("seed: found 0, needed 1", samples, quick, bank, random_state=1)
        assert fit(samples, quick, null_distribution=bank, random_state=None).seed_ == 0

    def test_permutation_serves_other_labels_of_its_pool(self, samples, quick, rng):
        X, y = np.concatenate(samples), np.repeat([0, 1], [120, 40])
        bank = SparKerTest(**quick).fit(X, y).calibrate()
        other = rng.permutation(y)
        test = SparKerTest(**quick, null_distribution=bank).fit(X, other)
        assert test.p_value() == SparKerTest(**quick).fit(X, other).p_value()

    @pytest.mark.parametrize("calibration", ["split", "bootstrap"])
    @pytest.mark.filterwarnings("ignore:calibration=.bootstrap")
    def test_others_serve_any_data_of_the_same_size(self, samples, quick, calibration):
        reference, data = samples
        quick = quick | {"calibration": calibration}
        bank = fit(samples, quick).calibrate()
        batch = data[::-1] * 1.5
        test = fit((reference, batch), quick, null_distribution=bank)
        assert test.result().to_dict() == fit((reference, batch), quick).result().to_dict()
        self.refuse("n_data: found 40, needed 39", (reference, data[1:]), quick, bank)
        self.refuse("rows: found .*n_rows: found 120, needed 119", (reference[1:], data), quick, bank)
        self.refuse("rows: found ", (reference + 1e-9, data), quick, bank)
        self.refuse("dtype: found 'float64', needed 'float32'", [s.astype(np.float32) for s in samples], quick, bank)

    def test_poisson_counts_serve_any_number_of_data_rows(self, samples, quick):
        reference, data = samples
        quick = quick | {"calibration": "split", "expected_count": 35.0}
        bank = fit(samples, quick).calibrate()
        few = fit((reference, data[:30]), quick, null_distribution=bank)
        assert few.result().n_data == 30
        assert few.calibrate() is bank
        self.refuse("expected_count: found 35.0, needed 36.0", samples, quick, bank, expected_count=36.0)
        self.refuse("n_data: found None, needed 40; expected", samples, quick, bank, expected_count=None)

    @pytest.mark.parametrize(
        ("name", "value"), [("n_widths", 4), ("alpha", 0.2), ("competition", False), ("width_init", (2.0, 90))]
    )
    def test_parameters_of_the_statistic_are_named(self, samples, quick, name, value):
        bank = fit(samples, quick).calibrate()
        message = self.refuse(f"{name}: found .*, needed ", samples, quick, bank, **{name: value})
        assert message.count("found") == 1

    def test_one_error_names_all(self, samples, quick):
        bank = fit(samples, quick).calibrate()
        bank = replace(bank, origin={**bank.origin, "version": "0.0"})
        message = self.refuse("version: found '0.0'", samples, quick, bank, n_kernels=1, calibration="split")
        for item in ("n_kernels: found 2, needed 1", "calibration: found 'permutation', needed 'split'", "rows: "):
            assert item in message

    def test_another_kind_of_test_is_refused(self, samples, quick):
        bank = MMDTest(n_toys=19, random_state=0).fit(*samples).calibrate()
        self.refuse("statistic: found 'MMDStatistic', needed 'SparKerStatistic'", samples, quick, bank)

    def test_callables_are_told_apart_by_name(self, samples, quick):
        bank = fit(samples, quick, calibration=draw_pair).calibrate()
        fit(samples, quick, calibration=draw_pair, null_distribution=bank, random_state=7).p_value()
        self.refuse("calibration: found '.*draw_pair', needed '.*lambda", samples, quick, bank, calibration=lambda r: r)

    def test_callables_are_told_apart_by_what_they_hold(self, samples, quick):
        def draw(shift, *, rows, rng):
            return rows, rng.normal(shift, size=(40, 2))

        draws = [partial(draw, shift, rows=samples[0] + more) for shift, more in ((0.0, 0), (2.0, 0), (0.0, 1e-9))]
        bank = fit(samples, quick, calibration=partial(call, draws[0])).calibrate()
        fit(
            samples,
            quick,
            calibration=partial(call, partial(draw, 0.0, rows=samples[0].copy())),
            null_distribution=bank,
        )
        for other in draws[1:]:
            self.refuse("calibration: found", samples, quick, bank, calibration=partial(call, other))
        with pytest.raises(ValueError, match="n_reference: found 120, needed 60"):
            fit((samples[0][:60], samples[1]), quick, calibration=partial(call, draws[0]), null_distribution=bank)

    @pytest.mark.parametrize("apart", [True, False])
    def test_a_reference_scaled_with_its_data_is_refused(self, samples, quick, apart):
        quick = quick | {"calibration": "split"}
        X, y = np.concatenate(samples), np.repeat([0, 1], [120, 40])
        bank = SparKerTest(**quick).fit(X, y).calibrate()
        test = SparKerTest(**quick, null_distribution=bank)
        with pytest.raises(ValueError, match="samples: found 'pooled rows with labels', needed 'reference and data ap"):
            test.fit(*(samples if apart else (X, y)))
        bank = fit(samples, quick).calibrate()
        with pytest.raises(ValueError, match="samples: found 'reference and data apart', needed 'pooled"):
            test.set_params(null_distribution=bank).fit(X, y)

    def test_data_weights_are_refused_as_without(self, samples, quick):
        bank = fit(samples, quick, calibration="split").calibrate()
        X, y, weight = np.concatenate(samples), np.repeat([0, 1], [120, 40]), np.repeat([1.0, 2.0], [120, 40])
        test = SparKerTest(**quick, calibration="split", null_distribution=bank)
        with pytest.raises(ValueError, match="data rows of toys have weight 1"):
            test.fit(X, y, sample_weight=weight)

    def test_stopped_toys_serve_nobody(self, samples, quick):
        test = fit(samples, quick, stopping=3)
        bank = test.calibrate()
        self.refuse("stopping=3 cannot be used again", samples, quick, bank)
        self.refuse("stopping is for toys yet to be", samples, quick, bank, stopping=3)
        for call in (lambda: bank.merge(bank), lambda: bank.extend(test, 5)):
            with pytest.raises(ValueError, match=r"stopping=3 cannot be (merged|extended)"):
                call()

    def test_too_many_failed_toys_are_an_error_here_too(self, samples, quick):
        bank = fit(samples, quick).calibrate()
        bank = replace(bank, failed=np.arange(19) < 2, failures=("toy 0: no luck (seed 0)", "toy 1: none (seed 0)"))
        self.refuse("2 of 19 toys failed", samples, quick, bank)

    def test_one_failed_toy_of_a_few_is_none_too_many(self, samples, quick):
        bank = fit(samples, quick).calibrate()
        replace(bank, failed=np.arange(19) < 1, failures=("toy 0: no luck (seed 0)",)).check_failures()

    def test_clone_keeps_it_and_repr_is_short(self, samples, quick):
        bank = fit(samples, quick).calibrate()
        test = SparKerTest(**quick, null_distribution=bank)
        assert_same(clone(test).null_distribution, copy.deepcopy(bank))
        assert repr(bank) == "NullDistribution(19 toys, 15 entries, permutation)"
        assert repr(bank) in repr(test)


class TestResume:
    def test_an_interrupted_run_goes_on_with_the_same_numbers(self, toys, tmp_path):
        def interrupt():
            raise KeyboardInterrupt

        path, n = tmp_path / "bank.npz", 5 * BATCH + 3
        want = simulate(Mean(failing=[4]), toys, None, 5, n, origin={"rows": "a"})
        n_before = []
        for at in (BATCH + 2, 2 * BATCH, 5 * BATCH + 1):
            statistic = Mean(at, interrupt, failing=[4])
            with pytest.raises(KeyboardInterrupt):
                simulate(statistic, toys, None, 5, n, origin={"rows": "a"}, path=path)
            n_before.append(len(NullDistribution.load(path)))
        assert n_before == sorted(n_before)
        assert BATCH <= n_before[0] < n_before[-1] < n

        seen = Mean(4, lambda: pytest.fail("a finished toy is simulated again"), failing=[4])
        got = simulate(seen, toys, None, 5, n, origin={"rows": "a"}, path=path)
        assert_same(got, want)
        assert_same(NullDistribution.load(path), want)

    def test_more_toys_go_on_and_fewer_leave_the_file(self, samples, quick, tmp_path):
        path = tmp_path / "bank.npz"
        fit(samples, quick, n_toys=7).calibrate(path)
        assert_same(fit(samples, quick, n_toys=40).calibrate(path), fit(samples, quick, n_toys=40).calibrate())
        assert len(fit(samples, quick, n_toys=5).calibrate(path)) == 5
        assert len(NullDistribution.load(path)) == 40

    def test_with_a_bar_too(self, samples, quick, tmp_path, capsys):
        path = tmp_path / "bank.npz"
        for n in (7, 40, 40):  # the last has nothing left to do
            fit(samples, quick, n_toys=n, verbose=1).calibrate(path)
        assert "33/33" in capsys.readouterr().err
        fit(samples, quick, n_toys=400, verbose=1, stopping=1).calibrate()

    def test_a_calibrated_test_writes_its_toys(self, samples, quick, tmp_path):
        test = fit(samples, quick)
        want = test.calibrate()
        assert test.calibrate(tmp_path / "bank.npz") is want
        assert_same(NullDistribution.load(tmp_path / "bank.npz"), want)
        fit(samples, quick, n_toys=30).calibrate(tmp_path / "bank.npz")
        test.calibrate(tmp_path / "bank.npz")
        assert len(NullDistribution.load(tmp_path / "bank.npz")) == 30  # fewer toys do not replace more
        other = fit(samples, quick, n_kernels=1)
        other.calibrate()
        with pytest.raises(ValueError, match="n_kernels: found 2, needed 1"):
            other.calibrate(tmp_path / "bank.npz")

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"n_kernels": 1}, "n_kernels: found 2, needed 1"),
            ({"random_state": 4, "calibration": "split"}, "seed: found 0, needed 4"),
            ({"stopping": 5}, "stopping: found None, needed 5"),
        ],
    )
    def test_the_file_of_another_calibration_is_refused_and_stays(self, samples, quick, tmp_path, changes, match):
        path = tmp_path / "bank.npz"
        quick = quick | {key: value for key, value in changes.items() if key == "calibration"}
        fit(samples, quick).calibrate(path)
        before = path.read_bytes()
        with pytest.raises(ValueError, match=f"does not fit this test.*{match}"):
            fit(samples, quick, **changes).calibrate(path)
        assert path.read_bytes() == before

    def test_toys_that_start_elsewhere_or_were_merged_are_refused(self, samples, quick, tmp_path):
        path = tmp_path / "bank.npz"
        test = fit(samples, quick)
        test.calibrate(path, first=32)
        with pytest.raises(ValueError, match="first: found 32, needed 0"):
            fit(samples, quick).calibrate(path)
        test.calibrate().merge(fit(samples, quick).calibrate()).save(path)
        with pytest.raises(ValueError, match="first: found 'merged toys [0-9a-f]{16}'"):
            fit(samples, quick).calibrate(path)
        other = test.calibrate().merge(fit(samples, quick).calibrate(first=64))
        with pytest.raises(ValueError, match="first: found 'merged toys"):
            fit(samples, quick, null_distribution=other).calibrate(path)

    def test_a_killed_process_goes_on_with_the_same_numbers(self, tmp_path, rng):
        script = """
import sys
import numpy as np
from sparker.peers import MMDTest
rng = np.random.default_rng(0)
pair = rng.normal(size=(700, 1)), rng.normal(size=(300, 1))

def calibrate(path):
    return MMDTest(n_toys=2000, random_state=0).fit(*pair).calibrate(path)

if __name__ == "__main__":
    calibrate(sys.argv[1])
"""
        killed, n_toys = tmp_path / "killed.npz", [0]
        for _ in range(3):
            process = subprocess.Popen([sys.executable, "-c", script, killed])
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                if killed.exists() and len(NullDistribution.load(killed)) > n_toys[-1]:
                    break
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.1))
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            n_toys.append(len(NullDistribution.load(killed)))
        assert 0 < n_toys[1] < n_toys[2] < n_toys[3] < 2000
        names = {"__name__": "child"}
        exec(script, names)
        got, want = (names["calibrate"](path) for path in (killed, tmp_path / "whole.npz"))
        assert_same(got, want)
        assert_same(NullDistribution.load(killed), want)


class TestFailures:
    def test_are_named_with_number_and_seed(self, toys, caplog):
        with caplog.at_level("INFO", logger="sparker"):
            null = simulate(Mean(failing=[3, 20]), toys, None, 5, 60)
        assert null.failures == ("toy 3: no luck (seed 5)", "toy 20: no luck (seed 5)")
        assert null.not_converged == tuple(f"toy {i} (seed 5)" for i in (10, 17, 24, 31, 38, 45, 52, 59))
        text = caplog.text
        assert "counted as reaching the observed statistic: toy 20: no luck (seed 5)" in text
        assert "Not converged, keep their value as the observed fit would: toy 10 (seed 5), toy 17" in text

    def test_too_many_are_an_error_after_a_resume_too(self, toys, tmp_path):
        path, statistic = tmp_path / "bank.npz", Mean(failing=range(10, 13))
        for _ in range(2):
            with pytest.raises(ToyFailure, match="3 of 40 toys failed"):
                simulate(statistic, toys, None, 5, 40, origin={}, path=path)
        simulate(statistic, toys, None, 5, 60, origin={}, path=path)  # 3 of 60 may


@pytest.mark.slow
class TestUnderTheNull:
    def test_batches_against_one_bank_keep_the_level_over_references(self, seed):
        """Rate of p <= 0.1 over 150 references with two batches each: no more than 99.9 % of cases would have."""
        p_values = []
        for i in range(150):
            rng = np.random.default_rng([seed, i])
            reference = rng.exponential(size=(200, 1))
            params = {"calibration": "split", "n_toys": 19, "random_state": i}
            bank = None
            for _ in range(2):
                test = MMDTest(null_distribution=bank, **params)
                p_values.append(test.fit(reference, rng.exponential(size=(20, 1))).p_value())
                bank = test.calibrate()
        first, second = np.reshape(p_values, (150, 2)).T
        limit = stats.binom.ppf(0.9995, 150, 0.1)
        for p in (first, second):
            assert 2 <= np.sum(p < 0.101) <= limit


def call(draw, rng):
    return draw(rng=rng)


class TestMessages:
    @pytest.fixture
    def fitted(self, samples, quick):
        return SparKerTest(**quick).fit(*samples)

    def test_a_header_without_its_items_is_no_null_distribution(self, fitted, tmp_path):
        fitted.calibrate().save(tmp_path / "bank.npz")
        with np.load(tmp_path / "bank.npz") as file:
            arrays, header = {name: file[name] for name in ARRAYS}, json.loads(str(file["header"]))
        for changed in ({}, [1], {**header, "more": 1}, {k: v for k, v in header.items() if k != "failures"}):
            np.savez(tmp_path / "other.npz", header=np.array(json.dumps(changed)), **arrays)
            with pytest.raises(ValueError, match="holds (no null distribution|other items)"):
                NullDistribution.load(tmp_path / "other.npz")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda bank: replace(bank, values=bank.values[:, 0]), "values that are no statistics"),
            (lambda bank: replace(bank, values=bank.values.astype(str)), "values that are no statistics"),
            (lambda bank: replace(bank, values=bank.values * np.nan), "values that are no statistics"),
            (lambda bank: replace(bank, **{name: getattr(bank, name)[:0] for name in ARRAYS}), "values that are no"),
            (lambda bank: replace(bank, failed=~bank.failed), r"holds \d+ failed toys and 0 messages"),
        ],
    )
    def test_arrays_that_are_none_of_a_null_distribution(self, fitted, tmp_path, change, message):
        change(fitted.calibrate()).save(tmp_path / "bank.npz")
        with pytest.raises(ValueError, match=message):
            NullDistribution.load(tmp_path / "bank.npz")

    def test_merging_says_that_the_toys_do_not_fit_each_other(self, fitted, samples, quick):
        other = SparKerTest(**(quick | {"n_kernels": 1})).fit(*samples).calibrate()
        with pytest.raises(ValueError, match=r"does not fit the others\. n_kernels: found 1, needed 2"):
            fitted.calibrate().merge(other)

    def test_extending_with_a_test_that_stops(self, fitted, samples, quick):
        with pytest.raises(ValueError, match="stopping of the test is 3: a bank is extended with it set to None"):
            fitted.calibrate().extend(SparKerTest(**quick, stopping=3).fit(*samples), 5)
