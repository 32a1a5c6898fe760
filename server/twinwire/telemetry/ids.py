"""The ids that a log line has: of the request and of the run within which it is written.

A context variable holds them, which is set once for each request and once for each run. Tasks and callbacks that are
created within inherit it, so that an agent's own lines have its ids. No event reads or sets it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec
from msgspec import Struct

from twinwire.protocol.wire import trace_of

HEADER = b"x-request-id"
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._:=+/@~-]{1,128}")


class Ids(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The ids of a request and of a run, as far as there are any. `trace_id` is that of W3C Trace Context."""

    request_id: str | None = None
    trace_id: str | None = None
    run_id: str | None = None
    session_id: str | None = None

    @property
    def header(self) -> list[tuple[bytes, bytes]]:
        """Return the header that names the request in its answer, as ASGI has headers."""
        return [] if self.request_id is None else [(HEADER, self.request_id.encode())]


NONE = Ids()
current: ContextVar[Ids] = ContextVar("twinwire_ids", default=NONE)


def of_request(headers: Iterable[tuple[bytes, bytes]]) -> Ids:
    """Return the ids of a request with these headers. A request that names itself badly, or not at all, gets a name."""
    named, traces = [], []
    for name, value in headers:
        if name == HEADER:
            named.append(value)
        elif name == b"traceparent":
            traces.append(value)
    good = len(named) == 1 and _WELL_FORMED.fullmatch(named[0]) is not None
    return Ids(
        request_id=named[0].decode() if good else secrets.token_hex(8),
        trace_id=trace_of(traces[0].decode("latin-1")) if len(traces) == 1 else None,
    )


@contextmanager
def of_run(run_id: str, session_id: str | None, trace_id: str | None) -> Iterator[None]:
    """Give the lines that are written within the ids of this run. Without a trace of its own it has the request's."""
    around = current.get()
    known = msgspec.structs.replace(around, run_id=run_id, session_id=session_id, trace_id=trace_id or around.trace_id)
    token = current.set(known)
    try:
        yield
    finally:
        current.reset(token)


def log_ids() -> dict[str, str]:
    """Return the ids of the request and the run within which this is called, by name, for log lines of your own.

    They are those of `request_id`, `trace_id`, `run_id` and `session_id` that there are.
    """
    ids: dict[str, str] = msgspec.to_builtins(current.get())
    return ids
