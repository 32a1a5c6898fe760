"""An agent that talks until a test stops it, for tests that cut connections meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator

from twinwire import RunRequest, StreamEvent


class Talker:
    """Yields words of any length, with every kind of line end in them, until `stop` is set."""

    def __init__(self, chance: random.Random, pause: float = 0.004) -> None:
        self._chance = chance
        self._pause = pause
        self.stop = asyncio.Event()

    async def __call__(self, __: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        while not self.stop.is_set():
            for _ in range(self._chance.choice([1, 1, 1, 5])):
                word = "\r\n\u2028é😀x"[: self._chance.randrange(7)] * self._chance.choice([1, 1, 1, 40])
                yield StreamEvent("LLM_CHUNK", {"content": word, "delta": word})
            await asyncio.sleep(self._pause)
