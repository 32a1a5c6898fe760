"""`/chat` and `/chat/stream`: start a run and follow it in one request, as the guide's clients do."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, route
from litestar.di import NamedDependency

from twinwire.protocol.parts import content
from twinwire.protocol.start import DEFAULT_ON_DISCONNECT
from twinwire.runs import RunSpec
from twinwire.web import answers, guard, input as incoming, stream
from twinwire.web.answers import JsonResponse
from twinwire.web.input import ChatBody, ChatQuery
from twinwire.web.openapi import documented
from twinwire.web.service import Service


@route(
    ["/chat", "/chat/stream"],
    http_method=["GET", "POST"],
    operation_class=documented(query=ChatQuery, body=ChatBody),
    summary="Start a run and follow it; with a cursor, resume one and never start",
)
async def chat(request: Request[Any, Any, Any], service: NamedDependency[Service]) -> Response[Any]:
    """Answer with the run's events as SSE, or with `{"result"}` if `stream` is false."""
    asked: ChatQuery = incoming.query(request, ChatQuery)
    if request.method == "POST" and (data := await incoming.body(request, service)):
        asked = incoming.merged(asked, data)
    if (cursor := incoming.chat_cursor(request, asked)) is not None:
        incoming.accepts_events(request)
        message = asked.message if asked.parts is None else content(asked.message or "", asked.parts)[0]
        return await stream.follow(service, cursor.run_id, cursor.seq, asked, guard.asker(request), message=message)
    by = guard.starter(request, service)
    on_disconnect = DEFAULT_ON_DISCONNECT if asked.stream else "cancel"
    headers = guard.agent_headers(request.scope, service.settings.agent_header)
    how: Any = {"on_disconnect": on_disconnect, "can_ask": asked.stream, "headers": headers}
    spec = RunSpec.of(asked, by, interrupt=True, **how)
    service.runs.accepts(spec.agent).check(spec.params, spec.parts)
    if asked.stream:
        incoming.accepts_events(request)
        kind = stream.chosen(service, asked)
        stream.admit(service, kind, spec.user_id)  # a refused request must not start a run
        if stream.puts_off(service, kind, spec.user_id):
            return stream.PutOff(service)
    if answers.is_head(request.scope):
        fields = stream.stream_headers(service) if asked.stream else {"content-type": "application/json"}
        return stream.HeadAlone(fields)
    if asked.stream:
        info, _ = await service.runs.start(spec)
        with stream.begun(spec, info.run_id):
            return await stream.follow(service, info.run_id, 0, asked, by)
    run_id, event = await stream.answered(service, spec, request)
    if event is None:
        return Response(None, status_code=204)  # for nobody: the caller has gone
    body = {"result": event.data["result"], "run_id": run_id, "status": event.data["status"]}
    return JsonResponse(body, status_code=200)
