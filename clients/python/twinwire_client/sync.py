"""The client for programs without an event loop of their own: the same `Client`, in a loop of a thread of its own.

Each method waits until the async one of the same name is done; an exception that a signal raises in it, such as Ctrl-C,
ends the waiting, and what was waited for.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from twinwire_client.api import Token
from twinwire_client.checks import check
from twinwire_client.client import Client
from twinwire_client.events import Event, Snapshot
from twinwire_client.retry import fenced
from twinwire_client.run import Run
from twinwire_client.talk import Acknowledgement, Question, SyncQuestion

CANCEL_SECONDS = 1.0  # how long to wait until what was given up has let go
CLOSE_SECONDS = 5.0  # how long to wait for the end of the thread

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
            self.outcome.set_running_or_notify_cancel()  # else `wait` would not notice
        else:
            self._task.cancel()

    async def ended(self) -> None:
        """Wait until it is told that the client is closed, and have nobody wait for longer."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CANCEL_SECONDS)
            self._task.cancel()
        if not self.outcome.done():
            self.outcome.set_exception(RuntimeError("The client is closed."))

    async def _carry_out(self) -> None:
        try:
            result = await self._work()
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(result)


class _Loop:
    """An event loop in a daemon thread, so that a program that forgets to close its client still ends.

    `aclose` closes the client. The thread does not know this object: it ends when nobody has it any more.
    """

    def __init__(self, aclose: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._aclose = aclose
        self._loop = asyncio.new_event_loop()
        self._process = os.getpid()
        self._lock = threading.RLock()  # a signal's handler may close the client in the middle of a call
        self._calls: dict[Future[Any], _Call[Any]] = {}
        self._closing: _Call[None] | None = None
        self._ends = False  # the program does
        self._thread = threading.Thread(target=_live, args=[self._loop], name="twinwire-client", daemon=True)
        self._thread.start()
        self._forgotten = weakref.finalize(self, _forget, self._loop, self._process, aclose)
        self._forgotten.atexit = False
        _open.add(self)

    def run(self, work: Callable[[], Coroutine[Any, Any, T]], undelivered: Callable[[T], object] = lambda _: None) -> T:
        """Return what `work()` returns, or raise what it raises.

        If an exception comes in between, as of Ctrl-C, cancel it and wait until it has let go; a result that it has
        nevertheless is `undelivered`.
        """
        if os.getpid() != self._process:
            raise RuntimeError(
                "The client belongs to the process that this one was forked from. Make a client in each process."
            )
        if threading.current_thread() is self._thread:
            raise RuntimeError("The client cannot be waited for in a function that it calls itself.")
        call = _Call(work)
        try:
            if self._begin(call):
                return call.outcome.result()
        except BaseException as error:
            self._hush()
            self._give_up(call, undelivered)
            if isinstance(error, asyncio.CancelledError):
                raise RuntimeError("The client is closed.") from None  # noqa: TRY004 - a cancelled call
            raise
        self._hush()
        return self._at_once(work)

    def leave(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do the `work` of closing something, if it is not closed with the client: from anywhere, without an error."""
        if os.getpid() != self._process:
            return
        if threading.current_thread() is self._thread:
            self._begin(_Call(work))
        else:
            self.run(work)

    def close(self) -> None:
        """Close the client, end all other calls, and then the thread."""
        if os.getpid() != self._process:
            return
        self._forgotten.detach()
        with self._lock:
            if self._closing is None:
                self._closing = _Call(partial(_end, self._aclose, self._calls))
                self._loop.call_soon_threadsafe(self._closing.start)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_SECONDS)

    def close_at_exit(self) -> None:
        """As `close`, but nobody is told."""
        if os.getpid() != self._process:
            return
        self._ends = True
        with self._lock:
            for call in self._calls.values():
                call.outcome = Future()
        self.close()

    def _hush(self) -> None:
        """Have a thread of the program's own, a daemon, wait for the program's end, and not complain meanwhile."""
        if self._ends and threading.current_thread() is not threading.main_thread():
            Future[None]().result()

    def _begin(self, call: _Call[Any]) -> bool:
        """Start a call; False if the client is closed."""
        with self._lock:
            if self._closing is not None:
                return False
            self._calls[call.outcome] = call
            call.outcome.add_done_callback(self._calls.pop)
            self._loop.call_soon_threadsafe(call.start)
            return True

    def _give_up(self, call: _Call[T], undelivered: Callable[[T], object]) -> None:
        """Cancel a call, unless it has ended by itself."""

        def deliver(outcome: Future[T]) -> None:
            if not outcome.cancelled() and outcome.exception() is None:
                undelivered(outcome.result())

        call.outcome.add_done_callback(deliver)
        if not call.outcome.done():
            with suppress(RuntimeError):  # of a loop that was closed meanwhile
                self._loop.call_soon_threadsafe(call.give_up)
            wait([call.outcome], CANCEL_SECONDS)

    def _at_once(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """As `run` when the client is closed: nothing is waited for, and events that have come by then can be read."""
        self._thread.join(CLOSE_SECONDS)
        coroutine = work()
        try:
            coroutine.send(None)
        except StopIteration as done:
            result: T = done.value
            return result
        coroutine.close()
        raise RuntimeError("The client is closed.")


_open: weakref.WeakSet[_Loop] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for loop in tuple(_open):
        loop.close_at_exit()


def _live(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


async def _end(aclose: Callable[[], Coroutine[Any, Any, None]], calls: Mapping[Any, _Call[Any]]) -> None:
    try:
        await aclose()
    finally:
        await asyncio.gather(*(call.ended() for call in tuple(calls.values())))
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.stop)


def _forget(loop: asyncio.AbstractEventLoop, process: int, aclose: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close a client that nobody has any more. It may be any thread in which that is found out: do not wait."""
    if os.getpid() == process:
        loop.call_soon_threadsafe(_Call(partial(_end, aclose, {})).start)
        warnings.warn("A SyncClient was not closed: use it in `with`, or `close` it.", ResourceWarning, 1)


class SyncRun:
    """A run, as a context manager and an iterator over its events. See `Run`, whose names it has."""

    def __init__(
        self, loop: _Loop, run: Run, asked: deque[Question], on_input: Callable[[SyncQuestion], object] | None
    ) -> None:
        self._loop = loop
        self._run = run
        self._asked = asked  # the questions that `on_input` is yet to hear of
        self._on_input = on_input
        self._kept: deque[Event] = deque()  # those that a signal's exception kept from being returned

    @property
    def run_id(self) -> str:
        """See `Run`."""
        return self._run.run_id

    @property
    def cursor(self) -> int:
        """See `Run`."""
        return self._run.cursor

    @property
    def result(self) -> Any:
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

    @property
    def questions(self) -> list[SyncQuestion]:
        """See `Run`."""
        return [SyncQuestion(question, self._loop.run) for question in self._run.questions]

    def __enter__(self) -> Self:
        self._loop.run(self._run.__aenter__, lambda _: self.close())  # which no `__exit__` would do
        try:
            self._hear()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = None
        try:
            if (event := self.read()) is None:
                raise StopIteration
            return event  # noqa: TRY300 - a signal can come in just this line
        except BaseException:
            self._keep(event)
            raise

    def read(self, timeout: float | None = None) -> Event | None:
        """See `Run`."""
        event = None
        try:
            if self._kept:
                event = self._kept[0]
                self._kept.popleft()
                return event
            event = self._loop.run(partial(self._run.read, timeout), self._keep)
            self._hear()
            return event  # noqa: TRY300 - a signal can come in just this line
        except BaseException:
            self._keep(event)
            raise

    def _keep(self, event: Event | None) -> None:
        """Have this be the next event again."""
        if event is not None and not (self._kept and self._kept[0] is event):
            self._kept.appendleft(event)

    def cancel(self) -> str:
        """See `Run`; any thread may do so."""
        return self._loop.run(self._run.cancel)

    def answer(self, input_id: str, value: Any, *, message_id: str | None = None) -> Acknowledgement:
        """See `Run`; any thread may do so."""
        return self._loop.run(lambda: self._run.answer(input_id, value, message_id=message_id))

    def send(self, content: str, *, message_id: str | None = None) -> Acknowledgement:
        """See `Run`; any thread may do so."""
        return self._loop.run(lambda: self._run.send(content, message_id=message_id))

    def wait(self, timeout: float | None = None) -> Any:
        """See `Run`. An `on_input` is not interrupted: the time that it takes counts, too."""
        end = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if end is None else max(0.0, end - time.monotonic())

        if self._on_input is not None:
            while self.read(left()) is not None:
                pass
        return self._loop.run(partial(self._run.wait, left()))

    def _hear(self) -> None:
        """Have `on_input` hear in this thread of the questions that are open, where it may wait for its user."""
        while self._asked and self._on_input is not None:
            question = SyncQuestion(self._asked.popleft(), self._loop.run)
            with fenced("on_input"):
                self._on_input(question)

    def close(self) -> None:
        """Follow it no longer, as leaving the block does. From any thread, and as often as one likes. See `Run`."""
        self._loop.leave(self._run.aclose)


def _taking(
    make: Callable[P, Client],  # noqa: ARG001 - for its signature
) -> Callable[[Callable[..., None]], Callable[Concatenate[SyncClient, P], None]]:
    return lambda init: init


def _following(method: Callable[Concatenate[Client, P], Run]) -> Callable[Concatenate[SyncClient, P], SyncRun]:
    @wraps(method)
    def follow(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> SyncRun:
        asked: deque[Question] = deque()
        on_input: Any = kwargs.get("on_input")
        check(on_input=on_input)
        if inspect.iscoroutinefunction(on_input):
            raise TypeError("`on_input` of a `SyncClient` must not be async: it is called where the run is read.")
        if on_input is not None:
            kwargs["on_input"] = asked.append
        return SyncRun(self._loop, method(self._client, *args, **kwargs), asked, on_input)

    return follow


def _asking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncClient, P], T]:
    @wraps(method)
    def ask(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(partial(method, self._client, *args, **kwargs))

    return ask


def _beside(token: Token | None) -> Token | None:
    """Return the token; a function that may block is asked in a thread of its own, and holds nobody else up."""
    if not callable(token) or inspect.iscoroutinefunction(token):
        return token

    def ask(outcome: Future[Any]) -> None:
        if outcome.set_running_or_notify_cancel():
            try:
                outcome.set_result(token())
            except BaseException as error:  # noqa: BLE001 - it is raised where the token is awaited
                outcome.set_exception(error)

    async def asked() -> str:
        outcome: Future[Any] = Future()
        threading.Thread(target=ask, args=[outcome], name="twinwire-token", daemon=True).start()
        given = await asyncio.wrap_future(outcome)
        text: str = await given if inspect.isawaitable(given) else given
        return text

    return asked


class SyncClient:
    """`Client`, with its arguments and methods; a context manager, for any number of threads of one process.

    One that nobody has any more is closed with a `ResourceWarning`, one that is open when the program ends in silence.
    A `token` function is called in a thread of its own, and may block; `on_retry` is called in the client's thread;
    `on_input` of a run is called with a `SyncQuestion` in the thread that reads the run, and may block.
    """

    @_taking(Client)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = Client(*args, **{**kwargs, "token": _beside(kwargs.get("token"))})
        self._loop = _Loop(self._client.aclose)

    stream = _following(Client.stream)
    attach = _following(Client.attach)
    get = _asking(Client.get)
    cancel = _asking(Client.cancel)
    answer = _asking(Client.answer)
    send = _asking(Client.send)
    delete = _asking(Client.delete)
    runs = _asking(Client.runs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all runs and connections, and end the thread. From any thread, and as often as one likes.

        Whoever waits for an event gets `RunClosed`.
        """
        self._loop.close()
