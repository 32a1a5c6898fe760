"""Who may come in: bearer tokens over both transports, and what is nobody's business."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from support.credentials import AUTH, TOKENS, asking, bearer, protocol
from support.serving import Puppets, Running, serving
from twinwire.web import session
from twinwire_client import Client, Unauthenticated


@pytest.fixture
async def guarded(puppets: Puppets) -> AsyncIterator[Running]:
    """A server that knows alice and bob."""
    async with serving({"mine": puppets}, **AUTH) as running:
        yield running


def socket(server: Running, **options: Any) -> Any:
    return connect(server.ws_url + options.pop("query", ""), proxy=None, **options)


async def say(connection: ClientConnection, **command: Any) -> dict[str, Any]:
    """A command, and the next message."""
    await connection.send(json.dumps(command))
    answer: dict[str, Any] = json.loads(await connection.recv())
    return answer


async def closed(connection: ClientConnection) -> int | None:
    """The code that the server closes with, before it says anything."""
    with pytest.raises(ConnectionClosed) as caught:
        await connection.recv()
    return caught.value.rcvd.code if caught.value.rcvd else None


REQUESTS = [
    ("GET", "/chat/stream?message=hi"),
    ("POST", "/chat?message=hi"),
    ("POST", "/runs"),
    ("GET", f"/runs/{'a' * 26}"),
    ("GET", f"/runs/{'a' * 26}/events"),
    ("GET", f"/runs/{'a' * 26}/snapshot"),
    ("POST", f"/runs/{'a' * 26}/cancel"),
    ("POST", "/tickets"),
    ("POST", "/login"),
    ("POST", "/logout"),
    ("GET", "/metrics"),
    ("GET", "/schema"),
    ("GET", "/schema/openapi.json"),
]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer alice"},
        {"authorization": f"Bearer {TOKENS['alice']}x"},
        {"authorization": f"Bearer {TOKENS['alice'][:-1]}"},
        {"authorization": f"Bearer alice:{TOKENS['alice']}"},
        {"authorization": f"Basic {TOKENS['alice']}"},
        {"authorization": "Bearer " + "x" * 9000},
        {"authorization": "Bearer \xe9\xe9"},
        {"cookie": "twinwire_login=x.y"},
        {"cookie": 'twinwire_login="\\777; ='},
        {"last-event-id": f"evt-{'a' * 26}-1"},
    ],
    ids=str,
)
async def test_nobody_gets_in(guarded: Running, puppets: Puppets, headers: dict[str, str]) -> None:
    """Without a good credential every route but the open ones answers one and the same 401."""
    bodies = set()
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    async with httpx.AsyncClient(
        base_url=guarded.url, headers=raw, trust_env=False, verify=False, timeout=20
    ) as client:
        for method, path in [*REQUESTS, ("GET", "/chat/stream?message=hi&ticket=x.y")]:
            response = await client.request(method, path)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer"), path
            bodies.add(response.content)
    assert bodies == {b'{"code":"unauthenticated","message":"A valid credential is required."}'}
    assert puppets.started == 0


async def test_every_route_is_guarded(guarded: Running, puppets: Puppets) -> None:
    """Whatever routes there are, only these answer a stranger."""
    found = set()
    async with asking(guarded) as client:
        app: Any = guarded.server.config.app
        for route in app.routes:
            path = re.sub(r"\{[^}]*\}", "x", route.path)
            for method in {"GET", "POST"} & getattr(route, "methods", {"GET"}):
                if (await client.request(method, path)).status_code != 401:
                    found.add(path)
                async with client.stream(method, f"{path}?ticket=x") as response:
                    assert (response.status_code == 401) == (path not in found)
    assert found == {"/", "/healthz", "/readyz", "/page/x", "/client/x"}
    assert puppets.started == 0


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/client/index.js", "/page/page.js"])
async def test_what_is_open(guarded: Running, path: str) -> None:
    """Health, and the page, which has nothing of anybody's in it, are for all."""
    async with asking(guarded) as client:
        assert (await client.get(path)).status_code in {200, 404}


async def test_a_token_opens_http(guarded: Running, puppets: Puppets) -> None:
    """A bearer token is whose it is, whatever the scheme's case; the run is its user's."""
    async with asking(guarded, authorization=f"bearer {TOKENS['alice']}") as client:
        run = (await client.post("/runs", json={"message": "hi"})).json()
        assert run["user_id"] == "alice"
        assert (await puppets.next()).request.user_id == "alice"
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/schema/openapi.json")).status_code == 200


async def test_user_id_is_not_believed(guarded: Running, puppets: Puppets) -> None:
    """A request that names another user is refused, on either transport; one's own name does no harm."""
    async with asking(guarded, "alice") as client:
        for request in (
            client.get("/chat/stream?message=hi&user_id=bob"),
            client.post("/chat", json={"message": "hi", "user_id": "bob"}),
            client.post("/runs", json={"message": "hi", "user_id": "bob"}),
        ):
            response = await request
            assert (response.status_code, response.json()["field"]) == (400, "user_id")
        assert (await client.post("/runs", json={"message": "hi", "user_id": "alice"})).status_code == 201
    async with socket(guarded, additional_headers=bearer("alice")) as connection:
        refused = await say(connection, type="start", request_id="r", message="hi", user_id="bob")
        assert (refused["code"], refused["field"]) == ("bad_request", "user_id")
    assert puppets.started == 1


async def test_conversations_are_those_that_a_request_names(guarded: Running, puppets: Puppets) -> None:
    """Two runs of one user go on side by side, unless they are said to be of one conversation."""
    async with asking(guarded, "alice") as client:
        for _ in range(2):
            assert (await client.post("/runs", json={"message": "hi"})).status_code == 201
        for status in (201, 409):
            response = await client.post("/runs", json={"message": "hi", "session_id": "s"})
            assert response.status_code == status
    async with asking(guarded, "bob") as client:
        assert (await client.post("/runs", json={"message": "hi", "session_id": "s"})).status_code == 201


@pytest.mark.parametrize("way", ["header", "subprotocol", "message"])
async def test_a_token_opens_a_socket(guarded: Running, puppets: Puppets, way: str) -> None:
    """In the header, in a subprotocol beside ours, or in the first message."""
    options: dict[str, Any] = {}
    if way == "header":
        options["additional_headers"] = bearer("alice")
    elif way == "subprotocol":
        options["subprotocols"] = ["twinwire.v1", protocol(TOKENS["alice"])]
    async with socket(guarded, **options) as connection:
        assert connection.subprotocol == ("twinwire.v1" if way == "subprotocol" else None)
        if way == "message":
            answer = await say(connection, type="auth", token=TOKENS["alice"], ref=1)
            assert answer == {"type": "authenticated", "ref": 1}
        assert (await say(connection, type="start", request_id="r", message="hi"))["type"] == "started"
        assert (await puppets.next()).request.user_id == "alice"


@pytest.mark.parametrize(
    "options",
    [
        {"additional_headers": {"Authorization": "Bearer nonsense"}},
        {"subprotocols": ["twinwire.v1", protocol("nonsense")]},
        {"subprotocols": ["twinwire.v1", "twinwire.auth.!"]},
        {"subprotocols": ["twinwire.v1", "twinwire.auth.__"]},
        {"query": "?ticket=a.b"},
    ],
    ids=str,
)
async def test_a_bad_credential_closes_the_socket(guarded: Running, options: dict[str, Any]) -> None:
    """The socket opens, so that the client learns why it closes: 4501, do not come again."""
    async with socket(guarded, **options) as connection:
        assert await closed(connection) == 4501


async def test_before_auth_nothing_is_done(guarded: Running, puppets: Puppets) -> None:
    """Commands of nobody are answered with an error, with their labels; then one may still say who one is."""
    async with socket(guarded) as connection:
        for command in (
            {"type": "start", "request_id": "r", "message": "hi"},
            {"type": "attach", "run_id": "a" * 26},
            {"type": "cancel", "run_id": "a" * 26},
            {"type": "detach", "run_id": "a" * 26},
            {"type": "pause", "run_id": "a" * 26},
            {"type": "resume", "run_id": "a" * 26},
            {"type": "ping"},
        ):
            answer = await say(connection, ref="x", **command)
            assert (answer["type"], answer["code"], answer["ref"]) == ("error", "unauthenticated", "x")
        assert (await say(connection, type="auth", token=TOKENS["bob"]))["type"] == "authenticated"
        assert (await say(connection, type="ping"))["type"] == "pong"
    assert puppets.started == 0


async def test_a_bad_first_token(guarded: Running) -> None:
    """It is told, then the socket closes: nobody tries many on one socket."""
    async with socket(guarded) as connection:
        assert (await say(connection, type="auth", token="nonsense"))["code"] == "unauthenticated"
        assert await closed(connection) == 4501


async def test_silence_closes_the_socket(guarded: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not say who they are for some time is closed; who has said so stays."""
    monkeypatch.setattr(session, "AUTH_SECONDS", 0.2)
    async with socket(guarded) as silent, socket(guarded, additional_headers=bearer("bob")) as known:
        assert await closed(silent) == 4501
        assert (await say(known, type="ping"))["type"] == "pong"


async def test_a_socket_stays_its_user_s(guarded: Running) -> None:
    """A later token of the same user is taken; a bad one, or another user's, is told, and changes nothing."""
    async with socket(guarded, additional_headers=bearer("alice")) as connection:
        assert (await say(connection, type="auth", token="nonsense"))["code"] == "unauthenticated"
        other = await say(connection, type="auth", token=TOKENS["bob"])
        assert (other["code"], other["field"]) == ("forbidden", "token")
        assert (await say(connection, type="auth", token=TOKENS["alice"]))["type"] == "authenticated"
        assert (await say(connection, type="ping"))["type"] == "pong"


async def test_where_authentication_is_off(server: Running, puppets: Puppets) -> None:
    """Credentials are not looked at, a request names its user, and nothing can be logged in to."""
    async with asking(server, "alice") as client:
        run = (await client.post("/runs", json={"message": "hi", "user_id": "carol"})).json()
        assert run["user_id"] == "carol"
        for path in ("/tickets", "/login"):
            response = await client.post(path)
            assert (response.status_code, response.json()["message"]) == (
                400,
                "Authentication is off on this server: no ticket or login is required.",
            )
    async with socket(server, subprotocols=["twinwire.v1", protocol("any")]) as connection:
        assert connection.subprotocol == "twinwire.v1"
        assert (await say(connection, type="auth", token="any"))["code"] == "bad_request"
        assert (await say(connection, type="attach", run_id=run["run_id"]))["type"] == "attached"


@pytest.mark.parametrize("transport", ["sse", "ws"])
async def test_the_client_has_a_token(guarded: Running, puppets: Puppets, transport: Any) -> None:
    """The Python client follows a run with a token, and with one made anew for each request; without it learns why."""
    async with (
        Client(guarded.url, token=lambda: TOKENS["alice"]) as client,
        client.stream("hi", transport=transport) as run,
    ):
        puppet = await puppets.next()
        puppet.say("a")
        puppet.end()
        assert [event.type async for event in run] == ["AGENT_START", "LLM_CHUNK", "AGENT_FINISH"]
        assert puppet.request.user_id == "alice"
    async with Client(guarded.url, token="nonsense-0123456789") as client:
        with pytest.raises(Unauthenticated):
            async with client.stream("hi", transport=transport):
                pass
    assert puppets.started == 1
