"""A line for each refusal: what was refused, without a secret, and no more lines than a disk can hold."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.credentials import AUTH, asking
from support.followers import KINDS, Refused, attach, start
from support.lines import json_lines
from support.metrics import figures
from support.serving import Puppets, Running, serving
from twinwire.protocol.errors import BadHost, BadRequest, LogUnavailable, Unauthenticated
from twinwire.telemetry import refusals
from twinwire.telemetry.metrics import Metrics

NOWHERE = "a" * 26
SECRET = "ticket-that-nobody-may-see"


def about(line: dict[str, Any], *names: str) -> tuple[Any, ...]:
    """Return these parts of a line, None for those that it has not."""
    return tuple(line.get(name) for name in names)


async def test_requests(puppets: Puppets) -> None:
    """A refused request leaves its method, its path, its status, its code and the reason, but never its query."""
    async with serving({"mine": puppets}) as server, asking(server) as client:
        with json_lines() as lines:
            await client.get(f"/nope?ticket={SECRET}&x=1")
            await client.delete("/runs")
            await client.post("/runs", json={"message": " "})
            await client.get(f"/runs/{NOWHERE}", params={"ticket": SECRET})
            await client.get("/metrics", headers={"host": "evil.example"})
            await client.post("/runs", json={"message": "hi"}, headers={"origin": "https://evil.example"})
    names = ("level", "method", "path", "status", "code", "field")
    assert [about(line, *names) for line in lines] == [
        ("info", "GET", "/nope", 404, "not_found", None),
        ("info", "DELETE", "/runs", 405, "method_not_allowed", None),
        ("info", "POST", "/runs", 400, "bad_request", "message"),
        ("info", "GET", f"/runs/{NOWHERE}", 404, "run_not_found", None),
        ("warning", "GET", "/metrics", 421, "bad_host", "host"),
        ("warning", "POST", "/runs", 403, "origin_not_allowed", None),
    ]
    assert {line["message"] for line in lines} == {"A client was refused."}
    assert all(line["request_id"] and line["reason"].endswith(".") for line in lines)
    assert SECRET not in json.dumps(lines)


async def test_credentials(puppets: Puppets) -> None:
    """A refused credential leaves a line, in which it is not."""
    async with serving({"mine": puppets}, **AUTH) as server, asking(server) as client:
        with json_lines() as lines:
            await client.get("/runs", headers={"authorization": f"Bearer {SECRET}"})
            await client.get("/chat", params={"ticket": SECRET})
            async with connect(f"{server.ws_url}?ticket={SECRET}", proxy=None) as socket:
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
    assert [about(line, "path", "status", "code", "close") for line in lines] == [
        ("/runs", 401, "unauthenticated", None),
        ("/chat", 401, "unauthenticated", None),
        ("/ws", None, "unauthenticated", 4501),
    ]
    assert SECRET not in json.dumps(lines)


@pytest.mark.parametrize("kind", KINDS)
async def test_cursors(kind: str, server: Running, puppets: Puppets) -> None:
    """A cursor that is refused leaves a line on either transport, with the id of its request."""
    follower = await start(kind, server, on_disconnect="continue")
    (await puppets.next()).say("a")
    with json_lines() as lines:
        for run_id, after in ((follower.run_id, 99), (NOWHERE, 0)):
            with pytest.raises(Refused):
                await attach(kind, server, run_id, after)
    assert [about(line, "code", "status") for line in lines] == [("gap", 410), ("run_not_found", 404)]
    assert len({line["request_id"] for line in lines}) == 2
    if kind == "ws":
        assert [line["path"] for line in lines] == ["/ws", "/ws"]
    await follower.close()


async def test_a_handshake(server: Running) -> None:
    """A handshake that a page of another site makes leaves a line at WARNING."""
    with json_lines() as lines, pytest.raises(InvalidStatus):
        await connect(server.ws_url, origin="https://evil.example", proxy=None)  # type: ignore[arg-type]
    assert [about(line, "level", "code", "path", "close") for line in lines] == [
        ("warning", "origin_not_allowed", "/ws", 4503)
    ]


@pytest.mark.parametrize(
    ("refusal", "status", "level"),
    [
        (BadRequest("`x` is wrong."), None, logging.INFO),
        (Unauthenticated(), None, logging.INFO),
        (BadHost(), None, logging.WARNING),
        (LogUnavailable(), None, logging.WARNING),
        ("draining", 503, logging.INFO),
        ("unread", None, logging.INFO),
    ],
    ids=str,
)
def test_levels(refusal: Any, status: int | None, level: int, caplog: pytest.LogCaptureFixture) -> None:
    """What the client has to change is told at INFO, what the server's operator may have to at WARNING."""
    caplog.set_level("INFO")
    Metrics().refuse(refusal, status=status)
    assert [record.levelno for record in caplog.records] == [level]


def test_a_flood(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of refusals is counted whole, writes few lines, says how many it left out, and hides no other refusal."""
    caplog.set_level("INFO")
    now = 1000.0
    monkeypatch.setattr(refusals, "monotonic", lambda: now)
    metrics = Metrics()
    for _ in range(10_000):
        metrics.refuse("not_found", path="/x" * 10_000)
    metrics.refuse("bad_host")
    assert metrics.refused["not_found"] == 10_000
    fields = [record.__dict__["fields"] for record in caplog.records]
    assert [one["code"] for one in fields] == ["not_found"] * refusals.BURST + ["bad_host"]
    assert all("left_out" not in one for one in fields)
    assert max(len(json.dumps(one)) for one in fields) < 500
    caplog.clear()
    now += 2 * refusals.SECONDS
    for _ in range(100):
        metrics.refuse("not_found")
    fields = [record.__dict__["fields"] for record in caplog.records]
    assert [one.get("left_out") for one in fields] == [10_000 - refusals.BURST, None]
    caplog.clear()
    now += 86_400
    for _ in range(10_000):
        metrics.refuse("not_found")
    assert len(caplog.records) == refusals.BURST


def test_at_a_level_that_writes_none(caplog: pytest.LogCaptureFixture) -> None:
    """At WARNING the refusals that are told at INFO are counted, and nothing is kept of them."""
    caplog.set_level("WARNING")
    metrics = Metrics()
    for number in range(1000):
        metrics.refuse(f"code_{number}")
    assert (caplog.records, metrics._refusals._codes) == ([], {})
    assert metrics.refused.total() == 1000


async def test_what_is_put_off(puppets: Puppets) -> None:
    """A stream for which there is no room leaves a line, and its figure."""
    async with serving({"mine": puppets}, max_connections=1) as server, httpx.AsyncClient(trust_env=False) as client:
        with json_lines() as lines:
            first = await start("sse", server, on_disconnect="continue")
            await puppets.next()
            async with client.stream("GET", f"{server.url}/runs/{first.run_id}/events"):
                pass
            await first.close()
        refused = [line for line in lines if line["message"] == "A client was refused."]
        assert [about(line, "code", "path") for line in refused] == [("busy", f"/runs/{first.run_id}/events")]
        async with asyncio.timeout(10):
            assert (await figures(server.url))["twinwire_refusals_total", "busy"] == 1
