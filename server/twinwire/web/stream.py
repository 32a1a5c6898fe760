"""Answers that follow a run: an SSE body, or its result once it has ended."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from litestar import Request, Response
from litestar.types import Receive, Scope, Send

from twinwire.auth import ANYBODY, Identity
from twinwire.formats import JoiningView, RecapView, View, native
from twinwire.formats.recap import recap
from twinwire.formats.registry import Format
from twinwire.log import RunInfo, RunState
from twinwire.protocol.errors import BadRequest, ContextTooLong, FailedDependency, TwinwireError
from twinwire.protocol.events import Record, StreamEvent, decode
from twinwire.protocol.wire import HEARTBEAT, sse_open
from twinwire.runs import RunSpec
from twinwire.runs.reserve import Claim
from twinwire.transports import sse
from twinwire.transports.limiter import AGAIN_SECONDS
from twinwire.web import answers
from twinwire.web.answers import OwnAnswer, encoded
from twinwire.web.input import FollowQuery
from twinwire.web.service import Service

logger = logging.getLogger("twinwire.web")

RUN_HEADER = "twinwire-run"
HEARTBEAT_HEADER = "twinwire-heartbeat"
FULL_RETRY_MS = 1000 * AGAIN_SECONDS  # with its jitter less than the grace that a run has without a follower by default
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
SKIP_PAGE = 256


def _retry(milliseconds: float) -> int:
    """Return the time with a jitter, so that the clients of a server that restarts do not come back all at once."""
    return round(milliseconds * random.uniform(0.5, 1.5))


class HeadAlone(OwnAnswer):
    """The head of an answer that would have these fields: a HEAD request starts no run, and follows none."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__(None)
        self._fields = encoded(fields)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """See `OwnAnswer`."""
        await send({"type": "http.response.start", "status": 200, "headers": self._fields})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class PutOff(HeadAlone):
    """An SSE answer to a start for whose stream there is no room: a time to come again, and no run begins.

    It has no cursor, so that the reconnect is the same start.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(stream_headers(service))
        self._service = service

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `OwnAnswer`."""
        if answers.is_head(scope):
            await super().serve(scope, receive, send)
            return
        self._service.metrics.refuse("busy", path=scope["path"])
        opening = b"retry: %d\n\n" % _retry(FULL_RETRY_MS)
        await sse.put_off(scope, receive, send, headers=self._fields, opening=opening)


class EventStream(HeadAlone):
    """An SSE answer: the events of a run after number `after`.

    The body begins with `opening`, by default the block that EventSource takes its cursor from. `claim` is what that
    costs.
    """

    def __init__(
        self,
        service: Service,
        run: RunInfo,
        after: int,
        view: View,
        by: Identity,
        *,
        opening: bytes = b"",
        claim: Claim | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        super().__init__({**stream_headers(service), RUN_HEADER: run.run_id, **headers})
        self._service = service
        self._run_id = run.run_id
        self._user_id = run.user_id
        self._after = after
        self._view = view
        self._by = by
        self._opening = opening
        self._claim = claim

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `OwnAnswer`."""
        settings, limiter = self._service.settings, self._service.limiter
        if answers.is_head(scope):
            await super().serve(scope, receive, send)
            return
        await asyncio.sleep(0)  # a run that has just started asks its model before the answer to this begins
        full = limiter.full(self._user_id)
        retry = _retry(FULL_RETRY_MS if full else settings.retry_ms)
        opening = self._opening or sse_open(self._run_id, self._after, retry)
        if full:
            self._service.metrics.refuse("busy", path=scope["path"])
            self._claim = None
            await sse.put_off(scope, receive, send, headers=self._fields, opening=opening)
            return
        claim, self._claim, self._opening = self._claim, None, b""
        await sse.serve(
            scope,
            receive,
            send,
            log=self._service.runs.log,
            presence=self._service.runs,
            heartbeats=self._service.heartbeats,
            run_id=self._run_id,
            after=self._after,
            view=self._view,
            by=self._by,
            entry=limiter.entered(self._user_id),
            headers=self._fields,
            opening=opening,
            sent=claim,
        )


def stream_headers(service: Service) -> Mapping[str, str]:
    """Return the fields of a stream that are the same for each run."""
    return {
        "content-type": "text/event-stream; charset=utf-8",
        "x-accel-buffering": "no",
        HEARTBEAT_HEADER: f"{service.settings.heartbeat:g}",
    }


async def follow(
    service: Service, run_id: str, after: int, how: FollowQuery, by: Identity, *, message: str | None = None
) -> Response[None]:
    """Return the run's events after number `after`, for `by`, or 204 after the last: EventSource then does not return.

    If the request has a `message`, it must be the run's own. Raise `RunNotFound`,
    `CursorGone`, and `BadRequest` as `chosen`.
    """
    kind = chosen(service, how)
    state = await service.runs.seek(run_id, after, by, recapped=kind is not None and not kind.any_cursor)
    if state.terminal is not None and after == state.last:
        if message is not None and state.first == 1:
            first = (await service.runs.log.page(run_id, 0, 1)).records[0]
            asked = decode(first.body).data.get("input")
            if isinstance(asked, str) and asked != message:
                raise BadRequest(
                    "`message` must be the one of the ended run at the cursor. Leave the cursor out to start a run.",
                    field="message",
                )
        return Response(None, status_code=204, headers={RUN_HEADER: run_id})
    if kind is None:
        view: View = native.view("sse+envelope" if how.envelope else "sse", how.kinds)
        return EventStream(service, state.info, after, view, by)
    return await played(service, state, kind, kind.view(), by, after=after)


def chosen(service: Service, how: FollowQuery) -> Format | None:
    """Return the format that the request names, None for the native one. Raise `BadRequest`."""
    if how.format == "native":
        how.kinds  # noqa: B018 - it is read here as well
        return None
    if how.format not in service.formats:
        raise BadRequest(f"`format` must be one of: native, {', '.join(service.formats)}.", field="format")
    for name in ("types", "envelope"):
        if getattr(how, name):
            raise BadRequest(f"`{name}` is only valid with the native format.", field=name)
    return service.formats[how.format]


def puts_off(service: Service, kind: Format | None, user_id: str | None) -> bool:
    """Return whether a start is answered with `PutOff`, since its client may be an EventSource and there is no room."""
    return (kind is None or kind.any_cursor) and service.limiter.full(user_id)


def admit(service: Service, kind: Format | None, user_id: str | None) -> None:
    """Raise `TooManyConnections` if there is no room for this user's stream. Call it before a run starts for that.

    EventSource would never come again: in its formats, the native one and an app's own, the answer is `PutOff` instead.
    """
    if kind is not None and not kind.any_cursor:
        service.limiter.check(user_id)


async def played(
    service: Service, state: RunState, kind: Format, view: View, by: Identity, *, after: int = 0
) -> EventStream:
    """Return the run in a format that is not native, from the event after number `after` if the format can.

    If the log has trimmed the run's first events, it begins with the state that they have come to. Raise `BadRequest`
    if the format cannot, `CursorGone` if the log has not kept that state, and `TooManyConnections` as `admit`.
    """
    run = state.info
    admit(service, kind, run.user_id)
    if kind.any_cursor:
        return EventStream(service, run, after, view, by, headers=kind.headers)
    opening = HEARTBEAT  # nothing to take a cursor from
    claim = None
    if after and not isinstance(view, JoiningView):
        raise BadRequest(
            "`after` is not valid with this format, which begins with the run's first event.", field="after"
        )
    if state.first > 1 and isinstance(view, RecapView):
        claim = await service.runs.claim(run.run_id, by)
        after, events = await recapped(service, run, by)
        opening += b"".join(view.recap(events))
    elif isinstance(view, JoiningView):
        claim = await service.runs.reserve.take(state.size if after else 0)
        await passed(service, run.run_id, after, view.skip)
        opening = view.join() or opening
    return EventStream(service, run, after, view, by, opening=opening, claim=claim, headers=kind.headers)


async def recapped(service: Service, run: RunInfo, by: Identity) -> tuple[int, list[StreamEvent]]:
    """Return the number of the event after which a run whose first events are trimmed is to be followed from now on.

    Also return the events that come to the same as those up to there. Raise as `Runs.snapshot`.
    """
    seq, state = await service.runs.snapshot(run.run_id, by)
    ended = state["status"] != "running"
    return seq - ended, recap(run.run_id, run.agent, run.created, seq - ended, state)


async def passed(
    service: Service, run_id: str, upto: int, look: Callable[[Sequence[Record]], None], *, after: int = 0
) -> None:
    """Have `look` take in the run's events up to this number, page by page, and none up to `after`.

    Raise as `EventLog.page`.
    """
    seq = after
    while seq < upto:
        page = await service.runs.log.page(run_id, seq, min(SKIP_PAGE, upto - seq))
        look(page.records)
        seq = page.records[-1].seq
        await asyncio.sleep(0)  # a long run is read in turns with everybody else's


async def whole(service: Service, run_id: str, kind: Format, view: View, by: Identity) -> EventStream:
    """Return the run from its first event on, for `by`. Raise `RunNotFound`, and as `played`."""
    return await played(service, await service.runs.state(run_id, by), kind, view, by)


@contextmanager
def begun(spec: RunSpec, run_id: str) -> Iterator[None]:
    """Turn what goes wrong once a run has begun into `FailedDependency`, so that no client begins it again.

    A start with an idempotency key may be repeated: it is the same run, and its errors stay as they are.
    """
    try:
        yield
    except FailedDependency:
        raise
    except TwinwireError as error:
        if spec.idempotency_key is not None:
            raise
        raise FailedDependency(error.message, error.code, run_id) from error
    except Exception as error:
        logger.exception("The answer to the request that started the run %s failed.", run_id)
        raise FailedDependency("The server had an internal error.", "internal", run_id) from error


async def answered(service: Service, spec: RunSpec, request: Request[Any, Any, Any]) -> tuple[str, StreamEvent | None]:
    """Start a run, wait for its end, and return its id and what `result` does. Raise as `Runs.start` and `result` do.

    The request counts as one of the user's connections meanwhile. Raise `TooManyConnections` if there is no room,
    unless it may be the repetition of a start.
    """
    if spec.idempotency_key is None:
        service.limiter.check(spec.user_id)
    with service.limiter.entered(spec.user_id):
        info, _ = await service.runs.start(spec)
        with begun(spec, info.run_id):
            return info.run_id, await result(service, info.run_id, request)


async def result(service: Service, run_id: str, request: Request[Any, Any, Any]) -> StreamEvent | None:
    """Return the run's AGENT_FINISH once it is there, or None if the caller has left before.

    Raise `FailedDependency` if the run failed or was cancelled.
    """
    if (event := await _terminal(service, run_id, request)) is None:
        return None
    data = event.data
    if event.type == "ERROR":
        code, after = str(data["error_type"]), data.get("retry_after")
        kind = ContextTooLong if code == "upstream_context_length" else FailedDependency
        seconds = math.ceil(after) if isinstance(after, (int, float)) and 0 <= after < 2**31 else None
        raise kind(str(data["message"]), code, run_id, retry_after=seconds)
    if data["status"] == "cancelled":
        raise FailedDependency("The run was cancelled.", "cancelled", run_id, result=data["result"])
    return event


async def _terminal(service: Service, run_id: str, request: Request[Any, Any, Any]) -> StreamEvent | None:
    runs = service.runs
    news = asyncio.Event()
    gone = asyncio.create_task(_until_disconnect(request.receive, news))
    unsubscribe = runs.log.subscribe(run_id, news.set)
    runs.follow(run_id)
    try:
        while (state := await runs.state(run_id, ANYBODY)).terminal is None:
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
