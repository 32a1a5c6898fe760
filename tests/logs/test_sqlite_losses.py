"""A SQLite log's file is deleted, replaced, cut or damaged under a running server: all hear of it within seconds."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import httpx
import pytest

from support.followers import KINDS, AnyFollower, Broken, Refused, attach, events, rest, start
from support.logs import append, records, started
from support.metrics import figures
from support.serving import Puppet, Puppets, Running, serving, until
from support.sqlite_logs import at, read
from twinwire.log.sqlite import watch
from twinwire.log.sqlite.log import SqliteLog
from twinwire.protocol.errors import CursorGone, LogLost, LogUnavailable, RunNotFound, SettingsError

WITHIN = 5.0  # a second until the file is looked at; the rest is for a machine under load


def overwrite(path: Path, content: bytes) -> None:
    """Write over a file, which stays the same one."""
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(content)


def other(path: Path) -> bytes:
    """A database of another program."""
    with closing(sqlite3.connect(path.with_name("other.db"))) as db:
        db.execute("CREATE TABLE t (x)")
        db.commit()
    return path.with_name("other.db").read_bytes()


def replaced(path: Path) -> None:
    shutil.copy(path, path.with_name("copy.db"))
    path.with_name("copy.db").replace(path)


LOSSES: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "replaced by another file": replaced,
    "emptied": lambda path: os.truncate(path, 0),
    "cut off": lambda path: os.truncate(path, path.stat().st_size - 4096),
    "overwritten": lambda path: overwrite(path, b"x" * path.stat().st_size),
    "overwritten by another database": lambda path: overwrite(path, other(path)),
    "which was deleted": lambda path: path.with_name("log.db-wal").unlink(),
    "which was replaced": lambda path: path.with_name("new").rename(path.with_name("log.db-shm")),
    "which was cut off": lambda path: os.truncate(path.with_name("log.db-wal"), 0),
}


@asynccontextmanager
async def followed(
    puppets: Puppets, path: Path
) -> AsyncIterator[tuple[Running, list[AnyFollower], Puppet, httpx.AsyncClient]]:
    """A run that has said a word, which a follower of each kind has seen; its agent is busy and says no more."""
    async with (
        serving({"mine": puppets}, log=f"sqlite:///{path}") as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        first = await start("sse", server)
        puppet = await puppets.next()
        followers = [first, await attach("ws", server, first.run_id)]
        puppet.say("word" * 3000)
        for follower in followers:
            while json.loads(await follower.next() or b"")["type"] != "LLM_CHUNK":
                pass
        yield server, followers, puppet, client
        for follower in followers:
            await follower.close()


async def heard(follower: AnyFollower) -> str:
    """How the follower hears that its run's log is no more."""
    try:
        return str([event async for event in events(follower)])
    except Refused as refused:
        return str(refused.code)
    except Broken:
        return "broken"


async def checkpointed(path: Path) -> None:
    """Wait until a checkpoint has come and gone: the file has grown over its first page, and is written no more."""
    await until(lambda: path.stat().st_size > 4096)
    seen: dict[int, float] = {}
    await until(lambda: time.monotonic() - seen.setdefault(path.stat().st_mtime_ns, time.monotonic()) > 0.3)


@pytest.mark.parametrize("loss", LOSSES)
async def test_the_file_is_lost(loss: str, puppets: Puppets, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A quiet run's followers hear of it, its agent stops, starts and readiness say 503, and one line says why."""
    path = tmp_path / "log.db"
    (tmp_path / "new").touch()
    async with followed(puppets, path) as (server, followers, puppet, client):
        log = server.runs.log
        assert isinstance(log, SqliteLog)
        await log.remember(("u", "s"), "q", "a" * 10**4)
        await checkpointed(path)  # the file has something to lose
        LOSSES[loss](path)
        async with asyncio.timeout(WITHIN):
            assert await asyncio.gather(*map(heard, followers)) == ["broken", "log_unavailable"]
            await puppet.closed.wait()
        for answer in (await client.get("/readyz"), await client.post("/runs", json={"message": "hi"})):
            assert (answer.status_code, answer.json()["code"]) == (503, "log_unavailable")
        for kind in KINDS:
            with pytest.raises(Refused) as refused:
                await attach(kind, server, followers[0].run_id, 0)
            assert refused.value.code == "log_unavailable"
        [line] = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
        assert f"{loss}. Nothing is read or written" in line or "is damaged" in line  # if SQLite was faster
        assert len(server.runs) == 0
    assert "Traceback" not in caplog.text


async def test_a_file_that_was_moved_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written while the file is elsewhere; it may come back soon, and then all goes on."""
    path = tmp_path / "log.db"
    async with at(path) as log:
        run_id = await started(log, 3)
        path.rename(tmp_path / "away.db")
        with pytest.raises(LogUnavailable):
            while True:
                await log.ping()
        with pytest.raises(LogUnavailable):
            await append(log, run_id, 3, records(run_id, 3, 1))
        (tmp_path / "away.db").rename(path)
        async with asyncio.timeout(WITHIN):
            while True:
                try:
                    await log.ping()
                except LogUnavailable:
                    continue
                break
        await append(log, run_id, 3, records(run_id, 3, 1))
        assert len(await read(log, run_id)) == 4
        monkeypatch.setattr(watch, "AWAY_SECONDS", 0.0)
        path.rename(tmp_path / "away.db")
        await lost(log)


async def lost(log: SqliteLog) -> None:
    """Wait until the log knows that it is lost."""
    async with asyncio.timeout(WITHIN):
        while True:
            try:
                await log.ping()
            except LogLost:
                return
            except LogUnavailable:
                pass


async def test_what_another_server_has_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose file was replaced leaves the new file's write-ahead log alone when it stops."""
    monkeypatch.setattr(watch, "AWAY_SECONDS", 0.0)
    path = tmp_path / "log.db"
    async with at(path) as log:
        await started(log, 3)
        path.rename(tmp_path / "old.db")
        for end in ("-wal", "-shm"):
            (tmp_path / f"log.db{end}").rename(tmp_path / f"old.db{end}")
        with closing(sqlite3.connect(path, isolation_level=None)) as new:
            new.execute("PRAGMA journal_mode = WAL")
            new.execute("CREATE TABLE t (x)")
            await lost(log)
            await log.close()
            assert (tmp_path / "log.db-wal").stat().st_size > 0
            new.execute("INSERT INTO t VALUES (1)")
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT x FROM t").fetchall() == [(1,)]


@pytest.mark.parametrize("kind", KINDS)
async def test_damage_that_a_read_finds(kind: str, tmp_path: Path, puppets: Puppets) -> None:
    """A run whose pages turn out to be damaged is no 404: the log is unavailable, and readiness says so."""
    path = tmp_path / "log.db"
    async with followed(puppets, path) as (server, followers, puppet, client):
        log = server.runs.log
        assert isinstance(log, SqliteLog)
        old = await started(log, 3000, end=True)
        await until(lambda: path.stat().st_size > 2**18)  # it is in the file
        with path.open("r+b") as file:
            for page in range(4096, path.stat().st_size, 4096):
                file.seek(page)
                file.write(b"\xff" * 512)
        async with asyncio.timeout(WITHIN):
            while (answer := await client.get(f"/runs/{old}")).status_code == 200:
                await log.remember(("u", "s"), "q", "a" * 10**5)  # drives the pages out of the cache
            assert (answer.status_code, answer.json()["code"]) == (503, "log_unavailable")
            assert await asyncio.gather(*map(heard, followers)) == ["broken", "log_unavailable"]
            await puppet.closed.wait()
        assert (await client.get("/readyz")).status_code == 503
        with pytest.raises(Refused) as refused:
            await attach(kind, server, old, 0)
        assert refused.value.code == "log_unavailable"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_reader_that_does_not_end(
    kind: str, tmp_path: Path, puppets: Puppets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program's open transaction is warned of, then appends wait and starts get 503 until it ends."""
    monkeypatch.setattr(watch, "WARN_BYTES", 2 * 2**20)
    monkeypatch.setattr(watch, "LIMIT_BYTES", 8 * 2**20)
    path = tmp_path / "log.db"
    async with followed(puppets, path) as (server, followers, puppet, client):
        for follower in followers:
            await follower.close()
        follower = await attach(kind, server, followers[0].run_id)
        following = asyncio.create_task(rest(follower))
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)) as db:
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM runs").fetchone()
            said = 0
            async with asyncio.timeout(30):
                while (await client.get("/readyz")).status_code == 200:
                    puppet.emit("NOISE", noise="x" * 10**5)
                    said += 1
            answer = await client.post("/runs", json={"message": "hi"})
            assert (answer.status_code, answer.json()["code"]) == (503, "log_unavailable")
            assert 8 * 2**20 <= (await figures(server.url))["twinwire_sqlite_wal_bytes",] < 64 * 2**20
            assert "a backup, a sqlite3 shell" in caplog.text
            assert "has reached 8 MiB" in caplog.text
            puppet.end()
            assert not following.done()
        seen = await following
        assert sum(event["type"] == "NOISE" for event in seen) == said
        async with asyncio.timeout(WITHIN):
            while (await client.get("/readyz")).status_code != 200:
                pass
        await started(server.runs.log, 1)
        async with asyncio.timeout(WITHIN):
            while (tmp_path / "log.db-wal").stat().st_size > 32 * 2**20:
                await started(server.runs.log, 1)


DELETED = {
    "DELETE FROM runs": "run_not_found",
    "DELETE FROM events": "ERROR",
    "DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)": "ERROR",
    "DELETE FROM events WHERE seq = 1": "ERROR",
    "UPDATE runs SET ended = 1, size = 1": "run_not_found",
    "UPDATE events SET seq = seq + 1000": "run_not_found",
    "INSERT INTO events SELECT run, max(seq) + 1, type, start, stop, body FROM events": "run_not_found",
}


@pytest.mark.parametrize("statement", DELETED)
async def test_another_program_deletes(statement: str, puppets: Puppets, tmp_path: Path) -> None:
    """What another program deletes of a quiet run is told to its followers, and its agent stops; others go on."""
    path = tmp_path / "log.db"
    async with followed(puppets, path) as (server, followers, puppet, _):
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(statement)
        async with asyncio.timeout(WITHIN):
            told = await asyncio.gather(*map(heard, followers))
            await puppet.closed.wait()
        if DELETED[statement] == "ERROR":
            assert ["the log has lost events" in how for how in told] == [True, True]
        else:
            assert told == ["broken", DELETED[statement]]
        again = await start("ws", server)
        (await puppets.next()).end()
        await rest(again)


OTHER_CONTENT = {
    "UPDATE runs SET info = x'00'": "/runs/{run_id}",
    "UPDATE runs SET info = 5": "/runs?user_id=u",
    "UPDATE events SET body = x'00' WHERE seq = 1": "/runs/{run_id}/events",
    "UPDATE events SET body = x'00' WHERE seq = 3": "/runs?user_id=u",
    "UPDATE events SET body = x'00' WHERE type = 'AGENT_FINISH'": "/runs/{run_id}",
    "UPDATE events SET body = '[]' WHERE type = 'AGENT_FINISH'": "/runs?user_id=u",
    "UPDATE events SET start = 'a'": "/runs/{run_id}",
}


@pytest.mark.parametrize("statement", OTHER_CONTENT)
async def test_another_program_changes_what_a_row_holds(
    statement: str, puppets: Puppets, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A read that finds other content is a damaged file's: 503, never 500 or 404; followers hear, one line says why."""
    path = tmp_path / "log.db"
    async with followed(puppets, path) as (server, followers, puppet, client):
        old = await started(server.runs.log, 3, end=True, user_id="u")
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(statement)
        told = asyncio.gather(*map(heard, followers))
        with suppress(httpx.RemoteProtocolError):  # how a stream is broken
            answer = await client.get(OTHER_CONTENT[statement].format(run_id=old))
            assert (answer.status_code, answer.json()["code"]) == (503, "log_unavailable")
        async with asyncio.timeout(WITHIN):
            assert await told == ["broken", "log_unavailable"]
            await puppet.closed.wait()
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "log_unavailable")
        [line] = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
        assert "is damaged (" in line
    assert "Traceback" not in caplog.text


async def test_a_quiet_run_s_info_is_changed(puppets: Puppets, tmp_path: Path) -> None:
    """A run that goes on and whose row cannot be read any more is noticed although nobody reads it."""
    path = tmp_path / "log.db"
    async with followed(puppets, path) as (_, followers, puppet, _):
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("UPDATE runs SET info = x'00'")
        async with asyncio.timeout(WITHIN):
            assert await asyncio.gather(*map(heard, followers)) == ["broken", "log_unavailable"]
            await puppet.closed.wait()


async def test_other_content_at_a_start(tmp_path: Path) -> None:
    """A run that a crash left open and whose row cannot be read: the start is refused with a sentence."""
    path = tmp_path / "log.db"
    async with at(path) as log:
        await started(log, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE runs SET info = x'00'")
    with pytest.raises(SettingsError, match="not what was written"):
        async with at(path):
            pass


ALTERED = [
    "DROP TABLE events",
    "ALTER TABLE events RENAME COLUMN body TO content",
    "CREATE TRIGGER never BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'never'); END",
]


@pytest.mark.parametrize("statement", ALTERED)
async def test_another_program_alters_the_tables(statement: str, puppets: Puppets, tmp_path: Path) -> None:
    """A file that takes no more events is lost: a quiet run's followers hear of it, and readiness says so."""
    path = tmp_path / "log.db"
    async with followed(puppets, path) as (_, followers, puppet, client):
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(statement)
        told = asyncio.gather(*map(heard, followers))
        async with asyncio.timeout(WITHIN):
            while (await client.post("/runs", json={"message": "hi"})).status_code != 503:
                (await puppets.next()).end()
            assert await told == ["broken", "log_unavailable"]
            await puppet.closed.wait()
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "log_unavailable")


async def test_holes_are_gaps(tmp_path: Path) -> None:
    """Events that another program has deleted are never skipped, and a run without its end is none."""
    path = tmp_path / "log.db"
    async with at(path) as log:
        hole, endless = await started(log, 9, end=True), await started(log, 3, end=True)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("DELETE FROM events WHERE seq = 5")  # of the first run alone there is one
            db.execute("DELETE FROM events WHERE seq = 3 AND run > 1")
        assert [record.seq for record in (await log.page(hole, 0, 100)).records] == [1, 2, 3, 4]
        with pytest.raises(CursorGone) as caught:
            await log.page(hole, 4, 100)
        assert (caught.value.first, caught.value.last) == (6, 9)
        for read_it in (log.page(endless, 0, 10), log.state(endless), log.summary(endless)):
            with pytest.raises(RunNotFound):
                await read_it


@pytest.mark.full
async def test_nobody_is_suspected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that only its server writes is never looked through for what others have deleted, checkpoints or not."""
    looked = []
    monkeypatch.setattr(SqliteLog, "_disturbed", lambda _: looked.append(1))
    async with at(tmp_path / "log.db") as log:
        run_id = await started(log)
        began, last = time.monotonic(), 0
        while time.monotonic() - began < 2.5:
            await append(log, run_id, last, records(run_id, last, 50, size=500))
            last += 50
        assert len(await read(log, run_id)) == last
    assert looked == []
