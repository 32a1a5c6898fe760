"""The ids of a request and of a run: in the answer, and on each line that is logged within."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from support.credentials import asking
from support.followers import KINDS, AnyFollower, SseFollower, WsFollower, cancel, rest
from support.lines import json_lines
from support.recording import recorded
from support.serving import Puppets, Running, serving, until
from twinwire import RunRequest, log_ids

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
MADE = re.compile(r"[0-9a-f]{16}")
HEADERS = {"x-request-id": "req-1:a/b", "traceparent": PARENT}
logger = logging.getLogger("mine")


async def ask(kind: str, server: Running, headers: dict[str, str], **options: Any) -> AnyFollower:
    """Start a run by a request with these headers: over WebSocket they are the handshake's."""
    if kind == "sse":
        query = httpx.QueryParams({"message": "hi", "envelope": "1", **options})
        return await SseFollower(f"{server.url}/chat/stream?{query}", headers).open()
    follower = WsFollower(server.ws_url)
    follower.socket = await connect(server.ws_url, additional_headers=headers, proxy=None)
    await follower.say({"type": "start", "request_id": "r1", "message": "hi", **options})
    follower.run_id = (await follower.reply())["run_id"]
    return follower


GOOD = ["1", "req-1", "6f1c2b1e-6c38-4c2e-9b44-0b7f6f3b8b8a", "Root=1-67891233-abc", "a" * 128]
BAD = ["", "a" * 129, "a b", 'a"b', "ä".encode().decode("latin-1"), "a,b", "a;b"]


@pytest.mark.parametrize("name", GOOD)
async def test_a_request_that_names_itself(name: str, server: Running) -> None:
    """An answer has the id of its request, whatever it is: an error has it too."""
    async with asking(server) as client:
        for method, path, status in (
            ("GET", "/healthz", 200),
            ("HEAD", "/readyz", 200),
            ("OPTIONS", "/runs", 204),
            ("GET", "/nope", 404),
            ("PUT", "/runs", 405),
            ("GET", "/chat", 400),
            ("GET", "/ws", 426),
            ("GET", f"/runs/{'a' * 26}", 404),
            ("GET", "/metrics", 200),
        ):
            response = await client.request(method, path, headers={"x-request-id": name})
            assert (response.status_code, response.headers.get_list("x-request-id")) == (status, [name]), path


@pytest.mark.parametrize("name", BAD)
async def test_a_request_that_names_itself_badly(name: str, server: Running) -> None:
    """A request whose id is none, or that has two, is given another one, and each another."""
    async with asking(server) as client:
        named = [(b"x-request-id", name.encode("latin-1"))]
        asked = [named, named, [], [(b"x-request-id", b"a"), (b"x-request-id", b"b")]]
        made = [(await client.get("/healthz", headers=httpx.Headers(headers))).headers for headers in asked]
    names = [headers["x-request-id"] for headers in made]
    assert len({*names}) == len(asked)
    assert all(MADE.fullmatch(given) for given in names)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_names_its_request(kind: str, server: Running, puppets: Puppets) -> None:
    """The head of a stream, or the answer to a handshake, has the id of the request."""
    follower = await ask(kind, server, HEADERS)
    (await puppets.next()).end()
    head = follower.response.headers if isinstance(follower, SseFollower) else follower.socket.response.headers  # type: ignore[union-attr]
    assert head["x-request-id"] == HEADERS["x-request-id"]
    await rest(follower)


@pytest.mark.parametrize("named", [True, False])
async def test_what_is_refused_before_the_app(named: bool, server: Running) -> None:
    """A request that the server refuses without asking the app has an id in its answer and in its line."""
    with json_lines() as lines:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /chat?ticket=abc HTTP/1.1\r\n" + (b"X-Request-Id: mine\r\n" if named else b"") + b"\r\n")
        head = (await reader.read()).decode()
        writer.close()
    found = re.search(r"\r\nx-request-id: (\S+)\r\n", head)
    assert found
    assert (found[1] == "mine") == named
    (line,) = lines
    assert (line["code"], line["path"], line["request_id"]) == ("bad_request", "/chat", found[1])


@pytest.mark.parametrize("kind", KINDS)
async def test_lines_within_a_run(kind: str) -> None:
    """Each line of a run, and of its agent, in tasks of its own too, has the ids of the run and of its request."""
    known: list[dict[str, str]] = []

    async def work() -> None:
        logger.info("The agent is at work.")

    async def mine(_: RunRequest) -> None:
        known.append(log_ids())
        await asyncio.gather(work(), asyncio.create_task(work()))
        await asyncio.to_thread(logger.warning, "A thread of the agent's was here.")
        raise RuntimeError("the agent's own words")

    async with serving({"mine": mine}) as server:
        with json_lines("twinwire", "mine") as lines:
            follower = await ask(kind, server, HEADERS, session_id="s1")
            await rest(follower)
            await until(lambda: not len(server.runs))
    expected = {"request_id": "req-1:a/b", "trace_id": TRACE, "run_id": follower.run_id, "session_id": "s1"}
    assert known == [expected]
    assert [line["message"] for line in lines] == [
        "The run started.",
        "The agent is at work.",
        "The agent is at work.",
        "A thread of the agent's was here.",
        f"In the run {follower.run_id} the agent mine failed.",
        "The run ended.",
    ]
    assert all(line.items() >= expected.items() for line in lines)
    assert log_ids() == {}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_that_another_request_ends(kind: str, server: Running, puppets: Puppets) -> None:
    """The last line of a run has the ids of the run, not those of the request that cancels it."""
    with json_lines() as lines:
        follower = await ask(kind, server, HEADERS, session_id="s1")
        await puppets.next()
        other = {"x-request-id": "other", "traceparent": PARENT.replace("0af7", "1111")}
        if kind == "sse":
            async with asking(server, **other) as client:
                assert (await client.post(f"/runs/{follower.run_id}/cancel")).status_code == 202
        else:
            assert await cancel(kind, server, follower.run_id) == "accepted"
        await rest(follower)
        await until(lambda: not len(server.runs))
    started, ended = lines
    ids = {name: started[name] for name in ("request_id", "trace_id", "run_id", "session_id")}
    assert (ended["message"], ended["status"]) == ("The run ended.", "cancelled")
    assert ended.items() >= ids.items()


@pytest.mark.parametrize("kind", KINDS)
async def test_runs_at_once(kind: str, server: Running, puppets: Puppets) -> None:
    """Runs that go on at once have each their own ids on their lines, and a run that names no trace has none."""
    with json_lines() as lines:
        followers = [await ask(kind, server, {"x-request-id": f"req-{number}"}) for number in range(5)]
        for _ in followers:
            (await puppets.next()).end()
        for follower in followers:
            await rest(follower)
        await until(lambda: not len(server.runs))
    assert len(lines) == 10
    for number, follower in enumerate(followers):
        ours = [line for line in lines if line["run_id"] == follower.run_id]
        assert [line["request_id"] for line in ours] == [f"req-{number}"] * 2
    assert not [line for line in lines if "trace_id" in line or "session_id" in line]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sent", [True, False])
async def test_the_trace_of_a_recorded_run(kind: str, sent: bool, puppets: Puppets) -> None:
    """With OpenTelemetry a run's lines have the id of the trace that its span is in, also if the run begins it."""
    seen = recorded()
    async with serving({"mine": puppets}, otel=True) as server:
        with json_lines() as lines:
            follower = await ask(kind, server, HEADERS if sent else {})
            (await puppets.next()).end()
            await rest(follower)
            await until(lambda: len(seen.spans()) == 1)
    context = seen.spans()[0].get_span_context()
    assert context is not None
    assert {line["trace_id"] for line in lines} == {f"{context.trace_id:032x}"}
    assert (lines[0]["trace_id"] == TRACE) == sent


@pytest.mark.parametrize("kind", KINDS)
async def test_the_trace_that_a_start_names(kind: str, server: Running, puppets: Puppets) -> None:
    """The field of a start wins over its request's header, whether the server records traces or not."""
    field = PARENT.replace("0af7", "1111")
    with json_lines() as lines:
        follower = await ask(kind, server, HEADERS, traceparent=field)
        (await puppets.next()).end()
        await rest(follower)
        await until(lambda: not len(server.runs))
    assert {line["trace_id"] for line in lines} == {field.split("-")[1]}


async def test_a_timer_of_everybodys(server: Running, puppets: Puppets) -> None:
    """What one timer does for all connections is logged without the ids of the request that happened to begin it."""
    seen: list[dict[str, str]] = []
    heartbeats, tick = server.service.heartbeats, server.service.heartbeats._tick
    ticked = asyncio.Event()

    def noted() -> None:
        seen.append(log_ids())
        ticked.set()
        tick()

    heartbeats._tick = noted  # type: ignore[method-assign]
    follower = await ask("sse", server, HEADERS)
    (await puppets.next()).say("a")
    await ticked.wait()
    assert seen[0] == {}
    await follower.close()


async def test_a_page_of_another_origin(puppets: Puppets) -> None:
    """A page of a listed origin may send an id, and may read the one of the answer."""
    page = "https://app.example"
    async with serving({"mine": puppets}, cors_origin=(page,)) as server, asking(server, origin=page) as client:
        answer = await client.get("/healthz", headers={"x-request-id": "mine"})
        assert "x-request-id" in answer.headers["access-control-expose-headers"].split(", ")
        preflight = await client.options("/runs", headers={"access-control-request-method": "POST"})
        assert "x-request-id" in preflight.headers["access-control-allow-headers"].split(", ")
