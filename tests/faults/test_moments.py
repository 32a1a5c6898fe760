"""What clients may be in the middle of when a server stops, and what they may pile up in a server's memory.

Each scene leaves its connections open while the server is told to end, or closes them and looks at its memory.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.leaks import resident
from support.credentials import TOKENS
from support.http_wire import GET, HOST, POST, UPGRADE as FIELDS, VERSION
from support.processes import Process

MINE = """
from twinwire import StreamEvent
import asyncio

async def mine(request):
    yield StreamEvent("LLM_CHUNK", {"content": "begun", "delta": ""})
    await asyncio.Event().wait()
"""
UPGRADE = b"GET /ws HTTP/1.1\r\n" + FIELDS + VERSION
STREAM = b"GET /chat/stream?message=x HTTP/1.1\r\n" + HOST + b"\r\n"
STRANGER = GET.replace(b"/healthz", b"/runs") + b"\r\n"
WITHIN = 20 * 2**20
Scene = Callable[[Process], list[socket.socket]]


def connect(process: Process, sent: bytes = b"") -> socket.socket:
    """Return a connection that has sent this, as far as it was taken, and reads nothing."""
    bare = socket.socket()
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    bare.connect(("127.0.0.1", process.port))
    bare.setblocking(False)
    until = time.monotonic() + 0.1
    while sent and time.monotonic() < until:
        try:
            sent = sent[bare.send(sent[:65_536]) :]
        except BlockingIOError:
            time.sleep(0.001)  # the server takes no more for now
        except ConnectionError:
            break
    return bare


def ask(process: Process, request: bytes) -> bytes:
    """Return the answer to a request, in its own connection."""
    bare = socket.create_connection(("127.0.0.1", process.port), timeout=10)
    with bare:
        bare.sendall(request + b"Connection: close\r\n\r\n")
        answer = b""
        while data := bare.recv(65_536):
            answer += data
    return answer


MOMENTS: dict[str, bytes] = {
    "nothing was asked": b"",
    "half a head": GET,
    "half a body": POST + b"Content-Length: 100\r\n\r\n{",
    "half a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    "a body that is to be asked for": POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    "half a handshake": UPGRADE,
    "a handshake with a body": UPGRADE + b"Content-Length: 1\r\n\r\n",
    "an open socket": UPGRADE + b"\r\n",
    "half a frame": UPGRADE + b"\r\n\x81\xfe",
    "a kept connection": GET + b"\r\n",
    "an upgrade to h2c": GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "pipelined requests": (GET + b"\r\n") * 5000,
    "an answer that waits for its run": b"GET /chat?stream=false&message=x HTTP/1.1\r\n" + HOST + b"\r\n",
    "a stream and requests behind it": b"GET /chat/stream?message=x HTTP/1.1\r\n"
    + HOST
    + b"\r\n"
    + (GET + b"\r\n") * 9,
    "a stream of HTTP/1.0": b"GET /chat/stream?message=x HTTP/1.0\r\n" + HOST + b"\r\n",
    "a plain answer that nobody reads": b"GET /schema HTTP/1.1\r\n" + HOST + b"\r\n",
}


ALONE = [pytest.param([name], marks=pytest.mark.full, id=name) for name in MOMENTS]


@pytest.mark.parametrize("moments", [pytest.param([*MOMENTS], id="all at once"), *ALONE])
def test_sigterm_at_any_moment(moments: list[str], tmp_path: Path) -> None:
    """The server ends as the signal says, in bounded time, without a line, whatever its connections are at."""
    (tmp_path / "mine.py").write_text(MINE)
    with Process("serve", "mine:mine", "--port", "0", cwd=tmp_path) as process:
        process.ready()
        held = [connect(process, MOMENTS[name]) for name in moments for _ in range(10)]
        assert ask(process, GET).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        process.popen.terminate()
        code, _, err = process.end()
        assert (code, err) == (-signal.SIGTERM, "")
        assert time.monotonic() - began < 15
        for bare in held:
            bare.close()


ABUSES: dict[str, tuple[int, bytes]] = {
    "pipelined requests of strangers": (30, STRANGER * 50_000),
    "pipelined upgrades": (30, (GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n") * 20_000),
    "pipelined bodies": (30, (POST + b"Content-Length: 2\r\n\r\n{}") * 20_000),
    "tiny chunks": (30, POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 200_000),
    "a body behind a refusal": (30, POST + b"Content-Length: 4000000\r\n\r\n" + b"x" * 3_900_000),
    "upgrades with a body": (300, UPGRADE + b"Content-Length: 1\r\n\r\n"),
    "messages on sockets of strangers": (30, UPGRADE + b"\r\n" + b"\x81\x80abcd" * 300_000),
    "fragments": (30, UPGRADE + b"\r\n\x01\x80abcd" + b"\x00\x80abcd" * 300_000),
    "pings": (30, UPGRADE + b"\r\n" + b"\x89\x80abcd" * 300_000),
    "silence": (500, b""),
}


OFTEN = {"pipelined requests of strangers", "upgrades with a body", "messages on sockets of strangers", "fragments"}


@pytest.mark.parametrize(
    "abuse", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.full) for name in ABUSES]
)
def test_memory(abuse: str, tmp_path: Path) -> None:
    """A crowd without a credential costs a server little memory, and somebody else's request waits for little."""
    count, sent = ABUSES[abuse]
    environ = {"TWINWIRE_AUTH_TOKENS": f"alice:{TOKENS['alice']}"}
    with Process("serve", "--port", "0", cwd=tmp_path, environ=environ) as process:
        process.ready()
        for _ in range(20):
            ask(process, GET)
        before = resident(process.popen.pid)
        held, most = [], before
        for _ in range(count):
            held.append(connect(process, sent))
            most = max(most, resident(process.popen.pid))
        assert ask(process, GET).startswith(b"HTTP/1.1 200")
        for bare in held:
            bare.close()
        assert ask(process, GET).startswith(b"HTTP/1.1 200")
        after = resident(process.popen.pid)
        process.popen.terminate()
        code, _, err = process.end()
    assert (code, err) == (-signal.SIGTERM, "")
    print(f"{abuse}: memory +{(most - before) / 2**20:.1f} MiB, then +{(after - before) / 2**20:.1f} MiB")
    assert most - before < WITHIN + count * 600_000
    assert after - before < WITHIN
