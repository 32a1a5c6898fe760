"""The house's order: a module imports only from floors below its own, and no file is long."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import twinwire

PACKAGE = Path(twinwire.__file__).parent
PROJECT = Path(__file__).parents[2]
CLIENT = PROJECT / "clients/python/twinwire_client"

FLOORS = {
    "what has no room": {"__version__"},
    "what the wire says": {"protocol"},
    "what everything may use": {"settings", "fence"},
    "what an operator is told": {"telemetry"},
    "parts": {"tools", "models", "formats"},
    "who may, and what is kept": {"auth", "log"},
    "who answers": {"agents"},
    "runs, and connections to them": {"runs", "transports"},
    "routes": {"web"},
    "the server": {"serving"},
    "the command": {"cli"},
    "the tests of others": {"testing"},
    "the program": {"__main__"},
}
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS.values()) for room in rooms}
LOWEST = {"asyncio": FLOOR["fence"], "litestar": FLOOR["web"], "uvicorn": FLOOR["serving"]}
"""From which floor on a package may be used."""
HOMES = {
    "openai": ("models", "openai"),
    "opentelemetry": ("telemetry",),
    "redis": ("log", "redis"),
    "twinwire_client": ("cli",),
}
"""Where alone a package may be used."""


def modules() -> list[Path]:
    """All modules but the package's own, which only names what is where."""
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(module: Path) -> str:
    """The room that a module is in: a package, or a module of its own."""
    return module.parts[0].removesuffix(".py")


def folder_of(module: Path) -> tuple[str, ...]:
    """The folders that a module is in, or the room that it is."""
    return module.parts[:-1] or (room_of(module),)


def imports(source: str) -> Iterator[str]:
    """All that a module imports, anywhere in it and for whatever purpose, as dotted names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def faults(folder: tuple[str, ...], source: str) -> list[str]:
    """What a module in this folder imports and may not."""
    room, found = folder[0], []
    for name in imports(source):
        top, _, rest = name.partition(".")
        if top == "twinwire":
            other = rest.partition(".")[0]
            if other != room and FLOOR.get(other, len(FLOORS)) >= FLOOR[room]:
                found.append(name)
        elif FLOOR[room] < LOWEST.get(top, 0) or HOMES.get(top, folder) != folder:
            found.append(name)
    return found


@pytest.mark.parametrize("module", modules(), ids=str)
def test_imports_only_from_below(module: Path) -> None:
    """A module imports from its own room, from floors below, and outside packages only where they belong."""
    assert room_of(module) in FLOOR, "a new room needs a floor"
    assert faults(folder_of(module), (PACKAGE / module).read_text()) == []


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("protocol", "from twinwire.telemetry.logging import hide"),
        ("protocol", "import twinwire.settings"),
        ("protocol", "from twinwire import fence"),
        ("protocol", "import asyncio"),
        ("protocol", "from asyncio import sleep"),
        ("log", "if TYPE_CHECKING:\n    from twinwire.runs import Runs"),
        ("log/sqlite", "import redis.asyncio"),
        ("runs", "def f():\n    from twinwire.web.app import create_app"),
        ("runs", "import litestar.types"),
        ("transports", "from twinwire import StreamEvent"),
        ("agents", "from openai import OpenAI"),
        ("runs", "from opentelemetry import trace"),
        ("models", "from openai import OpenAI"),
        ("web", "import uvicorn"),
        ("cli", "from twinwire.elsewhere import x"),
        ("web", "from twinwire_client import Client"),
    ],
)
def test_this_test_finds(folder: str, source: str) -> None:
    """Each of these would be found."""
    assert len(faults(tuple(folder.split("/")), source)) == 1


PURE = {"errors", "events", "fold", "wire"}
"""The modules of the Python client that hold the protocol, without I/O."""
IO = {"anyio", "asyncio", "httpx", "httpx_sse", "httpx_ws", "threading", "wsproto"}


def foreign(module: str, source: str) -> list[str]:
    """Return the imports of a module of the Python client that it may not have."""
    found = []
    for name in imports(source):
        top, inner = f"{name}.".split(".")[:2]
        outside = top in IO or (top == "twinwire_client" and inner not in PURE)
        if top == "twinwire" or (module in PURE and outside):
            found.append(name)
    return found


@pytest.mark.parametrize("module", sorted(path.stem for path in CLIENT.glob("*.py")))
def test_the_python_client_stands_alone(module: str) -> None:
    """No module of the client imports the server, and those that hold the protocol import no I/O."""
    assert foreign(module, (CLIENT / f"{module}.py").read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("run", "from twinwire.protocol.events import StreamEvent"),
        ("run", "def f():\n    import twinwire"),
        ("wire", "import asyncio"),
        ("fold", "from twinwire_client.run import Run"),
        ("events", "from httpx import Response"),
    ],
)
def test_what_does_not_stand_alone_is_found(module: str, source: str) -> None:
    """Each of these would be found."""
    assert len(foreign(module, source)) == 1


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
