"""The scope of each route and command: declared once, and the same over HTTP and WebSocket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, get_args

import pytest
from litestar import Litestar
from litestar.routes import ASGIRoute, HTTPRoute
from websockets.asyncio.client import ClientConnection, connect

from support.credentials import AUTH, TOKENS, asking, bearer, ticket
from support.serving import Puppets, Running, serving
from twinwire.auth import Identity, Scope
from twinwire.auth.scopes import COMMANDS, ROUTES, of_route
from twinwire.protocol import commands
from twinwire.protocol.errors import Forbidden
from twinwire.settings import Settings
from twinwire.web.app import create_app
from twinwire.web.compat import ai_sdk_socket

REFUSED = {401, 403}  # a ticket in the URL of a POST or a DELETE counts for nothing


def served(app: Litestar) -> Iterator[str]:
    """Give the name in `ROUTES` of all that an app serves."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            yield from (f"{method} {route.path_format}" for method in route.methods - {"OPTIONS", "HEAD"})
        else:
            assert isinstance(route, ASGIRoute)
            yield f"WS {route.path_format}"


def tags(union: Any) -> set[str]:
    return {kind.__struct_config__.tag for kind in get_args(union)}


def test_every_route_declares_its_scope() -> None:
    """The table has each route of the app, and nothing that the app does not serve."""
    assert sorted(served(create_app(settings=Settings()))) == sorted(ROUTES)


def test_every_command_declares_its_scope() -> None:
    """The table has each command of each socket, and no other."""
    known = {"/ws": tags(commands.AnyCommand), "/ai-sdk/ws": tags(ai_sdk_socket.Said)}
    assert {f"WS {path}" for path in known} == {name for name in ROUTES if name.startswith("WS ")}
    assert {path: set(scopes) for path, scopes in COMMANDS.items()} == known


def test_what_declares_nothing_needs_everything() -> None:
    """A route that an app adds without a scope is closed to a ticket for one run, and HEAD is GET."""
    assert of_route("GET", "/new") is of_route("OPTIONS", "/runs") is Scope.WHOLE
    assert of_route("HEAD", "/runs/{run_id}") is Scope.FOLLOW
    Identity("alice").check(Scope.WHOLE)
    Identity("alice", run_id="a").check(Scope.FOLLOW)
    with pytest.raises(Forbidden):
        Identity("alice", run_id="a").check(Scope.WHOLE)


@pytest.fixture
async def guarded(puppets: Puppets) -> AsyncIterator[Running]:
    async with serving({"mine": puppets}, **AUTH) as running:
        yield running


async def begun(server: Running, puppets: Puppets) -> str:
    """Start a run of alice's, the chat `c`."""
    async with asking(server, "alice") as client:
        run = (await client.post("/runs", json={"message": "hi", "session_id": "c"})).json()
    (await puppets.next()).say("a")
    return str(run["run_id"])


async def test_a_ticket_for_one_run_does_over_http_what_its_scope_says(guarded: Running, puppets: Puppets) -> None:
    """On every route: it is let through where following is enough, and refused, with no effect, everywhere else."""
    run_id = await begun(guarded, puppets)
    text = await ticket(guarded, run_id=run_id)
    filled = {
        "run_id": run_id,
        "chat_id": "c",
        "name": "mine",
        "user_id": "alice",
        "input_id": "i",
        "path": "openapi.json",
        "file_path": "page.js",
    }
    for name, scope in ROUTES.items():
        method, path = name.split()
        if method == "WS":
            continue
        body: dict[str, Any] = {"message": "hi"} if "chat" in path or path == "/runs" else {}
        sent: dict[str, Any] = {} if method == "GET" else {"json": body}
        headers = {"last-event-id": f"evt-{run_id}-1"} if scope is Scope.FOLLOW and path.startswith("/chat") else {}
        async with (
            asking(guarded) as client,
            client.stream(method, f"{path.format(**filled)}?ticket={text}", headers=headers, **sent) as response,
        ):
            if method != "GET":
                assert response.status_code == 401, name
            elif scope is Scope.WHOLE:
                assert response.status_code == 403, name
            else:
                assert response.status_code not in REFUSED, name
    assert puppets.started == 1
    async with asking(guarded, "alice") as client:
        assert (await client.get(f"/runs/{run_id}")).json()["status"] == "running"


SAID: dict[str, dict[str, dict[str, Any]]] = {
    "/ws": {
        "start": {"request_id": "r", "message": "hi"},
        "attach": {"run_id": "RUN"},
        "detach": {"run_id": "RUN"},
        "pause": {"run_id": "RUN"},
        "resume": {"run_id": "RUN"},
        "cancel": {"run_id": "RUN"},
        "answer": {"run_id": "RUN", "input_id": "ask-RUN-1", "answer": "main"},
        "send": {"run_id": "RUN", "content": "hi"},
        "ping": {},
    },
    "/ai-sdk/ws": {
        "send": {"requestId": "s", "id": "c", "messages": [{"role": "user", "parts": [{"type": "text", "text": "x"}]}]},
        "resume": {"requestId": "q", "id": "c"},
        "abort": {"requestId": "q"},
    },
}


async def reply(socket: ClientConnection, command: dict[str, Any], run_id: str) -> dict[str, Any]:
    await socket.send(json.dumps(command).replace("RUN", run_id))
    found: dict[str, Any] = json.loads(await socket.recv())
    return found


def refused(answer: dict[str, Any]) -> bool:
    """Say whether a reply, of either protocol, tells that the ticket is not for this."""
    return answer.get("code") == "forbidden" or "follow one run" in answer.get("errorText", "")


@pytest.mark.parametrize("path", SAID)
async def test_a_ticket_for_one_run_does_over_a_socket_what_its_scope_says(
    path: str, guarded: Running, puppets: Puppets
) -> None:
    """On every command, whatever run it names: nothing is started, cancelled or told beyond following the run."""
    assert SAID[path].keys() == COMMANDS[path].keys() - {"auth"}
    run_id = await begun(guarded, puppets)
    url = f"{guarded.ws_url.removesuffix('/ws')}{path}?ticket={await ticket(guarded, run_id=run_id)}"
    for kind, fields in SAID[path].items():
        for named in (run_id, "a" * 26) if "run_id" in fields else (run_id,):
            async with connect(url, proxy=None) as socket:
                answer = await reply(socket, {"type": kind, **fields}, named)
                assert refused(answer) == (COMMANDS[path][kind] is Scope.WHOLE), (kind, answer)
    assert puppets.started == 1
    async with asking(guarded, "alice") as client:
        assert (await client.get(f"/runs/{run_id}")).json()["status"] == "running"


async def test_aborting_a_resume_with_a_ticket_cancels_nothing(guarded: Running, puppets: Puppets) -> None:
    """A socket that follows a chat by a ticket may not end the chat's run."""
    run_id = await begun(guarded, puppets)
    url = guarded.ws_url.replace("/ws", "/ai-sdk/ws") + f"?ticket={await ticket(guarded, run_id=run_id)}"
    async with connect(url, proxy=None) as socket:
        assert (await reply(socket, {"type": "resume", "requestId": "q", "id": "c"}, ""))["type"] == "start"
        await socket.send('{"type":"abort","requestId":"q"}')
        while not refused(json.loads(await socket.recv())):
            pass
    async with asking(guarded, "alice") as client:
        assert (await client.get(f"/runs/{run_id}")).json()["status"] == "running"


async def test_a_token_lifts_a_socket_that_a_ticket_opened(guarded: Running, puppets: Puppets) -> None:
    """After `auth` with the user's token the same socket may cancel; before it a repeated start is refused too."""
    run_id = await begun(guarded, puppets)
    async with connect(f"{guarded.ws_url}?ticket={await ticket(guarded, run_id=run_id)}", proxy=None) as socket:
        again = {"type": "start", "request_id": "r", "message": "hi", "session_id": "c", "idempotency_key": "k"}
        assert refused(await reply(socket, again, run_id))
        token = bearer("alice")["authorization"].removeprefix("Bearer ")
        assert (await reply(socket, {"type": "auth", "token": token}, ""))["type"] == "authenticated"
        answer = await reply(socket, {"type": "cancel", "run_id": "RUN"}, run_id)
        assert (answer["type"], answer["status"]) == ("cancel_ack", "accepted")


def test_no_command_shows_its_credential() -> None:
    """Where a command is printed, as in an exception's text, the token in it is not."""
    token = TOKENS["alice"]
    said = [f'{{"type":"auth","token":"{token}"}}']
    said.append(f'{{"type":"resume","requestId":"q","id":"c","headers":{{"authorization":"Bearer {token}"}}}}')
    asked = [commands.decode_command(said[0]), *(ai_sdk_socket._decoder.decode(text) for text in said)]
    assert [token in repr(command) for command in asked] == [False] * 3
