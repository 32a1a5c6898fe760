"""The client for programs without an event loop of their own: the same `Client`, in a loop of a thread of its own.

Each method waits until the async one of the same name is done; Ctrl-C ends the waiting, and what was waited for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from twinwire_client.client import Client
from twinwire_client.events import Event, Snapshot
from twinwire_client.run import Run

CANCEL_SECONDS = 1.0

P = ParamSpec("P")
T = TypeVar("T")


class _Loop:
    """An event loop in a daemon thread, so that a program that forgets to close its client still ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="twinwire-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns or raises."""
        if self._loop.is_closed():
            work.close()
            raise RuntimeError("the client is closed")
        over = threading.Event()

        async def tracked() -> T:
            try:
                return await work
            finally:
                over.set()

        future = asyncio.run_coroutine_threadsafe(tracked(), self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            if future.cancel():
                over.wait(CANCEL_SECONDS)  # what is cancelled must have let go before anything else is asked
            raise

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncRun:
    """A run, as a context manager and an iterator over its events. See `Run`, whose names it has."""

    def __init__(self, loop: _Loop, run: Run) -> None:
        self._loop = loop
        self._run = run

    @property
    def run_id(self) -> str:
        """See `Run`."""
        return self._run.run_id

    @property
    def cursor(self) -> int:
        """See `Run`."""
        return self._run.cursor

    @property
    def result(self) -> str | None:
        """See `Run`."""
        return self._run.result

    @property
    def terminal(self) -> Event | None:
        """See `Run`."""
        return self._run.terminal

    @property
    def snapshot(self) -> Snapshot | None:
        """See `Run`."""
        return self._run.snapshot

    def __enter__(self) -> Self:
        self._loop.run(self._run.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        try:
            return self._loop.run(self._run.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def cancel(self) -> str:
        """See `Run`; any thread may do so."""
        return self._loop.run(self._run.cancel())

    def wait(self) -> str:
        """See `Run`."""
        return self._loop.run(self._run.wait())

    def close(self) -> None:
        """Follow it no longer, as leaving the block does."""
        self._loop.run(self._run.aclose())


def _taking(
    make: Callable[P, Client],  # noqa: ARG001 - for its signature
) -> Callable[[Callable[..., None]], Callable[Concatenate[SyncClient, P], None]]:
    return lambda init: init


def _following(method: Callable[Concatenate[Client, P], Run]) -> Callable[Concatenate[SyncClient, P], SyncRun]:
    @wraps(method)
    def follow(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> SyncRun:
        return SyncRun(self._loop, method(self._client, *args, **kwargs))

    return follow


def _asking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncClient, P], T]:
    @wraps(method)
    def ask(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(method(self._client, *args, **kwargs))

    return ask


class SyncClient:
    """`Client`, with its arguments and methods; a context manager. A `token` function is called in another thread."""

    @_taking(Client)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = Client(*args, **kwargs)
        self._loop = _Loop()

    stream = _following(Client.stream)
    attach = _following(Client.attach)
    get = _asking(Client.get)
    cancel = _asking(Client.cancel)
    runs = _asking(Client.runs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread."""
        self._loop.run(self._client.aclose())
        self._loop.close()
