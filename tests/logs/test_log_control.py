"""What every `Store` does beside keeping events: conversations, presence, log-outs, sinks; on each log of `logs`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from support.logs import FACTORIES, LIMITS, LogFactory, append, opened, records, run_info, started
from twinwire.log import Store
from twinwire.log.tail import PAGE_BYTES
from twinwire.protocol.events import Record
from twinwire.protocol.wire import new_run_id

SESSION = ("alice", "s1")


@pytest.fixture(params=FACTORIES, ids=lambda factory: factory.__name__)
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    factory: LogFactory = request.param
    async with opened(factory(tmp_path)) as log:
        yield log


async def test_a_conversation(log: Store) -> None:
    """Turns come back oldest first, in OpenAI's chat form; another session, and nobody's, has none of them."""
    assert await log.history(SESSION) == []
    await log.remember(SESSION, "one?", "one")
    await log.remember(SESSION, "two? é\U0001f600\ud800".encode(errors="replace").decode(), "")
    assert await log.history(SESSION) == [
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "two? é\U0001f600?"},
        {"role": "assistant", "content": ""},
    ]
    for other in (("alice", None), ("alice", "s2"), ("bob", "s1"), (None, "s1")):
        assert await log.history(other) == []


async def test_the_same_turn_twice(log: Store) -> None:
    """A question that is asked twice, and answered in the same words, is two turns."""
    for _ in range(2):
        await log.remember(SESSION, "again?", "again")
    assert len(await log.history(SESSION)) == 4


async def test_a_long_conversation(log: Store) -> None:
    """A conversation is bounded in bytes: its oldest turns go first, and the newest stays."""
    for number in range(12):
        await log.remember(SESSION, f"{number}?", "x" * (LIMITS.session_bytes // 8))
    history = await log.history(SESSION)
    assert history[-2]["content"] == "11?"
    assert 0 < sum(len(turn["content"]) for turn in history) <= LIMITS.session_bytes
    assert [turn["content"] for turn in history if turn["role"] == "user"] == [
        f"{number}?" for number in range(12 - len(history) // 2, 12)
    ]


async def test_one_run_at_a_time(log: Store) -> None:
    """A session is held by one run, until that run vacates it; another run's vacating changes nothing."""
    first, second = await started(log), await started(log)
    assert await log.holder(SESSION) is None
    assert await log.occupy(SESSION, first) is None
    assert await log.occupy(SESSION, first) is None
    assert await log.occupy(SESSION, second) == first
    assert await log.occupy(("alice", "s2"), second) is None
    await log.vacate(SESSION, second)
    assert await log.holder(SESSION) == first
    await log.vacate(SESSION, first)
    assert await log.holder(SESSION) is None
    assert await log.occupy(SESSION, second) is None
    await log.vacate(SESSION, new_run_id())
    assert await log.holder(SESSION) == second


async def test_two_at_once(log: Store) -> None:
    """Of runs that ask for a session at the same time, one gets it, and the others hear which."""
    runs = [await started(log) for _ in range(5)]
    answers = await asyncio.gather(*(log.occupy(SESSION, run_id) for run_id in runs))
    (holder,) = (run_id for run_id, answer in zip(runs, answers, strict=True) if answer is None)
    assert [answer for answer in answers if answer is not None] == [holder] * 4


async def test_presence_is_of_other_workers(log: Store) -> None:
    """`followed` tells of other workers only: a follower of this one is none, nor is one who has left."""
    run_id = await started(log)
    assert not await log.followed(run_id)
    log.follow(run_id)
    assert not await log.followed(run_id)
    log.unfollow(run_id)
    assert not await log.followed(run_id)


async def test_a_log_out_is_heard(log: Store) -> None:
    """Who logs out has been heard of on this worker when the call returns, with the time of it."""
    heard: list[tuple[str, float]] = []
    log.heard = lambda user_id, when: heard.append((user_id, when))
    await log.log_out("alice", 1234.5, 60.0)
    assert ("alice", 1234.5) in heard


async def test_a_cancel_of_a_run_that_is_over(log: Store) -> None:
    """A cancel that comes too late is no error."""
    info = await log.create(run_info("alice"), idempotency_key=None)
    await append(log, info.run_id, 0, records(info.run_id, 0, 2, end=True))
    await log.cancel(info)


async def test_open_and_close_again(log: Store) -> None:
    """Closing is idempotent."""
    await log.close()
    await log.close()


class Sink:
    """A sink and what it was given."""

    def __init__(self) -> None:
        self.given: list[int] = []
        self.lagged = 0

    def push(self, records: Sequence[Record]) -> None:
        self.given += [record.seq for record in records]

    def lag(self) -> None:
        self.lagged += 1


async def test_a_sink_joins_where_it_has_seen_all(log: Store) -> None:
    """A sink joins after the run's newest event only, and is then given what is appended, until it leaves."""
    run_id = await started(log, 3)
    leave = log.subscribe(run_id, lambda: None)  # a follower: what it follows is in memory
    await log.page(run_id, 0, 10)
    assert log.newest(run_id) == 3
    sink = Sink()
    assert log.join(run_id, 2, sink) is None
    assert log.join(run_id, 4, sink) is None
    assert log.join(new_run_id(), 0, sink) is None
    assert log.join(run_id, 3, sink) is sink
    await append(log, run_id, 3, records(run_id, 3, 2))
    log.leave(run_id, sink)
    log.leave(run_id, sink)
    log.leave(new_run_id(), sink)
    await append(log, run_id, 5, records(run_id, 5, 1))
    assert (sink.given, sink.lagged) == ([4, 5], 0)
    leave()


@pytest.mark.parametrize("large", [False, True], ids=["the terminal event", "more than a page"])
async def test_a_sink_lags(large: bool, log: Store) -> None:
    """Before the terminal event, or more than a page, a sink lags: it is given neither, and has left."""
    run_id = await started(log, 1)
    woken: list[str] = []
    leave = log.subscribe(run_id, lambda: woken.append(run_id))
    await log.page(run_id, 0, 10)
    sink = Sink()
    assert log.join(run_id, 1, sink) is sink
    await append(log, run_id, 1, records(run_id, 1, 1, end=not large, size=PAGE_BYTES if large else 0))
    assert (sink.given, sink.lagged) == ([], 1)
    assert woken
    assert log.join(run_id, 2, sink) is (sink if large else None)
    leave()
