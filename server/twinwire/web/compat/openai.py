"""`/v1`: an agent for OpenAI's clients, as if it were a model of that name.

The client brings the conversation, and gets text. `dialects.openai` has what else a request may ask for: what an agent
cannot honour is refused, and a setting of a model's sampling (`temperature`, …) counts if the agent accepts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Meta, Struct

from twinwire.formats import openai
from twinwire.formats.registry import FORMATS
from twinwire.protocol.errors import AgentNotFound, FailedDependency, TwinwireError
from twinwire.protocol.wire import converted
from twinwire.web import input as incoming, query, stream
from twinwire.web.answers import JsonResponse
from twinwire.web.compat.dialects import openai as dialect
from twinwire.web.compat.history import Options, answer
from twinwire.web.guard import agent_headers, starter
from twinwire.web.openapi import documented
from twinwire.web.service import Service

FORMAT = FORMATS["openai"]
_SAID = "arch helper-method lang os package-version retry-count runtime runtime-version timeout"
HEADERS = ["user-agent", *(f"x-stainless-{what}" for what in _SAID.split())]
"""Headers in which OpenAI's npm client describes itself: a page of another origin needs leave for each."""
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class StreamOptions(Struct, frozen=True):
    """OpenAI's `stream_options`."""

    include_usage: bool = False


class Completion(Struct, frozen=True, kw_only=True):
    """OpenAI's request, as far as it concerns an agent."""

    model: Annotated[str, Meta(description="the agent's name")]
    messages: Annotated[Sequence[dict[str, Any]], Meta(description="the conversation, which the user's message ends")]
    stream: Annotated[bool | None, Meta(description="true: answer in chunks, over SSE")] = None
    stream_options: StreamOptions | None = None


def error_body(error: TwinwireError, status: int) -> dict[str, Any]:
    """Return an error as OpenAI's API tells it."""
    if status == FailedDependency.status:
        kind = openai.error_type(error.code)
    else:
        kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    unknown = isinstance(error, AgentNotFound)
    code, param = ("model_not_found", "model") if unknown else (error.code, error.field)
    return {"error": {"message": error.message, "type": kind, "param": param, "code": code}}


@post(
    "/v1/chat/completions",
    operation_class=documented(body=Completion),
    summary="Ask an agent as one asks a model",
    status_code=200,
)
async def completions(request: Request[Any, Any, Any], service: NamedDependency[Service]) -> Response[Any]:
    """Send the agent's answer, streamed or not; a client that leaves cancels it."""
    body = incoming.fields(await incoming.body(request, service))
    asked = converted(body, Completion)
    by = starter(request, service)
    said = dialect.read(body, service.runs.accepts(asked.model))
    query.ignore(request.scope, said.ignored)
    options = Options(agent=asked.model, on_disconnect="cancel")
    headers = agent_headers(request.scope, service.settings.agent_header)
    spec = answer(said, service.settings.session_bytes, by, options, can_ask=False, headers=headers)
    if asked.stream:
        stream.admit(service, FORMAT, spec.user_id)
    asked = msgspec.structs.replace(asked, messages=())
    del body, said  # a megabyte of JSON is some thirty as objects, and the run may take its time
    if asked.stream:
        info, _ = await service.runs.start(spec)
        with stream.begun(spec, info.run_id):
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            view = openai.view(asked.model, usage=usage)
            return await stream.whole(service, info.run_id, FORMAT, view, by)
    _, event = await stream.answered(service, spec, request)
    if event is None:
        return Response(None, status_code=204)  # for nobody: the caller has gone
    return JsonResponse(openai.completion(asked.model, event), status_code=200)


@get("/v1/models", summary="The agents, as models")
async def models(service: NamedDependency[Service]) -> dict[str, Any]:
    """List all agents by name, the default one first."""
    runs = service.runs
    names = sorted(runs.agents, key=lambda name: (name != runs.default_agent, name))
    return {"object": "list", "data": [_model(name) for name in names]}


@get("/v1/models/{name:str}", summary="An agent, as a model")
async def model(name: FromPath[str], service: NamedDependency[Service]) -> dict[str, Any]:
    """Return the agent of this name."""
    if name not in service.runs.agents:
        raise AgentNotFound
    return _model(name)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "twinwire"}
