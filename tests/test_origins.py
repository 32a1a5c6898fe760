"""Which pages may open a WebSocket, and which may read over HTTP."""

from __future__ import annotations

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from serving import Puppets, Running, serving


def browser(server: Running, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, verify=False)


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
    """A page of the server's own or a configured origin may open a socket, and programs may; no other page."""
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
