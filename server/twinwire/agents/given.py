"""The values that an agent may give instead of a `StreamEvent`, each of which stands for one event."""

from __future__ import annotations

import inspect
import secrets
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias

from msgspec import Struct, field

from twinwire.models import Text, Thinking
from twinwire.protocol.events import StreamEvent, StreamEventType as Type


def _call_id() -> str:
    return f"call-{secrets.token_hex(8)}"


class ToolStart(Struct, frozen=True):
    """The start of a tool call: TOOL_CALL_START. An `id` of one's own, such as the model's, must be new in the run."""

    name: str
    parameters: Mapping[str, Any] = {}
    id: str = field(default_factory=_call_id)
    began: float = field(default_factory=time.monotonic)


class ToolEnd(Struct, frozen=True):
    """The end of a tool call: TOOL_CALL_FINISH. `call` is the `ToolStart`, or its id with the tool's `name`.

    `result` is any JSON. `duration` is in seconds, by default those since the `ToolStart` was made.
    """

    call: ToolStart | str
    result: Any = None
    status: Literal["ok", "error"] = "ok"
    name: str | None = None
    duration: float | None = None


class Progress(Struct, frozen=True):
    """The progress of a run: PROGRESS. `percent` is 0 to 100, by default the share that `step` is of `total`."""

    percent: float | None = None
    step: float | None = None
    total: float | None = None


Given: TypeAlias = StreamEvent | str | Text | Thinking | ToolStart | ToolEnd | Progress
"""The values that an agent may yield or emit. A `str` is an increment of the answer, as `Text` is."""

_RIGHT = "a text, a StreamEvent, or a Text, Thinking, ToolStart, ToolEnd or Progress"


def event_of(given: Any) -> StreamEvent:
    """Return the event that a value stands for. Raise `TypeError` if it stands for none, which names its type."""
    if isinstance(given, StreamEvent):
        return given
    if isinstance(given, str | Text):
        text = given if isinstance(given, str) else given.text
        return StreamEvent(Type.LLM_CHUNK, {"content": text, "delta": text})
    if isinstance(given, Thinking):
        return StreamEvent(Type.THINKING, {"content": given.text})
    if isinstance(given, ToolStart):
        data = {"tool_call_id": given.id, "tool_name": given.name, "parameters": given.parameters}
        return StreamEvent(Type.TOOL_CALL_START, data)
    if isinstance(given, ToolEnd):
        return StreamEvent(Type.TOOL_CALL_FINISH, _ended(given))
    if isinstance(given, Progress):
        percent = given.percent
        if percent is None and given.step is not None and given.total:
            percent = 100 * given.step / given.total
        told = {"progress": percent, "step": given.step, "total": given.total}
        return StreamEvent(Type.PROGRESS, {name: value for name, value in told.items() if value is not None})
    raise TypeError(f"An agent must yield or emit {_RIGHT}, not {_named(given)}.")


def awaitable(told: Any) -> Awaitable[Any]:
    """Return what a call of an agent gave, if it can be awaited. Raise `TypeError` if it cannot."""
    if not inspect.isawaitable(told):
        raise TypeError(f"An agent must be an async function. A call of this one gave {_named(told)}.")
    return told


def returned(told: Any, emit: Callable[[Any], object], *, silent: bool) -> Any:
    """Emit what an agent returned if that stands for an event, and return the run's result, if it is one.

    A text is a result, and emitted as well if the agent was `silent`.
    """
    if told is None or isinstance(told, AsyncIterable):
        return None
    if isinstance(told, str):
        if silent:
            emit(told)
        return told
    if isinstance(told, Given):
        emit(told)
        return None
    return told


def _ended(given: ToolEnd) -> dict[str, Any]:
    call, duration = given.call, given.duration
    if isinstance(call, ToolStart):
        duration = round(time.monotonic() - call.began, 3) if duration is None else duration
        named: dict[str, Any] = {"tool_call_id": call.id, "tool_name": call.name}
    else:
        named = {"tool_call_id": call, "tool_name": given.name}
    told = {**named, "result": given.result, "status": given.status, "duration": duration}
    return {name: value for name, value in told.items() if value is not None or name == "result"}


def _named(given: Any) -> str:
    """Return the name of a value's type, for whoever wrote the agent."""
    return "None" if given is None else f"a value of the type {type(given).__qualname__}"
