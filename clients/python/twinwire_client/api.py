"""Requests to one server. What goes wrong is `Broken` (try again) or an `ApiError` (the server's verdict).

`call` and `open` make one attempt each: what a run does after a failed one is `run`'s.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from socket import gaierror
from typing import Any, Protocol

import httpx
import msgspec

from twinwire_client.checks import is_token
from twinwire_client.errors import ApiError, ProtocolError, api_error
from twinwire_client.retry import Attempts, Broken, Retries, deadline

Token = str | Callable[[], str | Awaitable[str]]
"""A bearer token, or what gives one that is good now."""

Verify = bool | str | ssl.SSLContext
"""False for a certificate that is not checked, the path of a file with the CA to trust, or a context of one's own."""


class Closable(Protocol):
    """A run that is followed."""

    async def aclose(self) -> None:
        """Follow it no longer."""
        ...


RENEW_AT = 0.8  # how much of a token's life is over when a newer one is asked for
LAST_SECONDS = 1.0  # what is left of it when it is too late for that
TOKEN_SHARE = 0.9  # of `timeout`, so that a slow token is told as such, not as a silent server
HOPE_SECONDS = 2.0  # how long to look for somebody at an address where nobody ever was
_SCHEME = "Bearer "
_NOT_TLS = {"HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"}
"""The words of OpenSSL's versions for an answer in plain HTTP."""


def trust(verify: Verify) -> bool | ssl.SSLContext:
    """Return `verify` as httpx takes it. Raise `ValueError` if it is a file without certificates."""
    if not isinstance(verify, str):
        return verify
    try:
        return ssl.create_default_context(cafile=verify)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"`verify` must be a file of certificates in PEM, and {verify!r} is none: {error}.") from None


def refusal(response: httpx.Response, content: bytes) -> Broken | ApiError:
    """What an answer that is no success means."""
    try:
        body = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError:
        body = {}
    after = _retry_after(response.headers)
    error = api_error(body if after is None else {**body, "retry_after": after}, response.status_code)
    if response.status_code != httpx.codes.TOO_MANY_REQUESTS and response.status_code < 500:
        return error
    return Broken(
        str(error),
        retry_after=error.retry_after,
        code=error.code if "code" in body else None,
        status=response.status_code,
        said=str(error) if "message" in body else None,
    )


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds, from a number or a date (RFC 9110, section 10.2.3); that is one of the server's clock, if told."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError):
        return None


@contextmanager
def network() -> Iterator[None]:
    """Raise `Broken` in place of a failure of the network."""
    try:
        yield
    except TimeoutError:
        raise Broken("The server was silent for too long.") from None
    except httpx.TransportError as error:
        raise broken(error) from error
    except AttributeError as error:
        if error.name != "getpeername":
            raise
        raise Broken("The connection broke while it was opened.") from None  # that is how anyio tells it


def broken(error: Exception) -> Broken:
    """Return what a failure of the network means, and what to do about it if waiting is no use."""
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                return Broken(
                    f"The server's certificate is not trusted ({cause.verify_message}). "
                    "Pass `verify=` with the file of the CA that has signed it.",
                    code="certificate_not_trusted",
                    hope=0.0,
                )
            case ssl.SSLError(reason=reason) if reason in _NOT_TLS:
                return Broken(
                    "The server speaks http, not https. `url` must begin with http://.", code="not_https", hope=0.0
                )
            case gaierror():
                return Broken(
                    f"The host name is not known ({cause.strerror}). Check `url`.",
                    code="unknown_host",
                    hope=HOPE_SECONDS,
                )
            case ConnectionRefusedError():
                return Broken(
                    "The connection was refused. Check `url`, and whether the server is running.",
                    code="connection_refused",
                    hope=HOPE_SECONDS,
                )
            case httpx.LocalProtocolError():
                return Broken(f"The request is not valid in HTTP. {cause}", hope=0.0)
            case httpx.TimeoutException():
                return Broken("The server was silent for too long.")
    return Broken(f"The connection failed. {str(error).removesuffix('.') or type(error).__name__}.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Give an exception and all that led to it."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for one in error.exceptions:
                yield from _causes(one)
        error = error.__cause__ or error.__context__


class _Bearer(httpx.Auth):
    """A bearer token (RFC 6750) in each request, which opens a WebSocket too; if it is refused, another one once."""

    def __init__(self, token: Token, timeout: float) -> None:
        self._token = token
        self._timeout = timeout

    async def good_now(self) -> str:
        """The token itself, asked for if it is a function. Whatever goes wrong with that is `Broken`."""
        if isinstance(self._token, str):
            return self._token
        try:
            async with asyncio.timeout(self._timeout):
                given = self._token()
                token = await given if inspect.isawaitable(given) else given
        except Exception as error:
            problem = "It took too long." if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
            raise Broken(f"The `token` function failed. {problem}", code="token_failed") from error
        if not is_token(token):
            raise Broken("The `token` function must return a text in ASCII, and has not.", code="token_failed")
        return token

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """See `httpx.Auth`."""
        request.headers["authorization"] = f"{_SCHEME}{await self.good_now()}"
        response = yield request
        if response.status_code == httpx.codes.UNAUTHORIZED and callable(self._token):
            request.headers["authorization"] = f"{_SCHEME}{await self.good_now()}"
            yield request


class Api:
    """One server: where it is, what to tell it in each request (`headers`, `token`), and how long to wait for it.

    `timeout` is for connecting, for an answer to begin and for the token's function, `heartbeat` what to take for the
    server's if it announces none; both in seconds. An `http` client of the program's own is not closed. `transport` is
    what requests go through instead of a network.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None,
        *,
        token: Token | None,
        timeout: float,
        heartbeat: float,
        retries: Retries,
        verify: Verify = True,
        http: httpx.AsyncClient | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.timeout = timeout
        self.heartbeat = heartbeat
        self.renewable = callable(token)  # whether asking for the token again may give another one
        self.retries = retries
        self.followed: set[Closable] = set()
        self.left = False  # true once the client was closed, in whatever event loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._url = url.rstrip("/")
        self._headers = dict(headers or {})
        self._bearer = None if token is None else _Bearer(token, TOKEN_SHARE * timeout)
        self._owns = http is None
        limits = httpx.Limits(max_connections=None)
        self.http = http or httpx.AsyncClient(verify=trust(verify), limits=limits, transport=transport)

    def check(self) -> None:
        """Raise `RuntimeError` if the client is closed, or was in use in another event loop."""
        self.retries.check()
        if self._loop is None:
            self._loop, self._process = asyncio.get_running_loop(), os.getpid()
        elif self._loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "The client is in use in another event loop, or in the process that this one was forked from. "
                "Make a client in each."
            )

    @property
    def in_use(self) -> bool:
        """True if this process may have connections that only `aclose` closes."""
        return self._process == os.getpid() and not self.left

    def here(self) -> bool:
        """True if this is the event loop that the client is in use in, or might be."""
        try:
            return self._loop is None or self._loop is asyncio.get_running_loop()
        except RuntimeError:
            return True  # there is none, nor will this wait

    def over_there(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do this in the client's own event loop, if that still runs, and do not wait for it."""
        if self._loop is not None and self._loop.is_running() and self._process == os.getpid():
            asyncio.run_coroutine_threadsafe(work(), self._loop)

    async def aclose(self) -> None:
        """Close all connections for requests."""
        if self._owns:
            await self.http.aclose()

    def options(self) -> dict[str, Any]:
        """The arguments that httpx is given with each request."""
        auth = {} if self._bearer is None else {"auth": self._bearer}
        return {"headers": dict(self._headers), "timeout": self.timeout, **auth}

    def url(self, path: str) -> str:
        """The URL of a path of the server's."""
        return f"{self._url}{path}"

    def attempts(self) -> Attempts:
        """Count the failures of one thing."""
        return Attempts(self.retries)

    async def renew(self, opening: httpx.Request, say: Callable[[str], Awaitable[datetime | None]]) -> None:
        """Before the token of the request that opened something expires, `say` a newer one, as often as there is one.

        `say` sends a token, and gives the time until which it is good.
        """
        if self._bearer is None or not self.renewable:
            return
        token: str = opening.headers["authorization"].removeprefix(_SCHEME)
        until = await say(token)
        while until is not None and (left := (until - datetime.now(UTC)).total_seconds()) > LAST_SECONDS:
            await asyncio.sleep(RENEW_AT * left)
            newer = await self._bearer.good_now()
            if newer != token:
                token, until = newer, await say(newer)

    async def ask(self, method: str, path: str) -> dict[str, Any]:
        """As `call`, again and again; the request must be one that can be repeated. Raises `ConnectionLost`."""
        attempts = self.attempts()
        while True:
            try:
                return await self.call(method, path)
            except Broken as error:
                await attempts.failed(error)

    async def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object that a request is answered with; an empty one if the answer has no content."""
        self.check()
        try:
            with network():
                response = await self.http.request(method, self.url(path), json=body, **self.options())
        except RuntimeError:
            self.retries.check()  # httpx, whose client was closed meanwhile
            raise
        if not response.is_success:
            raise self.refused(response, response.content)
        self.retries.reached = True
        if response.status_code == httpx.codes.NO_CONTENT:
            return {}
        try:
            return msgspec.json.decode(response.content, type=dict[str, Any])
        except msgspec.DecodeError:
            raise ProtocolError(f"The server's answer to {method} {path} is not a JSON object.") from None

    async def open(self, path: str, params: Mapping[str, str | int]) -> httpx.Response:
        """An answer whose body is still to be read, for as long as it takes. The caller closes it."""
        options = self.options()
        auth = options.pop("auth", httpx.USE_CLIENT_DEFAULT)
        options["timeout"] = httpx.Timeout(self.timeout, read=None)
        request = self.http.build_request("GET", self.url(path), params=params, **options)
        with network():
            async with deadline(self.timeout):
                response = await self.http.send(request, stream=True, auth=auth)
                if response.is_success:
                    return response
                try:
                    raise self.refused(response, await response.aread())
                finally:
                    await response.aclose()

    def refused(self, response: httpx.Response, content: bytes = b"") -> Broken | ApiError:
        """The error in an answer that is no success; only a verdict shows that there is a server."""
        error = refusal(response, content)
        self.retries.reached |= isinstance(error, ApiError)
        return error
