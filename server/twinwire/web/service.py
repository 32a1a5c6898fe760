"""What one server process shares between its routes, and how it stops."""

from __future__ import annotations

from msgspec import Struct

from twinwire.runs import Runs
from twinwire.settings import Settings
from twinwire.transports import Verdict
from twinwire.transports.pump import Sweep

DRAIN_SECONDS = 0.7


class Service(Struct, frozen=True):
    """The settings, the runs and the open connections."""

    settings: Settings
    runs: Runs
    sweep: Sweep

    async def drain(self) -> None:
        """End what goes on, in bounded time: runs first, so that their followers still see how they end. Idempotent."""
        if self.runs.draining:
            return
        await self.runs.drain(self.settings.drain_timeout)
        await self.sweep.drain(Verdict.RESTART, DRAIN_SECONDS)
