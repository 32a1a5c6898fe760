"""The tool calls of one step: the user's approval of each that needs it, the tools, and what the model is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from twinwire.agents import RunRequest
from twinwire.agents.talk import Call
from twinwire.models import Finish, Message, ToolCall
from twinwire.models.adapters import Take
from twinwire.protocol.errors import InputExpired, InputNotPossible
from twinwire.protocol.events import StreamEvent, StreamEventType as Type
from twinwire.tools.ask import AskTool
from twinwire.tools.base import ToolError, ToolRegistry, ToolResult

MAX_REPEATS = 2
"""The times that one run runs the same call: the same tool with the same parameters."""


def event(kind: Type, at: int | None, /, **data: Any) -> StreamEvent:
    """Return an event of the step `at`, or of no step."""
    return StreamEvent(kind, data, metadata={} if at is None else {"step": at})


async def tell(emit: Take[StreamEvent], *events: StreamEvent) -> None:
    """Emit the events, and wait if the log applies backpressure."""
    if (room := emit(*events)) is not None:
        await room


class StepCall:
    """One tool call of a step, and its result: an error from the start if there is a `refusal` to run it.

    `note` tells the model of what it cannot know: that the user has edited the parameters.
    """

    def __init__(self, part: ToolCall, seen: Counter[tuple[str, str]]) -> None:
        self.id = part.id
        self.name = part.name
        self.parameters: dict[str, Any] = {}
        self.duration = 0.0
        self.note = ""
        self.refusal = ""
        arguments, key = part.arguments or "{}", part.arguments
        try:
            self.parameters = ToolRegistry.parse_arguments(part.arguments)
            key = json.dumps(self.parameters, sort_keys=True)
        except ToolError as error:
            arguments = "{}"  # servers refuse a history whose arguments are not JSON
            self.refusal = str(error)
        seen[self.name, key] += 1
        self.repeated = seen[self.name, key] > MAX_REPEATS
        if self.repeated:
            self.refusal = f"This very call was made {MAX_REPEATS} times already and is not run again. Use its results."
        self.result = ToolResult(self.refusal, "error")
        function = {**part.state.get("function", {}), "name": self.name, "arguments": arguments}
        self.asked = {**part.state, "id": self.id, "type": "function", "function": function}

    def refuse(self, reason: str) -> None:
        """Have the call not run, and the model told why."""
        self.refusal = reason
        self.result = ToolResult(reason, "error")

    def edit(self, parameters: dict[str, Any]) -> None:
        """Have the tool called with these parameters, and the model told of them if they are others."""
        if parameters != self.parameters:
            edited = msgspec.json.encode(parameters).decode()
            self.note = f"The user changed the parameters of this call to {edited}.\n\n"
        self.parameters = parameters

    @property
    def answered(self) -> Message:
        """The message that tells the model what came of the call."""
        content = f"{'' if self.result.status == 'ok' else 'Error: '}{self.note}{self.result.text}"
        return {"role": "tool", "tool_call_id": self.id, "content": content}

    def started(self, step: int) -> StreamEvent:
        """Return its TOOL_CALL_START."""
        return event(Type.TOOL_CALL_START, step, tool_call_id=self.id, tool_name=self.name, parameters=self.parameters)

    def finished(self, step: int) -> StreamEvent:
        """Return its TOOL_CALL_FINISH."""
        return event(
            Type.TOOL_CALL_FINISH,
            step,
            tool_call_id=self.id,
            tool_name=self.name,
            result=self.result.text,
            status=self.result.status,
            duration=round(self.duration, 3),
        )


def told(answer: str, finish: Finish, calls: Sequence[StepCall]) -> list[Message]:
    """Return what the model is told of a step: what it said, with its state, and what came of its calls."""
    if not answer and not calls:
        return []  # servers refuse an empty message
    asked = {"tool_calls": [call.asked for call in calls]} if calls else {}
    said = {"role": "assistant", "content": answer or None, **asked}
    return [{**finish.state, **said}, *(call.answered for call in calls)]


class Caller:
    """Runs the calls of a run's steps. A tool may take `timeout` seconds, which begin once the user has approved."""

    def __init__(self, tools: ToolRegistry, request: RunRequest, emit: Take[StreamEvent], timeout: float) -> None:
        self._tools = tools
        self._request = request
        self._emit = emit
        self._timeout = timeout

    async def run(self, calls: Sequence[StepCall], step: int) -> None:
        """Run the calls at once; each finishes as it is done. No task is left, however this ends.

        A question to the user is no tool's work: its own events tell of it, and the run waits for nothing else.
        """
        questions = {call for call in calls if not call.refusal and isinstance(self._tools.get(call.name), AskTool)}
        for call in calls:
            if call not in questions:
                await tell(self._emit, call.started(step))
        for call in calls:
            if call.refusal:
                await tell(self._emit, call.finished(step))
        running = {
            asyncio.create_task(self._ask(call) if call in questions else self._call(call)): call
            for call in calls
            if not call.refusal
        }
        try:
            while running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in running if task in done]:  # in the model's order
                    call = running.pop(task)
                    task.result()
                    if call not in questions:
                        await tell(self._emit, call.finished(step))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _call(self, call: StepCall) -> None:
        if self._tools.needs_approval(call.name, call.parameters):
            await self._approve(call)
        if call.refusal:
            return
        begun = time.monotonic()
        call.result = await self._tools.call(call.name, call.parameters, self._timeout, call_id=call.id)
        call.duration = time.monotonic() - begun

    async def _approve(self, call: StepCall) -> None:
        """Ask the user, and refuse the call if the answer is no or none."""
        try:
            decision = await self._request.approve(Call(call.id, call.name, call.parameters))
        except (InputExpired, InputNotPossible) as error:
            call.refuse(f"This call requires the user's approval and was not run. {error.message}")
            return
        if decision.approved:
            call.edit(decision.parameters)
        else:
            reason = (decision.reason or "").strip()
            stop = "" if reason.endswith((".", "!", "?")) else "."
            call.refuse(f"The user refused this call{f': {reason}' if reason else ''}{stop}")

    async def _ask(self, call: StepCall) -> None:
        """Ask the question that is the call, whose result is the user's answer."""
        try:
            question = AskTool.question(call.parameters)
            answer = await self._request.ask(question.question, schema=question.schema)
        except (InputExpired, InputNotPossible) as error:
            call.refuse(error.message)
        except (ToolError, ValueError) as error:
            call.refuse(str(error))
        else:
            text = answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()
            call.result = ToolResult(text, "ok")
