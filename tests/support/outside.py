"""What is outside of the servers that die: the model that their agent asks, and the ledger of their tools.

Each run has a `Plan` in its message. The model goes by it, whatever process asks: in each step it says the step's words
and calls the step's tools, then it answers. The ledger has each call of a tool, and each process that was there.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from support.model_server import Action, Exchange, ModelServer, Request, Script, delta, end, reasoning, status, text

ASK = "Ask"
PACE = 0.01
"""The seconds between two tokens, and those that a tool takes."""


class Plan(Struct, frozen=True):
    """A run's plan: in each step the names of the tools that are called at once. Then the model answers.

    With `stays` it does not: it calls the last step's tools again, until the run is ended.
    """

    run: str
    steps: list[list[str]]
    stays: bool = False

    @property
    def message(self) -> str:
        """The message that starts it."""
        return msgspec.json.encode(self).decode()

    @property
    def result(self) -> str:
        """The answer."""
        return f"{self.run} is done after {len(self.steps)} steps."

    def tools(self, step: int) -> list[str]:
        """Return the tools of a step, the first of which is 1; none for an answer."""
        if step <= len(self.steps):
            return self.steps[step - 1]
        return self.steps[-1] if self.stays else []

    def calls(self, step: int) -> list[str]:
        """Return the ids of a step's calls, in the order of the tools."""
        return [f"{self.run}-{step}-{number}" for number, _ in enumerate(self.tools(step), 1)]

    def words(self, step: int) -> list[str]:
        """Return what the model says in a step, in tokens."""
        if self.tools(step):
            return [f"{self.run}.{step}.{number} " for number in range(5)]
        return [f"{word} " for word in self.result.split()[:-1]] + [self.result.split()[-1]]


class Asked(NamedTuple):
    """A request to the model: its step, and the conversation."""

    step: int
    messages: list[dict[str, Any]]


class Call(NamedTuple):
    """A call of a tool, as the tool enters it: the call by the model's parameters, its idempotency key, and where."""

    tool: str
    call: str
    key: str
    pid: int


class Outside(ModelServer):
    """The model's server, with the ledger at `/tool`.

    `holds` are what is not answered while it is held: a call, or `run/step` of the model after its first words; each
    `entered` counts those that came.
    """

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.asked: defaultdict[str, list[Asked]] = defaultdict(list)
        self.ledger: defaultdict[str, list[Call]] = defaultdict(list)
        self.entered: Counter[str] = Counter()
        self._held: dict[str, asyncio.Event] = {}
        self._news = asyncio.Event()

    def hold(self, *names: str) -> None:
        """Do not answer these from now on."""
        for name in names:
            self._held[name] = asyncio.Event()

    def let_go(self, *names: str) -> None:
        """Answer these, also those that wait."""
        for name in names:
            self._held.pop(name).set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so, which a request to here, or `look`, may bring about."""
        while not condition():
            self._news.clear()
            await self._news.wait()

    def look(self) -> None:
        """Have the conditions looked at."""
        self._news.set()

    def steps(self, run: str) -> int:
        """Return what the model has seen of a run: the step that it was asked for last."""
        return max((asked.step for asked in self.asked[run]), default=0)

    def choose(self, request: Request) -> Script:
        """See `ModelServer`."""
        if request.path != "/v1/tool":
            return super().choose(request)
        call = Call(**{name: request.body[name] for name in Call._fields})
        run = call.call.rpartition("-")[0].rpartition("-")[0]
        self.ledger[run].append(call)
        self._enter(call.call)
        return [self._wait(call.call), status(200, body={"result": f"{call.tool} did {call.call}"})]

    def _answer(self, request: Request) -> Script:
        messages: list[dict[str, Any]] = request.body["messages"]
        plan = plan_in(messages)
        step = 1 + sum(message["role"] == "assistant" for message in messages)
        self.asked[plan.run].append(Asked(step, messages))
        name = f"{plan.run}/{step}"
        self._enter(name)
        first, *others = plan.words(step)
        paced: list[Any] = [[self._pause, *text(word)] for word in others]
        calls = called(plan, step)
        return [reasoning("hm "), *text(first), self._wait(name), *paced, calls, end(_reason(calls))]

    def _enter(self, name: str) -> None:
        self.entered[name] += 1
        self.look()

    def _wait(self, name: str) -> Action:
        async def act(exchange: Exchange) -> None:
            if (held := self._held.get(name)) is not None:
                await held.wait()
            await self._pause(exchange)

        return act

    async def _pause(self, _: Exchange) -> None:
        await asyncio.sleep(PACE)


def plan_in(messages: Sequence[dict[str, Any]]) -> Plan:
    """Return the plan that a conversation begins with."""
    first = next(message for message in messages if message["role"] == "user")
    return msgspec.json.decode(first["content"], type=Plan)


def called(plan: Plan, step: int) -> list[bytes]:
    """Return the calls of a step, as the model sends them: each with its id, then its arguments in two pieces."""
    chunks = []
    for index, (tool, call) in enumerate(zip(plan.tools(step), plan.calls(step), strict=True)):
        arguments = json.dumps({"question": question(call)} if tool == ASK else {"call": call})
        half = len(arguments) // 2
        named = {"id": call, "type": "function", "function": {"name": tool, "arguments": arguments[:half]}}
        chunks.append(delta({"tool_calls": [{"index": index, **named}]}))
        chunks.append(delta({"tool_calls": [{"index": index, "function": {"arguments": arguments[half:]}}]}))
    return chunks


def question(call: str) -> str:
    """Return what a call of the Ask tool asks."""
    return f"{call}?"


def _reason(calls: Sequence[bytes]) -> str:
    return "tool_calls" if calls else "stop"
