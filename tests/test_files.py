"""Files as memory maps, read in blocks, and tests on them."""

import gc

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sparker import SparKerTest, files
from sparker.files import open_table


@pytest.fixture(params=["npy", "h5", "parquet"])
def write(request, tmp_path):
    """Writer of rows to a file of one kind."""

    def to_file(rows, name="rows"):
        path = tmp_path / f"{name}.{request.param}"
        if request.param == "npy":
            np.save(path, rows)
        elif request.param == "h5":
            with pytest.importorskip("h5py").File(path, "w") as file:
                file.create_group("events")["rows"] = rows
        else:
            pd = pytest.importorskip("pandas")
            pytest.importorskip("pyarrow")
            pd.DataFrame(rows, columns=[f"x{j}" for j in range(rows.shape[1])]).to_parquet(path)
        return path

    return to_file


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_those_of_the_file_however_many_blocks(write, rng, monkeypatch, dtype):
    monkeypatch.setattr(files, "BLOCK", 1000)
    rows = rng.normal(size=(333, 3)).astype(dtype)
    found = open_table(write(rows))
    assert isinstance(found, np.memmap)
    assert found.dtype == dtype
    assert not found.flags.writeable
    assert_array_equal(found, rows)


def test_integers_become_floats_or_stay_for_fit(write):
    assert_array_equal(open_table(write(np.arange(6).reshape(3, 2))), np.arange(6).reshape(3, 2))


def test_a_test_on_maps_is_that_on_arrays(write, rng):
    reference, data = rng.normal(size=(600, 2)), rng.normal(0.3, 1, size=(100, 2))
    params = {"n_widths": 2, "n_candidates": 30, "n_toys": 19, "random_state": 0}
    want = SparKerTest(**params).fit(reference, data)
    got = SparKerTest(**params).fit(open_table(write(reference)), data=open_table(write(data, "data")))
    assert_array_equal(got.statistics_, want.statistics_)
    assert got.p_value() == want.p_value()
    assert isinstance(got._fitted.samples.reference.base, np.memmap)  # no copy
    assert_array_equal(got.score_samples(open_table(write(data, "again"))), want.score_samples(data))


def test_a_copy_is_gone_with_the_last_view_of_it(write, rng, tmp_path):
    path = write(rng.normal(size=(30, 2)))
    before = set(tmp_path.iterdir())
    found = np.asarray(open_table(path, directory=tmp_path))[3:]
    assert np.isfinite(found).all()
    del found
    gc.collect()
    assert set(tmp_path.iterdir()) == before


def test_a_copy_that_fails_leaves_no_file(write, rng, tmp_path, monkeypatch):
    path = write(rng.normal(size=(30, 2)))
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(np, "memmap", None)
    if path.suffix != ".npy":
        with pytest.raises(TypeError):
            open_table(path, directory=tmp_path)
    assert set(tmp_path.iterdir()) == before


def test_processes_share_a_map(write, rng):
    reference, data = rng.normal(size=(40_000, 2)), rng.normal(size=(50, 2))  # large enough for joblib to share it
    params = {"n_widths": 2, "n_candidates": 20, "n_toys": 20, "random_state": 0}
    one, two = (SparKerTest(**params, n_jobs=n).fit(open_table(write(reference)), data=data) for n in (1, 2))
    assert_array_equal(one.calibrate().values, two.calibrate().values)


def test_what_cannot_be_used_is_named(write, tmp_path, rng):
    with pytest.raises(ValueError, match=r"known suffixes are \.npy"):
        open_table(tmp_path / "rows.root")
    with pytest.raises(ValueError, match=r"rows\.\w+.*needed are rows and columns"):
        open_table(write(np.empty((0, 3))))
    with pytest.raises(FileNotFoundError):
        open_table(tmp_path / "absent.npy")


def test_columns_of_text_are_named(tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    for label in (["a", "b"], pd.Categorical(["a", "b"]), pd.to_datetime(["2026-01-01", "2026-01-02"])):
        pd.DataFrame({"x": [1.0, 2.0], "label": label, "y": [True, False]}).to_parquet(tmp_path / "x.parquet")
        with pytest.raises(ValueError, match="columns label are not numeric"):
            open_table(tmp_path / "x.parquet")


def test_the_index_of_pandas_is_no_column(tmp_path, rng):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(rng.normal(size=(50, 3)), columns=["pt", "eta", "phi"])
    for some in (frame, frame[frame["pt"] > 0], frame.set_index("eta")):
        some.to_parquet(tmp_path / "x.parquet")
        assert_array_equal(open_table(tmp_path / "x.parquet"), some.to_numpy())


@pytest.mark.parametrize(
    "make", [np.asfortranarray, lambda rows: (9 * rows).astype("i4"), lambda rows: rows.astype(">f4")]
)
def test_arrays_that_fit_would_copy_are_copied_to_a_file(tmp_path, rng, monkeypatch, make):
    monkeypatch.setattr(files, "BLOCK", 1000)
    rows = make(rng.normal(size=(400, 3)))
    np.save(tmp_path / "x.npy", rows)
    found = open_table(tmp_path / "x.npy")
    assert_array_equal(found, rows)
    test = SparKerTest(n_widths=2, n_candidates=20, random_state=0).fit(found, data=found[:100] + 0.5)
    assert np.shares_memory(test._fitted.samples.reference, found)


@pytest.mark.parametrize("suffix", [".npy", ".h5", ".parquet"])
@pytest.mark.parametrize("content", [b"", b"a text of some length"])
def test_damaged_files_are_named(tmp_path, suffix, content):
    pytest.importorskip({".h5": "h5py", ".parquet": "pyarrow"}.get(suffix, "numpy"))
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\{suffix} is no "):
        open_table(path)


def test_data_sets_are_named(tmp_path, rng):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"], file["b"] = rng.normal(size=(4, 2)), rng.normal(size=(5, 2))
    assert open_table(tmp_path / "x.h5", key="b").shape == (5, 2)
    for key in (None, "c"):
        with pytest.raises(ValueError, match="data sets a, b"):
            open_table(tmp_path / "x.h5", key=key)
