"""The public names: what `__all__` says, importable, typed, and imported no earlier than they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest

import twinwire

SOURCE = ast.parse(Path(twinwire.__file__).read_text())


def test_all_is_sorted_and_complete() -> None:
    """`__all__`, the table of homes and what type checkers see are one list; `dir` shows it."""
    (checked,) = (node for node in SOURCE.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname is None
    }
    assert imported == {name: f"twinwire.{home}" for name, home in twinwire._HOME.items()}
    assert twinwire.__all__ == sorted(twinwire._HOME)
    assert dir(twinwire) == twinwire.__all__


@pytest.mark.parametrize("name", twinwire.__all__)
def test_each_name(name: str) -> None:
    """Each name is the same object as in its home, whichever way it is imported."""
    there = getattr(import_module(f"twinwire.{twinwire._HOME[name]}"), name)
    assert getattr(twinwire, name) is there
    namespace: dict[str, object] = {}
    exec(f"from twinwire import {name}", namespace)  # noqa: S102 - this is what users write
    assert namespace[name] is there


def test_no_other_name() -> None:
    """What is not public is an AttributeError, as of any module."""
    with pytest.raises(AttributeError, match="'twinwire' has no attribute 'Nonsense'"):
        twinwire.Nonsense  # noqa: B018
    assert not hasattr(twinwire, "import_everything")


def test_version() -> None:
    """The version is the package's."""
    assert twinwire.__version__ == metadata.version("twinwire")


def test_typed() -> None:
    """Type checkers are told that the package is typed."""
    assert Path(twinwire.__file__).with_name("py.typed").is_file()


SLOW = ["asyncio", "httpx", "litestar", "openai", "prometheus_client", "uvicorn"]


def loaded(statement: str, names: list[str]) -> list[str]:
    """Return those of the modules that a fresh interpreter has loaded after this statement."""
    code = f"{statement}\nimport sys\nprint(*(name for name in {names!r} if name in sys.modules))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import twinwire", SLOW),
        ("from twinwire import StreamEvent, StreamEventType", SLOW),
        ("from twinwire import TwinwireError, Settings", SLOW),
        ("from twinwire.protocol import wire, commands, fold\nfrom twinwire.formats import native", SLOW),
        ("from twinwire import DemoModel, ReActAgent, ReadTool, SearchTool, ToolRegistry", [*SLOW[2:], "httpx"]),
        ("from twinwire import OpenAIChatModel", SLOW[1:]),
        ("import twinwire.cli.main", SLOW),
        ("from twinwire import create_app", ["openai", "uvicorn"]),
        ("from twinwire import *", ["openai", "uvicorn"]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_lazy(statement: str, unwanted: list[str]) -> None:
    """A fresh interpreter shows that importing these names brings none of the slow packages along."""
    assert loaded(statement, unwanted) == []


SPINE = [
    *(f"twinwire.protocol.{path.stem}" for path in sorted(Path(twinwire.__file__).parent.glob("protocol/[a-z]*.py"))),
    *("twinwire.log.memory", "twinwire.runs", "twinwire.transports.sse", "twinwire.transports.websocket"),
]
FRAMEWORKS = ["litestar", "openai", "prometheus_client", "redis", "uvicorn"]


def test_the_spine_imports_no_framework() -> None:
    """An interpreter that imports the protocol, runs, their log in memory and both transports loads no framework."""
    assert len(SPINE) > 8
    assert loaded(f"import {', '.join(SPINE)}", [*SPINE, *FRAMEWORKS]) == SPINE


def test_a_framework_would_be_seen() -> None:
    """The app loads Litestar, which shows that the test above would notice it."""
    assert loaded("import twinwire.web.app", FRAMEWORKS) == ["litestar", "prometheus_client"]
