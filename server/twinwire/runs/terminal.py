"""The terminal event of a run: as its agent told it, or made in its place, with what is known of the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from twinwire.agents import RunRequest
from twinwire.fence import Fence
from twinwire.log import RunInfo
from twinwire.models import Usage
from twinwire.protocol.errors import RunError
from twinwire.protocol.events import StreamEvent, StreamEventType, timestamp
from twinwire.protocol.fold import STATUSES, Fold
from twinwire.runs.failure import error_event, failure

logger = logging.getLogger("twinwire.runs")


class TerminalEvents:
    """Makes the terminal events of one run, which asks this `request` and has come to this `fold`.

    It has gone on for `elapsed` seconds in other processes. With `debug` an ERROR has the words of the exception that
    the agent raised.
    """

    def __init__(
        self, info: RunInfo, request: RunRequest, fold: Fold, *, elapsed: float = 0.0, debug: bool = False
    ) -> None:
        self._info = info
        self._request = request
        self._fold = fold
        self._debug = debug
        self._began = time.monotonic() - elapsed

    @property
    def duration(self) -> float:
        """Return the seconds since the run began."""
        return round(time.monotonic() - self._began, 3)

    def usage(self) -> Usage:
        """Return what the run has cost. The request is the agent's: what it has there may be anything."""
        with Fence(
            logger, "In the run %s the agent %s gave a usage that cannot be used.", self._info.run_id, self._info.agent
        ) as fence:
            self._request.usage = msgspec.convert(self._request.usage, Usage, from_attributes=True)
        if fence.error is not None:
            self._request.usage = Usage()
        return self._request.usage

    def finish(self, status: Literal["completed", "cancelled"], result: Any = None) -> StreamEvent:
        """Return an AGENT_FINISH; a `result` of None is the answer so far."""
        result = self._fold.text if result is None else result
        data = {"result": result, "duration": self.duration, "status": status, "usage": self.usage().told}
        return StreamEvent(StreamEventType.AGENT_FINISH, data, timestamp())

    def failed(self, error: BaseException | None) -> StreamEvent:
        """Return the ERROR for what the agent raised."""
        return error_event(failure(error, self._info.run_id, debug=self._debug))

    def completed(self, event: StreamEvent, last: int, unread: Sequence[str]) -> StreamEvent:
        """Complete a terminal event, whose nulls count as left out.

        It comes after event number `last`; `unread` are the ids of the messages that nobody has read.
        """
        data = event.data
        if event.type == StreamEventType.ERROR:
            text = data.get("message") or data.get("error") or RunError.message
            data = {**data, "error_type": data.get("error_type") or "agent_error", "message": text, "error": text}
            if data.get("usage") is None and any((usage := self.usage().told).values()):
                data["usage"] = usage
        else:
            known = {name: value for name, value in data.items() if value is not None or name == "result"}
            data = {**self.finish("completed").data, **known}
            if data["status"] not in STATUSES:
                data["status"] = "completed"
        step = {} if self._fold.step is None else {"step": self._fold.step}
        left = {"unread": list(unread)} if unread else {}
        events = max(last, 1) + 1  # an AGENT_START comes first, if only now
        return StreamEvent(event.type, data, event.timestamp, {**step, **event.metadata, **left, "events": events})
