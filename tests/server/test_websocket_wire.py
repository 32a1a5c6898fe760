"""Bad input below the WebSocket's messages: frames that are none, and more of them than anybody needs.

The ids of `ROWS`, and the tests after them, are the rows of "Bad input, WS frames" in the table of faults; those of the
messages are in `test_websocket.BAD`.
"""

from __future__ import annotations

import json
import struct

import pytest
from websockets.frames import Opcode

from support.http_wire import unaffected
from support.serving import Puppets, Running, serving, until
from support.websocket_wire import FIN, frame, heard, masked, opened
from twinwire.serving.websocket import BoundedWebSocket


def closing(code: int, reason: bytes = b"") -> bytes:
    return masked(Opcode.CLOSE, struct.pack("!H", code) + reason)


ROWS: list[tuple[str, bytes, int]] = [
    # row, frames, close code
    ("unmasked", bytes([FIN | Opcode.TEXT, 1]) + b"x", 1002),
    ("RSV1", masked(Opcode.TEXT, b"x", reserved=0x40), 1002),
    ("RSV2", masked(Opcode.TEXT, b"x", reserved=0x20), 1002),
    ("RSV3", masked(Opcode.TEXT, b"x", reserved=0x10), 1002),
    ("bad opcode 3", bytes([FIN | 3, 0x80]) + bytes(4), 1002),
    ("bad opcode 11", bytes([FIN | 11, 0x80]) + bytes(4), 1002),
    ("oversize ping", masked(Opcode.PING, b"x" * 126), 1002),
    ("oversize close", masked(Opcode.CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    ("fragmented ping", bytes([Opcode.PING, 0x80]) + bytes(4), 1002),
    ("stray continuation", masked(Opcode.CONT, b"x"), 1002),
    ("a message inside another", bytes([Opcode.TEXT, 0x80]) + bytes(4) + masked(Opcode.TEXT, b"x"), 1002),
    ("bad UTF-8", masked(Opcode.TEXT, b'{"type":"\xff"}'), 1007),
    ("bad UTF-8 over two fragments", frame(Opcode.TEXT, b"\xc3") + frame(FIN | Opcode.CONT, b"("), 1007),
    ("close code 999", closing(999), 1002),
    ("close code 1004", closing(1004), 1002),
    ("close code 1005", closing(1005), 1002),
    ("close code 1006", closing(1006), 1002),
    ("close code 5000", closing(5000), 1002),
    ("close of one byte", masked(Opcode.CLOSE, b"x"), 1002),
    ("close with a reason that is no UTF-8", closing(1000, b"\xff"), 1007),
    ("declared length 2^40", frame(FIN | Opcode.TEXT, b"x", 2**40), 1009),
    ("declared length 2^63", frame(FIN | Opcode.TEXT, b"x", 2**63), 1009),
    ("limit + 1", masked(Opcode.TEXT, b" " * (2**20 + 1)), 1009),
    ("limit + 1 in fragments", frame(Opcode.TEXT, b" " * 2**20) + frame(FIN | Opcode.CONT, b" "), 1009),
    ("limit + 1 deflated", masked(Opcode.TEXT, b"\xec\xc1\x01", reserved=0x40), 1002),
    ("20,000 empty fragments", frame(Opcode.TEXT) + frame(Opcode.CONT) * 20_000, 1009),
    ("binary", masked(Opcode.BINARY, b"{}"), 1003),
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
async def test_bad_frames(row: tuple[str, bytes, int], server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """The socket is closed with the row's code; nobody else's suffers, and there is no traceback."""
    _, frames, code = row
    async with opened(server) as (reader, writer):
        writer.write(frames)
        opcode, payload = await heard(reader)
        assert (opcode, int.from_bytes(payload[:2], "big")) == (Opcode.CLOSE, code)
    await until(lambda: not server.service.heartbeats.pumps)
    await unaffected(server, caplog)


async def test_fragments_of_a_message(server: Running) -> None:
    """A message in a thousand fragments, with a ping among them, is one message."""
    text = b'{"type":"ping","ref":"' + b"x" * 100 + b'"}'
    pieces = [text[at : at + 1] for at in range(len(text))] + [b""] * 800
    async with opened(server) as (reader, writer):
        writer.write(frame(Opcode.TEXT, pieces[0]) + b"".join(frame(Opcode.CONT, piece) for piece in pieces[1:]))
        writer.write(masked(Opcode.PING, b"p") + frame(FIN | Opcode.CONT))
        assert await heard(reader) == (Opcode.PONG, b"p")
        opcode, payload = await heard(reader)
        assert (opcode, json.loads(payload)) == (Opcode.TEXT, {"type": "pong", "ref": "x" * 100})


async def test_pings_of_who_does_not_read(server: Running) -> None:
    """Pongs that cannot be sent do not pile up: once there is room the last one comes, and the socket lives."""
    async with opened(server) as (reader, writer):
        [protocol] = server.server.server_state.connections
        assert isinstance(protocol, BoundedWebSocket)
        protocol.pause_writing()
        before = protocol.transport.get_write_buffer_size()
        writer.write(b"".join(masked(Opcode.PING, b"%d" % i) for i in range(1000)))
        await until(lambda: protocol._pong.endswith(b"999"))
        assert protocol.transport.get_write_buffer_size() == before
        protocol.resume_writing()
        assert await heard(reader) == (Opcode.PONG, b"999")
        writer.write(masked(Opcode.TEXT, b'{"type":"ping"}'))
        assert await heard(reader) == (Opcode.TEXT, b'{"type":"pong"}')


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
async def test_control_frames_without_end(opcode: Opcode, server: Running) -> None:
    """A thousand pings or pongs in ten seconds are answered or passed over; more close the socket with 4029."""
    async with opened(server) as (reader, writer):
        writer.write(masked(opcode, b"") * 1000 + masked(Opcode.TEXT, b'{"type":"ping"}'))
        pongs = [Opcode.PONG] * 1000 if opcode is Opcode.PING else []
        assert [(await heard(reader))[0] for _ in [*pongs, None]] == [*pongs, Opcode.TEXT]
        writer.write(masked(opcode, b"") * 2)
        while (told := await heard(reader))[0] == Opcode.PONG:
            pass
        assert told == (Opcode.CLOSE, struct.pack("!H", 4029) + b"The client sent too many pings or pongs.")


@pytest.mark.parametrize("count", [10, 2000], ids=["few", "many"])
async def test_a_thousand_messages_a_second(count: int, puppets: Puppets, caplog: pytest.LogCaptureFixture) -> None:
    """As many as the rate allows are answered, more in one go close the socket with 4029, and no other one suffers."""
    async with serving({"mine": puppets}) as server, opened(server) as (reader, writer):
        writer.write(masked(Opcode.TEXT, b'{"type":"ping"}') * count)
        opcode, payload = await heard(reader)
        answered = 0
        while opcode == Opcode.TEXT and answered + 1 < count:
            assert payload == b'{"type":"pong"}'
            answered += 1
            opcode, payload = await heard(reader)
        if count == 10:
            assert (answered, opcode) == (9, Opcode.TEXT)
        else:
            assert 900 <= answered < 2000
            assert (opcode, int.from_bytes(payload[:2], "big")) == (Opcode.CLOSE, 4029)
            writer.write(masked(Opcode.CLOSE, payload))
            await unaffected(server, caplog)
