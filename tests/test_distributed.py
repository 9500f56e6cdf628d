"""A reference in the partitions of a Dask array: the numbers of one in memory."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError

pytest.importorskip("distributed", reason="Dask is not installed: pip install sparker[dask]")
da = pytest.importorskip("dask.array", reason="Dask is not installed: pip install sparker[dask]")
import distributed  # noqa: E402

from sparker import BatchMonitor, power_curve, systematic_p_value  # noqa: E402
from sparker._backends import Kernels  # noqa: E402
from sparker._calibration import generator  # noqa: E402
from sparker._companions import on_pool  # noqa: E402
from sparker._pool import Pool, Weights  # noqa: E402
from sparker._statistic import SparKerStatistic  # noqa: E402
from sparker.distributed import PartitionedTest, _Rows  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

QUICK = {"n_kernels": 2, "n_widths": 3, "n_candidates": 16, "max_iter": 3, "random_state": 0, "calibration": "split"}


@pytest.fixture(scope="module", autouse=True)
def client():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def rows(rng):
    """Reference, in partitions of unequal size, and data with a clump."""
    reference = rng.normal(size=(3000, 2))
    data = np.concatenate([rng.normal(size=(130, 2)), rng.normal([2.0, 1.0], 0.1, size=(20, 2))])
    return da.from_array(reference, chunks=((700, 100, 2200), 1)), reference, data


def in_memory(rows, test):
    """Pool and weights of the observed pair of a fitted test."""
    pool = Pool([rows[1], rows[2]])
    weights = test._fitted.observed.weights
    used = np.ones(len(rows[1]))
    used[weights.left_out] = 0
    reference = np.append(used * weights.unit, np.zeros(len(rows[2])))
    return pool, Weights(reference, np.append(np.zeros(len(rows[1])), np.ones(len(rows[2]))), weights.unit)


class TestSums:
    @pytest.mark.parametrize("loss", ["np", "bce"])
    @pytest.mark.parametrize("competition", [True, False])
    def test_value_and_derivatives_are_those_in_memory(self, rows, rng, loss, competition):
        test = PartitionedTest(**QUICK, loss=loss, competition=competition).fit(rows[0], data=rows[2])
        pool, weights = in_memory(rows, test)
        kernels = Kernels(np.zeros(4, np.int64), rng.normal(size=(4, 3)), rng.normal(size=(4, 3, 2)), np.full(4, 0.7))
        there = test._fitted.statistic
        here = SparKerStatistic(**{name: getattr(there, name) for name in there.__dataclass_fields__})
        got = there._objective(test._fitted.observed.pool, [test._fitted.observed.weights], 1, True)(kernels)
        want = here._objective(pool, [weights], 1, True)(kernels)
        for g, w in zip(got, want, strict=True):
            assert_allclose(g, w, rtol=1e-10, atol=1e-10 * np.max(np.abs(w)))

    def test_a_fit_is_that_in_memory(self, rows):
        test = PartitionedTest(**QUICK).fit(rows[0], data=rows[2])
        pool, weights = in_memory(rows, test)
        fitted = test._fitted
        here = SparKerStatistic(
            **{name: getattr(fitted.statistic, name) for name in fitted.statistic.__dataclass_fields__}
        )
        plan = replace(fitted.plan, moments=on_pool(fitted.plan.moments, pool))
        shared = here.share(pool, [weights], plan)
        (found,) = here.evaluate(pool, [weights], plan, [generator(0, 0)], shared)
        assert_allclose(test.statistics_, found[0], rtol=1e-8, atol=1e-8)

    def test_toys_have_the_weights_that_they_say(self, rows):
        test = PartitionedTest(**QUICK).fit(rows[0], data=rows[2])
        pool, drawn = test._make_toys().draw(generator(3, 1))
        parts = [
            part.weights(size, np.float64)
            for part, size in zip([toys[0] for toys in pool.within_parts([drawn])], pool.sizes, strict=True)
        ]
        reference, data = (np.concatenate([getattr(part, name) for part in parts]) for name in ("reference", "data"))
        assert data.sum() == 150
        assert_array_equal(reference == 0, data == 1)
        assert_allclose(reference.sum(), 150, rtol=1e-12)
        assert_allclose(drawn.size, 300, rtol=1e-12)
        assert_array_equal(drawn.effective_sizes(), (2850, 150))


class TestEstimator:
    def test_finds_the_clump(self, rows):
        test = PartitionedTest(**QUICK, n_toys=39).fit(rows[0], data=rows[2])
        result = test.result()
        assert result.pvalue == 1 / 40
        assert (result.n_reference, result.n_data, result.calibration) == (3000, 150, "split")
        strongest = test.centers_[np.argmax(test.amplitudes_)]
        assert_allclose(strongest, [2, 1], atol=0.2)
        f = test.score_samples(np.array([[2.0, 1.0], [-2.0, -1.0]]))
        assert f[0] > 1 > abs(f[1])
        assert_allclose(test.transform(rows[2]).sum(axis=1), test.score_samples(rows[2]), rtol=1e-12)

    def test_toys_are_those_of_one_partition(self, rows):
        whole = da.from_array(rows[1], chunks=(3000, 2))
        one, many = (PartitionedTest(**QUICK, n_toys=20).fit(X, data=rows[2]) for X in (whole, rows[0]))
        assert_allclose(many.calibrate().values, one.calibrate().values, rtol=1e-9, atol=1e-9)

    def test_jobs_are_those_of_the_workers(self, rows):
        one, two = (PartitionedTest(**QUICK, n_toys=20, n_jobs=n).fit(rows[0], data=rows[2]) for n in (1, 2))
        assert_array_equal(one.calibrate().values, two.calibrate().values)

    def test_needs_a_fit(self, rows):
        with pytest.raises(NotFittedError):
            PartitionedTest(**QUICK).decision_function(rows[2])

    def test_is_no_test_of_arrays(self, rows):
        test = PartitionedTest(**QUICK).fit(rows[0], data=rows[2])
        for use in (
            lambda: power_curve(rows[1], np.zeros_like, [0.1], n_data=50, test=test),
            lambda: systematic_p_value(test, [np.ones(3000)]),
            lambda: BatchMonitor(test, rows[1]),
        ):
            with pytest.raises(TypeError, match="test is PartitionedTest: needed is one that takes toys"):
                use()

    def test_a_calibration_resumes(self, rows, tmp_path):
        whole = PartitionedTest(**QUICK, n_toys=20).fit(rows[0], data=rows[2]).calibrate()
        path = tmp_path / "null.npz"
        PartitionedTest(**QUICK, n_toys=16).fit(rows[0], data=rows[2]).calibrate(path)
        resumed = PartitionedTest(**QUICK, n_toys=20).fit(rows[0], data=rows[2]).calibrate(path)
        assert_array_equal(resumed.values, whole.values)

    def test_float32_stays(self, rows):
        test = PartitionedTest(**QUICK).fit(rows[0].astype(np.float32), data=rows[2].astype(np.float32))
        assert test._fitted.observed.pool.dtype == np.float32

    def test_float32_rows_that_are_repeated_become_float64(self, rows):
        rounded = [np.round(rows[k]).astype(np.float32) for k in (0, 2)]
        test = PartitionedTest(**QUICK).fit(rounded[0], data=rounded[1])
        assert test._fitted.observed.pool.dtype == np.float64

    @pytest.mark.parametrize(
        ("changes", "arguments", "message"),
        [
            ({"calibration": "permutation"}, {}, "calibration is 'permutation'"),
            ({"start": "random"}, {}, "start is 'random'"),
            ({}, {"sample_weight": np.ones(3000)}, "sample_weight is not supported"),
            ({}, {"data": np.ones((5, 3))}, "3 features, but X has 2"),
            ({}, {"data": np.ones((2000, 2))}, "twice as many reference as data rows, found 3000 and 2000"),
        ],
    )
    def test_what_it_cannot_do_is_said(self, rows, changes, arguments, message):
        with pytest.raises(ValueError, match=message):
            PartitionedTest(**(QUICK | changes)).fit(rows[0], **({"data": rows[2]} | arguments))

    def test_a_reference_of_numpy_is_refused(self, rows):
        with pytest.raises(TypeError, match="dask.array"):
            PartitionedTest(**QUICK).fit(rows[1], data=rows[2])

    def test_a_row_that_is_not_finite_is_refused(self, rows):
        with pytest.raises(ValueError, match="NaN or infinity"):
            PartitionedTest(**QUICK).fit(da.where(rows[0] > 3, np.nan, rows[0]), data=rows[2])

    def test_rows_are_not_listed(self, rows):
        test = PartitionedTest(**QUICK).fit(rows[0], data=rows[2])
        methods = (test.kernel_table, test.kernel_significance, test.expected_excess)
        for call in (*methods, lambda: test.local_p_values(rows[2], 1.0)):
            with pytest.raises(NotImplementedError, match="centers_"):
                call()


def test_rows_within_a_part(rng):
    rows = _Rows(np.array([3, 10, 11, 40]), True, 0.5, 46, 4)
    assert rows.within(10, 20).left_out.tolist() == [0, 1]
    weights = rows.within(10, 20).weights(20, np.float32)
    assert weights.data.tolist() == [1.0, 1.0] + [0.0] * 18
    assert weights.reference.tolist() == [0.0, 0.0] + [0.5] * 18


@pytest.mark.parametrize("sample", [20_000, 500])
def test_what_is_learned_comes_from_rows_that_are_used(rows, monkeypatch, sample):
    """As many as a toy has, none of those that the observed pair gave up."""
    monkeypatch.setattr("sparker.distributed.SAMPLE", sample)
    test = PartitionedTest(**QUICK).fit(rows[0], data=rows[2])
    pool = test._fitted.observed.pool
    assert len(pool.given_up) == len(rows[2])
    used = np.concatenate([np.delete(rows[1], pool.given_up, axis=0), rows[2]])
    drawn = pool.sample(generator(0, 0))
    assert drawn.n_rows == min(sample, 3000) == test._make_toys().pool.sample(generator(0, 0)).n_rows
    assert set(np.concatenate(drawn.blocks)[:, 0]) <= set(used[:, 0])
    assert sample == 500 or set(np.concatenate(drawn.blocks)[:, 0]) == set(used[:, 0])
