"""The ReActAgent: asks a model, runs the tools it calls, asks again, until it answers.

It knows nothing of runs, deadlines or sessions: whoever runs it may cancel it at any point, which ends the model's
call and the running tools at once.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Collection, Sequence
from contextlib import aclosing
from itertools import chain
from typing import Any

import msgspec

from twinwire.agents import AgentLimits, RunRequest
from twinwire.agents.calls import Caller, StepCall, event, tell, told
from twinwire.agents.conversation import estimated, without_calls
from twinwire.fence import report, stops
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
from twinwire.models.adapters import PushStream, Take
from twinwire.protocol.errors import BudgetSpent, RunError, SettingsError, UpstreamError
from twinwire.protocol.events import StreamEvent, StreamEventType as Type, timestamp
from twinwire.tools.base import ToolRegistry

logger = logging.getLogger("twinwire.agents")

SYSTEM_PROMPT = (
    "You are a helpful assistant. Use the tools if they help, several at once if they do not depend on each "
    "other, and rely on what they return. When you know enough, answer briefly, in Markdown and in the user's language."
)

_LLM_CHUNK = Type.LLM_CHUNK  # looking up a member takes as long as making an event

_LIMITS = "max_tokens", "max_completion_tokens"
SAMPLING = frozenset({*_LIMITS, "temperature", "top_p", "reasoning_effort", "stop", "seed"})
"""The settings of a run that go with each request to its model, if that takes options."""


def _failed(error: RunError, usage: Usage) -> StreamEvent:
    used = {"usage": usage.told} if usage.counted else {}
    return event(Type.ERROR, None, error_type=error.code, message=error.message, error=error.message, **used)


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
        higher = [name for name in _LIMITS if type(most := model.options.get(name)) is int and most > left]
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


class ReActAgent:
    """An agent that takes steps, each one call of the model and then the tools it asked for, in parallel.

    It asks the user before a call that needs approval, reads messages before each call of the model, and answers those
    that came while it gave its answer in another step, if there is one left.

    It keeps nothing between runs: it may serve many at once. `max_steps`, `max_tool_calls` and `tool_timeout`, in
    seconds, replace the request's `AgentLimits` if they are given. The model sees to its own silence.

    It accepts the settings in `SAMPLING` if the model is a `ShapedModel`. If `accepts` has `image` or `file`, parts of
    that kind go to the model as they are.
    """

    takes_messages = True

    def __init__(
        self,
        name: str,
        model: ChatModel,
        tool_registry: ToolRegistry | None = None,
        *,
        max_steps: int | None = None,
        system_prompt: str | None = None,
        tool_timeout: float | None = None,
        max_tool_calls: int | None = None,
        accepts: Collection[str] = (),
    ) -> None:
        if unknown := sorted({*accepts} - {"image", "file"}):
            raise ValueError(f"`accepts` must have image and file alone, not {', '.join(unknown)}.")
        self.accepts = frozenset(accepts) | (SAMPLING if isinstance(model, ShapedModel) else frozenset())
        self.name = name
        self.model = model
        self.tools = ToolRegistry() if tool_registry is None else tool_registry
        self.system_prompt = SYSTEM_PROMPT if system_prompt is None else system_prompt
        limits = {"max_steps": max_steps, "max_tool_calls": max_tool_calls, "tool_timeout": tool_timeout}
        self._limits: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
        AgentLimits(**self._limits)  # so that a wrong one raises here

    async def arun(self, message: str, history: Sequence[Message] = ()) -> str:
        """Return the answer to `message`, or its part if the steps run out. Raise `RunError` if the run failed."""
        async with aclosing(self.arun_stream(message, history)) as events:
            async for each in events:
                last = each
        if last.type == Type.ERROR:
            raise RunError(last.data["message"], code=last.data["error_type"])
        return str(last.data["result"])

    def arun_stream(self, message: str, history: Sequence[Message] = ()) -> AsyncGenerator[StreamEvent, None]:
        """Answer `message` and yield the events, as `__call__`; `history` is the conversation before, oldest first."""
        return self(RunRequest(message, history=list(history)))

    def __call__(self, request: RunRequest) -> PushStream[StreamEvent]:
        """Run once: AGENT_START first, AGENT_FINISH or ERROR last, as it happens. Only cancelling it raises.

        In a run of a server any error that is no `RunError` raises as well: the run logs it, and ends with an ERROR.
        Such a run joins THINKING into phrases; here each increment is an event of its own.
        """
        return PushStream(functools.partial(self._run, request))

    async def _run(self, request: RunRequest, emit: Take[StreamEvent]) -> None:
        config = {"agent": self.name, "model": self.model.name, "tools": [tool.name for tool in self.tools]}
        limits = msgspec.structs.replace(request.limits, **self._limits)
        max_steps = limits.max_steps
        await tell(emit, event(Type.AGENT_START, None, input=request.message, config=config, max_steps=max_steps))
        begun = time.monotonic()
        messages = self._conversation(request)
        caller = Caller(self.tools, request, emit, limits.tool_timeout)
        seen: Counter[tuple[str, str]] = Counter()
        repeated = 0  # steps in a row
        heard: list[Message] = []
        try:
            model = self._model(request)
            for step in range(1, max_steps + 1):
                await tell(emit, event(Type.STEP_START, step, step=step, max_steps=max_steps))
                if heard := [*heard, *self._heard(request)]:
                    messages += heard
                    repeated = 0
                answer = _Answer(step, emit, request)
                await self._ask(answer, model, messages, repeated)
                finish = answer.finish
                if finish is None:
                    raise UpstreamError("The model's answer broke off before its end.", code="upstream_truncated")
                calls, reason = self._calls(answer.calls, seen, limits.max_tool_calls), finish.reason
                status = "max_steps" if calls else _status(answer.text, reason)
                if calls and step < max_steps:  # what nobody would read is not run
                    await caller.run(calls, step)
                    repeated = repeated + 1 if all(call.repeated for call in calls) else 0
                # The last look at the messages: until the end is told, nothing is awaited.
                heard = [] if calls or step == max_steps else self._heard(request)
                over = step == max_steps or not (calls or heard)
                action, progress = "tool_calls" if calls else "answer", 100 if over else 100 * step // max_steps
                last = [
                    event(Type.STEP_FINISH, step, step=step, action=action),
                    event(Type.PROGRESS, step, progress=progress, step=step, total=max_steps),
                ]
                if over:
                    break
                await tell(emit, *last)
                messages += told(answer.text, finish, calls)
            duration, usage = round(time.monotonic() - begun, 3), request.usage.told
            end = event(
                Type.AGENT_FINISH,
                None,
                result=answer.text,
                duration=duration,
                status=status,
                finish_reason=reason,
                usage=usage,
            )
            last.append(end)
        except RunError as error:
            last = [_failed(error, request.usage)]
        except BaseException as error:
            if request.run_id or stops(error) or isinstance(error, GeneratorExit):
                raise
            report(logger, error, "The agent %s failed.", self.name)
            last = [_failed(RunError(), request.usage)]
        await tell(emit, *last)

    def _heard(self, request: RunRequest) -> list[Message]:
        """Read what the user has said since, as messages to the model."""
        said = request.messages.drain() if self.takes_messages else ()
        return [{"role": "user", "content": each.content} for each in said]

    def _model(self, request: RunRequest) -> ChatModel:
        """Return the model with the run's settings. Of a model that has a limit of tokens they can only lower that one.

        Raise `RunError` for a value that is none.
        """
        model, told = self.model, request.params
        options: Any = {name: told[name] for name in SAMPLING if told.get(name) is not None}
        if not options or not isinstance(model, ShapedModel):
            return model
        own = {name: limit for name in _LIMITS if type(limit := model.options.get(name)) is int}
        asked = {name: limit for name in _LIMITS if type(limit := options.get(name)) is int}
        if own and asked:  # under the name that the model's server knows
            lowest = dict.fromkeys(own, min(*own.values(), *asked.values()))
            options = {**{name: value for name, value in options.items() if name not in asked}, **lowest}
        try:
            return model.with_options(**options)
        except SettingsError as error:
            raise RunError(error.message) from None

    async def _ask(self, answer: _Answer, model: ChatModel, messages: Sequence[Message], repeated: int) -> None:
        """Ask the model for its answer. One that has only `repeated` itself, for so many steps, must not call a tool.

        It is told so beside the tools: servers refuse calls in a conversation without them. Some servers refuse that,
        fail on it or ignore it; then the request has neither tools nor calls.
        """
        tools = self.tools.specs
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

    def _calls(self, parts: Sequence[ToolCall], seen: Counter[tuple[str, str]], most: int) -> list[StepCall]:
        calls = [StepCall(part, seen) for part in parts]
        for call in calls[most:]:
            call.refuse(f"Only the first {most} calls of a step are run.")
        return calls

    def _conversation(self, request: RunRequest) -> list[Message]:
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*system, *request.history, {"role": "user", "content": request.parts or request.message}]
