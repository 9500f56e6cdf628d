"""What the README shows runs."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from sparker import cli

README = (Path(__file__).parent.parent / "README.rst").read_text(encoding="utf-8")


def code_blocks():
    """Python blocks of the README, without their indent."""
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", README)
    return [re.sub(r"(?m)^    ", "", block) for block in blocks]


def commands():
    """Lines that call ``sparker test``."""
    return [shlex.split(line, comments=True) for line in re.findall(r"(?m)^    (sparker test .*)$", README)]


def test_there_is_something_to_run():
    assert len(code_blocks()) == 2
    assert len(commands()) == 2


def test_python_blocks_run(capsys):
    """One after the other, as they would be pasted."""
    names = {}
    for block in code_blocks():
        few_toys = block.replace("n_toys=500", "n_toys=9").replace("n_jobs=-1", "n_jobs=1")
        exec(few_toys.replace("SparKerTest(random_state", "SparKerTest(n_toys=9, random_state"), names)
    assert "p = " in capsys.readouterr().out


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command[4:]))
def test_commands_run(command, tmp_path, monkeypatch, rng):
    monkeypatch.chdir(tmp_path)
    for name, n in (("reference", 80), ("data", 30)):
        np.save(f"{name}.npy", rng.normal(size=(n, 2)))
        np.savetxt(f"{name}.csv", rng.normal(size=(n, 2)), delimiter=",", header="a,b", comments="")
    assert cli.main([*command[1:], "--quiet"]) in (0, 1)
