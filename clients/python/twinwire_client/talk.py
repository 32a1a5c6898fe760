"""Questions of a run, their answers, and messages to it (PROTOCOL.md, section 10)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct

from twinwire_client.checks import check
from twinwire_client.events import Event, InputRequested
from twinwire_client.retry import fenced
from twinwire_client.wire import TERMINAL_TYPES

CLOSE_SECONDS = 1.0
"""The seconds to wait until a function that answers a question of a run that was left has ended."""

NEEDED = frozenset({"INPUT_REQUESTED", "INPUT_ANSWERED"})
"""The event types that tell which questions are open."""

T = TypeVar("T")

_hearing: ContextVar[object] = ContextVar("_hearing")
"""Which call of an `on_input` something is done in, by that itself or by what it has begun."""


class Acknowledgement(Struct, frozen=True):
    """The server's reply to what was said to a run.

    `status` of a message is `accepted`, `not_accepted` (the agent reads none) or `already_finished`; of an answer
    `accepted`, `already_answered`, `expired`, `not_found` or `already_finished`. `message_id` is the idempotency key of
    what was said. If somebody else's answer came first, it is that one's, `at` is when that came, and `by` whose it is,
    if that is known.
    """

    status: str
    message_id: str
    at: str | None = None
    by: str | None = None


class AnswerFunction(Protocol):
    """The function by which a question is answered, such as `Run.answer`."""

    def __call__(
        self, input_id: str, value: Any, *, message_id: str | None = None
    ) -> Coroutine[Any, Any, Acknowledgement]:
        """Answer the question of this id."""
        ...


class _Asked:
    """The attributes of a question; `events.InputRequested` has their meaning."""

    input_id: str
    kind: str
    prompt: str
    schema: dict[str, Any] | None
    expires_at: str | None
    tool_call_id: str
    tool_name: str
    parameters: dict[str, Any]

    def __init__(self, asked: InputRequested | _Asked) -> None:
        self.input_id = asked.input_id
        self.kind = asked.kind
        self.prompt = asked.prompt
        self.schema = asked.schema
        self.expires_at = asked.expires_at
        self.tool_call_id = asked.tool_call_id
        self.tool_name = asked.tool_name
        self.parameters = asked.parameters

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.input_id} {self.prompt!r}>"


def approval(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the answer that approves a tool call, with other parameters if there are some."""
    return {"decision": "approve"} | ({} if parameters is None else {"parameters": parameters})


def rejection(reason: str | None) -> dict[str, Any]:
    """Return the answer that rejects a tool call."""
    return {"decision": "reject"} | ({} if reason is None else {"reason": reason})


class Question(_Asked):
    """A question that a run has open: `kind` is `question`, whose answer fits `schema`, or `approval` of a tool call.

    The other attributes are those of `events.InputRequested`. Each method raises as `Run.answer` does.
    """

    def __init__(self, asked: InputRequested, answer: AnswerFunction) -> None:
        super().__init__(asked)
        self._answer = answer

    async def answer(self, value: Any, *, message_id: str | None = None) -> Acknowledgement:
        """Answer it with any JSON that fits `schema`; without one with a text."""
        return await self._answer(self.input_id, value, message_id=message_id)

    async def approve(
        self, parameters: Mapping[str, Any] | None = None, *, message_id: str | None = None
    ) -> Acknowledgement:
        """Approve the tool call, with these `parameters` instead if they are given."""
        return await self.answer(approval(parameters), message_id=message_id)

    async def reject(self, reason: str | None = None, *, message_id: str | None = None) -> Acknowledgement:
        """Reject the tool call. The agent is told the `reason`, if there is one."""
        return await self.answer(rejection(reason), message_id=message_id)


class Wait(Protocol):
    """The function that waits in a thread for what is done in the client's event loop."""

    def __call__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what `work()` returns, or raise what it raises."""
        ...


class SyncQuestion(_Asked):
    """`Question`, whose methods wait."""

    def __init__(self, question: Question, wait: Wait) -> None:
        super().__init__(question)
        self._question = question
        self._wait = wait

    def answer(self, value: Any, *, message_id: str | None = None) -> Acknowledgement:
        """See `Question`."""
        return self._wait(lambda: self._question.answer(value, message_id=message_id))

    def approve(self, parameters: Mapping[str, Any] | None = None, *, message_id: str | None = None) -> Acknowledgement:
        """See `Question`."""
        return self.answer(approval(parameters), message_id=message_id)

    def reject(self, reason: str | None = None, *, message_id: str | None = None) -> Acknowledgement:
        """See `Question`."""
        return self.answer(rejection(reason), message_id=message_id)


OnInput = Callable[[Question], object] | Callable[[SyncQuestion], object]
"""A function of the program's own that hears of each question; in a `SyncClient` of a `SyncQuestion`."""


class Questions:
    """The questions that a run has open, as far as its events have been read.

    `on_input` hears of each once all that has come is read, so that of an earlier run's past it hears only what is
    still open. What it returns is awaited beside the run, if it can be. Whatever goes wrong there is logged.
    """

    def __init__(self, answer: AnswerFunction, on_input: Callable[[Question], object] | None) -> None:
        self.open: dict[str, Question] = {}
        self.untold: list[str] = []
        self._answer = answer
        self._on_input = on_input
        self._answering: dict[asyncio.Future[Any], object] = {}

    def begin(self, told: object) -> None:
        """Begin with the questions of a snapshot's state."""
        for data in told if isinstance(told, list) else ():
            self._ask(data)

    def apply(self, event: Event) -> None:
        """Take in the run's next event."""
        if event.type == "INPUT_REQUESTED":
            self._ask(event.data)
        elif event.type == "INPUT_ANSWERED":
            self.open.pop(str(event.data.get("input_id")), None)
        elif event.type in TERMINAL_TYPES:
            self.open.clear()

    def tell(self) -> None:
        """Tell of the questions that are open and have not been told of."""
        untold, self.untold = self.untold, []
        for input_id in untold:
            question = self.open.get(input_id)
            if question is not None and self._on_input is not None:
                self._hear(self._on_input, question)

    async def aclose(self) -> None:
        """End what still answers a question, unless it is what closes the run or its client."""
        left = [task for task, call in self._answering.items() if call is not _hearing.get(None)]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CLOSE_SECONDS)

    def _ask(self, data: object) -> None:
        try:
            asked = msgspec.convert(data, InputRequested)
        except msgspec.ValidationError:
            return  # it is an event of an agent's own, on a server that knows no questions
        if asked.input_id and asked.input_id not in self.open:
            self.open[asked.input_id] = Question(asked, self._answer)
            self.untold.append(asked.input_id)

    def _hear(self, on_input: Callable[[Question], object], question: Question) -> None:
        call = object()
        token = _hearing.set(call)
        try:
            with fenced("on_input"):
                given = on_input(question)
                if inspect.isawaitable(given):
                    task = asyncio.ensure_future(given)
                    self._answering[task] = call
                    task.add_done_callback(self._answered)
        finally:
            _hearing.reset(token)

    def _answered(self, task: asyncio.Future[Any]) -> None:
        del self._answering[task]
        if not task.cancelled():
            with fenced("on_input"):
                task.result()


def check_on_input(on_input: OnInput | None, types: Iterable[str] | None) -> None:
    """Raise `TypeError` if it is no function, `ValueError` if it would hear of no question, which `types` leave out."""
    check(on_input=on_input)
    if on_input is not None and types is not None and not set(types) >= NEEDED:
        raise ValueError(f"`types` must have {' and '.join(sorted(NEEDED, reverse=True))} if there is an `on_input`.")
