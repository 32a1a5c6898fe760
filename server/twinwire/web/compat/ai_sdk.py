"""`/ai-sdk/chat`: what the AI SDK's `DefaultChatTransport` asks. The chat is the session, its run what is resumed."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from twinwire.formats import ai_sdk
from twinwire.formats.registry import FORMATS
from twinwire.web import input as incoming, query, stream
from twinwire.web.answers import JsonResponse
from twinwire.web.compat.ai_sdk_socket import Chat, spec
from twinwire.web.compat.history import Options
from twinwire.web.guard import asker, starter
from twinwire.web.openapi import documented
from twinwire.web.service import Service

FORMAT = FORMATS["ai-sdk"]


@post(
    "/ai-sdk/chat",
    operation_class=documented(query=Options, body=Chat),
    summary="Answer a message of a chat",
    status_code=200,
)
async def chat(request: Request[Any, Any, Any], service: NamedDependency[Service]) -> Response[None]:
    """Start a run in the chat, in place of the one that goes on, and follow it."""
    body = incoming.fields(await incoming.body(request, service))
    told = msgspec.structs.asdict(incoming.query(request, Options))
    by = starter(request, service)
    said = {name: value for name, value in body.items() if value is not None}
    run, ignored = spec({**told, **said}, by, service.settings.session_bytes)
    query.ignore(request.scope, ignored)
    stream.admit(service, FORMAT, run.user_id)
    info, _ = await service.runs.start(run)
    with stream.begun(run, info.run_id):
        return await stream.whole(service, info.run_id, FORMAT, ai_sdk.view(), by)


async def _active(request: Request[Any, Any, Any], service: Service, chat_id: str) -> str | None:
    by = asker(request)
    user_id = by.named(incoming.query(request, Options).user_id)
    return await service.runs.active((user_id, chat_id), by)


@get("/ai-sdk/chat/{chat_id:str}/stream", operation_class=documented(query=Options), summary="Resume a chat's run")
async def resume(
    request: Request[Any, Any, Any], chat_id: FromPath[str], service: NamedDependency[Service]
) -> Response[None]:
    """Send the run that goes on in the chat, from its first event; answer 204 if none does."""
    run_id = await _active(request, service, chat_id)
    if run_id is None:
        return Response(None, status_code=204)
    return await stream.whole(service, run_id, FORMAT, ai_sdk.view(), asker(request))


@post("/ai-sdk/chat/{chat_id:str}/stop", operation_class=documented(query=Options), summary="Cancel a chat's run")
async def stop(
    request: Request[Any, Any, Any], chat_id: FromPath[str], service: NamedDependency[Service]
) -> Response[dict[str, str] | None]:
    """Cancel the run that goes on in the chat and answer 202; answer 204 if none does."""
    run_id = await _active(request, service, chat_id)
    if run_id is None:
        return Response(None, status_code=204)
    await service.runs.cancel(run_id, asker(request))
    return JsonResponse({"run_id": run_id, "status": "accepted"}, status_code=202)
