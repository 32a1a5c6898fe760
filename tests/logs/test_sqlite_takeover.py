"""Runs that outlive their process in a SQLite file: offered at the next start, and nothing of them is left after."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest
from msgspec import structs

from support.logs import append, kept, records, started
from support.serving import until
from support.sqlite_logs import ROOMY, Clock, counted, full_disk, read, traces
from support.takeovers import Answer, Heir, begun, claimed, refused
from twinwire.log import Limits, Store
from twinwire.log.orphan import Orphan
from twinwire.log.saying import Saying
from twinwire.log.sqlite import offers
from twinwire.log.sqlite.log import SqliteLog
from twinwire.protocol.errors import LogUnavailable, RunNotFound, SettingsError
from twinwire.protocol.events import decode

SECRET = "ALICE-HAS-SAID-THIS"


@asynccontextmanager
async def inherited(
    path: Path, answer: Answer = claimed, limits: Limits = ROOMY, clock: Clock | None = None
) -> AsyncIterator[tuple[SqliteLog, Heir]]:
    """The log of a process that answers so what it is offered, open until the block ends."""
    heir = Heir(answer)
    heir.log = log = SqliteLog(f"sqlite:///{path}", limits, **({} if clock is None else {"clock": clock}))
    try:
        await log.open(heir)
        yield log, heir
    finally:
        await log.close()


def killed(folder: Path, number: int) -> Path:
    """The file as a process that is killed now leaves it."""
    shutil.copytree(folder, to := folder.with_name(f"after{number}"))
    return to / "log.db"


def rows(path: Path) -> tuple[int, int]:
    """How many starts and checkpoints the file has."""
    return counted(path, "count(*) FROM starts"), counted(path, "count(*) FROM resumable")


async def test_after_kill_9(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run goes on in the process after one that was killed, and in the one after that; one line counts the runs."""
    (tmp_path / "first").mkdir()
    async with inherited(tmp_path / "first/log.db") as (log, _):
        info, plain = await begun(log, 300, checkpoint=b"state"), await started(log, 3)
        after = killed(tmp_path / "first", 1)
    for number in (1, 2):
        caplog.clear()
        with caplog.at_level("INFO"):
            async with inherited(after) as (log, heir):
                [orphan] = heir.offered
                assert (orphan.epoch, orphan.last, orphan.checkpoint) == (number - 1, 299 + number, b"state")
                lines = [record.args for record in caplog.records if "last end of the server" in record.msg]
                assert lines == ([(1,), (1,)] if number == 1 else [(1,)])
                assert [record.seq for record in await read(log, info.run_id)] == list(range(1, 301 + number))
                ended = (await log.state(plain)).terminal
                assert ended is not None
                assert decode(ended.body).data["error_type"] == "interrupted"
                after = killed(after.parent, number + 1)


async def failing(log: Store, orphan: Orphan) -> bool:
    raise ValueError(orphan.info.run_id)


async def hanging(log: Store, orphan: Orphan) -> bool:
    return await asyncio.Event().wait()


async def claiming_and_failing(log: Store, orphan: Orphan) -> bool:
    await claimed(log, orphan)
    return await failing(log, orphan)


async def only_saying_so(log: Store, orphan: Orphan) -> bool:
    return True


async def claiming_and_refusing(log: Store, orphan: Orphan) -> bool:
    return not await claimed(log, orphan)


@pytest.mark.parametrize(
    "answer", [refused, failing, hanging, claiming_and_failing, claiming_and_refusing, only_saying_so]
)
async def test_a_run_that_nobody_goes_on_with(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong, a run that nobody writes has ended as interrupted when the log is open, and is let go."""
    monkeypatch.setattr(offers, "TAKE_OVER_SECONDS", 0.05)
    async with inherited(tmp_path / "log.db") as (log, _):
        info = await begun(log, 3, checkpoint=b"state")
    async with inherited(tmp_path / "log.db", answer) as (log, heir):
        assert len(heir.offered) == 1
        state = await log.state(info.run_id)
        assert state.terminal is not None
        assert decode(state.terminal.body).data["error_type"] == "interrupted"
        assert [record.seq for record in await read(log, info.run_id)] == list(range(1, state.last + 1))
        assert log._live == {}
        assert rows(tmp_path / "log.db") == (0, 0)
        assert [r.args for r in caplog.records if "interrupted" in r.msg] == [(1,)]


async def test_a_late_owner_that_has_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner that fails after the run has begun there keeps it."""

    async def taking(log: Store, orphan: Orphan) -> bool:
        await claimed(log, orphan)
        heir.taken.add(orphan.info.run_id)
        return await hanging(log, orphan)

    monkeypatch.setattr(offers, "TAKE_OVER_SECONDS", 0.05)
    path = tmp_path / "log.db"
    async with inherited(path) as (log, _):
        info = await begun(log, 3)
    heir = Heir(taking)
    heir.log = log = SqliteLog(f"sqlite:///{path}", ROOMY)
    await log.open(heir)
    await append(log, info.run_id, 4, records(info.run_id, 4, 1, end=True))
    await log.close()


async def test_so_many_at_once(tmp_path: Path) -> None:
    """A log that is opened offers a few runs at a time; to open it again meanwhile offers none twice."""
    going: set[str] = set()
    most = 0

    async def slow(log: Store, orphan: Orphan) -> bool:
        nonlocal most
        going.add(orphan.info.run_id)
        most = max(most, len(going))
        await log.ping()
        await log.state(orphan.info.run_id)
        taken = await claimed(log, orphan)
        going.discard(orphan.info.run_id)
        return taken

    path = tmp_path / "log.db"
    async with inherited(path) as (log, _):
        runs = {(await begun(log, 1)).run_id for _ in range(3 * offers.AT_ONCE)}
    heir = Heir(slow)
    heir.log = log = SqliteLog(f"sqlite:///{path}", ROOMY)
    await asyncio.gather(*(log.open(heir) for _ in range(3)))
    assert 1 < most <= offers.AT_ONCE
    assert len(heir.offered) == len(runs)
    assert heir.taken == set(log._live) == runs
    await log.close()


async def test_a_log_closed_while_it_opens(tmp_path: Path) -> None:
    """A process that ends while it is offered a run leaves it to the next one."""
    path = tmp_path / "log.db"
    async with inherited(path) as (log, _):
        await begun(log, 3)
    heir = Heir(hanging)
    heir.log = log = SqliteLog(f"sqlite:///{path}", ROOMY)
    opening = asyncio.create_task(log.open(heir))
    await until(lambda: bool(heir.offered))
    await log.close()
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with inherited(path) as (_, heir):
        assert len(heir.taken) == 1


async def test_a_full_disk_while_it_opens(tmp_path: Path) -> None:
    """A start that cannot write down how its runs ended is refused, and the next one offers them again."""
    path = tmp_path / "log.db"
    with ExitStack() as stack:

        async def filling(log: Store, orphan: Orphan) -> bool:
            stack.enter_context(full_disk(path.with_name("log.db-wal")))
            return False

        async with inherited(path) as (log, _):
            await begun(log, 3)
        with pytest.raises(SettingsError, match="cannot be used"):
            async with inherited(path, filling):
                pass
    async with inherited(path) as (_, heir):
        assert len(heir.taken) == 1


async def test_a_release_on_a_full_disk(tmp_path: Path) -> None:
    """A release that cannot be written is no error: the run is open in the file all the same."""
    path = tmp_path / "log.db"
    async with inherited(path) as (log, _):
        info = await begun(log, 3)
        with full_disk(path.with_name("log.db-wal")):
            with pytest.raises(LogUnavailable):
                await append(log, info.run_id, 3, records(info.run_id, 3, 100, size=1000))
            await log.release(info.run_id)
        assert log._live == {}
    async with inherited(path) as (_, heir):
        assert len(heir.taken) == 1


async def test_followers_of_a_released_run(tmp_path: Path) -> None:
    """Who follows a run that is released is woken, and reads all there is of it."""
    async with inherited(tmp_path / "log.db") as (log, _):
        info = await begun(log, 3)
        woken: list[str] = []
        log.subscribe(info.run_id, lambda: woken.append("w"))
        await log.release(info.run_id)
        assert woken
        page = await log.page(info.run_id, 0, 10)
        assert (len(page.records), page.last, page.ended) == (3, 3, False)
        assert log.newest(info.run_id) is None
        with pytest.raises(LogUnavailable):
            await log.tell(info, Saying(message_id="m", content="hello"))


async def test_a_cancel_that_was_acknowledged(tmp_path: Path) -> None:
    """A cancel of a run that goes on survives the end of its process: the next one cancels the run."""
    path = tmp_path / "log.db"
    async with inherited(path) as (log, _):
        info, ended = await begun(log, 3), await begun(log, 1)
        await append(log, ended.run_id, 1, records(ended.run_id, 1, 1, end=True))
        await log.cancel(info)
        await log.cancel(ended)
    async with inherited(path) as (_, heir):
        assert heir.cancelled == [info.run_id]


async def test_nothing_is_left_of_a_run_that_was_deleted(tmp_path: Path) -> None:
    """Starts and checkpoints, also those before, leave no byte in the files of a run that has ended and is deleted."""
    path = tmp_path / "log.db"
    async with inherited(path) as (log, _):
        runs = [await begun(log, 2, start=SECRET.encode() * 100, user_id="alice") for _ in range(3)]
        for info in runs:
            for size in (10, 1000, 100, 3000):
                await append(log, info.run_id, 2, [], f"{SECRET} {info.run_id}".encode() * size)
    assert traces(tmp_path, SECRET)
    async with inherited(path) as (log, heir):
        assert len(heir.taken) == 3
        for info in runs:
            await append(log, info.run_id, 3, records(info.run_id, 3, 1, end=True))
        assert rows(path) == (0, 0)
        await log.delete(runs[0].run_id)
        assert traces(tmp_path, runs[0].run_id) == {}
        await log.forget("alice")
        assert traces(tmp_path, SECRET) == {}
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_their_bytes_count(tmp_path: Path) -> None:
    """Starts and checkpoints count to the bytes of the log until the run's end, also after a restart."""
    path, limits = tmp_path / "log.db", structs.replace(ROOMY, max_bytes=100_000)
    async with inherited(path, limits=limits) as (log, _):
        first = await kept(log, 1)
        info = await begun(log, 1, start=b"s" * 40_000)
        await append(log, info.run_id, 1, [], b"c" * 40_000)
        await append(log, info.run_id, 1, [], b"d" * 50_000)
        await log.remember(("u", "s"), "q", "a")
        await log.state(first)
        await append(log, info.run_id, 1, [], b"e" * 70_000)
        await until(lambda: counted(path, "count(*) FROM runs") == 1)
        with pytest.raises(RunNotFound):
            await log.state(first)
    async with inherited(path, limits=limits) as (log, heir):
        assert heir.taken == {info.run_id}
        second = await kept(log, 2)
        await until(lambda: counted(path, "count(*) FROM runs") == 1)
        last = (await log.state(info.run_id)).last
        await append(log, info.run_id, last, records(info.run_id, last, 1, end=True))
        third = await kept(log, 3)
        await log.ping()
        assert (await log.state(third)).last == 2
        with pytest.raises(RunNotFound):
            await log.state(second)


async def test_retention_is_for_runs_that_ended(tmp_path: Path) -> None:
    """However long a run is open, and goes on nowhere, it is offered; what had ended before is forgotten."""
    clock, limits, path = Clock(), structs.replace(ROOMY, retention=60.0), tmp_path / "log.db"
    async with inherited(path, limits=limits, clock=clock) as (log, _):
        ended, info = await kept(log, 1), await begun(log, 1)
        clock.now += 1000
        await until(lambda: counted(path, "count(*) FROM runs") == 1)
        await log.release(info.run_id)
        clock.now += 1000
    async with inherited(path, limits=limits, clock=clock) as (log, heir):
        assert heir.taken == {info.run_id}
        with pytest.raises(RunNotFound):
            await log.state(ended)


async def test_a_file_of_a_server_before(tmp_path: Path) -> None:
    """A file without the tables opens and gets them; the runs that it left open end as they did."""
    path = tmp_path / "log.db"
    async with inherited(path) as (log, _):
        run_id = await started(log, 3)
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE starts")
        db.execute("DROP TABLE resumable")
    async with inherited(path) as (log, heir):
        assert heir.offered == []
        assert (await log.state(run_id)).last == 4
        await begun(log, 1)
        assert rows(path) == (1, 1)


@pytest.mark.parametrize("change", ["DELETE FROM runs", "UPDATE runs SET ended = 1", "DELETE FROM resumable"])
async def test_what_another_program_has_ended(tmp_path: Path, change: str) -> None:
    """A run that another program has ended or deleted is not offered, and the next start keeps nothing of it."""
    path = tmp_path / "log.db"
    async with inherited(path) as (log, _):
        await begun(log, 3, checkpoint=b"state")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(change)
    async with inherited(path) as (log, heir):
        assert heir.offered == []
        assert rows(path) == (0, 0)


async def test_a_start_that_another_program_has_changed(tmp_path: Path) -> None:
    """What is no start of ours is damage: the log does not open."""
    path = tmp_path / "log.db"
    async with inherited(path) as (log, _):
        await begun(log, 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE starts SET start = 'a text'")
    with pytest.raises(SettingsError, match="cannot be used"):
        async with inherited(path):
            pass


async def test_an_append_that_fails_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    """Events and their checkpoint are written together or not at all."""
    path = tmp_path / "log.db"
    async with inherited(path) as (log, _):
        info = await begun(log, 3, checkpoint=b"before")
        with full_disk(path.with_name("log.db-wal")), pytest.raises(LogUnavailable):
            await append(log, info.run_id, 3, records(info.run_id, 3, 100, size=1000), b"after" * 10_000)
    async with inherited(path) as (_, heir):
        [orphan] = heir.offered
        assert (orphan.last, orphan.checkpoint) == (3, b"before")
