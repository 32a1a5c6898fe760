"""The table of fast paths in benchmarks/README.md names what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import twinwire
from support.documents import ROOT, defined

PACKAGE = Path(twinwire.__file__).parent
SECTION = (ROOT / "benchmarks/README.md").read_text().partition("\n## Fast paths\n")[2].partition("\n## ")[0]
HEAD, _, *ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in SECTION.splitlines() if line.startswith("|")
]


def test_the_columns() -> None:
    """Each fast path has a row with its place, its twin, what holds, its figure and its test."""
    assert HEAD == ["fast path", "where", "plain twin", "what holds", "with it; without", "test"]
    assert all(len(row) == len(HEAD) and all(row) for row in ROWS)
    assert len(ROWS) > 8


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_what_a_row_names_exists(row: list[str]) -> None:
    """The file of a row defines what it names, there is one such test, and the figure is a figure."""
    _, where, _, _, figure, tests = row
    places = re.findall(r"`([a-z_0-9/]+\.py):([A-Za-z_.0-9]+)`", where)
    assert places
    for file, name in places:
        assert defined(ast.parse((PACKAGE / file).read_text()).body, name), name
    named = re.findall(r"`(test_[a-z_0-9]+\.py):(test_[a-z_0-9]+)`", tests)
    assert named
    for file, name in named:
        (path,) = (path for path in (ROOT / "tests").rglob(file) if ".venv" not in path.parts)
        assert defined(ast.parse(path.read_text()).body, name), name
    assert re.search(r"[\d.,]+.*; [\d.,]+", figure)
