"""`WS /ws` and `/ai-sdk/ws`: who may open a socket. What is said on it is `transports`'s."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from litestar import Response, asgi
from litestar.enums import ScopeType
from litestar.exceptions import MethodNotAllowedException
from litestar.types import Receive, Scope, Send
from msgspec import Struct

from twinwire.auth import ANYBODY, Identity
from twinwire.protocol import commands
from twinwire.protocol.errors import BadRequest, TwinwireError, Unauthenticated, UpgradeRequired
from twinwire.protocol.wire import converted
from twinwire.telemetry import ids
from twinwire.transports import Verdict
from twinwire.transports.pump import Pump
from twinwire.web import query, session
from twinwire.web.answers import JsonResponse
from twinwire.web.compat.ai_sdk_socket import Chat, ChatOptions, ChatSocket
from twinwire.web.guard import identified
from twinwire.web.service import Service
from twinwire.web.session import Socket

Kind = Callable[[Service, Pump, Identity | None], Socket]
"""Makes what is said on a socket, and answered."""
SUBPROTOCOL = "twinwire.v1"
MAX_REASON = 123
"""The bytes that a close frame's reason may have (RFC 6455, section 5.5)."""


@asgi("/ws", copy_scope=False)
async def socket(scope: Scope, receive: Receive, send: Send) -> None:
    """Twinwire's own protocol."""
    await _serve(scope, receive, send, lambda _: Socket, takes=None, elsewhere=(commands.Start, commands.Attach))


@asgi("/ai-sdk/ws", copy_scope=False)
async def chats(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the AI SDK's `WebSocketChatTransport`; its query has what an app may also put into `body`."""

    def kind(values: dict[str, str]) -> Kind:
        return partial(ChatSocket, options=converted(values, ChatOptions, strict=False))

    await _serve(scope, receive, send, kind, takes=ChatOptions, elsewhere=(Chat,))


def _no_socket(method: str, path: str, service: Service) -> Response[Any]:
    """Return the answer to a request that asks for no WebSocket. Raises `MethodNotAllowedException`."""
    if method != "GET":
        raise MethodNotAllowedException(headers={"allow": "GET"})
    error = UpgradeRequired(
        "This path opens a WebSocket: send GET in HTTP/1.1 with `Upgrade: websocket` and `Connection: Upgrade`."
    )
    service.metrics.refuse(error, method=method, path=path)
    return JsonResponse(error.payload(), status_code=426, headers={"upgrade": "websocket", "connection": "Upgrade"})


async def _serve(
    scope: Scope,
    receive: Receive,
    send: Send,
    kind: Callable[[dict[str, str]], Kind],
    *,
    takes: type[Struct] | None,
    elsewhere: Sequence[type[Struct]],
) -> None:
    """See who asks, check the query (see `query.check`), accept, serve. The guard has checked the page."""
    service: Service = scope["litestar_app"].state.service
    if scope["type"] == ScopeType.HTTP:
        refused = _no_socket(scope["method"], scope["path"], service)
        await refused.to_asgi_response(app=None, request=None)(scope, receive, send)  # type: ignore[arg-type]
        return
    await receive()  # websocket.connect
    refusal: tuple[str, int, str] | None = None  # its code, and that and the reason of the close frame
    try:
        values, ignored = query.check(scope["query_string"], takes, elsewhere)
        query.ignore(scope, ignored)
        socket_of = kind(values)
    except BadRequest as error:
        refusal = error.code, error.close_code, error.message.encode()[:MAX_REASON].decode(errors="ignore")
    by = verdict = None
    try:
        by = await identified(scope, service) if service.auth.on else ANYBODY
        if by is not None and service.limiter.full(by.user_id):
            verdict = Verdict.BUSY
        elif by is None and not service.auth.takes_tokens:
            verdict = Verdict.UNAUTHENTICATED
    except Unauthenticated:
        verdict = Verdict.UNAUTHENTICATED
    except TwinwireError as error:
        refusal = error.code, error.close_code, error.message
    if verdict is not None:
        refusal = verdict.name.lower(), verdict.code, verdict.reason
    chosen = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
    headers = [*query.ignored_header(scope), *ids.current.get().header]
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": headers})
    if refusal is not None:  # told on an open socket: a refused handshake tells a browser nothing
        code, number, reason = refusal
        service.metrics.refuse(code, path=scope["path"], close=number)
        await send({"type": "websocket.close", "code": number, "reason": reason})
        return
    await session.serve(
        scope,
        receive,
        send,
        service=service,
        by=by,
        entry=service.limiter.stranger() if by is None else service.limiter.entered(by.user_id),
        kind=socket_of,
    )
