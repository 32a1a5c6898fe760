"""`POST /ag-ui`: what AG-UI's `HttpAgent` asks. The thread is the session; asking again for a run joins it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Request, Response, post
from litestar.di import NamedDependency
from msgspec import Meta, Struct

from twinwire.formats import ag_ui
from twinwire.formats.registry import FORMATS
from twinwire.protocol.start import Name
from twinwire.protocol.wire import converted
from twinwire.web import input as incoming, query, stream
from twinwire.web.compat import dialects
from twinwire.web.compat.history import Options, answer
from twinwire.web.guard import starter
from twinwire.web.openapi import documented
from twinwire.web.service import Service

FORMAT = FORMATS["ag-ui"]


class RunAgentInput(Struct, frozen=True, rename="camel"):
    """AG-UI's request. `dialects` has what else may be in it: `state`, `tools`, `context`, … have no effect."""

    thread_id: Annotated[Name, Meta(description="the session")]
    run_id: Annotated[Name, Meta(description="the client's name for the run; asked for again, it is joined")]
    messages: Annotated[Sequence[dict[str, Any]], Meta(description="the conversation, which the user's message ends")]
    protocol_version: Annotated[str | None, Meta(description="1.0; none for a client before that")] = None


class Query(Options, frozen=True, kw_only=True):
    """The fields that an app may add."""

    reasoning: Annotated[bool, Meta(description="false for npm's client before 0.0.45, which fails on it")] = True


@post("/ag-ui", operation_class=documented(query=Query, body=RunAgentInput), summary="Run an agent", status_code=200)
async def run_agent(request: Request[Any, Any, Any], service: NamedDependency[Service]) -> Response[None]:
    """Start the run and follow it; or follow one that the client has started before, from a snapshot of it."""
    body = incoming.fields(await incoming.body(request, service))
    asked = converted(body, RunAgentInput)
    dialects.ag_ui_answers(body)
    told = incoming.query(request, Query)
    by = starter(request, service)
    key = f"ag-ui {asked.thread_id} {asked.run_id}"
    user_id = by.named(told.user_id)
    stream.admit(service, FORMAT, user_id)
    info = await service.runs.log.find(user_id, key)
    new = info is None
    if info is not None:
        ignored = dialects.without_effect(body, dialects.AG_UI)
    else:
        (said, ignored), limit = dialects.ag_ui(body), service.settings.session_bytes
        info, new = await service.runs.start(answer(said, limit, by, told, session_id=asked.thread_id, key=key))
    state = await service.runs.state(info.run_id, by)
    after = 0 if new else state.last - (state.terminal is not None)
    modern = asked.protocol_version is not None
    query.ignore(request.scope, ignored)
    toolless = "tools" in ignored
    events = ag_ui.Events(asked.thread_id, asked.run_id, modern=modern, reasoning=told.reasoning, toolless=toolless)
    return await stream.played(service, state, FORMAT, ag_ui.Late(events, asked.messages), by, after=after)
