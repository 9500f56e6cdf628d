"""Tables from files: numeric rows, and the column names where the file has them."""

import csv
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Names = tuple[str, ...] | None
Columns = Sequence[str] | None

# How writers of CSV spell a missing value: such a cell is no number, but neither does it make its row a header.
MISSING = frozenset({"", "na", "n/a", "nan", "none", "null"})

MIN_ROWS = 2
SEPARATOR = " Columns must be separated by commas, and decimals by points."


class InputError(ValueError):
    """A file that cannot be used; the message names the file and says why, in one line."""


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


def read_pair(reference: str, data: str, columns: Columns = None) -> tuple[Table, Table]:
    """Read two tables of the same columns; those of the data come in the order of the reference.

    Parameters
    ----------
    reference, data : str
        Files as `read_table` takes them.
    columns : sequence of str, default=None
        As in `read_table`.

    Returns
    -------
    reference, data : Table

    Raises
    ------
    InputError
        If a file cannot be used, if the columns differ, or if a header of numbers would be read as a row.

    Warns
    -----
    UserWarning
        If one file names its columns, and the other is a CSV file without a header.
    """
    first, second = read_table(reference, columns), read_table(data, columns)
    if first.names is not None and second.names is not None and first.names != second.names:
        second = Table(np.ascontiguousarray(second.rows[:, _order(first, second)]), first.names, second.source)
    n_first, n_second = first.rows.shape[1], second.rows.shape[1]
    if n_first != n_second:
        raise InputError(f"{reference} has {_counted(n_first, 'column')}, but {data} has {n_second}: they must agree.")
    _refuse_header_of_numbers(first, second)
    named, bare = (first, second) if second.names is None else (second, first)
    if bare.names is None and named.names is not None and file_of(bare.source).suffix.lower() == ".csv":
        warnings.warn(
            f"{bare.source} has no header: its columns are taken to be in the order of those of {named.source}.",
            UserWarning,
            stacklevel=2,
        )
    return first, second


def _refuse_header_of_numbers(first: Table, second: Table) -> None:
    """Refuse CSV files that begin with the same line of whole numbers, none twice, as headers of years or bins are."""
    line, files = first.rows[0], [file_of(table.source) for table in (first, second)]
    is_csv = all(file.suffix.lower() == ".csv" for file in files) and first.names is second.names is None
    if is_csv and len(np.unique(line)) == len(line) > 2 and np.all(line % 1 == 0) and np.all(line == second.rows[0]):
        raise InputError(
            f"{first.source} and {second.source} begin with the same line of numbers, "
            f"{_listed([f'{x:g}' for x in line])}. If it is a header, name the columns or leave it out; if it is a "
            "row, put another one first."
        )


def read_table(source: str, columns: Columns = None) -> Table:
    """Read the numeric table in one file.

    Parameters
    ----------
    source : str
        ``file.npy``, ``file.npz``, ``file.npz:key``, ``file.csv`` or ``file.parquet``. The key may be left out where
        the archive holds exactly one two-dimensional array, or one array in all.
    columns : sequence of str, default=None
        Columns to read, by name, or by number from 0; others may hold anything. None: all.

    Returns
    -------
    table : Table

    Raises
    ------
    InputError
        If the file is absent, empty, unreadable, not numeric, not finite, or has fewer than two rows, or lacks columns.
    ImportError
        If packages that read ``.parquet`` are not installed.
    """
    path, key = _split_key(source)
    suffix = path.suffix.lower()
    try:
        size = path.stat().st_size
        if suffix not in READERS:
            raise InputError(f"the suffix says how a file is read; known are {', '.join(READERS)}.")
        if size == 0:
            raise InputError("the file is empty.")
        values, names = READERS[suffix](path, key, columns)
        return Table(_checked(values, names), names, source)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except OSError as error:
        raise InputError(f"{source}: {error.strerror or error}.") from error
    except (ValueError, TypeError, RuntimeError, EOFError, csv.Error, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{source}: cannot be read as {suffix}: {' '.join(str(error).split())}") from error


def file_of(source: str) -> Path:
    """Path of the file, without the key of an array in it."""
    return _split_key(source)[0]


def _split_key(source: str) -> tuple[Path, str | None]:
    """Split ``file.npz:key``; no other colon splits, since a file name may hold some."""
    stem, mark, key = source.rpartition(".npz:")
    return (Path(stem + ".npz"), key) if mark else (Path(source), None)


def _order(reference: Table, data: Table) -> list[int]:
    """Index in `data` of each column of `reference`."""
    ours, theirs = reference.names or (), data.names or ()
    parts = [
        (reference.source, [name for name in ours if name not in theirs]),
        (data.source, [name for name in theirs if name not in ours]),
    ]
    if any(only for _, only in parts):
        found = "; ".join(f"only in {source}: {_listed(only)}" for source, only in parts if only)
        raise InputError(f"the columns of the two files differ, {found}.")
    return [theirs.index(name) for name in ours]


def _checked(values: Any, names: Names) -> Array:
    """Rows as a finite float array of two dimensions, or an error that says what was found instead."""
    if values.dtype.kind not in "biuf":
        raise InputError(f"holds values of type {values.dtype}, needed are real numbers.")
    if values.ndim not in (1, 2):
        raise InputError(f"holds an array of shape {values.shape}, needed are rows and columns.")
    rows = values[:, None] if values.ndim == 1 else values
    if rows.shape[1] == 0:
        raise InputError("has no columns.")
    if len(rows) < MIN_ROWS:
        raise InputError(f"has {_counted(len(rows), 'row')}, needed are at least {MIN_ROWS}.")
    # One memory order, whatever the reader made: sums over rows would differ in the last bits.
    rows = np.ascontiguousarray(rows, np.float32 if rows.dtype == np.float32 else np.float64)
    bad = ~np.isfinite(rows)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        what = "a missing value (NaN)" if np.isnan(rows[row, column]) else "an infinite value"
        label = f"column {column}" if names is None else f"column {names[column]!r}"
        more = f"; {bad.sum()} values are not finite" if bad.sum() > 1 else ""
        raise InputError(f"{what} in {label}, row {row} (counted from 0){more}.")
    return rows


def _chosen(columns: Sequence[str], names: Names, n_columns: int) -> list[int]:
    """Number of each column that is given by name, or by number."""
    known = list(names or ())
    numbers = [known.index(name) if name in known else int(name) if name.isdecimal() else n_columns for name in columns]
    for name, number in zip(columns, numbers, strict=True):
        if number >= n_columns:
            has = _listed(known) if known else f"{_counted(n_columns, 'column')} without names, counted from 0"
            raise InputError(f"has no column {name!r}; it has {has}.")
        if numbers.count(number) > 1:
            raise InputError(f"column {name!r} is asked for twice.")
    return numbers


def _of_array(array: Array, columns: Columns) -> tuple[Array, Names]:
    """The columns of an array; what is no table is refused elsewhere."""
    if columns is None or array.ndim not in (1, 2):
        return array, None
    rows = array[:, None] if array.ndim == 1 else array
    return rows[:, _chosen(columns, None, rows.shape[1])], None


def _read_npy(path: Path, key: str | None, columns: Columns) -> tuple[Array, Names]:
    with path.open("rb") as file:
        return _of_array(np.lib.format.read_array(file, allow_pickle=False), columns)


def _read_npz(path: Path, key: str | None, columns: Columns) -> tuple[Array, Names]:
    with path.open("rb") as file, zipfile.ZipFile(file):
        pass  # np.load takes what is no archive for a pickle, and says so
    with np.load(path, allow_pickle=False) as archive:
        keys = list(archive.files)
        if not keys:
            raise InputError("the archive holds no array.")
        if key is None and len(keys) == 1:
            key = keys[0]
        if key is None:
            tables = [name for name in keys if np.ndim(archive[name]) == 2]
            if len(tables) != 1:
                raise InputError(
                    f"has {len(tables)} two-dimensional arrays; name one as FILE.npz:KEY of {_listed(keys)}."
                )
            key = tables[0]
        if key not in keys:
            raise InputError(f"has no array {key!r}; it has {_listed(keys)}.")
        array: Array = archive[key]
        if not isinstance(array, np.ndarray):  # NumPy gives other members of an archive as their bytes
            raise InputError(f"{key!r} is no array.")
        return _of_array(array, columns)


def _read_csv(path: Path, key: str | None, columns: Columns) -> tuple[Array, Names]:
    with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets begin with a byte-order mark
        names, n_columns = _csv_header(file)
        chosen = None if columns is None else _chosen(columns, names, n_columns)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "loadtxt: input contained no data")
                rows = np.loadtxt(file, delimiter=",", comments=None, quotechar='"', ndmin=2, usecols=chosen)
        except ValueError:
            file.seek(0)
            _explain(csv.reader(file), names, chosen)
            raise
        if chosen is not None:  # then NumPy does not mind rows of any length, whose columns would be others
            file.seek(0)
            _explain(csv.reader(file), names, chosen)
    if chosen is None and names is not None and len(rows) and len(names) != rows.shape[1]:
        raise InputError(f"the header names {_counted(len(names), 'column')}, but the rows have {rows.shape[1]}.")
    return rows, names if names is None or chosen is None else tuple(names[j] for j in chosen)


def _csv_header(file: TextIO) -> tuple[Names, int]:
    """Names and number of the columns, with the file left at the first row; nothing but numbers is a row.

    But for 0, 1, 2 and so on: columns that pandas has no names for.
    """
    cells = next((row for row in csv.reader(file) if row), [])
    cells = [cell.strip() for cell in cells]
    cells[:1] = [cell.removeprefix("#").strip() for cell in cells[:1]]  # np.savetxt comments its header out
    is_count = len(cells) > 2 and cells == [str(j) for j in range(len(cells))]
    if not is_count and all(_is_number(cell) or cell.lower() in MISSING for cell in cells):
        file.seek(0)
        return None, len(cells)
    for i, cell in enumerate(cells):
        if not cell:
            raise InputError(f"column {i} has no name; if it is a row index, write the file without it (index=False).")
        if cell in cells[:i]:
            raise InputError(f"two columns are named {cell!r}.")
    return tuple(cells), len(cells)


def _explain(lines: Any, names: Names, chosen: list[int] | None) -> None:
    """Raise an error that names the first cell read that is no number, or the first row of another length."""
    n_columns = None if names is None else len(names)
    header_is_next = names is not None
    for cells in lines:
        if header_is_next or not cells:
            header_is_next = header_is_next and not cells
            continue
        n_columns = n_columns or len(cells)
        if len(cells) != n_columns:
            needed = f"line {lines.line_num} has {_counted(len(cells), 'value')}, needed are {n_columns}."
            raise InputError(needed + (SEPARATOR if any(";" in cell for cell in cells) else ""))
        for j, cell in enumerate(cells):
            if (chosen is None or j in chosen) and not _is_number(cell):
                label = f"column {j}" if names is None else f"column {names[j]!r}"
                missing = cell.strip().lower() in MISSING
                what = "a missing value" if missing else f"{cell.strip()!r}, which is not a number,"
                alone = len(cells) == 1 and len(cell.replace(";", " ").split()) > 1
                hint = SEPARATOR if alone else ""
                raise InputError(f"{what} in {label}, line {lines.line_num}.{hint}")


def _read_parquet(path: Path, key: str | None, columns: Columns) -> tuple[Array, Names]:
    try:
        import pandas as pd
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{path}: pandas and pyarrow read .parquet files: pip install 'sparker[io]'") from error
    frame = pd.read_parquet(path)
    if columns is not None:
        names = tuple(str(name) for name in frame.columns)
        frame = frame.iloc[:, _chosen(columns, names, len(names))]
    for name, dtype in frame.dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype):
            raise InputError(f"column {str(name)!r} is not numeric, but of type {dtype}.")
    single = len(frame.dtypes) > 0 and all(dtype == np.float32 for dtype in frame.dtypes)
    rows = frame.to_numpy(dtype=np.float32 if single else np.float64, na_value=np.nan)
    return rows, tuple(str(name) for name in frame.columns)


READERS: dict[str, Callable[[Path, str | None, Columns], tuple[Array, Names]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _listed(names: Sequence[str], most: int = 8) -> str:
    """Join the names, or the first few of them."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
