"""`POST /ag-ui`: what AG-UI's `HttpAgent` asks. The thread is the session; asking again for a run joins it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, post
from litestar.di import NamedDependency
from msgspec import Meta, Struct

from twinwire.formats import ag_ui
from twinwire.formats.registry import FORMATS
from twinwire.runs import RunSpec
from twinwire.runs.conversation import Turn, question, text
from twinwire.transports.ai_sdk import Options
from twinwire.web import input as incoming, stream
from twinwire.web.guard import starter
from twinwire.web.input import Name
from twinwire.web.openapi import documented
from twinwire.web.service import Service


class RunAgentInput(Struct, frozen=True, rename="camel"):
    """AG-UI's request; what else is in it (state, tools, context, …) is left aside: the agent has its own."""

    thread_id: Annotated[Name, Meta(description="the session")]
    run_id: Annotated[Name, Meta(description="the client's name for the run; asked for again, it is joined")]
    messages: Annotated[Sequence[dict[str, Any]], Meta(description="the conversation, which the user's message ends")]
    protocol_version: Annotated[str | None, Meta(description="1.0; none for a client before that")] = None


@post("/ag-ui", operation_class=documented(query=Options, body=RunAgentInput), summary="Run an agent", status_code=200)
async def run_agent(request: Request[Any, Any, Any], service: NamedDependency[Service]) -> Response[None]:
    """Start the run and follow it; or follow one that the client has started before, from a snapshot of it."""
    asked = incoming.struct(await incoming.body(request, service.settings.max_body), RunAgentInput)
    told = incoming.query(request, Options)
    by = starter(request, service)
    key = f"ag-ui {asked.thread_id} {asked.run_id}"
    info = await service.runs.log.find(by.named(told.user_id), key)
    new = info is None
    if info is None:
        said = ((str(message.get("role")), text(message.get("content"))) for message in asked.messages)
        message, history = question(said, service.settings.session_bytes)
        turn = Turn(
            message=message,
            agent=told.agent,
            user_id=told.user_id,
            session_id=asked.thread_id,
            on_disconnect=told.on_disconnect,
            idempotency_key=key,
        )
        spec = RunSpec.of(turn, by, "cancel_after:10", interrupt=True)
        info, new = await service.runs.start(msgspec.structs.replace(spec, history=history))
    state = await service.runs.state(info.run_id, by)
    after = 0 if new else state.last - (state.terminal is not None)
    events = ag_ui.Events(asked.thread_id, asked.run_id, modern=asked.protocol_version is not None)
    return await stream.played(service, state, FORMATS["ag-ui"], ag_ui.Late(events, asked.messages), by, after=after)
