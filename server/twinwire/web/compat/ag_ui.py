"""`POST /ag-ui`: what AG-UI's `HttpAgent` asks. The thread is the session; asking again for a run joins it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Request, Response, post
from litestar.di import NamedDependency
from msgspec import Meta, Struct

from twinwire.agents.accepts import Accepts
from twinwire.auth import Identity
from twinwire.formats import ag_ui
from twinwire.formats.registry import FORMATS
from twinwire.log import RunInfo, RunState
from twinwire.protocol.errors import BadRequest, RunNotFound
from twinwire.protocol.start import Name
from twinwire.protocol.wire import converted
from twinwire.web import input as incoming, query, stream
from twinwire.web.compat import turns
from twinwire.web.compat.dialects import Reply, ag_ui as dialect, empty, without_effect
from twinwire.web.compat.history import Options, answer
from twinwire.web.guard import agent_headers, starter
from twinwire.web.openapi import documented
from twinwire.web.service import Service

FORMAT = FORMATS["ag-ui"]


class RunAgentInput(Struct, frozen=True, rename="camel"):
    """AG-UI's request. `dialects.ag_ui` has what else may be in it: `state`, `tools`, `context`, …."""

    thread_id: Annotated[Name, Meta(description="the session")]
    run_id: Annotated[Name, Meta(description="the client's name for the run; asked for again, it is joined")]
    messages: Annotated[Sequence[dict[str, Any]], Meta(description="the conversation, which the user's message ends")]
    protocol_version: Annotated[str | None, Meta(description="1.0; none for a client before that")] = None


class Query(Options, frozen=True, kw_only=True):
    """The fields that an app may add."""

    reasoning: Annotated[bool, Meta(description="false for npm's client before 0.0.45, which fails on it")] = True


@post("/ag-ui", operation_class=documented(query=Query, body=RunAgentInput), summary="Run an agent", status_code=200)
async def run_agent(request: Request[Any, Any, Any], service: NamedDependency[Service]) -> Response[None]:
    """Start the run and follow it; or follow one that the client has started before, from a snapshot of it.

    With `resume`, that is the run whose questions are answered, from the newest of them.
    """
    body = incoming.fields(await incoming.body(request, service))
    asked = converted(body, RunAgentInput)
    dialect.check_answers(body)
    told = incoming.query(request, Query)
    by = starter(request, service)
    accepts = service.runs.accepts(told.agent)
    user_id = by.named(told.user_id)
    stream.admit(service, FORMAT, user_id)
    if (resumed := await _resumed(service, asked, body, accepts, by, user_id=user_id)) is not None:
        state, after = resumed
        ignored = without_effect(body, dialect.FIELDS, accepts)
    else:
        info = await _known(service, asked, user_id, by)
        new = info is None
        if info is not None:
            ignored = without_effect(body, dialect.FIELDS, accepts)
        else:
            said, limit = dialect.read(body, accepts), service.settings.session_bytes
            headers = agent_headers(request.scope, service.settings.agent_header)
            start = answer(said, limit, by, told, session_id=asked.thread_id, key=_key(asked), headers=headers)
            info, new = await service.runs.start(start)
            ignored = said.ignored
        state = await service.runs.state(info.run_id, by)
        after = 0 if new else state.last - (state.terminal is not None)
    modern = asked.protocol_version is not None
    query.ignore(request.scope, ignored)
    toolless = not empty(body.get("tools")) and "tools" not in accepts.words
    events = ag_ui.Events(asked.thread_id, asked.run_id, modern=modern, reasoning=told.reasoning, toolless=toolless)
    return await stream.played(service, state, FORMAT, ag_ui.Late(events, asked.messages), by, after=after)


def _key(asked: RunAgentInput) -> str:
    return f"ag-ui {asked.thread_id} {asked.run_id}"


async def _known(service: Service, asked: RunAgentInput, user_id: str | None, by: Identity) -> RunInfo | None:
    """Return the run that the client has named so: when it began it, or when it resumed it, if it goes on."""
    if (info := await service.runs.log.find(user_id, _key(asked))) is not None:
        return info
    run_id = await service.runs.active((user_id, asked.thread_id), by)
    if run_id is None or not await turns.resumed_as(service, run_id, _key(asked), by):
        return None
    return (await service.runs.state(run_id, by)).info


async def _resumed(
    service: Service, asked: RunAgentInput, body: dict[str, Any], accepts: Accepts, by: Identity, *, user_id: str | None
) -> tuple[RunState, int] | None:
    """Give a run the answers in `resume`; return it, and the number of the event after which its next turn begins.

    If all its questions are given up, the run is cancelled; or, if the user says something new instead, it is None:
    another run begins in its place. Raise `BadRequest`, and as `turns.read` and `turns.answer`.
    """
    if (replies := dialect.replies(body)) is None:
        return None
    given_up = [reply for reply in replies.replies.values() if reply.given_up]
    try:
        turn = await turns.read(service, replies, (user_id, asked.thread_id), by)
    except RunNotFound:
        if len(given_up) < len(replies.replies):
            raise
        return None  # it is forgotten, and gone with it what was asked
    if (path := dialect.new_message(body, replies.run_id, turn.question, accepts)) is not None:
        if len(given_up) == len(replies.replies):
            return None
        raise BadRequest(
            f"`{path}` must not be there beside answers. Send it when the run has ended, or give the questions up.",
            field=path,
        )
    if turn.open and all(replies.replies[input_id].given_up for input_id in turn.open):
        await service.runs.cancel(replies.run_id, by)
    else:
        await turns.answer(service, turn, replies, by, read_as=_answer, name=_key(asked))
    return await service.runs.state(replies.run_id, by), turn.after


def _answer(question: dict[str, Any], reply: Reply) -> Any:
    if question["kind"] == "approval":
        return dialect.decision(reply)
    if reply.given_up:
        path = reply.path.replace("payload", "status")
        raise BadRequest(f"`{path}` must be resolved: a question cannot be given up beside answers.", field=path)
    return reply.answer
