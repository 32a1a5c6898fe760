"""`--admin`: a user by name who sees, cancels and deletes everybody's runs, and does nothing else of theirs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect

from support.credentials import AUTH, asking, bearer, ticket
from support.redis_server import fresh
from support.serving import Puppets, Running, serving
from twinwire.protocol.errors import SettingsError
from twinwire.settings import Settings
from twinwire.web.app import create_app

ADMIN = {**AUTH, "admin": ("bob",)}


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def guarded(request: pytest.FixtureRequest, puppets: Puppets, tmp_path: Any) -> AsyncIterator[Running]:
    """A server that knows alice, and bob, who is an admin."""
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/runs.db", "redis": fresh()}[request.param]
    async with serving({"mine": puppets}, log=url, **ADMIN) as server:
        yield server


async def begun(server: Running, puppets: Puppets, user: str = "alice", **body: Any) -> str:
    async with asking(server, user) as client:
        run = (await client.post("/runs", json={"message": "hi", "on_disconnect": "continue", **body})).json()
    (await puppets.next()).say("a")
    return str(run["run_id"])


async def test_an_admin_s_list(guarded: Running, puppets: Puppets) -> None:
    """It has everybody's runs, page by page, or those of the user that is named; anybody else's has their own."""
    runs = [await begun(guarded, puppets, user) for user in ("alice", "bob", "alice")]
    async with asking(guarded, "bob") as bob, asking(guarded, "alice") as alice:
        first = (await bob.get("/runs", params={"limit": 2})).json()
        assert [run["run_id"] for run in first["runs"]] == runs[:0:-1]
        second = (await bob.get("/runs", params={"limit": 2, "page": first["next"]})).json()
        assert [run["run_id"] for run in second["runs"]] == runs[:1]
        assert "next" not in second
        of_alice = (await bob.get("/runs", params={"user_id": "alice"})).json()["runs"]
        assert [run["run_id"] for run in of_alice] == [runs[2], runs[0]]
        assert {run["user_id"] for run in (await alice.get("/runs")).json()["runs"]} == {"alice"}
        assert (await alice.get("/runs", params={"user_id": "bob"})).status_code == 400


async def test_an_admin_sees_and_cancels(guarded: Running, puppets: Puppets) -> None:
    """An admin reads another user's run, its snapshot and its events, and cancels it."""
    run_id = await begun(guarded, puppets)
    async with asking(guarded, "bob") as bob:
        assert (await bob.get(f"/runs/{run_id}")).json()["user_id"] == "alice"
        assert (await bob.get(f"/runs/{run_id}/snapshot")).json()["state"]["text"] == "a"
        assert (await bob.post(f"/runs/{run_id}/cancel")).status_code == 202
        assert "AGENT_FINISH" in (await bob.get(f"/runs/{run_id}/events")).text


async def test_an_admin_deletes(guarded: Running, puppets: Puppets) -> None:
    """An admin deletes another user's run, and all that is kept of that user."""
    first, second = [await begun(guarded, puppets, session_id=name) for name in "ab"]
    async with asking(guarded, "bob") as bob, asking(guarded, "alice") as alice:
        assert (await bob.delete(f"/runs/{first}")).status_code == 204
        assert [run["run_id"] for run in (await alice.get("/runs")).json()["runs"]] == [second]
        assert (await bob.delete("/users/alice")).status_code == 204
        assert (await alice.get("/runs")).json() == {"runs": []}


async def test_an_admin_follows(guarded: Running, puppets: Puppets) -> None:
    """An admin follows another user's run over a socket, and cancels it there."""
    run_id = await begun(guarded, puppets)
    async with connect(guarded.ws_url, proxy=None, additional_headers=bearer("bob")) as socket:
        await socket.send(json.dumps({"type": "attach", "run_id": run_id}))
        assert json.loads(await socket.recv())["type"] == "attached"
        await socket.send(json.dumps({"type": "cancel", "run_id": run_id}))
        while (told := json.loads(await socket.recv()))["type"] != "AGENT_FINISH":
            pass
        assert told["data"]["reason"] == "user"


async def test_an_admin_says_nothing_for_others(guarded: Running, puppets: Puppets) -> None:
    """To answer and to say something, another user's run does not exist for an admin; nor is one started as them."""
    run_id = await begun(guarded, puppets, session_id="s")
    async with asking(guarded, "bob") as bob:
        said = await bob.post(f"/runs/{run_id}/messages", json={"content": "x"})
        assert (said.status_code, said.json()["code"]) == (404, "run_not_found")
        answered = await bob.post(f"/runs/{run_id}/inputs/ask-{run_id}-1", json={"answer": "x"})
        assert (answered.status_code, answered.json()["code"]) == (404, "run_not_found")
        started = await bob.post("/runs", json={"message": "hi", "user_id": "alice"})
        assert (started.status_code, started.json()["field"]) == (400, "user_id")
        assert (await bob.post("/runs", json={"message": "hi", "session_id": "s"})).status_code == 201
    async with asking(guarded, "alice") as alice:
        assert (await alice.get(f"/runs/{run_id}")).json()["status"] == "running"


async def test_an_admin_s_credentials(guarded: Running, puppets: Puppets) -> None:
    """A login and a ticket are an admin's as the token is; a ticket for one run is for that run alone."""
    run_id, other = [await begun(guarded, puppets, session_id=name) for name in "ab"]
    one, whole = await ticket(guarded, "bob", run_id=run_id), await ticket(guarded, "bob")
    async with asking(guarded) as whoever:
        assert len((await whoever.get("/runs", params={"ticket": whole})).json()["runs"]) == 2
        listed = (await whoever.get("/runs", params={"ticket": one})).json()
        assert ([run["run_id"] for run in listed["runs"]], "next" in listed) == ([run_id], False)
        assert (await whoever.get(f"/runs/{run_id}", params={"ticket": one})).status_code == 200
        assert (await whoever.get(f"/runs/{other}", params={"ticket": one})).status_code == 404
        await whoever.post("/login", headers=bearer("bob"))
        assert (await whoever.delete(f"/runs/{other}")).status_code == 204


def test_an_admin_needs_authentication() -> None:
    """Where nobody is authenticated, an admin would be whoever says so: the setting is refused."""
    with pytest.raises(SettingsError) as caught:
        create_app(settings=Settings(admin=("root",)))
    assert caught.value.field == "--admin"


async def test_an_admin_that_the_application_knows(puppets: Puppets) -> None:
    """A user whom the application authenticates is an admin by the same name."""

    async def authenticate(connection: Any) -> str | None:
        name: str | None = connection.headers.get("x-user")
        return name

    async with serving({"mine": puppets}, admin=("root",), authenticate=authenticate) as server:
        async with asking(server, **{"x-user": "alice"}) as alice:
            run_id = (await alice.post("/runs", json={"message": "hi"})).json()["run_id"]
            assert (await alice.delete("/users/bob")).status_code == 403
        async with asking(server, **{"x-user": "root"}) as root:
            assert [run["run_id"] for run in (await root.get("/runs")).json()["runs"]] == [run_id]
            assert (await root.delete("/users/alice")).status_code == 204
            assert (await root.get("/runs")).json() == {"runs": []}
