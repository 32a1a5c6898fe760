"""Nothing is left of what was deleted, in the bytes of a SQLite log's files and in all that Redis holds."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from redis.asyncio import Redis

from support.logs import Nobody, append, kept, opened, records, run_info
from support.redis_server import fresh, shared
from support.sqlite_logs import ROOMY, Clock, at, counted, traces
from twinwire.log import Store
from twinwire.log.redis.log import RedisLog
from twinwire.log.saying import Saying
from twinwire.protocol.errors import LogUnavailable
from twinwire.protocol.events import StreamEvent, encode

SECRET = "ALICE-HAS-SAID-THIS"


async def spoken(log: Store, user_id: str, words: str, events: int, *, size: int = 60) -> str:
    """A run of so many events that all have these words, and a conversation, a label, a session and a key of them."""
    named = {"agent": "react", "metadata": {"label": words}, "session_id": words}
    info = structs.replace(run_info(user_id), **named)
    await log.create(info, idempotency_key=f"key {words} {info.run_id}")
    for seq in range(events):
        kind = "AGENT_FINISH" if seq == events - 1 else "LLM_CHUNK"
        data = {"content": f"{words} {seq} {'x' * size}", "status": "completed"}
        await append(log, info.run_id, seq, [encode(StreamEvent(kind, data), info.run_id, seq + 1)])
    await log.remember((user_id, words), words, words)
    return info.run_id


async def crowd(log: Store, *, runs: int, events: int) -> list[str]:
    """Runs of two users whose events come in turns, so that they lie beside each other: the ids of alice's."""
    random.seed(1)
    work = [
        spoken(log, user_id, words, random.randint(2, events), size=random.choice((5, 60, 900, 6000)))
        for _ in range(runs)
        for user_id, words in (("alice", SECRET), ("bob", "bob is heard"))
    ]
    found = await asyncio.gather(*work)
    return list(found[::2])


async def test_a_user_forgotten_in_sqlite(tmp_path: Path) -> None:
    """Neither the file nor its write-ahead log has a word of the user's, or the name, while the server goes on."""
    async with at(tmp_path / "log.db") as log:
        await crowd(log, runs=30, events=40)
        assert traces(tmp_path, SECRET)
        await log.forget("alice")
        assert traces(tmp_path, SECRET) == {}
        assert traces(tmp_path, "alice") == {}
        assert traces(tmp_path, "bob is heard")
        assert len(await log.history(("bob", "bob is heard"))) > 0
    with closing(sqlite3.connect(tmp_path / "log.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_run_deleted_in_sqlite(tmp_path: Path) -> None:
    """Neither file has a word of a run that was deleted; its turn is still in its conversation."""
    async with at(tmp_path / "log.db") as log:
        run_ids = await crowd(log, runs=3, events=20)
        await log.forget("alice")
        run_id = await spoken(log, "alice", "just this once", 50)
        await log.delete(run_id)
        assert traces(tmp_path, run_id) == {}
        await log.forget("alice")
        assert traces(tmp_path, "just this once") == {}
        assert traces(tmp_path, run_ids[0]) == {}


async def test_what_was_forgotten_before_in_sqlite(tmp_path: Path) -> None:
    """Runs whose retention was over before, and events that were trimmed, have left nothing that a user is told by."""
    clock = Clock()
    limits = structs.replace(ROOMY, max_events=10, retention=5.0)
    async with at(tmp_path / "log.db", limits, clock) as log:
        await crowd(log, runs=5, events=40)
        clock.now += 10
        async with asyncio.timeout(20):
            while counted(tmp_path / "log.db", "count(*) FROM (SELECT id FROM runs UNION SELECT run FROM garbage)"):
                await log.ping()
        await log.forget("alice")
        assert traces(tmp_path, SECRET) == {}


async def test_a_reader_that_keeps_the_file_as_it_was(tmp_path: Path) -> None:
    """Another program that reads keeps what was deleted in the write-ahead log: to forget is an error until it ends."""
    async with at(tmp_path / "log.db") as log:
        await spoken(log, "alice", SECRET, 5)
        with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            with pytest.raises(LogUnavailable):
                await log.forget("alice")
            reader.execute("ROLLBACK")
        await log.forget("alice")
        assert traces(tmp_path, SECRET) == {}


async def everything(client: Redis, namespace: str) -> dict[str, str]:
    """All that Redis has in a namespace: each key's name, and its content as text."""
    found = {}
    async for key in client.scan_iter(match=f"{{{namespace}}}*"):
        kind = await client.type(key)
        reading: dict[Any, Any] = {
            b"hash": client.hgetall,
            b"string": client.get,
            b"list": lambda name: client.lrange(name, 0, -1),
            b"zset": lambda name: client.zrange(name, 0, -1, withscores=True),
            b"stream": client.xrange,
        }
        found[key.decode()] = str(await reading[kind](key))
    return found


async def test_a_user_forgotten_in_redis() -> None:
    """No key of the namespace has a word of the user's; the name is in the count of the last minute's starts alone."""
    url = fresh()
    namespace = url.partition("namespace=")[2]
    log = RedisLog(url, ROOMY)
    await log.open(Nobody())
    server = shared()
    async with Redis(host=server.host, port=server.port) as client:
        try:
            runs = await crowd(log, runs=10, events=10)
            inbox = log._keys.inbox(runs[0])
            await log._link.call("XADD", inbox, "*", "said", str(Saying(message_id="m", content=SECRET)))
            assert SECRET in str(await everything(client, namespace))
            await log.forget("alice")
            found = await everything(client, namespace)
            assert SECRET not in str(found)
            named = [key for key, value in found.items() if "alice" in key + value]
            assert named in ([], [log._keys.starts("alice")])
            assert "bob is heard" in str(found)
            elsewhere = str({key: value for key, value in found.items() if key not in named})
            assert not any(run_id in elsewhere for run_id in runs)
        finally:
            await log.close()


async def test_conversations_that_redis_no_longer_counts() -> None:
    """Of a conversation that had to go for others, and of one whose runs are gone, nothing is left either."""
    limits = structs.replace(ROOMY, max_sessions=2)
    url = fresh()
    namespace = url.partition("namespace=")[2]
    server = shared()
    async with opened(url, limits) as log, Redis(host=server.host, port=server.port) as client:
        for number in range(5):
            await log.remember(("alice", f"s{number}"), SECRET, SECRET)
        assert len([key for key in await everything(client, namespace) if ":session:" in key]) == 2
        await log.forget("alice")
        found = await everything(client, namespace)
        assert SECRET not in str(found)
        assert "alice" not in str(found)


async def test_a_run_deleted_in_redis() -> None:
    """A run that was deleted has no key any more, and is in no other."""
    url = fresh()
    namespace = url.partition("namespace=")[2]
    server = shared()
    async with opened(url) as log, Redis(host=server.host, port=server.port) as client:
        run_id, other = await kept(log, 1, key="k"), await kept(log, 2, end=False, key="other")
        await log.delete(run_id)
        found = await everything(client, namespace)
        assert run_id not in str(found)
        await append(log, other, 2, records(other, 2, 1, end=True))
        assert other in str(await everything(client, namespace))
