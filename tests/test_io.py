import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from sparker._io import READERS, SEPARATOR, InputError, read_pair, read_table

NAMES = ("pt", "eta")


@pytest.fixture
def rows(rng):
    """Numbers whose decimal form needs all of its 17 digits."""
    return rng.normal(size=(7, 2)) * [1e-300, 1.0] / 3


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_csv(text, path="x.csv"):
    with open(path, "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(source):
    with pytest.raises(InputError) as error:
        read_table(source)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{source}: ")
    return message.removeprefix(f"{source}: ")


def test_every_format_gives_the_same_bits(rows, folder):
    np.save("x.npy", rows)
    np.save("fortran.npy", np.asfortranarray(rows))
    np.savez("x.npz", table=rows, other=rows[:, 0])
    frame = pd.DataFrame(rows, columns=NAMES)
    frame.to_csv("x.csv", index=False)
    np.savetxt("savetxt.csv", rows, delimiter=",", header="pt,eta")
    np.savetxt("bare.csv", rows, delimiter=",")
    frame.to_parquet("x.parquet")
    for source in ("x.npy", "fortran.npy", "x.npz", "x.npz:table", "bare.csv", "x.csv", "savetxt.csv", "x.parquet"):
        table = read_table(source)
        assert_array_equal(table.rows, rows, strict=True)
        assert table.rows.flags.c_contiguous
        assert table.names == (NAMES if source in ("x.csv", "savetxt.csv", "x.parquet") else None)
        assert table.source == source


@pytest.mark.parametrize(("written", "read"), [("f4", "f4"), ("f8", "f8"), ("f2", "f8"), ("i4", "f8"), ("?", "f8")])
def test_only_float32_stays(folder, written, read):
    values = np.array([[0, 1], [1, 1], [1, 0]], written)
    np.save("x.npy", values)
    assert_array_equal(read_table("x.npy").rows, values.astype(read), strict=True)
    if written != "f2":  # parquet has no such floats in pandas
        pd.DataFrame(values, columns=NAMES).to_parquet("x.parquet")
        assert_array_equal(read_table("x.parquet").rows, values.astype(read), strict=True)


def test_one_dimension_is_one_column(folder):
    np.save("x.npy", np.arange(4.0))
    np.savez("x.npz", only=np.arange(4.0))
    for source in ("x.npy", "x.npz"):
        assert_array_equal(read_table(source).rows, np.arange(4.0)[:, None], strict=True)


def test_npz_keys(folder):
    np.savez("x.npz", a=np.zeros((3, 2)), b=np.ones((3, 2)), c=np.arange(3.0))
    assert_array_equal(read_table("x.npz:b").rows, np.ones((3, 2)), strict=True)
    assert_array_equal(read_table("x.npz:c").rows, np.arange(3.0)[:, None], strict=True)
    assert refusal("x.npz") == "has 2 two-dimensional arrays; name one as FILE.npz:KEY of a, b, c."
    assert refusal("x.npz:d") == "has no array 'd'; it has a, b, c."
    np.savez("none.npz")
    assert refusal("none.npz") == "the archive holds no array."


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("pt,eta\n1,2\n3,4\n", NAMES),
        ("pt,eta\r\n1,2\r\n3,4", NAMES),
        ("\n pt , eta \n\n 1 , 2 \n\n 3 , 4 \n", NAMES),
        ('"pt","eta"\n"1","2"\n3,4\n', NAMES),
        ("\ufeffpt,eta\n1,2\n3,4\n", NAMES),
        ("# pt,eta\n1,2\n3,4\n", NAMES),
        ("label,0\n1,2\n3,4\n", ("label", "0")),
        ("1,2\n3,4\n", None),
        ("1e0,+2\n3.0,4.\n", None),
    ],
)
def test_csv_header(folder, text, names):
    table = read_table(write_csv(text))
    assert table.names == names
    assert_array_equal(table.rows, [[1.0, 2.0], [3.0, 4.0]])


def test_csv_header_of_pandas_for_an_array(folder):
    pd.DataFrame(np.ones((2, 3))).to_csv("x.csv", index=False)
    table = read_table("x.csv")
    assert table.names == ("0", "1", "2")
    assert_array_equal(table.rows, np.ones((2, 3)))


@pytest.mark.parametrize("columns", [None, ["pt", "eta"]])
def test_csv_rows_of_another_length_are_refused_whatever_columns_are_read(folder, columns):
    for text, message in (
        ('"pt","eta","phi"\n"1",0.1,0.2,0.3\n"2",0.1,0.2,0.3\n', "."),  # R names no column of row names
        ("pt,eta,phi\n1,2,3\n1,5,2.0,3\n", "line 3 has 4 values, needed are 3."),
        ("pt,eta,phi\n1,2,3\n1,5\n", "line 3 has 2 values, needed are 3."),
    ):
        with pytest.raises(InputError, match=message):
            read_table(write_csv(text), columns)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty."),
        ("\n\n", "has 0 rows, needed are at least 2."),
        ("pt,eta\n", "has 0 rows, needed are at least 2."),
        ("pt,eta\n1,2\n", "has 1 row, needed are at least 2."),
        ("pt,eta\n1,2\n3,muon\n", "'muon', which is not a number, in column 'eta', line 3."),
        ("1,2\nmuon,4\n", "'muon', which is not a number, in column 0, line 2."),
        ("pt;eta\n1;2\n3;4\n", f"'1;2', which is not a number, in column 'pt;eta', line 2.{SEPARATOR}"),
        ("pt;eta\n1,5;2,5\n3,1;4,0\n", f"line 2 has 3 values, needed are 1.{SEPARATOR}"),
        ("pt,eta\n1,2\n3,\n", "a missing value in column 'eta', line 3."),
        ("NA,2\n3,4\n", "a missing value in column 0, line 1."),
        ("pt,eta\n1,2\nnan,4\n", "a missing value (NaN) in column 'pt', row 1 (counted from 0)."),
        ("1,inf\nnan,4\n", "an infinite value in column 1, row 0 (counted from 0); 2 values are not finite."),
        ("pt,eta\n1,2\n3\n", "line 3 has 1 value, needed are 2."),
        ("1,2\n\n3,4,5\n", "line 3 has 3 values, needed are 2."),
        ("pt,eta\n1,2,3\n4,5,6\n", "the header names 2 columns, but the rows have 3."),
        ("pt,pt\n1,2\n3,4\n", "two columns are named 'pt'."),
        (
            ",pt\n0,2\n1,4\n",
            "column 0 has no name; if it is a row index, write the file without it (index=False).",
        ),
    ],
)
def test_csv_refusals(folder, text, message):
    assert refusal(write_csv(text)) == message


def test_csv_that_is_no_text(folder):
    assert refusal(write_csv(b"\xff\xfe\x00,1\n")).startswith("cannot be read as .csv: 'utf-8' codec")


@pytest.mark.parametrize("suffix", READERS)
def test_files_that_cannot_be_read(folder, suffix):
    name = f"x{suffix}"
    assert refusal(name) == "No such file or directory."
    (folder / name).write_bytes(b"")
    assert refusal(name) == "the file is empty."
    if suffix != ".csv":
        (folder / name).write_bytes(b"this is something else")
        assert refusal(name).startswith(f"cannot be read as {suffix}: ")
    (folder / f"folder{suffix}").mkdir()
    if suffix != ".parquet":
        assert refusal(f"folder{suffix}") == "Is a directory."


def test_other_suffix(folder):
    write_csv("1,2\n3,4\n", "x.dat")
    assert refusal("x.dat") == "the suffix says how a file is read; known are .npy, .npz, .csv, .parquet."


def test_suffix_in_capitals(folder):
    assert len(read_table(write_csv("1,2\n3,4\n", "X.CSV")).rows) == 2


def test_truncated_files(folder, rows):
    np.save("x.npy", rows)
    np.savez_compressed("x.npz", rows=rows)
    for name in ("x.npy", "x.npz"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) * 2 // 3])
        assert refusal(name).startswith("cannot be read as ")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 2)), "holds an array of shape (2, 2, 2), needed are rows and columns."),
        (np.float64(1), "holds an array of shape (), needed are rows and columns."),
        (np.zeros((3, 0)), "has no columns."),
        (np.zeros((1, 3)), "has 1 row, needed are at least 2."),
        (np.array(["a", "b"]), "holds values of type <U1, needed are real numbers."),
        (np.zeros(3, complex), "holds values of type complex128, needed are real numbers."),
    ],
)
def test_array_refusals(folder, array, message):
    np.save("x.npy", array)
    np.savez("x.npz", key=array)
    assert refusal("x.npy") == message
    assert refusal("x.npz:key") == message


def test_pickles_are_never_loaded(folder):
    np.save("x.npy", np.array([{}, []], object), allow_pickle=True)
    assert "Object arrays cannot be loaded" in refusal("x.npy")


def test_parquet_refusals(folder):
    pd.DataFrame({"pt": [1.0, 2.0], "kind": ["mu", "e"]}).to_parquet("x.parquet")
    assert refusal("x.parquet").startswith("column 'kind' is not numeric, but of type ")
    pd.DataFrame({"pt": pd.array([1, None], dtype="Int64")}).to_parquet("x.parquet")
    assert refusal("x.parquet") == "a missing value (NaN) in column 'pt', row 1 (counted from 0)."


def test_some_columns_of_every_format(folder, rows):
    frame = pd.DataFrame({"time": "noon", "pt": rows[:, 0], "kind": ["mu", ""] * 3 + ["e"], "eta": rows[:, 1]})
    frame.to_csv("x.csv", index=False)
    frame.to_parquet("x.parquet")
    np.save("x.npy", np.column_stack([np.full(7, np.nan), rows[:, 0], np.full(7, np.inf), rows[:, 1]]))
    np.savez("x.npz", rows=np.load("x.npy"))
    np.savetxt("bare.csv", np.load("x.npy"), delimiter=",")
    for source in ("x.csv", "x.parquet", "x.npy", "x.npz", "bare.csv"):
        named = source in ("x.csv", "x.parquet")
        for columns in (["3", "1"], *([["eta", "pt"], ["eta", "1"]] if named else [])):
            table = read_table(source, columns)
            assert_array_equal(table.rows, rows[:, ::-1], strict=True)
            assert table.names == (("eta", "pt") if named else None)
            assert table.rows.flags.c_contiguous
    assert_array_equal(read_pair("x.csv", "x.npy", ["1", "3"])[1].rows, rows, strict=True)
    np.save("one.npy", rows[:, 0])
    assert_array_equal(read_table("one.npy", ["0"]).rows, rows[:, :1])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["phi"], "has no column 'phi'; it has pt, eta, kind."),
        (["3"], "has no column '3'; it has pt, eta, kind."),
        (["-1"], "has no column '-1'; it has pt, eta, kind."),
        (["pt", "pt"], "column 'pt' is asked for twice."),
        (["pt", "0"], "column 'pt' is asked for twice."),
        (["pt", "kind"], "'mu', which is not a number, in column 'kind', line 2."),
    ],
)
def test_columns_that_cannot_be_read(folder, columns, message):
    write_csv("pt,eta,kind\n1,2,mu\n3,4,e\n")
    with pytest.raises(InputError) as error:
        read_table("x.csv", columns)
    assert str(error.value) == f"x.csv: {message}"
    np.save("x.npy", np.zeros((3, 2)))
    with pytest.raises(InputError, match=r"has no column 'pt'; it has 2 columns without names, counted from 0"):
        read_table("x.npy", ["pt"])


@pytest.mark.parametrize("package", ["pandas", "pyarrow"])
def test_parquet_without_its_packages(folder, monkeypatch, package):
    (folder / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"x\.parquet: .* pip install 'sparker\[io\]'"):
        read_table("x.parquet")


def test_columns_of_a_pair_are_put_in_order(folder, rows):
    pd.DataFrame(rows, columns=NAMES).to_csv("r.csv", index=False)
    pd.DataFrame(rows, columns=NAMES)[["eta", "pt"]].to_parquet("d.parquet")
    reference, data = read_pair("r.csv", "d.parquet")
    assert data.names == reference.names == NAMES
    assert_array_equal(data.rows, rows, strict=True)
    assert data.rows.flags.c_contiguous


def test_names_in_one_file_of_a_pair_are_enough(folder, rows):
    pd.DataFrame(rows, columns=NAMES).to_csv("r.csv", index=False)
    np.save("d.npy", rows)
    reference, data = read_pair("r.csv", "d.npy")
    assert (reference.names, data.names) == (NAMES, None)


def test_columns_of_a_pair_must_agree(folder):
    write_csv("pt,eta\n1,2\n3,4\n", "r.csv")
    write_csv("pt,phi\n1,2\n3,4\n", "d.csv")
    write_csv("1\n3\n", "n.csv")
    with pytest.raises(InputError) as error:
        read_pair("r.csv", "d.csv")
    assert str(error.value) == "the columns of the two files differ, only in r.csv: eta; only in d.csv: phi."
    with pytest.raises(InputError) as error:
        read_pair("r.csv", "n.csv")
    assert str(error.value) == "r.csv has 2 columns, but n.csv has 1: they must agree."


def test_long_lists_of_names_are_cut(folder):
    write_csv(",".join(f"a{i}" for i in range(12)) + 2 * ("\n" + ",".join("1" * 12)), "r.csv")
    write_csv(",".join(f"b{i}" for i in range(12)) + 2 * ("\n" + ",".join("1" * 12)), "d.csv")
    with pytest.raises(
        InputError, match="only in r.csv: a0, a1, a2, a3, a4, a5, a6, a7 and 4 more; only in d.csv: b0,"
    ):
        read_pair("r.csv", "d.csv")


def test_a_member_of_an_archive_that_is_no_array(folder, rows):
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert refusal("x.npz") == "'hello.txt' is no array."
    with zipfile.ZipFile("x.npz", "a") as archive, archive.open("rows.npy", "w") as file:
        np.save(file, rows)
    assert_array_equal(read_table("x.npz").rows, rows)


def test_a_header_of_numbers_is_no_row(folder):
    for name in ("a.csv", "b.csv"):
        np.savetxt(folder / name, np.random.default_rng(len(name)).normal(size=(5, 4)), delimiter=",")
        (folder / name).write_text("2020,2021,2022,2023\n" + (folder / name).read_text())
    with pytest.raises(InputError, match=r"begin with the same line of numbers, 2020, 2021, 2022, 2023\. If it is a h"):
        read_pair(str(folder / "a.csv"), str(folder / "b.csv"))
    (folder / "b.csv").write_text("2020,2021,2022,2024\n" + (folder / "b.csv").read_text())
    assert read_pair(str(folder / "a.csv"), str(folder / "b.csv"))[0].rows.shape == (6, 4)


def test_warns_where_one_file_has_no_names(folder):
    (folder / "a.csv").write_text("x,y\n1,2\n3,4\n")
    (folder / "b.csv").write_text("1,2\n3,4\n")
    for first, second in (("a.csv", "b.csv"), ("b.csv", "a.csv")):
        with pytest.warns(UserWarning, match=r"b\.csv has no header: .* in the order of those of .*a\.csv"):
            read_pair(str(folder / first), str(folder / second))
