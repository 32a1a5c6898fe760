"""The one timer of all connections: their heartbeats, their deadlines, and their end when the server stops."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import Context
from itertools import islice

from twinwire.auth import Identity
from twinwire.transports import Verdict
from twinwire.transports.pump import Pump

AT_ONCE = 256  # pumps ticked before others have their turn: each may have a heartbeat to write


class Heartbeats:
    """Ticks all pumps, each `interval` seconds: one timer for any number of connections.

    `logged_out(by)` says of a connection that comes whether `end_of` its user was called since it was let in.
    """

    def __init__(self, *, heartbeat: float, send_timeout: float, logged_out: Callable[[Identity], bool]) -> None:
        self._heartbeat = heartbeat
        self._send_timeout = send_timeout
        self._logged_out = logged_out
        self._interval = min(1.0, heartbeat / 4, send_timeout / 4)
        self._timer: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None
        self._ending: Verdict | None = None
        self.pumps: set[Pump] = set()
        self.closed: Counter[tuple[str, Verdict]] = Counter()  # by transport, why

    def add(self, pump: Pump) -> None:
        """Tick this pump from now on."""
        self.pumps.add(pump)
        if self._logged_out(pump.by):
            pump.end(Verdict.UNAUTHENTICATED)
        if self._ending is not None:
            pump.end(self._ending)
        if self._timer is None:
            # Without the ids of a request: the timer is everybody's.
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._tick, context=Context())

    def discard(self, pump: Pump) -> None:
        """Tick it no more."""
        self.pumps.discard(pump)
        if not self.pumps and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def end_of(self, user_id: str, verdict: Verdict) -> None:
        """End this user's connections."""
        for pump in tuple(self.pumps):
            if pump.by.user_id == user_id:
                pump.end(verdict)

    async def drain(self, verdict: Verdict, seconds: float) -> None:
        """End all connections: let each send what is ready, and cut off those that do not take it within that time."""
        for when_idle in (True, False):
            for pump in tuple(self.pumps):
                pump.end(verdict, when_idle=when_idle)
            if self.pumps:
                self._empty = asyncio.get_running_loop().create_future()
                await asyncio.wait([self._empty], timeout=seconds)
        self._ending = verdict  # of those that come yet, on connections that are kept

    def _tick(self) -> None:
        self._timer = None
        if self.pumps:
            self._some(iter(tuple(self.pumps)))

    def _some(self, pumps: Iterator[Pump]) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        some = tuple(islice(pumps, AT_ONCE))
        # First, so that a pump that fails is not the end of everybody's heartbeats.
        if some:
            self._timer = loop.call_later(0, self._some, pumps)
        else:
            self._timer = loop.call_later(self._interval, self._tick)
        for pump in some:
            if pump.due <= now:
                pump.tick(now, self._heartbeat, self._send_timeout)
