"""HTTP as the web expects it: what caches may keep, HEAD, OPTIONS and Allow, CORS, on every route there is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from litestar import Litestar, get
from litestar.routes import HTTPRoute
from websockets.asyncio.client import connect

from support.credentials import AUTH, asking
from support.serving import Puppets, Running, serving
from twinwire import AgentSpec
from twinwire.settings import Settings
from twinwire.web.answers import quality
from twinwire.web.app import create_app

APP = "tauri://localhost"
PAGE = "https://app.example"


def routes(app: Litestar) -> Iterator[tuple[str, frozenset[str]]]:
    """Give each path of the app, mounted ones too, and the methods that it answers."""
    for route in app.routes:
        yield route.path_format, frozenset(route.methods) if isinstance(route, HTTPRoute) else frozenset({"GET"})


ROUTES = dict(sorted(routes(create_app(settings=Settings()))))
STATIC = ("/", "/page/{file_path}", "/client/{file_path}")


def filled(path: str, run_id: str) -> str:
    """Make a URL of a route's path, whose parameters name something that is there."""
    values = {"run_id": run_id, "chat_id": "c", "name": "mine", "path": "nope", "input_id": "i", "user_id": "u"}
    values["file_path"] = "page.js" if path.startswith("/page") else "index.js"
    return path.format(**values)


@pytest.fixture
async def server(puppets: Puppets) -> AsyncIterator[Running]:
    async with serving({"mine": puppets}, cors_origin=(PAGE, APP), cors_header=("traceparent",)) as running:
        yield running


@pytest.fixture
async def run_id(server: Running, puppets: Puppets) -> str:
    """A run of the session `c` that goes on."""
    async with asking(server) as client:
        found = (await client.post("/runs", json={"message": "hi", "session_id": "c"})).json()["run_id"]
    (await puppets.next()).say("a")
    return str(found)


async def head_of(client: httpx.AsyncClient, method: str, path: str, **options: Any) -> httpx.Response:
    """Ask, and read no more than the head: a stream would not end."""
    async with client.stream(method, path, **options) as response:
        return response


async def test_what_caches_may_keep(server: Running, run_id: str) -> None:
    """No cache keeps an answer, or changes a stream; the page's files are asked for again each time, by their ETag."""
    async with asking(server, origin=server.url) as client:
        for path, method in (
            (path, method) for path, methods in ROUTES.items() for method in methods | {"HEAD", "PUT"}
        ):
            response = await head_of(client, method, filled(path, run_id))
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                expected = "no-cache, no-transform"
            elif path in STATIC and method in {"GET", "HEAD"}:
                expected = "no-cache"
            else:
                expected = "no-store"
            assert response.headers.get_list("cache-control") == [expected], (method, path)
            assert response.headers["date"], (method, path)


async def test_no_cache_keeps_an_error(server: Running, puppets: Puppets) -> None:
    """That goes for the framework's errors, for a stream that is put off, and for what is refused before all routes."""

    @get("/broken")
    async def broken() -> None:
        raise RuntimeError

    server.service.runs.agents["mine"] = AgentSpec(puppets)
    app = server.server.config.app
    assert isinstance(app, Litestar)
    app.register(broken)
    async with asking(server) as client:
        for method, path, status in (
            ("GET", "/nope", 404),
            ("GET", f"/runs/{'a' * 26}", 404),
            ("DELETE", "/runs", 405),
            ("GET", "/chat", 400),
            ("GET", "/broken", 500),
            ("GET", "/ws", 426),
        ):
            response = await client.request(method, path)
            assert (response.status_code, response.headers["cache-control"]) == (status, "no-store")
            assert int(response.headers["content-length"]) == len(response.content)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")  # without a Host
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"\r\ncache-control: no-store" in head
    assert b"\r\ndate: " in head
    assert json.loads(body)["code"] == "bad_request"
    async with serving({"mine": puppets}, max_connections=1) as full, asking(full) as client:
        run = (await client.post("/runs", json={"message": "hi"})).json()["run_id"]
        async with (
            client.stream("GET", f"/runs/{run}/events") as first,
            client.stream("GET", f"/runs/{run}/events") as second,
        ):
            assert first.headers["cache-control"] == second.headers["cache-control"] == "no-cache, no-transform"


async def test_head_is_where_get_is(server: Running, run_id: str, puppets: Puppets) -> None:
    """HEAD has the status and the fields of GET and no content, ends at once, and starts no run."""
    differ = {"date", "x-request-id", "transfer-encoding", "connection"}
    started = puppets.started
    async with asking(server) as client:
        for path in (path for path, methods in ROUTES.items() if "GET" in methods):
            asked = await client.head(filled(path, run_id))
            assert asked.content == b""
            given = await head_of(client, "GET", filled(path, run_id))
            assert asked.status_code == given.status_code, path
            beside = differ | ({"content-length"} if path == "/metrics" else set())  # its figures change
            fields = [{k: v for k, v in answer.headers.items() if k not in beside} for answer in (asked, given)]
            assert fields[0] == fields[1], path
    assert puppets.started == started


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
@pytest.mark.parametrize("stream", ["true", "false"])
async def test_head_starts_no_run(path: str, stream: str, server: Running, puppets: Puppets) -> None:
    """Where GET would start a run, HEAD says what kind of answer it would have."""
    async with asking(server) as client:
        response = await client.head(path, params={"message": "hi", "stream": stream})
        kind = "text/event-stream; charset=utf-8" if stream == "true" else "application/json"
        assert (response.status_code, response.headers["content-type"]) == (200, kind)
        assert "content-length" not in response.headers
        assert (await client.head(path, params={"stream": stream})).status_code == 400
    assert puppets.started == 0


async def test_head_follows_nothing(server: Running, puppets: Puppets) -> None:
    """HEAD of a run's events is no follower: a run that its last follower's leaving cancels goes on."""
    async with asking(server) as client:
        start = {"message": "hi", "session_id": "c", "on_disconnect": "cancel"}
        run_id = (await client.post("/runs", json=start)).json()["run_id"]
        (await puppets.next()).say("a")
        for path in (f"/runs/{run_id}/events", "/ai-sdk/chat/c/stream"):
            response = await client.head(path)
            assert (response.status_code, response.headers["twinwire-run"]) == (200, run_id)
        assert (await client.get("/metrics")).text.count('twinwire_connections{transport="sse"} 0.0') == 1
        assert (await client.get(f"/runs/{run_id}")).json()["status"] == "running"


async def test_allow_is_complete(server: Running, run_id: str) -> None:
    """A 405 names all methods, HEAD and OPTIONS too, as the answer to OPTIONS does, and no other."""
    async with asking(server) as client:
        for path, methods in ROUTES.items():
            refused = await client.request("PATCH", filled(path, run_id), headers={"origin": server.url})
            assert refused.status_code == 405, path
            expected = methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
            assert refused.headers["allow"].split(", ") == sorted(expected), path
            asked = await client.options(filled(path, run_id))
            assert (asked.status_code, asked.content, asked.headers["allow"]) == (204, b"", refused.headers["allow"]), (
                path
            )


async def test_options_needs_no_credential(puppets: Puppets) -> None:
    """What a browser asks before it may send a credential is answered without one."""
    async with serving({"mine": puppets}, cors_origin=(PAGE,), **AUTH) as server, asking(server, None) as client:
        asked = {"origin": PAGE, "access-control-request-method": "POST"}
        response = await client.options("/runs", headers=asked)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (204, PAGE)
        assert (await client.options("/runs")).status_code == 204


async def test_options_of_the_server(server: Running) -> None:
    """`OPTIONS *` is answered, and the connection lives."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for status in (b"204", b"200"):
        assert (await reader.readuntil(b"\r\n\r\n")).split()[1] == status
    writer.close()


@pytest.mark.parametrize("origin", [PAGE, APP, "https://evil.example", None])
async def test_cors_is_on_every_answer(origin: str | None, server: Running, run_id: str) -> None:
    """A listed origin may read each answer, errors and streams too; each says that it depends on the origin."""
    listed = origin in {PAGE, APP}
    async with asking(server, **({} if origin is None else {"origin": origin})) as client:
        for path, method in ((path, method) for path in ROUTES for method in ("GET", "PATCH")):
            response = await head_of(client, method, filled(path, run_id))
            assert "Origin" in response.headers["vary"].split(", "), path
            assert response.headers.get("access-control-allow-origin") == (origin if listed else None), path
            assert ("access-control-expose-headers" in response.headers) == listed, path


async def test_preflight(server: Running) -> None:
    """Its answer is kept for two hours and names the methods and headers, those of the setting too."""
    async with asking(server) as client:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "traceparent,baggage"}
        response = await client.options("/runs", headers={"origin": APP, **asked})
        assert response.headers["access-control-max-age"] == "7200"
        assert response.headers["access-control-allow-methods"] == "GET, HEAD, POST, DELETE"
        allowed = response.headers["access-control-allow-headers"].split(", ")
        assert {"content-type", "last-event-id", "authorization", "traceparent"} <= {*allowed}
        assert "baggage" not in allowed
        refused = await client.options("/runs", headers={"origin": "https://evil.example", **asked})
        assert not [name for name in refused.headers if name.startswith("access-control")]


APPS = [APP, "capacitor://localhost", "ionic://localhost", "file://", "chrome-extension://abcdefghijklmnop", "null"]


@pytest.mark.parametrize("origin", APPS)
@pytest.mark.parametrize("listed", [True, False])
async def test_app_shells(origin: str, listed: bool, puppets: Puppets) -> None:
    """The origin of an app's shell starts, reads and opens a socket if it is listed, and else nothing of it."""
    origins = (origin,) if listed else (PAGE,)
    async with (
        serving({"mine": puppets}, cors_origin=origins) as server,
        asking(server, origin=origin) as client,
    ):
        started = await client.post("/runs", json={"message": "hi"})
        assert started.status_code == (201 if listed else 403)
        assert started.headers.get("access-control-allow-origin") == (origin if listed else None)
        handshake = connect(server.ws_url, proxy=None, additional_headers={"origin": origin})
        if listed:
            async with handshake as socket:
                await socket.send('{"type":"ping"}')
                assert await socket.recv() == '{"type":"pong"}'
        else:
            with pytest.raises(Exception, match="403"):
                await handshake


@pytest.mark.parametrize(("origin", "trusted"), [(PAGE, True), (APP, True), ("null", False)])
async def test_null_is_nobody_with_a_cookie(origin: str, trusted: bool, puppets: Puppets) -> None:
    """Any page's sandbox has the origin `null`: a login's cookie counts for nothing with it, on either transport."""
    async with serving({"mine": puppets}, cors_origin=("null", PAGE, APP), **AUTH) as server:
        async with asking(server, "alice") as client:
            cookie = (await client.post("/login")).headers["set-cookie"].partition(";")[0]
        sent = {"origin": origin, "cookie": cookie}
        async with asking(server, None) as client:
            response = await client.get("/runs", headers=sent)
            assert response.status_code == (200 if trusted else 401)
            assert response.headers["access-control-allow-origin"] == origin
            assert response.headers.get("access-control-allow-credentials") == ("true" if trusted else None)
        async with connect(server.ws_url, proxy=None, additional_headers=sent) as socket:
            await socket.send('{"type":"ping"}')
            assert (await socket.recv() == '{"type":"pong"}') == trusted


@pytest.mark.parametrize(
    ("accept", "weight"),
    [
        ("text/event-stream", 1.0),
        ("*/*", 1.0),
        ("text/*;q=0.5", 0.5),
        ("application/json, text/event-stream ; Q = 0.3", 0.3),
        ("text/event-stream;q=0, */*", 0.0),
        ("*/*;q=0, text/event-stream;q=0.001", 0.001),
        ("text/*;q=0, */*", 0.0),
        ("text/event-stream;q=0.000", 0.0),
        ("text/event-stream;q=nonsense", 1.0),
        ("text/event-stream;charset=utf-8;q=0.2", 0.2),
        ("application/json", None),
        (",", None),
    ],
)
def test_negotiation(accept: str, weight: float | None) -> None:
    """The most specific range that is in the field decides (RFC 9110, section 12.5.1)."""
    assert quality(accept, "text/event-stream", "text/*", "*/*") == weight
