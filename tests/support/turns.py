"""Runs that a test has ask their user, and the AI SDK's message as its client makes it of what it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import httpx

from support.formats_rules import ai_sdk_parts
from support.serving import Puppet, Puppets, Running, until
from twinwire.agents.talk import Call, Decision
from twinwire.protocol.events import StreamEvent, decode


class Asking:
    """A run in which a test has the agent ask: the call `c1`, a question, or both."""

    def __init__(self, puppet: Puppet) -> None:
        self.puppet = puppet
        self.tasks: list[asyncio.Task[Any]] = []

    @property
    def run_id(self) -> str:
        return self.puppet.request.run_id

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    async def called(self, server: Running, call: str) -> None:
        """Have the agent tell a call, and wait until it is in the log."""
        self.puppet.emit("TOOL_CALL_START", tool_call_id=call, tool_name="Delete", parameters={"path": "a"})
        await until(lambda: call in server.runs._live[self.run_id].fold.tools)

    async def approve(self, server: Running, call: str = "c1", timeout: float | None = None) -> asyncio.Task[Decision]:
        await self.called(server, call)
        return self._start(
            self.puppet.request.approve(Call(call, "Delete", {"path": "a"}), prompt="May I?", timeout=timeout)
        )

    def ask(self, **how: Any) -> asyncio.Task[Any]:
        return self._start(self.puppet.request.ask("Which branch?", **how))

    def finish(self, call: str = "c1", result: str = "gone", status: str = "ok") -> None:
        self.puppet.emit("TOOL_CALL_FINISH", tool_call_id=call, tool_name="Delete", result=result, status=status)

    def end(self, *words: str) -> None:
        self.puppet.say(*words)
        self.puppet.end()


def ui(*chunks: list[Any]) -> dict[str, Any]:
    """The message that the AI SDK's client has after these bodies."""
    seen = [chunk for body in chunks for chunk in body if chunk != "[DONE]"]
    parts = [{name: value for name, value in part.items() if value is not None} for part in ai_sdk_parts(seen)]
    return {"id": seen[0]["messageId"], "role": "assistant", "metadata": {"runId": "x"}, "parts": parts}


def approved(message: dict[str, Any], *, approved: bool = True, **how: Any) -> dict[str, Any]:
    """The message once its user has decided about all calls in it that are open."""
    parts = [
        {**part, "state": "approval-responded", "approval": {**part["approval"], "approved": approved, **how}}
        if part.get("state") == "approval-requested"
        else part
        for part in message["parts"]
    ]
    return {**message, "parts": parts}


def answered(message: dict[str, Any], output: Any) -> dict[str, Any]:
    """The message once its user has answered the open question in it."""
    parts = [
        {**part, "state": "output-available", "output": output}
        if part.get("toolName") == "ask_user" and part["state"] == "input-available"
        else part
        for part in message["parts"]
    ]
    return {**message, "parts": parts}


def kinds(values: list[Any]) -> list[str]:
    return [value if value == "[DONE]" else value["type"] for value in values]


async def events(server: Running, run_id: str) -> list[StreamEvent]:
    return [decode(record.body) for record in (await server.runs.log.page(run_id, 0, 256)).records]


async def begin(client: httpx.AsyncClient, puppets: Puppets, path: str, body: dict[str, Any]) -> tuple[Any, Asking]:
    asking = asyncio.create_task(client.post(path, json=body))
    return asking, Asking(await puppets.next())
