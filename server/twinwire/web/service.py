"""What one server process shares between its routes, and how it stops."""

from __future__ import annotations

from msgspec import Struct

from twinwire.models.local import LocalModel
from twinwire.runs import Runs
from twinwire.settings import Settings
from twinwire.transports import Verdict
from twinwire.transports.sweep import Sweep

DRAIN_SECONDS = 0.7


class Service(Struct, frozen=True):
    """The settings, the runs, the open connections, and the model that runs here, if one does."""

    settings: Settings
    runs: Runs
    sweep: Sweep
    local: LocalModel | None = None

    async def start(self) -> None:
        """Open the log; load the local model, if there is one. Raises `SettingsError`."""
        await self.runs.log.open(self.runs)
        if self.local is not None:
            await self.local.start()

    async def drain(self) -> None:
        """End what goes on, in bounded time: runs first, so that their followers still see how they end. Idempotent."""
        if self.runs.draining:
            return
        await self.runs.drain(self.settings.drain_timeout)
        await self.sweep.drain(Verdict.RESTART, DRAIN_SECONDS)
        await self.runs.log.close()
        if self.local is not None:
            await self.local.aclose()
