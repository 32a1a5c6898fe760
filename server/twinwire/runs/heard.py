"""The outcome of answers and messages to a run that has ended, as its log tells it."""

from __future__ import annotations

import asyncio

from twinwire.log import EventLog, RunState
from twinwire.log.saying import Outcome, Saying
from twinwire.protocol.errors import MessageMismatch
from twinwire.protocol.events import INPUT_TYPES, decode

PAGE_EVENTS = 256


async def heard(log: EventLog, state: RunState, saying: Saying) -> Outcome:
    """Return what became of something that may have been said to this run before it ended.

    Raises `MessageMismatch` if its id was used for other words.
    """
    seq = state.first - 1
    while records := (await log.page(state.info.run_id, seq, PAGE_EVENTS)).records:
        for record in records:
            if record.type in INPUT_TYPES:
                data = decode(record.body).data
                if data.get("message_id") == saying.message_id:
                    known = {name: data.get(name) for name in ("content", "input_id", "answer")}
                    if Saying(message_id=saying.message_id, **known).digest != saying.digest:
                        raise MessageMismatch
                    return Outcome(message_id=saying.message_id)
        seq = records[-1].seq
        await asyncio.sleep(0)  # a long run is read in turns with everybody else's
    return finished(saying)


def finished(saying: Saying) -> Outcome:
    """Return the outcome of what nobody hears any more."""
    return Outcome(status="already_finished", message_id=saying.message_id)
