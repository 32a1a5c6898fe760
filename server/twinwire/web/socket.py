"""`WS /ws`: who may open a socket. What is said on it is `transports.websocket`'s."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from litestar import Response, asgi
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from twinwire.transports import websocket
from twinwire.web.service import Service

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


def origin_allowed(origin: str | None, host: str, allowed: Sequence[str]) -> bool:
    """Whether a page of this origin may open a socket (RFC 6455, section 10.2): one of ours, or a configured one.

    Programs send no Origin and may. The scheme is not compared: TLS may end in front of us.
    """
    if origin is None or "*" in allowed or origin in allowed:
        return True
    try:
        parts = urlsplit(origin)
        default = _DEFAULT_PORTS.get(parts.scheme)
        ours = urlsplit(f"{parts.scheme}://{host}")
        same = (parts.hostname, parts.port or default) == (ours.hostname, ours.port or default)
    except ValueError:
        return False
    return same and default is not None and parts.hostname is not None


def _one(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    values = [value.decode("latin-1") for key, value in headers if key == name]
    return ", ".join(values) if values else None


@asgi("/ws", copy_scope=False)
async def socket(scope: Scope, receive: Receive, send: Send) -> None:
    """Check the origin, accept, serve."""
    if scope["type"] == ScopeType.HTTP:
        upgrade: Response[Any] = Response(
            {"code": "upgrade_required", "message": "this is a WebSocket"},
            status_code=426,
            headers={"upgrade": "websocket", "connection": "Upgrade"},
        )
        await upgrade.to_asgi_response(app=None, request=None)(scope, receive, send)  # type: ignore[arg-type]
        return
    service: Service = scope["litestar_app"].state.service
    await receive()  # websocket.connect
    headers = scope["headers"]
    if not origin_allowed(_one(headers, b"origin"), _one(headers, b"host") or "", service.settings.cors_origin):
        await send({"type": "websocket.close", "code": 4403, "reason": "origin not allowed"})  # a 403: see PROTOCOL.md
        return
    await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
    await websocket.serve(scope, receive, send, runs=service.runs, sweep=service.sweep)
