"""An agent that asks, listens, or does whatever a test tells it."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from twinwire.agents import RunRequest
from twinwire.agents.talk import Call
from twinwire.protocol.events import StreamEvent

BRANCH = {"type": "string", "enum": ["main", "dev"]}
Script = Callable[[RunRequest], Coroutine[Any, Any, None]]


class Scripted:
    """An agent that does what a test tells it."""

    def __init__(self) -> None:
        self.script: Script = asks_a_branch

    async def __call__(self, request: RunRequest) -> None:
        await self.script(request)


def told(request: RunRequest, content: str) -> None:
    """Have the run answer this."""
    request.emit(StreamEvent("LLM_CHUNK", {"content": content, "delta": content}))


async def asks_a_branch(request: RunRequest) -> None:
    told(request, f"It is {await request.ask('Which branch?', schema=BRANCH)}.")


async def calls(request: RunRequest) -> None:
    """Call a tool if it may."""
    request.emit(
        StreamEvent("TOOL_CALL_START", {"tool_call_id": "c", "tool_name": "Delete", "parameters": {"path": "a"}})
    )
    decision = await request.approve(Call("c", "Delete", {"path": "a"}), prompt="Delete it?")
    result = {"tool_call_id": "c", "tool_name": "Delete", "result": json.dumps(decision.parameters), "duration": 0}
    request.emit(StreamEvent("TOOL_CALL_FINISH", {**result, "status": "ok" if decision.approved else "error"}))
    told(request, f"{decision.approved} {decision.reason}")


async def listens(request: RunRequest) -> None:
    """Say what it hears, until it hears the end."""
    async for message in request.messages:
        told(request, f"{message.content} ")
        if message.content == "end":
            return


async def until_asked(follower: Any) -> dict[str, Any]:
    """Read on to the next question; its data."""
    while (body := await follower.next()) is not None:
        event: dict[str, Any] = json.loads(body)
        if event["type"] == "INPUT_REQUESTED":
            data: dict[str, Any] = event["data"]
            return data
    raise AssertionError("The run asked nothing.")
