"""WebSocket frames as bytes (RFC 6455), and bare sockets to send them on."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from websockets.frames import Opcode

from support.http_wire import UPGRADE, VERSION
from support.serving import Running


def masked(opcode: Opcode, payload: bytes, reserved: int = 0) -> bytes:
    """A client's frame as it goes over the wire (RFC 6455, section 5.2), whether it is a good one or not."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 2**16:
        length = bytes([0x80 | 126, *size.to_bytes(2, "big")])
    else:
        length = bytes([0x80 | 127, *size.to_bytes(8, "big")])
    return bytes([0x80 | reserved | opcode]) + length + bytes(4) + payload


FIN = 0x80


def frame(head: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """A masked frame (RFC 6455, section 5.2) whose first byte is `head`; it may declare another length than it has."""
    return bytes([head, 0xFF]) + struct.pack("!Q", len(payload) if length is None else length) + bytes(4) + payload


@asynccontextmanager
async def opened(server: Running) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A socket, bare after its handshake, which the test has 20 seconds for: a busy machine takes its time."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
            writer.write(b"GET /ws HTTP/1.1\r\n" + UPGRADE + VERSION + offer + b"\r\n")
            opening = await reader.readuntil(b"\r\n\r\n")
            assert opening.startswith(b"HTTP/1.1 101")
            assert b"permessage-deflate" not in opening
            yield reader, writer
        finally:
            writer.close()


async def heard(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The server's next frame: opcode and payload."""
    head, size = await reader.readexactly(2)
    if size == 126:
        [size] = struct.unpack("!H", await reader.readexactly(2))
    assert head & FIN
    return head & 0x0F, await reader.readexactly(size)


PONG = masked(Opcode.PONG, b"")
