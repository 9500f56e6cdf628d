"""Docstrings of every public name follow numpydoc, and the examples run."""

import dataclasses
import doctest
import importlib
import inspect
import re
import warnings
from pathlib import Path

import pytest
from numpydoc.validate import validate

import sparker
from sparker.distributed import PartitionedTest

MODULES = [f"sparker{name}" for name in ("", ".datasets", ".displays", ".distributed", ".files", ".peers", ".presets")]
ROOT = Path(sparker.__file__).parent

IGNORED = {
    "ES01": "a summary may say it all",
    "EX01": "examples stand where a reader begins, not at every method",
    "SA01": "nor has every name a relative",
    "RT02": "returned values have names, as in scikit-learn",
    "RT04": "a description may begin with a symbol",
    "PR08": "a description may begin with a symbol",
}


def own_members(public):
    """Names of public methods and properties that classes of sparker define."""
    classes = [c for c in public.__mro__ if c.__module__.startswith("sparker")]
    for name in sorted({name for c in classes for name in vars(c)}):
        member = inspect.getattr_static(public, name)
        documented = inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)
        if documented and not name.startswith("_"):
            yield name


def public_names():
    for module in MODULES:
        namespace = importlib.import_module(module)
        for name in namespace.__all__:
            public = getattr(namespace, name)
            if callable(public):
                yield f"{module}.{name}"
            if inspect.isclass(public):
                yield from (f"{module}.{name}.{member}" for member in own_members(public))


def resolve(name):
    module, *attributes = name.split(".")
    found = importlib.import_module(module)
    for attribute in attributes:
        found = getattr(found, attribute)
    return found


@pytest.mark.parametrize("name", list(public_names()))
def test_public_docstring_follows_numpydoc(name):
    ignored = set(IGNORED)
    if dataclasses.is_dataclass(resolve(name)) or resolve(name) is PartitionedTest:
        ignored.add("PR01")  # the fields of results are documented as attributes, its parameters are SparKerTest's
    assert [error for error in validate(name)["errors"] if error[0] not in ignored] == []


def test_the_api_page_has_every_public_name():
    page, listed = (ROOT.parent / "doc" / "api.rst").read_text(encoding="utf-8"), {}
    for line in page.splitlines():
        if line.startswith(".. currentmodule:: "):
            names = listed.setdefault(line.split()[-1], set())
        elif re.fullmatch(r"   \w+", line):
            names.add(line.strip())
    assert listed == {module: set(importlib.import_module(module).__all__) - {"__version__"} for module in MODULES}


def test_the_main_names_are_among_those_that_are_checked():
    names = set(public_names())
    assert {"sparker.SparKerTest.fit", "sparker.SparKerTest.p_value", "sparker.two_sample_test"} <= names
    assert {"sparker.SparKerTest.calibrate", "sparker.TwoSampleResult.to_dict"} <= names


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(path, tmp_path, monkeypatch):
    if path.stem == "__main__":
        pytest.skip("runs the command line when imported")
    monkeypatch.chdir(tmp_path)
    name = "sparker" if path.stem == "__init__" else f"sparker.{path.stem}"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*non-interactive", category=UserWarning)
        result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_examples_of_the_user_guide_run(tmp_path, monkeypatch):
    guide = ROOT.parent / "doc" / "user_guide.rst"
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(guide), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    assert result.attempted > 20


def test_the_first_name_that_a_reader_meets_has_an_example():
    for name in ("SparKerTest", "two_sample_test"):
        assert ">>> " in getattr(sparker, name).__doc__
