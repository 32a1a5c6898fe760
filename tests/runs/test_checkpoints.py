"""Checkpoints of a run: what is written, when, with which events, and what is too large."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec
import pytest

from support.lasting import Process
from support.serving import until
from twinwire.agents import RunRequest
from twinwire.agents.spec import AgentSpec
from twinwire.models import Usage
from twinwire.protocol.errors import LogUnavailable, StaleWriter
from twinwire.protocol.events import Record, StreamEvent
from twinwire.runs.budget import Live, Share
from twinwire.runs.checkpoints import (
    VERSION,
    Beginning,
    Checkpoint,
    Unreadable,
    beginning_of,
    checkpoint_of,
)
from twinwire.runs.spec import RunSpec
from twinwire.runs.writer import MAX_BATCH, Writer

CHUNK = StreamEvent("LLM_CHUNK", {"content": "a", "delta": "a"})
END = StreamEvent("AGENT_FINISH", {"result": "a"})


class Appends:
    """A log that takes what the test lets it take, and remembers it: last numbers, counts of records, checkpoints."""

    outlives = True

    def __init__(self, *outcomes: Exception | None, later: bool = True) -> None:
        self.taken: list[tuple[int, int, bytes | None]] = []
        self.held = asyncio.Event()
        self.held.set()
        self._outcomes = list(outcomes)
        self._later = later

    def append(
        self, _: str, last: int, records: Sequence[Record], checkpoint: bytes | None = None
    ) -> Awaitable[None] | None:
        if not self._later:
            self.taken.append((last, len(records), checkpoint))
            return None
        return self._append(last, len(records), checkpoint)

    async def _append(self, last: int, count: int, checkpoint: bytes | None) -> None:
        await self.held.wait()
        if self._outcomes and (error := self._outcomes.pop(0)) is not None:
            raise error
        self.taken.append((last, count, checkpoint))


def writer(log: Appends, **past: int) -> Writer:
    return Writer(log, "r" * 26, lambda: None, **past)  # type: ignore[arg-type]


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
async def test_a_checkpoint_comes_with_what_was_told_before(later: bool) -> None:
    """It is one append with the events that were put before it, and is acknowledged with them."""
    log = Appends(later=later)
    writes = writer(log)
    writes.put(CHUNK)
    writes.put(CHUNK)
    await writes.kept(writes.keep(b"one"))
    assert log.taken == [(0, 2, b"one")]
    assert writes.idle
    await writes.kept(writes.keep(b"two"))
    assert log.taken[1:] == [(2, 0, b"two")]


async def test_an_append_without_a_checkpoint_has_none() -> None:
    """What is put after a checkpoint comes without one, and a newer checkpoint takes the place of one that waits."""
    log = Appends()
    writes = writer(log, last=7, size=100)
    log.held.clear()
    writes.put(CHUNK)
    writes.flush()
    first, second = writes.keep(b"one"), writes.keep(b"two")
    writes.put(CHUNK)
    log.held.set()
    await writes.kept(first)
    await writes.kept(second)
    writes.put(CHUNK)
    writes.flush()
    await writes.flushed()
    assert log.taken == [(7, 1, None), (8, 1, b"two"), (9, 1, None)]
    assert writes.size > 100


async def test_a_checkpoint_after_a_burst() -> None:
    """It comes with the last of the appends that a burst takes, or after it."""
    log = Appends()
    writes = writer(log)
    for _ in range(MAX_BATCH + 3):
        writes.put(CHUNK)
    await writes.kept(writes.keep(b"one"))
    assert log.taken == [(0, MAX_BATCH, None), (MAX_BATCH, 3, b"one")]


async def test_a_checkpoint_is_tried_again() -> None:
    """While the log is away, it is sent again with the same events."""
    log = Appends(LogUnavailable(), None)
    writes = writer(log)
    writes.put(CHUNK)
    await writes.kept(writes.keep(b"one"))
    assert log.taken == [(0, 1, b"one")]


async def test_a_checkpoint_that_is_refused() -> None:
    """Whoever waits for it hears that the log is not this writer's any more, as does whoever comes later."""
    log = Appends(StaleWriter(0, 1))
    writes = writer(log)
    for _ in range(2):
        with pytest.raises(LogUnavailable):
            await writes.kept(writes.keep(b"one"))
    assert log.taken == []


async def test_a_checkpoint_at_the_end() -> None:
    """With the terminal event none is written, and nobody waits for it."""
    log = Appends()
    writes = writer(log)
    writes.put(END)
    await writes.kept(writes.keep(b"one"))
    await until(lambda: bool(log.taken))
    assert log.taken == [(0, 1, None)]


def test_a_start_that_is_read_again() -> None:
    """It has the whole start, and the conversation once."""
    spec = RunSpec(
        message="hi",
        user_id="u",
        session_id="s",
        orphan_timeout=3.0,
        can_ask=False,
        history=[{"role": "user", "content": "before"}],
        params={"temperature": 0.5},
        metadata={"team": "red"},
        parts=[{"type": "text", "text": "hi"}],
        headers={"x-tenant": "t"},
    )
    begun = Beginning(spec=spec, history=[{"role": "user", "content": "before"}])
    assert begun.encoded.count(b"before") == 1
    again = beginning_of(begun.encoded)
    assert again.history == begun.history
    assert msgspec.structs.replace(again.spec, history=spec.history) == spec


@pytest.mark.parametrize("read", [beginning_of, checkpoint_of])
@pytest.mark.parametrize("body", [b"x", b"{}", b'{"version":%d}' % (VERSION + 1), b"[]"])
def test_what_cannot_be_read(read: Any, body: bytes) -> None:
    """Bytes of another version, and those that are nothing, are refused."""
    if read is checkpoint_of and body == b"{}":
        return  # all of its fields have defaults
    with pytest.raises(Unreadable):
        read(body)


def test_no_checkpoint() -> None:
    """Of a run that has none nothing counts but its AGENT_START."""
    none = checkpoint_of(b"")
    assert (none.told, none.after, none.counts) == (None, 1, False)
    assert [none.void_after(last) for last in (0, 1, 2, 9)] == [None, None, 1, 1]
    assert Checkpoint(after=4, counts=True).void_after(9) is None


def test_what_is_kept_counts() -> None:
    """Checkpoints count in the memory of all runs, the newest in the place of the one before, until the run's end."""
    live = Live(1000)
    share = Share(live, None)
    assert share.keep(600)
    assert share.keep(900)
    assert not share.keep(1001)
    assert live.taken == 900
    share.resume(100, 1)
    assert not Share(live, None).keep(1)
    share.release()
    assert live.taken == 0


class Writes:
    """A resumable agent that writes checkpoints when the test says so, and tells how it went."""

    resumable = True

    def __init__(self) -> None:
        self.states: asyncio.Queue[Any] = asyncio.Queue()
        self.requests: list[RunRequest] = []
        self.done = 0

    async def __call__(self, request: RunRequest) -> None:
        self.requests.append(request)
        request.usage.total_tokens = 7
        while (state := await self.states.get()) is not None:
            request.emit("a")
            await request.checkpoint(state)
            self.done += 1


def written(process: Process, run_id: str) -> Checkpoint:
    return checkpoint_of(process.log.kept[run_id].checkpoint)


async def test_what_a_checkpoint_has() -> None:
    """It has the agent's state, the number of the event before, and what the run has spent until then."""
    agent = Writes()
    process = Process(agent)
    run_id = await process.start()
    assert process.log.kept[run_id].start != b""
    for number, state in enumerate([{"at": 1}, [2]], 1):
        agent.states.put_nowait(state)
        await until(lambda number=number: agent.done == number)  # type: ignore[misc]
        kept = written(process, run_id)
        assert (kept.told, kept.after, kept.counts) == (state, 1 + number, False)
        assert kept.usage == Usage(total_tokens=7)
        assert kept.kept == {"text": "a" * number}
        assert kept.elapsed >= 0
        assert kept.size == process.runs._live[run_id].size
    assert agent.requests[0].can_resume
    agent.states.put_nowait(None)
    await process.ended(run_id)
    assert process.log.kept[run_id].checkpoint == b""
    assert process.runs._live_bytes.taken == 0


async def test_a_checkpoint_before_anything_was_told() -> None:
    """The AGENT_START comes before it: nothing else counts then."""

    async def at_once(request: RunRequest) -> None:
        await request.checkpoint(1)
        await asyncio.Event().wait()

    process = Process(at_once)
    run_id = await process.start()
    await until(lambda: process.log.kept[run_id].checkpoint != b"")
    assert written(process, run_id).after == 1
    assert [event.type for event in await process.events(run_id)] == ["AGENT_START"]
    assert await process.cancel(run_id) == "accepted"


async def test_a_state_that_is_no_json() -> None:
    """The agent is told so; nothing is written."""

    async def odd(request: RunRequest) -> str:
        with pytest.raises(TypeError):
            await request.checkpoint(object())
        return "done"

    process = Process(odd)
    run_id = await process.start()
    assert (await process.ended(run_id))[-1].data["result"] == "done"


@pytest.mark.parametrize("bound", ["checkpoint_bytes", "live_bytes"])
async def test_a_checkpoint_that_is_too_large(bound: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line in the log says so. From then on no other process can go on with the run, which goes on here."""
    agent = Writes()
    process = Process(agent, None, **{bound: 4000})
    run_id = await process.start()
    for number, state in enumerate([1, "x" * 4000, "x" * 5000, 2], 1):
        agent.states.put_nowait(state)
        await until(lambda number=number: agent.done == number)  # type: ignore[misc]
        assert agent.requests[0].can_resume == (number == 1)
    lines = [record.getMessage() for record in caplog.records if "No other process" in record.getMessage()]
    assert len(lines) == 1
    assert run_id in lines[0]
    assert {"checkpoint_bytes": "--checkpoint-bytes", "live_bytes": "--live-bytes"}[bound] in lines[0]
    kept = process.log.kept[run_id]
    assert (kept.start, kept.checkpoint) == (b"", b"")
    agent.states.put_nowait(None)
    assert (await process.ended(run_id))[-1].data["result"] == "aaaa"
    assert process.runs._live_bytes.taken == 0


async def test_a_start_that_is_too_large(caplog: pytest.LogCaptureFixture) -> None:
    """The run begins, and no other process can go on with it; the log says so."""
    agent = Writes()
    process = Process(agent, checkpoint_bytes=1000)
    run_id = await process.start("x" * 1000)
    assert process.log.kept[run_id].start == b""
    assert "No other process can go on with the run" in caplog.text
    agent.states.put_nowait(1)
    await until(lambda: agent.done == 1)
    assert not agent.requests[0].can_resume
    agent.states.put_nowait(None)
    await process.ended(run_id)


@pytest.mark.parametrize(("lasting", "resumable"), [(False, True), (True, False)])
async def test_who_keeps_nothing(lasting: bool, resumable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept of an agent that is not resumable, nor by a log that ends with its process."""
    agent = Writes()
    process = Process(AgentSpec(agent, resumable=resumable))
    monkeypatch.setattr(process.log, "outlives", lasting)
    run_id = await process.start()
    agent.states.put_nowait(1)
    await until(lambda: agent.done == 1)
    assert not agent.requests[0].can_resume
    assert (process.log.kept[run_id].start, process.log.kept[run_id].checkpoint) == (b"", b"")
    agent.states.put_nowait(None)
    await process.ended(run_id)


async def test_a_checkpoint_of_a_run_that_is_over() -> None:
    """An agent that goes on and on writing checkpoints of an ended run holds up nobody."""
    turns = 0

    async def stubborn(request: RunRequest) -> None:
        nonlocal turns
        while turns < 100:
            try:
                await request.checkpoint(1)
            except asyncio.CancelledError:
                turns += 1
            if request.cancelled_by is not None:
                turns += 1

    process = Process(stubborn)
    run_id = await process.start()
    await until(lambda: process.log.kept[run_id].checkpoint != b"")
    assert await process.cancel(run_id) == "accepted"
    await process.ended(run_id)
    await until(lambda: turns >= 100)
