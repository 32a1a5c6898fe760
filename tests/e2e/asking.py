"""Questions of a run that a test plays."""

from __future__ import annotations

import asyncio
from typing import Any

from support.serving import Puppet
from twinwire.agents.talk import Call, Decision
from twinwire.protocol.events import StreamEvent


def question(puppet: Puppet, prompt: str, **schema: Any) -> asyncio.Task[Any]:
    """Ask a question whose answer has this schema; without one it is a text."""
    return asyncio.ensure_future(puppet.request.ask(prompt, schema=schema or None))


async def approval(puppet: Puppet, prompt: str, call: str = "c1", /, **parameters: Any) -> asyncio.Task[Decision]:
    """Ask whether the tool `Delete` may be called with these parameters."""
    data = {"tool_call_id": call, "tool_name": "Delete", "parameters": parameters}
    await told(puppet, "TOOL_CALL_START", **data)
    return asyncio.ensure_future(puppet.request.approve(Call(call, "Delete", parameters), prompt=prompt))


async def told(puppet: Puppet, type: str, **data: Any) -> None:  # noqa: A002 - the event's own name for it
    """Tell an event at once, not in turn with what the puppet yields."""
    if (emitted := puppet.request.emit(StreamEvent(type=type, data=data))) is not None:
        await emitted
