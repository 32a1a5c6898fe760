"""Servers behind one address that begin and end while clients go on: what a load balancer and an operator do."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from support.chaos import Proxy, listening
from support.following import QUICK
from support.forked import Forge, Worker, forge
from support.outside import Outside
from support.processes import Process
from twinwire_client import Client

READY_SECONDS = END_SECONDS = 60.0
DRAIN = 0.1


class Front(Proxy):
    """The address of all servers: each connection goes to one of them by chance, whether it lives or not."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(0)
        self.workers: list[Worker | Process] = []
        self._chance = chance

    def port(self) -> int:
        """See `Proxy`."""
        if not self.workers:
            raise ConnectionRefusedError
        return self._chance.choice(self.workers).port


class Fleet:
    """The servers that use one log, `front` before them, and the `outside` that their agents know.

    `url` and `ws_url` are those of the front, `client` asks there. `restarts` counts the servers that were ended.
    """

    def __init__(self, forge: Forge, front: Front, client: Client, outside: Outside, folder: Path, *flags: str) -> None:
        self.front = front
        self.client = client
        self.outside = outside
        self.url, self.ws_url = front.url, front.ws_url
        self.workers: list[Worker] = []
        self.restarts = 0
        self._forge = forge
        self._folder = folder
        self._flags = flags

    def environ(self, **more: str) -> dict[str, str]:
        """Return the variables that a server needs to have the agents."""
        return {"OUTSIDE": self.outside.url, "PYTHONPATH": str(Path(__file__).parents[1]), **more}

    async def begin(self, *, mortal: bool = False, **environ: str) -> Worker:
        """Begin one more, and wait until it serves; or, if it is `mortal`, until it ends, as it may before that."""
        command = ("serve", "support.mortal:app", "--port", "0", "--drain-timeout", str(DRAIN), *self._flags)
        async with asyncio.timeout(READY_SECONDS):
            worker = await self._forge.begin(*command, cwd=self._folder, environ=self.environ(**environ))
            try:
                await worker.ready()
            except AssertionError:
                if not mortal:
                    raise
        self.workers.append(worker)
        self.front.workers.append(worker)
        return worker

    def kill(self, worker: Worker, by: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal that ends it. The front does not know."""
        worker.send(by)
        self.workers.remove(worker)
        self.restarts += 1

    async def end(self, worker: Worker, by: signal.Signals = signal.SIGKILL) -> None:
        """End it, and wait until it has ended: as that signal ends a process, and without a traceback."""
        self.kill(worker, by)
        await self.gone(worker, by)

    async def gone(self, worker: Worker, by: signal.Signals = signal.SIGKILL) -> None:
        """Wait until one that was sent a signal has ended."""
        try:
            async with asyncio.timeout(END_SECONDS):
                code = await asyncio.shield(worker.end)
        except TimeoutError:
            worker.send(signal.SIGABRT)
            async with asyncio.timeout(END_SECONDS):
                code = await asyncio.shield(worker.end)
        finally:
            self.forget(worker)
        assert code == -by, (code, worker.said)
        assert "Traceback" not in worker.said, worker.said

    async def lost(self, worker: Worker) -> None:
        """Note that one has ended by itself, killed."""
        self.workers.remove(worker)
        self.restarts += 1
        await self.gone(worker)

    def forget(self, worker: Worker) -> None:
        """Have the front send nobody there."""
        with suppress(ValueError):
            self.front.workers.remove(worker)


@asynccontextmanager
async def fleet(
    folder: Path, log: str, chance: random.Random, *flags: str, size: int = 1, forged: Forge | None = None
) -> AsyncIterator[Fleet]:
    """So many servers with this log, until the block ends; then each ends as SIGTERM ends it."""
    async with AsyncExitStack() as stack:
        outside = await stack.enter_async_context(Outside())
        if forged is None:
            forged = await stack.enter_async_context(forge())
        front = await stack.enter_async_context(listening(Front(chance)))
        client = await stack.enter_async_context(Client(front.url, backoff=QUICK, first_attempts=1000))
        made = Fleet(forged, front, client, outside, folder, "--log", log, *flags)
        for _ in range(size):
            await made.begin()
        yield made
        for worker in list(made.workers):
            await made.end(worker, signal.SIGTERM)
