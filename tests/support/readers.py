"""Programs that read a run with one of the two clients, in processes of their own, which can be stopped and go on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from support.node import CLIENT, needed
from twinwire import RunRequest, StreamEvent

Language = Literal["python", "javascript"]
LANGUAGES: tuple[Language, ...] = ("python", "javascript")


def teller(count: int, rate: float, size: int) -> Any:
    """Return an agent that says so many events of so many bytes, `rate` in a second."""

    async def agent(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(count):
            yield StreamEvent("TOLD", {"told": "x" * size})
            if (early := began + (number + 1) / rate - loop.time()) > 0:
                await asyncio.sleep(early)

    return agent


class Reader:
    """One program. It says when it has begun, and how its run ended."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def begun(self) -> None:
        """Wait until it has read the first events."""
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"begun\n"

    def freeze(self) -> None:
        """Stop it, as a breakpoint or the system's battery saver does."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    async def end(self) -> dict[str, Any]:
        """Wait until the run has ended: how many events came, each once and in order, what was tried again, how."""
        assert self._process.stdout is not None
        told = await self._process.stdout.read()
        assert await self._process.wait() == 0, told.decode()
        outcome: dict[str, Any] = json.loads(told.splitlines()[-1])
        return outcome


@asynccontextmanager
async def reading(language: Language, url: str, transport: str, **options: Any) -> AsyncIterator[Reader]:
    """A program that reads a run of the server at this URL. It is killed if it has not ended with the block."""
    chosen = {"policy": None, "pace": 0, "pauseAt": 10, "pause": 0, "timeout": 10, "heartbeat": 15, **options}
    if language == "javascript":
        needed()
        command = ["node", str(CLIENT / "test/read.js")]
    else:
        command = [sys.executable, str(Path(__file__).with_name("read.py"))]
    process = await asyncio.create_subprocess_exec(
        *command,
        json.dumps({"url": url, "transport": transport, **chosen}),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Reader(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
