"""Any sequence of appends, retries, stale writers, cursors, cancels, trims, crashes and take-overs, against lists.

One machine for all logs. `LOG_EXAMPLES=1000` for more of it; a failure prints what repeats it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from msgspec import Struct

from support.log_workers import Memory, Redis, Sqlite, Workers
from support.logs import append, records, run_info
from support.serving import until
from twinwire.log import RunState, Store
from twinwire.log.orphan import MOST_CLAIMS
from twinwire.log.redis.log import RedisLog
from twinwire.protocol.errors import CursorGone, RunNotFound, StaleWriter
from twinwire.protocol.events import Record, decode

T = TypeVar("T")
EXAMPLES = int(os.environ.get("LOG_EXAMPLES", "40"))


class Client:
    """Follows a run from a cursor, and goes on at its cursor when its worker has gone."""

    def __init__(self, run_id: str, after: int) -> None:
        self.run_id = run_id
        self.after = after
        self.news = asyncio.Event()

    async def join(self, log: Store) -> None:
        self.log = log
        self.leave = log.subscribe(self.run_id, self.news.set)

    async def part(self) -> None:
        self.leave()

    async def take(self, upto: int, *, woken: bool) -> list[Record]:
        """Read as a pump reads, once `woken`, until the event of this number is here."""
        seen: list[Record] = []
        async with asyncio.timeout(10):
            if woken:
                await self.news.wait()
            while True:
                self.news.clear()
                page = await self.log.page(self.run_id, self.after, 7)
                seen.extend(page.records)
                self.after = seen[-1].seq if seen else self.after
                if self.after >= upto:
                    break
                if not page.records:
                    await self.news.wait()
        return seen


class Kept(Struct):
    """What a log has for whoever goes on with a run; nobody can if there is no start."""

    start: bytes
    owner: str
    checkpoint: bytes = b""
    epoch: int = 0
    claims: int = 0

    def put(self, checkpoint: bytes | None) -> None:
        if checkpoint is not None:
            self.checkpoint, self.claims = checkpoint, 0
            self.start = self.start if checkpoint else b""


CHECKPOINTS = st.none() | st.sampled_from([b"", b"one", b"two" * 5000])


class LogMachine(RuleBasedStateMachine):
    """The log keeps 16 events of a run, and a run for a minute after its end."""

    kind: ClassVar[type[Workers]]
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.workers = self.kind()
        self.written: dict[str, list[Record]] = {}
        self.infos: dict[str, Any] = {}
        self.kept: dict[str, Kept] = {}
        self.released: set[str] = set()
        self.ended: dict[str, float] = {}
        self.lost: set[str] = set()
        self.first: dict[str, int] = {}
        self.followers: list[Client] = []
        self.run(self.workers.start())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        self.run(self.workers.close())
        self.runner.close()

    def log(self, at: int) -> Store:
        return self.workers.logs[at % len(self.workers.logs)]

    def owner(self, run_id: str) -> Store:
        return next(log for log in self.workers.logs if log.worker == self.kept[run_id].owner)

    def look(self, run_id: str, at: int = 0) -> RunState | None:
        """What the log has of a run: the newest of all that was written. None where it may be, and is, gone."""
        old = run_id in self.ended and self.workers.clock.now >= self.ended[run_id] + 60
        if old and not self.workers.forgets:
            return None  # it is deleted some time
        try:
            state = self.run(self.log(at).state(run_id))
        except RunNotFound:
            assert run_id in self.lost or (self.workers.forgets and run_id in self.ended)
            return None
        assert run_id not in self.lost
        assert not old
        assert self.first[run_id] <= state.first <= max(state.last, 1)
        assert state.last == len(self.written[run_id])
        assert state.last - state.first < 16
        assert state.terminal == (self.written[run_id][-1] if run_id in self.ended else None)
        self.first[run_id] = state.first
        return state

    def write(self, run_id: str, batch: Sequence[Record], checkpoint: bytes | None = None) -> None:
        """Append by the owner; who keeps up gets all of it, who lags may find that it was trimmed."""
        self.run(append(self.owner(run_id), run_id, batch[0].seq - 1, batch, checkpoint))
        self.written[run_id].extend(batch)
        self.kept[run_id].put(checkpoint)
        if batch[-1].last:
            self.ended[run_id] = self.workers.clock.now
        self.deliver(run_id, woken=True)

    def deliver(self, run_id: str, *, woken: bool = False) -> None:
        """What was appended reaches all who follow, each event once and in order; or a gap, where it was trimmed."""
        for client in [client for client in self.followers if client.run_id == run_id]:
            state, before = self.look(run_id), client.after
            assert state is not None
            if before < state.first - 1:
                with pytest.raises(CursorGone):
                    self.run(client.take(state.last, woken=woken))
            else:
                assert self.run(client.take(state.last, woken=woken)) == self.written[run_id][before:]
                if state.terminal is None:
                    continue
            self.run(client.part())
            self.followers.remove(client)

    @rule(target=runs, at=st.integers(0, 1), key=st.none() | st.sampled_from("abc"), start=st.sampled_from([b"", b"s"]))
    def create(self, at: int, key: str | None, start: bytes) -> str:
        """A key that is known stands for its run."""
        log = self.log(at)
        info = run_info(owner=log.worker)
        kept = Kept(start if self.workers.outlives else b"", log.worker)
        known = self.run(log.create(info, idempotency_key=key, start=kept.start))
        if known != info:
            assert self.infos[known.run_id] == known
            return known.run_id
        self.infos[info.run_id] = info
        self.kept[info.run_id] = kept
        self.written[info.run_id] = []
        self.first[info.run_id] = 1
        return info.run_id

    @rule(run_id=runs, count=st.integers(1, 20), size=st.integers(0, 700), end=st.booleans(), checkpoint=CHECKPOINTS)
    def append(self, run_id: str, count: int, size: int, end: bool, checkpoint: bytes | None) -> None:
        if self.look(run_id) is None or run_id in self.released:
            return
        batch = records(run_id, len(self.written[run_id]), count, size=size, end=end)
        if run_id not in self.ended:
            self.write(run_id, batch, checkpoint)
        else:
            with pytest.raises(StaleWriter):
                self.run(append(self.log(0), run_id, batch[0].seq - 1, batch, checkpoint))

    @rule(run_id=runs, checkpoint=st.sampled_from([b"", b"three"]), off=st.sampled_from([-1, 0, 0, 0, 1]))
    def checkpoint(self, run_id: str, checkpoint: bytes, off: int) -> None:
        """It changes no event; it is refused after the end, and if it comes with another number."""
        if self.look(run_id) is None or run_id in self.released:
            return
        last = max(len(self.written[run_id]) + off, 0)
        if run_id in self.ended or last != len(self.written[run_id]):
            with pytest.raises(StaleWriter):
                self.run(append(self.log(0), run_id, last, [], checkpoint))
        else:
            self.run(append(self.owner(run_id), run_id, last, [], checkpoint))
            self.kept[run_id].put(checkpoint)

    @precondition(lambda self: isinstance(self.workers, Sqlite))  # others are there at once in Redis
    @rule(run_id=runs)
    def release(self, run_id: str) -> None:
        """Nobody writes the run any more until the next process is offered it."""
        if self.look(run_id) is not None and run_id not in self.ended:
            self.run(self.owner(run_id).release(run_id))
            self.released.add(run_id)
            self.kept[run_id].claims = 0

    @rule(run_id=runs, at=st.integers(0, 1), back=st.integers(1, 6))
    def append_again(self, run_id: str, at: int, back: int) -> None:
        """A writer whose reply was lost repeats its append."""
        state = self.look(run_id)
        if state is not None and state.last:
            batch = self.written[run_id][-min(back, state.last - state.first + 1) :]
            self.run(append(self.log(at), run_id, batch[0].seq - 1, batch))

    @rule(run_id=runs, at=st.integers(0, 1), off=st.integers(-3, 3).filter(bool))
    def append_stale(self, run_id: str, at: int, off: int) -> None:
        """A second writer, which is behind or ahead."""
        last = len(self.written[run_id]) + off
        if self.look(run_id) is not None and last >= 0:
            with pytest.raises(StaleWriter):
                self.run(append(self.log(at), run_id, last, records(run_id, last, 2, size=3)))

    @rule(run_id=runs)
    def trim(self, run_id: str) -> None:
        """A run's first events are gone for good, and so is the cursor before them."""
        if self.look(run_id) is not None and run_id not in self.ended and run_id not in self.released:
            for _ in range(2):
                self.write(run_id, records(run_id, len(self.written[run_id]), 9))
            with pytest.raises(CursorGone):
                self.run(self.owner(run_id).page(run_id, 0, 10))

    @rule(run_id=runs, at=st.integers(0, 1), word=st.booleans())
    def cancel(self, run_id: str, at: int, word: bool) -> None:
        """From any worker; its owner hears of it where that is another, and ends the run. Nothing happens to others."""
        if self.look(run_id) is None or run_id in self.released:
            return
        log, heard = self.log(at), self.workers.owner.cancelled
        going = run_id not in self.ended
        heard.clear()
        self.run(log.cancel(self.infos[run_id]))
        if going:
            if isinstance(log, RedisLog):
                self.run(_until_heard(heard, run_id))
            self.write(run_id, records(run_id, len(self.written[run_id]), 1 + word, end=True))

    @rule(run_id=runs, at=st.integers(0, 1), after=st.integers(0, 40), limit=st.integers(1, 20))
    def resume(self, run_id: str, at: int, after: int, limit: int) -> None:
        """At any cursor: the events after it, or a gap; a worker that follows may yet have what was trimmed."""
        state = self.look(run_id, at)
        if state is None:
            return
        try:
            page = self.run(self.log(at).page(run_id, after, limit))
        except CursorGone:
            assert not state.first - 1 <= after <= state.last
        else:
            assert after <= state.last
            assert after >= state.first - 1 or isinstance(self.workers, Redis)
            assert list(page.records) == self.written[run_id][after : after + limit]
            assert (page.last, page.ended) == (state.last, run_id in self.ended)

    @rule(run_id=runs, at=st.integers(0, 1), back=st.integers(0, 20))
    def follow(self, run_id: str, at: int, back: int) -> None:
        """From a cursor near the end; to the end, where the run has ended."""
        state = self.look(run_id)
        if state is not None:
            client = Client(run_id, max(state.last - back, state.first - 1))
            self.run(client.join(self.log(at)))
            self.followers.append(client)
            self.deliver(run_id)

    @precondition(lambda self: not isinstance(self.workers, Redis))  # its clock is its own
    @rule(seconds=st.sampled_from([1.0, 20.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.workers.clock.now += seconds

    @rule(at=st.integers(0, 1), crash=st.booleans(), takes=st.booleans())
    def restart(self, at: int, crash: bool, takes: bool) -> None:
        """Of the runs that went on there each goes on or gets its one end, or all are gone; followers go on, too."""
        at %= len(self.workers.logs)
        gone = self.workers.logs[at]
        self.workers.owner.takes = takes
        self.run(self.workers.end(at, crash=crash))
        if self.workers.forgets:
            self.lost |= set(self.written)
            self.followers.clear()
        for client in self.followers:
            if client.log is gone:
                self.run(client.join(self.workers.logs[at]))
        for run_id, batch in self.written.items():
            kept = self.kept[run_id]
            alone = kept.owner == gone.worker or run_id in self.released
            if not self.workers.forgets and alone and run_id not in self.ended:
                resumable = bool(kept.start) and kept.claims < MOST_CLAIMS
                if resumable:
                    self.offered(run_id, len(batch), kept)
                if resumable and takes:
                    self.claimed(run_id, batch)
                    kept.owner, kept.epoch, kept.claims = self.workers.owner.log.worker, kept.epoch + 1, kept.claims + 1
                else:
                    self.ended[run_id] = self.workers.clock.now
                    self.interrupted(run_id, batch)
            self.deliver(run_id)
        self.released.clear()

    def offered(self, run_id: str, last: int, kept: Kept) -> None:
        """The new process was offered the run as it was left."""
        orphan = self.workers.owner.offered[run_id]
        assert (orphan.info, orphan.last) == (self.infos[run_id], last)
        assert orphan.owner == kept.owner or run_id in self.released
        assert (orphan.epoch, orphan.claims) == (kept.epoch, kept.claims)
        assert (orphan.start, orphan.checkpoint) == (kept.start, kept.checkpoint)
        assert self.first[run_id] <= orphan.first <= max(last, 1)

    def claimed(self, run_id: str, batch: list[Record]) -> None:
        """The claim's one record follows, and the process of before writes no more."""
        added = self.run(self.log(0).page(run_id, len(batch), 10)).records
        assert [record.type for record in added] == ["LLM_CHUNK"]
        with pytest.raises(StaleWriter):
            self.run(append(self.log(0), run_id, len(batch), records(run_id, len(batch), 1, size=9)))
        batch.extend(added)

    def interrupted(self, run_id: str, batch: list[Record]) -> None:
        added = self.run(self.log(0).page(run_id, len(batch), 10)).records
        assert [record.type for record in added] == (["ERROR"] if batch else ["AGENT_START", "ERROR"])
        event = decode(added[-1].body)
        assert event.data["error_type"] == "interrupted"
        batch.extend(added)
        assert event.metadata == {"events": len(batch)}
        with pytest.raises(StaleWriter):
            self.run(append(self.log(0), run_id, len(batch) - 1, records(run_id, len(batch) - 1, 1)))

    @invariant()
    def newest(self) -> None:
        kept = {
            run_id: batch[state.first - 1 :] for run_id, batch in self.written.items() if (state := self.look(run_id))
        }
        going = (set(self.written) - set(self.ended)) | {client.run_id for client in self.followers}
        self.workers.check(kept, going)


async def _until_heard(heard: list[str], run_id: str) -> None:
    async with asyncio.timeout(10):
        await until(lambda: run_id in heard)


class OnMemory(LogMachine):
    kind = Memory


class OnSqlite(LogMachine):
    kind = Sqlite


class OnRedis(LogMachine):
    kind = Redis


@pytest.mark.timeout(60 + 3 * EXAMPLES)
@pytest.mark.parametrize("machine", [OnMemory, OnSqlite, OnRedis])
def test_any_sequence(machine: type[LogMachine]) -> None:
    """After each step the log has what the list has, and every follower has seen it once and in order."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
