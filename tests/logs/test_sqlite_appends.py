"""Appends of many runs that SQLite's thread takes as one: each run has what it would have if each were a job."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import msgspec
import pytest

from support.logs import LIMITS, append, records, started, told
from support.sqlite_logs import at, executed, read
from twinwire.log import Limits
from twinwire.log.pace import Pace
from twinwire.log.sqlite.log import SqliteLog
from twinwire.log.sqlite.tables import Tables
from twinwire.log.sqlite.writer import BATCH_EVENTS
from twinwire.protocol.errors import CursorGone, LogUnavailable, RunNotFound, StaleWriter

TIME = re.compile(rb'"timestamp":"[^"]*"')
SMALL = msgspec.structs.replace(LIMITS, max_events=20, max_bytes=100_000)


def one_by_one(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each append be a job by itself."""
    monkeypatch.setattr(log._appends._pace, "ask", log._appends.send)


def jobs(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many events each job of the log has from now on."""
    found: list[int] = []
    put = log._appends._put

    def counted(job: object) -> None:
        found.append(job.events)  # type: ignore[attr-defined]
        put(job)  # type: ignore[arg-type]

    monkeypatch.setattr(log._appends, "_put", counted)
    return found


async def story(log: SqliteLog, seed: int) -> list[object]:
    """Runs that are appended to as this seed says, up to the end of some; what the log then has of each."""
    runs = await told(log, seed)
    found: list[object] = []
    for run_id in runs:
        state = await log.state(run_id)
        kept = await read(log, run_id, state.first - 1)
        found.append((state.first, state.last, state.size, [TIME.sub(b"", record.body) for record in kept]))
    return found


@pytest.mark.parametrize("limits", [LIMITS, SMALL], ids=["roomy", "small"])
@pytest.mark.parametrize("seed", range(5))
async def test_what_is_joined_and_what_is_not(
    seed: int, limits: Limits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined or one by one, the file has the same events and the same figures of each run, also at its bounds."""
    async with at(tmp_path / "joined.db", limits) as joined, at(tmp_path / "plain.db", limits) as plain:
        one_by_one(plain, monkeypatch)
        assert await story(joined, seed) == await story(plain, seed)


async def test_runs_of_a_millisecond_are_one_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appends right after a job are the next one's; one that somebody waits for goes at once, with those before it."""
    async with at(tmp_path / "log.db") as log:
        runs = [await started(log, 1) for _ in range(10)]
        monkeypatch.setattr(Pace, "ask", lambda _: None)  # the millisecond is not over
        counts = jobs(log, monkeypatch)
        waiting = [log.append(run_id, 1, records(run_id, 1, 2)) for run_id in runs[:5]]
        assert counts == []
        ended = log.append(runs[5], 1, records(runs[5], 1, 1, end=True))
        assert counts == [11]
        waiting += [log.append(run_id, 1, records(run_id, 1, 1)) for run_id in runs[6:]]
        kept = log.append(runs[0], 3, [], b"checkpoint")
        assert counts == [11, 4]
        await asyncio.gather(*waiting, ended, kept)
        last = log.append(runs[0], 3, records(runs[0], 3, BATCH_EVENTS))
        assert counts == [11, 4, BATCH_EVENTS]
        await last


async def test_one_run_s_fault_is_not_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one job each run has its own outcome: stale, ended, gone, the same again, appended."""
    async with at(tmp_path / "log.db") as log:
        good, stale, ended, gone, again = [await started(log, 2) for _ in range(5)]
        await append(log, ended, 2, records(ended, 2, 1, end=True))
        executed(tmp_path / "log.db", "DELETE FROM runs WHERE run_id = ?", gone)
        twice = records(again, 2, 1)
        await append(log, again, 2, twice)
        await log._do(lambda tables: tables.unload(gone))
        counts = jobs(log, monkeypatch)
        found = await asyncio.gather(
            log.append(good, 2, records(good, 2, 1)),
            log.append(stale, 1, records(stale, 1, 1)),
            log.append(ended, 3, records(ended, 3, 1)),
            log.append(gone, 2, records(gone, 2, 1)),
            log.append(again, 2, twice),
            return_exceptions=True,
        )
        assert sum(counts) == 5
        assert [type(error) for error in found] == [
            *(type(None), StaleWriter, StaleWriter, RunNotFound, type(None)),
        ]
        assert [(await log.state(run_id)).last for run_id in (good, again)] == [3, 3]


async def test_a_transaction_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each append of a job hears that nothing was written; the same appends are made when the file can be written."""

    def fail(_: Tables) -> None:
        raise OSError("no space left on device")

    async with at(tmp_path / "log.db") as log:
        runs = [await started(log, 1) for _ in range(10)]
        with monkeypatch.context() as patched:
            patched.setattr(Tables, "_insert", fail)
            found = await asyncio.gather(
                *(log.append(run_id, 1, records(run_id, 1, 1)) for run_id in runs), return_exceptions=True
            )
            assert {type(error) for error in found} == {LogUnavailable}
        await asyncio.gather(*(log.append(run_id, 1, records(run_id, 1, 1)) for run_id in runs))
        assert [(await log.state(run_id)).last for run_id in runs] == [2] * 10


async def test_what_comes_after_an_append_is_done_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An append that waits for others is written before what the log is asked to do next."""
    async with at(tmp_path / "log.db") as log:
        run_id = await started(log, 1)
        monkeypatch.setattr(Pace, "ask", lambda _: None)
        appending = log.append(run_id, 1, records(run_id, 1, 1))
        await log.remember(("u", None), "question", "answer")
        assert appending.done()
        with pytest.raises(CursorGone):
            await log.page(run_id, 3, 1)
