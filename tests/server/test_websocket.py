"""What is particular to the WebSocket: many runs on one socket, commands and their replies, frames, origins."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode

from support.serving import Puppets, Running, serving, until
from support.websocket_wire import masked
from twinwire.log import backpressure


class Client:
    """A socket that says and hears JSON."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, **command: Any) -> None:
        await self.socket.send(json.dumps(command))

    async def hear(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self.socket.recv())
        return message

    async def ask(self, **command: Any) -> dict[str, Any]:
        await self.say(**command)
        return await self.hear()

    async def closed(self) -> tuple[int, str]:
        """The close frame the server sent."""
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await self.socket.recv()
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code, closed.value.rcvd.reason


@asynccontextmanager
async def opened(server: Running, **options: Any) -> AsyncIterator[Client]:
    async with connect(server.ws_url, compression=None, proxy=None, **options) as socket:
        yield Client(socket)


async def test_many_runs_on_one_socket(server: Running, puppets: Puppets) -> None:
    """Runs started on one socket interleave; each keeps its order and ends with its own terminal event."""
    async with opened(server) as client:
        played = []
        for name in ("a", "b", "c"):
            reply = await client.ask(type="start", request_id=name, message=name)
            assert (reply["type"], reply["request_id"]) == ("started", name)
            played.append(await puppets.next())
            assert played[-1].request.run_id == reply["run_id"]
        for word in ("1", "2"):
            for puppet in played:
                puppet.say(word)
        for puppet in played:
            puppet.end()
        seen: dict[str, list[str]] = {}
        while sum(types.count("AGENT_FINISH") for types in seen.values()) < 3:
            event = await client.hear()
            seen.setdefault(event["id"].split("-")[1], []).append(event["type"])
        assert list(seen.values()) == [["AGENT_START", "LLM_CHUNK", "LLM_CHUNK", "AGENT_FINISH"]] * 3
        assert await client.ask(type="ping") == {"type": "pong"}


async def test_a_cancel_may_come_before_started(server: Running, puppets: Puppets) -> None:
    """A start and its cancel sent in one go: started, acknowledged, and the run ends cancelled."""
    async with opened(server) as client:
        await client.say(type="start", request_id="r1", message="hi")
        await client.say(type="cancel", request_id="r1", ref=7)
        started = await client.hear()
        heard = [await client.hear() for _ in range(3)]
        assert [message["type"] for message in heard] == ["cancel_ack", "AGENT_START", "AGENT_FINISH"]
        ack = {"type": "cancel_ack", "run_id": started["run_id"], "request_id": "r1", "status": "accepted", "ref": 7}
        assert heard[0] == ack
        assert heard[-1]["data"]["status"] == "cancelled"
        ack = await client.ask(type="cancel", request_id="r1")
        assert ack["status"] == "already_finished"
        assert (await client.ask(type="cancel", request_id="r2"))["status"] == "not_found"


async def test_attach_detach_and_attach_again(server: Running, puppets: Puppets) -> None:
    """Detaching stops a run's events on this socket, attaching again continues at the cursor given."""
    async with opened(server) as one, opened(server) as two:
        run_id = (await one.ask(type="start", request_id="r", message="hi"))["run_id"]
        puppet = await puppets.next()
        puppet.say("a")
        first = await one.hear()
        assert first["id"].endswith("-1")
        attached = await two.ask(type="attach", run_id=run_id, after=first["id"], ref="x")
        expected = {"type": "attached", "run_id": run_id, "first": 1, "last": 2, "ended": False, "ref": "x"}
        assert attached == expected
        assert (await two.hear())["data"]["content"] == "a"
        assert await two.ask(type="detach", run_id=run_id) == {"type": "detached", "run_id": run_id}
        puppet.say("b")
        assert [(await one.hear())["data"]["content"] for _ in range(2)] == ["a", "b"]
        assert await two.ask(type="ping", ref=1) == {"type": "pong", "ref": 1}
        await two.say(type="attach", run_id=run_id, after=2)
        assert (await two.hear())["type"] == "attached"
        assert (await two.hear())["data"]["content"] == "b"
        await two.say(type="attach", run_id=run_id)  # moves the cursor
        assert (await two.hear())["type"] == "attached"
        assert [(await two.hear())["id"].rpartition("-")[2] for _ in range(3)] == ["1", "2", "3"]
        puppet.end()
        assert (await two.hear())["type"] == "AGENT_FINISH"
        assert await two.ask(type="ping") == {"type": "pong"}


async def test_moving_the_cursor_is_no_disconnect(server: Running, puppets: Puppets) -> None:
    """A run that is cancelled when nobody follows lives through an attach that replaces the only follower."""
    async with opened(server) as client:
        run_id = (await client.ask(type="start", request_id="r", message="hi", on_disconnect="cancel"))["run_id"]
        puppet = await puppets.next()
        assert (await client.ask(type="attach", run_id=run_id))["type"] == "attached"
        puppet.say("a")
        assert [(await client.hear())["type"] for _ in range(2)] == ["AGENT_START", "LLM_CHUNK"]
        assert (await client.ask(type="detach", run_id=run_id))["type"] == "detached"
        await puppet.closed.wait()


BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("not JSON", "hello", {"code": "bad_request"}),
    ("empty", "", {"code": "bad_request"}),
    ("truncated", '{"type":"ping"', {"code": "bad_request"}),
    ("an array", "[]", {"code": "bad_request"}),
    ("no type", "{}", {"code": "bad_request", "field": "type"}),
    ("unknown type", '{"type":"stop","ref":3}', {"code": "bad_request", "field": "type", "ref": 3}),
    ("an event's type", '{"type":"LLM_CHUNK"}', {"code": "bad_request", "field": "type"}),
    ("unknown field", '{"type":"ping","x":1}', {"code": "bad_request", "field": "x"}),
    ("deep nesting", '{"type":"ping","x":' + "[" * 100_000, {"code": "bad_request"}),
    ("huge integer", '{"type":"ping","ref":' + "9" * 100_000 + "}", {"code": "bad_request"}),
    ("no request_id", '{"type":"start","message":"x"}', {"code": "bad_request", "field": "request_id"}),
    ("no message", '{"type":"start","request_id":"r"}', {"field": "message", "request_id": "r"}),
    ("blank message", '{"type":"start","request_id":"r","message":" "}', {"field": "message", "request_id": "r"}),
    (
        "unknown agent",
        '{"type":"start","request_id":"r","message":"x","agent":"no","ref":"1"}',
        {"code": "agent_not_found", "field": "agent", "request_id": "r", "ref": "1"},
    ),
    (
        "bad policy",
        '{"type":"start","request_id":"r","message":"x","on_disconnect":"never"}',
        {"code": "bad_request", "field": "on_disconnect", "request_id": "r"},
    ),
    ("bad types", '{"type":"start","request_id":"r","message":"x","types":["a"]}', {"field": "types"}),
    ("attach without a run", '{"type":"attach"}', {"code": "bad_request", "field": "run_id"}),
    ("attach to an unknown run", '{"type":"attach","run_id":"x","ref":1}', {"code": "run_not_found", "run_id": "x"}),
    ("pause of what is not followed", '{"type":"pause","run_id":"x","ref":1}', {"field": "run_id", "run_id": "x"}),
    ("resume of one", '{"type":"resume","run_id":"x","ref":1}', {"code": "bad_request", "field": "run_id", "ref": 1}),
    ("cancel without a run", '{"type":"cancel"}', {"code": "bad_request"}),
    ("cancel of two", '{"type":"cancel","run_id":"x","request_id":"y"}', {"code": "bad_request", "request_id": "y"}),
    ("auth, which is off", '{"type":"auth","token":"t"}', {"code": "bad_request"}),
]


async def test_bad_messages_leave_the_socket_alive(
    server: Running, puppets: Puppets, caplog: pytest.LogCaptureFixture
) -> None:
    """Each bad message gets its error, with the labels it carried; the socket lives, nothing is logged as an error."""
    async with opened(server) as client:
        for name, text, expected in BAD:
            await client.socket.send(text)
            reply = await client.hear()
            assert reply["type"] == "error", name
            assert reply["message"], name
            assert expected.items() <= reply.items(), name
            assert await client.ask(type="ping") == {"type": "pong"}
    assert puppets.started == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_request_id_in_use_is_refused(server: Running, puppets: Puppets) -> None:
    """A second start by the same name on one socket would make a cancel by that name ambiguous."""
    async with opened(server) as client:
        await client.ask(type="start", request_id="r", message="x")
        reply = await client.ask(type="start", request_id="r", message="x")
        assert (reply["type"], reply["field"], reply["request_id"]) == ("error", "request_id", "r")
        assert puppets.started == 1


async def test_a_thousand_commands_in_one_go(server: Running) -> None:
    """A flood of commands is answered in order, with bounded memory on the way."""
    async with opened(server) as client:

        async def flood() -> None:
            for i in range(1000):
                await client.say(type="ping", ref=i)

        flooding = asyncio.create_task(flood())
        assert [(await client.hear())["ref"] for _ in range(1000)] == list(range(1000))
        await flooding


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (masked(Opcode.BINARY, b"{}"), 1003),
        (masked(Opcode.TEXT, b'{"type":"\xff"}'), 1007),
        (masked(Opcode.TEXT, b" " * (2**20 + 1)), 1009),
        (masked(Opcode.CONT, b"stray"), 1002),
        (masked(Opcode.TEXT, b"x", reserved=0x20), 1002),
        (masked(Opcode.TEXT, b"deflated", reserved=0x40), 1002),
        (masked(Opcode.PING, b"x" * 126), 1002),
        (bytes([0x81, 0x01]) + b"x", 1002),
    ],
    ids=["binary", "bad UTF-8", "too large", "stray continuation", "reserved", "deflated", "oversize ping", "unmasked"],
)
async def test_bad_frames_close_with_their_code(
    frame: bytes, code: int, server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no text message closes the socket with the code of RFC 6455, without a traceback."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
    opening = await reader.readuntil(b"\r\n\r\n")
    assert opening.startswith(b"HTTP/1.1 101")
    assert b"permessage-deflate" not in opening
    writer.write(frame)
    header = await reader.readexactly(2)
    assert header[0] & 0x0F == Opcode.CLOSE
    body = await reader.readexactly(header[1])
    assert int.from_bytes(body[:2], "big") == code
    writer.close()
    await until(lambda: not server.service.heartbeats.pumps)
    assert [record for record in caplog.records if record.exc_info] == []


async def test_the_server_pings(puppets: Puppets) -> None:
    """A silent socket gets ping frames at the heartbeat interval, and lives as long as it answers them."""
    async with serving({"mine": puppets}, heartbeat=0.1) as server, opened(server) as client:
        pinged = asyncio.Event()
        data_received = client.socket.data_received

        def seen(data: bytes) -> None:
            if data[0] & 0x0F == Opcode.PING:
                pinged.set()
            data_received(data)

        client.socket.transport.set_protocol(client.socket)
        client.socket.data_received = seen  # type: ignore[method-assign]
        client.socket.transport.set_protocol(client.socket)
        await pinged.wait()
        assert await client.ask(type="ping") == {"type": "pong"}


async def test_a_run_trimmed_under_a_follower_is_a_gap(puppets: Puppets, monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower that the log no longer waits for is told what there is, and can go on from there."""
    monkeypatch.setattr(backpressure, "WAIT_SECONDS", 0)
    async with serving({"mine": puppets}, log_events=100) as server, opened(server) as client:
        run_id = (await client.ask(type="start", request_id="r", message="x"))["run_id"]
        puppet = await puppets.next()
        puppet.say(*(str(i) for i in range(3000)))
        heard = await client.hear()
        while heard["type"] != "gap":
            heard = await client.hear()
        assert heard["run_id"] == run_id
        attached = await client.ask(type="attach", run_id=run_id, after=heard["last"])
        while attached["type"] == "gap":
            attached = await client.ask(type="attach", run_id=run_id, after=attached["last"])
        assert attached["type"] == "attached"
        puppet.end()
        while heard["type"] != "AGENT_FINISH":
            heard = await client.hear()
