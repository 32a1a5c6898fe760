"""How a run outlives its process: what a log keeps of it, whom it offers it to, and who gets it; on each log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from support.logs import OUTLIVING, LogFactory, append, memory, opened, records, run_info, started
from support.serving import until
from support.takeovers import Heir, Processes, begun
from twinwire.log import Quota, Store
from twinwire.log.memory import RUN_BYTES, MemoryLog
from twinwire.log.orphan import MOST_CLAIMS, Orphan
from twinwire.log.tail import RECORD_BYTES
from twinwire.protocol.errors import StaleWriter, TooManyRuns
from twinwire.protocol.events import Record, decode


@pytest.fixture(params=OUTLIVING, ids=lambda factory: factory.__name__)
async def processes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Processes]:
    factory: LogFactory = request.param
    processes = Processes(factory, tmp_path)
    yield processes
    await processes.end()


async def read(log: Store, run_id: str) -> list[Record]:
    """All events of a run."""
    return list((await log.page(run_id, 0, 1000)).records)


async def interrupted(log: Store, run_id: str) -> None:
    """Wait until the log has ended a run for its process."""
    while (terminal := (await log.state(run_id)).terminal) is None:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.01)
    assert decode(terminal.body).data["error_type"] == "interrupted"


async def test_a_run_is_offered_as_it_was_left(processes: Processes) -> None:
    """The next process is offered the run with its start, its newest checkpoint and its place in the log."""
    log = await processes.next()
    assert log.outlives
    info = await begun(log, 3, start=b"the start", checkpoint=b"one")
    await append(log, info.run_id, 3, records(info.run_id, 3, 2), b"two")
    await append(log, info.run_id, 5, records(info.run_id, 5, 1))
    state = await log.state(info.run_id)
    assert state.owner == log.worker
    [orphan] = (await processes.heir()).offered
    assert orphan == Orphan(
        info=info,
        owner=log.worker,
        epoch=0,
        claims=0,
        first=1,
        last=6,
        size=state.size,
        start=b"the start",
        checkpoint=b"two",
    )


async def test_a_run_without_an_event_is_offered(processes: Processes) -> None:
    """A process that ends before the first event of a run leaves a run that can begin elsewhere."""
    log = await processes.next()
    info = run_info("alice", owner=log.worker)
    await log.create(info, idempotency_key="k", start=b"start")
    heir = await processes.heir()
    [orphan] = heir.offered
    assert (orphan.info, orphan.first, orphan.last, orphan.start, orphan.checkpoint) == (info, 1, 0, b"start", b"")
    assert [record.seq for record in await read(heir.log, info.run_id)] == [1]
    assert await heir.log.find("alice", "k") == info


async def test_a_trimmed_run_is_offered(processes: Processes) -> None:
    """A run that lost its first events to the log's bound is offered with the numbers that are there."""
    log = await processes.next()
    info = await begun(log, 0)
    for start in range(0, 3000, 100):
        await append(log, info.run_id, start, records(info.run_id, start, 100))
    state = await log.state(info.run_id)
    [orphan] = (await processes.heir()).offered
    assert 1 < state.first == orphan.first
    assert orphan.last == 3000


async def test_a_checkpoint_alone(processes: Processes) -> None:
    """A checkpoint may come without events, again and again; it moves no number and wakes nobody."""
    log = await processes.next()
    info = await begun(log, 2)
    woken: list[str] = []
    leave = log.subscribe(info.run_id, lambda: woken.append("w"))
    for checkpoint in (b"one", b"two", b"two"):
        await append(log, info.run_id, 2, [], checkpoint)
    assert (await log.state(info.run_id)).last == 2
    assert not woken
    leave()
    [orphan] = (await processes.heir()).offered
    assert (orphan.last, orphan.checkpoint) == (2, b"two")


@pytest.mark.parametrize("count", [0, 1])
async def test_a_stale_checkpoint(processes: Processes, count: int) -> None:
    """A writer that is refused has its checkpoint refused as well, with events or without."""
    log = await processes.next()
    info = await begun(log, 3, checkpoint=b"kept")
    for expected in (2, 4):
        with pytest.raises(StaleWriter):
            await append(log, info.run_id, expected, records(info.run_id, expected, count, size=9), b"stale")
    [orphan] = (await processes.heir()).offered
    assert (orphan.last, orphan.checkpoint) == (3, b"kept")


async def test_the_same_append_again_with_a_checkpoint(processes: Processes) -> None:
    """A writer that repeats an append and its checkpoint, because the reply was lost, is not refused."""
    log = await processes.next()
    info = await begun(log, 3)
    batch = records(info.run_id, 3, 2)
    for _ in range(2):
        await append(log, info.run_id, 3, batch, b"state")
    [orphan] = (await processes.heir()).offered
    assert (orphan.last, orphan.checkpoint) == (5, b"state")


async def test_a_large_checkpoint(processes: Processes) -> None:
    """A checkpoint of 8 MiB comes back byte for byte, as does a start of any bytes."""
    start, checkpoint = bytes(range(256)) * 1000, b"\0\xff" * 2**22
    log = await processes.next()
    info = await begun(log, 2, start=start)
    await append(log, info.run_id, 2, [], checkpoint)
    [orphan] = (await processes.heir()).offered
    assert orphan.start == start
    assert orphan.checkpoint == checkpoint


async def test_no_checkpoint_after_the_end(processes: Processes) -> None:
    """A run that has ended takes no checkpoint, though it comes with the right number."""
    log = await processes.next()
    info = await begun(log, 2, checkpoint=b"state")
    await append(log, info.run_id, 2, records(info.run_id, 2, 1, end=True), b"with the end")
    with pytest.raises(StaleWriter):
        await append(log, info.run_id, 3, [], b"after the end")


async def test_what_is_not_offered(processes: Processes) -> None:
    """A run that has ended stays as it is; one without a start, or with an empty checkpoint, ends as interrupted."""
    log = await processes.next()
    ended, left = await begun(log, 3, checkpoint=b"state"), await begun(log, 1)
    await append(log, ended.run_id, 3, records(ended.run_id, 3, 1, end=True))
    without = await started(log, 2)
    withdrawn = await begun(log, 2, checkpoint=b"state")
    await append(log, withdrawn.run_id, 2, records(withdrawn.run_id, 2, 1), b"")
    await append(log, withdrawn.run_id, 3, [], b"more")
    heir = await processes.heir()
    assert [orphan.info for orphan in heir.offered] == [left]
    for run_id, last in ((without, 2), (withdrawn.run_id, 3)):
        await interrupted(heir.log, run_id)
        assert (await heir.log.state(run_id)).last == last + 1
    assert (await heir.log.state(ended.run_id)).last == 4


async def test_a_claim(processes: Processes) -> None:
    """Who claims a run is its owner: its record follows, it appends from then on, and all events can be read."""
    log = await processes.next()
    info = await begun(log, 3, user_id="alice")
    before = await read(log, info.run_id)
    heir = await processes.heir()
    log, [orphan] = heir.log, heir.offered
    state = await log.state(info.run_id, "alice")
    assert (state.info, state.owner, state.first, state.last, state.terminal) == (info, log.worker, 1, 4, None)
    assert state.size > orphan.size
    woken: list[str] = []
    leave = log.subscribe(info.run_id, lambda: woken.append("w"))
    await log.page(info.run_id, 4, 10)
    batch = records(info.run_id, 4, 2, end=True)
    await append(log, info.run_id, 4, batch)
    await until(lambda: bool(woken))
    events = await read(log, info.run_id)
    assert [record.seq for record in events] == [1, 2, 3, 4, 5, 6]
    assert (events[:3], events[4:]) == (before, batch)
    leave()


async def test_a_follower_of_a_claimed_run(processes: Processes) -> None:
    """A follower with the cursor that the old process gave it reads on, and joins for what comes."""
    log = await processes.next()
    info = await begun(log, 300)
    log = (await processes.heir()).log
    leave = log.subscribe(info.run_id, lambda: None)
    page = await log.page(info.run_id, 299, 10)
    assert [record.seq for record in page.records] == [300, 301]
    assert (page.first, page.last, page.ended) == (1, 301, False)
    assert log.newest(info.run_id) == 301
    leave()


async def test_the_old_writer_is_stale(processes: Processes) -> None:
    """After the claim what the old process would append, with a checkpoint or without, is refused whole."""
    log = await processes.next()
    info = await begun(log, 3, checkpoint=b"kept")
    log = (await processes.heir()).log
    for count, checkpoint in ((2, None), (2, b"old"), (0, b"old")):
        with pytest.raises(StaleWriter):
            await append(log, info.run_id, 3, records(info.run_id, 3, count, size=5), checkpoint)
    assert (await log.state(info.run_id)).last == 4
    [orphan] = (await processes.heir()).offered
    assert (orphan.last, orphan.checkpoint) == (4, b"kept")


async def test_claims_that_are_refused(processes: Processes) -> None:
    """A claim of a run that is elsewhere in its log, unknown, ended, or claimed by now is False and changes nothing."""
    log = await processes.next()
    info, over = await begun(log, 3), await begun(log, 3)
    outcomes: dict[str, list[bool]] = {info.run_id: [], over.run_id: []}

    async def answer(log: Store, orphan: Orphan) -> bool:
        run_id = orphan.info.run_id
        batch = records(run_id, 3, 1)
        unknown = structs.replace(orphan, info=run_info())
        for wrong in (structs.replace(orphan, last=2), structs.replace(orphan, last=4), unknown):
            outcomes[run_id].append(await log.claim(wrong, records(wrong.info.run_id, wrong.last, 1)))
        if run_id == over.run_id:
            await append(log, run_id, 3, records(run_id, 3, 1, end=True))
            outcomes[run_id].append(await log.claim(orphan, batch))
            return True
        claims = await asyncio.gather(*(log.claim(orphan, batch) for _ in range(2)))
        outcomes[run_id] += [*claims, await log.claim(orphan, batch)]
        return True

    heir = await processes.heir(answer)
    await until(lambda: len(heir.taken) == 2)
    assert outcomes[over.run_id] == [False] * 4
    assert sorted(outcomes[info.run_id]) == [False] * 5 + [True]
    assert [(await heir.log.state(run.run_id)).last for run in (info, over)] == [4, 4]


async def test_a_run_that_goes_on_is_no_orphan(processes: Processes) -> None:
    """A run whose process lives cannot be claimed, whoever says that it is an orphan."""
    log = await processes.next()
    info = await begun(log, 1)
    orphan = Orphan(info=info, owner=info.owner, epoch=0, claims=0, first=1, last=1, size=9, start=b"start")
    assert not await log.claim(orphan, records(info.run_id, 1, 1))
    await append(log, info.run_id, 1, records(info.run_id, 1, 1))


async def test_epochs_and_claims(processes: Processes) -> None:
    """Each claim counts as an epoch; a checkpoint, and a release, count the claims from 0 again."""
    log = await processes.next()
    run_id = (await begun(log, 1)).run_id
    seen = []
    for number in range(6):
        heir = await processes.heir()
        [orphan] = heir.offered
        seen.append((orphan.epoch, orphan.claims, orphan.last))
        if number == 1:
            await append(heir.log, run_id, orphan.last + 1, records(run_id, orphan.last + 1, 1), b"state")
        if number == 3:
            await heir.log.release(run_id)
    assert seen == [(0, 0, 1), (1, 1, 2), (2, 0, 4), (3, 1, 5), (4, 0, 6), (5, 1, 7)]


async def test_a_run_that_ends_its_processes(processes: Processes) -> None:
    """A run that was claimed three times without a checkpoint is offered to nobody any more: it ends as interrupted."""
    log = await processes.next()
    run_id = (await begun(log, 1, checkpoint=b"state")).run_id
    for _ in range(MOST_CLAIMS):
        assert (await processes.heir()).offered
    heir = Heir()
    log = await processes.next(heir)
    await interrupted(log, run_id)
    assert not heir.offered
    assert (await log.state(run_id)).last == 1 + MOST_CLAIMS + 1


async def test_a_run_that_is_put_down_again_and_again(processes: Processes) -> None:
    """A run that each process releases in order is offered for ever, though it writes no checkpoint."""
    log = await processes.next()
    run_id = (await begun(log, 1)).run_id
    for _ in range(MOST_CLAIMS + 2):
        await log.release(run_id)
        log = (await processes.heir()).log
    assert (await log.state(run_id)).terminal is None


async def test_a_release(processes: Processes) -> None:
    """A released run has no owner, can be read, and stays open over the end of its process; twice is once."""
    log = await processes.next()
    info = await begun(log, 3, checkpoint=b"state")
    for _ in range(2):
        await log.release(info.run_id)
    state = await log.state(info.run_id)
    assert (state.info, state.first, state.last, state.terminal) == (info, 1, 3, None)
    assert state.owner != log.worker
    assert [record.seq for record in await read(log, info.run_id)] == [1, 2, 3]
    [orphan] = (await processes.heir()).offered
    assert (orphan.last, orphan.checkpoint) == (3, b"state")


async def test_a_cancel_of_a_run_that_goes_on_nowhere(processes: Processes) -> None:
    """A cancel that comes while nobody has the run reaches whoever goes on with it."""
    log = await processes.next()
    info, other = await begun(log, 1), await begun(log, 1)
    await log.release(info.run_id)
    await log.release(other.run_id)
    await log.cancel(info)
    heir = await processes.heir()
    await until(lambda: len(heir.taken) == 2 and bool(heir.cancelled))
    assert {*heir.cancelled} == {info.run_id}


async def test_a_claimed_run_counts_as_its_user_s(processes: Processes) -> None:
    """A run that goes on in another process counts for its user's quota, until it ends."""
    quota = Quota(runs=1, starts=100, longest=30.0)
    log = await processes.next()
    info = run_info("alice", owner=log.worker)
    await log.create(info, idempotency_key=None, quota=quota, start=b"start")
    log = (await processes.heir()).log
    with pytest.raises(TooManyRuns) as caught:
        await log.create(run_info("alice", owner=log.worker), idempotency_key=None, quota=quota)
    assert 0 < caught.value.retry_after <= 30
    await log.create(run_info("bob", owner=log.worker), idempotency_key=None, quota=quota)
    await append(log, info.run_id, 1, records(info.run_id, 1, 1, end=True))
    await log.create(run_info("alice", owner=log.worker), idempotency_key=None, quota=quota)


async def test_many_at_once(processes: Processes) -> None:
    """Of fifty runs that a process leaves each is offered once to one that takes them, and all go on."""
    log = await processes.next()
    infos = [await begun(log, 2, checkpoint=b"state") for _ in range(50)]
    heir = await processes.heir()
    await until(lambda: len(heir.taken) == 50)
    assert sorted(orphan.info.run_id for orphan in heir.offered) == sorted(info.run_id for info in infos)
    for info in infos:
        await append(heir.log, info.run_id, 3, records(info.run_id, 3, 1, end=True))


async def test_a_log_that_ends_with_its_process(tmp_path: Path) -> None:
    """A log in memory takes starts and checkpoints and keeps none; nobody can claim, and a release changes nothing."""
    async with opened(memory(tmp_path)) as log:
        assert isinstance(log, MemoryLog)
        assert not log.outlives
        info = await begun(log, 3, checkpoint=b"state")
        await append(log, info.run_id, 3, [], b"more")
        for expected in (2, 4):
            with pytest.raises(StaleWriter):
                await append(log, info.run_id, expected, [], b"stale")
        kept = await read(log, info.run_id)
        assert log.size == RUN_BYTES + sum(len(record.body) + RECORD_BYTES for record in kept)
        orphan = Orphan(info=info, owner=log.worker, epoch=0, claims=0, first=1, last=3, size=9, start=b"start")
        await log.release(info.run_id)
        assert not await log.claim(orphan, records(info.run_id, 3, 1))
        await append(log, info.run_id, 3, records(info.run_id, 3, 1, end=True))
        assert (await log.state(info.run_id)).owner == log.worker
        with pytest.raises(StaleWriter):
            await append(log, info.run_id, 4, [], b"after the end")
