"""Answers, messages, cancels, expiries and ends at once: what is acknowledged is in the log, once, and nothing else."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from support.asking import Scripted, told
from support.redis_server import fresh
from support.serving import Running, serving, until
from twinwire.agents import RunRequest
from twinwire.auth import ANYBODY
from twinwire.log.saying import Saying
from twinwire.protocol.errors import InputExpired, TooManyMessages
from twinwire.runs import RunSpec

AT_ONCE = 20


async def plays(request: RunRequest) -> None:
    """Ask as the message says, for as long, and end after some messages, or at once."""
    play: dict[str, Any] = json.loads(request.message)
    try:
        told(request, f"{await request.ask('?', timeout=play['timeout'])}")
    except InputExpired:
        told(request, "expired")
    for _ in range(play["reads"]):
        told(request, (await anext(request.messages)).content)


async def race(servers: Sequence[Running], chance: random.Random) -> Counter[str]:
    """One run, and all that is said to it at once; the outcomes, by what was said."""
    play = {"timeout": chance.choice([0.001, 0.003, 60]), "reads": chance.choice([0, 0, 1, 2])}
    info, _ = await servers[0].runs.start(RunSpec(message=json.dumps(play)))
    run_id = info.run_id

    async def say(message_id: str, **what: Any) -> tuple[str, str]:
        await asyncio.sleep(chance.uniform(0, 0.004))
        server = chance.choice(servers)
        try:
            return message_id, (await server.runs.say(run_id, Saying(message_id=message_id, **what), ANYBODY)).status
        except TooManyMessages:
            return message_id, "refused"

    async def cancel() -> tuple[str, str]:
        await asyncio.sleep(chance.uniform(0, 0.008))
        return "cancel", await chance.choice(servers).runs.cancel(run_id, ANYBODY)

    input_id = f"ask-{run_id}-1"
    answers = [say(f"a{n}", input_id=input_id, answer=f"a{n}") for n in (1, 2, 2)]
    messages = [say(f"m{n}", content=f"m{n}") for n in (1, 1, 2)]
    outcomes = await asyncio.gather(*answers, *messages, *([cancel()] if chance.random() < 0.5 else []))
    if servers[0].runs.owns(run_id):
        await servers[0].runs.cancel(run_id, ANYBODY)
    await until(lambda: not servers[0].runs.owns(run_id))
    events = await logged(servers[0], run_id)
    check(outcomes, events)
    return Counter(f"{name[0]} {status}" for name, status in outcomes)


async def logged(server: Running, run_id: str) -> list[dict[str, Any]]:
    page = await server.runs.log.page(run_id, 0, 100)
    assert page.ended
    return [json.loads(record.body) for record in page.records]


def check(outcomes: Sequence[tuple[str, str]], events: Sequence[dict[str, Any]]) -> None:
    """Each accepted saying is in the log, once, and no other one is."""
    said = [event["data"]["message_id"] for event in events if "message_id" in event["data"]]
    assert len(said) == len(set(said)), events
    accepted = {name for name, status in outcomes if status == "accepted" and name != "cancel"}
    assert accepted == set(said), (outcomes, events)
    for name, status in outcomes:
        assert (name in accepted) == (status == "accepted") or name == "cancel", (outcomes, events)
    closed = [event["data"] for event in events if event["type"] == "INPUT_ANSWERED"]
    asked = [event for event in events if event["type"] == "INPUT_REQUESTED"]
    assert len(closed) <= len(asked) <= 1
    statuses = {status for name, status in outcomes if name.startswith("a")}
    if "already_answered" in statuses:
        assert "answer" in closed[0], (outcomes, events)
    if "expired" in statuses:
        assert closed[0].get("expired"), (outcomes, events)
    unread = events[-1]["metadata"].get("unread", [])
    assert set(unread) <= {name for name in said if name.startswith("m")}


@pytest.fixture(params=["memory", "sqlite", "redis", "two workers"])
async def servers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Sequence[Running]]:
    kind = request.param
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/log.db"}.get(kind) or fresh()
    agent = Scripted()
    agent.script = plays
    async with AsyncExitStack() as stack:
        count = 2 if kind == "two workers" else 1
        yield [await stack.enter_async_context(serving({"mine": agent}, log=url)) for _ in range(count)]


@pytest.mark.parametrize("rounds", [200, pytest.param(2500, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
async def test_races(servers: Sequence[Running], rounds: int, chance: random.Random) -> None:
    """With `full` ten thousand runs, on each log and on two workers, of which all sorts of outcomes are seen."""
    slots = asyncio.Semaphore(AT_ONCE)
    seen: Counter[str] = Counter()

    async def one() -> None:
        async with slots:
            seen.update(await race(servers, random.Random(chance.random())))

    async with asyncio.TaskGroup() as group:
        for _ in range(rounds):
            group.create_task(one())
    print(dict(seen))
    wanted = {"a accepted", "a already_answered", "a already_finished", "a expired", "m accepted"}
    assert wanted <= seen.keys()
