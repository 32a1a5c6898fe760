"""The application's own users: `authenticate`, over HTTP and WebSocket alike."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from support.followers import KINDS
from support.hosts import HOSTS, Address, authenticate_of, each_host, hosted, settings
from support.serving import Puppets, echo
from twinwire import Twinwire
from twinwire.web import authentication
from twinwire.web.authentication import Authenticate

each_kind = pytest.mark.parametrize("kind", KINDS)


@asynccontextmanager
async def alone(authenticate: Any, agents: Any = None, **told: Any) -> AsyncIterator[tuple[Twinwire, Address]]:
    """Serve an app without an application around it."""
    ai = Twinwire(agents or {"echo": echo}, settings=settings(**told), authenticate=authenticate)
    async with hosted(ai, "") as address:
        yield ai, address


def by_header(connection: Any) -> str | None:
    name: str | None = connection.headers.get("x-user")
    return name


async def asked(kind: str, address: Address, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Start a run with these headers: the status, or the socket's close code, and the answer."""
    if kind == "sse":
        async with httpx.AsyncClient(base_url=address.url, trust_env=False, timeout=20) as http:
            told = await http.post("/runs", json={"message": "hi"}, headers=headers)
            return told.status_code, told.json()
    async with connect(address.ws_url, additional_headers=headers, compression=None, proxy=None) as socket:
        try:
            await socket.send(json.dumps({"type": "start", "request_id": "r1", "message": "hi"}))
            return 201, json.loads(await socket.recv())
        except ConnectionClosed as error:
            return (error.rcvd.code, {"message": error.rcvd.reason}) if error.rcvd else (0, {})


def cookies(http: httpx.AsyncClient) -> str:
    return "; ".join(f"{cookie.name}={cookie.value}" for cookie in http.cookies.jar)


@each_kind
@each_host
async def test_users_of_the_host(host: str, kind: str) -> None:
    """A run belongs to the user of the host's session; nobody else sees it, and without a login the answer is 401."""
    ai = Twinwire({"echo": echo}, settings=settings(), authenticate=authenticate_of(host))
    async with (
        hosted(HOSTS[host](ai), lifespan="off" if host == "django" else "on") as address,
        httpx.AsyncClient(base_url=address.home, trust_env=False, timeout=20) as http,
    ):
        refused = {"sse": (401, "A valid credential is required."), "ws": (4501, "A valid credential is required.")}
        status, told = await asked(kind, address, {})
        assert (status, told["message"]) == refused[kind]
        assert (await http.get("/login?user=ann")).text == "in"
        status, told = await asked(kind, address, {"cookie": cookies(http)})
        assert status == 201
        run = (await http.get(f"/ai/runs/{told['run_id']}")).json()
        assert run["user_id"] == "ann"
        assert [run["run_id"] for run in (await http.get("/ai/runs")).json()["runs"]] == [told["run_id"]]
        claimed = await http.post("/ai/runs", json={"message": "hi", "user_id": "bob"})
        assert (claimed.status_code, claimed.json()["field"]) == (400, "user_id")
        await http.get("/login?user=bob")
        assert (await http.get(f"/ai/runs/{told['run_id']}")).status_code == 404
        await http.get("/logout")
        http.cookies.clear()
        assert (await http.get(f"/ai/runs/{told['run_id']}")).status_code == 401


async def known_later(connection: Any) -> str | None:
    await asyncio.sleep(0)
    return by_header(connection)


def awaited(connection: Any) -> Any:
    return known_later(connection)


class Known:
    """An object that is called."""

    async def __call__(self, connection: Any) -> str | None:
        return await known_later(connection)


@each_kind
@pytest.mark.parametrize(
    "authenticate",
    [by_header, known_later, Known(), awaited],
    ids=["sync", "async", "object", "awaitable"],
)
async def test_each_kind_of_function(authenticate: Authenticate, kind: str) -> None:
    """A function, an async one, an object and one that returns an awaitable all tell the user."""
    async with alone(authenticate) as (ai, address):
        status, told = await asked(kind, address, {"x-user": "ann"})
        assert status == 201
        assert (await ai.service.runs.log.state(told["run_id"])).info.user_id == "ann"
        assert (await asked(kind, address, {}))[0] in {401, 4501}


async def test_one_that_is_not_async_runs_beside() -> None:
    """A function that is not async is called in a thread, where it may block."""
    threads = []

    def authenticate(_: Any) -> str:
        threads.append(threading.current_thread())
        time.sleep(0.01)
        return "ann"

    async with alone(authenticate) as (_, address):
        assert (await asked("sse", address, {}))[0] == 201
    assert threads[0] is not threading.main_thread()
    assert threads[0].daemon


@each_kind
@pytest.mark.parametrize("user", [7, UUID(int=7), "é", "a" * 128], ids=str)
async def test_ids_of_users(user: Any, kind: str) -> None:
    """A number, a UUID and a text are the user's id, as a text."""
    async with alone(lambda _: user) as (ai, address):
        _, told = await asked(kind, address, {})
        assert (await ai.service.runs.log.state(told["run_id"])).info.user_id == str(user)


@each_kind
@pytest.mark.parametrize("user", ["", "a" * 129, "a\nb", True, {"id": 7}, b"ann", 7.5], ids=repr)
async def test_what_is_no_user(user: Any, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is no id is the server's error, and its log says what would be right."""
    async with alone(lambda _: user) as (_, address):
        status, told = await asked(kind, address, {})
        assert status in {500, 4500}
        assert told["message"] == "The server had an internal error."
    assert "must return None or the user's id" in caplog.text


class Failure(BaseException):
    """What no application should raise."""


@each_kind
@pytest.mark.parametrize("error", [RuntimeError("secret"), SystemExit(), Failure()], ids=repr)
async def test_a_function_that_fails(error: BaseException, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it raises, the answer is 503 without its words, the log has them, and the server goes on."""
    failing = True

    async def authenticate(_: Any) -> str:
        if failing:
            raise error
        return "ann"

    async with alone(authenticate) as (_, address):
        status, told = await asked(kind, address, {})
        assert status in {503, 4013}
        assert told["message"] == "The application could not tell who is asking. Try again later."
        failing = False
        assert (await asked(kind, address, {}))[0] == 201
    assert "The application's `authenticate` failed." in caplog.text


@each_kind
@pytest.mark.parametrize("blocks", [True, False], ids=["sync", "async"])
async def test_a_function_that_hangs(blocks: bool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not return in time is answered with 503, and others are served meanwhile."""
    monkeypatch.setattr(authentication, "SECONDS", 0.3)
    go_on = threading.Event()

    def hang(connection: Any) -> str | None:
        if connection.headers.get("x-slow"):
            go_on.wait(20)
        return by_header(connection)

    async def never(connection: Any) -> str | None:
        if connection.headers.get("x-slow"):
            await asyncio.Event().wait()
        return by_header(connection)

    async with alone(hang if blocks else never) as (_, address):
        slow = asyncio.create_task(asked(kind, address, {"x-user": "ann", "x-slow": "1"}))
        assert (await asked(kind, address, {"x-user": "bob"}))[0] == 201
        assert (await slow)[0] in {503, 4013}
        go_on.set()


@each_kind
async def test_credentials_of_twinwires_own(kind: str) -> None:
    """A token of the list and one of the application's are both good; a ticket is given for either user."""
    async with alone(
        lambda connection: {"Bearer theirs": "bob"}.get(connection.headers.get("authorization", "")),
        auth_tokens=("ann:" + "t" * 16,),
    ) as (ai, address):
        users = []
        for token in ("t" * 16, "theirs"):
            _, told = await asked(kind, address, {"authorization": f"Bearer {token}"})
            users.append((await ai.service.runs.log.state(told["run_id"])).info.user_id)
        assert users == ["ann", "bob"]
        assert (await asked("sse", address, {"authorization": "Bearer no"}))[0] == 401
        async with httpx.AsyncClient(base_url=address.url, trust_env=False) as http:
            ticket = (await http.post("/tickets", headers={"authorization": "Bearer theirs"})).json()["ticket"]
            assert (await http.get("/runs", params={"ticket": ticket})).status_code == 200
            assert (await http.get("/runs", params={"ticket": ticket + "x"})).status_code == 401


async def test_open_paths_ask_nobody() -> None:
    """The page, its files and the probes are there without a user, and `authenticate` is not called for them."""
    called: list[Any] = []
    async with (
        alone(called.append) as (_, address),
        httpx.AsyncClient(base_url=address.url, trust_env=False) as http,
    ):
        for path in ("/", "/page/page.js", "/client/index.js", "/healthz", "/readyz"):
            assert (await http.get(path)).status_code == 200
        assert called == []
        assert (await http.get("/runs")).status_code == 401
        assert len(called) == 1


@pytest.mark.parametrize(
    ("origin", "listed", "status"),
    [
        (None, (), 200),
        ("http://elsewhere.example", ("*",), 401),
        ("null", ("null",), 401),
        ("http://elsewhere.example", ("http://elsewhere.example",), 200),
        ("http://elsewhere.example", (), 401),
    ],
)
async def test_pages_of_other_sites(origin: str | None, listed: tuple[str, ...], status: int) -> None:
    """What a browser sends along by itself counts for the server's own pages and for listed ones, not for any page."""
    async with (
        alone(lambda connection: connection.cookies.get("session"), cors_origin=listed) as (_, address),
        httpx.AsyncClient(base_url=address.url, trust_env=False, cookies={"session": "ann"}) as http,
    ):
        headers = {} if origin is None else {"origin": origin}
        told = await http.get("/runs", headers=headers)
        assert told.status_code == status
        credentials = origin is not None and listed == (origin,) and origin != "null"
        assert told.headers.get("access-control-allow-credentials") == ("true" if credentials else None)
        bearer = await http.get("/runs", headers={**headers, "authorization": "Bearer theirs"})
        assert bearer.status_code == 200  # no browser sends that by itself


async def test_log_out(puppets: Puppets) -> None:
    """`log_out` ends the streams and sockets of that user, and of nobody else; the next request is asked about anew."""
    async with alone(by_header, {"mine": puppets}) as (ai, address):
        sockets: list[ClientConnection] = []
        for name in ("ann", "bob"):
            sockets.append(await connect(address.ws_url, additional_headers={"x-user": name}, proxy=None))
            await sockets[-1].send('{"type": "ping"}')
            assert json.loads(await sockets[-1].recv())["type"] == "pong"
        await ai.log_out("ann")
        with pytest.raises(ConnectionClosed) as caught:
            await sockets[0].recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 4501
        await sockets[1].send('{"type": "ping"}')
        assert json.loads(await sockets[1].recv())["type"] == "pong"
        assert (await asked("ws", address, {"x-user": "ann"}))[0] == 201
        for socket in sockets:
            await socket.close()


async def test_the_host_is_seen() -> None:
    """The connection has the host's own app, state, URL and client."""
    seen: dict[str, Any] = {}

    def authenticate(connection: Any) -> str:
        scope = connection.scope
        seen.update(
            app=scope["app"], path=connection.url.path, state=scope["state"].get("by"), query=connection.query_params
        )
        return "ann"

    ai = Twinwire({"echo": echo}, settings=settings(), authenticate=authenticate)
    inner: Any = HOSTS["starlette"](ai)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["state"] = {**scope.get("state", {}), "by": "middleware"}
        await inner(scope, receive, send)

    async with hosted(app) as address, httpx.AsyncClient(base_url=address.url, trust_env=False) as http:
        assert (await http.get("/runs?user_id=ann")).status_code == 200
        assert seen["app"] is inner
        assert seen["path"] == "/ai/runs"
        assert seen["state"] == "middleware"
        assert seen["query"]["user_id"] == "ann"
