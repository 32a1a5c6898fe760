"""`WS /ws` and `/ai-sdk/ws`: who may open a socket. What is said on it is `transports`'s."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from litestar import Response, asgi
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from twinwire.auth import ANYBODY
from twinwire.errors import Unauthenticated
from twinwire.transports import Verdict, websocket
from twinwire.transports.ai_sdk import ChatSocket
from twinwire.web.guard import identify
from twinwire.web.service import Service

SUBPROTOCOL = "twinwire.v1"


@asgi("/ws", copy_scope=False)
async def socket(scope: Scope, receive: Receive, send: Send) -> None:
    """Twinwire's own protocol."""
    await _serve(scope, receive, send, lambda _: websocket.Socket)


@asgi("/ai-sdk/ws", copy_scope=False)
async def chats(scope: Scope, receive: Receive, send: Send) -> None:
    """The AI SDK's `WebSocketChatTransport`."""
    await _serve(scope, receive, send, lambda service: partial(ChatSocket, limit=service.settings.session_bytes))


async def _serve(
    scope: Scope, receive: Receive, send: Send, kind: Callable[[Service], Callable[..., websocket.Socket]]
) -> None:
    """See who asks, accept, serve. Who may ask from which page the guard has seen to."""
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
    verdict, by = None, ANYBODY if not service.auth.on else None
    if service.auth.on:
        try:
            by = identify(scope, service.auth, service.settings.cors_origin)
        except Unauthenticated:
            verdict = Verdict.UNAUTHENTICATED
    user_id = None if by is None else by.user_id
    if service.gate.full(user_id):
        verdict = verdict or Verdict.BUSY
    chosen = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})
    if verdict is not None:
        service.runs.figures.refused[verdict.name.lower()] += 1
        # Told on an open socket: a refused handshake tells a browser nothing.
        await send({"type": "websocket.close", "code": verdict.code, "reason": verdict.reason})
        return
    await websocket.serve(
        scope,
        receive,
        send,
        runs=service.runs,
        sweep=service.sweep,
        rate=service.settings.socket_rate,
        known=service.auth,
        by=by,
        entry=service.gate.entered(user_id),
        kind=kind(service),
    )
