"""`/metrics` and `/readyz`: each figure says what happened, and readiness says why not."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.credentials import AUTH, asking, ticket
from support.documents import ROOT, snippets
from support.followers import KINDS, Broken, Refused, attach, cancel, rest, start
from support.metrics import figures
from support.redis_server import own_server
from support.serving import Puppets, Running, serving, until
from twinwire import RunRequest, StreamEvent
from twinwire.log import backpressure
from twinwire.protocol.errors import RunsUnavailable
from twinwire.runs.run import Run
from twinwire.runs.writer import TIMED
from twinwire.telemetry.metrics import MAX_LABELS, OTHER, Histogram, Metrics

NOWHERE = "a" * 26


def test_histogram() -> None:
    """A value that is a bound counts below it; the last bucket has all."""
    histogram = Histogram((1, 10))
    for value in (0.5, 1, 2, 10, 11):
        histogram.add(value)
    assert list(histogram.buckets()) == [("1", 2), ("10", 4), ("+Inf", 5)]
    assert histogram.total == 24.5


@pytest.mark.parametrize("kind", KINDS)
async def test_runs_and_followers(kind: str, server: Running, puppets: Puppets) -> None:
    """Runs are counted by state, followers by transport, and each run's first token and its gaps are timed."""
    follower = await start(kind, server)
    puppet = await puppets.next()
    for word in "a" * 2 * TIMED:
        puppet.say(word)
        while (await follower.next() or b"").find(b'"LLM_CHUNK"') < 0:
            pass
    now = await figures(server.url)
    assert now["twinwire_runs_live",] == now["twinwire_runs_started_total", "mine"] == 1
    other = {"sse": "ws", "ws": "sse"}[kind]
    for name in ("twinwire_connections", "twinwire_followers"):
        assert (now[name, kind], now[name, other]) == (1, 0)
    assert now["twinwire_cursor_lag_events_bucket", "0"] == now["twinwire_cursor_lag_events_gcount",] == 1
    assert now["twinwire_first_token_seconds_count",] == 1
    assert 1 <= now["twinwire_token_gap_seconds_count",] <= 2
    assert now["twinwire_append_seconds_count",] == 0  # the log is in memory
    puppet.end()
    await rest(await attach(kind, server, follower.run_id, 0))
    await follower.close()
    await until(lambda: not server.service.heartbeats.pumps)
    now = await figures(server.url)
    assert (now["twinwire_runs_live",], now["twinwire_runs_ended_total", "mine", "completed"]) == (0, 1)
    assert now["twinwire_connections", kind] == now["twinwire_followers", kind] == 0
    assert sum(value for (name, *_), value in now.items() if name == "twinwire_connections_closed_total") == 2
    assert now["process_open_fds",] > 0


@pytest.mark.parametrize("kind", KINDS)
async def test_who_does_not_read(kind: str, puppets: Puppets) -> None:
    """How far a follower is behind shows while it stalls; that it was dropped is counted."""
    async with serving({"mine": puppets}, send_timeout=0.4) as server:
        follower = await start(kind, server, on_disconnect="continue")
        puppet = await puppets.next()
        for _ in range(250):
            puppet.emit("NOISE", noise="x" * 60_000)
        lag: list[float] = []
        while not lag or not lag[-1]:
            lag.append((await figures(server.url)).get(("twinwire_cursor_lag_events_gsum",), 0))
        await until(lambda: not server.service.heartbeats.pumps)
        assert (await figures(server.url))["twinwire_connections_closed_total", kind, "slow"] == 1
        with pytest.raises(Broken):
            while await follower.next() is not None:
                pass
        await follower.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_cursors_refusals_and_cancels(kind: str, server: Running, puppets: Puppets) -> None:
    """Each verdict on a cursor, each refusal and each cancel is counted once, on either transport."""
    follower = await start(kind, server, on_disconnect="continue")
    (await puppets.next()).say("a")
    await follower.next()
    await (await attach(kind, server, follower.run_id, 1)).close()
    for run_id, after in ((follower.run_id, 99), (NOWHERE, 0)):
        with pytest.raises(Refused):
            await attach(kind, server, run_id, after)
    assert await cancel(kind, server, follower.run_id) == "accepted"
    seen = await rest(follower)
    await (await attach(kind, server, follower.run_id, seen[-1]["id"])).close()
    now = await figures(server.url)
    begun = 1 if kind == "sse" else 0  # a start follows its run at once: over SSE in a request of the same kind
    verdicts = {labels[0]: count for (name, *labels), count in now.items() if name == "twinwire_cursors_total"}
    assert verdicts == {"resumed": 1, "gap": 1, "not_found": 1, "ended": 1} | ({"begun": begun} if begun else {})
    refused = {labels[0]: count for (name, *labels), count in now.items() if name == "twinwire_refusals_total"}
    assert refused == {"gap": 1, "run_not_found": 1}
    assert now["twinwire_cancel_seconds_count",] == now["twinwire_runs_ended_total", "mine", "cancelled"] == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_gap_told_to_who_follows(kind: str, puppets: Puppets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is overtaken by the log's trimming is counted: on a socket as it is told, over SSE as it comes again."""
    monkeypatch.setattr(backpressure, "WAIT_SECONDS", 0)
    async with serving({"mine": puppets}, log_events=100) as server:
        follower = await start(kind, server, on_disconnect="continue")
        (await puppets.next()).say(*(str(i) for i in range(3000)))
        with pytest.raises(Broken if kind == "sse" else Refused):
            while await follower.next() is not None:
                pass
        await follower.close()
        if kind == "sse":
            with pytest.raises(Refused):
                await attach(kind, server, follower.run_id, 1)
        assert (await figures(server.url))["twinwire_cursors_total", "gap"] == 1


async def test_appends_to_a_file_are_timed(puppets: Puppets, tmp_path: Path) -> None:
    """A log that is not in memory says how long it takes."""
    async with serving({"mine": puppets}, log=f"sqlite:///{tmp_path}/runs.db") as server:
        follower = await start("sse", server)
        (await puppets.next()).end()
        await rest(follower)
        await until(lambda: not len(server.runs))
        assert (await figures(server.url))["twinwire_append_seconds_count",] >= 1


@pytest.mark.parametrize("kind", KINDS)
async def test_by_agent_and_error_type(kind: str, puppets: Puppets) -> None:
    """Runs are counted by agent, their errors by type and their tokens by kind; an agent that has had no run is 0."""

    async def failing(request: RunRequest) -> None:
        request.usage.prompt_tokens, request.usage.completion_tokens = 3, 2
        raise RuntimeError("a key")

    async def telling(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        yield StreamEvent("ERROR", {"error_type": "my_own", "message": "The agent told so."})

    async with serving({"mine": puppets, "failing": failing, "telling": telling}) as server:
        for agent in ("failing", "failing", "telling"):
            await rest(await start(kind, server, agent=agent))
        await until(lambda: not len(server.runs))
        now = await figures(server.url)
    counted = {key: value for key, value in now.items() if key[0].startswith("twinwire_run") and len(key) > 1}
    assert counted == {
        ("twinwire_runs_started_total", "mine"): 0,
        ("twinwire_runs_started_total", "failing"): 2,
        ("twinwire_runs_started_total", "telling"): 1,
        ("twinwire_runs_ended_total", "failing", "error"): 2,
        ("twinwire_runs_ended_total", "telling", "error"): 1,
        ("twinwire_run_errors_total", "failing", "agent_error"): 2,
        ("twinwire_run_errors_total", "telling", "my_own"): 1,
        ("twinwire_run_tokens_total", "failing", "completion"): 4,
        ("twinwire_run_tokens_total", "failing", "prompt"): 6,
    }


def test_labels_are_bounded() -> None:
    """An error type that is no code is `other`, and so is each that comes after too many, whatever agents tell."""
    metrics = Metrics()
    for number in range(2 * MAX_LABELS):
        metrics.run_ended("mine", "error", f"error_{number}", None)
        metrics.run_ended("mine", "error", f"The user {number} has no key", None)
    assert len(metrics.errors) == MAX_LABELS + 1
    assert metrics.errors["mine", OTHER] == 2 * MAX_LABELS
    assert metrics.errors.total() == metrics.ended["mine", "error"] == 4 * MAX_LABELS


async def test_a_scrape_by_address(puppets: Puppets) -> None:
    """A scrape may name the server as it likes, unless it comes over loopback, and a list of hosts is for others."""
    async with serving({"mine": puppets}, allowed_host=("app.example",)) as server:
        app: Any = server.server.config.app
        for address, host, metrics, chats in (
            ("10.1.2.3", "10.1.2.3:8000", 200, 421),
            ("10.1.2.3", "twinwire.default.svc:8000", 200, 421),
            ("fd00::3", "[fd00::3]:8000", 200, 421),
            ("10.1.2.3", "app.example", 200, 400),
            ("127.0.0.1", "127.0.0.1:8000", 200, 400),
            ("127.0.0.1", "app.example", 200, 400),
            ("127.0.0.1", "evil.example", 421, 421),
        ):
            there = f"[{address}]" if ":" in address else address
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url=f"http://{there}:8000", headers={"host": host}
            ) as client:
                assert (await client.get("/metrics")).status_code == metrics, (address, host)
                assert (await client.get("/chat")).status_code == chats, (address, host)


async def test_a_scrape_with_a_token(puppets: Puppets) -> None:
    """With authentication a scrape sends a token, as the document has Prometheus do. A run's ticket is refused."""
    (told,) = snippets((ROOT / "docs/OBSERVABILITY.md").read_text(), "yaml")
    lines = dict(re.findall(r"^ *-? *([a-z_]+): +(\S.*)$", told, re.MULTILINE))
    assert (lines["type"], lines["metrics_path"], lines["credentials_file"]) == (
        "Bearer",
        "/metrics",
        "/etc/prometheus/twinwire.token",
    )
    async with serving({"mine": puppets}, **AUTH) as server:
        async with asking(server) as client:
            refused = await client.get(lines["metrics_path"])
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        async with asking(server, "alice") as client:
            assert "twinwire_workers 1.0" in (await client.get(lines["metrics_path"])).text
            run_id = (await client.post("/runs", json={"message": "hi"})).json()["run_id"]
        async with asking(server) as client:
            query = {"ticket": await ticket(server, run_id=run_id)}
            assert (await client.get(lines["metrics_path"], params=query)).status_code == 403


async def test_a_log_that_is_away_is_told(puppets: Puppets, tmp_path: Path) -> None:
    """A server that cannot reach its log is not ready, and says that this is why; with the log back it is."""
    with own_server(tmp_path) as redis:
        async with (
            serving({"mine": puppets}, log=redis.url) as server,
            httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client,
        ):
            with redis.frozen():
                response = await client.get("/readyz")
                assert (response.status_code, response.json()["code"]) == (503, "log_unavailable")
            async with asyncio.timeout(20):
                while (await client.get("/readyz")).status_code != 200:
                    pass


async def test_a_server_that_cannot_run_is_not_ready(
    puppets: Puppets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If no run can be carried out, `/readyz` is 503 and the log says why; a server does not even start then."""

    def refuse(_: Run) -> None:
        raise TypeError("a coroutine was expected")

    async with (
        serving({"mine": puppets}) as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client,
    ):
        assert (await client.get("/readyz")).status_code == 200
        with monkeypatch.context() as patch:
            patch.setattr(Run, "start", refuse)
            response = await client.get("/readyz")
            assert (response.status_code, response.json()["code"]) == (503, "runs_unavailable")
            assert "a coroutine was expected" in caplog.text
            assert "coroutine" not in response.text
            with pytest.raises(RunsUnavailable):
                await server.service.start()
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        assert (server.runs.started, len(server.runs)) == (0, 0)
