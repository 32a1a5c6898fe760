"""Let the other workers of a supervisor see this one's metrics, now and then: see `telemetry.shared`."""

from __future__ import annotations

from time import monotonic

from twinwire.web import health
from twinwire.web.service import Service

LEAST_SECONDS = 1.0
MOST_SECONDS = 15.0
"""The age that the metrics of another worker may have; a worker that is killed loses what it counted since."""
SHARE = 1000  # a thousandth of the time is spent on it at most: it takes 0.3 ms, and with 10,000 followers 20 ms


class Sharing:
    """Shares the metrics of this process, if it is one of several."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._due = 0.0

    def look(self) -> None:
        """Share them if that is due."""
        if self._service.metrics.slot is None or (began := monotonic()) < self._due:
            return
        self.share()
        now = monotonic()
        self._due = now + min(max(SHARE * (now - began), LEAST_SECONDS), MOST_SECONDS)

    def share(self) -> None:
        """Share them now."""
        health.share(self._service)
