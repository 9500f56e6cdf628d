"""Imports go downwards only, and importing sparker costs little."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import sparker

ROOT = Path(sparker.__file__).parent

# From highest to lowest. A module imports only from lines below its own.
ORDER = [
    {"__main__"},
    {"cli"},
    {"_io", "files", "displays", "datasets", "presets"},
    {"__init__"},
    {"planning", "monitoring", "systematics", "distributed"},
    {"two_sample", "peers"},
    {"_base", "_where"},
    {"_calibration", "_tail", "_samples", "_statistic"},
    {"_device"},
    {"_toys", "_companions", "_solvers", "_aggregation", "_null"},
    {"_joint"},
    {"_starts"},
    {"_objective"},
    {"_backends"},
    {"_kernels_matmul"},
    {"_kernels_numba", "_kernels_cupy"},
    {"_kernels", "_schedule"},
    {"_pool", "_results", "_version"},
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}

FILES = sorted(ROOT.glob("*.py"))
ALL_FILES = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """Every module imported anywhere in the file, with its names joined: ``from a import b`` is ``a.b``."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path.name}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_modules(path):
    """Modules of sparker that the file imports."""
    for name in imports(path):
        package, *rest = name.split(".")
        if package == "sparker":
            yield rest[0] if rest and rest[0] in LEVEL else "__init__"


def run(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_module_has_its_place():
    assert {path.stem for path in FILES} <= set(LEVEL)
    assert sum(map(len, ORDER)) == len(LEVEL)


@ALL_FILES
def test_imports_go_down(path):
    for module in own_modules(path):
        assert LEVEL[module] > LEVEL[path.stem], f"{path.stem} imports {module}"


@ALL_FILES
def test_one_module_knows_cupy(path):
    if path.stem != "_kernels_cupy":
        assert not {name for name in imports(path) if name.split(".")[0] == "cupy"}


@ALL_FILES
def test_nothing_prints_but_the_command_line(path):
    calls = [node.func for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    assert path.stem == "cli" or not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


def test_public_names_exist():
    assert sorted(sparker.__all__) == list(sparker.__all__)
    for name in sparker.__all__:
        assert hasattr(sparker, name)


def test_public_names_of_public_modules_exist():
    for name in ("datasets", "displays", "distributed", "files", "peers", "presets"):
        module = importlib.import_module(f"sparker.{name}")
        assert module.__all__
        assert all(hasattr(module, public) for public in module.__all__)


def test_import_loads_no_optional_package():
    # scikit-learn itself loads pandas where it is installed
    script = """
import sys
import joblib, numba, scipy.stats, scipy.spatial.distance, sklearn.base, sklearn.utils.validation, threadpoolctl
before = set(sys.modules)
import sparker
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
print(*({"matplotlib", "tqdm", "cupy"} & {name.split(".")[0] for name in sys.modules} | {"pandas", "pyarrow"} & loaded))
"""
    assert run(script) == []


def test_import_compiles_nothing():
    script = """
from numba.core.event import install_recorder
with install_recorder("numba:compile") as recorder:
    import sparker
print(len(recorder.buffer))
with install_recorder("numba:compile") as recorder:
    import numba
    numba.njit(lambda x: x + 1)(1)
assert recorder.buffer, "the recorder hears nothing"
"""
    assert run(script) == ["0"]
