"""The examples of the user guide run."""

import doctest
from pathlib import Path

GUIDE = Path(__file__).parent.parent / "doc" / "user_guide.rst"


def test_examples_run():
    result = doctest.testfile(str(GUIDE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 20
    assert result.failed == 0
