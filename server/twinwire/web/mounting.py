"""The place of the app below somebody else's: the prefix that clients see, and the path behind it.

ASGI has the prefix in `root_path`, and says that `path` begins with it. Not everybody keeps to that: a proxy takes the
prefix away before the server adds it to `root_path`, Litestar's mounts leave `root_path` as it is, and frameworks below
such a proxy have in `path` only the last part of `root_path`. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, MutableMapping
from typing import Any
from urllib.parse import quote, unquote

PREFIX = "twinwire.prefix"
OUTER = "twinwire.outer"
BARE = "twinwire.bare"


def prefix(scope: Mapping[str, Any]) -> str:
    """Return what stands before this app's own paths in a URL, percent-encoded: empty, or such as `/ai`."""
    found: str = scope.get(PREFIX, "")
    return found


def is_bare(scope: Mapping[str, Any]) -> bool:
    """Return whether the request is for the prefix itself, without a slash behind it."""
    return bool(scope.get(BARE))


def outer(scope: Any) -> Any:
    """Return the scope as the application around this one has made it: with its user, its session and its app.

    Its `path` is this app's own, behind its `root_path`: as Litestar puts a URL together.
    """
    return scope.get(OUTER, scope)


def inner(scope: MutableMapping[str, Any], told: str, known: Collection[str]) -> MutableMapping[str, Any]:
    """Return the scope that this app is to see: its own path, no `root_path`, and nothing of the application's around.

    `told` is the prefix as the settings have it; `known` are the first segments of this app's paths. A scope without a
    prefix or an application around it is returned as it is.
    """
    root: str = (scope.get("root_path") or "").rstrip("/")
    if not (root or told or "app" in scope):
        return scope
    path: str = scope["path"]
    full = path
    if root or told:
        path = _below(path, root or told, known)
        seen = told or root
    else:
        full = _raw(scope)
        seen = _before(full, path)
    return {
        **scope,
        "path": path or "/",
        "root_path": "",
        "state": {},
        OUTER: {**scope, "path": path or "/", "root_path": seen},
        PREFIX: quote(re.sub("/+", "/", seen), safe="/:@!$&'()*+,;=~"),
        BARE: path in {"", "/"} and not full.endswith("/"),
    }


def _below(path: str, root: str, known: Collection[str]) -> str:
    """Return the path without the prefix, or as much of the prefix's end as it has; empty for the prefix itself."""
    if path == root or path.startswith(f"{root}/"):
        return path[len(root) :]
    if path.removeprefix("/").partition("/")[0] in {"", *known}:
        return path  # a proxy has taken the prefix away
    for at in (match.start() for match in re.finditer("/", root) if match.start()):
        tail = root[at:]
        if path == tail or path.startswith(f"{tail}/"):
            return path[len(tail) :]
    return path


def _raw(scope: Mapping[str, Any]) -> str:
    """Return the path as the server below has received it, if it says so."""
    raw: bytes | None = scope.get("raw_path")
    return scope["path"] if raw is None else unquote(raw.decode("latin-1"), errors="replace")


def _before(full: str, path: str) -> str:
    """Return what the path has lost at its beginning; empty if it is no end of the full one."""
    full, path = full.rstrip("/"), path.rstrip("/")
    return full[: len(full) - len(path)] if full.endswith(path) else ""
