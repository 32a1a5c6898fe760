"""What is served by servers that tests let die: agents whose model and whose tools' effects are the tests' `Outside`.

`OUTSIDE` is its URL, `AGENTS` the names of the agents to serve, by default all. With `DIE_AT`, such as `7 before` or
`7 after`, the process kills itself at the seventh thing that it has its log write.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from inspect import isawaitable
from typing import Any

import httpx

from support.outside import ASK
from twinwire import AskTool, OpenAIChatModel, ReActAgent, RunRequest, StreamEvent, Tool, ToolRegistry, call_key
from twinwire.agents import Agent
from twinwire.log.redis.log import RedisLog
from twinwire.log.sqlite.log import SqliteLog
from twinwire.tools.base import Effects
from twinwire.web.app import create_app

OUTSIDE = os.environ["OUTSIDE"]
MAX_STEPS = 200
DOSE_SECONDS = 0.5  # until the process dies: what else goes on in it comes on
ledger = httpx.AsyncClient(trust_env=False, verify=False, timeout=60)


def die() -> None:
    """End this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


class Entered(Tool):
    """A tool whose only effect is an entry in the ledger."""

    description = "Does something outside."
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {"call": {"type": "string"}},
        "required": ["call"],
    }

    def __init__(self, name: str, effects: Effects) -> None:
        self.name = name
        self.effects = effects

    async def run(self, parameters: Mapping[str, Any]) -> str:
        entry = {"tool": self.name, "call": parameters["call"], "key": call_key(), "pid": os.getpid()}
        return str((await ledger.post(f"{OUTSIDE}/tool", json=entry)).json()["result"])


class Poison(Tool):
    """Kills its process."""

    name = "Poison"
    description = "Kills."
    effects: Effects = "idempotent"

    async def run(self, parameters: Mapping[str, Any]) -> str:  # noqa: ARG002 - the interface's
        await asyncio.sleep(DOSE_SECONDS)
        die()
        return ""


async def counts(request: RunRequest) -> None:
    """Count to the message's number, and go on from where another process has come to."""
    count = 0 if request.past is None else request.past.state or 0
    while count < int(request.message):
        for word in (f"{count} ", f"{count}. "):
            request.emit(StreamEvent("LLM_CHUNK", {"content": word, "delta": word}))
            await asyncio.sleep(0.01)
        count += 1
        await request.checkpoint(count)


counts.resumable = True  # type: ignore[attr-defined]


async def plain(request: RunRequest) -> None:
    """Say something, and stay: an agent that cannot go on elsewhere."""
    request.emit(StreamEvent("LLM_CHUNK", {"content": "begun", "delta": "begun"}))
    await asyncio.Event().wait()


async def poison(request: RunRequest) -> None:
    """Kill the process that it runs in."""
    request.emit(StreamEvent("LLM_CHUNK", {"content": "begun", "delta": "begun"}))
    await asyncio.sleep(DOSE_SECONDS)
    die()


poison.resumable = True  # type: ignore[attr-defined]


def react() -> ReActAgent:
    """The agent whose model and tools are outside."""
    tools = ToolRegistry()
    tools.register_tool(Entered("Once", "once"))
    tools.register_tool(Entered("Again", "idempotent"))
    tools.register_tool(Entered("Look", "none"))
    tools.register_tool(Entered("Approved", "once"), approval=True)
    tools.register_tool(Poison())
    asks = AskTool()
    assert asks.name == ASK
    tools.register_tool(asks)
    model = OpenAIChatModel("scripted", base_url=OUTSIDE, api_key="none", max_retries=0)
    return ReActAgent("react", model, tools, max_steps=MAX_STEPS)


class Deaths:
    """The process kills itself `before` or `after` its log writes something for the n-th time."""

    def __init__(self, at: int, when: str) -> None:
        self._left = at
        self._when = when

    def lurk(self, kind: type) -> None:
        """Lurk in all ways in which a log of this kind is written to."""
        for name in "create", "append", "claim", "release":
            setattr(kind, name, self._deadly(getattr(kind, name)))

    def _deadly(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def writing(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0 and self._when == "before":
                die()
            written = write(*args, **options)
            return self._after(written) if self._left == 0 else written

        return writing

    async def _after(self, written: Any) -> None:
        if isawaitable(written):
            await written
        die()


if at := os.environ.get("DIE_AT"):
    number, when = at.split()
    deaths = Deaths(int(number), when)
    deaths.lurk(RedisLog)
    deaths.lurk(SqliteLog)

AGENTS: dict[str, Agent] = {"react": react(), "counts": counts, "plain": plain, "poison": poison}
names = os.environ.get("AGENTS", ",".join(AGENTS)).split(",")
app = create_app({name: AGENTS[name] for name in names})
