"""What every `Store` does; each test runs against each log of `logs`."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.logs import FACTORIES, LIMITS, LogFactory, append, opened, records, run_info, started
from twinwire.log import RunState, Store, open_log
from twinwire.log.tail import PAGE_BYTES
from twinwire.protocol.errors import CursorGone, IdempotencyMismatch, RunNotFound, SettingsError, StaleWriter
from twinwire.protocol.events import Record
from twinwire.protocol.wire import new_run_id


@pytest.fixture(params=FACTORIES, ids=lambda factory: factory.__name__)
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    factory: LogFactory = request.param
    async with opened(factory(tmp_path)) as log:
        yield log


async def read(log: Store, run_id: str, after: int = 0, limit: int = 10_000) -> list[Record]:
    """Everything after a cursor, page by page."""
    found: list[Record] = []
    while batch := (await log.page(run_id, after, limit)).records:
        found.extend(batch)
        after = batch[-1].seq
    return found


async def test_ping(log: Store) -> None:
    """A log that is there says so by raising nothing."""
    await log.ping()


async def test_a_new_run_is_empty(log: Store) -> None:
    """A run is known from its start, with no event: first 1, last 0."""
    info = run_info("u", owner=log.worker)
    assert await log.create(info, idempotency_key=None) == info
    assert await log.state(info.run_id) == RunState(info, 1, 0, None, owner=log.worker)
    page = await log.page(info.run_id, 0, 10)
    assert (list(page.records), page.first, page.last, page.ended) == ([], 1, 0, False)


async def test_unknown_runs(log: Store) -> None:
    """Nothing can be done with a run that does not exist."""
    await started(log, 3)
    run_id = new_run_id()
    with pytest.raises(RunNotFound):
        await log.state(run_id)
    with pytest.raises(RunNotFound):
        await log.page(run_id, 0, 10)
    with pytest.raises(RunNotFound):
        await append(log, run_id, 0, records(run_id, 0, 1))


async def test_what_is_appended_is_read(log: Store) -> None:
    """Records come back equal, in order, from any cursor, and only up to the limit; runs do not mix."""
    run_id, other = await started(log), await started(log, 5)
    batch = records(run_id, 0, 20)
    for start, end in ((0, 1), (1, 8), (8, 20)):
        await append(log, run_id, start, batch[start:end])
    for after in range(21):
        page = await log.page(run_id, after, 7)
        assert list(page.records) == batch[after : after + 7]
        assert (page.first, page.last, page.ended) == (1, 20, False)
    assert [record.seq for record in await read(log, other)] == [1, 2, 3, 4, 5]


async def test_the_end(log: Store) -> None:
    """With the terminal event the page says so, wherever the cursor is, and the state has the event itself."""
    run_id = await started(log, 2)
    assert (await log.state(run_id)).terminal is None
    batch = records(run_id, 2, 2, end=True)
    await append(log, run_id, 2, batch)
    state = await log.state(run_id)
    assert (state.first, state.last, state.terminal) == (1, 4, batch[-1])
    for after in range(5):
        page = await log.page(run_id, after, 1)
        assert page.ended
        assert [record.seq for record in page.records] == [after + 1][: 4 - after]


@pytest.mark.parametrize("expected", [0, 1, 4, 100])
async def test_a_stale_writer_is_refused_whole(log: Store, expected: int) -> None:
    """A writer that thinks the log elsewhere than it is changes nothing and wakes nobody."""
    run_id = await started(log, 3)
    before = await read(log, run_id)
    woken = Counter[str]()
    log.subscribe(run_id, lambda: woken.update("w"))
    with pytest.raises(StaleWriter):
        await append(log, run_id, expected, records(run_id, expected, 4, size=5))
    assert await read(log, run_id) == before
    assert not woken


async def test_two_writers(log: Store) -> None:
    """Of two writers with the same last number one wins; the other is refused though its numbers would fit."""
    run_id = await started(log, 1)
    mine, theirs = records(run_id, 1, 2, size=1), records(run_id, 1, 2, size=2)
    await append(log, run_id, 1, mine)
    with pytest.raises(StaleWriter):
        await append(log, run_id, 1, theirs)
    with pytest.raises(StaleWriter):
        await append(log, run_id, 1, [*mine, *records(run_id, 3, 1)])
    assert await read(log, run_id, 1) == mine


@pytest.mark.parametrize("end", [False, True])
async def test_the_same_append_again(log: Store, end: bool) -> None:
    """A writer that does not know whether its append arrived repeats it, at once or later, and nothing doubles."""
    run_id = await started(log, 2)
    batch = records(run_id, 2, 3, end=end)
    woken = Counter[str]()
    await append(log, run_id, 2, batch)
    log.subscribe(run_id, lambda: woken.update("w"))
    await append(log, run_id, 2, list(batch))
    if not end:
        await append(log, run_id, 5, records(run_id, 5, 1))
        await append(log, run_id, 2, batch)
    assert [record.seq for record in await read(log, run_id)] == [1, 2, 3, 4, 5, 6][: 5 + (not end)]
    assert woken["w"] == (not end)


async def test_nothing_after_the_end(log: Store) -> None:
    """After the terminal event even the writer that wrote it is refused."""
    run_id = await started(log, 3, end=True)
    with pytest.raises(StaleWriter):
        await append(log, run_id, 3, records(run_id, 3, 1))
    with pytest.raises(StaleWriter):
        await append(log, run_id, 3, records(run_id, 3, 1, end=True))
    assert (await log.state(run_id)).last == 3


@pytest.mark.parametrize("after", [4, 5, 2**63 - 1])
async def test_a_cursor_in_the_future(log: Store, after: int) -> None:
    """A cursor beyond the last event is told what there is; the last event's is not beyond it."""
    run_id = await started(log, 3)
    assert list((await log.page(run_id, 3, 10)).records) == []
    with pytest.raises(CursorGone) as caught:
        await log.page(run_id, after, 10)
    assert (caught.value.first, caught.value.last) == (1, 3)


async def test_a_trimmed_cursor(log: Store) -> None:
    """Beyond its bound a run keeps its newest events; a cursor before them is told what there is."""
    run_id = await started(log)
    for start in range(0, 3000, 100):
        await append(log, run_id, start, records(run_id, start, 100))
    state = await log.state(run_id)
    assert state.last == 3000
    assert 1 <= state.last - state.first + 1 <= 1000
    assert [record.seq for record in await read(log, run_id, state.first - 1)] == list(range(state.first, 3001))
    for after in (0, state.first - 2):
        with pytest.raises(CursorGone) as caught:
            await log.page(run_id, after, 10)
        assert (caught.value.first, caught.value.last) == (state.first, 3000)


async def test_a_run_that_was_not_trimmed_has_no_state(log: Store) -> None:
    """A log keeps the state of no run whose events are all there, while it goes on or after its end."""
    run_id = await started(log, 3)
    assert await log.folded(run_id) is None
    await append(log, run_id, 3, records(run_id, 3, 1, end=True))
    assert await log.folded(run_id) is None


async def test_a_page_is_bounded_in_bytes(log: Store) -> None:
    """A page of large records is short, but never empty where there is more: a huge record comes alone."""
    run_id = await started(log)
    sizes = [10, PAGE_BYTES * 2, 10, 10, PAGE_BYTES // 2, PAGE_BYTES // 3, PAGE_BYTES // 2, 10]
    for seq, size in enumerate(sizes):
        await append(log, run_id, seq, records(run_id, seq, 1, size=size))
    after, pages = 0, []
    while batch := (await log.page(run_id, after, 100)).records:
        pages.append([record.seq for record in batch])
        assert len(batch) == 1 or sum(len(record.body) for record in batch) <= PAGE_BYTES
        after = batch[-1].seq
    assert pages == [[1], [2], [3, 4, 5, 6], [7, 8]]


async def test_wake_ups(log: Store) -> None:
    """Each append wakes each follower of that run, who then finds the records; one who left is not woken."""
    run_id, other = await started(log), await started(log)
    woken = Counter[str]()
    leave = log.subscribe(run_id, lambda: woken.update("a"))
    log.subscribe(run_id, lambda: woken.update("b"))
    log.subscribe(other, lambda: woken.update("c"))
    await append(log, run_id, 0, records(run_id, 0, 3))
    assert woken == {"a": 1, "b": 1}
    leave()
    leave()
    await append(log, run_id, 3, records(run_id, 3, 1, end=True))
    assert woken == {"a": 1, "b": 2}


async def test_followers_may_come_and_go_while_woken(log: Store) -> None:
    """A follower that leaves, or brings another, when it is woken disturbs nobody."""
    run_id = await started(log)
    woken = Counter[str]()

    def wake() -> None:
        woken.update("a")
        leave()
        log.subscribe(run_id, lambda: woken.update("n"))

    leave = log.subscribe(run_id, wake)
    log.subscribe(run_id, lambda: woken.update("b"))
    await append(log, run_id, 0, records(run_id, 0, 1))
    await append(log, run_id, 1, records(run_id, 1, 1))
    assert woken == {"a": 1, "b": 2, "n": 1}


async def test_the_same_callback_twice(log: Store) -> None:
    """Two subscriptions of one callback are two: ending one leaves the other."""
    run_id = await started(log)
    woken = Counter[str]()

    def wake() -> None:
        woken.update("w")

    leave = log.subscribe(run_id, wake)
    log.subscribe(run_id, wake)
    leave()
    await append(log, run_id, 0, records(run_id, 0, 1))
    assert woken["w"] == 1


async def test_idempotency(log: Store) -> None:
    """The same key of the same user is the same run; of another user, or without a key, it is a new one."""
    first = await log.create(run_info("u"), idempotency_key="k")
    assert await log.create(run_info("u"), idempotency_key="k") == first
    assert await log.find("u", "k") == first
    for user, key in (("u", "other"), ("v", "k"), (None, "k"), ("u", None)):
        info = run_info(user)
        assert await log.create(info, idempotency_key=key) == info
    assert await log.find("v", "other") is None
    assert await log.find("u", "K") is None
    assert await log.find("u", "k") == first


async def test_a_key_for_another_request(log: Store) -> None:
    """A key used again for something else is refused, and the run it is for stays."""
    first = await log.create(run_info("u", "one"), idempotency_key="k")
    other = run_info("u", "two")
    with pytest.raises(IdempotencyMismatch):
        await log.create(other, idempotency_key="k")
    with pytest.raises(RunNotFound):
        await log.state(other.run_id)
    assert await log.find("u", "k") == first


async def test_keys_that_could_be_confused(log: Store) -> None:
    """However a log joins user and key, two different pairs are different."""
    pairs = [
        ("a", "b:c"),
        ("a:b", "c"),
        (None, "a"),
        ("", "a"),
        ("None", "a"),
        ("null", "a"),
        ("a", ""),
        ("a\0", "b"),
        ("a", "\0b"),
    ]
    runs = [await log.create(run_info(user), idempotency_key=key) for user, key in pairs]
    assert len({run.run_id for run in runs}) == len(pairs)
    assert [await log.find(user, key) for user, key in pairs] == runs


@pytest.mark.parametrize(
    "url", ["", "memory", "memory:", "memory:///", "memory://x", "MEMORY://", "redid://x", "://", "file:///x"]
)
def test_unknown_urls(url: str) -> None:
    """A URL that names no log is one clear error, which does not show what may be a password in it."""
    with pytest.raises(SettingsError) as caught:
        open_log(url, LIMITS)
    assert caught.value.field == "--log"
    with pytest.raises(SettingsError) as caught:
        open_log("nosql://user:secret@host", LIMITS)
    assert "secret" not in str(caught.value)
