"""Toys on a cluster: joblib's backends "dask" and "ray", on real local clusters of two workers."""

import os
import signal

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import sparker._calibration
from sparker import SparKerTest
from sparker._calibration import _Work

# Third parties warn of their own deprecations, and of workers that tests kill.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def wide(rng):
    """Reference and data of a few megabytes."""
    return rng.normal(size=(20_000, 8)).astype(np.float32), rng.normal(size=(500, 8)).astype(np.float32)


def calibrate(samples, n_toys=64, **changes):
    params = {"n_kernels": 2, "n_widths": 2, "n_candidates": 16, "max_iter": 3, "random_state": 0}
    return SparKerTest(**params, n_toys=n_toys, **changes).fit(samples[0], data=samples[1]).calibrate().values


@pytest.fixture(scope="module")
def dask_client():
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install sparker[dask]")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def holders(client, known=()):
    """Workers that have the rows of a calibration that is not known, by their key."""
    return {key: workers for key, workers in client.who_has().items() if key.startswith("_Work") and key not in known}


class TestDask:
    def test_the_same_numbers(self, dask_client, wide):
        want = calibrate(wide)
        with joblib.parallel_config(backend="dask"):
            assert_array_equal(calibrate(wide), want)

    def test_rows_are_sent_to_a_worker_once(self, dask_client, wide, monkeypatch):
        n_sent = []
        monkeypatch.setattr(_Work, "__getstate__", lambda self: n_sent.append(1) or self.__dict__)
        with joblib.parallel_config(backend="dask"):
            calibrate(wide, n_toys=320)  # 20 batches
        assert 1 <= len(n_sent) <= 10  # not once for each batch; a worker that is late may be sent them again

    @pytest.mark.slow
    @pytest.mark.parametrize("all_copies", [False, True])
    def test_killed_workers_lose_nothing(self, dask_client, samples, monkeypatch, caplog, all_copies):
        samples = [part + all_copies for part in samples]  # Dask knows equal rows by their key
        want = calibrate(samples, n_toys=3000)
        progress, known, killed = sparker._calibration._progress, holders(dask_client), []

        def kill(parts, *args):
            for k, part in enumerate(progress(parts, *args)):
                if k == 3:
                    (workers,) = holders(dask_client, known).values()
                    # Dask drops copies when it likes, and a worker may fetch one: all workers go, or one that has them.
                    killed.extend(dask_client.scheduler_info()["workers"] if all_copies else workers[:1])
                    for pid in dask_client.run(os.getpid, workers=killed).values():
                        os.kill(pid, signal.SIGKILL)
                yield part

        monkeypatch.setattr(sparker._calibration, "_progress", kill)
        with joblib.parallel_config(backend="dask"):
            assert_array_equal(calibrate(samples, n_toys=3000), want)
        assert not set(killed) & set(dask_client.scheduler_info()["workers"])
        if all_copies:
            assert "they are sent again" in caplog.text


class TestRay:
    def test_the_same_numbers(self, samples):
        pytest.importorskip("ray", reason="Ray is not installed: pip install sparker[ray]")
        import ray
        from ray.util.joblib import register_ray

        want = calibrate(samples)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        register_ray()
        try:
            with joblib.parallel_config(backend="ray", n_jobs=2):
                assert_array_equal(calibrate(samples), want)
        finally:
            ray.shutdown()
