"""docs/ARCHITECTURE.md names what there is."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import twinwire
from support.documents import defined, snippets

PACKAGE = Path(twinwire.__file__).parent
PROJECT = Path(__file__).parents[2]
DOCUMENT = (PROJECT / "docs/ARCHITECTURE.md").read_text()
NAMES = sorted(set(re.findall(r"`([a-z_0-9/]+\.py)(?::([A-Za-z_.0-9]+))?`", DOCUMENT)))


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, name in NAMES if not file.startswith("test_")])
def test_what_is_named_exists(file: str, name: str) -> None:
    """Each file of the server that the document names is there, and has the function or class that it names."""
    source = (PACKAGE / file).read_text()
    assert not name or defined(ast.parse(source).body, name)


@pytest.mark.parametrize("file", re.findall(r"`(clients/[a-z/]+\.js)`", DOCUMENT))
def test_the_clients_files_exist(file: str) -> None:
    """Each file of a client that the document names is there."""
    assert (PROJECT / file).is_file()


@pytest.mark.parametrize("file", [file for file, _ in NAMES if file.startswith("test_")])
def test_the_proofs_exist(file: str) -> None:
    """Each test file that the document names is there."""
    found = [path for path in (PROJECT / "tests").rglob(file) if ".venv" not in path.parts]
    assert len(found) == 1


def test_the_rooms_are_all_there() -> None:
    """The table has every room, and no other."""
    table = DOCUMENT.split("## The rooms")[1].split("## Three journeys")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {name.strip("/").split("/")[0] for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    files = {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    assert named == rooms | files


@pytest.mark.full
def test_the_commands_for_contributors() -> None:
    """CONTRIBUTING.md runs the tests as README does, and its command for a few tests runs some."""
    whole, few = snippets((PROJECT / "CONTRIBUTING.md").read_text(), "sh")
    assert whole == snippets((PROJECT / "README.md").read_text(), "sh")[1]
    uv, run, frozen, *command = few.split()
    assert (uv, run, frozen) == ("uv", "run", "--frozen")
    done = subprocess.run(
        [sys.executable, "-m", *command, "-q"],
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},  # the gate's workers
        capture_output=True,
        check=True,
        text=True,
    )
    assert re.search(r"^[1-9][0-9]* passed", done.stdout, re.MULTILINE), done.stdout


def test_it_is_short() -> None:
    """The document is two pages: somebody reads it before anything else."""
    assert len(DOCUMENT.split()) < 1600
