"""`DELETE /runs/{run_id}` and `DELETE /users/{user_id}`: what is deleted is gone for everybody, on every worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from websockets.asyncio.client import connect

from support.credentials import AUTH, asking, bearer, ticket
from support.followers import rest, start
from support.logs import run_info
from support.redis_server import fresh
from support.serving import Puppets, Running, serving, until
from support.sqlite_logs import traces

LOGS = ["memory", "sqlite", "redis"]


def url_of(log: str, folder: Path) -> str:
    return {"memory": "memory://", "sqlite": f"sqlite:///{folder}/runs.db", "redis": fresh()}[log]


@pytest.fixture(params=LOGS)
async def logged(request: pytest.FixtureRequest, puppets: Puppets, tmp_path: Path) -> AsyncIterator[Running]:
    async with serving({"mine": puppets}, log=url_of(request.param, tmp_path), **AUTH) as server:
        yield server


async def begun(server: Running, puppets: Puppets, user: str = "alice", **body: Any) -> str:
    """A run of this user's that goes on."""
    async with asking(server, user) as client:
        run = (await client.post("/runs", json={"message": "hi", "on_disconnect": "continue", **body})).json()
    (await puppets.next()).say("words")
    return str(run["run_id"])


async def ended(server: Running, puppets: Puppets, user: str = "alice", **body: Any) -> str:
    """A run of this user's that is over."""
    async with asking(server, user) as client:
        run = (await client.post("/runs", json={"message": "hi", **body})).json()
        (await puppets.next()).end()
        await client.get(f"/runs/{run['run_id']}/events")
    return str(run["run_id"])


async def test_delete_an_ended_run(logged: Running, puppets: Puppets) -> None:
    """It answers 204 once; from then on each way to ask for the run is answered as for one that never was."""
    run_id = await ended(logged, puppets, idempotency_key="k")
    async with asking(logged, "alice") as client:
        answer = await client.delete(f"/runs/{run_id}")
        assert (answer.status_code, answer.content) == (204, b"")
        for method, path in (
            ("DELETE", ""),
            ("GET", ""),
            ("GET", "/events"),
            ("GET", "/snapshot"),
            ("POST", "/cancel"),
            ("DELETE", ""),
        ):
            gone = await client.request(method, f"/runs/{run_id}{path}")
            unknown = await client.request(method, f"/runs/{'a' * 26}{path}")
            assert (gone.status_code, gone.content) == (unknown.status_code, unknown.content) == (404, gone.content)
        assert (await client.get("/runs")).json() == {"runs": []}
        again = await client.post("/runs", json={"message": "hi", "idempotency_key": "k"})
        assert again.status_code == 201


@pytest.mark.parametrize("kind", ["sse", "ws"])
async def test_delete_a_run_that_goes_on(kind: str, puppets: Puppets, tmp_path: Path) -> None:
    """It is cancelled first: who follows it reads how it ended, its agent is stopped, and then the run is unknown."""
    async with serving({"mine": puppets}, log=f"sqlite:///{tmp_path}/runs.db") as server:
        follower = await start(kind, server, user_id="alice")
        puppet = await puppets.next()
        puppet.say("words")
        following = asyncio.create_task(rest(follower))
        async with asking(server) as client:
            assert (await client.delete(f"/runs/{follower.run_id}")).status_code == 204
            assert (await client.get(f"/runs/{follower.run_id}")).status_code == 404
        seen = await following
        assert [seen[-1]["data"][name] for name in ("status", "reason")] == ["cancelled", "user"]
        async with asyncio.timeout(5):
            await puppet.closed.wait()


async def test_a_paused_follower_of_a_deleted_run(logged: Running, puppets: Puppets) -> None:
    """A socket that had paused a run hears that it does not exist, and stays open."""
    run_id = await begun(logged, puppets)
    async with connect(logged.ws_url, proxy=None, additional_headers=bearer("alice")) as socket:
        await socket.send(json.dumps({"type": "attach", "run_id": run_id}))
        while json.loads(await socket.recv()).get("type") != "LLM_CHUNK":
            pass
        await socket.send(json.dumps({"type": "pause", "run_id": run_id}))
        while json.loads(await socket.recv()).get("type") != "paused":
            pass
        async with asking(logged, "alice") as client:
            assert (await client.delete(f"/runs/{run_id}")).status_code == 204
        await socket.send(json.dumps({"type": "resume", "run_id": run_id}))
        while (told := json.loads(await socket.recv()))["type"] != "error":
            assert told["type"] == "resumed"
        assert (told["code"], told["run_id"]) == ("run_not_found", run_id)
        await socket.send('{"type":"ping"}')
        assert json.loads(await socket.recv())["type"] == "pong"


async def test_somebody_else_s_run(logged: Running, puppets: Puppets) -> None:
    """Another user's run cannot be deleted, nor told from one that does not exist; a ticket is not enough either."""
    run_id = await begun(logged, puppets)
    async with asking(logged, "bob") as bob:
        foreign, unknown = [await bob.delete(f"/runs/{name}") for name in (run_id, "a" * 26)]
        assert (
            (foreign.status_code, foreign.content) == (unknown.status_code, unknown.content) == (404, foreign.content)
        )
    async with asking(logged) as whoever:
        for text in (await ticket(logged, run_id=run_id), await ticket(logged)):
            assert (await whoever.delete(f"/runs/{run_id}", params={"ticket": text})).status_code == 401
    async with asking(logged, "alice") as alice:
        assert (await alice.get(f"/runs/{run_id}")).json()["status"] == "running"


async def test_its_turn_stays(logged: Running, puppets: Puppets) -> None:
    """A conversation goes on with what a run has said that was deleted since."""
    run_id = await ended(logged, puppets, session_id="s")
    async with asking(logged, "alice") as client:
        await client.delete(f"/runs/{run_id}")
        await client.post("/runs", json={"message": "again", "session_id": "s"})
    assert len((await puppets.next()).request.history) == 2


async def test_forget(logged: Running, puppets: Puppets) -> None:
    """Runs, also those that go on, keys and conversations of a user are gone; another user's are not."""
    await ended(logged, puppets, session_id="s", idempotency_key="k")
    going = await begun(logged, puppets, session_id="s2")
    theirs = await begun(logged, puppets, "bob", session_id="s")
    async with asking(logged, "alice") as alice, asking(logged, "bob") as bob:
        assert (await alice.delete("/users/alice")).status_code == 204
        assert (await alice.get("/runs")).json() == {"runs": []}
        assert (await alice.get(f"/runs/{going}")).status_code == 404
        assert [run["run_id"] for run in (await bob.get("/runs")).json()["runs"]] == [theirs]
        for session in ("s", "s2"):
            again = {"message": "hi", "session_id": session, "idempotency_key": "k" if session == "s" else "other"}
            assert (await alice.post("/runs", json=again)).status_code == 201
            assert (await puppets.next()).request.history == []
        assert (await alice.delete("/users/alice")).status_code == 204
        assert (await alice.delete("/users/alice")).status_code == 204
        assert (await bob.get(f"/runs/{theirs}")).json()["status"] == "running"


async def test_only_oneself(logged: Running, puppets: Puppets) -> None:
    """A user who is no admin may delete nobody else's data; without a credential nobody may."""
    run_id = await ended(logged, puppets)
    async with asking(logged, "bob") as bob, asking(logged) as whoever:
        for name in ("alice", "nobody"):
            refused = await bob.delete(f"/users/{name}")
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert (await whoever.delete("/users/alice")).status_code == 401
    async with asking(logged, "alice") as alice:
        assert (await alice.get(f"/runs/{run_id}")).status_code == 200


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("https://id.example/users/7", "https%3A%2F%2Fid.example%2Fusers%2F7"),
        ("a b+c%", "a%20b%2Bc%25"),
        ("zoë", "zo%C3%AB"),
        ("a/", "a%2F"),
        (".", "%2E"),
    ],
)
async def test_any_name(name: str, path: str, server: Running, puppets: Puppets) -> None:
    """Without authentication any name can be forgotten, percent-encoded as one segment of the path."""
    async with asking(server) as client:
        for user_id in (name, "other"):
            await client.post("/runs", json={"message": "hi", "user_id": user_id})
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"DELETE /users/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 204 ")
        writer.close()
        for user_id, count in ((name, 0), ("other", 1)):
            assert len((await client.get("/runs", params={"user_id": user_id})).json()["runs"]) == count


@pytest.mark.parametrize(
    "path", ["/users/a/b", "/users/x/users/b", "/users/", "/users/b/", f"/users/{'x' * 129}", "/users/%FF"]
)
async def test_no_name(path: str, server: Running) -> None:
    """What is no one name deletes nothing: it is refused, and the message says what would be right."""
    async with asking(server) as client:
        await client.post("/runs", json={"message": "hi", "user_id": "b"})
        answer = await client.delete(path)
        assert answer.status_code in {400, 404, 405}
        assert len((await client.get("/runs", params={"user_id": "b"})).json()["runs"]) == 1


async def test_on_another_worker(puppets: Puppets) -> None:
    """A run that another worker owns is cancelled there and deleted; so is all that a user has on both."""
    url = fresh()
    async with AsyncExitStack() as stack:
        here, there = [await stack.enter_async_context(serving({"mine": puppets}, log=url)) for _ in range(2)]
        client = await stack.enter_async_context(asking(there))
        follower = await start("sse", here, user_id="alice", session_id="s")
        puppet = await puppets.next()
        puppet.say("words")
        following = asyncio.create_task(rest(follower))
        assert (await client.delete(f"/runs/{follower.run_id}")).status_code == 204
        assert (await client.get(f"/runs/{follower.run_id}")).status_code == 404
        assert (await following)[-1]["data"]["status"] == "cancelled"
        async with asyncio.timeout(5):
            await puppet.closed.wait()
        for server in (here, there):
            async with asking(server) as starting:
                body = {"message": "hi", "user_id": "alice", "session_id": f"at {server.port}"}
                await starting.post("/runs", json=body)
            (await puppets.next()).say("words")
        assert (await client.delete("/users/alice")).status_code == 204
        await until(lambda: not len(here.runs) and not len(there.runs))
        for server in (here, there):
            async with asking(server) as listing:
                assert (await listing.get("/runs", params={"user_id": "alice"})).json() == {"runs": []}


async def test_a_page_of_another_site(server: Running) -> None:
    """A page of another site cannot have a browser delete anything."""
    async with asking(server, origin="https://evil.example") as client:
        for path in ("/runs/" + "a" * 26, "/users/alice"):
            refused = await client.delete(path)
            assert (refused.status_code, refused.json()["code"]) == (403, "origin_not_allowed")


async def test_the_turn_of_a_run_that_is_cancelled_for_it(logged: Running, puppets: Puppets) -> None:
    """The conversation of a run that had to be cancelled is forgotten, too, though its turn is written at its end."""
    for number in range(5):
        await begun(logged, puppets, session_id=f"s{number}")
    async with asking(logged, "alice") as client:
        assert (await client.delete("/users/alice")).status_code == 204
    for number in range(5):
        assert await logged.runs.log.history(("alice", f"s{number}")) == []


async def test_a_run_whose_worker_died(puppets: Puppets, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that nobody can end yet is not said to be deleted: it is 503, and once it has ended, 204."""
    monkeypatch.setattr("twinwire.runs.kept.END_SECONDS", 0.1)
    async with serving({"mine": puppets}, log=fresh("&lease=3")) as server, asking(server) as client:
        orphan = structs.replace(run_info("alice"), owner="a worker that is gone")
        await server.runs.log.create(orphan, idempotency_key=None)
        for path in (f"/runs/{orphan.run_id}", "/users/alice"):
            answer = await client.delete(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "log_unavailable")
        async with asyncio.timeout(20):
            while (await client.get(f"/runs/{orphan.run_id}")).json()["status"] == "running":
                pass
        assert (await client.delete("/users/alice")).status_code == 204
        assert (await client.get("/runs", params={"user_id": "alice"})).json() == {"runs": []}


async def test_the_files_of_a_server(puppets: Puppets, tmp_path: Path) -> None:
    """A user's words, name and labels are in no byte of a SQLite log's files any more, also of a trimmed run."""
    words = "ALICE-HAS-SAID-THIS"
    async with (
        serving({"mine": puppets}, log=f"sqlite:///{tmp_path}/runs.db", log_events=10, **AUTH) as server,
        asking(server, "alice") as alice,
        asking(server, "bob") as bob,
    ):
        kept = (await bob.post("/runs", json={"message": "bob is heard"})).json()["run_id"]
        (await puppets.next()).say("bob is heard")
        for number in range(3):
            body = {"message": words, "session_id": f"{words}{number}", "metadata": {"label": words}}
            run_id = (await alice.post("/runs", json={**body, "idempotency_key": f"{words}{number}"})).json()["run_id"]
            puppet = await puppets.next()
            puppet.say(*[words] * 60)
            if number:
                puppet.end()
                await until(lambda: server.runs._live.keys() == {kept})
            assert (await alice.get(f"/runs/{run_id}/snapshot")).json()["state"]["text"].count(words) <= 60
            if not number:
                assert (await alice.post(f"/runs/{run_id}/cancel")).status_code == 202
                await until(lambda: server.runs._live.keys() == {kept})
        assert traces(tmp_path, words)
        assert (await alice.delete("/users/alice")).status_code == 204
        assert traces(tmp_path, words) == {}
        assert traces(tmp_path, "alice") == {}
        assert traces(tmp_path, "bob is heard")
