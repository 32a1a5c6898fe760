"""Answers that follow a run: an SSE body, or its result once it has ended."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from litestar import Request, Response
from litestar.types import ASGIApp, Receive, Scope, Send

from twinwire.errors import CursorGone
from twinwire.events import StreamEvent, decode
from twinwire.formats import View, native
from twinwire.transports import sse
from twinwire.web.input import FollowQuery
from twinwire.web.service import Service
from twinwire.wire import sse_open

RUN_HEADER = "twinwire-run"
HEARTBEAT_HEADER = "twinwire-heartbeat"


class EventStream(Response[None]):
    """An SSE answer: the events of a run after number `after`."""

    def __init__(self, service: Service, run_id: str, after: int, view: View) -> None:
        super().__init__(None)
        self._service = service
        self._run_id = run_id
        self._after = after
        self._view = view

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        """See `Response`: an ASGI app that serves itself."""
        return self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        settings = self._service.settings
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            "x-content-type-options": "nosniff",
            RUN_HEADER: self._run_id,
            HEARTBEAT_HEADER: f"{settings.heartbeat:g}",
        }
        # Jittered, so that the clients of a server that restarts do not come back all at once.
        retry = round(settings.retry_ms * random.uniform(0.5, 1.5))
        await sse.serve(
            scope,
            receive,
            send,
            log=self._service.runs.log,
            presence=self._service.runs,
            sweep=self._service.sweep,
            run_id=self._run_id,
            after=self._after,
            view=self._view,
            headers=[(name.encode(), value.encode()) for name, value in headers.items()],
            opening=sse_open(self._run_id, self._after, retry),
        )


async def follow(service: Service, run_id: str, after: int, how: FollowQuery) -> Response[None]:
    """The run's events after number `after`, or 204 after the last: EventSource then stays away for good.

    Raises `RunNotFound` and `CursorGone`.
    """
    view = native.view("sse+envelope" if how.envelope else "sse", how.kinds)
    state = await service.runs.state(run_id)
    if not state.first - 1 <= after <= state.last:
        raise CursorGone(state.first, state.last)
    if state.terminal is not None and after == state.last:
        return Response(None, status_code=204, headers={RUN_HEADER: run_id})
    return EventStream(service, run_id, after, view)


async def result(service: Service, run_id: str, request: Request[Any, Any, Any]) -> StreamEvent | None:
    """The run's terminal event, once it is there; None where the caller left before."""
    runs = service.runs
    news = asyncio.Event()
    gone = asyncio.create_task(_until_disconnect(request.receive, news))
    unsubscribe = runs.log.subscribe(run_id, news.set)
    runs.follow(run_id)
    try:
        while (state := await runs.state(run_id)).terminal is None:
            if gone.done():
                return None
            await news.wait()
            news.clear()
        return decode(state.terminal.body)
    finally:
        gone.cancel()
        unsubscribe()
        runs.unfollow(run_id)


async def _until_disconnect(receive: Receive, news: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    news.set()
