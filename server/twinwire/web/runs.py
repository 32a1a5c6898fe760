"""`/runs`: a run as a resource. Start once, follow from anywhere, cancel from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from twinwire.log import RunState, RunSummary
from twinwire.log.saying import Noted, Saying
from twinwire.protocol.errors import BadRequest, InputClosed, InputNotFound, NotAccepted, RunEnded
from twinwire.protocol.events import ended
from twinwire.protocol.schema import size
from twinwire.protocol.wire import check_run_id
from twinwire.runs import RunSpec
from twinwire.transports.asgi import gone
from twinwire.web import input as incoming, mounting, stream
from twinwire.web.answers import HeldJson, JsonResponse
from twinwire.web.guard import agent_headers, asker, starter
from twinwire.web.input import AnswerBody, FollowQuery, MessageBody, StartBody
from twinwire.web.openapi import documented
from twinwire.web.service import Service

LISTED_BYTES = 16 * 1024


async def describe(service: Service, run: RunState | RunSummary, ending: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run as JSON: its start, its first and last event's numbers, what it asks, its ending if it has one."""
    asked = Noted() if ending else await service.runs.asked(run.info.run_id)
    body: dict[str, Any] = {
        "run_id": run.info.run_id,
        "agent": run.info.agent,
        "created": run.info.created,
        "user_id": run.info.user_id,
        "session_id": run.info.session_id,
        "metadata": run.info.metadata or None,
        "first": run.first,
        "last": run.last,
        "waiting": asked.waiting,
        "questions": asked.questions,
        "status": "error" if ending else "running",
        **ending,
    }
    return {name: value for name, value in body.items() if value is not None}


def short(questions: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Return a run's questions as a list of runs tells them: without their texts if they are long."""
    if size(questions) <= LISTED_BYTES:
        return questions
    kept = ("input_id", "kind", "expires_at", "tool_name")
    return [{name: question[name] for name in kept if name in question} for question in questions]


async def told(service: Service, state: RunState, **how: Any) -> HeldJson:
    """Answer with a run and its result, or its questions, which may be large. Raises `Busy`."""
    body = b"" if state.terminal is None else state.terminal.body
    run = await describe(service, state, ended(body) if body else {})
    claim = await service.runs.reserve.take(len(body) + size(run["questions"]))
    return HeldJson(run, claim, **how)


@post("/runs", operation_class=documented(body=StartBody), summary="Start a run")
async def start_run(request: Request[Any, Any, Any], service: NamedDependency[Service]) -> HeldJson:
    """Answer 201 with the run, or 200 with the one that was started with this idempotency key before."""
    data = await incoming.body(request, service)
    if not data:
        raise BadRequest("A JSON body is required.")
    asked = incoming.struct(data, StartBody)
    by = starter(request, service)
    headers = agent_headers(request.scope, service.settings.agent_header)
    spec = RunSpec.of(asked, by, interrupt=asked.interrupt, headers=headers)
    info, new = await service.runs.start(spec)
    with stream.begun(spec, info.run_id):
        state = await service.runs.state(info.run_id, by)
        location = f"{mounting.prefix(request.scope)}/runs/{info.run_id}"
        return await told(service, state, status_code=201 if new else 200, headers={"location": location})


@get("/runs/{run_id:str}", summary="A run")
async def get_run(
    request: Request[Any, Any, Any], run_id: FromPath[str], service: NamedDependency[Service]
) -> HeldJson:
    """Answer with what is known of the run."""
    return await told(service, await service.runs.state(run_id, asker(request)))


@get("/runs/{run_id:str}/events", operation_class=documented(query=FollowQuery), summary="Follow a run over SSE")
async def run_events(
    request: Request[Any, Any, Any], run_id: FromPath[str], service: NamedDependency[Service]
) -> Response[None]:
    """Send the run's events after the cursor; answer 204 after the last one."""
    asked = incoming.query(request, FollowQuery)
    after = incoming.run_cursor(request, asked, check_run_id(run_id))
    incoming.accepts_events(request)
    return await stream.follow(service, run_id, after, asked, asker(request))


@get("/runs/{run_id:str}/snapshot", summary="A run's state so far")
async def run_snapshot(
    request: Request[Any, Any, Any], run_id: FromPath[str], service: NamedDependency[Service]
) -> HeldJson:
    """Return the state after the run's events up to number `seq`; that is the cursor to follow from."""
    by = asker(request)
    claim = await service.runs.claim(run_id, by)
    if gone(request.scope):
        return HeldJson(None, claim)  # for nobody
    seq, state = await service.runs.snapshot(run_id, by)
    labels = (await service.runs.state(run_id, by)).info.metadata
    return HeldJson({"run_id": run_id, "seq": seq, "state": state, **({"metadata": labels} if labels else {})}, claim)


@post("/runs/{run_id:str}/cancel", summary="Cancel a run")
async def cancel_run(
    request: Request[Any, Any, Any], run_id: FromPath[str], service: NamedDependency[Service]
) -> Response[dict[str, str]]:
    """Answer 202 if the run is being cancelled, 200 if it had finished already."""
    status = await service.runs.cancel(run_id, asker(request))
    return JsonResponse({"run_id": run_id, "status": status}, status_code=202 if status == "accepted" else 200)


REFUSED = {
    "expired": InputClosed,
    "not_found": InputNotFound,
    "already_finished": RunEnded,
    "not_accepted": NotAccepted,
}
"""Which error an outcome is over HTTP; on a socket it is the status of an acknowledgement."""


@post(
    "/runs/{run_id:str}/inputs/{input_id:str}",
    operation_class=documented(body=AnswerBody),
    summary="Answer a question of a run",
)
async def answer_run(
    request: Request[Any, Any, Any], run_id: FromPath[str], input_id: FromPath[str], service: NamedDependency[Service]
) -> Response[dict[str, Any]]:
    """Answer 200 once the answer is in the run's log, or if another one was there before."""
    asked = incoming.struct(await incoming.body(request, service), AnswerBody)
    told = await _said(request, service, run_id, message_id=asked.message_id, input_id=input_id, answer=asked.answer)
    return JsonResponse({"run_id": run_id, "input_id": input_id, **told}, status_code=200)


@post("/runs/{run_id:str}/messages", operation_class=documented(body=MessageBody), summary="Say something to a run")
async def message_run(
    request: Request[Any, Any, Any], run_id: FromPath[str], service: NamedDependency[Service]
) -> Response[dict[str, Any]]:
    """Answer 202 once the message is in the run's log, for its agent to read."""
    asked = incoming.struct(await incoming.body(request, service), MessageBody)
    told = await _said(request, service, run_id, message_id=asked.message_id, content=asked.content)
    return JsonResponse({"run_id": run_id, **told}, status_code=202)


async def _said(
    request: Request[Any, Any, Any], service: Service, run_id: str, *, message_id: str | None, **what: Any
) -> dict[str, Any]:
    """Say it to the run, and return the outcome. Raise the error that it is, and as `Runs.say`."""
    by = asker(request)
    saying = Saying(message_id=message_id or "", by=by.user_id, **what)
    outcome = await service.runs.say(run_id, saying, by)
    if (kind := REFUSED.get(outcome.status)) is not None:
        raise kind
    return outcome.told
