"""Requests to an ASGI app in the same process and event loop, without a network.

httpx has a transport for this, too. It returns an answer once the app has ended it, so that a stream would come whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]

LEAVE_SECONDS = 1.0
"""The time that an app has for an answer that nobody reads any more, before its task is cancelled."""


class InProcess(httpx.AsyncBaseTransport):
    """See the module. `app` takes ASGI's scope, receive and send; its lifespan is not its client's business."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._exchanges: set[_Exchange] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`. An error that the app raises before its answer begins is raised as it is."""
        exchange = _Exchange(self._app, request, await request.aread(), self._exchanges.discard)
        self._exchanges.add(exchange)
        try:
            return await exchange.begin()
        except BaseException:
            await exchange.aclose()
            raise

    async def aclose(self) -> None:
        """See `httpx.AsyncBaseTransport`."""
        await asyncio.gather(*(exchange.aclose() for exchange in tuple(self._exchanges)))


class _Exchange(httpx.AsyncByteStream):
    """A request and its answer's body; the app waits until each part of that was read."""

    def __init__(self, app: AsgiApp, request: httpx.Request, body: bytes, over: Callable[[_Exchange], None]) -> None:
        url = request.url
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": request.method,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.partition(b"?")[0],
            "query_string": url.query,
            "server": (url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)),
            "client": ("127.0.0.1", 0),
            "root_path": "",
        }
        self._body: bytes | None = body
        self._over = over
        self._messages: deque[dict[str, Any]] = deque()
        self._news = asyncio.Event()
        self._read = asyncio.Event()
        self._left = asyncio.Event()
        self._task = asyncio.ensure_future(app(scope, self._receive, self._send))
        self._task.add_done_callback(lambda _: self._news.set())

    async def begin(self) -> httpx.Response:
        """Wait for the head of the answer."""
        message = await self._next()
        if message is None:
            await self._task  # what it raises
            raise httpx.RemoteProtocolError("The app has returned without an answer.")
        return httpx.Response(message["status"], headers=message.get("headers", []), stream=self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._next()) is not None:
            if body := message.get("body"):
                yield body
            if not message.get("more_body"):
                return
        error = None if self._task.cancelled() else self._task.exception()
        raise httpx.RemoteProtocolError("The app has ended before its answer was complete.") from error

    async def aclose(self) -> None:
        """Tell the app that its client has left, and wait for its end."""
        self._left.set()
        self._messages.clear()
        self._read.set()
        _, running = await asyncio.wait([self._task], timeout=LEAVE_SECONDS)
        for task in running:
            task.cancel()
            await asyncio.wait([task])
        if not self._task.cancelled():
            self._task.exception()  # it was raised where the answer was read, or nobody wants it any more
        self._over(self)

    async def _next(self) -> dict[str, Any] | None:
        while not self._messages:
            if self._task.done():
                return None
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        self._read.set()
        return message

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if self._left.is_set():
            raise OSError("The client has left.")
        self._messages.append(message)
        self._news.set()
        while self._messages and not self._left.is_set():
            self._read.clear()
            await self._read.wait()
