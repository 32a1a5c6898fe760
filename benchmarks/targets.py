"""The servers that are measured, and how each is asked: Twinwire (our own, or one that runs) and its peers."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import trustme

from benchmarks.load import Ask
from benchmarks.processes import ROOT, Program, program, twinwire
from benchmarks.schedule import Load

AGENT = "benchmarks.synthetic:llm"
FLAGS = ("--run-timeout", "600", "--max-runs", "5000", "--send-timeout", "1", "--socket-rate", "100000")
PEERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # its transports, and what to install; the first three need nothing that is not here
    "bare": (("sse", "ws"), ()),
    "asgi": (("sse", "ws"), ()),
    "litestar": (("sse", "ws"), ()),
    "sse_starlette": (("sse", "ws"), ("sse-starlette", "starlette")),
    "fastapi": (("sse", "ws"), ("fastapi",)),
    "aiohttp": (("sse", "ws"), ("aiohttp",)),
    "socketio": (("ws",), ("python-socketio",)),
}
_COMMON = ("uvicorn>=0.54,<0.55", "uvloop", "httptools", "websockets>=16,<18")


class Unusable(Exception):
    """What was asked for cannot be measured; the text says why, in one line."""


@dataclass
class Target:
    """A server. `process` is None where it is not ours to watch."""

    name: str
    host: str
    port: int
    process: Program | None = None
    transports: tuple[str, ...] = ("sse", "ws")
    tls: bool = False
    ca: str | None = None  # a file with the certificate to trust; None: those the system trusts
    stamped: bool = True
    agent: str | None = None
    headers: str = field(default="", repr=False)

    @property
    def own(self) -> bool:
        """Whether it speaks the Twinwire protocol: resumes, cancels."""
        return self.name == "twinwire"

    def get(self, path: str, extra: str = "") -> str:
        """A request's head."""
        return f"GET {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{self.headers}{extra}\r\n"

    def handshake(self, path: str = "/ws") -> str:
        """A WebSocket's."""
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        return self.get(path, f"{upgrade}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")

    def start(
        self, transport: str, load: Load, *, on_disconnect: str = "cancel_after:10", key: str | None = None
    ) -> Ask:
        """Start a run of one's own and follow it; with an idempotency key it is the same run when asked again."""
        if not self.own:
            return self.peer(transport, load, "")
        what = {"message": load.message(), "on_disconnect": on_disconnect}
        if self.agent is not None:
            what["agent"] = self.agent
        if key is not None:
            what["idempotency_key"] = key
        again, repeatable = self.follow(transport, "$RUN", "$SEQ"), key is not None
        if transport == "sse":
            return Ask(self.get(f"/chat/stream?{urlencode(what)}"), (), again, repeatable)
        return Ask(self.handshake(), (_dump({"type": "start", "request_id": "r", **what}),), again, repeatable)

    def follow(self, transport: str, run: str, seq: str = "0") -> Ask:
        """Follow a run of Twinwire's from behind a cursor."""
        if transport == "sse":
            return Ask(self.get(f"/runs/{run}/events", f"Last-Event-ID: evt-{run}-{seq}\r\n"))
        return Ask(self.handshake(), (_dump({"type": "attach", "run_id": run, "after": f"evt-{run}-{seq}"}),))

    def peer(self, transport: str, load: Load, topic: str) -> Ask:
        """Ask a peer for a run, or for a topic's."""
        what = {"message": load.message(), "topic": topic}
        if transport == "sse":
            return Ask(self.get(f"/sse?{urlencode(what)}"))
        if self.name == "socketio":
            return Ask(self.handshake("/socket.io/?EIO=4&transport=websocket"), ("40", f"42{_dump(['start', what])}"))
        return Ask(self.handshake(), (_dump(what),))

    async def shared(self, transport: str, load: Load) -> Ask:
        """Start a run that many are to follow; what each of them asks."""
        if not self.own:
            return self.peer(transport, load, secrets.token_hex(8))
        return self.follow(transport, await self.run(load))

    async def run(self, load: Load) -> str:
        """Start a run of Twinwire's that nobody follows yet; its id."""
        body = {"message": load.message()} | ({"agent": self.agent} if self.agent is not None else {})
        return str((await asyncio.to_thread(self.post, "/runs", body))["run_id"])

    def post(self, path: str, body: dict[str, str] | None = None) -> dict[str, object]:
        """POST as JSON. Raises `Unusable` for an answer that is no success."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        if self.tls:
            context = ssl.create_default_context(cafile=self.ca)
            connection = http.client.HTTPSConnection(self.host, self.port, timeout=10, context=context)
        head = dict(line.split(": ", 1) for line in self.headers.split("\r\n") if line)
        connection.request("POST", path, _dump(body or {}), {**head, "content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status >= 300:
            raise Unusable(f"{self.name} answers POST {path} with {answer.status} {answer.reason}")
        found: dict[str, object] = json.loads(text)
        return found


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


@contextmanager
def ours(*flags: str) -> Iterator[Target]:
    """A Twinwire of our own."""
    with twinwire(AGENT, *FLAGS, *flags) as (process, port):
        yield Target("twinwire", "127.0.0.1", port, process)


@contextmanager
def ours_with_tls(folder: Path) -> Iterator[Target]:
    """The same behind TLS, with a certificate that is made in `folder` (ECDSA P-256, as most public servers have)."""
    authority, ca, chain = trustme.CA(), str(folder / "ca.pem"), str(folder / "server.pem")
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(chain)
    with ours("--ssl-certfile", chain, "--ssl-keyfile", chain) as target:
        yield replace(target, tls=True, ca=ca)


def at_url(url: str, agent: str | None) -> Target:
    """A Twinwire that runs. With `benchmarks.synthetic:llm`, on this machine, its tokens tell when they were due."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query:
        raise Unusable(f"--url: {url!r} is not of the form http://host:port")
    token = os.environ.get("TWINWIRE_TOKEN")
    target = Target(
        "twinwire",
        parts.hostname,
        port,
        tls=parts.scheme == "https",
        agent=agent,
        headers=f"Authorization: Bearer {token}\r\n" if token else "",
    )
    try:
        socket.create_connection((target.host, target.port), timeout=5).close()
    except OSError as error:
        raise Unusable(f"--url: nothing answers at {url}: {error.strerror or error}") from None
    return target


def python_of(peer: str) -> Path:
    """The Python that a peer runs on: this one, or an environment's in the cache folder, made where it is missing.

    Raises `Unusable`.
    """
    packages = PEERS[peer][1]
    if not packages:
        return Path(sys.executable)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twinwire-benchmark"
    python = cache / peer / "bin" / "python"
    if (cache / peer / "complete").exists():
        return python
    uv = shutil.which("uv")
    if uv is None:
        raise Unusable(f"--peer {peer}: it is installed with uv, which is not here")
    commands: tuple[list[str | Path], ...] = (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, cache / peer],
        [uv, "pip", "install", "--quiet", "--python", python, *packages, *_COMMON],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Unusable(f"--peer {peer}: cannot be installed: {reason.strip()}")
    (cache / peer / "complete").touch()
    return python


@contextmanager
def peer_of(name: str) -> Iterator[Target]:
    """A peer."""
    command = (python_of(name), "-m", f"benchmarks.peers.{name}")
    with program(*command, measured=True, environ={"PYTHONPATH": str(ROOT)}) as process:
        yield Target(name, "127.0.0.1", int(process.line), process, PEERS[name][0])
