"""`/ai-sdk/chat`: what the AI SDK's `DefaultChatTransport` asks. The chat is the session, its run what is resumed."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from twinwire.formats import ai_sdk, sse_data
from twinwire.formats.registry import FORMATS
from twinwire.protocol.wire import converted
from twinwire.web import input as incoming, query, stream
from twinwire.web.answers import JsonResponse
from twinwire.web.compat.ai_sdk_socket import Chat, ChatOptions, next_turn, spec
from twinwire.web.guard import agent_headers, asker, starter
from twinwire.web.openapi import documented
from twinwire.web.service import Service

FORMAT = FORMATS["ai-sdk"]


@post(
    "/ai-sdk/chat",
    operation_class=documented(query=ChatOptions, body=Chat),
    summary="Answer a message of a chat",
    status_code=200,
)
async def chat(request: Request[Any, Any, Any], service: NamedDependency[Service]) -> Response[None]:
    """Start a run in the chat, in place of the one that goes on, and follow it; or answer its questions, and go on."""
    body = incoming.fields(await incoming.body(request, service))
    told = msgspec.structs.asdict(incoming.query(request, ChatOptions))
    by = starter(request, service)
    said = {**told, **{name: value for name, value in body.items() if value is not None}}
    asked = converted(said, Chat)
    if (turn := await next_turn(service, asked, said, by)) is not None:
        query.ignore(request.scope, turn.ignored)
        opening = sse_data(turn.chunks.go_on(turn.run.run_id))
        view = ai_sdk.view(turn.chunks)
        return stream.EventStream(service, turn.run, turn.after, view, by, opening=opening, headers=FORMAT.headers)
    headers = agent_headers(request.scope, service.settings.agent_header)
    run, ignored = spec(service, asked, said, by, headers)
    query.ignore(request.scope, ignored)
    stream.admit(service, FORMAT, run.user_id)
    info, _ = await service.runs.start(run)
    with stream.begun(run, info.run_id):
        return await stream.whole(service, info.run_id, FORMAT, ai_sdk.view(asked.chunks), by)


async def _active(request: Request[Any, Any, Any], service: Service, chat_id: str) -> str | None:
    by = asker(request)
    user_id = by.named(incoming.query(request, ChatOptions).user_id)
    return await service.runs.active((user_id, chat_id), by)


@get("/ai-sdk/chat/{chat_id:str}/stream", operation_class=documented(query=ChatOptions), summary="Resume a chat's run")
async def resume(
    request: Request[Any, Any, Any], chat_id: FromPath[str], service: NamedDependency[Service]
) -> Response[None]:
    """Send the run that goes on in the chat, from its first event; answer 204 if none does."""
    run_id = await _active(request, service, chat_id)
    if run_id is None:
        return Response(None, status_code=204)
    view = ai_sdk.view(incoming.query(request, ChatOptions).chunks)
    return await stream.whole(service, run_id, FORMAT, view, asker(request))


@post("/ai-sdk/chat/{chat_id:str}/stop", operation_class=documented(query=ChatOptions), summary="Cancel a chat's run")
async def stop(
    request: Request[Any, Any, Any], chat_id: FromPath[str], service: NamedDependency[Service]
) -> Response[dict[str, str] | None]:
    """Cancel the run that goes on in the chat and answer 202; answer 204 if none does."""
    run_id = await _active(request, service, chat_id)
    if run_id is None:
        return Response(None, status_code=204)
    await service.runs.cancel(run_id, asker(request))
    return JsonResponse({"run_id": run_id, "status": "accepted"}, status_code=202)
