"""The handler that ends streams: it calls the server's own, whoever else has set one before or after it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from weakref import WeakSet

import pytest

from support.hosts import settings
from support.processes import ENVIRONMENT
from support.serving import Puppets, echo
from twinwire import Twinwire
from twinwire.web import hosting


class Handlers:
    """The handlers of a server and of others, and the order in which they were called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def server(self, _number: int, _frame: FrameType | None) -> None:
        self.called.append("server")

    def chain(self, name: str) -> None:
        """Set a handler that calls the one which is there."""
        before = signal.getsignal(signal.SIGTERM)
        assert callable(before)

        def handler(number: int, frame: FrameType | None) -> None:
            self.called.append(name)
            before(number, frame)

        signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Handlers]:
    """Handlers as a server sets them, for the time of a test, and no apps but those of the test."""
    # A signal would drain a server that other tests share, and its end would give back that one's handler.
    monkeypatch.setattr(hosting, "_attended", WeakSet())
    monkeypatch.setattr(hosting, "_before", {number: [] for number in hosting.SIGNALS})
    kept = signal.getsignal(signal.SIGTERM)
    made = Handlers()
    signal.signal(signal.SIGTERM, made.server)
    yield made
    hosting._restore()
    hosting._release()
    signal.signal(signal.SIGTERM, kept)


async def test_the_servers_handler_is_called(handlers: Handlers, puppets: Puppets) -> None:
    """A signal drains the app and calls the server's handler once; after the end the server's own is back."""
    ai = Twinwire({"mine": puppets}, settings=settings())
    async with ai.lifespan():
        run = await ai.start("mine", "hi")
        await puppets.next()
        signal.raise_signal(signal.SIGTERM)
        assert handlers.called == ["server"]
        assert (await run.wait()).reason == "shutdown"
        await ai.drain()
        assert signal.getsignal(signal.SIGTERM) == handlers.server


async def test_two_apps_and_others(handlers: Handlers, puppets: Puppets) -> None:
    """Two apps, and others that chain handlers before, between and after, are each called once, and no call recurs."""
    one, two = (Twinwire({"mine": puppets}, settings=settings()) for _ in range(2))
    handlers.chain("before")
    async with one.lifespan():
        handlers.chain("between")
        async with two.lifespan():
            one.app.hosting.attend()
            handlers.chain("after")
            one.app.hosting.attend()
            two.app.hosting.attend()
            runs = [await ai.start("mine", "hi") for ai in (one, two)]
            signal.raise_signal(signal.SIGTERM)
            assert sorted(handlers.called) == ["after", "before", "between", "server"]
            assert [(await run.wait()).reason for run in runs] == ["shutdown", "shutdown"]


async def test_a_server_that_sets_its_handler_later(handlers: Handlers, puppets: Puppets) -> None:
    """A handler that a server sets after the lifespan has begun is chained at the next request."""
    ai = Twinwire({"mine": puppets}, settings=settings())
    async with ai.lifespan():
        signal.signal(signal.SIGTERM, lambda *_: handlers.called.append("late"))
        ai.app.hosting.attend()
        run = await ai.start("mine", "hi")
        signal.raise_signal(signal.SIGTERM)
        assert handlers.called == ["late"]
        assert (await run.wait()).reason == "shutdown"


async def test_signals_that_nobody_handles() -> None:
    """Where no server handles a signal, none is touched: the signal ends the process at once."""
    before = [signal.getsignal(number) for number in hosting.SIGNALS]
    ai = Twinwire({"echo": echo}, settings=settings())
    async with ai.lifespan():
        ai.app.hosting.attend()
        assert [signal.getsignal(number) for number in hosting.SIGNALS] == before


LOCKING = "import sys; from twinwire.web import hosting; print(hosting._alone(), hosting._alone()); sys.stdin.read()"


@pytest.mark.full
def test_the_lock(tmp_path: Path) -> None:
    """Of two processes with one parent, command and folder the second is not alone; of another folder it is."""

    def begin(folder: Path) -> subprocess.Popen[str]:
        environ = {**ENVIRONMENT, "TMPDIR": str(tmp_path)}
        return subprocess.Popen(
            [sys.executable, "-c", LOCKING], cwd=folder, env=environ, stdin=-1, stdout=-1, text=True
        )

    def first_line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    (tmp_path / "other").mkdir()
    with begin(tmp_path) as one, begin(tmp_path / "other") as other:
        assert first_line(one) == first_line(other) == "True True"
        with begin(tmp_path) as two:
            assert first_line(two) == "False False"
            two.communicate("")
        one.communicate("")
        other.communicate("")
    with begin(tmp_path) as three:  # nobody holds the lock any more
        assert first_line(three) == "True True"
        three.communicate("")
