"""A request that answers the questions of a run, and is followed by its next turn; see `formats.TurnView`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from msgspec import Struct

from twinwire.auth import Identity
from twinwire.log import RunState, SessionKey
from twinwire.log.saying import Saying
from twinwire.protocol.errors import BadRequest, CursorGone, InputNotFound, RunNotFound
from twinwire.protocol.events import Record, decode, dump
from twinwire.protocol.schema import check_answer
from twinwire.web import stream
from twinwire.web.compat.dialects import Replies, Reply
from twinwire.web.service import Service

PRESENT_SECONDS = 5.0  # for which whoever has answered counts as a follower


class Asked(NamedTuple):
    """A question that the run has asked: the number and the data of its INPUT_REQUESTED."""

    number: int
    data: dict[str, Any]


class Turn(Struct):
    """A run whose questions a request shows. `shown` are those, by `input_id`, `open` those without an answer.

    `question` is what the run was asked.
    """

    state: RunState
    question: Any
    shown: Mapping[str, Asked]
    open: Collection[str]

    @property
    def after(self) -> int:
        """The number of the newest question that is shown. The client has seen all up to there, and no text beyond."""
        return max(asked.number for asked in self.shown.values())


async def read(service: Service, replies: Replies, session: SessionKey, by: Identity) -> Turn:
    """Return the run whose questions these are. Its session must be this one.

    Raise `RunNotFound`; `InputNotFound`, whose field is the path of a question that was never asked; and `CursorGone`
    if that may be among the events that are trimmed.
    """
    run_id = replies.run_id
    state = await service.runs.state(run_id, by)
    if (state.info.user_id, state.info.session_id) != session:
        raise RunNotFound
    turn = Turn(state, None, {}, set())
    await stream.passed(
        service, run_id, state.last, lambda records: _look(turn, records, replies), after=state.first - 1
    )
    for input_id, reply in replies.replies.items():
        if input_id not in turn.shown:
            if state.first > 1:
                raise CursorGone(state.first, state.last)  # it may have been asked before
            raise InputNotFound(field=reply.path)
    return turn


def _look(turn: Turn, records: Collection[Record], replies: Replies) -> None:
    shown, opened = dict(turn.shown), set(turn.open)
    for record in records:
        if record.seq == 1:
            turn.question = decode(record.body).data.get("input")
        elif record.type == "INPUT_REQUESTED":
            data = decode(record.body).data
            if (input_id := data["input_id"]) in replies.replies:
                shown[input_id] = Asked(record.seq, data)
                opened.add(input_id)
        elif record.type == "INPUT_ANSWERED":
            opened.discard(decode(record.body).data["input_id"])
    turn.shown, turn.open = shown, opened


async def answer(
    service: Service,
    turn: Turn,
    replies: Replies,
    by: Identity,
    *,
    read_as: Callable[[dict[str, Any], Reply], Any],
    name: str | None = None,
) -> None:
    """Answer the questions that are open, of those that are shown; none of them if one is not answered, or not well.

    `read_as` makes the answer to a question of what the request has. `name` is that of the request: another one that
    has it answers nothing else. Without one, requests that answer the same are the same.

    A question that somebody has answered meanwhile, that has expired, or whose run has ended, is none: the turn shows
    what has become of it. Raise `BadRequest`, and as `Runs.say`.
    """
    answers = {}
    for input_id, reply in replies.replies.items():
        if input_id not in turn.open:
            continue
        data = turn.shown[input_id].data
        if not (reply.answered or reply.given_up):
            raise BadRequest(f"`{reply.path}` must have an answer, as each open question must.", field=reply.path)
        answers[input_id] = read_as(data, reply)
        if data["kind"] == "question":
            _check(data, answers[input_id], reply)
    if not answers:
        return
    with present(service, replies.run_id):
        for input_id, said in answers.items():
            key = message_id(name or dump(said).decode(), input_id)
            saying = Saying(message_id=key, by=by.user_id, input_id=input_id, answer=said)
            await service.runs.say(replies.run_id, saying, by)


@contextmanager
def present(service: Service, run_id: str) -> Iterator[None]:
    """Count whoever asks as a follower, until their stream has had time to begin.

    Else an answer to a run that ends as soon as nobody follows would end it.
    """
    service.runs.follow(run_id)
    try:
        yield
    finally:
        asyncio.get_running_loop().call_later(PRESENT_SECONDS, service.runs.unfollow, run_id)


def message_id(name: str, input_id: str) -> str:
    """Return the idempotency key of an answer: of the request of this name, to this question."""
    return hashlib.sha256(dump([name, input_id])).hexdigest()[:32]


def _check(data: Mapping[str, Any], said: Any, reply: Reply) -> None:
    try:
        check_answer(data.get("schema"), said)
    except BadRequest as error:
        field = (error.field or "").replace("answer", reply.path, 1)
        raise BadRequest(error.message.replace("answer", reply.path, 1), field=field) from None


async def resumed_as(service: Service, run_id: str, name: str, by: Identity) -> bool:
    """Return whether a request of this name has answered a question of this run: then that is the run's name, too."""
    state, found = await service.runs.state(run_id, by), False

    def look(records: Collection[Record]) -> None:
        nonlocal found
        for record in records:
            if record.type == "INPUT_ANSWERED":
                data = decode(record.body).data
                found = found or data.get("message_id") == message_id(name, data["input_id"])

    with suppress(CursorGone):
        await stream.passed(service, run_id, state.last, look, after=state.first - 1)
    return found
