"""`/chat` and `/chat/stream`: start a run and follow it in one request, as the guide's clients do."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, route
from litestar.di import NamedDependency

from twinwire import errors
from twinwire.errors import RunError, TwinwireError
from twinwire.events import StreamEvent
from twinwire.runs import RunSpec
from twinwire.runs.spec import DEFAULT_ON_DISCONNECT
from twinwire.web import guard, input as incoming, stream
from twinwire.web.input import ChatBody, ChatQuery
from twinwire.web.openapi import documented
from twinwire.web.service import Service

STATUS = {
    kind.code: kind.status for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RunError)
}


@route(
    ["/chat", "/chat/stream"],
    http_method=["GET", "POST"],
    opt=guard.PLAIN,
    operation_class=documented(query=ChatQuery, body=ChatBody),
    summary="Start a run and follow it; with a cursor, resume one and never start",
)
async def chat(request: Request[Any, Any, Any], service: NamedDependency[Service]) -> Response[Any]:
    """Answer with the run's events as SSE, or with `{"result"}` where `stream` is false."""
    asked: ChatQuery = incoming.query(request, ChatQuery)
    if request.method == "POST" and (data := await incoming.body(request, service.settings.max_body)):
        asked = incoming.merged(asked, data)
    if (cursor := incoming.chat_cursor(request, asked.after)) is not None:
        incoming.accepts_events(request)
        return await stream.follow(service, cursor.run_id, cursor.seq, asked, guard.asker(request))
    by = guard.starter(request, service)
    spec = RunSpec.of(asked, by, DEFAULT_ON_DISCONNECT if asked.stream else "cancel", interrupt=True)
    if asked.stream:
        incoming.accepts_events(request)
        stream.admit(service, stream.chosen(service, asked), spec.user_id)  # what is refused must not start a run
    info, _ = await service.runs.start(spec)
    if asked.stream:
        return await stream.follow(service, info.run_id, 0, asked, by)
    return _answer(await stream.result(service, info.run_id, request), info.run_id)


def failure(event: StreamEvent) -> tuple[TwinwireError, int]:
    """A run's ERROR as an error of the request that waits for its result, and its HTTP status."""
    error = TwinwireError(event.data["message"])
    error.code = event.data["error_type"]
    return error, STATUS.get(error.code, 502 if "upstream" in error.code else 500)


def _answer(event: StreamEvent | None, run_id: str) -> Response[Any]:
    if event is None:
        return Response(None, status_code=204)  # for nobody: the caller has gone
    if event.type == "ERROR":
        error, status = failure(event)
        return Response(error.payload(), status_code=status)
    return Response({"result": event.data["result"], "run_id": run_id, "status": event.data["status"]}, status_code=200)
