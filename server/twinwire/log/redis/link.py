"""Connections to Redis: the commands of one loop turn go out as one pipeline, and nothing waits for ever.

Where to connect, and how a command fails; which commands there are is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import (
    AuthenticationError,
    ConnectionError as RedisConnectionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from twinwire.log.redis import OLDEST
from twinwire.protocol.errors import LogUnavailable, SettingsError

logger = logging.getLogger("twinwire.log")

COMMAND_SECONDS = 2.0
CLOSE_SECONDS = 1.0

_NAMESPACE = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_DATABASE = re.compile(r"[0-9]{0,4}", re.ASCII)

Command = tuple[Any, ...]


class WrongType(LogUnavailable):
    """A key holds what this log never puts there. Whether that is one run's fault is for the caller to find out."""


class Address:
    """The parts of a `redis://`, `rediss://` or `unix://` URL. `name` is the only part of it that is ever shown.

    The name is host and port, or the path of a Unix socket. The query may have `namespace`, `lease` (the seconds after
    which a silent worker is taken for dead), for `unix://` the number `db` of a database, and for `rediss://` what
    redis-py knows as `ssl_…` (`ssl_ca_certs`). Raises `SettingsError`.

    A `private://` URL is a `unix://` one of a server that these workers have to themselves (`serving/store.py`).
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            self.private = parts.scheme == "private"
            options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
            self.namespace = options.pop("namespace", "twinwire")
            self.lease = float(options.pop("lease", 10.0))
            if parts.fragment or "@" in f"{parts.path}{parts.query}":
                raise ValueError  # a password with a `#`, `/` or `?` that is not percent-encoded
            self.name, parts = _place(parts, options)
            bare = urlunsplit(parts._replace(query=urlencode(options)))
            self._pool = ConnectionPool.from_url(bare, socket_timeout=None, socket_connect_timeout=None, protocol=2)
            self.connection()
        except (ValueError, TypeError, RedisError):
            raise SettingsError(
                "`--log` must be redis://host:port/database for Redis, rediss:// for TLS, or unix:///path of a socket, "
                "with user:password@ before the host or the path if it requires them.",
                field="--log",
            ) from None
        if not _NAMESPACE.fullmatch(self.namespace):
            raise SettingsError("The namespace in `--log` must be 1 to 64 letters, digits and _.:-.", field="--log")
        if not 0.05 <= self.lease <= 3600:
            raise SettingsError("The lease in `--log` must be 0.05 to 3600 seconds.", field="--log")

    def connection(self) -> AbstractConnection:
        """Return a new connection, which connects when it is used."""
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        return connection


def _place(parts: SplitResult, options: Mapping[str, str]) -> tuple[str, SplitResult]:
    """Return the name of what a URL connects to, and the URL as redis-py reads it.

    Raises `ValueError` if the path or one of the options means nothing there.
    """
    if parts.scheme in {"unix", "private"}:
        if parts.hostname or parts.path in {"", "/"} or not _DATABASE.fullmatch(options.get("db", "")):
            raise ValueError
        known = options.keys() <= {"db"}
        name = unquote(parts.path) if parts.scheme == "unix" else "a private socket"
        parts = parts._replace(scheme="unix")
    else:
        known = all(option.startswith("ssl_") for option in options)
        name = f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
        if not _DATABASE.fullmatch(parts.path.removeprefix("/")):
            raise ValueError
    if not known:
        raise ValueError
    return name, parts


async def lenient(reply: Awaitable[Any]) -> Any:
    """Return the reply to a command, or None if the key holds what this log never puts there."""
    try:
        return await reply
    except WrongType:
        return None


class Link:
    """One connection. A command's future gets its reply, or `LogUnavailable` within `timeout` seconds.

    A `patient` link connects again and repeats what was lost until the time is over: its commands must bear being
    carried out twice. `scripts` are loaded at each connection.
    """

    def __init__(
        self, address: Address, *, timeout: float = COMMAND_SECONDS, patient: bool = True, scripts: tuple[str, ...] = ()
    ) -> None:
        self._address = address
        self._connection = address.connection()
        self._timeout = timeout
        self._patient = patient
        self._scripts = scripts
        self._pending: list[tuple[Callable[[], Command], asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._away = False

    def call(self, *command: Any) -> asyncio.Future[Any]:
        """Send a command with what else this loop turn brings. Replies are bytes, ints, lists and None."""
        return self.call_later(lambda: command)

    def call_later(self, command: Callable[[], Command]) -> asyncio.Future[Any]:
        """Send the command that this returns when the connection is free."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if self._closed:
            future.set_exception(LogUnavailable())
            return future
        self._pending.append((command, future))
        if self._task is None:
            self._task = loop.create_task(self._work())
        return future

    async def probe(self) -> None:
        """Connect for the first time. Raises `SettingsError` if no Redis that can be used is there."""
        trouble = "does not answer"
        try:
            async with asyncio.timeout(self._timeout):
                [hello] = await self._exchange([("HELLO",)])
            version = hello[hello.index(b"version") + 1] if isinstance(hello, list) else b"0.0"
            if tuple(int(number) for number in version.split(b".")[:2]) >= OLDEST:
                return
            trouble = "is older than 6.2"
        except AuthenticationError:
            trouble = "refuses this user and password"
        except ResponseError:
            trouble = "does not let this user use it"
        except (RedisError, OSError, ValueError):
            pass
        await self._drop()
        raise SettingsError(
            f"The Redis at {self._address.name} {trouble}. `--log` must name one that works.", field="--log"
        )

    async def close(self, patience: float = CLOSE_SECONDS) -> None:
        """Take no more, wait so many seconds for what was sent, then disconnect. Idempotent."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait([self._task], timeout=patience)
        if (task := self._task) is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._drop()

    async def _work(self) -> None:
        try:
            while self._pending:
                batch, self._pending = self._pending, []
                await self._serve(batch)
        finally:
            self._task = None
            for _, future in self._pending:  # given up
                future.set_exception(LogUnavailable())
            self._pending = []

    async def _serve(self, batch: list[tuple[Callable[[], Command], asyncio.Future[Any]]]) -> None:
        replies: list[Any] = []
        failure: Exception | None = None
        try:
            async with asyncio.timeout(self._timeout):
                replies = await self._insist([command() for command, _ in batch])
        except (RedisError, OSError) as error:
            failure = error
            batch += self._pending  # they have waited as long
            self._pending = []
        finally:
            if not replies:
                await self._drop()
            for index, (_, future) in enumerate(batch):
                reply = replies[index] if index < len(replies) else LogUnavailable()
                if isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply):
                    reply = WrongType()  # Redis is there
                elif isinstance(reply, RedisError):
                    failure, reply = reply, LogUnavailable()
                if future.done():
                    continue
                if isinstance(reply, Exception):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        self._tell(failure)

    def _tell(self, failure: Exception | None) -> None:
        """Log once when Redis goes away, and once when it is back: its address and the kind of the error, no more."""
        if failure is not None and not self._away:
            logger.warning("The Redis at %s is unavailable: %s.", self._address.name, type(failure).__name__)
        elif failure is None and self._away:
            logger.warning("The Redis at %s is available again.", self._address.name)
        self._away = failure is not None

    async def _insist(self, commands: list[Command]) -> list[Any]:
        delay = 0.02
        while True:
            try:
                return await self._exchange(commands)
            except (RedisConnectionError, NoScriptError, ReadOnlyError, OSError):
                if not self._patient:
                    raise
                await self._drop()
                await asyncio.sleep(delay)
                delay = min(2 * delay, 0.25)

    async def _exchange(self, commands: list[Command]) -> list[Any]:
        """Send commands and read their replies. The errors that a new connection may mend are raised."""
        connection = self._connection
        if not connection.is_connected:
            await connection.connect()  # type: ignore[no-untyped-call]
            for reply in await self._send([("SCRIPT", "LOAD", script) for script in self._scripts]):
                if isinstance(reply, RedisError):
                    raise reply
        return await self._send(commands)

    async def _send(self, commands: list[Command]) -> list[Any]:
        if not commands:
            return []
        connection = self._connection
        packed = b"".join([pack_command(command) for command in commands])  # redis-py's own takes five times as long
        await connection.send_packed_command(packed, check_health=False)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                replies.append(error)
        for reply in replies:
            if isinstance(reply, NoScriptError | ReadOnlyError):
                raise reply
        return replies

    async def _drop(self) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)
