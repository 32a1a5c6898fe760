"""Which hosts the server answers for, which pages may ask it for something, and which may read over HTTP."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from support.serving import Puppets, Running, serving


def browser(server: Running, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, verify=False, timeout=20)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("http://127.0.0.1:{port}", True),
        ("https://127.0.0.1:{port}", True),  # TLS may end in front of us
        ("http://app.example", True),
        ("http://127.0.0.1:1", False),
        ("http://127.0.0.1", False),
        ("http://app.example.evil", False),
        ("http://evil", False),
        ("null", False),
        ("http://[", False),
        ("http://127.0.0.1:{port}, http://evil", False),
        ("", False),
    ],
)
async def test_origins(origin: str | None, allowed: bool, puppets: Puppets) -> None:
    """A page of the server's own or a configured origin may open a socket and start runs, as programs may; no other."""
    async with serving({"mine": puppets}, cors_origin=("http://app.example",)) as server:
        sent = None if origin is None else origin.format(port=server.port)
        headers = {} if sent is None else {"Origin": sent}
        if allowed:
            async with connect(server.ws_url, proxy=None, additional_headers=headers) as socket:
                await socket.send('{"type":"ping"}')
                assert await socket.recv() == '{"type":"pong"}'
        else:
            with pytest.raises(InvalidStatus) as refused:
                await connect(server.ws_url, proxy=None, additional_headers=headers)
            assert refused.value.response.status_code == 403
        async with browser(server, **headers) as client:
            started = await client.post("/runs", json={"message": "hi"})
            assert started.status_code == (201 if allowed else 403)
            unstarted = await client.get("/chat?after=abc")
            assert unstarted.status_code == 400
            if not allowed:
                assert started.json()["code"] == "origin_not_allowed"
                assert (await client.get("/chat/stream?message=hi")).status_code == 403
                assert (await client.post(f"/runs/{'a' * 26}/cancel")).status_code == 403
                assert (await client.post("/chat?message=hi")).status_code == 403
    assert puppets.started == int(allowed)


@pytest.mark.parametrize(
    ("site", "mode", "origin", "status"),
    [
        ("cross-site", "no-cors", None, 403),  # <img src>
        ("cross-site", "navigate", None, 403),  # a link
        ("same-site", "no-cors", None, 403),  # another port of this host is another origin
        ("same-site", "navigate", None, 403),
        ("cross-site", "no-cors", "http://app.example", 403),
        ("cross-site", "cors", "http://evil", 403),
        ("cross-site", "cors", "http://app.example", 200),  # its EventSource, or fetch
        ("same-origin", "cors", None, 200),
        ("same-origin", "navigate", None, 200),
        ("same-origin", "no-cors", None, 200),
        ("none", "navigate", None, 200),  # typed by the user
        (None, None, None, 200),  # a program
    ],
)
async def test_what_a_page_has_a_browser_get(
    site: str | None, mode: str | None, origin: str | None, status: int, puppets: Puppets
) -> None:
    """No page of another site starts a run with a mere image or link; a listed one does with an EventSource."""
    sent = {"sec-fetch-site": site, "sec-fetch-mode": mode, "origin": origin}
    headers = {name: value for name, value in sent.items() if value is not None}
    async with (
        serving({"mine": puppets}, cors_origin=("http://app.example",)) as server,
        browser(server, **headers) as client,
    ):
        async with client.stream("GET", "/chat/stream?message=hi") as response:
            assert response.status_code == status
        assert (await client.get("/")).status_code == 200
        assert (await client.get(f"/runs/{'a' * 26}")).status_code == 404
    assert puppets.started == (status == 200)


LOOPBACK = [
    "127.0.0.1",
    "127.0.0.1:1",
    "127.1.2.3",
    "localhost",
    "LOCALHOST:8000",
    "localhost.",
    "app.localhost",
    "[::1]",
]
ELSEWHERE = ["", "evil", "evil:8000", "localhost.evil", "127.0.0.1.evil", "192.168.1.1", "[::2]", "[", "a@localhost.x"]


async def shake_hands(server: Running, host: str) -> int:
    """The status that a WebSocket's handshake is answered with."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    lines = ["GET /ws HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    status = int((await reader.readline()).split()[1])
    writer.close()
    await writer.wait_closed()
    return status


@pytest.mark.parametrize("host", [*LOOPBACK, *ELSEWHERE, "app.example", "APP.example:8443"])
@pytest.mark.parametrize("listed", [(), ("app.example",)], ids=["default", "listed"])
async def test_hosts(host: str, listed: tuple[str, ...], puppets: Puppets) -> None:
    """On loopback only its names and those listed are answered, so that no page's DNS name can be pointed here."""
    allowed = host in LOOPBACK or (bool(listed) and host.lower().startswith("app.example"))
    async with serving({"mine": puppets}, allowed_host=listed) as server:
        async with browser(server, host=host) as client:
            response = await client.get("/chat?after=abc")
            if allowed:
                assert response.status_code == 400
            else:
                assert (response.status_code, response.json()["code"]) == (421, "bad_host")
                assert (await client.get("/")).status_code == 421
                assert (await client.get("/healthz")).status_code == 200
        assert await shake_hands(server, host) == (101 if allowed else 403)
    assert puppets.started == 0


async def test_any_host(puppets: Puppets) -> None:
    """Where `*` is listed any name will do."""
    async with serving({"mine": puppets}, allowed_host=("*",)) as server, browser(server, host="evil") as client:
        assert (await client.get("/chat?after=abc")).status_code == 400


@pytest.mark.parametrize(
    "path",
    ["/", "/healthz", "/nope", "/chat", "/runs/x", "/metrics", "/schema/openapi.json", "/chat/stream?message=hi"],
)
async def test_security_headers(path: str, server: Running) -> None:
    """Every answer says that its type is what it is, that nobody may frame it, and that it is nobody's referrer."""
    async with browser(server) as client, client.stream("GET", path) as response:
        assert response.headers.get_list("x-content-type-options") == ["nosniff"]
        assert response.headers.get_list("referrer-policy") == ["no-referrer"]
        (policy,) = response.headers.get_list("content-security-policy")
        assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("page", ["redoc", "swagger", "elements", "rapidoc", "nope"])
async def test_no_page_of_the_frameworks(page: str, server: Running) -> None:
    """The framework's pages about the OpenAPI, which run a foreign site's script as ours, are paths we do not have."""
    async with browser(server) as client:
        response = await client.get(f"/schema/{page}")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_content_types(server: Running) -> None:
    """What an answer is says its character set once."""
    types = {
        "/": "text/html; charset=utf-8",
        "/metrics": "text/plain; version=0.0.4; charset=utf-8",
        "/schema": "application/json",
        "/client/index.js": "text/javascript; charset=utf-8",
    }
    async with browser(server) as client:
        assert {path: (await client.get(path)).headers["content-type"] for path in types} == types


async def test_cors_is_for_the_configured_origins_only(puppets: Puppets) -> None:
    """A configured origin may read streams, errors and our headers, and may send a cursor; no other may."""
    async with serving({"mine": puppets}, cors_origin=("http://app.example",)) as server:
        async with browser(server, origin="http://app.example") as client:
            error = await client.get("/chat")
            assert error.headers["access-control-allow-origin"] == "http://app.example"
            assert "twinwire-run" in error.headers["access-control-expose-headers"]
            assert error.headers["vary"] == "Origin"
            preflight = await client.options(
                "/chat/stream",
                headers={
                    "access-control-request-method": "POST",
                    "access-control-request-headers": "content-type,last-event-id",
                },
            )
            assert preflight.status_code == 204
            assert "last-event-id" in preflight.headers["access-control-allow-headers"]
        for origin in ("http://app.example.evil", "http://evil", "null", "http://APP.example", "https://app.example"):
            async with browser(server, origin=origin) as client:
                response = await client.get("/chat")
                assert "access-control-allow-origin" not in response.headers
                preflight = await client.options("/chat", headers={"access-control-request-method": "POST"})
                assert "access-control-allow-origin" not in preflight.headers


async def test_without_a_setting_no_origin_may_read(server: Running) -> None:
    """By default no page of another origin can read anything, on loopback too."""
    async with browser(server, origin="http://localhost:3000") as client:
        response = await client.get("/healthz")
        assert "access-control-allow-origin" not in response.headers
