"""Tables larger than the memory: HDF5, parquet and NumPy files as memory maps, read a block of rows at a time."""

import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["open_table"]

Array = npt.NDArray[Any]

BLOCK = 1 << 24  # bytes of rows in memory at a time


def open_table(source: str | Path, *, key: str | None = None, directory: str | Path | None = None) -> Array:
    """Open the rows of a file as a memory map, which `SparKerTest.fit` and ``score_samples`` read in blocks.

    A ``.npy`` file is mapped as it is, if it holds float32 or float64 row by row. Of others, as of HDF5 and parquet, a
    copy is written, a block at a time, to a temporary file, which processes share, and which is removed with the array.
    A process that is killed leaves it. The index that pandas writes into parquet files is no column.

    Parameters
    ----------
    source : str or path-like
        ``.npy``, ``.h5`` or ``.hdf5`` (package h5py), or ``.parquet`` (package pyarrow).
    key : str, default=None
        Data set of an HDF5 file; it may be left out where there is one alone.
    directory : str or path-like, default=None
        Where the copy is written; default: that of temporary files. It must have room for all rows, and must not be one
        that is kept in memory.

    Returns
    -------
    rows : memmap of shape (n_rows, n_columns)
        Read-only, row by row; float32 where all columns are float32 or shorter, else float64.

    Raises
    ------
    ValueError
        If the suffix is not known, the file is damaged, has no rows or no such data set, or holds other than numbers.
    ImportError
        If the package that reads the file is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from sparker.files import open_table
    >>> np.save("rows.npy", np.zeros((1000, 3), dtype=np.float32))
    >>> rows = open_table("rows.npy")
    >>> type(rows).__name__, rows.shape, str(rows.dtype)
    ('memmap', (1000, 3), 'float32')
    """
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        rows = _checked(_map_npy(path), path)
        if rows.flags.c_contiguous and rows.dtype in (np.float32, np.float64):  # as `fit` takes them, without a copy
            return rows
        return _copy(rows.shape, *_npy(rows), path, directory)
    if suffix == ".parquet":
        return _copy(*_parquet(path), path, directory)
    if suffix in (".h5", ".hdf5"):
        return _copy(*_hdf5(path, key), path, directory)
    raise ValueError(f"{path}: known suffixes are .npy, .h5, .hdf5 and .parquet.")


def _map_npy(path: Path) -> Array:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:  # an empty file has its own error, which is no ValueError
        raise ValueError(f"{path} is no .npy file of numbers: {error}") from error


def _checked(rows: Array, path: Path) -> Array:
    if rows.ndim != 2 or rows.dtype.kind not in "biuf" or not rows.size:
        raise ValueError(f"{path} holds an array of {rows.dtype} and shape {rows.shape}: needed are rows and columns.")
    return rows


def _npy(rows: Array) -> tuple[np.dtype[Any], Iterator[Array]]:
    dtype = _float([rows.dtype])
    size = max(1, BLOCK // (rows.shape[1] * dtype.itemsize))
    return dtype, (rows[start : start + size] for start in range(0, len(rows), size))


def _float(dtypes: list[np.dtype[Any]]) -> np.dtype[Any]:
    """float32 if all are float32 or shorter floats, else float64."""
    short = all(dtype.kind == "f" and dtype.itemsize <= 4 for dtype in dtypes)
    return np.dtype(np.float32 if short else np.float64)


def _copy(
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    blocks: Iterator[Array],
    path: Path,
    directory: str | Path | None,
) -> Array:
    """Memory map of the blocks of rows, in a file that is removed with it."""
    if not shape[0] * shape[1]:
        raise ValueError(f"{path} holds a table of shape {shape}: needed are rows and columns.")
    descriptor, name = tempfile.mkstemp(prefix="sparker-", dir=directory)
    try:
        with open(descriptor, "wb") as file:
            for block in blocks:
                file.write(np.ascontiguousarray(block, dtype=dtype).data)
        rows = np.memmap(name, dtype=dtype, mode="r", shape=shape)  # with its name, which worker processes open
    except BaseException:
        os.unlink(name)
        raise
    weakref.finalize(rows, _remove, name, os.getpid())
    return rows


def _remove(name: str, process: int) -> None:
    """Remove the file of an array that is gone, unless this is a fork of the process that made it."""
    if os.getpid() == process:
        with suppress(OSError):
            os.unlink(name)


def _parquet(path: Path) -> tuple[tuple[int, int], np.dtype[Any], Iterator[Array]]:
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(f"{path}: pyarrow reads .parquet files: pip install 'sparker[io]'") from error
    try:
        with pq.ParquetFile(path) as file:
            schema, n_rows = file.schema_arrow, file.metadata.num_rows
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        columns = [j for j, name in enumerate(schema.names) if name not in index]
        schema = pyarrow.schema([schema.field(j) for j in columns])
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is no parquet file: {error}") from error
    numeric = [pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) for kind in schema.types]
    numeric = [fits or pyarrow.types.is_boolean(kind) for fits, kind in zip(numeric, schema.types, strict=True)]
    bad = [name for name, fits in zip(schema.names, numeric, strict=True) if not fits]
    if bad:
        raise ValueError(f"{path}: columns {', '.join(bad[:8])} are not numeric.")
    dtypes = [np.dtype(kind.to_pandas_dtype()) for kind in schema.types]
    dtype = _float(dtypes)
    size = max(1, BLOCK // max(1, len(dtypes) * dtype.itemsize))

    def blocks() -> Iterator[Array]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=size):
                arrays = [batch.column(j).to_numpy(zero_copy_only=False).astype(dtype) for j in columns]
                yield np.stack(arrays, axis=1)

    return (n_rows, len(dtypes)), dtype, blocks()


def _hdf5(path: Path, key: str | None) -> tuple[tuple[int, int], np.dtype[Any], Iterator[Array]]:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path}: h5py reads HDF5 files: pip install 'sparker[io]'") from error
    names: list[str] = []
    try:
        h5py.File(path, "r").close()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file: {error}") from error
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        if key is None and len(names) == 1:
            key = names[0]
        if key not in names:
            raise ValueError(f"{path} has the data sets {', '.join(names[:8])}: name one as key, found {key!r}.")
        found = file[key]
        _checked(found, path)
        shape, dtype = (int(found.shape[0]), int(found.shape[1])), _float([found.dtype])
    size = max(1, BLOCK // max(1, shape[1] * dtype.itemsize))

    def blocks() -> Iterator[Array]:
        with h5py.File(path, "r") as file:
            for start in range(0, shape[0], size):
                yield file[key][start : start + size]

    return shape, dtype, blocks()
