"""Complete each HTTP answer: caching, CORS, HEAD, `Allow`, content negotiation, and JSON of one line.

The head of each answer, also of the framework's errors, passes `fields`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from litestar import Response
from litestar.serialization import default_serializer
from litestar.types import ASGIApp, Message, Receive, Scope, Send, Serializer

from twinwire.protocol.events import dump
from twinwire.runs.reserve import Claim
from twinwire.settings import Settings
from twinwire.telemetry import ids
from twinwire.web import query

HEAD = "twinwire.head"
"""In the scope of a request whose method was HEAD: routes see GET, whose head is what it is answered with."""

STREAM = b"text/event-stream"
METHODS = "GET, HEAD, POST, DELETE"
ALLOWED_HEADERS = ["accept", "authorization", "cache-control", "content-type", "last-event-id", "x-request-id"]
EXPOSED_HEADERS = [
    "location",
    "retry-after",
    "twinwire-heartbeat",
    "twinwire-ignored",
    "twinwire-run",
    "www-authenticate",
    "x-request-id",
    "x-should-retry",
]
PREFLIGHT_SECONDS = 7200  # the longest that Chromium keeps one

_SECURITY: Mapping[bytes, bytes] = MappingProxyType(
    {
        b"x-content-type-options": b"nosniff",
        b"referrer-policy": b"no-referrer",
        b"content-security-policy": b"frame-ancestors 'none'",
    }
)
_WEIGHT = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)


class JsonResponse(Response[Any]):
    """An answer in JSON, encoded as events are: one line by any reader's rules, without lone surrogates."""

    def render(self, content: Any, media_type: str, enc_hook: Serializer = default_serializer) -> bytes:
        """See `Response`."""
        if isinstance(content, (dict, list)):
            return dump(content)
        return super().render(content, media_type, enc_hook)


class OwnAnswer(Response[None]):
    """The base of answers that are ASGI apps: a route returns one, and it sends itself."""

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        """See `Response`."""
        return self.serve

    @abstractmethod
    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""


def encoded(fields: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return header fields as ASGI has them."""
    return [(name.encode(), value.encode()) for name, value in fields.items()]


class HeldJson(OwnAnswer):
    """A JSON answer that may be large: its memory is claimed before it is made, and until the client has taken it."""

    def __init__(
        self, value: Any, claim: Claim, *, status_code: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(None, status_code=status_code)
        self._value = value
        self._claim = claim
        self._fields = headers or {}

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """See `OwnAnswer`."""
        try:
            body = dump(self._value)
            self._value = None
            fields = {"content-type": "application/json", "content-length": str(len(body)), **self._fields}
            status = self.status_code or 200
            await send({"type": "http.response.start", "status": status, "headers": encoded(fields)})
            await send({"type": "http.response.body", "body": body, "more_body": True})
            del body
            # A server waits before it sends more than a client has taken.
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._claim()


def fields(
    settings: Settings, *client_headers: str, authenticates: bool
) -> Callable[[Message, Scope], Awaitable[None]]:
    """Return the hook that completes the head of each answer.

    - Its type is what it says, nobody may frame it, it is nobody's referrer.
    - No cache keeps it, unless it says otherwise. A stream is neither kept nor changed on its way: a proxy that
      compresses also buffers (RFC 9111, section 5.2.2.6).
    - Pages of the configured origins may read it (WHATWG Fetch, section 3.3), and may send `client_headers`. Only an
      origin that is listed itself may do so with the login's cookie: neither `*` nor `null`, which is what any page
      in a sandbox sends.
    - It names its request, and what of it was ignored.
    - `Allow` is complete: with OPTIONS, and with HEAD if it has GET.
    """
    listed = {origin.encode() for origin in settings.cors_origin if origin != "*"}
    everybody = "*" in settings.cors_origin
    allowed = ", ".join(sorted({*ALLOWED_HEADERS, *client_headers, *(name.lower() for name in settings.cors_header)}))
    preflight = [
        (b"access-control-allow-methods", METHODS.encode()),
        (b"access-control-allow-headers", allowed.encode()),
        (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
    ]
    exposed = [(b"access-control-expose-headers", ", ".join(EXPOSED_HEADERS).encode())]

    def shared(scope: Scope) -> list[tuple[bytes, bytes]]:
        asked = dict(scope["headers"])
        if (origin := asked.get(b"origin")) in listed:
            told = [(b"access-control-allow-origin", origin)]
            if authenticates and origin != b"null":
                told.append((b"access-control-allow-credentials", b"true"))
        elif origin is not None and everybody:
            told = [(b"access-control-allow-origin", b"*")]
        else:
            return []
        return told + (preflight if b"access-control-request-method" in asked else exposed)

    async def complete(message: Message, scope: Scope) -> None:
        if message["type"] != "http.response.start":
            return
        head = dict(message["headers"])
        streamed = head.get(b"content-type", b"").startswith(STREAM)
        told = {**_SECURITY, b"cache-control": b"no-cache, no-transform" if streamed else b"no-store"}
        told = {name: value for name, value in told.items() if name not in head}
        if settings.cors_origin:
            told.update(shared(scope))
        if listed:
            told[b"vary"] = b", ".join(filter(None, (head.get(b"vary"), b"Origin")))
        if b"allow" in head:
            methods = {*head[b"allow"].split(b", "), b"OPTIONS"}
            told[b"allow"] = b", ".join(sorted(methods | ({b"HEAD"} if b"GET" in methods else set())))
        kept = (field for field in message["headers"] if field[0] not in told)
        message["headers"] = [*kept, *told.items(), *query.ignored_header(scope), *ids.current.get().header]

    return complete


def head_only(scope: Scope, send: Send) -> tuple[Scope, Send]:
    """Return the scope and `send` with which a HEAD request is answered as GET is, without the content.

    RFC 9110, section 9.3.2. Nothing may start or be followed for it: routes that would do so ask `is_head`.
    """

    async def without_content(message: Message) -> None:
        if message["type"] != "http.response.body":
            await send(message)
        elif not message.get("more_body"):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    asked: Any = {**scope, "method": "GET", HEAD: True}
    return asked, without_content


def is_head(scope: Mapping[str, Any]) -> bool:
    """Return whether only the head of the answer is asked for."""
    return HEAD in scope


def quality(field: str, *names: str) -> float | None:
    """Return the weight that a field such as Accept gives to the first of these names that is in it; None if none is.

    RFC 9110, section 12.4.2. The names go from the most specific to the least: `text/event-stream`, `text/*`, `*/*`.
    """
    weights: dict[str, float] = {}
    for part in field.lower().split(","):
        name, *parameters = (item.strip() for item in part.split(";"))
        matches = [_WEIGHT.fullmatch(re.sub(r"\s*=\s*", "=", parameter)) for parameter in parameters]
        weight = next((float(match[1]) for match in matches if match), 1.0)
        weights[name] = max(weight, weights.get(name, 0.0))
    return next((weights[name] for name in names if name in weights), None)
