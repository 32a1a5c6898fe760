"""The names of uvicorn, websockets and litestar that we use beyond their public API are there.

A new version that renames one fails here with a sentence, and not in somebody's stream.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import websockets.server
import zttp
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.http.zttp_h2_impl import RequestResponseCycle as Http2Cycle, ZttpH2Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

import twinwire
from twinwire.serving import bounds, http2, shell, websocket

SERVING = Path(twinwire.__file__).parent / "serving"
SUBCLASSES = [
    (HttpToolsProtocol, [bounds.BoundedHttp, shell.HttpProtocol, shell.NegotiatingProtocol]),
    (WebSocketsSansIOProtocol, [websocket.BoundedWebSocket, shell.WebSocketProtocol]),
    (ZttpH2Protocol, [http2.Http2Protocol]),
    (FlowControl, [bounds.Flow]),
    (uvicorn.Server, [shell.Server]),
    (uvicorn.Config, [shell.TlsConfig]),
]
OBJECTS: list[tuple[str, tuple[type, ...]]] = [
    (r"\b_?cycle\.([a-z_]+)", (RequestResponseCycle, Http2Cycle)),
    (r"\bself\.conn\.([a-z_]+)", (websockets.server.ServerProtocol, zttp.H2Connection)),
    (r"\bself\.flow\.([a-z_]+)", (FlowControl, bounds.Flow)),
]
OURS = {"stream"}  # what we set on such objects ourselves


def source(kind: type) -> ast.ClassDef:
    """Return a class as it is written."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(node, ast.ClassDef)
    return node


def attributes(kind: type, context: type[ast.expr_context]) -> Iterator[str]:
    """Return the attributes of `self` that the methods of a class read (`Load`) or set (`Store`)."""
    for node in ast.walk(source(kind)):
        match node:
            case ast.Attribute(ast.Name("self"), name, kind_of_use) if isinstance(kind_of_use, context):
                yield name


def has(kind: type, name: str) -> bool:
    """Return whether objects of a class have this attribute, by its class or by one of its methods."""
    written = [base for base in kind.__mro__ if base.__module__.partition(".")[0] in {"uvicorn", "websockets"}]
    return hasattr(kind, name) or any(name in attributes(base, ast.Store) for base in written)


@pytest.mark.parametrize(("base", "ours"), SUBCLASSES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_our_subclasses_use(base: type, ours: list[Any]) -> None:
    """Each attribute that a subclass of ours reads is its own, or there in what it is derived from."""
    own = {name for kind in ours for name in (*vars(kind), *attributes(kind, ast.Store))}
    used = {name for kind in ours for name in attributes(kind, ast.Load)} - own
    assert used or own
    assert [name for name in sorted(used) if not has(base, name)] == []


@pytest.mark.parametrize(("base", "ours"), SUBCLASSES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_our_subclasses_override(base: type, ours: list[Any]) -> None:
    """A method whose docstring says that it is the base's is there to be overridden."""
    claimed = {
        name
        for kind in ours
        for name, method in vars(kind).items()
        if inspect.isfunction(method) and f"See `{base.__name__}`" in (method.__doc__ or "")
    }
    assert [name for name in sorted(claimed) if not has(base, name)] == []


@pytest.mark.parametrize(("pattern", "kinds"), OBJECTS, ids=["cycle", "conn", "flow"])
def test_what_is_used_of_their_objects(pattern: str, kinds: tuple[type, ...]) -> None:
    """Each attribute of uvicorn's and websockets' objects that we read exists in one of their classes."""
    used = {name for file in SERVING.glob("*.py") for name in re.findall(pattern, file.read_text())} - OURS
    assert used
    assert [name for name in sorted(used) if not any(has(kind, name) for kind in kinds)] == []


def test_the_rest() -> None:
    """What is used of litestar and pathspec by name."""
    assert callable(Litestar._get_default_plugins)
    assert "opt" in inspect.signature(HTTPRouteHandler.__init__).parameters
    assert hasattr(GitIgnoreSpecPattern, "pattern_to_regex")


def test_this_test_finds() -> None:
    """A name that is not there is found."""
    assert not has(HttpToolsProtocol, "on_renamed")
    assert has(HttpToolsProtocol, "cycle")
    assert has(WebSocketsSansIOProtocol, "conn")
