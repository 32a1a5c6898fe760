"""The start and the end of the service in an application of somebody else's, on a server of somebody else's.

`twinwire serve` does both itself. Elsewhere the lifespan of ASGI may not be passed on, so that the first request starts
the service; and a server that is told to end waits for its open streams before it tells the lifespan, so that the
signal itself must end them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextvars import Context
from types import FrameType
from typing import Any
from weakref import WeakSet

from twinwire.protocol.errors import RunsUnavailable, TwinwireError
from twinwire.web.service import Service

logger = logging.getLogger("twinwire.web")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Hosting:
    """The service of one app, started once in an event loop, and drained once.

    `build` makes the service. Another one is made if the app starts again, in the lifespan of another test client, say.
    """

    def __init__(self, build: Callable[[], Service]) -> None:
        self._build = build
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop that the service has started in."""
        self._starting: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self.service = build()

    def _anew(self) -> None:
        self.loop = self._starting = self._draining = None
        self.service = self._build()

    async def start(self, *, again: bool = False) -> None:
        """Start the service in this event loop, once. With `again`, a service that has ended is made and started anew.

        Raise what `Service.start` does, and `RuntimeError` if the service is in use in another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._starting is not None and self._starting.get_loop() is not loop:
            if not self._starting.get_loop().is_closed():
                raise RuntimeError(
                    "The Twinwire app is in use in another event loop. Make an app for each event loop, and call its "
                    "methods in that loop."
                )
            self._anew()
        if again and self.service.runs.draining:
            self._anew()
        if self._starting is None:
            # Without the ids of a request: what the service begins with, such as the log's tasks, goes on for all.
            self._starting = loop.create_task(self.service.start(), context=Context())
        starting = self._starting
        try:
            await asyncio.shield(starting)
        except BaseException:
            if starting.done() and self._starting is starting:
                self._starting = None  # the next request tries again
            raise
        self.loop = loop
        _attended.add(self)

    async def ready(self) -> None:
        """Start the service if nobody has. Raise a `TwinwireError` that a client may see, after a line in the log."""
        try:
            await self.start()
        except TwinwireError as error:
            logger.error("Twinwire could not start with a request. %s", error)  # noqa: TRY400 - it is for the operator
            raise error if error.status == 503 else RunsUnavailable from None
        except Exception as error:
            logger.exception("Twinwire could not start with a request.")
            raise RunsUnavailable from error

    async def drain(self) -> None:
        """End what goes on, in bounded time; see `Service.drain`. Everybody who calls it waits for the same end."""
        if self._starting is None:
            return
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._end())
        await asyncio.shield(self._draining)

    async def _end(self) -> None:
        await self.service.drain()
        _attended.discard(self)
        for other in tuple(_attended):
            if other.loop is None or other.loop.is_closed():
                _attended.discard(other)  # left behind in it, and never drained
        if not _attended:
            _restore()
            _release()

    def hurry(self) -> None:
        """Begin to drain; a signal handler may call this."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._hurry)

    def _hurry(self) -> None:
        if self._draining is None and self.loop is not None:
            self._draining = self.loop.create_task(self._end())

    def attend(self) -> None:
        """Have the signals that end the server end the streams first, whenever the server has set its handlers.

        A request may call this: it costs a look at two handlers.
        """
        if self.service.runs.draining:
            return
        if _attend() and self.service.settings.log.startswith("memory:") and not _alone():
            logger.warning(
                "Several processes serve this app, and each keeps its runs in its own memory: a request that reaches "
                "another process than its run's finds no such run (404). Serve it with one process, or have the "
                "processes share a log: set `TWINWIRE_LOG=redis://host:port/0`."
            )


_attended: WeakSet[Hosting] = WeakSet()
"""All that have started in this process."""
_before: dict[int, list[Any]] = {number: [] for number in SIGNALS}
"""The handlers that were there before ours, of each signal; the server's own is the first."""
_passing: dict[int, int] = {}
"""Which of them is being called: one that was set later may call ours in turn."""


def _attend() -> bool:
    """Put our handler before those of a server. Return whether it was not there yet."""
    if threading.current_thread() is not threading.main_thread():
        return False
    server = signal.getsignal(signal.SIGTERM)
    if server is _told or not callable(server) or getattr(getattr(server, "__self__", None), "drains", False):
        return False  # it is there, there is no server (a test, a program of `asyncio.run`), or the server is our own
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if handler is _told or not callable(handler) or handler is signal.default_int_handler:
            continue
        if handler not in _before[number]:
            _before[number].append(handler)
        signal.signal(number, _told)
    return True


def _told(number: int, frame: FrameType | None) -> None:
    """End the streams of all apps of this process, and let the server's own handler do what it does."""
    for hosting in tuple(_attended):
        hosting.hurry()
    handlers = _before[number]
    inside = _passing.get(number, len(handlers))
    if inside:
        _passing[number] = inside - 1
        try:
            handlers[inside - 1](number, frame)
        finally:
            _passing[number] = inside
    if inside == len(handlers):
        _passing.pop(number, None)


def _restore() -> None:
    """Give the signals back to the handlers that were there before ours."""
    if threading.current_thread() is threading.main_thread():
        for number, handlers in _before.items():
            if handlers and signal.getsignal(number) is _told:
                signal.signal(number, handlers[0])
            handlers.clear()


_lock: tuple[int, str] | None = None
"""The descriptor and the path of this process's lock."""


def _alone() -> bool:
    """Return whether no other process with this one's parent, command and folder has called this and goes on.

    Worker processes of all servers have these three in common. Without POSIX nobody knows.
    """
    global _lock  # noqa: PLW0603 - a process has one
    try:
        import fcntl
    except ImportError:
        return True
    if _lock is not None:
        return True
    told = "\0".join([os.getcwd(), *sys.argv]).encode(errors="surrogateescape")  # noqa: PTH109 - a text is hashed
    name = f"twinwire-{os.getuid()}-{os.getppid()}-{hashlib.sha256(told).hexdigest()[:16]}.lock"
    path = os.path.join(tempfile.gettempdir(), name)  # noqa: PTH118 - os.open takes a text
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return True  # there is nowhere to tell one another
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    _lock = lock, path
    return True


def _release() -> None:
    """Let other processes take the lock, and leave no file behind."""
    global _lock  # noqa: PLW0603 - a process has one
    if _lock is not None:
        lock, path = _lock
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108
        os.close(lock)
        _lock = None
