"""The command `sparker`: files in; text, JSON and a picture out."""

import argparse
import importlib.util
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sparker import datasets, displays
from sparker._io import Table, file_of, read_pair
from sparker._null import ToyMismatch
from sparker._results import TwoSampleResult
from sparker._version import __version__
from sparker._where import KernelSignificance
from sparker.two_sample import SparKerTest

PASSED, REJECTED, FAILED, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141  # the last two as a shell counts signals
PICTURES = (".png", ".pdf", ".svg")
DEMO_PICTURE = "sparker_demo.png"
DEMO_COUNTS = (60.0, 45.0, 30.0)
MOST_COLUMNS = 6
BANK_OPTIONS = ("seed", "n_kernels", "calibration", "expected_count")
OF_BANK = {  # what runs may differ in, where it is no option
    "rows": "rows or scaling",
    "n_rows": "numbers of rows",
    "n_data": "numbers of data rows",
    "n_features": "numbers of columns",
    "dtype": "dtypes",
    "version": "versions of sparker",
    "samples": "",  # follows from the calibration
}
QUESTION = "is there something in the data that the reference does not have?"


class UsageError(ValueError):
    """Arguments that cannot work."""


@dataclass(frozen=True, slots=True)
class Run:
    """One test, done: samples and kernel centres in the units of the files, `model` from these to the log ratio."""

    reference: Table
    data: Table
    model: Pipeline
    result: TwoSampleResult
    kernels: list[tuple[list[float], KernelSignificance]]

    @property
    def names(self) -> tuple[str, ...] | None:
        """Column names, if a file has them."""
        return self.reference.names or self.data.names

    @property
    def labels(self) -> Sequence[str]:
        """What to call the columns, named or not."""
        return self.names or [f"column {j}" for j in range(self.reference.rows.shape[1])]

    @property
    def standardized(self) -> bool:
        """Whether the test saw standardised columns."""
        return bool(self.model[0].with_std)

    @property
    def scaled_by(self) -> str:
        """What the columns were standardised by."""
        return "both samples together" if self.model[0].n_samples_seen_ > len(self.reference.rows) else "the reference"

    @property
    def seed(self) -> int:
        """Seed as given, from which the test draws its own."""
        return int(self.model[1].random_state)

    @property
    def width_unit(self) -> str:
        """What kernel widths are measured in."""
        return "standardised units" if self.standardized else "units of the columns"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, default=None
        Arguments; None takes those of the process.

    Returns
    -------
    exit_code : int
        0; 1 where ``--fail-below`` says so; 2 after an error; 130 after Ctrl-C.
    """
    try:
        try:
            options = _parser().parse_args(argv)
            with _one_line_warnings():
                code: int = options.run(options)
            return code
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a closed pipe is caught, and not at exit
    except KeyboardInterrupt:
        return _end(INTERRUPTED, "interrupted")
    except BrokenPipeError:
        # What is left in the buffer goes nowhere: at exit the interpreter flushes once more, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _end(FAILED, f"error: {where}{error.strerror or error}")
    except BrokenProcessPool:
        return _end(FAILED, "error: a worker process died, perhaps for lack of memory: try fewer --jobs")
    except MemoryError:
        return _end(FAILED, "error: not enough memory")
    except (ValueError, ImportError) as error:
        return _end(FAILED, f"error: {error}")


def _test(options: argparse.Namespace) -> int:
    """Compare the samples in two files: ``sparker test``."""
    _check_before_work(options)
    reference, data = read_pair(options.reference, options.data, options.columns)
    run = _run(options, reference, data, options.standardize)
    if options.json == "-":
        print(_report(run))
    elif not options.quiet:
        _print_samples(run)
        _print_verdict(run.result)
        _print_kernels(run)
    if options.json not in (None, "-"):
        with _named(options.json):
            Path(options.json).write_text(_report(run) + "\n", encoding="utf-8")
    if options.scores is not None:
        _write_scores(run, options.scores)
    if options.plot is not None:
        _draw(run, options.plot)
    return REJECTED if options.fail_below is not None and run.result.pvalue < options.fail_below else PASSED


def _demo(options: argparse.Namespace) -> int:
    """Run the test on a small problem whose answer is known: ``sparker demo``."""
    pair = datasets.make_square(counts=DEMO_COUNTS, random_state=options.seed)
    print(f"sparker {__version__} demo: {QUESTION}\n")
    print(f"reference  {len(pair.reference)} rows, uniform on a square")
    print(
        f"data       {len(pair.data)} rows, the same, but {pair.is_signal.sum()} of them in three small clumps\n",
        flush=True,
    )
    reference, data = (Table(rows, ("x", "y"), "demo") for rows in (pair.reference, pair.data))
    run = _run(options, reference, data, standardize=False)
    _print_verdict(run.result)
    _print_truth(pair, run)
    if importlib.util.find_spec("matplotlib") is None:
        print("No picture: it needs matplotlib, pip install 'sparker[plot]'")
    else:
        _draw(run, DEMO_PICTURE)
        print(f"Picture: {DEMO_PICTURE}")
    print("Your own files: sparker test REFERENCE DATA")
    return PASSED


def _run(options: argparse.Namespace, reference: Table, data: Table, standardize: bool) -> Run:
    progress = options.verbose or (not options.quiet and sys.stderr.isatty())
    if progress and importlib.util.find_spec("tqdm") is None:
        print(f"{options.n_toys} toys (pip install 'sparker[progress]' for a progress bar) ...", file=sys.stderr)
    test = SparKerTest(
        n_kernels=options.n_kernels,
        n_toys=options.n_toys,
        calibration=options.calibration,
        expected_count=options.expected_count,
        random_state=options.seed,
        n_jobs=options.jobs,
        verbose=int(progress),
    )
    scaler = StandardScaler(with_mean=standardize, with_std=standardize)
    # Labels unseen, so that permutation stays exact; other toys know the reference alone, and serve other data from it.
    reused = options.bank is not None and options.calibration != "permutation"
    with np.errstate(over="ignore", invalid="ignore"):
        scaler.fit(reference.rows if reused else np.concatenate([reference.rows, data.rows]))
    if standardize and not np.all(np.isfinite(scaler.scale_)):
        raise UsageError("the columns are too large to be standardised: rescale them, or pass --no-standardize")
    test.fit(scaler.transform(reference.rows), data=scaler.transform(data.rows))
    if options.bank is not None:
        _calibrate(test, options.bank)
    result, table = test.result(), test.kernel_significance()
    centers = scaler.inverse_transform([kernel.center for kernel in table]).tolist()
    model = Pipeline([("scaler", scaler), ("test", test)])
    return Run(reference, data, model, result, list(zip(centers, table, strict=True)))


def _calibrate(test: SparKerTest, bank: str) -> None:
    """Simulate the toys, or take those in a file; an error speaks of options, not of parameters and digests."""
    try:
        with _named(bank):
            test.calibrate(bank)
    except ToyMismatch as error:
        differ = error.differences
        if "expected_count" in differ:  # of which these follow
            differ = {name: pair for name, pair in differ.items() if name not in ("calibration", "n_data")}
        found = [_in_words(name, *pair) for name, pair in differ.items()]
        cure = "give another file, or the options of that run"
        if set(differ) == {"rows"} and test.calibration == "permutation":
            cure = "give another file, or --calibration split, whose toys serve many data beside one reference"
        of_other = ", ".join(dict.fromkeys(filter(None, found)))
        raise UsageError(f"--bank {bank}: its toys are of another run, of other {of_other}: {cure}") from error


def _in_words(name: str, there: Any, here: Any) -> str:
    """An item in which a bank differs."""
    if name in BANK_OPTIONS:
        there, here = ("none" if value is None else value for value in (there, here))
        return f"--{name.replace('_', '-')} ({there} there, {here} here)"
    return OF_BANK.get(name, f"parameters of the test ({name})")


def _report(run: Run) -> str:
    """Return the run as JSON; what is infinite (Z at p = 1) becomes null."""
    scaler = run.model[0]
    scaling = {"mean": scaler.mean_.tolist(), "deviation": scaler.scale_.tolist()} if run.standardized else None
    kernels = [
        {
            "center": center,
            "width": kernel.width,
            "width_unit": run.width_unit,
            "amplitude": kernel.amplitude,
            "sign": kernel.sign,
            "score": kernel.score,
            "excess": kernel.excess,
            "expected_excess": kernel.expected_excess,
            "expected_excess_interval": list(kernel.expected_excess_interval),
            "corrected_pvalue": kernel.corrected_pvalue,
            "nearest_rows": kernel.nearest_rows.tolist(),
        }
        for center, kernel in run.kernels
    ]
    report = {
        "reference": run.reference.source,
        "data": run.data.source,
        "feature_names": run.names,
        "standardized": run.standardized,
        "scaling": scaling,
        "random_state": run.seed,
        **run.result.to_dict(),
        "kernels": kernels,
    }
    return json.dumps(_without_infinities(report), indent=2, allow_nan=False)


def _without_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_scores(run: Run, path: str) -> None:
    """Log density ratio of every data row, in the order of the file."""
    scores = run.model.score_samples(run.data.rows)
    with _named(path):
        if Path(path).suffix.lower() == ".npy":
            with open(path, "wb") as file:  # np.save would append to a name in capitals
                np.save(file, scores)
        else:
            np.savetxt(path, scores, fmt="%.8g", header="log_density_ratio", comments="")


def _draw(run: Run, path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4))
    figure.set_layout_engine("constrained", wspace=0.06)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.3, 1, 1])
    samples = (run.reference.rows, run.data.rows)
    displays.KernelsDisplay.from_estimator(run.model, *samples, feature_names=run.labels, ax=left)
    displays.ScalesDisplay.from_result(run.result, ax=middle, width_unit=run.width_unit)
    displays.NullDistributionDisplay.from_result(run.result, ax=right)
    with _named(path):
        figure.savefig(path, dpi=200)


def _print_samples(run: Run) -> None:
    result, sources = run.result, (run.reference.source, run.data.source)
    count = "shape only" if result.expected_count is None else f"expected count {result.expected_count:g}"
    scaling = f"columns standardised by the mean and deviation of {run.scaled_by}"
    print(f"sparker {__version__}: {QUESTION}\n")
    for role, table in (("reference", run.reference), ("data", run.data)):
        n_rows, n_columns = table.rows.shape
        print(f"{role:9}  {table.source:{max(map(len, sources))}}  {n_rows} rows, columns: {n_columns}")
    print(f"scaling    {scaling if run.standardized else 'none'}")
    print(f"toys       {result.n_toys}, {result.calibration}, {count}; {result.n_failed} failed; seed {run.seed}\n")


def _print_verdict(result: TwoSampleResult) -> None:
    low, high = result.interval
    p, z = f"p  = {result.pvalue:.3g}", f"Z  = {result.zscore:.2f}"
    if result.at_resolution:
        z = f"Z  > {result.zscore:.2f}"
    width = max(len(p), len(z))
    print(f"{p:{width}}   chance of so large a difference if there is none (95 % interval {low:.2g} to {high:.2g})")
    hint = f"; none of {result.n_toys} toys reached it, more may raise Z" if result.at_resolution else ""
    print(f"{z:{width}}   the same in standard deviations of a Gaussian, one-sided{hint}\n")


def _print_kernels(run: Run) -> None:
    n_columns = run.reference.rows.shape[1]
    cells = [[f"{x:.4g}" for x in center[:MOST_COLUMNS]] for center, _ in run.kernels]
    heads = [name if len(name) <= 16 else name[:13] + "..." for name in run.labels[:MOST_COLUMNS]]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    more = f"  ({n_columns - MOST_COLUMNS} more columns: --json)" if n_columns > MOST_COLUMNS else ""
    print(
        f"Kernels of width {run.kernels[0][1].width:.3g} ({run.width_unit}), centres in the units of the columns{more}"
    )
    print("   score     excess          p   " + "   ".join(map(str.rjust, heads, widths)) + "   nearest data rows")
    for row, (_, kernel) in zip(cells, run.kernels, strict=True):
        nearest = ", ".join(map(str, kernel.nearest_rows[:3]))
        numbers = f"{kernel.score:+8.1f}   {kernel.excess:+8.1f}   {kernel.corrected_pvalue:8.3g}"
        print("   ".join([numbers, *map(str.rjust, row, widths), nearest]))
    print(
        "Score: standard deviations at a place fixed beforehand; kernels seek out fluctuations, p allows for that.\n"
        "Excess: rows of the data more (or fewer) than the reference predicts; kernels on one clump share it.\n"
        "Rows count from 0."
    )


def _print_truth(pair: datasets.SamplePair, run: Run) -> None:
    """Each planted clump beside the kernel nearest to it; no kernel twice."""
    true, found = linear_sum_assignment(cdist(pair.centers, [center for center, _ in run.kernels]))
    print("    planted at  expected         found at    excess")
    for i, j in zip(true, found, strict=True):
        (x, y), kernel = run.kernels[j]
        planted = f"({pair.centers[i][0]:.2f}, {pair.centers[i][1]:.2f})"
        print(f"  {planted:>12}   {pair.counts[i]:7.0f}   {f'({x:.2f}, {y:.2f})':>14}   {kernel.excess:+7.0f}")
    print(f"Kernel width {run.kernels[0][1].width:.3f}; excess: rows of the data more than the reference predicts.\n")


def _check_before_work(options: argparse.Namespace) -> None:
    """Refuse now what after the work could not be written, or could never have happened."""
    smallest = 1 / (options.n_toys + 1)
    if options.fail_below is not None and options.fail_below <= smallest:
        raise UsageError(
            f"--fail-below {options.fail_below:g} can never happen with {options.n_toys} toys, whose smallest p is "
            f"{smallest:.3g}: raise --n-toys"
        )
    for option, path in _written(options):
        if path not in (None, "-") and (Path(path).is_dir() or not Path(path).parent.is_dir()):
            raise UsageError(f"{option} {path}: it must be a file, in a folder that exists")
    for option, path in _written(options):
        if path == "-" and option != "--json":
            raise UsageError(f"{option} -: it must be a file")
    if options.scores is not None and Path(options.scores).suffix.lower() not in (".csv", ".npy"):
        raise UsageError(f"--scores {options.scores}: the suffix must be .csv or .npy")
    _refuse_equal_files(options)
    if options.plot is None:
        return
    if Path(options.plot).suffix.lower() not in PICTURES:
        raise UsageError(f"--plot {options.plot}: the suffix must be one of {', '.join(PICTURES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install 'sparker[plot]'")


def _written(options: argparse.Namespace) -> list[tuple[str, str | None]]:
    """The options that name files to write, and the files."""
    return [(f"--{name}", getattr(options, name)) for name in ("json", "plot", "scores", "bank")]


def _refuse_equal_files(options: argparse.Namespace) -> None:
    """Refuse to write over a file that was read, or is written for something else."""
    read = [(role, file_of(source)) for role, source in (("REFERENCE", options.reference), ("DATA", options.data))]
    seen = {path.resolve(): role for role, path in read}
    for option, path in _written(options):
        if path in (None, "-"):
            continue
        other = seen.setdefault(Path(path).resolve(), option)
        if other != option:
            raise UsageError(f"{other} and {option} are the same file, {path}")


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Name the file in an error of writing: a full disk alone says only that it is full."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _end(code: int, message: str) -> int:
    print(f"sparker: {' '.join(message.split())}", file=sys.stderr)
    return code


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Show warnings meant for users as one line, without the place in the code, and once."""
    shown: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in shown:
            shown.add(str(message))
            _end(PASSED, f"warning: {message}")

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning)
        warnings.showwarning = show
        yield


class _Parser(argparse.ArgumentParser):
    """An error here looks like all others: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _number(kind: Callable[[str], Any], allowed: Callable[[Any], bool], needed: str) -> Callable[[str], Any]:
    """Type of an option: a number, and what it must be."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not allowed(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {needed}")
        return value

    return parse


def _names(text: str) -> list[str]:
    """Type of an option: names with commas between them."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not one or more names with commas between them")
    return names


COUNT = _number(int, lambda n: n >= 1, "a whole number of at least 1")
SEED = _number(int, lambda n: 0 <= n < 2**32, "a whole number from 0 to 2**32 - 1")
JOBS = _number(int, lambda n: n != 0, "a whole number other than 0")
POSITIVE = _number(float, lambda x: 0 < x < math.inf, "a number above 0")
PROBABILITY = _number(float, lambda p: 0 < p <= 1, "a number above 0 and up to 1")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sparker", description=f"Two-sample test with moving kernels: {QUESTION}")
    parser.add_argument("--version", action="version", version=f"sparker {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_test(commands)
    _add_demo(commands)
    return parser


def _add_common(command: argparse.ArgumentParser, n_toys: int) -> None:
    add = command.add_argument
    add("--n-toys", type=COUNT, default=n_toys, metavar="N", help="toys; the smallest p is 1 / (N + 1) (%(default)s)")
    add("--seed", type=SEED, default=0, metavar="N", help="seed of all random numbers (%(default)s)")
    add(
        "--jobs",
        type=JOBS,
        default=-1,
        metavar="N",
        help="processes, -1 for all cores; p does not depend on it (%(default)s)",
    )
    add("-v", "--verbose", action="store_true", help="progress bar on stderr even where that is no terminal")


def _add_test(commands: Any) -> None:
    defaults = SparKerTest().get_params()
    command = commands.add_parser(
        "test",
        help="compare the samples in two files",
        description=f"Compare the samples in two files: {QUESTION}",
        epilog="Files: .npy, .npz (file.npz:key where it holds several tables), .csv, .parquet. "
        "Exit code: 0, or 1 if p is below --fail-below, or 2 after an error.",
    )
    add = command.add_argument
    add("reference", metavar="REFERENCE", help="file of the sample without anomalies")
    add("data", metavar="DATA", help="file of the sample to test, of the same columns")
    add(
        "--columns",
        type=_names,
        metavar="NAME,...",
        help="compare these columns, by name or by number from 0, and leave out all others (default: all)",
    )
    add("--n-kernels", type=COUNT, default=defaults["n_kernels"], metavar="N", help="kernels (%(default)s)")
    _add_common(command, defaults["n_toys"])
    add(
        "--calibration",
        choices=["permutation", "split", "bootstrap"],
        default=defaults["calibration"],
        help="how toys are drawn (%(default)s)",
    )
    add(
        "--expected-count",
        type=POSITIVE,
        metavar="N",
        help="data rows expected under the null (default: test the shape only)",
    )
    add(
        "--bank",
        metavar="FILE",
        help="keep the toys in FILE: a run that was killed goes on from there, and one that fits takes them all",
    )
    add("--no-standardize", dest="standardize", action="store_false", help="take the columns in their own units")
    add("--fail-below", type=PROBABILITY, metavar="P", help="exit with code 1 if p < P")
    add("--json", metavar="FILE", help="write the result as JSON; - for stdout, with nothing else there")
    add("--scores", metavar="FILE", help="write the log density ratio of every data row, in their order (.csv, .npy)")
    add("--plot", metavar="FILE", help=f"draw kernels, scales and toys ({', '.join(PICTURES)})")
    add("-q", "--quiet", action="store_true", help="no text and no progress bar")
    command.set_defaults(run=_test)


def _add_demo(commands: Any) -> None:
    defaults = SparKerTest().get_params()
    command = commands.add_parser(
        "demo",
        help="run the test on a small problem with a known answer",
        description=f"Run the test on a small problem with a known answer, and draw {DEMO_PICTURE}.",
    )
    _add_common(command, 199)
    keys = ("n_kernels", "calibration", "expected_count")
    command.set_defaults(run=_demo, quiet=False, bank=None, **{key: defaults[key] for key in keys})
