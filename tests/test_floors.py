"""The house's order: a module imports only from floors below its own, and no file is long."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import twinwire

PACKAGE = Path(twinwire.__file__).parent
PROJECT = Path(__file__).parent.parent

FLOORS = [
    {"errors", "events"},
    {"wire", "fold", "metrics", "settings"},
    {"commands", "logs"},  # half a floor up: these read what wire and settings have
    {"fence"},
    {"formats"},
    {"auth", "log", "models", "tools"},
    {"agents"},
    {"runs"},
    {"transports"},
    {"web"},
    {"frames"},
    {"protocols"},  # what server builds on
    {"allocator", "direct", "http2", "ceiling"},  # ceiling reads the bounds of all
    {"server", "terminal", "workers"},
    {"console", "prompt"},  # in the terminal
    {"conversation", "listing"},
    {"chat"},
    {"cli"},  # starts either
    {"__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
LOWEST = {"asyncio": FLOOR["fence"], "litestar": FLOOR["web"], "uvicorn": FLOOR["frames"]}
"""From which floor on a package may be used."""


def modules() -> list[Path]:
    """All modules but the package's own, which only names what is where."""
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(module: Path) -> str:
    """The room that a module is in: a package, or a module of its own."""
    return module.parts[0].removesuffix(".py")


def imports(source: str) -> Iterator[str]:
    """All that a module imports, anywhere in it and for whatever purpose, as dotted names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def faults(room: str, source: str) -> list[str]:
    """What a module of this room imports and may not."""
    found = []
    for name in imports(source):
        top, _, rest = name.partition(".")
        if top == "twinwire":
            other = rest.partition(".")[0]
            if other != room and FLOOR.get(other, len(FLOORS)) >= FLOOR[room]:
                found.append(name)
        elif FLOOR[room] < LOWEST.get(top, 0) or (top == "openai" and room != "models"):
            found.append(name)
    return found


@pytest.mark.parametrize("module", modules(), ids=str)
def test_imports_only_from_below(module: Path) -> None:
    """A module imports from its own room, from floors below, and outside packages only where they belong."""
    room = room_of(module)
    assert room in FLOOR, "a new room needs a floor"
    assert faults(room, (PACKAGE / module).read_text()) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("events", "from twinwire.errors import TwinwireError"),
        ("wire", "from twinwire.commands import Start"),
        ("wire", "import twinwire.commands"),
        ("wire", "from twinwire import fold"),
        ("wire", "import asyncio"),
        ("commands", "from asyncio import sleep"),
        ("log", "if TYPE_CHECKING:\n    from twinwire.runs import Runs"),
        ("runs", "def f():\n    from twinwire.web.app import create_app"),
        ("runs", "import litestar.types"),
        ("transports", "from twinwire import StreamEvent"),
        ("agents", "from openai import OpenAI"),
        ("web", "import uvicorn"),
        ("cli", "from twinwire.elsewhere import x"),
    ],
)
def test_this_test_finds(room: str, source: str) -> None:
    """Each of these would be found."""
    assert len(faults(room, source)) == 1


SUFFIXES = {".py", ".js", ".mjs", ".jsx", ".ts", ".html", ".css"}
SKIPPED = {"node_modules", "vendor", "__pycache__", ".venv", "dist"}


def test_no_file_is_long() -> None:
    """No file of code has over 500 lines."""
    long, seen = {}, 0
    for folder in ("server", "clients", "tests", "benchmarks"):
        for path in (PROJECT / folder).rglob("*"):
            inner = path.relative_to(PROJECT)
            if path.suffix in SUFFIXES and path.is_file() and not SKIPPED & set(inner.parts):
                seen += 1
                if (lines := len(path.read_text().splitlines())) > 500:
                    long[str(inner)] = lines
    assert long == {}
    assert seen > 50
