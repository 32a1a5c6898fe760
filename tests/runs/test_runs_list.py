"""`GET /runs`: a user's newest runs, as the log has them, on all workers; and nobody else's."""

from __future__ import annotations

import json
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.credentials import AUTH, asking
from support.logs import FACTORIES, LogFactory, at, kept, listed as listed_in, opened, started
from support.redis_server import fresh
from support.serving import Puppets, Running, serving, until
from twinwire.log import Wanted
from twinwire.log.sqlite.file import INDEXES, LATER
from twinwire.protocol.errors import RunNotFound
from twinwire.protocol.events import StreamEvent, encode
from twinwire.protocol.wire import new_run_id


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
async def test_a_summary_has_all_but_the_result(factory: LogFactory, tmp_path: Path) -> None:
    """What a list needs is known without the result, of a run that goes on, one that has ended, and one that failed."""
    endings: list[dict[str, Any]] = [
        {"result": "x" * 10**6, "status": "completed", "duration": 1.25, "usage": {"total_tokens": 7}},
        {"result": [{"deep": None}], "status": "cancelled", "usage": None, "reason": "user"},
        {"error_type": "agent_error", "message": 'a "quoted" \u2028 text', "error": "not in a list"},
        {"status": "completed", "duration": 2, "usage": {"unlikely": "x" * 10**5}},
    ]
    async with opened(factory(tmp_path)) as log:
        for data in endings:
            run_id = await started(log, 2)
            going = await log.summary(run_id)
            assert (going.info.run_id, going.first, going.last, going.outcome) == (run_id, 1, 2, b"")
            kind = "ERROR" if "message" in data else "AGENT_FINISH"
            appending = log.append(run_id, 2, [encode(StreamEvent(kind, data), run_id, 3)])
            if appending is not None:
                await appending
            summary = await log.summary(run_id)
            assert (summary.info, summary.first, summary.last) == (going.info, 1, 3)
            names = ("status", "usage", "duration", "error_type", "message", "reason")
            told = {name: data[name] for name in names if data.get(name) is not None and len(str(data[name])) < 10**4}
            assert json.loads(summary.outcome) == told
        with pytest.raises(RunNotFound):
            await log.summary(new_run_id())


async def test_a_file_from_before_there_were_lists(tmp_path: Path) -> None:
    """A SQLite file that does not say whose its runs are, and of when, is used as it is: all its runs are listed."""
    url = f"sqlite:///{tmp_path}/log.db"
    async with opened(url) as log:
        old = await started(log, 1, end=True, user_id="u")
    with closing(sqlite3.connect(tmp_path / "log.db")) as db:
        for index in INDEXES:
            db.execute(f"DROP INDEX {index}")
        for column in LATER:
            db.execute(f"ALTER TABLE runs DROP COLUMN {column}")
    new: list[str] = []
    for _ in range(2):
        async with opened(url) as log:
            assert (await log.state(old)).last == 1
            new.append(await started(log, 1, end=True, user_id="u"))
            pages = await listed_in(log, Wanted(user_id="u", status="error"))
            assert {*pages[0]} == {old, *new}


REFUSED = [
    ("", "user_id"),
    ("user_id=", "user_id"),
    ("user_id=u&limit=0", "limit"),
    ("user_id=u&limit=101", "limit"),
    ("user_id=u&status=done", "status"),
    ("user_id=u&status=running&status=error", "status"),
    ("user_id=u&label=red", "label"),
    ("user_id=u&" + "&".join(f"label=a:{number}" for number in range(17)), "label"),
    ("user_id=u&labels=a:b", "labels"),
    ("user_id=u&created_after=yesterday", "created_after"),
    ("user_id=u&created_after=2026-01-01", "created_after"),
    ("user_id=u&created_before=2026-01-01T00:00:00", "created_before"),
    ("user_id=u&created_before=2026-01-01T00:00:00+01:00", "created_before"),
    ("user_id=u&page=x", "page"),
    ("user_id=u&page=MjAyNi0wMS0wMVQwMDowMDowMC4wMDBaIGE", "page"),
    ("user_id=u&page=%C3%A9", "page"),
]
"""Queries of a list that say what is wrong with them."""


async def listed(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get("/runs", params=query)
    assert answer.status_code == 200, answer.text
    runs: list[dict[str, Any]] = answer.json()["runs"]
    return runs


@pytest.mark.parametrize("log", ["memory", "sqlite", "redis"])
async def test_each_user_sees_their_own(log: str, puppets: Puppets, tmp_path: Path) -> None:
    """With authentication a list is the asker's, with what became of each run; nobody can ask for another's."""
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/runs.db", "redis": fresh()}[log]
    async with (
        serving({"mine": puppets}, log=url, **AUTH) as server,
        asking(server, "alice") as alice,
        asking(server, "bob") as bob,
    ):
        assert await listed(alice) == []
        ended = (await alice.post("/runs", json={"message": "one"})).json()["run_id"]
        puppet = await puppets.next()
        puppet.say("secret")
        puppet.end()
        await alice.get(f"/runs/{ended}/events")
        going = (await alice.post("/runs", json={"message": "two"})).json()["run_id"]
        await bob.post("/runs", json={"message": "three"})
        runs = await listed(alice)
        assert [(run["run_id"], run["status"]) for run in runs] == [(going, "running"), (ended, "completed")]
        assert "secret" not in str(runs)
        assert [run["run_id"] for run in await listed(alice, limit=1)] == [going]
        assert [run["user_id"] for run in await listed(bob)] == ["bob"]
        refused = await bob.get("/runs", params={"user_id": "alice"})
        assert (refused.status_code, refused.json()["field"]) == (400, "user_id")
        ticket = (await alice.post("/tickets", json={"run_id": ended})).json()["ticket"]
        async with asking(server) as whoever:
            assert (await whoever.get("/runs")).status_code == 401
            assert [run["run_id"] for run in await listed(whoever, ticket=ticket)] == [ended]


async def test_without_authentication(server: Running, puppets: Puppets) -> None:
    """Where nobody is authenticated a list is of the user that is named, and runs of nobody are in none."""
    async with asking(server) as client:
        for user in ("u", "v", None):
            await client.post("/runs", json={"message": "hi", **({} if user is None else {"user_id": user})})
        assert [run["user_id"] for run in await listed(client, user_id="u")] == ["u"]
        for query, field in REFUSED:
            answer = await client.get(f"/runs?{query}")
            assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert puppets.started == 3


async def test_filters_and_pages(server: Running) -> None:
    """The query's filters hold together, in the page that `next` names too, which ends where the list does."""
    log = server.runs.log
    ids = [
        await kept(log, second, user_id="u", end=second > 1, metadata={} if second % 2 else {"team": "red"})
        for second in range(5)
    ]

    async with asking(server) as client:

        async def chosen(**query: Any) -> list[int]:
            return [ids.index(run["run_id"]) for run in await listed(client, user_id="u", **query)]

        assert await chosen() == [4, 3, 2, 1, 0]
        assert await chosen(label="team:red") == [4, 2, 0]
        assert await chosen(label=["team:red", "team:blue"]) == []
        assert await chosen(status="running") == [1, 0]
        assert await chosen(status="error", label="team:red", agent="react") == [4, 2]
        assert await chosen(agent="yours") == []
        assert await chosen(created_after=at(2)) == [4, 3, 2]
        assert await chosen(created_before="2026-01-01T01:00:02+01:00") == [1, 0]
        found: list[int] = []
        page = {"user_id": "u", "limit": "1", "label": "team:red"}
        while True:
            told = (await client.get("/runs", params=page)).json()
            found += [ids.index(run["run_id"]) for run in told["runs"]]
            if "next" not in told:
                break
            page["page"] = told["next"]
        assert found == [4, 2, 0]


async def test_of_all_workers(puppets: Puppets) -> None:
    """Servers that share a log in Redis list the same runs, whoever started them."""
    url = fresh()
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving({"mine": puppets}, log=url)) for _ in range(2)]
        clients = [await stack.enter_async_context(asking(server)) for server in servers]
        bodies = [{"message": "hi", "user_id": "u", "session_id": name} for name in "ab"]
        started = [
            (await client.post("/runs", json=body)).json()["run_id"]
            for client, body in zip(clients, bodies, strict=True)
        ]
        await until(lambda: puppets.started == 2)
        for client in clients:
            assert [run["run_id"] for run in await listed(client, user_id="u")] == started[::-1]
