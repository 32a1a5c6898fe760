"""Agents that ask their user and listen to what is said to them, for the tests of the clients."""

from __future__ import annotations

import json
from typing import Any

from twinwire.agents import RunRequest
from twinwire.agents.talk import Call
from twinwire.protocol.events import StreamEvent

BRANCH = {"type": "string", "enum": ["main", "dev"]}
NAME = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 2}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
}


def told(request: RunRequest, content: str) -> None:
    """Have the run answer this."""
    request.emit(StreamEvent("LLM_CHUNK", {"content": content, "delta": content}))


async def asks(request: RunRequest) -> None:
    """Ask for a branch, or what the message names, and tell the answer."""
    schemas: dict[str, Any] = {"name": NAME, "text": None}
    told(request, json.dumps(await request.ask("Which one?", schema=schemas.get(request.message, BRANCH))))


async def stays(request: RunRequest) -> None:
    """Ask, and go on until a message comes."""
    answer = await request.ask("Which one?", schema=BRANCH)
    async for _ in request.messages:
        told(request, str(answer))
        return


async def calls(request: RunRequest) -> None:
    """Call a tool if it may, and tell the decision."""
    call = {"tool_call_id": "c", "tool_name": "Delete"}
    request.emit(StreamEvent("TOOL_CALL_START", {**call, "parameters": {"path": "a"}}))
    decision = await request.approve(Call("c", "Delete", {"path": "a"}), prompt="Delete it?")
    finish = {**call, "result": None, "status": "ok" if decision.approved else "error", "duration": 0.0}
    request.emit(StreamEvent("TOOL_CALL_FINISH", finish))
    told(request, f"{decision.approved} {json.dumps(decision.parameters)} {decision.reason}")


async def listens(request: RunRequest) -> None:
    """Tell each message, until it is `end`."""
    told(request, "listening ")
    async for message in request.messages:
        if message.content == "end":
            return
        told(request, f"{message.content} ")


AGENTS = {"asks": asks, "stays": stays, "calls": calls, "listens": listens}
