"""The words of an ERROR for what an agent raised: the exception's own for its developer, none of them for anybody else.

The log of the process has the exception with its traceback, under the run's id.
"""

from __future__ import annotations

import re

from twinwire.protocol.errors import RunError
from twinwire.protocol.events import StreamEvent, StreamEventType
from twinwire.telemetry.logging import one_line, scrub

MAX_CHARS = 500
"""The most characters of an exception's own words."""

_QUOTED = re.compile(r"""(['"])(?:/|[A-Za-z]:\\)[^'"\n]*[/\\]([^'"\n]*)\1""")
_BARE = re.compile(r"(?<![\w/:.])(?:/|[A-Za-z]:\\)(?:[^\s/\\'\"]+[/\\])+")
"""Paths: of each only its last part is told. What stands in a URL is none."""


def error_event(error: RunError) -> StreamEvent:
    """Return the ERROR that tells of an error."""
    return StreamEvent(StreamEventType.ERROR, error.told)


def failure(error: BaseException | None, run_id: str, *, debug: bool) -> RunError:
    """Return what an ERROR tells of an agent's exception: with `debug` its type and its words, else where they are."""
    if error is None or not debug:
        return RunError(f"The agent failed. The server's log says why, under the run {run_id}.")
    return RunError(f"The agent failed. {_words(error)}")


def _words(error: BaseException) -> str:
    """Return an exception's type and text on one line, without secrets and paths."""
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - somebody else's __str__
        return f"{name}, which has no text."
    text = _BARE.sub("", _QUOTED.sub(r"\1\2\1", scrub(text, MAX_CHARS)))
    return f"{name}: {one_line(text)}" if text else f"{name}."
