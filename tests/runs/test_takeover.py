"""A run whose process is gone, and another that goes on with it: where it begins again, and within which bounds."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from msgspec import structs

from support.lasting import (
    Process,
    Steps,
    buried,  # noqa: F401 - a fixture
    types,
)
from support.serving import until
from twinwire.agents import RunRequest
from twinwire.agents.spec import AgentSpec
from twinwire.protocol.errors import CursorGone
from twinwire.protocol.events import StreamEvent
from twinwire.runs.budget import Budget
from twinwire.runs.checkpoints import VERSION
from twinwire.telemetry.tracing import Span, Tracer

pytestmark = pytest.mark.usefixtures("buried")


def resumed(events: list[StreamEvent]) -> list[dict[str, Any]]:
    return [event.data for event in events if event.type == "RUN_RESUMED"]


async def test_a_run_goes_on_from_its_checkpoint() -> None:
    """What was told after it is void, and is told again. What was told before it counts, also in the result."""
    agent = Steps()
    first = Process(agent)
    run_id = await first.start()
    await agent.halted.wait()
    await until(lambda: first.log.newest(run_id) == 4)
    second = Process(agent, first.log)
    first.die()
    assert await second.take_over(run_id)
    events = await second.ended(run_id)
    assert types(events) == f"AGENT_START {'LLM_CHUNK ' * 3}RUN_RESUMED LLM_CHUNK LLM_CHUNK AGENT_FINISH"
    assert resumed(events) == [{"epoch": 1, "step": None, "void_after": 3, "text": "12"}]
    assert events[-1].data["result"] == "1234"
    assert events[-1].metadata["events"] == len(events)
    assert [event.id for event in events] == [f"evt-{run_id}-{number}" for number in range(1, 9)]
    past = agent.requests[1].past
    assert past is not None
    assert (past.epoch, past.state, past.after, past.trimmed) == (1, 2, 3, False)


async def test_what_counts_after_a_checkpoint() -> None:
    """With `counts` nothing is void: the agent has to know what it has told."""
    agent = Steps(counts=True)
    first = Process(agent)
    run_id = await first.start()
    await agent.halted.wait()
    await until(lambda: first.log.newest(run_id) == 4)
    second = Process(agent, first.log)
    first.die()
    assert await second.take_over(run_id)
    events = await second.ended(run_id)
    assert resumed(events) == [{"epoch": 1, "step": None, "void_after": None}]
    assert events[-1].data["result"] == "12334"


async def test_a_run_without_a_checkpoint() -> None:
    """It begins again after its AGENT_START, which stands: the one that the agent tells again is left out."""
    halt = [True]

    async def tells(request: RunRequest) -> None:
        request.emit(StreamEvent("AGENT_START", {"input": request.message}))
        request.emit("a")
        if halt.pop() if halt else False:
            await asyncio.Event().wait()

    first = Process(tells)
    run_id = await first.start()
    await until(lambda: first.log.newest(run_id) == 2)
    second = Process(tells, first.log)
    first.die()
    assert await second.take_over(run_id)
    events = await second.ended(run_id)
    assert types(events) == "AGENT_START LLM_CHUNK RUN_RESUMED LLM_CHUNK AGENT_FINISH"
    assert resumed(events) == [{"epoch": 1, "step": None, "void_after": 1}]
    assert events[-1].data["result"] == "a"


async def test_a_run_without_an_event() -> None:
    """Its AGENT_START is written by whoever goes on with it, and nothing is void."""
    halt = [True]

    async def silent(request: RunRequest) -> str:
        if halt.pop() if halt else False:
            await asyncio.Event().wait()
        return f"{request.message} {request.history}"

    first = Process(silent)
    run_id = await first.start("hello", history=[{"role": "user", "content": "before"}])
    await until(lambda: not halt)
    second = Process(silent, first.log)
    first.die()
    assert await second.take_over(run_id)
    events = await second.ended(run_id)
    assert types(events) == "AGENT_START RUN_RESUMED LLM_CHUNK AGENT_FINISH"
    assert events[0].data == {"input": "hello", "config": {"agent": "mine"}, "max_steps": None}
    assert resumed(events) == [{"epoch": 1, "step": None, "void_after": None}]
    assert events[-1].data["result"] == "hello [{'role': 'user', 'content': 'before'}]"


async def test_three_processes() -> None:
    """Each counts one more take-over, and goes on from the newest checkpoint, whoever has written it."""
    agent = Steps()
    processes = [Process(agent)]
    run_id = await processes[0].start()
    for last in (False, False, True):
        await agent.halted.wait()
        agent.halted.clear()
        await until(lambda: processes[-1].log.newest(run_id) == processes[-1].runs._live[run_id].writer.last)
        agent.halt = not last
        processes.append(Process(agent, processes[-1].log))
        processes[-2].die()
        assert await processes[-1].take_over(run_id)
    events = await processes[-1].ended(run_id)
    assert [(each["epoch"], each["void_after"]) for each in resumed(events)] == [(1, 3), (2, 3), (3, 3)]
    assert [request.past.epoch for request in agent.requests if request.past is not None] == [1, 2, 3]
    assert events[-1].data["result"] == "1234"


async def test_the_past_of_a_run() -> None:
    """An agent reads the events that count, those of before the take-over, from any number on; with `void` all."""
    found: dict[str, list[str]] = {}

    class Reads(Steps):
        async def __call__(self, request: RunRequest) -> None:
            if (past := request.past) is not None:
                for name, asked in (
                    ("all", past.events()),
                    ("after", past.events(past.after)),
                    ("void", past.events(void=True)),
                ):
                    found[name] = [event.data.get("content", event.type) async for event in asked]
            await super().__call__(request)

    agent = Reads()
    first = Process(agent)
    run_id = await first.start()
    await agent.halted.wait()
    assert await first.send(run_id, "hurry") == "accepted"
    second = Process(agent, first.log)
    first.die()
    assert await second.take_over(run_id)
    await second.ended(run_id)
    assert found == {
        "all": ["AGENT_START", "1", "2", "hurry"],
        "after": ["hurry"],
        "void": ["AGENT_START", "1", "2", "3", "hurry"],
    }


async def test_the_past_of_a_run_that_was_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent is told so, and gets what is there."""
    outcomes: list[Any] = []

    class Reads(Steps):
        async def __call__(self, request: RunRequest) -> None:
            if (past := request.past) is not None:
                outcomes.append(past.trimmed)
                outcomes.append([event.data.get("content") async for event in past.events(2)])
                with pytest.raises(CursorGone):
                    [event async for event in past.events(1)]
            await super().__call__(request)

    agent = Reads()
    first = Process(agent)
    monkeypatch.setattr(first.log, "_max_events", 2)
    run_id = await first.start()
    await agent.halted.wait()
    await until(lambda: first.log._entry(run_id).tail.first == 3)
    second = Process(agent, first.log)
    first.die()
    assert await second.take_over(run_id)
    await second.ended(run_id)
    assert outcomes == [True, ["2"]]


async def test_what_was_spent_stays_spent() -> None:
    """Tokens, seconds and waiting of before the checkpoint count in the next process: for the usage and the bounds."""
    agent = Steps()

    async def spends(request: RunRequest) -> None:
        request.usage.prompt_tokens += 5
        await agent(request)

    first = Process(spends)
    run_id = await first.start()
    await agent.halted.wait()
    first.runs._live[run_id]._deadline._longest -= 20.0  # it has waited so long
    checkpoint = first.log.kept[run_id].checkpoint
    first.log.kept[run_id].checkpoint = checkpoint.replace(b'"elapsed":0', b'"elapsed":30', 1)
    second = Process(spends, first.log)
    first.die()
    agent.halt = True
    agent.halted.clear()
    assert await second.take_over(run_id)
    await agent.halted.wait()
    run = second.runs._live[run_id]
    assert run._deadline.due - time.monotonic() < 60.0 - 29.0
    assert run.duration >= 30.0
    assert run.request.usage.prompt_tokens == 10
    run.fail(run._deadline.error)
    end = (await second.ended(run_id))[-1]
    assert (end.data["error_type"], end.data["message"]) == ("timeout", "The run reached its deadline of 60 s.")
    assert end.data["usage"]["prompt_tokens"] == 10


async def test_the_budget_of_events_goes_on() -> None:
    """The events of all processes count for it."""

    async def endless(request: RunRequest) -> None:
        for _ in range(6):
            request.emit("a")
            await request.checkpoint(1)
        if request.past is None:
            await asyncio.Event().wait()

    first = Process(endless, budget=Budget(events=10, bytes=10**6, tokens=10**6))
    run_id = await first.start()
    await until(lambda: first.log.newest(run_id) == 7)
    second = Process(endless, first.log, budget=Budget(events=10, bytes=10**6, tokens=10**6))
    first.die()
    assert await second.take_over(run_id)
    end = (await second.ended(run_id))[-1]
    assert (end.data["error_type"], end.metadata["events"]) == ("budget", 11)


async def test_void_tokens_count() -> None:
    """What an agent says that cut calls have cost counts for the run's budget of tokens."""

    async def wastes(request: RunRequest) -> None:
        request.usage.voided_tokens = 101
        request.emit("a")

    process = Process(wastes, budget=Budget(events=10, bytes=10**6, tokens=100))
    end = (await process.ended(await process.start()))[-1]
    assert end.data["error_type"] == "budget"


async def test_who_cannot_take_a_run_over(caplog: pytest.LogCaptureFixture) -> None:
    """A process without the agent, or the room, or the version, or that ends, says so and leaves the run alone."""
    agent = Steps()
    first = Process(agent)
    run_id = await first.start()
    await agent.halted.wait()
    first.die()
    kept = first.log.kept[run_id]

    async def refuses(heir: Process) -> None:
        before = kept.owner, len(await heir.events(run_id))
        assert not await heir.take_over(run_id)
        assert (kept.owner, len(await heir.events(run_id))) == before
        assert heir.runs._live_bytes.taken == 0
        assert heir.runs._starting == 0

    await refuses(Process(AgentSpec(agent, resumable=False), first.log))
    await refuses(Process(agent, first.log, live_bytes=100))
    ending = Process(agent, first.log)
    ending.runs.draining = True
    await refuses(ending)
    full = Process(agent, first.log, max_runs=1)
    other = await full.start()
    assert not await full.take_over(run_id)
    await full.cancel(other)
    unknown = Process(agent, first.log)
    info = first.log._runs[run_id].info
    first.log._runs[run_id].info = structs.replace(info, agent="other")
    await refuses(unknown)
    first.log._runs[run_id].info = info
    assert caplog.text == ""
    whole = kept.start, kept.checkpoint
    for start, checkpoint in ((b"x", whole[1]), (whole[0], b"x")):
        kept.start, kept.checkpoint = start, checkpoint
        await refuses(Process(agent, first.log))
    newer = b'"version":%d' % (VERSION + 1)
    kept.start, kept.checkpoint = whole[0], whole[1].replace(b'"version":%d' % VERSION, newer)
    heir = Process(agent, first.log)
    caplog.clear()
    await refuses(heir)
    await refuses(heir)
    assert caplog.text.count(f"This process cannot go on with the run {run_id}. The version must be") == 1


async def test_somebody_else_was_faster() -> None:
    """Of two processes one goes on with the run; the other holds nothing of it, and is done with it."""
    agent = Steps()
    first = Process(agent)
    run_id = await first.start(session_id="s", user_id="u")
    await agent.halted.wait()
    second, third = Process(agent, first.log), Process(agent, first.log)
    first.die()
    assert all(await asyncio.gather(second.take_over(run_id), third.take_over(run_id)))
    events = await second.ended(run_id)
    assert len(resumed(events)) == 1
    assert len(agent.requests) == 2
    await until(lambda: not second.runs._tasks | third.runs._tasks)
    assert second.runs._live_bytes.taken + third.runs._live_bytes.taken == 0
    assert await second.log.holder(("u", "s")) is None


async def test_a_run_that_ended_meanwhile() -> None:
    """Whoever would have gone on with it leaves its session free."""
    agent = Steps()
    first = Process(agent)
    run_id = await first.start(session_id="s", user_id="u")
    await agent.halted.wait()
    second = Process(agent, first.log)
    orphan = first.log.orphan(run_id)
    assert await first.cancel(run_id) == "accepted"
    await until(lambda: not first.runs._tasks)
    assert await second.runs.take_over(orphan)
    assert await second.log.holder(("u", "s")) is None


async def test_a_session_that_somebody_else_has() -> None:
    """Its run is not taken over."""
    agent = Steps()
    first = Process(agent)
    run_id = await first.start(session_id="s", user_id="u")
    await agent.halted.wait()
    second = Process(agent, first.log)
    first.die()
    second.log._busy[("u", "s")] = "other"
    assert not await second.take_over(run_id)


class Spans(Tracer):
    """Remembers the take-overs that each run's span tells."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def run(self, agent: str, run_id: str, session_id: str | None, traceparent: str | None, *, epoch: int = 0) -> Span:
        self.epochs.append(epoch)
        return super().run(agent, run_id, session_id, traceparent, epoch=epoch)


async def test_the_spans() -> None:
    """Each process that has the run has a span of it, which says after how many take-overs."""
    agent, spans = Steps(), Spans()
    first = Process(agent, tracer=spans)
    run_id = await first.start()
    await agent.halted.wait()
    second = Process(agent, first.log, tracer=spans)
    await first.put_down()
    assert await second.take_over(run_id)
    await second.ended(run_id)
    assert spans.epochs == [0, 1]


async def test_the_figures(caplog: pytest.LogCaptureFixture) -> None:
    """A run that goes on here is counted as resumed, not as started, and a line of the log names it."""
    agent = Steps()
    first = Process(agent)
    run_id = await first.start()
    await agent.halted.wait()
    second = Process(agent, first.log)
    first.die()
    caplog.set_level("INFO", "twinwire.runs")
    caplog.clear()
    assert await second.take_over(run_id)
    await second.ended(run_id)
    await until(lambda: not second.runs._live)
    metrics = second.runs._metrics
    assert (metrics.resumed["mine",], metrics.started.total(), metrics.ended["mine", "completed"]) == (1, 0, 1)
    lines = [(record.getMessage(), getattr(record, "fields", {})) for record in caplog.records]
    assert [line for line, _ in lines] == ["The run was resumed.", "The run ended."]
    assert (lines[0][1]["run_id"], lines[0][1]["epoch"]) == (run_id, 1)
