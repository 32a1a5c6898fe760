"""What the log in memory adds: its bounds in time, events and bytes, and that it never loses count."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from msgspec import structs

from support.logs import LIMITS, Folding, records, run_info
from twinwire.log.memory import RUN_BYTES, MemoryLog
from twinwire.log.tail import RECORD_BYTES
from twinwire.protocol.errors import CursorGone, RunNotFound
from twinwire.protocol.events import dump

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
    done(log.open(Folding()))
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
    assert log.size == 2 * RUN_BYTES + sum(len(record.body) + RECORD_BYTES for record in records(running, 0, 2))


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


def test_the_state_of_a_trimmed_run_is_kept_and_counted() -> None:
    """A run that was trimmed leaves its state at its end, whose bytes count as events do; no other run leaves any."""
    clock = Clock()
    log = MemoryLog(structs.replace(LIMITS, max_events=10, max_bytes=10**6, retention=60.0), clock=clock)
    short, long = new(log), new(log)
    log.append(short, 0, records(short, 0, 5, end=True))
    before = log.size
    log.append(long, 0, records(long, 0, 20))
    assert done(log.folded(long)) is None
    log.append(long, 20, records(long, 20, 1, end=True))
    assert (done(log.folded(short)), done(log.folded(long))) == (None, Folding.state)
    entry = log._runs[long]
    assert log.size == before + entry.tail.cost + len(entry.outcome) + len(dump(Folding.state))
    clock.now += 60
    new(log)
    assert log.size == RUN_BYTES


def test_max_bytes_evicts_ended_runs_oldest_end_first() -> None:
    """When all is full the run that ended first goes, then the next; running ones stay whole."""
    log = MemoryLog(structs.replace(LIMITS, max_events=1000, max_bytes=100_000, retention=60.0))
    runs = [new(log, f"k{number}") for number in range(4)]
    for run_id in runs:
        log.append(run_id, 0, records(run_id, 0, 1, size=20_000))
    for run_id in (runs[2], runs[0], runs[1]):
        log.append(run_id, 1, records(run_id, 1, 1, end=True))
    gone: list[str] = []
    for seq in range(1, 3):
        log.append(runs[3], seq, records(runs[3], seq, 1, size=20_000))
        gone += [run_id for run_id in runs if run_id not in log._runs and run_id not in gone]
        assert log.size <= 100_000
    assert gone == [runs[2], runs[0]]
    assert kept(log, runs[3]) == range(1, 4)
    assert kept(log, runs[1]) == range(1, 3)
    assert done(log.find(None, "k2")) is None
    assert done(log.find(None, "k1")) is not None


def test_labels_count_among_the_bytes() -> None:
    """Runs with large labels are evicted as those with large events are; once they are gone, nothing is counted."""
    log = MemoryLog(structs.replace(LIMITS, max_bytes=20_000))
    for _ in range(20):
        info = structs.replace(run_info(), metadata={f"n{number}": "x" * 256 for number in range(16)})
        run_id = done(log.create(info, idempotency_key=None)).run_id
        log.append(run_id, 0, records(run_id, 0, 1, end=True))
        assert log.size <= 20_000
    assert 1 <= len(log._runs) <= 4
    for run_id in [*log._ended]:
        log._drop(run_id)
    assert log.size == 0


@pytest.mark.parametrize("size", [20, 4000])
def test_what_is_counted_is_what_is_taken(size: int) -> None:
    """Of small and of large events, in short and in long runs, Python allocates 0.85 to 1.15 times what is counted."""
    log = MemoryLog(structs.replace(LIMITS, max_bytes=2**30))
    new(log)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(400):
            run_id = new(log)
            count = 300 if number % 4 else 3
            for seq in range(count):
                log.append(run_id, seq, records(run_id, seq, 1, size=size))
            log.append(run_id, count, records(run_id, count, 1, end=True))
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.85 < taken / log.size < 1.15


def test_ended_runs_are_bounded_by_their_number() -> None:
    """However small they are, the ones that ended first go."""
    log = MemoryLog(structs.replace(LIMITS, max_ended=3))
    runs = [new(log) for _ in range(6)]
    for run_id in runs[:5]:
        log.append(run_id, 0, records(run_id, 0, 1, end=True))
    assert set(log._runs) == {*runs[2:]}


def test_max_bytes_trims_the_run_that_appends() -> None:
    """Where no ended run is left to evict, whoever writes loses its own oldest events, never another's."""
    log = MemoryLog(structs.replace(LIMITS, max_events=1000, max_bytes=15_000, retention=60.0))
    quiet, busy = new(log), new(log)
    log.append(quiet, 0, records(quiet, 0, 3, size=1000))
    for seq in range(50):
        log.append(busy, seq, records(busy, seq, 1, size=500))
        assert log.size <= 15_000
    assert kept(log, quiet) == range(1, 4)
    assert kept(log, busy)[-1] == 50
    assert 5 <= len(kept(log, busy)) < 15
    with pytest.raises(CursorGone):
        done(log.page(busy, 0, 10))


def test_one_event_larger_than_everything() -> None:
    """A single event beyond the bound is kept, alone, until the next: a follower can still get it."""
    log = MemoryLog(structs.replace(LIMITS, max_events=1000, max_bytes=4000, retention=60.0))
    run_id = new(log)
    log.append(run_id, 0, records(run_id, 0, 3, size=5000))
    assert kept(log, run_id) == range(3, 4)
    log.append(run_id, 3, records(run_id, 3, 1, end=True))
    assert kept(log, run_id) == range(4, 5)
    assert log.size < 4000


def test_a_run_that_ends_is_not_evicted_by_its_own_end() -> None:
    """The terminal event that fills the log up is still there for its followers."""
    log = MemoryLog(structs.replace(LIMITS, max_events=1000, max_bytes=5000, retention=60.0))
    run_id = new(log)
    log.append(run_id, 0, records(run_id, 0, 2, size=1000))
    log.append(run_id, 2, records(run_id, 2, 1, end=True, size=2500))
    assert kept(log, run_id)[-1] == 3
    assert done(log.state(run_id)).terminal is not None
