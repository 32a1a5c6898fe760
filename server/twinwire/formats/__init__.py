"""Views: how the events of a run look in one format. Pure; `native` is Twinwire's own.

A view knows nothing of connections: it turns records into frames, and an adapter of `transports` sends them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twinwire.events import Record


class View(Protocol):
    """One format. A frame is a whole SSE block, or the payload of one WebSocket text message, in UTF-8."""

    def frames(self, records: Sequence[Record]) -> Sequence[bytes]:
        """The frames of these records, in order; fewer or more than records, or none."""
        ...
