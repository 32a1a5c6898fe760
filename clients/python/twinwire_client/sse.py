"""A run over Server-Sent Events: start it with `POST /runs`, follow it with `GET /runs/{run_id}/events`.

Two requests instead of one: so the run's id is known before the first event, and a start whose answer was lost is
repeated with its idempotency key, never confused with a resumption.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from types import AsyncGeneratorType
from typing import cast

import httpx
from httpx_sse import EventSource, ServerSentEvent, SSEError

from twinwire_client.api import Api, network
from twinwire_client.errors import ProtocolError
from twinwire_client.retry import Broken, Muted, deadline
from twinwire_client.run import Position


class _Watched(httpx.AsyncByteStream):
    """A body that raises `TimeoutError` when nothing, not even a heartbeat, comes for `seconds`."""

    def __init__(self, body: httpx.AsyncByteStream, seconds: float) -> None:
        self._body = body
        self._seconds = seconds
        self._chunks = cast("AsyncGenerator[bytes]", aiter(body))
        self._begun: bytes | None = None

    async def begin(self) -> None:
        """Wait for the first bytes; they are still the first that are read."""
        self._begun = await anext(self._chunks, None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with aclosing(self._chunks):
            if self._begun is not None:
                yield self._begun
            while True:
                async with deadline(self._seconds):
                    chunk = await anext(self._chunks, None)
                if chunk is None:
                    return
                yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


class _Connection:
    """See `run.Connection`."""

    def __init__(self, response: httpx.Response, heartbeat: float) -> None:
        # The heartbeat is announced in the answer: too late for a timeout of the request.
        self._watched = _Watched(cast("httpx.AsyncByteStream", response.stream), 2 * heartbeat)
        response.stream = self._watched
        self._response = response
        self._blocks: AsyncIterator[ServerSentEvent] = EventSource(response).aiter_sse()

    async def begin(self) -> None:
        """Wait for the opening block, which comes at once unless something between holds it back."""
        with network():
            await self._watched.begin()

    async def receive(self) -> str:
        """See `run.Connection`."""
        with network():
            try:
                async for block in self._blocks:
                    if block.data:  # others set the cursor and the reconnection time, or end a comment
                        return block.data
            except SSEError:  # httpx-sse derives it from httpx's TransportError, which is `network`'s
                raise ProtocolError("The server's answer is not an event stream.") from None
        raise Broken("The stream ended before the run did.")

    async def aclose(self) -> None:
        """See `run.Connection`.

        Then the generators of the libraries between are run to their end, where they find the connection closed:
        left alone, each of them would be closed some time later, by a task of the event loop's. If another task waits
        in them, it is that task that finds the connection closed.
        """
        await self._response.aclose()
        if cast("AsyncGeneratorType[ServerSentEvent, None]", self._blocks).ag_running:
            return
        with suppress(SSEError, httpx.HTTPError, httpx.StreamError, TimeoutError):
            async for _ in self._blocks:
                pass


def _heartbeat(response: httpx.Response, default: float) -> float:
    try:
        seconds = float(response.headers.get("twinwire-heartbeat", default))
    except ValueError:
        return default
    return seconds if seconds > 0 else default


async def connect(api: Api, at: Position, within: float | None = None) -> _Connection | None:
    """See `run.Connect`. With `within` the body must begin in so many seconds, else it is `Muted`."""
    if at.run_id is None:
        at.found((await api.call("POST", "/runs", at.start)).get("run_id"))
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
