"""Servers that start in a fraction of the time: each is forked from a process that has imported all that they need.

`twinwire serve` spends most of its start on imports. What is forked runs the same `main` in a process of its own, and
ends as any other does, so that a test can afford hundreds.

As a program this is the process that forks; its argument is the Unix socket to listen on. A connection brings lines of
JSON, one for each server: its `args`, `cwd`, `environ`, and the file of its `stderr`. It gets lines of JSON back: the
pid that `began`, each `line` that a `pid` has printed, its `code`. With a connection its servers end.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

from support.processes import COMMAND, ENVIRONMENT, MORTAL, url_in

TESTS = Path(__file__).parents[1]
_MODULES = [
    *("twinwire.cli.target", "twinwire.log.redis.log", "twinwire.log.sqlite.log", "twinwire.serving.shell"),
    *("twinwire.web.twinwire", "httpx", "uvicorn.lifespan.on", "uvicorn.loops.uvloop", "anyio._backends._asyncio"),
    "support.outside",
]
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Worker:
    """A server in a process of its own. It has a `url` once it is `ready`.

    `end` becomes its exit code, or the negative number of the signal that has ended it.
    """

    def __init__(self, pid: int, stderr: Path) -> None:
        loop = asyncio.get_running_loop()
        self.pid = pid
        self.url = self.ws_url = ""
        self.port = 0
        self._stderr = stderr
        self._listens: asyncio.Future[str] = loop.create_future()
        self.end: asyncio.Future[int] = loop.create_future()

    async def ready(self) -> None:
        """Wait until it listens."""
        ends: list[asyncio.Future[Any]] = [self._listens, self.end]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert self._listens.done(), f"The server ended with {self.end.result()}. {self.said}"
        self.url, self.port = url_in(self._listens.result())
        self.ws_url = f"ws{self.url.removeprefix('http')}/ws"

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if not self.end.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    @property
    def said(self) -> str:
        """What it has written to its standard error."""
        return self._stderr.read_text()

    def told(self, news: Mapping[str, Any]) -> None:
        """The process that forks has news of it."""
        if "code" in news:
            self.end.set_result(news["code"])
        elif not self._listens.done():
            self._listens.set_result(news["line"])


class Forge:
    """Begins servers, by a connection to the process that forks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._workers: dict[int, Worker] = {}
        self._beginning: deque[tuple[asyncio.Future[Worker], Path]] = deque()

    async def begin(self, *args: str, cwd: Path, environ: Mapping[str, str]) -> Worker:
        """Begin a server with these arguments of `twinwire`, in this folder."""
        beginning: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        number = len(self._workers) + len(self._beginning)
        stderr = cwd / f"server-{number}.err"
        self._beginning.append((beginning, stderr))
        order = {"args": args, "cwd": str(cwd), "environ": {**ENVIRONMENT, **environ}, "stderr": str(stderr)}
        self._writer.write(json.dumps(order).encode() + b"\n")
        return await beginning

    async def hear(self) -> None:
        """Hear of the servers, until the connection and all of them have ended."""
        async for line in self._reader:
            news = json.loads(line)
            if "began" in news:
                beginning, stderr = self._beginning.popleft()
                stderr.touch()
                worker = self._workers[news["began"]] = Worker(news["began"], stderr)
                beginning.set_result(worker)
            else:
                self._workers[news["pid"]].told(news)


@asynccontextmanager
async def forge() -> AsyncIterator[Forge]:
    """A connection to the process that forks. What it has begun ends with the block."""
    reader, writer = await asyncio.open_unix_connection(_forking())
    made = Forge(reader, writer)
    hearing = asyncio.create_task(made.hear())
    try:
        yield made
    finally:
        writer.write_eof()
        await hearing
        writer.close()


@cache
def _forking() -> Path:
    """The socket of the process that forks, which is started when first asked for and ends with the tests."""
    path = Path(tempfile.mkdtemp(prefix="forked-")) / "socket"
    python = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [*MORTAL, sys.executable, "-m", "support.forked", str(path)]
    process = subprocess.Popen(command, env={**ENVIRONMENT, "PYTHONPATH": python}, stdout=subprocess.PIPE)
    _processes.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return path


_processes: list[subprocess.Popen[bytes]] = []  # for as long as the tests go on


def _tell(connection: socket.socket, **news: Any) -> None:
    with suppress(OSError):  # nobody is there any more
        connection.sendall(json.dumps(news).encode() + b"\n")


class _Lines:
    """A server's standard output."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._text = ""

    def write(self, text: str) -> None:
        *lines, self._text = f"{self._text}{text}".split("\n")
        for line in lines:
            _tell(self._connection, pid=os.getpid(), line=line)

    def flush(self) -> None: ...


def _become(order: Mapping[str, Any], connection: socket.socket, parent: int) -> NoReturn:
    """In a process that was forked: be the server."""
    code = 1
    try:
        if MORTAL:  # as setpriv does for others
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(os.open(order["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            faulthandler.enable()  # SIGABRT shows where one that does not end is
            os.chdir(order["cwd"])
            os.environ.clear()
            os.environ.update(order["environ"])
            sys.argv = [str(COMMAND), *order["args"]]
            sys.stdout = _Lines(connection)
            from twinwire.cli.main import main

            main()
            code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - the process ends here, whatever ends it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


class _Forking:
    """The process that forks, with the connections that it has, and the servers of each."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._connections: dict[socket.socket, bytes] = {}  # and what came of the next line
        self._servers: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake)
        self._selector.register(self._woken, selectors.EVENT_READ, self._reap)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def run(self) -> NoReturn:
        """Fork what is ordered, for ever."""
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._connections[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ, partial(self._receive, connection))

    def _receive(self, connection: socket.socket) -> None:
        """Take orders; at the connection's end, end its servers."""
        if data := connection.recv(65_536):
            *orders, self._connections[connection] = (self._connections[connection] + data).split(b"\n")
            for order in orders:
                self._fork(json.loads(order), connection)
            return
        self._selector.unregister(connection)
        del self._connections[connection]
        for pid, its in self._servers.items():
            if its is connection:
                os.kill(pid, signal.SIGKILL)
        self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        """Close a connection that has ended, and has no server any more."""
        if connection not in self._connections and connection not in self._servers.values():
            connection.close()

    def _fork(self, order: Mapping[str, Any], connection: socket.socket) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            self._listener.close()
            for descriptor in self._woken, self._wake:
                os.close(descriptor)
            for other in {*self._connections, *self._servers.values()} - {connection}:
                other.close()
            _become(order, connection, parent)
        self._servers[pid] = connection
        _tell(connection, began=pid)

    def _reap(self) -> None:
        """Tell of the servers that have ended."""
        os.read(self._woken, 4096)
        while self._servers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            connection = self._servers.pop(pid)
            _tell(connection, pid=pid, code=os.waitstatus_to_exitcode(status))
            self._close(connection)


def _import_all() -> None:
    """Import what a server imports, some of which it does when it is first used."""
    for name in _MODULES:
        importlib.import_module(name)
    from twinwire import DemoModel, OpenAIChatModel, ReActAgent
    from twinwire.cli.main import parser
    from twinwire.web.app import create_app

    parser()
    OpenAIChatModel("none", base_url="http://127.0.0.1:9")
    create_app({"none": ReActAgent("none", DemoModel())})


def main() -> None:
    """Import all, then fork what is ordered."""
    _import_all()
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        print("ready", flush=True)
        _Forking(listener).run()


if __name__ == "__main__":
    main()
