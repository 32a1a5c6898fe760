"""The steps of one run of a ReActAgent: it asks the model, runs the tools that this calls, and asks again."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Sequence
from itertools import chain
from typing import Any

import msgspec

from twinwire.agents import AgentLimits, RunRequest
from twinwire.agents.calls import Caller, StepCall, event, plan, starts, tell, told
from twinwire.agents.conversation import estimated, without_calls
from twinwire.agents.past import Past
from twinwire.agents.state import ReActState, WholeAnswer, voided
from twinwire.models import (
    BYTES_PER_TOKEN,
    ChatModel,
    Finish,
    Message,
    Part,
    ShapedModel,
    Text,
    Thinking,
    ToolCall,
    ToolSpec,
    Usage,
    ask,
    bytes_of,
)
from twinwire.models.adapters import Take
from twinwire.protocol.errors import BudgetSpent, UpstreamError
from twinwire.protocol.events import StreamEvent, StreamEventType as Type, timestamp
from twinwire.tools.base import ToolRegistry

_LLM_CHUNK = Type.LLM_CHUNK  # looking up a member takes as long as making an event

TOKEN_LIMITS = "max_tokens", "max_completion_tokens"


class _Answer:
    """The model's answer in one step; its words are emitted as they come, and its tokens added to the run's.

    The tokens of the prompt are an estimate, which counts until the model's server has counted.
    """

    def __init__(self, step: int, emit: Take[StreamEvent], request: RunRequest) -> None:
        self.calls: list[ToolCall] = []
        self.finish: Finish | None = None
        self._step = step
        self._emit = emit
        self._texts: list[str] = []
        self._request = request
        self._limit = sys.maxsize if request.run_tokens is None else request.run_tokens
        self._prompt = 0
        self._usage = Usage()

    @property
    def text(self) -> str:
        return "".join(self._texts)

    async def ask(self, model: ChatModel, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> None:
        """Ask the model. Raise `BudgetSpent` if the request, or the answer, is over the run's budget."""
        self._prompt = estimated(messages, tools)
        self._count(Usage(), more=True)
        if self._over:
            raise BudgetSpent(self._limit, "tokens", ahead=True)
        await ask(self._bounded(model), messages, tools, self.take)

    def _bounded(self, model: ChatModel) -> ChatModel:
        """Return the model with its token limit lowered to what the run has left, if it has one that is higher."""
        if not isinstance(model, ShapedModel):
            return model
        left = max(1, self._limit - self._request.usage.spent)
        higher = [name for name in TOKEN_LIMITS if type(most := model.options.get(name)) is int and most > left]
        options: Any = dict.fromkeys(higher, left)
        return model.with_options(**options) if options else model

    def take(self, *batches: Sequence[Part]) -> Awaitable[None] | None:
        """See `models.ask`."""
        events: list[StreamEvent] = []
        room: Awaitable[None] | None = None
        now = timestamp()
        for part in chain.from_iterable(batches):
            if isinstance(part, Text):
                text = part.text
                self._texts.append(text)
                data = {"content": text, "delta": text}
                events.append(StreamEvent(_LLM_CHUNK, data, now, {"step": self._step}))
            elif isinstance(part, Thinking):
                events.append(StreamEvent(Type.THINKING, {"content": part.text}, now, {"step": self._step}))
            elif isinstance(part, ToolCall):
                self.calls.append(part)
            elif isinstance(part, Usage):
                self._count(part, more=True)
                if self._over:
                    self._emit(*events)
                    raise BudgetSpent(self._limit, "tokens")
            else:
                self.finish = part
                if events:  # before the count, so that a budget holds alike in however many reads they came
                    room, events = self._emit(*events), []
                said = sum(bytes_of(call.arguments) for call in self.calls) // BYTES_PER_TOKEN
                self._count(part.usage or Usage(estimated_tokens=said), more=False)
        return self._emit(*events) if events else room

    def _count(self, usage: Usage, *, more: bool) -> None:
        """Count what the call has used so far, in the place of what was known of it before.

        Until the model's server has counted, the prompt is estimated. If `more` is to come, it counts as a token at
        least, so that a run's budget estimates it as it comes.
        """
        known = usage if usage.counted else self._usage
        estimate = int(more) if known.counted else max(1, self._prompt + usage.estimated_tokens)
        usage = msgspec.structs.replace(known, estimated_tokens=estimate)
        self._request.usage.add(usage, self._usage)
        self._usage = usage

    @property
    def _over(self) -> bool:
        return self._request.usage.spent > self._limit


def _status(answer: str, reason: str) -> str:
    """Return the status of a run that ends with this answer. Raise `UpstreamError` for an answer that never came."""
    if reason == "length" and not answer:
        raise UpstreamError("The model reached its token limit before its answer.", code="upstream_truncated")
    if reason == "content_filter" and not answer:
        raise UpstreamError("The model's server withheld the answer (content_filter).", code="upstream_rejected")
    if reason == "unknown" and not answer:
        raise UpstreamError("The model's server ended its answer without a text.", code="upstream_truncated")
    return "incomplete" if reason in {"length", "content_filter"} else "completed"


class Steps:
    """The steps of one run, which begins with `conversation`. Call `take` once.

    A step has two halves. In the first the model is asked, until its answer is whole; in the second the tools are run.
    At the end of each the run's state is kept, with the events that tell of it. A process that goes on with the run
    asks the model again if the run was cut in the first half. If it was cut in the second, that process runs only the
    tools that are left.
    """

    def __init__(
        self,
        request: RunRequest,
        emit: Take[StreamEvent],
        *,
        model: ChatModel,
        tools: ToolRegistry,
        conversation: Sequence[Message],
        limits: AgentLimits,
        takes_messages: bool,
    ) -> None:
        self._request = request
        self._emit = emit
        self._model = model
        self._tools = tools
        self._conversation = conversation
        self._max_calls = limits.max_tool_calls
        self._max_steps = limits.max_steps
        self._takes_messages = takes_messages
        self._caller = Caller(tools, request, emit, limits.tool_timeout)
        self._state = ReActState()
        self._began = time.monotonic()

    async def take(self) -> list[StreamEvent]:
        """Take all steps. Return the events that end the last one and the run, which are yet to be told."""
        if self._request.past is not None:
            await self._go_on(self._request.past)
        while (last := await self._step()) is None:
            pass
        return last

    async def _go_on(self, past: Past) -> None:
        """Begin where another process has ended. What calls of the model have cost that it did not end is counted."""
        if past.state is not None:
            self._state = ReActState.restored(past.state)
            self._max_steps = max(self._max_steps, self._state.least_steps)
        if self._state.answer is None:
            prompt = estimated(self._messages, self._tools.specs)
            self._request.usage.voided_tokens += await voided(past, prompt)

    async def _step(self) -> list[StreamEvent] | None:
        """Take one step. Return the events that end it and the run if it is the last."""
        state, step = self._state, self._state.step
        answer = state.answer or await self._ask()
        calls, reason = [StepCall(planned) for planned in answer.calls], answer.finish.reason
        status = "max_steps" if calls else _status(answer.text, reason)
        if calls and step < self._max_steps:  # what nobody would read is not run
            await self._call(answer, calls)
        # The last look at the messages: until the end is told, nothing is awaited.
        heard = [] if calls or step == self._max_steps else self._heard()
        over = step == self._max_steps or not (calls or heard)
        action, progress = "tool_calls" if calls else "answer", 100 if over else 100 * step // self._max_steps
        last = [
            event(Type.STEP_FINISH, step, step=step, action=action),
            event(Type.PROGRESS, step, progress=progress, step=step, total=self._max_steps),
        ]
        if over:
            return [*last, self._finish(answer, status)]
        state.messages += [*told(answer.text, answer.finish, calls), *heard]
        state.repeated = 0 if heard else state.repeated
        state.step += 1
        await self._keep(*last)
        return None

    async def _ask(self) -> WholeAnswer:
        """Take the first half of a step: tell the model what the user has said since, and return its whole answer."""
        state, step = self._state, self._state.step
        await tell(self._emit, event(Type.STEP_START, step, step=step, max_steps=self._max_steps))
        if heard := self._heard():
            state.messages += heard
            state.repeated = 0
        answer = _Answer(step, self._emit, self._request)
        await self._ask_model(answer)
        if answer.finish is None:
            raise UpstreamError("The model's answer broke off before its end.", code="upstream_truncated")
        calls = plan(answer.calls, state.seen, self._tools, self._max_calls)
        return WholeAnswer(answer.text, answer.finish, calls)

    async def _ask_model(self, answer: _Answer) -> None:
        """Ask the model for its answer. One that has only repeated itself must not call a tool.

        It is told so beside the tools: servers refuse calls in a conversation without them. Some servers refuse that,
        fail on it or ignore it; then the request has neither tools nor calls.
        """
        model, messages, tools, repeated = self._model, self._messages, self._tools.specs, self._state.repeated
        if tools and not repeated:
            await answer.ask(model, messages, tools)
            return
        if tools and repeated == 1 and isinstance(model, ShapedModel):
            try:
                await answer.ask(model.with_options(extra_body={"tool_choice": "none"}), messages, tools)
            except UpstreamError as error:
                if error.code not in {"upstream_rejected", "upstream_error"} or answer.text:
                    raise
            else:
                return
        await answer.ask(model, without_calls(messages), ())

    async def _call(self, answer: WholeAnswer, calls: Sequence[StepCall]) -> None:
        """Take the second half of a step: run its calls, or what another process has left of them."""
        state, past = self._state, self._request.past
        if past is not None and state.answer is not None:
            await self._caller.recall(calls, state.step, past)
        else:
            state.answer = answer
            await self._keep(*starts(calls, state.step), counts=True)
        await self._caller.run(calls, state.step)
        state.answer = None
        state.repeated = state.repeated + 1 if all(call.repeated for call in calls) else 0

    async def _keep(self, *events: StreamEvent, counts: bool = False) -> None:
        """Tell the events and keep the state that they have led to, as one; see `RunRequest.checkpoint`."""
        room = self._emit(*events)
        if self._request.can_resume:
            await self._request.checkpoint(self._state, counts=counts)
        if room is not None:
            await room

    def _finish(self, answer: WholeAnswer, status: str) -> StreamEvent:
        """Return the run's AGENT_FINISH. Only the run knows how long it has taken if it was in other processes too."""
        duration = None if self._request.past is not None else round(time.monotonic() - self._began, 3)
        usage, reason = self._request.usage.told, answer.finish.reason
        told = {"result": answer.text, "duration": duration, "status": status, "finish_reason": reason, "usage": usage}
        return event(Type.AGENT_FINISH, None, **told)

    @property
    def _messages(self) -> list[Message]:
        return [*self._conversation, *self._state.messages]

    def _heard(self) -> list[Message]:
        """Read what the user has said since, as messages to the model."""
        said = self._request.messages.drain() if self._takes_messages else ()
        return [{"role": "user", "content": each.content} for each in said]
