"""What a browser authenticates with: tickets in URLs, and the cookie of a login; and how their streams end."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.credentials import AUTH, TOKENS, asking, bearer, ticket
from support.followers import Broken, SseFollower
from support.serving import Puppets, Running, serving
from twinwire.auth import ANYBODY, Auth, Identity
from twinwire.auth.grants import Grant, Signer
from twinwire.protocol.errors import BadRequest, Unauthenticated

SECRET = "a secret of 32 characters or more"


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def authority(clock: Clock, secret: str = SECRET) -> Auth:
    return Auth((), Signer(secret), ticket_life=60, login_life=3600, clock=clock)


@pytest.fixture
async def guarded(puppets: Puppets) -> AsyncIterator[Running]:
    """A server that knows alice and bob, and one page of another origin."""
    async with serving({"mine": puppets}, cors_origin=("http://app.example",), **AUTH) as running:
        yield running


async def follow(server: Running, query: str, path: str = "/chat/stream", **headers: str) -> SseFollower:
    return await SseFollower(f"{server.url}{path}?{query}&envelope=1", headers).open()


def test_grants() -> None:
    """A grant is good until its time is over, for what it was given as, and only as it was signed."""
    clock = Clock()
    known = authority(clock)
    text, until = known.grant("ticket", Identity("alice", None), "r")
    assert until == clock.now + 60
    assert known.granted("ticket", text) == Identity("alice", None, "r")
    other = authority(clock, SECRET + "!").grant("ticket", Identity("alice"))[0]
    body, _, mac = text.partition(".")
    mallory = Signer(SECRET).sign("ticket", Grant("mallory", 0, 2e9, None, None)).partition(".")[0]
    odd = Signer(SECRET)
    forged = [
        other,
        f"{mallory}.{mac}",
        f"{body}.",
        body,
        "",
        ".",
        f".{mac}",
        f"{text}x",
        f"{text}.x",
        "é.é",
        "x" * 9000,
    ]
    forged += [f"e30.{odd._mac('ticket', 'e30')}", f"a.{odd._mac('ticket', 'a')}"]  # signed, and no grant
    for wrong in forged:
        with pytest.raises(Unauthenticated):
            known.granted("ticket", wrong)
    with pytest.raises(Unauthenticated):
        known.granted("login", text)
    clock.now += 59.9
    known.granted("ticket", text)
    clock.now += 0.1
    with pytest.raises(Unauthenticated):
        known.granted("ticket", text)


def test_lives() -> None:
    """Nothing outlives the token it was given for; a ticket's streams stay as long as that, a login's as the login."""
    clock = Clock()
    known = authority(clock)
    short = Identity("alice", clock.now + 10)
    text, until = known.grant("ticket", short)
    assert (until, known.granted("ticket", text).expires_at) == (clock.now + 10, clock.now + 10)
    text, until = known.grant("ticket", Identity("alice", clock.now + 500))
    assert (until, known.granted("ticket", text).expires_at) == (clock.now + 60, clock.now + 500)
    text, until = known.grant("login", Identity("alice"))
    login = known.granted("login", text)
    assert until == login.expires_at == clock.now + 3600
    clock.now += 3000
    assert known.grant("login", login)[1] == until
    with pytest.raises(BadRequest):
        known.grant("ticket", ANYBODY)


def test_log_out() -> None:
    """What a user was given before is good no more; what comes after is, and other users' is.

    The same log-out twice is no news, nor is one from before whatever is good still was given; such are dropped.
    """
    clock = Clock()
    known = authority(clock)
    before = {user: known.grant("login", Identity(user))[0] for user in ("alice", "bob")}
    clock.now += 1
    assert known.log_out("alice", clock.now)
    assert not known.log_out("alice", clock.now)
    with pytest.raises(Unauthenticated):
        known.granted("login", before["alice"])
    known.granted("login", before["bob"])
    clock.now += 1
    known.granted("login", known.grant("login", Identity("alice"))[0])
    clock.now += 4000
    assert known.log_out("bob", clock.now)
    assert not known.log_out("alice", clock.now - 3600)
    assert list(known._logged_out) == ["bob"]


def test_random_secrets_differ() -> None:
    """Two processes that were given no secret do not take each other's tickets."""
    one, two = (Signer(None) for _ in range(2))
    text = one.sign("ticket", Grant("alice", 0, 1, None, None))
    assert one.read("ticket", text) is not None
    assert two.read("ticket", text) is None


async def test_a_ticket_opens_streams_again_and_again(guarded: Running, puppets: Puppets) -> None:
    """An EventSource starts with a ticket in its URL, and its reconnect to the same URL resumes; only its user's do."""
    query = f"message=hi&ticket={await ticket(guarded)}"
    first = await follow(guarded, query)
    puppet = await puppets.next()
    assert puppet.request.user_id == "alice"
    puppet.say("a")
    event = json.loads(await first.next() or b"")
    await first.close()
    again = await follow(guarded, query, **{"last-event-id": event["id"]})
    assert json.loads(await again.next() or b"")["type"] == "LLM_CHUNK"
    await again.close()
    async with asking(guarded) as client:
        other = await client.get(
            f"/chat/stream?ticket={await ticket(guarded, 'bob')}", headers={"last-event-id": event["id"]}
        )
        assert (other.status_code, other.json()["code"]) == (404, "run_not_found")
        assert (await client.get(f"/runs/{first.run_id}?{query}")).status_code == 200
    assert puppets.started == 1


async def test_a_ticket_is_for_reading_urls(guarded: Running) -> None:
    """In a POST a ticket counts for nothing: no page's form can bring one in."""
    text = await ticket(guarded)
    async with asking(guarded) as client:
        for path in ("/runs", "/tickets", "/login", "/logout", "/chat"):
            assert (await client.post(f"{path}?ticket={text}", json={"message": "hi"})).status_code == 401


async def test_a_ticket_for_one_run(guarded: Running, puppets: Puppets) -> None:
    """It follows that run, on either transport, and is good for nothing else; none is given for a foreign run."""
    async with asking(guarded, "alice") as alice, asking(guarded) as nobody, asking(guarded, "bob") as bob:
        mine, other = [(await alice.post("/runs", json={"message": "hi"})).json()["run_id"] for _ in range(2)]
        assert (await bob.post("/tickets", json={"run_id": mine})).status_code == 404
        text = await ticket(guarded, run_id=mine)
        stream = await follow(guarded, f"ticket={text}", f"/runs/{mine}/events")
        await stream.close()
        assert (await nobody.get(f"/runs/{other}?ticket={text}")).status_code == 404
        for path in (f"/runs/{mine}", f"/runs/{mine}/snapshot", "/runs"):
            assert (await nobody.get(f"{path}?ticket={text}")).status_code == 200
        for path in ("/chat/stream?message=hi&", "/metrics?", "/schema?", "/schema/openapi.json?", "/v1/models?"):
            refused = await nobody.get(f"{path}ticket={text}")
            assert (refused.status_code, '"code":"forbidden"' in refused.text) == (403, True)
    async with connect(f"{guarded.ws_url}?ticket={text}", proxy=None) as socket:
        for command, answer in (
            ({"type": "attach", "run_id": other}, "run_not_found"),
            ({"type": "cancel", "run_id": other}, "forbidden"),
            ({"type": "cancel", "run_id": mine}, "forbidden"),
            ({"type": "start", "request_id": "r", "message": "hi"}, "forbidden"),
            ({"type": "attach", "run_id": mine}, "attached"),
        ):
            await socket.send(json.dumps(command))
            reply = json.loads(await socket.recv())
            assert reply.get("code", reply["type"]) == answer
    assert puppets.started == 2


async def test_the_cookie_of_a_login(guarded: Running, puppets: Puppets) -> None:
    """It opens all that a token opens, for pages of the server's own and the listed origins; no script can read it."""
    async with asking(guarded) as browser:
        response = await browser.post("/login", headers=bearer("alice"))
        assert (response.status_code, response.json()["user_id"]) == (200, "alice")
        parts = {part.strip().lower() for part in response.headers["set-cookie"].split(";")[1:]}
        assert parts == {"httponly", "samesite=strict", "path=/", "max-age=43200"}
        run = await browser.post("/runs", json={"message": "hi"}, headers={"origin": guarded.url})
        assert (run.status_code, run.json()["user_id"]) == (201, "alice")
        cookie = {"cookie": f'a={{"b":1}}; [; twinwire_login={browser.cookies["twinwire_login"]}'}
        assert (await browser.post("/tickets")).status_code == 201
    async with connect(guarded.ws_url, proxy=None, additional_headers=cookie) as socket:
        await socket.send('{"type":"ping"}')
        assert await socket.recv() == '{"type":"pong"}'
    async with asking(guarded, None, **cookie) as page:
        for origin, status in (("http://app.example", 200), ("http://evil", 401)):
            response = await page.get(run.headers["location"], headers={"origin": origin})
            assert response.status_code == status
            for name, value in (("access-control-allow-origin", origin), ("access-control-allow-credentials", "true")):
                assert response.headers.get(name) == (value if status == 200 else None)


async def test_a_cookie_is_no_credential_where_any_origin_may_ask(puppets: Puppets) -> None:
    """With `--cors-origin '*'` a foreign page asks as nobody, whatever cookie comes along."""
    async with serving({"mine": puppets}, cors_origin=("*",), **AUTH) as server:
        async with asking(server) as browser:
            await browser.post("/login", headers=bearer("alice"))
            cookie = {"cookie": f"twinwire_login={browser.cookies['twinwire_login']}", "origin": "http://evil"}
            assert (await browser.get("/metrics")).status_code == 200
            response = await browser.get("/metrics", headers=cookie)
            assert response.status_code == 401
            assert "access-control-allow-credentials" not in response.headers
        async with connect(server.ws_url, proxy=None, additional_headers=cookie) as socket:
            await socket.send('{"type":"ping"}')
            assert json.loads(await socket.recv())["code"] == "unauthenticated"


async def test_a_cookie_of_https_is_for_https(puppets: Puppets) -> None:
    """Behind a proxy that ends TLS, as it says, the cookie is never sent in the clear."""
    async with serving({"mine": puppets}, **AUTH) as server, asking(server, "alice") as client:
        response = await client.post("/login", headers={"x-forwarded-proto": "https"})
        assert "; secure" in response.headers["set-cookie"].lower()


async def test_streams_end_when_their_login_does(puppets: Puppets) -> None:
    """At its expiry a stream is broken and a socket closed with 4001, within about a second; the run goes on."""
    async with serving({"mine": puppets}, login_life=1.5, heartbeat=0.4, **AUTH) as server, asking(server) as browser:
        began = time.time()
        await browser.post("/login", headers=bearer("alice"))
        cookie = {"cookie": f"twinwire_login={browser.cookies['twinwire_login']}"}
        stream = await follow(server, "message=hi", **cookie)
        async with (
            connect(server.ws_url, proxy=None, additional_headers=cookie) as socket,
            connect(server.ws_url, proxy=None, additional_headers=cookie) as renewed,
        ):
            await renewed.send(json.dumps({"type": "auth", "token": TOKENS["alice"]}))
            assert json.loads(await renewed.recv())["type"] == "authenticated"
            with pytest.raises(ConnectionClosed) as caught:
                await socket.recv()
            with pytest.raises(Broken):
                while True:
                    await stream.next()
            assert time.time() - began >= 1.4
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 4001
            await renewed.send('{"type":"ping"}')
            assert await renewed.recv() == '{"type":"pong"}'
        assert (await browser.get(f"/runs/{stream.run_id}", headers=cookie)).status_code == 401
        assert (await browser.get(f"/runs/{stream.run_id}", headers=bearer("alice"))).json()["status"] == "running"
        await stream.close()


async def test_a_refused_page_learns_nothing(guarded: Running) -> None:
    """A page of a foreign origin opens no socket, whatever it has."""
    headers: dict[str, Any] = {**bearer("alice"), "Origin": "http://evil"}
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{guarded.ws_url}?ticket={await ticket(guarded)}", proxy=None, additional_headers=headers)
    assert refused.value.response.status_code == 403
