"""Questions of a run, answers to them, and messages to it (PROTOCOL.md, section 10)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from threading import get_ident
from typing import Any, Self

import msgspec
from msgspec import Struct

from twinwire.agents.talk import Call, Decision, Said
from twinwire.log.saying import Outcome, Saying
from twinwire.models import ToolCall, bytes_of
from twinwire.protocol.errors import (
    BadRequest,
    BudgetSpent,
    InputExpired,
    InputNotPossible,
    LogUnavailable,
    MessageMismatch,
    PayloadTooLarge,
    RunError,
    TooManyMessages,
)
from twinwire.protocol.events import NotAnEvent, StreamEvent, StreamEventType as Type, checked, dump, timestamp
from twinwire.protocol.fold import Fold
from twinwire.protocol.schema import MAX_BYTES, check_answer, check_schema, size
from twinwire.protocol.wire import converted
from twinwire.runs.past import Recollection, Recorded

MAX_QUESTIONS = 32
MAX_UNREAD = 100


class InputLimits(Struct, frozen=True, kw_only=True):
    """The bounds of what is said to a run.

    A question is open for `timeout` seconds at most, a run waits for `longest` in all, and the messages that its agent
    has yet to read have `unread_bytes` at most.
    """

    timeout: float = 3600.0
    longest: float = 7 * 86_400.0
    unread_bytes: int = 2**20


class _Verdict(Struct, forbid_unknown_fields=True):
    """The answer to an approval."""

    decision: str
    parameters: dict[str, Any] | None = None
    reason: str | None = None


class _Given(Struct):
    answer: _Verdict


class _Question(Struct):
    """A question: open, or closed by `outcome`, which is None for as long as it is open.

    `told` are the data of its INPUT_REQUESTED.
    """

    answer: asyncio.Future[Any]
    schema: Mapping[str, Any] | None = None
    parameters: dict[str, Any] | None = None  # of the call, if this is an approval
    timer: asyncio.TimerHandle | None = None
    outcome: Outcome | None = None
    told: dict[str, Any] = {}

    def check(self, answer: Any) -> Any:
        """Return what the agent gets. Raises `BadRequest`."""
        if self.parameters is None:
            check_answer(self.schema, answer)
            return answer
        verdict = _verdict(answer)
        parameters = self.parameters if verdict.parameters is None else verdict.parameters
        return Decision(verdict.decision == "approve", parameters, verdict.reason)


def _verdict(answer: Any) -> _Verdict:
    verdict = converted({"answer": answer}, _Given).answer
    if verdict.decision not in {"approve", "reject"}:
        raise BadRequest("`answer.decision` must be `approve` or `reject`.", field="answer.decision")
    if verdict.parameters is not None and verdict.decision == "reject":
        raise BadRequest("`answer.parameters` is only valid with `approve`.", field="answer.parameters")
    if verdict.reason is not None and verdict.decision == "approve":
        raise BadRequest("`answer.reason` is only valid with `reject`.", field="answer.reason")
    return verdict


class Unread:
    """See `agents.talk.Messages`. `read` are the ids and the texts of those that the agent has read."""

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []
        self._waiting: list[Said] = []
        self._news: asyncio.Event | None = None  # made by the first who waits: it is a kilobyte
        self.size = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def ids(self) -> list[str]:
        """The `message_id`s."""
        return [said.message_id for said in self._waiting]

    def add(self, said: Said) -> None:
        """Let the agent read this."""
        self._waiting.append(said)
        self.size += bytes_of(said.content)
        if self._news is not None:
            self._news.set()

    def drain(self) -> list[Said]:
        """See `Messages`."""
        taken, self._waiting = self._waiting, []
        self.read += [(said.message_id, said.content) for said in taken]
        self.size = 0
        return taken

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Said:
        while not self._waiting:
            self._news = self._news or asyncio.Event()
            self._news.clear()
            await self._news.wait()
        said = self._waiting.pop(0)
        self.read.append((said.message_id, said.content))
        self.size -= bytes_of(said.content)
        return said


class Inputs:
    """The `Talk` of one run, and the other end of it.

    `put(event)` writes an event to the run's log, unless the run is over; it raises `RunError` if there is no room for
    it. `flushed()` waits until what was put is in the log, and raises `LogUnavailable` if it never will be. `fold` is
    the run's state. `on_attached` is called when a question that another process has asked is asked again, and open.
    """

    def __init__(
        self,
        run_id: str,
        put: Callable[[StreamEvent], None],
        flushed: Callable[[], Awaitable[None]],
        limits: InputLimits,
        *,
        fold: Fold,
        can_ask: bool,
        takes_messages: bool,
        on_attached: Callable[[], None] = lambda: None,
    ) -> None:
        self.can_ask = can_ask
        self.messages = Unread()
        self._takes_messages = takes_messages
        self._run_id = run_id
        self._put = put
        self._flushed = flushed
        self._limits = limits
        self._fold = fold
        self._on_attached = on_attached
        self._questions: dict[str, _Question] = {}
        self._again: dict[bytes, deque[str]] = {}  # those that the agent may ask again, by what they are
        self._open = 0
        self.asked = 0  # so many questions there were
        self._said: dict[str, tuple[bytes, Outcome]] = {}  # by message id: a digest of the words, what became of them
        self._settling: list[asyncio.Task[None]] = []
        self._over = False
        self._thread = get_ident()

    def restore(self, found: Recollection) -> None:
        """Take over what was asked and said in other processes."""
        checkpoint = found.checkpoint
        numbers = [input_id.rpartition("-")[2] for input_id in found.questions]
        self.asked = max([checkpoint.asked, *(int(number) for number in numbers if number.isdecimal())])
        self.messages.read += checkpoint.read
        for said in found.unread:
            self.messages.add(said)
        for message_id, digest in found.said.items():
            self._said[message_id] = digest, Outcome(message_id=message_id)
        for input_id, recorded in found.questions.items():
            self._questions[input_id] = question = _restored(recorded)
            if question.outcome is None:
                self._open += 1
                self._begin(input_id, question, _left(recorded.asked.get("expires_at"), self._limits.timeout))
            if recorded.again and (question.outcome is None or question.answer.done()):
                self._again.setdefault(_key(recorded.asked), deque()).append(input_id)

    async def ask(self, prompt: str, schema: Mapping[str, Any] | None, timeout: float | None) -> Any:
        """See `RunRequest.ask`."""
        if not prompt.strip():
            raise ValueError("`prompt` must not be blank.")
        form = {}
        if schema is not None:
            form = {"schema": _copied(schema)}
            check_schema(form["schema"])
        question = _Question(asyncio.get_running_loop().create_future(), form.get("schema"))
        return await self._ask(question, {"kind": "question", "prompt": prompt, **form}, timeout)

    async def approve(self, call: Call | ToolCall, prompt: str, timeout: float | None) -> Decision:
        """See `RunRequest.approve`."""
        parameters = _copied(call.parameters if isinstance(call, Call) else msgspec.Raw(call.arguments or "{}"))
        if not isinstance(parameters, dict):
            raise TypeError("The parameters of a call must be a JSON object.")
        if call.id not in self._fold.tools:
            raise ValueError("The TOOL_CALL_START of a call must be told before the call is approved.")
        question = _Question(asyncio.get_running_loop().create_future(), parameters=parameters)
        told = {"tool_call_id": call.id, "tool_name": call.name, "parameters": parameters}
        prompt = prompt or f"May the tool {call.name} be called?"
        decision: Decision = await self._ask(question, {"kind": "approval", "prompt": prompt, **told}, timeout)
        return decision

    async def _ask(self, question: _Question, data: dict[str, Any], timeout: float | None) -> Any:
        if get_ident() != self._thread:
            raise RuntimeError("`ask` and `approve` must be called in the thread of the run's event loop.")
        if self._again and not self._over and (again := self._again.get(_key(data))):
            return await self._attach(again.popleft())
        if self._over or not self.can_ask or self._open >= MAX_QUESTIONS:
            await asyncio.sleep(0)  # an agent that asks again and again holds up nobody
            full = self.can_ask and not self._over
            raise InputNotPossible(f"The run has {MAX_QUESTIONS} open questions, as many as it may." if full else None)
        if size(data["prompt"], data.get("schema")) > MAX_BYTES:
            raise ValueError(f"`prompt` and `schema` must have at most {MAX_BYTES} bytes together.")
        seconds = self._limits.timeout if timeout is None else min(timeout, self._limits.timeout)
        if not seconds > 0:
            raise ValueError("`timeout` must be more than 0 seconds.")
        expires_at = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
        input_id = f"ask-{self._run_id}-{self.asked + 1}"
        question.told = {"input_id": input_id, **data, "expires_at": expires_at.removesuffix("+00:00") + "Z"}
        self._put(checked(StreamEvent(Type.INPUT_REQUESTED, question.told)))
        self.asked += 1
        self._questions[input_id] = question
        self._open += 1
        self._begin(input_id, question, seconds)
        return await self._answered(input_id, question)

    async def _attach(self, input_id: str) -> Any:
        """Give the agent the answer to a question that it has asked before, in another process, now or once it comes.

        An open one is told again, as it was, if the run would not wait for it: the agent has told more since.
        """
        question = self._questions[input_id]
        if question.outcome is None:
            if not self._fold.quiet:
                self._put(StreamEvent(Type.INPUT_REQUESTED, question.told))
            self._on_attached()
        return await self._answered(input_id, question)

    async def _answered(self, input_id: str, question: _Question) -> Any:
        try:
            return await question.answer
        finally:
            self._expire(input_id)  # the agent asks no longer

    def _begin(self, input_id: str, question: _Question, seconds: float) -> None:
        """Let a question be open for so long."""
        question.timer = asyncio.get_running_loop().call_later(seconds, self._expire, input_id)

    def _expire(self, input_id: str) -> None:
        """Close a question without an answer, unless it is closed."""
        question = self._questions[input_id]
        if question.outcome is not None:
            return
        self._close(question, Outcome(status="expired"))
        if not question.answer.done():
            question.answer.set_exception(InputExpired())
            question.answer.exception()  # it may be that nobody waits for it any more
        with contextlib.suppress(RunError):  # there is no room for it, nor for the run's next event
            self._put(StreamEvent(Type.INPUT_ANSWERED, {"input_id": input_id, "expired": True}))

    def _close(self, question: _Question, outcome: Outcome) -> None:
        question.outcome = outcome
        self._open -= 1
        if question.timer is not None:
            question.timer.cancel()

    async def hear(self, saying: Saying) -> Outcome:
        """Take what the run's user says, and return what has become of it once that is in the log.

        Raises `BadRequest` for what does not fit, `MessageMismatch`, `TooManyMessages`, `PayloadTooLarge`, and
        `LogUnavailable` if it is not known to be in the log. If it is cancelled, what was taken stays taken.
        """
        if (known := self._said.get(saying.message_id)) is not None:
            if known[0] != saying.digest:
                raise MessageMismatch
            await self._flushed()
            return known[1]
        outcome = self._send(saying) if saying.input_id is None else self._answer(saying, saying.input_id)
        if outcome.status == "accepted":
            self._said[saying.message_id] = saying.digest, outcome
            await self._flushed()
        return outcome

    def _send(self, saying: Saying) -> Outcome:
        content = saying.content or ""
        if not content.strip():
            raise BadRequest("`content` must not be blank.", field="content")
        if self._over or not self._takes_messages:
            return Outcome(status="already_finished" if self._over else "not_accepted", message_id=saying.message_id)
        said = Said(content, saying.message_id, saying.by)
        if len(self.messages) >= MAX_UNREAD or self.messages.size + bytes_of(content) > self._limits.unread_bytes:
            raise TooManyMessages
        self._write(Type.USER_MESSAGE, content=content, message_id=said.message_id, by=said.by)
        self.messages.add(said)
        return Outcome(message_id=saying.message_id)

    def _answer(self, saying: Saying, input_id: str) -> Outcome:
        question = self._questions.get(input_id)
        if question is None or self._over:
            status: Any = "already_finished" if self._over else "not_found"
            return Outcome(status=status, message_id=saying.message_id)
        if question.outcome is not None:
            return question.outcome
        if size(saying.answer) > MAX_BYTES:
            raise PayloadTooLarge(f"`answer` must have at most {MAX_BYTES} bytes.", field="answer")
        given = question.check(saying.answer)
        self._write(
            Type.INPUT_ANSWERED, input_id=input_id, answer=saying.answer, message_id=saying.message_id, by=saying.by
        )
        won = Outcome(status="already_answered", message_id=saying.message_id, by=saying.by, at=timestamp())
        self._close(question, won)
        task = asyncio.get_running_loop().create_task(self._settle(question.answer, given))
        self._settling.append(task)
        task.add_done_callback(self._settling.remove)
        return Outcome(message_id=saying.message_id)

    async def _settle(self, answer: asyncio.Future[Any], given: Any) -> None:
        """Let the agent go on once the answer is in the log. If it never will be, the run is over."""
        try:
            await self._flushed()
        except LogUnavailable:
            answer.cancel()
        if not answer.done():
            answer.set_result(given)

    def _write(self, kind: Type, **data: Any) -> None:
        """Write what the user says; `by` is left out if it is None. Raises `TooManyMessages` if there is no room."""
        if data["by"] is None:
            del data["by"]
        try:
            self._put(checked(StreamEvent(kind, data)))
        except NotAnEvent:
            raise BadRequest("`answer` must be nested less deep.", field="answer") from None
        except BudgetSpent:
            raise TooManyMessages("The run has no room for more that is said to it.") from None

    def close(self) -> None:
        """The run is over: nobody is asked any more, and nothing is taken."""
        self._over = True
        for question in self._questions.values():
            if question.outcome is None:
                self._close(question, Outcome(status="already_finished"))
            question.answer.cancel()
        self._put = self._on_attached = _drop  # they are the run's, which would be in a cycle with this


def _key(data: Mapping[str, Any]) -> bytes:
    """Return what two questions have in common if one is the other, asked again: the call, or the words."""
    names = ["kind", "tool_call_id"] if data.get("kind") == "approval" else ["kind", "prompt", "schema"]
    return msgspec.json.encode(_copied([data.get(name) for name in names]), order="sorted")


def _restored(recorded: Recorded) -> _Question:
    """Return a question of another process; its answer is there if the agent may ask it again."""
    asked, answered = recorded.asked, recorded.answered
    answer = asyncio.get_running_loop().create_future()
    parameters = asked.get("parameters") if asked.get("kind") == "approval" else None
    question = _Question(answer, asked.get("schema"), parameters, told=asked)
    if answered is None:
        return question
    if answered.get("expired"):
        question.outcome = Outcome(status="expired")
        answer.set_exception(InputExpired())
        answer.exception()  # it may be that nobody asks again
        return question
    message_id = answered.get("message_id") or ""
    question.outcome = Outcome(status="already_answered", message_id=message_id, by=answered.get("by"), at=recorded.at)
    with contextlib.suppress(BadRequest):  # another version has taken it: the agent asks anew
        answer.set_result(question.check(answered.get("answer")))
    return question


def _left(expires_at: Any, otherwise: float) -> float:
    """Return the seconds until this time of RFC 3339."""
    try:
        return (datetime.fromisoformat(expires_at) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return otherwise


def _copied(value: Any) -> Any:
    """Return a JSON value that nobody else changes. Raises `TypeError` or `ValueError` for what is none."""
    return msgspec.json.decode(dump(value))


def _drop(*_: StreamEvent) -> None:
    """The run is over."""
