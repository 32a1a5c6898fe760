"""The events of one connection that wait for the reader of their run."""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from twinwire_client.errors import Unauthenticated
from twinwire_client.retry import Broken
from twinwire_client.wire import TERMINAL_TYPES


class _Kind(msgspec.Struct):
    type: str


class Mailbox:
    """A queue between the task that reads a connection and the one that reads its run.

    A read that is cancelled takes nothing. `renewable` is whether asking for the token again may give another one.
    """

    def __init__(self, *, renewable: bool) -> None:
        self._texts: deque[str] = deque()
        self._why: Exception | None = None
        self._renewable = renewable
        self._arrived = asyncio.Event()

    def put(self, text: str) -> None:
        """Add an event's JSON."""
        self._texts.append(text)
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        """Say that no more comes, and why; the first reason stands."""
        self._why = self._why or error
        self._arrived.set()

    @property
    def idle(self) -> bool:
        """True if all events that have come were received."""
        return not self._texts

    async def receive(self) -> str:
        """Return the next event's JSON. Once there is none, raise what no more comes for."""
        while not self._texts:
            if self._why is not None:
                if self._renewable and isinstance(self._why, Unauthenticated):
                    raise Broken(str(self._why), code=self._why.code, status=self._why.status)
                raise self._why
            self._arrived.clear()
            await self._arrived.wait()
        return self._texts.popleft()

    def whole(self) -> deque[str]:
        """Return the events that wait if the terminal one is among them, else none."""
        try:
            if self._texts and msgspec.json.decode(self._texts[-1], type=_Kind).type in TERMINAL_TYPES:
                return self._texts
        except msgspec.DecodeError:
            pass
        return deque()
