"""HTTP/2 frame by frame (RFC 9113): how a stream ends, breaks and is held up while others on its connection go on."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
import zttp

from support.certificates import Certificate
from support.followers import attach, cancel, rest, start, text
from support.serving import Puppet, Puppets, Running, serving, until
from support.stalled import silent
from twinwire.cli import main as cli
from twinwire.protocol.errors import SettingsError
from twinwire.serving import bounds, http2, shell as tls
from twinwire.settings import Settings
from twinwire.transports import lifetime

DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 7, 8
END_STREAM = ACK = 1
CANCEL = 8


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("http2"))


class Connection:
    """A client that gives credit when the test does. `bodies` are by stream; `over` is how a stream ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.bodies: dict[int, bytes] = {}
        self.over: dict[int, str] = {}
        self.settings: dict[int, int] = {}
        self._reader = reader
        self._encoder = zttp.Connection(zttp.CLIENT, protocol=zttp.HTTP2)

    def get(self, target: str | bytes, method: bytes = b"GET") -> int:
        """Open a stream."""
        path = target if isinstance(target, bytes) else target.encode()
        stream = self._encoder.send_request(method, path, b"", [(b"host", b"localhost")])
        stream.end_message()
        self.writer.write(self._encoder.data_to_send())
        self.bodies[stream.stream_id] = b""
        return stream.stream_id

    def post(self, target: str, part: bytes) -> int:
        """Open a stream with a part of its body."""
        fields = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        stream = self._encoder.send_request(b"POST", target.encode(), b"", fields)
        stream.send_data(part)
        self.writer.write(self._encoder.data_to_send())
        self.bodies[stream.stream_id] = b""
        return stream.stream_id

    def send(self, kind: int, stream: int, number: int) -> None:
        """A frame whose payload is one number."""
        self.writer.write(struct.pack(">BHBBII", 0, 4, kind, 0, stream, number))

    async def run(self) -> None:
        """Take frames, and give the connection back what they cost, until it closes."""
        try:
            while True:
                head = await self._reader.readexactly(9)
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:]) & 2**31 - 1
                payload = await self._reader.readexactly(int.from_bytes(head[:3]))
                if kind == DATA and payload:
                    self.bodies[stream] += payload
                    self.send(WINDOW_UPDATE, 0, len(payload))
                if kind == SETTINGS and not flags & ACK:
                    self.settings.update(struct.iter_unpack(">HI", payload))
                if kind in {DATA, HEADERS} and flags & END_STREAM:
                    self.over[stream] = "ended"
                if kind == RST_STREAM:
                    self.over[stream] = f"reset {int.from_bytes(payload)}"
                if kind == GOAWAY:
                    self.over[0] = "gone"
        except (asyncio.IncompleteReadError, ConnectionError):
            self.over[0] = "gone"

    def events(self, stream: int) -> list[dict[str, Any]]:
        """The whole events that have come on a stream."""
        blocks = self.bodies[stream].split(b"\n\n")[1:-1]
        return [json.loads(block.split(b"\ndata: ")[1].split(b"\n")[0]) for block in blocks if block[:1] != b":"]


@asynccontextmanager
async def connected(server: Running, certificate: Certificate) -> AsyncIterator[Connection]:
    context = ssl.create_default_context(cafile=certificate.ca)
    context.set_alpn_protocols(["h2"])
    connection = Connection(*await asyncio.open_connection("127.0.0.1", server.port, ssl=context))
    running = asyncio.create_task(connection.run())
    yield connection
    connection.writer.close()
    await running


async def followed(connection: Connection, puppets: Puppets) -> tuple[int, Puppet]:
    """A run on a stream of its own, whose first two events have come."""
    stream = connection.get("/chat/stream?message=hi&envelope=1&on_disconnect=continue")
    puppet = await puppets.next()
    puppet.say("first")
    await until(lambda: len(connection.events(stream)) == 2)
    return stream, puppet


async def test_any_bytes_in_a_path(
    certificate: Certificate, puppets: Puppets, caplog: pytest.LogCaptureFixture
) -> None:
    """A path that is no ASCII resets its stream alone; what else is odd in one is 404; no traceback for either."""
    odd = [
        b"/\xff",
        b"/page/\xed\xa0\x80",
        b"/\xc3\x28?a=b",
        b"/page/%00",
        b"/page/%ff",
        b"/page/%2e%2e/x",
        b"/" + b"a" * 3000,
    ]
    async with (
        serving({"mine": puppets}, http2=True, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        followed_stream, puppet = await followed(connection, puppets)
        for target in odd:
            stream = connection.get(target)
            await until(lambda stream=stream: stream in connection.over)  # type: ignore[misc]
            # PROTOCOL_ERROR, and then STREAM_CLOSED for the request's end, which was on its way.
            assert connection.over[stream] in ({"ended"} if target.isascii() else {"reset 1", "reset 5"}), target
            assert (b'"not_found"' in connection.bodies[stream]) == target.isascii(), target
        puppet.end()
        await until(lambda: followed_stream in connection.over)
        assert connection.over[followed_stream] == "ended"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_run_ends_its_stream(certificate: Certificate, puppets: Puppets) -> None:
    """The stream ends after the terminal event, on a cancel too, and what shares its connection goes on."""
    async with (
        serving({"mine": puppets}, http2=True, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        (one, _), (two, second) = await followed(connection, puppets), await followed(connection, puppets)
        assert await cancel("sse", server, connection.events(one)[0]["id"].split("-")[1]) == "accepted"
        await until(lambda: one in connection.over)
        second.end()
        await until(lambda: two in connection.over)
        assert connection.over == {one: "ended", two: "ended"}
        ends = [connection.events(stream)[-1]["data"]["status"] for stream in (one, two)]
        assert ends == ["cancelled", "completed"]


async def test_heartbeats(certificate: Certificate, puppets: Puppets) -> None:
    """A stream of a silent run has heartbeats, and then the rest of the run."""
    async with (
        serving({"mine": puppets}, http2=True, heartbeat=0.2, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        stream, puppet = await followed(connection, puppets)
        await until(lambda: connection.bodies[stream].count(b": heartbeat\n\n") >= 2)
        puppet.end()
        await until(lambda: connection.over.get(stream) == "ended")
        assert [event["type"] for event in connection.events(stream)] == ["AGENT_START", "LLM_CHUNK", "AGENT_FINISH"]


async def test_head(certificate: Certificate, puppets: Puppets) -> None:
    """HEAD ends its stream without content, of a file, an error and a run that goes on; no run starts for it."""
    async with (
        serving({"mine": puppets}, http2=True, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        one, _ = await followed(connection, puppets)
        run = connection.events(one)[0]["id"].split("-")[1]
        paths = ("/", "/nope", "/metrics", f"/runs/{run}/events", "/chat/stream?message=hi")
        asked = [connection.get(path, b"HEAD") for path in paths]
        await until(lambda: connection.over.keys() >= {*asked})
        assert {connection.over[stream] for stream in asked} == {"ended"}
        assert {connection.bodies[stream] for stream in asked} == {b""}
        assert puppets.started == 1


async def test_a_stream_without_its_end_is_reset(
    certificate: Certificate, puppets: Puppets, caplog: pytest.LogCaptureFixture
) -> None:
    """Over the number of connections a stream has its opening block and is reset; no error is logged."""
    async with (
        serving({"mine": puppets}, http2=True, max_connections=1, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        one, puppet = await followed(connection, puppets)
        other = connection.get(f"/runs/{connection.events(one)[0]['id'].split('-')[1]}/events")
        await until(lambda: other in connection.over)
        assert connection.over == {other: f"reset {CANCEL}"}
        assert connection.bodies[other].startswith(b"retry: ")
        puppet.end()
        await until(lambda: connection.over.get(one) == "ended")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_stream_that_its_client_leaves(certificate: Certificate, puppets: Puppets) -> None:
    """A stream reset by its client is a follower that has left; the run goes on, and so do other streams."""
    async with (
        serving({"mine": puppets}, http2=True, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        (one, first), (two, second) = await followed(connection, puppets), await followed(connection, puppets)
        connection.send(RST_STREAM, one, CANCEL)
        await until(lambda: len(server.service.heartbeats.pumps) == 1)
        for puppet in (first, second):
            puppet.say("on")
            puppet.end()
        await until(lambda: connection.over.get(two) == "ended")
        assert text(connection.events(two)) == "firston"


async def test_a_stream_without_credit_is_held_up_alone(
    certificate: Certificate, puppets: Puppets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gives a stream no credit is dropped from it, with little kept for it; others miss nothing; it resumes."""
    certificate.trust(monkeypatch)
    async with (
        serving({"mine": puppets}, http2=True, send_timeout=0.4, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        (stalled, puppet), (healthy, other) = await followed(connection, puppets), await followed(connection, puppets)
        (protocol,) = server.server.server_state.connections
        cycle = protocol.cycles[stalled]  # type: ignore[union-attr]
        kept = [0]
        for _ in range(100):
            puppet.emit("NOISE", noise="x" * 60_000)
        puppet.end()

        def dropped() -> bool:
            kept.append(cycle.stream.pending_bytes or 0)
            return stalled in connection.over

        await until(dropped)
        assert 0 < max(kept) < 2**20
        assert connection.over == {stalled: f"reset {CANCEL}"}
        other.say("fine")
        other.end()
        await until(lambda: healthy in connection.over)
        assert connection.over[healthy] == "ended"
        seen = connection.events(stalled)
        assert len(seen) < 100
        run_id = seen[0]["id"].split("-")[1]
        assert len(await rest(await attach("sse", server, run_id, seen[-1]["id"]))) == 103 - len(seen)


async def test_credit_takes_it_on(certificate: Certificate, puppets: Puppets) -> None:
    """A stream held up for want of credit goes on when there is some, to its end."""
    async with (
        serving({"mine": puppets}, http2=True, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        stream, puppet = await followed(connection, puppets)
        for _ in range(10):
            puppet.emit("NOISE", noise="x" * 60_000)
        puppet.end()
        await until(lambda: len(connection.bodies[stream]) == 65_535)
        connection.send(WINDOW_UPDATE, stream, 2**20)
        await until(lambda: connection.over.get(stream) == "ended")
        assert len(connection.events(stream)) == 13


async def test_a_follower_that_is_merely_slow(certificate: Certificate, puppets: Puppets) -> None:
    """One large event that is taken bit by bit, for much longer than the send timeout, comes whole."""
    async with (
        serving({"mine": puppets}, http2=True, send_timeout=0.4, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        stream, puppet = await followed(connection, puppets)
        puppet.emit("NOISE", noise="x" * 2_000_000)
        puppet.end()
        began = asyncio.get_running_loop().time()
        while stream not in connection.over:
            connection.send(WINDOW_UPDATE, stream, 50_000)
            await asyncio.sleep(0.05)  # slow, though never silent for as long as the send timeout
        assert connection.over[stream] == "ended"
        assert [event["type"] for event in connection.events(stream)[-2:]] == ["NOISE", "AGENT_FINISH"]
        assert asyncio.get_running_loop().time() - began > 1


async def test_a_server_that_goes(certificate: Certificate, puppets: Puppets) -> None:
    """At its end a server ends each stream with the run's terminal event, and says that it goes."""
    async with AsyncExitStack() as longer:
        async with serving({"mine": puppets}, http2=True, **certificate.settings) as server:
            connection = await longer.enter_async_context(connected(server, certificate))
            stream, _ = await followed(connection, puppets)
        await until(lambda: 0 in connection.over)
        assert connection.over == {stream: "ended", 0: "gone"}
        assert connection.events(stream)[-1]["data"]["error_type"] == "interrupted"


async def test_others_get_http_1_1(certificate: Certificate, puppets: Puppets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not choose HTTP/2 has HTTP/1.1 and WebSockets, which are not offered over HTTP/2 (RFC 8441)."""
    certificate.trust(monkeypatch)
    async with (
        serving({"mine": puppets}, http2=True, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        for kind in ("sse", "ws"):
            follower = await start(kind, server)
            (await puppets.next()).end()
            assert len(await rest(follower)) == 2
        async with httpx.AsyncClient(trust_env=True) as client:
            assert (await client.get(f"{server.url}/readyz")).http_version == "HTTP/1.1"
        await until(lambda: bool(connection.settings))
        assert connection.settings.get(8, 0) == 0


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has 0.2 s, over TLS and HTTP/2 too."""
    for module in (http2, bounds, tls):
        monkeypatch.setattr(module, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(lifetime, "TICK_SECONDS", 0.05)


@pytest.mark.usefixtures("hasty")
async def test_half_a_body(certificate: Certificate, puppets: Puppets, caplog: pytest.LogCaptureFixture) -> None:
    """A request that is not all there in time has its stream reset; what shares its connection goes on."""
    async with (
        serving({"mine": puppets}, http2=True, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        follower, puppet = await followed(connection, puppets)
        half = connection.post("/runs", b'{"mess')
        await until(lambda: half in connection.over)
        assert connection.over[half] == f"reset {CANCEL}"
        puppet.end()
        await until(lambda: connection.over.get(follower) == "ended")
        assert server.service.metrics.refused["request_timeout"] == 1
    assert [record for record in caplog.records if record.levelname in {"ERROR", "WARNING"}] == []


@pytest.mark.parametrize("begins", [False, True], ids=["no answer", "half an answer"])
async def test_an_app_that_does_not_answer(
    begins: bool,
    certificate: Certificate,
    puppets: Puppets,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its stream is reset in the time that an answer has; a silent run's stream goes on; then the connection idles."""
    monkeypatch.setattr(lifetime, "TICK_SECONDS", 0.05)
    async with (
        serving({"mine": puppets}, http2=True, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        server.service.lifetimes.answer_seconds = 0.3
        app, release = silent(begins=begins)
        server.server.config.app.register(app)  # type: ignore[union-attr]
        follower, puppet = await followed(connection, puppets)
        streams = [connection.get("/silent"), connection.post("/silent", b"{}")]
        connection.writer.write(bytes((0, 0, 0, DATA, END_STREAM)) + streams[1].to_bytes(4))
        await until(lambda: connection.over.keys() >= {*streams})
        assert connection.over == dict.fromkeys(streams, f"reset {CANCEL}")
        assert server.service.metrics.refused["unanswered"] == 2
        puppet.say("on")
        puppet.end()
        await until(lambda: follower in connection.over)
        assert connection.over[follower] == "ended"
        [one] = server.service.lifetimes._watched
        await until(lambda: one.phase is lifetime.Phase.IDLE)
        release.set()
        await until(lambda: not server.server.server_state.tasks)
        again = connection.get("/healthz")
        await until(lambda: connection.over.get(again) == "ended")
    assert [record for record in caplog.records if record.levelname in {"ERROR", "WARNING"}] == []


async def test_a_plain_answer_without_credit(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives no credit for a plain answer has its stream reset after the send timeout."""
    monkeypatch.setattr(lifetime, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(http2, "TICK_SECONDS", 0.05)
    async with (
        serving(None, http2=True, send_timeout=0.3, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        stream = connection.get("/page/page.js")
        others = [connection.get("/schema") for _ in range(3)]
        await until(lambda: all(stream in connection.over for stream in (stream, *others)))
        assert {connection.over[stream] for stream in (stream, *others)} <= {"ended", f"reset {CANCEL}"}
        again = connection.get("/healthz")
        await until(lambda: again in connection.over)
        assert connection.over[again] == "ended"


@pytest.mark.usefixtures("hasty")
async def test_handshakes_that_are_not_made(certificate: Certificate, caplog: pytest.LogCaptureFixture) -> None:
    """A TLS handshake is counted, has the time of a request, and leaves room for others; nothing is logged."""
    async with serving(None, http2=True, **certificate.settings) as server:
        table = server.service.lifetimes
        table.most = 4
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(6)]
        for _, writer in silent[:3]:
            writer.write(b"\x16\x03\x01\x02\x00\x01")
        await until(lambda: server.service.metrics.refused["crowded"] >= 2)
        assert table.accepted <= 4
        async with connected(server, certificate) as connection:
            stream = connection.get("/healthz")
            await until(lambda: stream in connection.over)
        await until(lambda: table.accepted == 0 and not server.server.server_state.tasks)
        for reader, writer in silent:
            assert await reader.read() == b""
            writer.close()
    assert [record for record in caplog.records if record.levelname in {"ERROR", "WARNING"}] == []


async def test_streams_that_are_reset_at_once(
    certificate: Certificate, puppets: Puppets, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests that their client resets as soon as it has made them start no more tasks than are bounded."""
    async with (
        serving({"mine": puppets}, http2=True, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        for _ in range(1000):
            connection.send(RST_STREAM, connection.get("/healthz"), CANCEL)
        await until(lambda: 0 in connection.over or not server.server.server_state.tasks)
        assert len(server.server.server_state.tasks) <= http2.MAX_TASKS
        async with connected(server, certificate) as other:
            stream = other.get("/healthz")
            await until(lambda: stream in other.over)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_bad_frames_are_no_noise(certificate: Certificate, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that are no HTTP/2 close their connection, with one line at the level of info, however many follow."""
    caplog.set_level("INFO")
    async with (
        serving(None, http2=True, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        for _ in range(50):
            connection.writer.write(b"GET / HTTP/1.1\r\n\r\n" * 10)
            await asyncio.sleep(0)
        await until(lambda: not server.service.lifetimes.accepted)
        assert server.service.metrics.refused["bad_request"] == 1
    ours = [record for record in caplog.records if record.name == "twinwire.serving"]
    assert [record.levelname for record in ours] == ["INFO"]
    others = [record for record in caplog.records if record.name != "asyncio"]  # the test's own client's
    assert [record for record in others if record.levelname in {"ERROR", "WARNING"}] == []


async def test_frames_that_are_answered_and_not_read(certificate: Certificate) -> None:
    """A client that sends PINGs and reads nothing is not read either, until it reads the answers."""
    async with (
        serving(None, http2=True, **certificate.settings) as server,
        connected(server, certificate) as connection,
    ):
        connection.get("/healthz")  # the preface comes first
        await until(lambda: 1 in connection.over)
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        ping = bytes((0, 0, 8, 6, 0, 0, 0, 0, 0)) + b"12345678"
        for _ in range(64):
            connection.writer.write(ping * 8192)
        [lifetime] = server.service.lifetimes._watched
        protocol = lifetime.carrier
        assert isinstance(protocol, http2.Http2Protocol)
        await until(lambda: protocol.flow.read_paused)
        assert 0 < protocol.unsent() < 2**20
        connection.writer.transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(20):
            await until(lambda: not protocol.flow.read_paused)


def test_without_the_extra(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where zttp is not installed, one line says what to install."""
    monkeypatch.setitem(sys.modules, "zttp", None)
    with pytest.raises(SettingsError, match=r"^`--http2` requires: pip install 'twinwire\[http2\]'\.$"):
        cli._check_tls(Settings(http2=True, ssl_certfile=certificate.certfile, ssl_keyfile=certificate.keyfile))
