"""A run that its process gives up, or loses to another, and those who follow it."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.lasting import (
    NOBODY,
    Process,
    Steps,
    buried,  # noqa: F401 - a fixture
    types,
)
from support.serving import until
from twinwire.agents import RunRequest
from twinwire.agents.spec import AgentSpec
from twinwire.protocol.events import StreamEvent
from twinwire.runs.endings import EndedRun, Endings

pytestmark = pytest.mark.usefixtures("buried")


async def test_a_run_is_put_down() -> None:
    """Its agent stops, its thought is told, it has no terminal event, and the next process goes on with it."""
    told: list[EndedRun] = []
    reasons: list[str | None] = []
    halted = asyncio.Event()

    async def thinks(request: RunRequest) -> str:
        if request.past is not None:
            return f"{request.past.state}"
        await request.checkpoint("it", counts=True)
        request.emit(StreamEvent("THINKING", {"content": "half a thought"}))
        halted.set()
        try:
            await asyncio.Event().wait()
        finally:
            reasons.append(request.cancelled_by)
            request.emit("too late")
        return ""

    first = Process(thinks, endings=Endings(told.append))
    run_id = await first.start()
    await halted.wait()
    await first.put_down()
    assert reasons == ["shutdown"]
    assert types(await first.events(run_id)) == "AGENT_START THINKING"
    assert first.log.kept[run_id].owner == NOBODY
    assert first.runs._live_bytes.taken == 0
    second = Process(thinks, first.log)
    assert await second.take_over(run_id)
    assert (await second.ended(run_id))[-1].data["result"] == "it"
    await first.runs.drain(0)
    assert told == []


async def test_who_is_not_put_down() -> None:
    """A run that no other process can go on with ends as interrupted, as before."""

    async def waits(_: RunRequest) -> None:
        await asyncio.Event().wait()

    process = Process(AgentSpec(waits, resumable=False))
    run_id = await process.start()
    await process.put_down()
    end = (await process.ended(run_id))[-1]
    assert (end.type, end.data["error_type"], end.data["reason"]) == ("ERROR", "interrupted", "shutdown")


async def test_a_log_that_ends_with_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the log says so when the server stops, its runs end as interrupted."""
    agent = Steps()
    process = Process(agent)
    run_id = await process.start()
    await agent.halted.wait()
    monkeypatch.setattr(process.log, "outlives", False)
    await process.put_down()
    assert (await process.ended(run_id))[-1].data["error_type"] == "interrupted"


async def test_an_agent_that_holds_the_loop_is_put_down() -> None:
    """When the server has told it to hurry, its next event puts it down; the drain gives the run up."""
    went: list[bool] = []

    async def holds(request: RunRequest) -> None:
        await request.checkpoint(1)
        went.append(True)
        while True:
            await asyncio.sleep(0)
            request.emit("a")

    process = Process(holds)
    run_id = await process.start()
    await until(lambda: bool(went))
    process.runs.hurry(0)
    run = process.runs._live[run_id]
    await until(lambda: run.over)
    assert run.elsewhere
    await process.runs.drain(0)
    assert process.log.kept[run_id].owner == NOBODY
    assert "ERROR" not in types(await process.events(run_id))


async def test_what_is_told_once_it_is_time() -> None:
    """An event and the checkpoint that comes with it are told as one, or not at all, also when the run is put down."""
    go_on = asyncio.Event()

    async def tells(request: RunRequest) -> None:
        if request.past is not None:
            request.emit(f"after {request.past.state}")
            return
        await request.checkpoint(1, counts=True)
        await go_on.wait()
        request.emit("told ")
        await request.checkpoint(2, counts=True)

    first = Process(tells)
    run_id = await first.start()
    await until(lambda: bool(first.log.kept[run_id].checkpoint))
    first.runs.hurry(0)
    go_on.set()
    run = first.runs._live[run_id]
    await until(lambda: run.over)
    await first.put_down()
    second = Process(tells, first.log)
    assert await second.take_over(run_id)
    assert (await second.ended(run_id))[-1].data["result"] == "after 1"


async def test_a_run_that_is_claimed_from_a_process_that_lives(caplog: pytest.LogCaptureFixture) -> None:
    """The process that was taken for dead writes nothing more, tells nobody of an end, and leaves its session alone."""
    told: list[EndedRun] = []
    agent = Steps()
    first = Process(agent, endings=Endings(told.append))
    run_id = await first.start(session_id="s", user_id="u")
    await agent.halted.wait()
    await until(lambda: first.log.newest(run_id) == 4)
    agent.halt = True
    agent.halted.clear()
    second = Process(agent, first.log)
    first.runs.follow(run_id)
    assert await second.take_over(run_id)
    await agent.halted.wait()
    agent.requests[0].emit("from the grave")
    await until(lambda: run_id not in first.runs._live and not first.runs._tasks)
    assert first.log.followed_here == [run_id]
    assert await second.log.holder(("u", "s")) == run_id
    assert await first.cancel(run_id) == "accepted"
    end = (await second.ended(run_id))[-1]
    assert end.data["status"] == "cancelled"
    assert end.data["result"] == "123"
    assert told == []
    assert "The log refused the writer" in caplog.text


async def test_a_run_that_was_ended_by_others() -> None:
    """The process that had it tells of its end, as it did before runs could be taken over."""
    told: list[EndedRun] = []
    agent = Steps()
    first = Process(agent, endings=Endings(told.append))
    run_id = await first.start()
    await agent.halted.wait()
    await until(lambda: first.log.newest(run_id) == 4)
    ender = Process(agent, first.log)
    assert await ender.take_over(run_id)
    await ender.ended(run_id)
    agent.requests[0].emit("from the grave")
    await until(lambda: bool(told))
    assert (told[0].run_id, told[0].error_type) == (run_id, "interrupted")


async def test_followers_have_time_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with `cancel` that nobody follows here goes on for a while after its take-over, then it is cancelled."""
    monkeypatch.setattr("twinwire.runs.attendance.GRACE_SECONDS", 0.2)
    agent = Steps()
    first = Process(agent)
    run_id = await first.start(orphan_timeout=0.0)
    await agent.halted.wait()
    agent.halt = True
    agent.halted.clear()
    second = Process(agent, first.log)
    first.die()
    began = time.monotonic()
    assert await second.take_over(run_id)
    end = (await second.ended(run_id))[-1]
    assert (end.data["status"], end.data["reason"]) == ("cancelled", "nobody_followed")
    assert time.monotonic() - began >= 0.2


async def test_followers_that_are_here_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who followed the run from afar are its own followers once it goes on here, and are missed when they go."""
    monkeypatch.setattr("twinwire.runs.attendance.GRACE_SECONDS", 0.0)
    agent = Steps()
    first = Process(agent)
    run_id = await first.start(orphan_timeout=0.0)
    await agent.halted.wait()
    agent.halt = True
    second = Process(agent, first.log)
    second.runs.follow(run_id)
    second.runs.follow(run_id)
    first.die()
    assert await second.take_over(run_id)
    assert second.runs._live[run_id].followers.count == 2
    assert not second.runs._elsewhere
    second.runs.unfollow(run_id)
    assert second.runs._live[run_id].followers.count == 1
    second.runs.unfollow(run_id)
    assert (await second.ended(run_id))[-1].data["reason"] == "nobody_followed"


async def test_a_put_down_run_keeps_its_followers() -> None:
    """Those who follow it here are told of as followers of another worker's run."""
    agent = Steps()
    first = Process(agent)
    run_id = await first.start()
    await agent.halted.wait()
    first.runs.follow(run_id)
    await first.put_down()
    assert first.log.followed_here == [run_id]
    first.runs.unfollow(run_id)
    assert first.log.followed_here == []
