"""A run over Server-Sent Events: start it with `POST /runs`, follow it with `GET /runs/{run_id}/events`.

Two requests instead of one: so the run's id is known before the first event, and a start whose answer was lost is
repeated with its idempotency key, never confused with a resumption.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import cast

import httpx
from httpx_sse import EventSource, SSEError

from twinwire_client.api import Api, network
from twinwire_client.errors import ProtocolError
from twinwire_client.mailbox import Mailbox
from twinwire_client.retry import Broken, Muted, deadline
from twinwire_client.run import Position


class _Watched(httpx.AsyncByteStream):
    """A body that is read once its `connection` has no event left, so that a slow reader slows the server down.

    It raises `TimeoutError` when nothing, not even a heartbeat, comes for `seconds`.
    """

    def __init__(self, connection: _Connection, body: httpx.AsyncByteStream, seconds: float) -> None:
        self._connection = connection
        self._body = body
        self._seconds = seconds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with aclosing(cast("AsyncGenerator[bytes]", aiter(self._body))) as chunks:
            while True:
                await self._connection.emptied()
                async with deadline(self._seconds):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                self._connection.begun.set()
                yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


class _Connection(Mailbox):
    """See `run.Connection`. A task of its own reads the body, so that a reader may give up waiting, and come again."""

    def __init__(self, response: httpx.Response, heartbeat: float) -> None:
        super().__init__(renewable=False)
        self.begun = asyncio.Event()
        self._empty = asyncio.Event()
        self._waits = False
        # The heartbeat is announced in the answer: too late for a timeout of the request.
        response.stream = _Watched(self, cast("httpx.AsyncByteStream", response.stream), 2 * heartbeat)
        self._response = response
        self._task = asyncio.create_task(self._read())

    async def begin(self) -> None:
        """Wait for the opening block, which comes at once unless something between holds it back."""
        await self.begun.wait()
        if self._why is not None and not self._texts:
            raise self._why

    async def receive(self) -> str:
        """See `run.Connection`."""
        text = await super().receive()
        if not self._texts:
            self._empty.set()
        return text

    async def emptied(self) -> None:
        """Wait until all that has come is read.

        If the connection is closed meanwhile, read on in the closed body: so the generators of the libraries between
        come to their end in this task. Left alone, each would be closed later, by a task of the event loop's.
        """
        while self._texts and self._why is None:
            self._empty.clear()
            self._waits = True
            await self._empty.wait()
            self._waits = False
        if self._why is not None:
            await self._release()

    def close(self) -> None:
        """See `run.Connection`."""
        self.fail(Broken("The run is no longer followed."))
        self._empty.set()
        if not self._waits:
            self._task.cancel()

    async def aclose(self) -> None:
        """See `run.Connection`."""
        self.close()
        await asyncio.wait([self._task])
        await self._release()  # of a task that was cancelled before it began

    async def _read(self) -> None:
        why: Exception = Broken("The stream ended before the run did.")
        try:
            with network():
                async for block in EventSource(self._response).aiter_sse():
                    if block.data:  # others set the cursor and the reconnection time, or end a comment
                        self.put(block.data)
        except Broken as error:
            # httpx-sse derives its error from httpx's TransportError.
            ill = isinstance(error.__cause__, SSEError)
            why = ProtocolError("The server's answer is not an event stream.") if ill else error
        except Exception as error:  # noqa: BLE001 - it is raised where the run is read
            why = error
        finally:
            self.fail(why)
            self.begun.set()
            await self._release()

    async def _release(self) -> None:
        with suppress(Exception):  # of a connection that is broken, and that nobody wants any more
            await self._response.aclose()


def _heartbeat(response: httpx.Response, default: float) -> float:
    try:
        seconds = float(response.headers.get("twinwire-heartbeat", default))
    except ValueError:
        return default
    return seconds if seconds > 0 else default


async def start(api: Api, at: Position) -> None:
    """Start the run by a request, if it has not been started."""
    if at.run_id is None:
        at.found((await api.call("POST", "/runs", at.start)).get("run_id"))


async def connect(api: Api, at: Position, within: float | None = None) -> _Connection | None:
    """See `run.Connect`. With `within` the body must begin in so many seconds, else it is `Muted`."""
    await start(api, at)
    params: dict[str, str | int] = {"after": at.after, "envelope": 1}
    if at.types is not None:
        params["types"] = ",".join(at.types)
    connection = None
    try:
        async with asyncio.timeout(within):
            response = await api.open(f"/runs/{at.run_id}/events", params)
            if response.status_code == httpx.codes.NO_CONTENT:
                await response.aclose()
                return None
            connection = _Connection(response, _heartbeat(response, api.heartbeat))
            if within is not None:
                await connection.begin()
    except BaseException as error:
        if connection is not None:
            await connection.aclose()
        if isinstance(error, TimeoutError):
            raise Muted("The event stream did not begin in time.") from None
        raise
    return connection
