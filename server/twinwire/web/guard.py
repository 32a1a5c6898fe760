"""Check each request before its route: the host it names, the page it comes from, and its credential.

The middleware of all routes. The scope that a route needs is in `auth.scopes`.
"""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from litestar import Request, Response
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope as AsgiScope, Send

from twinwire.auth import ANYBODY, Auth, Identity, Scope, scopes
from twinwire.protocol.errors import BadHost, OriginNotAllowed, TwinwireError, Unauthenticated
from twinwire.settings import is_loopback
from twinwire.web import query
from twinwire.web.service import Service

PROBE = {"any_host": True}
"""The `opt` of a route that monitoring asks, which may know the server by its address only."""
SCRAPED = {"scraped": True}
"""The `opt` of a route that is so asked as well, and that no page may read: over loopback the Host is looked at."""
COOKIE = "twinwire_login"
TOKEN_PROTOCOL = "twinwire.auth."  # noqa: S105 - the name of it
MAX_HOST = 300
"""Characters of a Host or an Origin; a name in DNS has 253. The results of parsing them are kept for a while."""
_ASKER = "twinwire.asker"
_SAFE = {"GET", "HEAD", "OPTIONS"}
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


def asker(request: Request[Any, Any, Any]) -> Identity:
    """Return the identity that `Guard` found for this request."""
    found: Identity = request.scope[_ASKER]  # type: ignore[literal-required]
    return found


def starter(request: Request[Any, Any, Any], service: Service) -> Identity:
    """Return the identity of a request that starts a run, by any method. Raise `OriginNotAllowed`."""
    check_page(request.scope, service.settings.cors_origin)
    return asker(request)


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """Return a header's value, or the values of several joined with commas; None if there is none."""
    values = [value.decode("latin-1") for key, value in headers if key == name]
    return ", ".join(values) if values else None


def agent_headers(scope: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Return those of a request's headers that agents may read, by their `names` in lower case."""
    headers = scope["headers"]
    found = ((name.lower(), header(headers, name.lower().encode())) for name in names)
    return {name: value for name, value in found if value is not None}


def origin_allowed(origin: str | None, host: str, allowed: Sequence[str]) -> bool:
    """Return whether a page of this origin may ask (RFC 6455, section 10.2): the server's own, or a configured one.

    A program sends no Origin, and may. The scheme is not compared: TLS may end in front of us.
    """
    if origin is None or "*" in allowed or origin in allowed:
        return True
    if len(origin) > MAX_HOST or len(host) > MAX_HOST:
        return False
    try:
        parts = urlsplit(origin)
        default = _DEFAULT_PORTS.get(parts.scheme)
        ours = urlsplit(f"{parts.scheme}://{host}")
        same = (parts.hostname, parts.port or default) == (ours.hostname, ours.port or default)
    except ValueError:
        return False
    return same and default is not None and parts.hostname is not None


def check_page(scope: AsgiScope, allowed: Sequence[str]) -> None:
    """Raise `OriginNotAllowed` if a page of another site, which is not `allowed`, has a browser ask.

    An image, a form or a link asks without an Origin (or may); then the browser tells in Sec-Fetch-* (W3C Fetch
    Metadata) what it is.
    """
    headers = scope["headers"]
    foreign = header(headers, b"sec-fetch-site") in {"cross-site", "same-site"}
    if foreign and header(headers, b"sec-fetch-mode") in {"no-cors", "navigate"}:
        raise OriginNotAllowed
    if not origin_allowed(header(headers, b"origin"), header(headers, b"host") or "", allowed):
        raise OriginNotAllowed


def check_host(scope: AsgiScope, allowed: Sequence[str], *, listed: bool = True) -> None:
    """Raise `BadHost` for a Host that is not `allowed`.

    Names of loopback always are: no page can have them point elsewhere. If none are listed, or need not be, only what
    comes over loopback is looked at.
    """
    server = scope.get("server")
    if "*" in allowed or not ((allowed and listed) or (server and is_loopback(server[0]))):
        return
    host = header(scope["headers"], b"host")
    if host is None and scope.get("http_version") == "1.0":
        return  # a program: browsers, which a page could have ask, send one
    host = host or ""
    if len(host) > MAX_HOST:
        raise BadHost
    name = _name_in(host)
    if not is_loopback(name) and name not in {host.lower() for host in allowed}:
        raise BadHost


@functools.lru_cache(64)
def _name_in(host: str) -> str:
    """Return the name or address in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def identify(scope: AsgiScope, auth: Auth, origins: Sequence[str]) -> Identity | None:
    """Return the identity of a request; None without a credential. Raise `Unauthenticated` for one that is not good.

    In this order: a bearer token (RFC 6750) in the Authorization header or, of a socket, in a subprotocol; a ticket in
    the query of a GET; the cookie, which counts only for our page and for those of listed origins.
    """
    headers = scope["headers"]
    scheme, _, token = (header(headers, b"authorization") or "").partition(" ")
    if scheme.lower() == "bearer":
        return auth.bearer(token.strip())
    protocols: Sequence[str] = scope.get("subprotocols", [])  # type: ignore[assignment]
    for protocol in protocols:
        if protocol.startswith(TOKEN_PROTOCOL):
            return auth.bearer(_unwrapped(protocol.removeprefix(TOKEN_PROTOCOL)))
    if scope.get("method", "GET") == "GET":
        text = scope["query_string"].decode("latin-1")
        if "ticket=" in text and (tickets := parse_qs(text).get("ticket")):
            return auth.granted("ticket", tickets[0])
    cookie = _cookie(headers)
    listed = [origin for origin in origins if origin not in {"*", "null"}]
    if cookie is None or not origin_allowed(header(headers, b"origin"), header(headers, b"host") or "", listed):
        return None
    try:
        return auth.granted("login", cookie)
    except Unauthenticated:
        return None  # a browser sends it along with better ones


async def identified(scope: AsgiScope, service: Service) -> Identity | None:
    """Return the identity of a request by its credential, as `identify`, or else as the application around tells.

    Raise `Unauthenticated` and, as `Authentication.identity`, what asking the application raises. A page that only `*`
    or `null` allows has no identity by what its browser sends along, as for the login's cookie: it sends a token.
    """
    origins = service.settings.cors_origin
    if service.application is None:
        return identify(scope, service.auth, origins)
    try:
        by = identify(scope, service.auth, origins)
    except Unauthenticated:
        by = None  # the application may know the token
    if by is not None:
        return by
    headers = scope["headers"]
    bearer = (header(headers, b"authorization") or "").lower().startswith("bearer ")
    listed = [origin for origin in origins if origin not in {"*", "null"}]
    if not (bearer or origin_allowed(header(headers, b"origin"), header(headers, b"host") or "", listed)):
        return None
    return await service.application.identity(scope)


def _cookie(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the login's cookie, if there is one. Other cookies may be ill-formed, and are passed over."""
    for pair in (pair for key, value in headers if key == b"cookie" for pair in value.decode("latin-1").split(";")):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return value
    return None


def _unwrapped(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        raise Unauthenticated from None


class Guard:
    """Middleware of all routes."""

    def __init__(self, app: ASGIApp, service: Callable[[], Service]) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Pass the request on with its identity, or refuse it. A socket's route checks its credential itself."""
        service = self._service()
        settings = service.settings
        opt = scope["route_handler"].opt
        try:
            if not opt.get("any_host"):
                check_host(scope, settings.allowed_host, listed=not opt.get("scraped"))
            if scope["type"] == ScopeType.WEBSOCKET or scope["method"] not in _SAFE:
                check_page(scope, settings.cors_origin)
        except TwinwireError as error:
            if scope["type"] == ScopeType.HTTP:
                raise
            service.metrics.refuse(error, path=scope["path"], close=error.close_code)
            # Before it opens that is a 403, whatever the code.
            await send({"type": "websocket.close", "code": error.close_code, "reason": error.code})
            return
        if scope.get("method") == "OPTIONS":
            answer = Response(None, status_code=204, headers={"allow": _methods(scope)})
            await answer.to_asgi_response(None, Request(scope))(scope, receive, send)
            return
        if scope["type"] == ScopeType.HTTP:
            needed = scopes.of_route(scope["method"], scope["path_template"])
            by: Identity | None = ANYBODY
            if needed is not Scope.OPEN and service.auth.on:
                by = await identified(scope, service)
            if by is None:
                raise Unauthenticated
            scope[_ASKER] = by  # type: ignore[literal-required]
            by.check(needed)
            if scope["query_string"] and needed is not Scope.OPEN:
                operation = getattr(scope["route_handler"], "operation_class", None)
                takes, elsewhere = getattr(operation, "takes", None), getattr(operation, "elsewhere", ())
                query.keep(scope, *query.check(scope["query_string"], takes, elsewhere))
        await self._app(scope, receive, send)


def _methods(scope: AsgiScope) -> str:
    """Return what `Allow` says of the path that is asked for: the framework forgets those of its other handlers."""
    routes = (route for route in scope["litestar_app"].routes if route.path_format == scope["path_template"])
    return ", ".join({method for route in routes for method in route.methods or ["GET"]})  # none: a socket
