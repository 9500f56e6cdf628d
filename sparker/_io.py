"""Tables from files: numeric rows, and the column names where the file has them."""

import csv
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Names = tuple[str, ...] | None

# How CSV writers spell a missing value: no column name, and no number either.
MISSING = frozenset({"", "na", "n/a", "nan", "none", "null"})

MIN_ROWS = 2


class InputError(ValueError):
    """A file that cannot be used; the message names it and says why, in one line."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one sample.

    Attributes
    ----------
    rows : ndarray of shape (n_rows, n_columns)
        float32 where the whole file is float32, else float64; all finite.
    names : tuple of str or None
        Column names, where the file has them.
    source : str
        The file, as the user named it.
    """

    rows: Array
    names: Names
    source: str


def read_pair(reference: str, data: str) -> tuple[Table, Table]:
    """Read two tables of the same columns; the data's columns come in the order of the reference's.

    Parameters
    ----------
    reference, data : str
        Files as `read_table` takes them.

    Returns
    -------
    reference, data : Table

    Raises
    ------
    InputError
        If a file cannot be used, or if the columns differ.
    """
    first, second = read_table(reference), read_table(data)
    if first.names is not None and second.names is not None and first.names != second.names:
        second = _reordered(first, second)
    n_first, n_second = first.rows.shape[1], second.rows.shape[1]
    if n_first != n_second:
        raise InputError(f"{reference} has {n_first} columns, but {data} has {n_second}: they must agree.")
    return first, second


def read_table(source: str) -> Table:
    """Read the numeric table in one file.

    Parameters
    ----------
    source : str
        ``file.npy``, ``file.npz``, ``file.npz:key``, ``file.csv`` or ``file.parquet``. The key may be left out where
        the archive holds exactly one two-dimensional array, or a single array.

    Returns
    -------
    table : Table

    Raises
    ------
    InputError
        If the file is absent, empty, not readable, not numeric, not finite, or has fewer than two rows.
    ImportError
        If a ``.parquet`` file needs packages that are not installed.
    """
    path, key = _split_key(source)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{source}: the suffix says how to read a file; needed is one of {', '.join(READERS)}.")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{source} is an empty file.")
        values, names = reader(path, key)
        return Table(_checked(values, names), names, source)
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(source) else f"{source}: {message}") from error
    except OSError as error:
        raise InputError(f"{source}: {error.strerror or error}.") from error
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{source} cannot be read as {path.suffix.lower()}: {reason}") from error


def column_label(names: Names, index: int) -> str:
    """How messages call a column: by its name, or by its number, counted from 0."""
    return f"column {index}" if names is None else f"column {names[index]!r}"


def _split_key(source: str) -> tuple[Path, str | None]:
    """Split ``file.npz:key``; no other colon splits, since file names may hold some."""
    head, mark, key = source.rpartition(".npz:")
    return (Path(head + ".npz"), key) if mark and not Path(source).exists() else (Path(source), None)


def _reordered(reference: Table, data: Table) -> Table:
    assert reference.names is not None
    assert data.names is not None
    missing = [name for name in reference.names if name not in data.names]
    extra = [name for name in data.names if name not in reference.names]
    if missing or extra:
        parts = [(reference.source, missing), (data.source, extra)]
        only = "; ".join(f"only in {source}: {_listed(names)}" for source, names in parts if names)
        raise InputError(f"the columns of the two files differ: {only}.")
    order = [data.names.index(name) for name in reference.names]
    return Table(data.rows[:, order], reference.names, data.source)


def _checked(values: Any, names: Names) -> Array:
    """Rows as a finite two-dimensional float array, or the reason why not."""
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise InputError(f"holds values of type {values.dtype}; needed are numbers.")
    if values.ndim not in (1, 2):
        raise InputError(f"holds an array of shape {values.shape}; needed is (rows, columns) or (rows,).")
    rows = values.reshape(len(values), -1) if values.size else values.reshape(len(values), values.shape[-1])
    rows = rows.astype(np.float32 if rows.dtype == np.float32 else np.float64, copy=False)
    if rows.shape[1] == 0:
        raise InputError("has no columns.")
    if len(rows) < MIN_ROWS:
        raise InputError(f"holds {_counted(len(rows), 'row')}; needed are at least {MIN_ROWS}.")
    if not np.isfinite(rows).all():
        i, j = np.argwhere(~np.isfinite(rows))[0]
        kind = "a missing value (NaN)" if np.isnan(rows[i, j]) else "an infinite value"
        others = _counted(int(np.sum(~np.isfinite(rows))), "such value")
        raise InputError(
            f"{kind} in {column_label(names, j)}, row {i} (rows count from 0), the first of {others}. "
            "Drop or fill them in both files alike."
        )
    return rows


def _read_npy(path: Path, key: str | None) -> tuple[Any, Names]:
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False), None


def _read_npz(path: Path, key: str | None) -> tuple[Any, Names]:
    if not zipfile.is_zipfile(path):
        raise InputError("is not a .npz archive.")
    with np.load(path, allow_pickle=False) as archive:
        keys = list(archive.files)
        if key is None:
            tables = {name: array for name in keys if (array := archive[name]).ndim == 2 or len(keys) == 1}
            if len(tables) != 1:
                raise InputError(f"holds {len(tables)} two-dimensional arrays: name one, {path}:KEY, of {_listed(keys)}.")
            return next(iter(tables.values())), None
        if key not in keys:
            raise InputError(f"there is no array {key!r}; the keys are {_listed(keys)}.")
        return archive[key], None


def _read_csv(path: Path, key: str | None) -> tuple[Any, Names]:
    with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets write a byte-order mark
        names = _csv_names(file)
        if names is None:
            file.seek(0)
        body = file.tell() if names is None else None
        lines = (line for line in file if line.strip())
        first = next(lines, None)
        if first is None:
            raise InputError("has no rows.")
        del body
        try:
            rows = np.loadtxt(_chain(first, lines), delimiter=",", comments=None, quotechar='"', ndmin=2)
        except ValueError as error:
            raise InputError(_csv_fault(path, names) or " ".join(str(error).split())) from error
    if names is not None and len(names) != rows.shape[1]:
        raise InputError(f"the header names {_counted(len(names), 'column')}, but rows have {rows.shape[1]}.")
    return rows, names
