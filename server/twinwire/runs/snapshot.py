"""The state that a run's events in the log come to, if the run goes on elsewhere or has ended."""

from __future__ import annotations

import asyncio
from typing import Any

from twinwire.log import EventLog
from twinwire.protocol.events import decode
from twinwire.protocol.fold import Fold

PAGE_EVENTS = 256


async def folded(log: EventLog, run_id: str) -> tuple[int, dict[str, Any]]:
    """Return the number of the last event, and the state up to it (`Fold.state`).

    Raises as `EventLog.page` from 0.
    """
    fold, seq = Fold(), 0
    while (page := await log.page(run_id, seq, PAGE_EVENTS)).records:
        for record in page.records:
            fold.apply(decode(record.body))
        seq = page.records[-1].seq
        await asyncio.sleep(0)  # a long run's events are read in turns with everybody else's
    return seq, fold.state
