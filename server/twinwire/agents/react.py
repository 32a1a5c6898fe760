"""The ReActAgent: asks a model, runs the tools it calls, asks again, until it answers.

It knows nothing of runs, deadlines or sessions: whoever runs it may cancel it at any point, which ends the model's
call and the running tools at once.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from twinwire.agents import AgentLimits, RunRequest
from twinwire.agents.calls import event, tell
from twinwire.agents.functions import registry_of
from twinwire.agents.steps import TOKEN_LIMITS, Steps
from twinwire.fence import report, stops
from twinwire.models import ChatModel, Message, ShapedModel, Usage
from twinwire.models.adapters import PushStream, Take
from twinwire.protocol.errors import RunError, SettingsError
from twinwire.protocol.events import StreamEvent, StreamEventType as Type
from twinwire.tools.base import Tool, ToolRegistry

logger = logging.getLogger("twinwire.agents")

SYSTEM_PROMPT = (
    "You are a helpful assistant. Use the tools if they help, several at once if they do not depend on each "
    "other, and rely on what they return. When you know enough, answer briefly, in Markdown and in the user's language."
)

_Text = Annotated[str, Meta(min_length=1)]
_Limit = Annotated[int, Meta(ge=1)] | None
SAMPLING: Mapping[str, Any] = {
    "temperature": Annotated[float, Meta(ge=0)] | None,
    "top_p": Annotated[float, Meta(ge=0, le=1)] | None,
    **dict.fromkeys(TOKEN_LIMITS, _Limit),
    "reasoning_effort": _Text | None,
    "stop": _Text | Annotated[list[_Text], Meta(min_length=1)] | None,
    "seed": int | None,
}
"""The settings of a run that go with each request to its model, if that takes options, and their types."""


def _failed(error: RunError, usage: Usage) -> StreamEvent:
    used = {"usage": usage.told} if usage.counted else {}
    return event(Type.ERROR, None, error_type=error.code, message=error.message, error=error.message, **used)


class ReActAgent:
    """An agent that takes steps, each one call of the model and then the tools it asked for, in parallel.

    It asks the user before a call that needs approval, reads messages before each call of the model, and answers those
    that came while it gave its answer in another step, if there is one left.

    It keeps nothing between runs: it may serve many at once. It goes on with a run whose process has ended, from the
    middle or the end of a step: no answer of the model is paid for twice but one that was cut, and `Tool.effects`
    decide about the tools that ran.

    `tool_registry` may also be a list of tools and functions; see `functions.tool`. `max_steps`, `max_tool_calls` and
    `tool_timeout`, in seconds, replace the request's `AgentLimits` if they are given.

    It accepts the settings in `SAMPLING` if the model is a `ShapedModel`. If `accepts` has `image` or `file`, parts of
    that kind go to the model as they are.
    """

    takes_messages = True
    resumable = True

    def __init__(
        self,
        name: str,
        model: ChatModel,
        tool_registry: ToolRegistry | Iterable[Tool | Callable[..., Any]] | None = None,
        *,
        max_steps: int | None = None,
        system_prompt: str | None = None,
        tool_timeout: float | None = None,
        max_tool_calls: int | None = None,
        accepts: Collection[str] = (),
    ) -> None:
        if unknown := sorted({*accepts} - {"image", "file"}):
            raise ValueError(f"`accepts` must have image and file alone, not {', '.join(unknown)}.")
        self.accepts = {**dict.fromkeys(accepts, Any), **(SAMPLING if isinstance(model, ShapedModel) else {})}
        self.name = name
        self.model = model
        self.tools = registry_of(tool_registry)
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
        start = event(Type.AGENT_START, None, input=request.message, config=config, max_steps=limits.max_steps)
        await tell(emit, start)
        try:
            steps = Steps(
                request,
                emit,
                model=self._model(request),
                tools=self.tools,
                conversation=self._conversation(request),
                limits=limits,
                takes_messages=self.takes_messages,
            )
            last = await steps.take()
        except RunError as error:
            last = [_failed(error, request.usage)]
        except BaseException as error:
            if request.run_id or stops(error) or isinstance(error, GeneratorExit):
                raise
            report(logger, error, "The agent %s failed.", self.name)
            last = [_failed(RunError(), request.usage)]
        await tell(emit, *last)

    def _model(self, request: RunRequest) -> ChatModel:
        """Return the model with the run's settings. Of a model that has a limit of tokens they can only lower that one.

        Raise `RunError` for a value that is none.
        """
        model, told = self.model, request.params
        options: Any = {name: told[name] for name in SAMPLING if told.get(name) is not None}
        if not options or not isinstance(model, ShapedModel):
            return model
        own = {name: limit for name in TOKEN_LIMITS if type(limit := model.options.get(name)) is int}
        asked = {name: limit for name in TOKEN_LIMITS if type(limit := options.get(name)) is int}
        if own and asked:  # under the name that the model's server knows
            lowest = dict.fromkeys(own, min(*own.values(), *asked.values()))
            options = {**{name: value for name, value in options.items() if name not in asked}, **lowest}
        try:
            return model.with_options(**options)
        except SettingsError as error:
            raise RunError(error.message) from None

    def _conversation(self, request: RunRequest) -> list[Message]:
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*system, *request.history, {"role": "user", "content": request.parts or request.message}]
