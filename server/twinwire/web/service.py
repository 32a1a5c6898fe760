"""The objects that the routes of one server process share, and the start and end of that process."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakSet

from msgspec import Struct

from twinwire.auth import Auth
from twinwire.formats.registry import FORMATS, Format
from twinwire.models.local import LocalModel
from twinwire.runs import Runs
from twinwire.runs.probe import probe
from twinwire.settings import Settings
from twinwire.telemetry.metrics import Metrics
from twinwire.telemetry.tracing import OFF, Tracer
from twinwire.transports import Verdict
from twinwire.transports.heartbeats import Heartbeats
from twinwire.transports.lifetime import Lifetimes
from twinwire.transports.limiter import Limiter
from twinwire.web.authentication import Authentication

DRAIN_SECONDS = 0.7


made: WeakSet[Service] = WeakSet()
"""All services of this process: an app of somebody else's does not tell which of them are in it."""


class Service(Struct, frozen=True, weakref=True, eq=False):
    """The objects that the routes of one server process share.

    `local` is the model that it runs itself, if it does. `application` tells whose a request is that has no credential
    of this server's, if the app is embedded in an application that authenticates.
    """

    settings: Settings
    auth: Auth
    runs: Runs
    heartbeats: Heartbeats
    limiter: Limiter
    lifetimes: Lifetimes
    metrics: Metrics
    tracer: Tracer = OFF
    local: LocalModel | None = None
    formats: Mapping[str, Format] = FORMATS
    application: Authentication | None = None

    def __post_init__(self) -> None:
        made.add(self)

    async def start(self) -> None:
        """Prove that runs can be carried out, load the local model if there is one, and open the log.

        Runs of other processes, with which this one goes on, begin with that. Raise `SettingsError` or
        `RunsUnavailable` if one of these fails; to start again is no error.
        """
        await probe()
        if self.local is not None:
            await self.local.start()
        self.runs.log.heard = self._logged_out
        await self.runs.log.open(self.runs)

    async def log_out(self, user_id: str) -> None:
        """Revoke the tickets and logins that this user has until now, and end their streams, on all workers.

        Raise `LogUnavailable` if the other workers cannot be told: then the user must log out again.
        """
        await self.runs.log.log_out(user_id, self.auth.clock(), self.auth.memory)

    def _logged_out(self, user_id: str, when: float) -> None:
        if self.auth.log_out(user_id, when):
            self.heartbeats.end_of(user_id, Verdict.UNAUTHENTICATED)

    async def drain(self) -> None:
        """End what goes on, in bounded time: runs first, so that their followers still see how they end. Idempotent."""
        if self.runs.draining:
            return
        await self.runs.drain(self.settings.drain_timeout)
        await self.heartbeats.drain(Verdict.RESTART, DRAIN_SECONDS)
        await self.runs.log.close()
        if self.local is not None:
            await self.local.aclose()
        await self.tracer.flush()
