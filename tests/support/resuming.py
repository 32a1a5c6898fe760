"""A run that goes on as if another process had taken it over: its log has a RUN_RESUMED, which no agent can emit."""

from __future__ import annotations

from typing import Any, cast

from twinwire.agents import RunRequest
from twinwire.protocol.events import StreamEvent
from twinwire.runs.run import Run


def run_of(request: RunRequest) -> Run:
    """The run that this is the request of, while it goes on."""
    return cast("Run", cast("Any", request.emit).__self__)


def written(request: RunRequest) -> int:
    """The number of the run's newest event."""
    return run_of(request).folded.seq


def write(request: RunRequest, kind: str, /, **data: Any) -> None:
    """Have the run write an event of its own."""
    run_of(request)._hear(StreamEvent(kind, data))


def resumed(request: RunRequest, after: int | None, *, epoch: int = 1, **kept: str) -> None:
    """Have the run be taken over. What came after event number `after` is void, but for what of it is `kept`."""
    step = run_of(request).fold.step
    write(request, "RUN_RESUMED", epoch=epoch, step=step, void_after=after, **kept)
