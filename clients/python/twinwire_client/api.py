"""Requests to one server. What goes wrong is `Broken` (try again) or an `ApiError` (the server's verdict).

`call` and `open` make one attempt each: what a run does after a failed one is `run`'s.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec

from twinwire_client.errors import ApiError, ProtocolError, api_error
from twinwire_client.retry import Attempts, Backoff, Broken, Patience, deadline

Token = str | Callable[[], str | Awaitable[str]]
"""A bearer token, or what gives one that is good now."""

RENEW_AT = 0.8  # how much of a token's life is over when a newer one is asked for
LAST_SECONDS = 1.0  # what is left of it when it is too late for that
_SCHEME = "Bearer "


async def _good_now(token: Token) -> str:
    """The token itself, asked for if it is a function."""
    given = token() if callable(token) else token
    return await given if inspect.isawaitable(given) else given


def refusal(response: httpx.Response, content: bytes = b"") -> Broken | ApiError:
    """What an answer that is no success means."""
    try:
        body = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError:
        body = {}
    error = api_error(body, response.status_code)
    if response.status_code != httpx.codes.TOO_MANY_REQUESTS and response.status_code < 500:
        return error
    after = response.headers.get("retry-after", "")
    return Broken(str(error), float(after) if after.isascii() and after.isdigit() else 0.0)


@contextmanager
def network() -> Iterator[None]:
    """Raise `Broken` in place of a failure of the network."""
    try:
        yield
    except TimeoutError:
        raise Broken("The server was silent for too long.") from None
    except httpx.TransportError as error:
        raise Broken(str(error) or type(error).__name__) from error
    except AttributeError as error:
        if error.name != "getpeername":
            raise
        raise Broken("The connection broke while it was opened.") from None  # that is how anyio tells it


class _Bearer(httpx.Auth):
    """A bearer token (RFC 6750) in each request, which opens a WebSocket too; if it is refused, another one once."""

    def __init__(self, token: Token) -> None:
        self._token = token

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """See `httpx.Auth`."""
        request.headers["authorization"] = f"{_SCHEME}{await _good_now(self._token)}"
        response = yield request
        if response.status_code == httpx.codes.UNAUTHORIZED and callable(self._token):
            request.headers["authorization"] = f"{_SCHEME}{await _good_now(self._token)}"
            yield request


class Api:
    """One server: where it is, what to tell it in each request (`headers`, `token`), and how long to wait for it.

    `timeout` is for connecting and for an answer to begin, `heartbeat` what to take for the server's if it
    announces none; both in seconds.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None,
        *,
        token: Token | None,
        timeout: float,
        heartbeat: float,
        backoff: Backoff,
        patience: Patience,
    ) -> None:
        self.timeout = timeout
        self.heartbeat = heartbeat
        self.renewable = callable(token)  # whether asking for the token again may give another one
        self._token = token
        self._url = url
        self._backoff = backoff
        self._patience = patience
        self.http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            auth=None if token is None else _Bearer(token),
            timeout=timeout,
            limits=httpx.Limits(max_connections=None),
        )

    def attempts(self) -> Attempts:
        """Count the failures of one thing."""
        return Attempts(self._url, self._backoff, self._patience)

    async def renew(self, opening: httpx.Request, say: Callable[[str], Awaitable[datetime | None]]) -> None:
        """Before the token of the request that opened something expires, `say` a newer one, as often as there is one.

        `say` sends a token, and gives the time until which it is good.
        """
        if not callable(self._token):
            return
        token: str = opening.headers["authorization"].removeprefix(_SCHEME)
        until = await say(token)
        while until is not None and (left := (until - datetime.now(UTC)).total_seconds()) > LAST_SECONDS:
            await asyncio.sleep(RENEW_AT * left)
            newer = await _good_now(self._token)
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
        """The JSON object that a request is answered with."""
        with network():
            response = await self.http.request(method, path, json=body)
        if not response.is_success:
            raise refusal(response, response.content)
        try:
            return msgspec.json.decode(response.content, type=dict[str, Any])
        except msgspec.DecodeError:
            raise ProtocolError(f"The server's answer to {method} {path} is not a JSON object.") from None

    async def open(self, path: str, params: Mapping[str, str | int]) -> httpx.Response:
        """An answer whose body is still to be read, for as long as it takes. The caller closes it."""
        request = self.http.build_request("GET", path, params=params, timeout=httpx.Timeout(self.timeout, read=None))
        with network():
            async with deadline(self.timeout):
                response = await self.http.send(request, stream=True)
                if response.is_success:
                    return response
                try:
                    raise refusal(response, await response.aread())
                finally:
                    await response.aclose()
