"""The time at which appends go out together: at once, or a millisecond after the last ones went."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context

PACE_SECONDS = 0.001


class Pace:
    """Lets `send` be called once in `PACE_SECONDS`: what comes meanwhile is for the next call.

    A transaction, and an exchange with a server, cost the same for one append and for many.
    """

    def __init__(self, send: Callable[[], None]) -> None:
        self._send = send
        self._free_at = 0.0

    def ask(self) -> None:
        """Have `send` called, now or when the time has come."""
        wait = self._free_at - time.monotonic()
        if wait <= 0:
            self._send()
        else:
            # Without the ids of a run: what is sent is of many.
            asyncio.get_running_loop().call_later(wait, self._send, context=Context())

    def sent(self) -> None:
        """Something was sent: the next time comes later."""
        self._free_at = time.monotonic() + PACE_SECONDS
