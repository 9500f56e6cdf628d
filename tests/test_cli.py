import importlib.util
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparker import SparKerTest, __version__, cli
from sparker._statistic import SparKerStatistic
from sparker.cli import main

matplotlib.use("Agg")

QUICK = ["--n-toys", "9", "--jobs", "1"]
NAMES = ["mass", "charge"]
SCALE, SHIFT = np.array([50.0, 0.1]), np.array([1000.0, -3.0])


@pytest.fixture
def files(samples, tmp_path, monkeypatch):
    """Names of two files in the current folder; the columns are far from standardised."""
    monkeypatch.chdir(tmp_path)
    for name, rows in zip("rd", samples, strict=True):
        rows = rows * SCALE + SHIFT
        np.save(f"{name}.npy", rows)
        np.savez(f"{name}.npz", rows=rows, label=rows[:, 0])
        frame = pd.DataFrame(rows, columns=NAMES)
        frame.to_csv(f"{name}.csv", index=False)
        frame.to_parquet(f"{name}.parquet")
    return ["r.csv", "d.csv"]


@pytest.fixture
def report(capsys):
    """Function that runs ``sparker test`` and returns its JSON."""

    def run(*arguments):
        assert main(["test", *arguments, *QUICK, "--json", "-"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def error(capsys):
    """Function that runs a command that must fail, and returns its one line on stderr."""

    def run(*arguments):
        assert main(list(arguments)) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("sparker: error: ")
        return line.removeprefix("sparker: error: ")

    return run


def hide(monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))


def test_json_holds_the_result_of_the_same_pipeline(files, report):
    reference, data = np.load("r.npy"), np.load("d.npy")
    found = report(*files)
    X, y = np.concatenate([reference, data]), np.repeat([0, 1], [len(reference), len(data)])
    scaler, test = make_pipeline(StandardScaler(), SparKerTest(n_toys=9, random_state=0)).fit(X, y)
    result = test.result().to_dict()
    assert {key: found[key] for key in result} == result
    assert (found["reference"], found["data"], found["feature_names"]) == ("r.csv", "d.csv", NAMES)
    assert found["standardized"] is True
    assert found["random_state"] == 0
    assert_array_equal(found["scaling"]["mean"], scaler.mean_)
    assert_array_equal(found["scaling"]["deviation"], scaler.scale_)
    assert len(found["kernels"]) == test.n_kernels
    for kernel, same in zip(found["kernels"], test.kernel_table(), strict=True):
        assert_allclose(kernel["center"], same.center * scaler.scale_ + scaler.mean_)
        assert (kernel["width"], kernel["width_unit"]) == (test.width_, "standardised units")
        assert (kernel["sign"], kernel["amplitude"]) == (same.sign, same.amplitude)
        assert kernel["expected_excess"] == same.expected_excess
        assert_array_equal(np.add(kernel["nearest_rows"], len(reference)), same.nearest_rows)  # the pool counts on


def test_columns_in_their_own_units(files, report):
    with pytest.warns(UserWarning, match="Feature 0 of the reference is over 100 times as wide as feature 1"):
        test = SparKerTest(n_toys=9, random_state=0).fit(np.load("r.npy"), data=np.load("d.npy"))
    found = report(*files, "--no-standardize")
    result = test.result().to_dict()
    assert {key: found[key] for key in result} == result
    assert (found["standardized"], found["scaling"]) == (False, None)
    assert found["kernels"][0]["width_unit"] == "units of the columns"
    assert_array_equal([kernel["center"] for kernel in found["kernels"]], [k.center for k in test.kernel_table()])


def test_every_format_gives_the_same_numbers(files, report):
    first = report(*files)
    for suffix in (".npy", ".npz", ".npz:rows", ".parquet"):
        found = report(f"r{suffix}", f"d{suffix}")
        same = {key: value for key, value in first.items() if key not in ("reference", "data", "feature_names")}
        assert {key: found[key] for key in same} == same
        assert found["feature_names"] == (NAMES if suffix == ".parquet" else None)
    pd.DataFrame(np.load("d.npy")[:, ::-1], columns=NAMES[::-1]).to_csv("reversed.csv", index=False)
    assert report("r.csv", "reversed.csv")["statistic"] == first["statistic"]


def test_some_columns_alone(files, report):
    for name in "rd":
        rows = np.load(f"{name}.npy")
        frame = pd.DataFrame({"time": "noon", NAMES[0]: rows[:, 0], NAMES[1]: rows[:, 1]})
        frame.to_csv(f"more_{name}.csv", index=False)
    want, found = report(*files), report("more_r.csv", "more_d.csv", "--columns", "mass, charge")
    assert (found["feature_names"], found["statistic"]) == (NAMES, want["statistic"])


def test_toys_are_kept_in_a_bank(files, report, error, monkeypatch):
    first = report(*files, "--bank", "bank.npz")
    assert first == report(*files)
    evaluate = SparKerStatistic.evaluate
    monkeypatch.setattr(SparKerStatistic, "evaluate", lambda *_: pytest.fail("a toy is simulated again"))
    assert report(*files, "--bank", "bank.npz") == first
    monkeypatch.setattr(SparKerStatistic, "evaluate", evaluate)
    message = error("test", "d.csv", "r.csv", *QUICK, "--bank", "bank.npz")
    assert "--bank bank.npz: its toys are of another run, of other rows or scaling, numbers of data rows" in message
    message = error("test", *files, *QUICK, "--bank", "bank.npz", "--expected-count", "50")
    assert "of other --expected-count (none there, 50.0 here): give" in message
    message = error("test", *files, *QUICK, "--bank", "bank.npz", "--seed", "5")
    assert message.endswith("of other --seed (0 there, 5 here): give another file, or the options of that run")
    assert "--bank missing/bank: it must be a file" in error("test", *files, "--bank", "missing/bank")


def test_scores_of_all_data_rows(files, report):
    report(*files, "--scores", "s.npy")
    report(*files, "--scores", "s.CSV")
    scores, table = np.load("s.npy"), pd.read_csv("s.CSV")
    assert_allclose(table["log_density_ratio"], scores, rtol=1e-6)
    X = np.concatenate([np.load("r.npy"), np.load("d.npy")])
    standard = StandardScaler().fit(X).transform(X)
    test = SparKerTest(random_state=0).fit(standard[:120], data=standard[120:])
    assert_allclose(scores, test.score_samples(standard[120:]), rtol=1e-5)


def test_a_bank_of_the_reference_serves_other_data(files, report, capsys, monkeypatch):
    arguments = ("--calibration", "split", "--bank", "bank.npz")
    report(*files, *arguments)
    np.save("other.npy", np.load("d.npy")[::-1] * 1.1)
    monkeypatch.setattr(SparKerStatistic, "evaluate", lambda *_: pytest.fail("a toy is simulated again"))
    found = report("r.npy", "other.npy", *arguments)
    assert_allclose(found["scaling"]["mean"], np.load("r.npy").mean(axis=0))
    assert main(["test", "r.npy", "other.npy", *QUICK, *arguments]) == 0
    assert "by the mean and deviation of the reference\n" in capsys.readouterr().out


def test_options_reach_the_test(files, report):
    assert len(report(*files, "--n-kernels", "1")["kernels"]) == 1
    assert report(*files, "--calibration", "split")["calibration"] == "split"
    assert report(*files, "--expected-count", "38.5")["expected_count"] == 38.5
    assert report(*files)["expected_count"] is None


def test_seeds(files, report):
    first, again, other = report(*files), report(*files, "--seed", "0"), report(*files, "--seed", "1")
    assert first == again
    assert other["random_state"] == 1
    assert other["scales"]["statistic"] != first["scales"]["statistic"]


def test_json_file_and_quiet(files, report, capsys):
    assert main(["test", *files, *QUICK, "--quiet", "--json", "x.json"]) == 0
    assert capsys.readouterr() == ("", "")
    with open("x.json") as file:
        assert json.load(file) == report(*files)


def test_one_file_for_two_outputs_is_refused(files, capsys):
    assert main(["test", *files, *QUICK, "--json", "x.png", "--plot", "./x.png"]) == 2
    assert "--json and --plot are the same file" in capsys.readouterr().err


def test_what_json_cannot_say_is_null(files, report):
    rows = np.ones((5, 2))
    np.save("ones.npy", rows)
    found = report("ones.npy", "ones.npy")
    assert (found["pvalue"], found["zscore"]) == (1.0, None)
    assert found["scaling"]["deviation"] == [1.0, 1.0]


def test_constant_columns_are_not_divided_by_zero(files, report):
    for name in "rd":
        np.save(f"{name}.npy", np.column_stack([np.load(f"{name}.npy"), np.full(len(np.load(f"{name}.npy")), 7.0)]))
    found = report("r.npy", "d.npy")
    assert found["scaling"]["deviation"][2] == 1.0
    assert [kernel["center"][2] for kernel in found["kernels"]] == [7.0] * 3


def test_text(files, report, capsys):
    kernels = report(*files)["kernels"]
    assert main(["test", *files, *QUICK]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 120
    for text in (
        f"sparker {__version__}: is there something in the data that the reference does not have?",
        "reference  r.csv  120 rows, columns: 2",
        "data       d.csv  40 rows, columns: 2",
        "scaling    columns standardised by the mean and deviation of both samples together",
        "toys       9, permutation, shape only; 0 failed; seed 0",
        "(standardised units), centres in the units of the columns",
    ):
        assert text in out
    head, *table = (line.split() for line in out.splitlines()[-4 - len(kernels) : -3])
    assert head == ["score", "excess", "p", *NAMES, "nearest", "data", "rows"]
    for line, kernel in zip(table, kernels, strict=True):
        assert float(line[0]) == round(kernel["score"], 1)
        assert float(line[1]) == round(kernel["excess"], 1)
        assert_allclose(float(line[2]), kernel["corrected_pvalue"], rtol=0.01)
        assert_allclose([float(cell) for cell in line[3:5]], kernel["center"], rtol=1e-3)
        assert [int(cell.strip(",")) for cell in line[5:]] == kernel["nearest_rows"][:3]


@pytest.mark.parametrize("options", [[], ["--no-standardize"], ["--expected-count", "40"]])
def test_text_says_how(files, capsys, options):
    assert main(["test", "r.npy", "d.npy", *QUICK, *options]) == 0
    out = capsys.readouterr().out
    assert ("scaling    none" in out) == ("--no-standardize" in options)
    assert ("expected count 40" in out) == ("--expected-count" in options)
    assert "   score     excess          p   column 0   column 1   nearest data rows" in out


def test_text_of_many_columns(files, rng, capsys):
    for name, n in (("r", 60), ("d", 30)):
        pd.DataFrame(rng.normal(size=(n, 8)), columns=[f"a_column_with_a_long_name_{i}" for i in range(8)]).to_csv(
            f"{name}.csv", index=False
        )
    assert main(["test", *files, *QUICK]) == 0
    out = capsys.readouterr().out
    assert "(2 more columns: --json)" in out
    head, *rows = out.splitlines()[-7:-3]
    assert head.count("a_column_with...") == 6
    assert {row.rindex("   ") for row in rows} == {head.rindex("   nearest")}


def test_verdict(capsys):
    result = {"pvalue": 0.1, "zscore": 1.28155, "interval": (0.0, 0.3363), "n_toys": 9}
    cli._print_verdict(SimpleNamespace(**result, at_resolution=True))
    cli._print_verdict(SimpleNamespace(**result, at_resolution=False))
    assert capsys.readouterr().out.splitlines() == [
        "p  = 0.1    chance of so large a difference if there is none (95 % interval 0 to 0.34)",
        "Z  > 1.28   the same in standard deviations of a Gaussian, one-sided; none of 9 toys reached it, "
        "more may raise Z",
        "",
        "p  = 0.1    chance of so large a difference if there is none (95 % interval 0 to 0.34)",
        "Z  = 1.28   the same in standard deviations of a Gaussian, one-sided",
        "",
    ]


def test_fail_below_decides_the_exit_code(files, report, capsys):
    p = report(*files)["pvalue"]
    command = ["test", *files, *QUICK, "--quiet", "--fail-below"]
    assert main([*command, str(np.nextafter(p, 1))]) == 1
    np.save("ones.npy", np.ones((5, 2)))  # p = 1
    assert main(["test", "ones.npy", "ones.npy", *QUICK, "--quiet", "--fail-below", "1"]) == 0
    assert capsys.readouterr() == ("", "")


def test_progress_bar_stays_off_stdout(files, capsys):
    assert main(["test", *files, *QUICK, "--json", "-", "--verbose"]) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    assert "9/9" in err


def test_no_progress_bar_without_tqdm(files, capsys, monkeypatch):
    hide(monkeypatch, "tqdm")
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert main(["test", *files, *QUICK, "--json", "-", "-v"]) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    assert err == "9 toys (pip install 'sparker[progress]' for a progress bar) ...\n"


def test_warnings_are_one_line(files, capsys):
    before = warnings.showwarning
    assert main(["test", *files, *QUICK, "--quiet", "--calibration", "bootstrap"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith('sparker: warning: calibration="bootstrap" is conservative')
    assert err.count("\n") == 1
    assert warnings.showwarning is before


@pytest.mark.parametrize(("name", "magic"), [("x.png", b"\x89PNG"), ("x.PDF", b"%PDF")])
def test_plot(files, capsys, name, magic):
    assert main(["test", *files, *QUICK, "--quiet", "--plot", name]) == 0
    with open(name, "rb") as file:
        assert file.read(len(magic)) == magic


def test_plot_is_in_the_units_of_the_files(files, capsys, monkeypatch):
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    assert main(["test", *files, *QUICK, "--quiet", "--plot", "x.png"]) == 0
    kernels, scales, null, _ = figures[0].axes
    assert (kernels.get_xlabel(), kernels.get_ylabel()) == tuple(NAMES)
    data = np.load("d.npy")
    assert_array_equal(np.sort(kernels.collections[0].get_offsets(), axis=0), np.sort(data, axis=0))
    assert "standardised units" in scales.get_xlabel()
    assert null.get_ylabel() == "toys per bin"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n-toys", "0"], "argument --n-toys: '0' is not a whole number of at least 1"),
        (["--n-toys", "many"], "argument --n-toys: 'many' is not a whole number of at least 1"),
        (["--n-kernels", "2.5"], "argument --n-kernels: '2.5' is not a whole number of at least 1"),
        (["--seed", "-1"], "argument --seed: '-1' is not a whole number from 0 to 2**32 - 1"),
        (["--seed", "4294967296"], "argument --seed: '4294967296' is not a whole number from 0 to 2**32 - 1"),
        (["--jobs", "0"], "argument --jobs: '0' is not a whole number other than 0"),
        (["--expected-count", "0"], "argument --expected-count: '0' is not a number above 0"),
        (["--expected-count", "inf"], "argument --expected-count: 'inf' is not a number above 0"),
        (["--fail-below", "nan"], "argument --fail-below: 'nan' is not a number above 0 and up to 1"),
        (["--fail-below", "5"], "argument --fail-below: '5' is not a number above 0 and up to 1"),
        (["--calibration", "x"], "argument --calibration: invalid choice: 'x'"),
        (["--json"], "argument --json: expected one argument"),
        (["--columns", "x,,y"], "argument --columns: 'x,,y' is not one or more names with commas between them"),
        (["--colour"], "unrecognized arguments: --colour"),
        (
            ["--fail-below", "0.1", "--n-toys", "9"],
            "--fail-below 0.1 can never happen with 9 toys, whose smallest p is 0.1",
        ),
        (["--json", "absent/x.json"], "--json absent/x.json: it must be a file, in a folder that exists"),
        (["--json", "."], "--json .: it must be a file, in a folder that exists"),
        (["--plot", "absent/x.png"], "--plot absent/x.png: it must be a file, in a folder that exists"),
        (["--plot", "x.jpeg"], "--plot x.jpeg: the suffix must be one of .png, .pdf, .svg"),
    ],
)
def test_bad_options(files, error, monkeypatch, options, message):
    monkeypatch.setattr(cli, "read_pair", None)  # all of them are found before any work
    assert error("test", *files, *options).startswith(message)


def test_bad_commands(error):
    assert error() == "the following arguments are required: COMMAND (see sparker --help)"
    assert error("tset").startswith("argument COMMAND: invalid choice: 'tset'")
    assert error("test", "r.csv") == "the following arguments are required: DATA (see sparker test --help)"
    assert error("demo", "extra").startswith("unrecognized arguments: extra")


def test_bad_files(files, error, tmp_path):
    np.save("three.npy", np.zeros((5, 3)))
    np.save("nan.npy", [[0.0, np.nan], [1.0, 1.0]])
    (tmp_path / "empty.csv").touch()
    (tmp_path / "x.txt").write_text("1,2\n3,4\n")
    (tmp_path / "one.csv").write_text("mass,charge\n1,2\n")
    (tmp_path / "word.csv").write_text("mass,charge\n1,2\n3,up\n")
    (tmp_path / "other.csv").write_text("mass,spin\n1,2\n3,4\n")
    for data, message in {
        "absent.csv": "absent.csv: No such file or directory.",
        "empty.csv": "empty.csv: the file is empty.",
        "x.txt": "x.txt: the suffix says how a file is read; known are .npy, .npz, .csv, .parquet.",
        "one.csv": "one.csv: has 1 row, needed are at least 2.",
        "word.csv": "word.csv: 'up', which is not a number, in column 'charge', line 3.",
        "nan.npy": "nan.npy: a missing value (NaN) in column 1, row 0 (counted from 0).",
        "d.npz:cols": "d.npz:cols: has no array 'cols'; it has rows, label.",
        "three.npy": "r.csv has 2 columns, but three.npy has 3: they must agree.",
        "other.csv": "the columns of the two files differ, only in r.csv: charge; only in other.csv: spin.",
    }.items():
        assert error("test", "r.csv", data, *QUICK) == message


def test_errors_of_the_test_itself(files, error):
    assert error("test", "d.csv", "r.csv", *QUICK, "--calibration", "split").startswith(
        'calibration="split" needs at least twice as many reference as data rows, found 40 and 120.'
    )
    assert "9 of 9 toys failed" in (found := error("test", *files, *QUICK, "--expected-count", "1e6"))
    assert "toy 0: A toy wants " in found


def test_parquet_without_pandas(files, error, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert error("test", "r.parquet", "d.parquet").endswith("pip install 'sparker[io]'")


def test_plot_without_matplotlib(files, error, monkeypatch):
    hide(monkeypatch, "matplotlib")
    assert error("test", *files, "--plot", "x.png") == "--plot needs matplotlib: pip install 'sparker[plot]'"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_full_disk(files, error, tmp_path):
    assert error("test", *files, *QUICK, "-q", "--json", "/dev/full") == "/dev/full: No space left on device"
    (tmp_path / "full.png").symlink_to("/dev/full")
    assert error("test", *files, *QUICK, "-q", "--plot", "full.png") == "full.png: No space left on device"


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "sparker: interrupted\n"),
        (MemoryError(), 2, "sparker: error: not enough memory\n"),
        (
            cli.BrokenProcessPool(),
            2,
            "sparker: error: a worker process died, perhaps for lack of memory: try fewer --jobs\n",
        ),
        (ValueError("two\nlines"), 2, "sparker: error: two lines\n"),
    ],
)
def test_ends(files, capsys, monkeypatch, raised, code, line):
    def fail(*_):
        raise raised

    monkeypatch.setattr(cli, "read_pair", fail)
    assert main(["test", *files]) == code
    assert capsys.readouterr() == ("", line)


def test_version_and_help(capsys):
    for arguments, text in ((["--version"], f"sparker {__version__}"), (["test", "--help"], "--fail-below P")):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert text in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way")
def test_a_closed_pipe_is_quiet(tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "sparker", "demo"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.fixture
def small_demo(tmp_path, monkeypatch):
    """The demo with few rows, so that it takes less than a second."""
    make_square = cli.datasets.make_square
    monkeypatch.setattr(
        cli.datasets, "make_square", lambda **options: make_square(n_reference=400, expected_count=200.0, **options)
    )
    monkeypatch.chdir(tmp_path)
    return ["demo", *QUICK]


def test_demo(small_demo, capsys):
    assert main(small_demo) == 0
    out, err = capsys.readouterr()
    assert err == ""
    pair = cli.datasets.make_square(counts=cli.DEMO_COUNTS, random_state=0)
    assert f"reference  {len(pair.reference)} rows" in out
    assert f"data       {len(pair.data)} rows, the same, but {pair.is_signal.sum()} of them" in out
    lines = out.splitlines()
    first = next(i for i, line in enumerate(lines) if "planted at" in line) + 1
    found = []
    for line, center, count in zip(lines[first:], pair.centers, pair.counts, strict=False):
        planted, n, place, excess = line.replace("(", " ").replace(")", " ").replace(", ", ",").split()
        assert_allclose(np.fromstring(planted, sep=","), center)
        assert float(n) == count
        found.append(np.fromstring(place, sep=","))
        assert_allclose(found[-1], center, atol=0.1)
        assert float(excess) > 0
    assert len(found) == 3
    with open("sparker_demo.png", "rb") as file:
        assert file.read(4) == b"\x89PNG"
    assert os.listdir() == ["sparker_demo.png"]


def test_demo_without_matplotlib(small_demo, capsys, monkeypatch):
    hide(monkeypatch, "matplotlib")
    assert main([*small_demo, "--seed", "1"]) == 0
    assert "pip install 'sparker[plot]'" in capsys.readouterr().out
    assert os.listdir() == []


class TestFilesThatAreTheSame:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--json", "d.csv"], "DATA and --json are the same file, d.csv"),
            (["--json", "./r.csv"], "REFERENCE and --json"),
            (["--json", "b.npz", "--bank", "b.npz"], "--json and --bank"),
            (["--plot", "p.png", "--bank", "p.png"], "--plot and --bank"),
            (["--json", "p.png", "--plot", "p.png"], "--json and --plot"),
            (["--bank", "-"], "--bank -: it must be a file"),
            (["--scores", "-"], "--scores -: it must be a file"),
            (["--scores", "s.txt"], "--scores s.txt: the suffix must be .csv or .npy"),
        ],
    )
    def test_nothing_is_written_over(self, files, capsys, options, message):
        before = {path.name: path.read_bytes() for path in Path().iterdir()}
        assert main(["test", *files, *QUICK, *options]) == 2
        assert message in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in Path().iterdir()} == before

    def test_an_array_of_an_archive_is_in_its_file(self, files, capsys):
        assert main(["test", "r.npz:rows", "d.npz:rows", *QUICK, "--bank", "r.npz"]) == 2
        assert "REFERENCE and --bank" in capsys.readouterr().err

    def test_one_file_may_be_both_samples(self, files, capsys):
        assert main(["test", "r.csv", "r.csv", *QUICK, "-q"]) == 0


@pytest.mark.filterwarnings("ignore:overflow")
def test_columns_too_large_to_be_standardised_are_named(files, capsys):
    for name in "rd":
        np.save(f"{name}.npy", np.load(f"{name}.npy") * 1e200)
    assert main(["test", "r.npy", "d.npy", *QUICK]) == 2
    assert "too large to be standardised" in capsys.readouterr().err
