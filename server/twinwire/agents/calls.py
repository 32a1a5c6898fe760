"""The tool calls of one step: the user's approval of each that needs it, the tools, and what the model is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from twinwire.agents import RunRequest
from twinwire.agents.functions import asking
from twinwire.agents.past import Past
from twinwire.agents.state import PlannedCall
from twinwire.agents.talk import Call
from twinwire.models import Finish, Message, ToolCall
from twinwire.models.adapters import Take
from twinwire.protocol.errors import CursorGone, InputExpired, InputNotPossible, RunInterrupted
from twinwire.protocol.events import StreamEvent, StreamEventType as Type
from twinwire.tools.ask import AskTool
from twinwire.tools.base import ToolError, ToolRegistry, ToolResult

UNKNOWN = (
    "The outcome of this call is unknown: the server stopped while the tool may have been at work. The call was not "
    "repeated. Find out whether it took effect before you make it again."
)
"""The result of a call that may have had its effects, and must not have them twice."""

MAX_REPEATS = 2
"""The times that one run runs the same call: the same tool with the same parameters."""


def event(kind: Type, at: int | None, /, **data: Any) -> StreamEvent:
    """Return an event of the step `at`, or of no step."""
    return StreamEvent(kind, data, metadata={} if at is None else {"step": at})


async def tell(emit: Take[StreamEvent], *events: StreamEvent) -> None:
    """Emit the events, and wait if the log applies backpressure."""
    if (room := emit(*events)) is not None:
        await room


def digest(*words: str) -> str:
    """Return a short text that stands for these words, 32 hexadecimal digits."""
    return hashlib.blake2b("\0".join(words).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def plan(parts: Sequence[ToolCall], seen: dict[str, int], tools: ToolRegistry, most: int) -> list[PlannedCall]:
    """Decide about the calls of an answer, of which at most `most` are run. They are added to those `seen` before."""
    return [_plan(part, seen, tools, most if number >= most else None) for number, part in enumerate(parts)]


def _plan(part: ToolCall, seen: dict[str, int], tools: ToolRegistry, most: int | None) -> PlannedCall:
    """Decide about one call, which is one too many if `most` says how many are run."""
    parameters, written, refusal = None, part.arguments, ""
    if tools.get(part.name) is None:
        refusal = tools.unknown(part.name)
    try:
        parameters = ToolRegistry.parse_arguments(part.arguments)
        written = json.dumps(parameters, sort_keys=True)
    except ToolError as error:
        refusal = str(error)
    key = digest(part.name, written)
    seen[key] = seen.get(key, 0) + 1
    repeated = seen[key] > MAX_REPEATS
    if repeated:
        refusal = f"This very call was made {MAX_REPEATS} times already and is not run again. Use its results."
    if most is not None:
        refusal = f"Only the first {most} calls of a step are run."
    if refusal or parameters is None:
        return PlannedCall(part, refusal=refusal, repeated=repeated)
    if isinstance(tools.get(part.name), AskTool):
        return PlannedCall(part, question=True)
    return PlannedCall(part, approval=tools.needs_approval(part.name, parameters))


class StepCall:
    """One tool call of a step, and its result: an error from the start if there is a `refusal` to run it.

    `note` tells the model of what it cannot know: that the user has edited the parameters. A call that is `done` is not
    run.
    """

    def __init__(self, planned: PlannedCall) -> None:
        part = planned.part
        self.id = part.id
        self.name = part.name
        self.parameters: dict[str, Any] = {}
        self.duration = 0.0
        self.note = ""
        self.refusal = planned.refusal
        self.repeated = planned.repeated
        self.approval = planned.approval
        self.question = planned.question
        self.done = bool(planned.refusal)
        self._approved: dict[str, Any] | None = None  # the parameters, if another process was told that it is
        arguments = part.arguments or "{}"
        try:
            self.parameters = ToolRegistry.parse_arguments(part.arguments)
        except ToolError:
            arguments = "{}"  # servers refuse a history whose arguments are not JSON
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

    def hear(self, answer: Any) -> None:
        """Take over the user's answer to another process, None if there was none in time."""
        if isinstance(answer, dict) and answer.get("decision") == "approve":
            edited = answer.get("parameters")
            self._approved = self.parameters if edited is None else edited

    def end(self, result: ToolResult) -> None:
        """Be done with this result, of a call that another process has run, with the parameters that were approved."""
        self.edit(self.parameters if self._approved is None else self._approved)
        self.result = result
        self.done = True

    @property
    def may_have_run(self) -> bool:
        """True if another process may have begun to run the tool, and not ended. Before an approval none does."""
        return not (self.done or self.question) and (self._approved is not None or not self.approval)

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


def starts(calls: Sequence[StepCall], step: int) -> list[StreamEvent]:
    """Return the events that tell of a step's calls before any is run: their starts, and the ends of the refused.

    A question to the user is no tool's work: its own events tell of it, and the run waits for nothing else.
    """
    shown = [call for call in calls if not call.question]
    return [*(call.started(step) for call in shown), *(call.finished(step) for call in shown if call.done)]


async def _replay(calls: Sequence[StepCall], past: Past) -> None:
    """Let the calls know how they have ended, or what the user has decided about them, in other processes."""
    known, asked = {call.id: call for call in calls}, dict[str, StepCall]()
    async for each in past.events(past.after):
        data = each.data
        call = known.get(data.get("tool_call_id", ""))
        if each.type == Type.TOOL_CALL_FINISH and call is not None:
            call.end(ToolResult(data["result"], data["status"]))
        elif each.type == Type.INPUT_REQUESTED and call is not None:
            asked[data["input_id"]] = call
        elif each.type == Type.INPUT_ANSWERED and data["input_id"] in asked:
            asked[data["input_id"]].hear(data.get("answer"))


class Caller:
    """Runs the calls of a run's steps. A tool may take `timeout` seconds, which begin once the user has approved."""

    def __init__(self, tools: ToolRegistry, request: RunRequest, emit: Take[StreamEvent], timeout: float) -> None:
        self._tools = tools
        self._request = request
        self._emit = emit
        self._timeout = timeout
        self._run = request.run_id or secrets.token_hex(16)

    async def recall(self, calls: Sequence[StepCall], step: int, past: Past) -> None:
        """Take over what other processes have done of a step's calls: those that have ended are done.

        A call that may have run, of a tool whose calls must not be repeated, ends now: nobody knows what it has done.
        Raises `RunInterrupted` if the log no longer has the events that tell of the calls.
        """
        try:
            await _replay(calls, past)
        except CursorGone:
            raise RunInterrupted("The run was interrupted, and its log has forgotten what its tools did.") from None
        lost = [call for call in calls if call.may_have_run and self._tools.effects(call.name) == "once"]
        for call in lost:
            call.end(ToolResult(UNKNOWN, "error"))
        await tell(self._emit, *(call.finished(step) for call in lost))

    async def run(self, calls: Sequence[StepCall], step: int) -> None:
        """Run the calls that are not done at once; each finishes as it is done. No task is left, however this ends."""
        running = {
            asyncio.create_task(self._ask(call) if call.question else self._call(call, f"{step}-{number}")): call
            for number, call in enumerate(calls)
            if not call.done
        }
        try:
            while running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in running if task in done]:  # in the model's order
                    call = running.pop(task)
                    task.result()
                    if not call.question:
                        await tell(self._emit, call.finished(step))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _call(self, call: StepCall, place: str) -> None:
        """Run one call, which has this place in its run, once the user has approved it if that is needed."""
        if call.approval:
            await self._approve(call)
        if call.refusal:
            return
        asking.set(self._request)  # in this call's task
        begun, key = time.monotonic(), digest(self._run, place)
        call.result = await self._tools.call(call.name, call.parameters, self._timeout, call_id=call.id, key=key)
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
