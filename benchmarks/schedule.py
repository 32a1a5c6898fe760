"""Tokens as a language model gives them: when each is due and how long it is, from a seed; the same for every server.

Needs nothing but the standard library, so that it runs in the environment of any peer. A token's text begins with the
time at which it was due (`@<nanoseconds> `, CLOCK_MONOTONIC). A reader on the same machine counts its latency from
there, also where the server was too busy to give it in time, so that no delay is left out (coordinated omission).
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import json
import os
import random
import socket
import struct
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import asdict, dataclass

YIELD_EVERY = 16  # a run that is late, or has no pace, lets others go on after so many tokens


@dataclass(frozen=True)
class Load:
    """What a run gives. It travels as JSON in the run's message.

    `count` tokens, `rate` a second on average (0: as fast as they are taken), after `delay` seconds. They come in
    bursts of `burst` on average (geometric), with log-normal pauses; a token has `size` characters on average
    (log-normal) beside its stamp. Without bursts (0) all have one length and one distance, and are
    timed to a millisecond, as agents sleep. `tell` is a UDP port of 127.0.0.1 that hears when the run stops.
    """

    rate: float = 50.0
    count: int = 50
    delay: float = 0.0
    burst: float = 1.5
    size: float = 5.0
    seed: int = 1
    tell: int = 0

    def message(self) -> str:
        """Its JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def of(cls, message: str) -> Load:
        """The load that a message asks for."""
        return cls(**json.loads(message))

    def plan(self) -> Iterator[tuple[float, int]]:
        """Of each token the seconds after the start at which it is due, and its length."""
        if not self.burst:
            yield from ((self.delay + number / self.rate, round(self.size)) for number in range(self.count))
            return
        rng = random.Random(self.seed)
        due = self.delay
        for _ in range(self.count):
            yield due, max(1, round(rng.lognormvariate(0, 0.6) * self.size / 1.197))  # exp(0.6^2 / 2)
            if self.rate and rng.random() < 1 / self.burst:
                due += rng.lognormvariate(0, 0.5) / 1.133 * self.burst / self.rate  # exp(0.5^2 / 2)


class Pacer:
    """Wakes tasks at times of CLOCK_MONOTONIC, to some ten microseconds; uvloop's own timers know milliseconds."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._number = 0
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        if self._libc is not None:
            self._timer = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            asyncio.get_running_loop().add_reader(self._timer, self._ring)

    async def until(self, due: int) -> None:
        """Sleep until then."""
        if due <= time.monotonic_ns():
            return
        if self._libc is None:
            await asyncio.sleep((due - time.monotonic_ns()) / 1e9)
            return
        self._number += 1
        entry = (due, self._number, asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, entry)
        if self._waiting[0] is entry:
            self._set()
        await entry[2]

    def _set(self) -> None:
        assert self._libc is not None
        due = self._waiting[0][0]
        self._libc.timerfd_settime(self._timer, 1, struct.pack("4q", 0, 0, *divmod(due, 10**9)), None)  # absolute

    def _ring(self) -> None:
        os.read(self._timer, 8)
        now = time.monotonic_ns()
        while self._waiting and (self._waiting[0][0] <= now or self._waiting[0][2].done()):
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)
        if self._waiting:
            self._set()


_pacers: dict[asyncio.AbstractEventLoop, Pacer] = {}


def pacer() -> Pacer:
    """The pacer of the loop that runs."""
    loop = asyncio.get_running_loop()
    return _pacers.get(loop) or _pacers.setdefault(loop, Pacer())


async def tokens(load: Load) -> AsyncGenerator[str, None]:
    """The texts of a run, each at its time; what is late comes at once, with the time at which it was due."""
    start = time.monotonic_ns()
    try:
        for number, (offset, length) in enumerate(load.plan()):
            due = start + int(offset * 1e9)
            wait = due - time.monotonic_ns()
            if wait > 0:
                await (pacer().until(due) if load.burst else asyncio.sleep(wait / 1e9))
            elif number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            yield f"@{due if load.rate else time.monotonic_ns()} {'x' * length}"
    finally:
        if load.tell:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as teller:
                teller.sendto(b"%d" % time.monotonic_ns(), ("127.0.0.1", load.tell))
