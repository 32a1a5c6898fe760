"""The application's own authentication: the `authenticate` that it gives to `Twinwire`, fenced and bounded in time."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any
from uuid import UUID

from litestar.connection import ASGIConnection

from twinwire.auth import Auth, Identity
from twinwire.fence import Fence
from twinwire.protocol.errors import AuthenticationUnavailable, TwinwireError
from twinwire.web import mounting

logger = logging.getLogger("twinwire.web")

User = str | int | UUID | None
Authenticate = Callable[[ASGIConnection[Any, Any, Any, Any]], User | Awaitable[User]]
"""Returns the id of the user that a connection is of, or None if it is nobody's; async or not.

The connection has the application's own session, user, headers and cookies.
"""

SECONDS = 10.0
"""Within which `authenticate` must return."""
MAX_THREADS = 64  # that an `authenticate` which is not async has at once; others wait, as long as it may take itself


class Authentication:
    """Asks the application who is asking."""

    def __init__(self, authenticate: Authenticate, auth: Auth) -> None:
        self._authenticate = authenticate
        self._call = getattr(type(authenticate), "__call__", None)  # noqa: B004 - of an object that is called
        self._auth = auth
        self._threads = asyncio.Semaphore(MAX_THREADS)

    async def identity(self, scope: Any) -> Identity | None:
        """Return the identity that the application knows the connection by, or None.

        Raise `AuthenticationUnavailable` if it does not tell in time or fails, and `TwinwireError` if it tells what is
        no user. A log-out during the call ends what the identity opens.
        """
        heard = self._auth.log_outs
        user: Any = None
        with Fence(logger, "The application's `authenticate` failed.") as fence:
            async with asyncio.timeout(SECONDS):
                user = await self._ask(ASGIConnection(mounting.outer(scope)))
        if fence.error is not None:
            raise AuthenticationUnavailable
        if user is None:
            return None
        name = str(user) if isinstance(user, (str, int, UUID)) and not isinstance(user, bool) else ""
        if not 1 <= len(name) <= 128 or not name.isprintable():
            logger.error(
                "The application's `authenticate` must return None or the user's id, and has returned %s. "
                "An id is a text of 1 to 128 characters without control characters, a number or a UUID.",
                f"a text of {len(user)} characters" if isinstance(user, str) else f"an object of {type(user).__name__}",
            )
            raise TwinwireError
        return Identity(name, log_outs=heard, admin=name in self._auth.admins)

    async def _ask(self, connection: ASGIConnection[Any, Any, Any, Any]) -> User:
        if inspect.iscoroutinefunction(self._authenticate) or inspect.iscoroutinefunction(self._call):
            told: Any = self._authenticate(connection)
        else:
            async with self._threads:
                told = await _in_thread(lambda: self._authenticate(connection))
        user: User = await told if inspect.isawaitable(told) else told
        return user


def _in_thread(call: Callable[[], Any]) -> asyncio.Future[Any]:
    """Call this in a thread of its own, which the end of the process does not wait for."""
    outcome: Future[Any] = Future()

    def work() -> None:
        if outcome.set_running_or_notify_cancel():
            try:
                outcome.set_result(call())
            except BaseException as error:  # noqa: BLE001 - it is raised where the outcome is awaited
                outcome.set_exception(error)

    threading.Thread(target=work, name="twinwire-authenticate", daemon=True).start()
    return asyncio.wrap_future(outcome)
