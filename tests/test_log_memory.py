"""What the log in memory adds: its bounds in time, events and bytes, and that it never loses count."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from msgspec import structs

from logs import LIMITS, records, run_info
from twinwire.errors import CursorGone, RunNotFound, StaleWriter
from twinwire.log.memory import MemoryLog

T = TypeVar("T")


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def done(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("a log in memory never waits")


def new(log: MemoryLog, key: str | None = None) -> str:
    """A new run's id."""
    return done(log.create(run_info(), idempotency_key=key)).run_id


def kept(log: MemoryLog, run_id: str) -> range:
    """The numbers that are kept of a run."""
    state = done(log.state(run_id))
    return range(state.first, state.last + 1)


def test_retention() -> None:
    """An ended run is kept for the retention and then gone, with its key; a running one stays."""
    clock = Clock()
    log = MemoryLog(structs.replace(LIMITS, max_events=10, max_bytes=10**6, retention=60.0), clock=clock)
    ended, running = new(log, "ended"), new(log, "running")
    log.append(ended, 0, records(ended, 0, 2, end=True))
    log.append(running, 0, records(running, 0, 2))
    clock.now += 59.9
    assert kept(log, ended) == range(1, 3)
    assert done(log.find(None, "ended")) is not None
    clock.now += 0.1
    with pytest.raises(RunNotFound):
        done(log.page(ended, 0, 10))
    assert done(log.find(None, "ended")) is None
    assert new(log, "ended") != ended
    assert done(log.find(None, "running")) is not None
    clock.now += 10**6
    assert kept(log, running) == range(1, 3)
    assert log.size == sum(len(record.body) for record in records(running, 0, 2))


def test_retention_counts_from_the_end() -> None:
    """Not from the start, and repeating the last append does not prolong it."""
    clock = Clock()
    log = MemoryLog(structs.replace(LIMITS, max_events=10, max_bytes=10**6, retention=60.0), clock=clock)
    run_id = new(log)
    clock.now += 100
    batch = records(run_id, 0, 1, end=True)
    log.append(run_id, 0, batch)
    clock.now += 59
    log.append(run_id, 0, batch)
    assert kept(log, run_id) == range(1, 2)
    clock.now += 1
    with pytest.raises(RunNotFound):
        done(log.state(run_id))


@pytest.mark.parametrize("bound", [1, 2, 7, 8, 100])
def test_max_events(bound: int) -> None:
    """A run never keeps more than its bound, always its newest event, and at least seven eighths of the bound."""
    log = MemoryLog(structs.replace(LIMITS, max_events=bound, max_bytes=10**9, retention=60.0))
    run_id = new(log)
    for seq in range(3 * bound):
        log.append(run_id, seq, records(run_id, seq, 1))
        assert kept(log, run_id)[-1] == seq + 1
        assert min(seq + 1, max(bound * 7 // 8, 1)) <= len(kept(log, run_id)) <= bound
    log.append(run_id, 3 * bound, records(run_id, 3 * bound, 5 * bound, end=True))
    assert kept(log, run_id)[-1] == 8 * bound
    assert len(kept(log, run_id)) <= bound


def test_max_bytes_evicts_ended_runs_oldest_end_first() -> None:
    """When all is full the run that ended first goes, then the next; running ones stay whole."""
    log = MemoryLog(structs.replace(LIMITS, max_events=1000, max_bytes=10_000, retention=60.0))
    runs = [new(log, f"k{number}") for number in range(4)]
    for run_id in runs:
        log.append(run_id, 0, records(run_id, 0, 1, size=2000))
    for run_id in (runs[2], runs[0], runs[1]):
        log.append(run_id, 1, records(run_id, 1, 1, end=True))
    gone: list[str] = []
    for seq in range(1, 3):
        log.append(runs[3], seq, records(runs[3], seq, 1, size=2000))
        gone += [run_id for run_id in runs if run_id not in log._runs and run_id not in gone]
        assert log.size <= 10_000
    assert gone == [runs[2], runs[0]]
    assert kept(log, runs[3]) == range(1, 4)
    assert kept(log, runs[1]) == range(1, 3)
    assert done(log.find(None, "k2")) is None
    assert done(log.find(None, "k1")) is not None


def test_max_bytes_trims_the_run_that_appends() -> None:
    """Where no ended run is left to evict, whoever writes loses its own oldest events, never another's."""
    log = MemoryLog(structs.replace(LIMITS, max_events=1000, max_bytes=10_000, retention=60.0))
    quiet, busy = new(log), new(log)
    log.append(quiet, 0, records(quiet, 0, 3, size=1000))
    for seq in range(50):
        log.append(busy, seq, records(busy, seq, 1, size=500))
        assert log.size <= 10_000
    assert kept(log, quiet) == range(1, 4)
    assert kept(log, busy)[-1] == 50
    assert 5 <= len(kept(log, busy)) < 15
    with pytest.raises(CursorGone):
        done(log.page(busy, 0, 10))


def test_one_event_larger_than_everything() -> None:
    """A single event beyond the bound is kept, alone, until the next: a follower can still get it."""
    log = MemoryLog(structs.replace(LIMITS, max_events=1000, max_bytes=1000, retention=60.0))
    run_id = new(log)
    log.append(run_id, 0, records(run_id, 0, 3, size=5000))
    assert kept(log, run_id) == range(3, 4)
    log.append(run_id, 3, records(run_id, 3, 1, end=True))
    assert kept(log, run_id) == range(4, 5)
    assert log.size < 1000


def test_a_run_that_ends_is_not_evicted_by_its_own_end() -> None:
    """The terminal event that fills the log up is still there for its followers."""
    log = MemoryLog(structs.replace(LIMITS, max_events=1000, max_bytes=3000, retention=60.0))
    run_id = new(log)
    log.append(run_id, 0, records(run_id, 0, 2, size=1000))
    log.append(run_id, 2, records(run_id, 2, 1, end=True, size=2500))
    assert kept(log, run_id)[-1] == 3
    assert done(log.state(run_id)).terminal is not None


class LogMachine(RuleBasedStateMachine):
    """Any sequence of appends, retries, bad appends and time, against a list per run that forgets nothing."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.log = MemoryLog(structs.replace(LIMITS, max_events=16, max_bytes=6000, retention=60.0), clock=self.clock)
        self.written: dict[str, list[Any]] = {}
        self.ended: dict[str, float] = {}
        self.largest = 0

    def alive(self, run_id: str) -> bool:
        """Whether the log must or may still have it: only an ended run may go."""
        try:
            done(self.log.state(run_id))
        except RunNotFound:
            assert run_id in self.ended
            return False
        assert run_id not in self.ended or self.clock.now < self.ended[run_id] + 60
        return True

    @rule(target=runs, key=st.none() | st.sampled_from("abc"))
    def create(self, key: str | None) -> str:
        run_id = new(self.log, key)
        self.written.setdefault(run_id, [])
        return run_id

    @rule(run_id=runs, count=st.integers(1, 20), size=st.integers(0, 700), end=st.booleans())
    def append(self, run_id: str, count: int, size: int, end: bool) -> None:
        if not self.alive(run_id):
            return
        last = len(self.written[run_id])
        batch = records(run_id, last, count, size=size, end=end)
        if run_id in self.ended:
            with pytest.raises(StaleWriter):
                self.log.append(run_id, last, batch)
            return
        self.log.append(run_id, last, batch)
        self.written[run_id] += batch
        self.largest = max(self.largest, *(len(record.body) for record in batch))
        if end:
            self.ended[run_id] = self.clock.now

    @rule(run_id=runs, back=st.integers(1, 6))
    def append_again(self, run_id: str, back: int) -> None:
        if self.alive(run_id) and self.written[run_id]:
            batch = self.written[run_id][-min(back, len(kept(self.log, run_id))) :]
            self.log.append(run_id, batch[0].seq - 1, batch)

    @rule(run_id=runs, off=st.integers(-3, 3).filter(bool))
    def append_elsewhere(self, run_id: str, off: int) -> None:
        last = len(self.written[run_id]) + off
        if self.alive(run_id) and last >= 0:
            with pytest.raises(StaleWriter):
                self.log.append(run_id, last, records(run_id, last, 2, size=3))

    @rule(seconds=st.sampled_from([1.0, 20.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(run_id=runs, after=st.integers(0, 40), limit=st.integers(1, 20))
    def page(self, run_id: str, after: int, limit: int) -> None:
        if not self.alive(run_id):
            return
        numbers = kept(self.log, run_id)
        if numbers.start - 1 <= after < numbers.stop:
            page = done(self.log.page(run_id, after, limit))
            assert list(page.records) == self.written[run_id][after : after + limit]
            assert (page.first, page.last, page.ended) == (numbers.start, numbers.stop - 1, run_id in self.ended)
        else:
            with pytest.raises(CursorGone):
                done(self.log.page(run_id, after, limit))

    @invariant()
    def counts(self) -> None:
        """The size is that of what is kept; what is kept is the newest, within the bounds."""
        alive = [run_id for run_id in self.written if self.alive(run_id)]
        size = 0
        for run_id in alive:
            numbers = kept(self.log, run_id)
            assert numbers.stop - 1 == len(self.written[run_id])
            assert len(numbers) <= 16
            size += sum(len(record.body) for record in self.written[run_id][numbers.start - 1 :])
        assert self.log.size == size
        assert set(self.log._runs) == set(alive)
        assert set(self.log._ended) == set(alive) & set(self.ended)
        assert set(self.log._keys.values()) <= set(alive)
        # A running run keeps its newest event whatever the others take.
        assert size <= 6000 + len(alive) * self.largest


LogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_sequence = LogMachine.TestCase
