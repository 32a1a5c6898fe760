"""A server in a process of its own, whose memory is measured, and clients that send or take too little."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from support.processes import Process

PROGRAM = '''
import asyncio
from twinwire.protocol.events import StreamEvent

async def parrot(request):
    """Say what is asked for: `text N` or `emoji N` in deltas, `event N` at once, `result N`; with `stay`, go on.

    `small N` and `page N` are so many deltas, of events of 200 bytes and of 4 KiB.
    """
    what, _, rest = request.message.partition(" ")
    number, _, stay = rest.partition(" ")
    size = int(number) if number.isdecimal() else 0
    if what == "text":
        for _ in range(size // 10_000):
            yield StreamEvent("LLM_CHUNK", {"content": "x" * 10_000})
    elif what == "emoji":
        for _ in range(size // 10_000):
            yield StreamEvent("LLM_CHUNK", {"content": "x" * 9_996 + "\\U0001f600"})
    elif what in {"small", "page"}:
        text = "x" * (24 if what == "small" else 1972)
        for number in range(size):
            if number % 100 == 0:
                await asyncio.sleep(0)
            yield StreamEvent("LLM_CHUNK", {"content": text, "delta": text})
    elif what == "event":
        yield StreamEvent("DATA", {"text": "x" * size})
    elif what == "result":
        yield StreamEvent("AGENT_FINISH", {"result": "x" * size})
    if stay:
        await asyncio.sleep(300)
'''
MB = 2**20
SLACK = 20 * MB


class Server(Process):
    """A server whose agent `parrot` says what it is asked to. `verify` is what clients of one with TLS trust."""

    verify: ssl.SSLContext | bool = True

    def rss(self) -> int:
        """Return the bytes that it has in memory."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def run(self, message: str, **fields: Any) -> str:
        """Start a run. Return its id once the run has done what the message says."""
        run_id: str = self.post("/runs", {"message": message, **fields})["run_id"]
        while True:
            run = self.get(f"/runs/{run_id}/snapshot")
            if run["state"]["status"] != "running" or ("stay" in message and run["seq"] > 1):
                return run_id

    def get(self, path: str) -> Any:
        return httpx.get(self.url + path, trust_env=False, timeout=30, verify=self.verify).raise_for_status().json()

    def post(self, path: str, body: object) -> Any:
        return (
            httpx.post(self.url + path, json=body, trust_env=False, timeout=30, verify=self.verify)
            .raise_for_status()
            .json()
        )

    def ws(self) -> ClientConnection:
        """Open a WebSocket of a client that reads nothing unless it is told to."""
        return connect(self.ws_url, compression=None, proxy=None, max_size=None, max_queue=1, close_timeout=0.1)

    def silent(self, path: str, body: bytes = b"", **headers: str) -> socket.socket:
        """Open a connection that sends a request and reads nothing of the answer."""
        if body:
            headers = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        lines = [
            f"{'POST' if body else 'GET'} {path} HTTP/1.1",
            *map(": ".join, {"host": "localhost", **headers}.items()),
        ]
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        return connection

    def deaf(self, path: str = "/ws") -> socket.socket:
        """Open a WebSocket that reads nothing but the answer to its handshake."""
        key = {"sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==", "sec-websocket-version": "13"}
        connection = self.silent(path, b"", connection="Upgrade", upgrade="websocket", **key)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        return connection

    def flood(self, messages: list[str], path: str = "/ws") -> socket.socket:
        """Open a WebSocket that sends as many of these as the server takes, and reads nothing."""
        connection = self.deaf(path)
        connection.settimeout(0.3)
        try:
            for message in [message.ljust(126) for message in messages]:
                connection.sendall(b"\x81\xfe" + len(message).to_bytes(2, "big") + bytes(4) + message.encode())
        except (TimeoutError, ConnectionError):
            pass
        return connection

    def settle(self) -> None:
        """Wait until all connections are gone."""
        while self.figure("twinwire_connections"):
            time.sleep(0.01)

    def figure(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", trust_env=False, verify=self.verify).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith((name + "{", name + " ")))


@contextmanager
def unharmed(server: Server, meanwhile: int = 1000 * MB, least: int = -1000 * MB) -> Iterator[None]:
    """Within the block the server grows by `least` to `meanwhile` bytes, and afterwards has what it had before."""
    before = server.rss()
    yield
    grown = server.rss() - before
    assert least < grown < meanwhile, f"{grown / MB:.0f} MiB more"
    server.settle()
    deadline = time.monotonic() + 60  # what was asked for last is given up when its turn comes
    while (left := server.rss() - before) > SLACK and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left < SLACK, f"{left / MB:.0f} MiB more, with nobody there"
