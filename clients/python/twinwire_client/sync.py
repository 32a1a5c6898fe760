"""The client for programs without an event loop of their own: the same `Client`, in a loop of a thread of its own.

Each method waits until the async one of the same name is done; Ctrl-C ends the waiting, and what was waited for.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from twinwire_client.client import Client
from twinwire_client.events import Event, Snapshot
from twinwire_client.run import Run

CANCEL_SECONDS = 1.0

P = ParamSpec("P")
T = TypeVar("T")


class _Call(Generic[T]):
    """One call of `work` in the loop's thread. It can be given up at any moment, also before it has begun."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.outcome: Future[T] = Future()
        self._work = work
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, unless it was given up. Called in the loop's thread, as `give_up` is."""
        if not self.outcome.cancelled():
            self._task = asyncio.get_running_loop().create_task(self._carry_out())

    def give_up(self) -> None:
        """Cancel the work."""
        if self._task is None:
            self.outcome.cancel()
        else:
            self._task.cancel()

    async def _carry_out(self) -> None:
        try:
            result = await self._work()
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(result)


class _Loop:
    """An event loop in a daemon thread, so that a program that forgets to close its client still ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="twinwire-client", daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what `work()` returns, or raise what it raises. Ctrl-C cancels it, and waits until it has let go."""
        if self._loop.is_closed():
            raise RuntimeError("The client is closed.")
        call = _Call(work)
        try:
            self._loop.call_soon_threadsafe(call.start)
            return call.outcome.result()
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(call.give_up)
            wait([call.outcome], CANCEL_SECONDS)
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
        self._events: deque[Event] = deque()  # those that a Ctrl-C kept from being returned

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
        self._loop.run(self._run.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        try:
            if not self._events:
                self._loop.run(self._fetch)
        except StopAsyncIteration:
            raise StopIteration from None
        return self._events.popleft()

    async def _fetch(self) -> None:
        self._events.append(await self._run.__anext__())

    def cancel(self) -> str:
        """See `Run`; any thread may do so."""
        return self._loop.run(self._run.cancel)

    def wait(self) -> str:
        """See `Run`."""
        return self._loop.run(self._run.wait)

    def close(self) -> None:
        """Follow it no longer, as leaving the block does."""
        self._loop.run(self._run.aclose)


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
        return self._loop.run(partial(method, self._client, *args, **kwargs))

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
        self._loop.run(self._client.aclose)
        self._loop.close()
