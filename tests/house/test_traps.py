"""docs/TRAPS.md: each row says what happens now, and names tests that are there."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from support.documents import ROOT, defined

PAGE = (ROOT / "docs/TRAPS.md").read_text()
ROWS = re.findall(r"^\| (?!what was met)(.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)


@functools.cache
def body(path: str) -> list[ast.stmt]:
    """Return the statements of a test file."""
    return ast.parse((ROOT / "tests" / path).read_text()).body


def test_all_rows_are_read() -> None:
    """Each line of the tables is a row of three cells, and no trap is there twice."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    assert len(lines) == len(ROWS) + lines.count("| what was met | now | shown by |")
    assert len({met for met, _, _ in ROWS}) == len(ROWS) > 20


@pytest.mark.parametrize(("met", "now", "shown"), ROWS, ids=[met[:40] for met, _, _ in ROWS])
def test_a_row(met: str, now: str, shown: str) -> None:
    """The tests that a row names are there; a row without one says that nothing has changed."""
    assert met
    if shown == "-":
        assert now.startswith("not yet")
        return
    named = [test.split(":") for test in re.findall(r"`([^`]+)`", shown)]
    assert named
    assert [test for path, test in named if not defined(body(path), test)] == []
