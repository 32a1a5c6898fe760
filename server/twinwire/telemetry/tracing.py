"""The seam to a tracer: a run, a call of a model and a call of a tool are each a `Span`.

Whoever begins one knows no more than this. The base classes here record nothing; `otel` records with OpenTelemetry, and
is imported only if the server is told to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Self, TypedDict, Unpack

from twinwire.protocol.errors import SettingsError


class Ending(TypedDict, total=False):
    """Facts about an operation that has ended.

    `message` describes its error. `status` is a run's, `reason` a model's finish_reason. `usage` has counts as a
    terminal event tells them. `first_chunk` is after how many seconds the model said something.
    """

    message: str
    status: str
    reason: str | None
    usage: Mapping[str, Any] | None
    first_chunk: float | None


class Span:
    """An operation. What is begun within its `with` block is a part of it; `end` ends it, within the block or after."""

    __slots__ = ()

    @property
    def trace_id(self) -> str | None:
        """Return the id of the trace that the operation is a part of, if it is recorded: 32 hexadecimal digits."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def end(self, error: str | None = None, **known: Unpack[Ending]) -> None:
        """End the operation. `error` is a code such as `timeout` or `cancelled`."""


class Tracer:
    """Begins spans. None of its methods raises.

    `middleware` is that of each request, around the routes: it notes the trace that a request is part of.
    """

    middleware: Sequence[Callable[[Any], Any]] = ()

    def run(
        self,
        agent: str,  # noqa: ARG002
        run_id: str,  # noqa: ARG002
        session_id: str | None,  # noqa: ARG002
        traceparent: str | None,  # noqa: ARG002
        *,
        epoch: int = 0,  # noqa: ARG002
    ) -> Span:
        """Begin a run: within the trace that its start names, else within that of the request that starts it.

        One that was begun elsewhere has a span of its own in each process that goes on with it, the `epoch`th time.

        Within its `with` block, and in the tasks that are created there, this tracer is `current`.
        """
        return NOTHING

    def chat(self, model: str, provider: str, address: str, port: int, options: Mapping[str, Any]) -> Span:  # noqa: ARG002
        """Begin a call of a model behind this address; `options` are fields of the request, in OpenAI's protocol."""
        return NOTHING

    def tool(self, name: str, call_id: str) -> Span:  # noqa: ARG002
        """Begin a call of a tool; `call_id` is empty if the model gave none."""
        return NOTHING

    def headers(self) -> Mapping[str, str]:
        """Return the headers that make a request part of the current span (W3C Trace Context)."""
        return NO_HEADERS

    async def flush(self) -> None:
        """Have what was recorded exported, in bounded time."""


NOTHING = Span()
NO_HEADERS: Mapping[str, str] = {}
OFF = Tracer()

current: ContextVar[Tracer] = ContextVar("tracer", default=OFF)
"""The tracer of the run that goes on; `OFF` where none does."""


def open_tracer(*, otel: bool) -> Tracer:
    """Return the tracer of a server. Raise `SettingsError` if OpenTelemetry is asked for and not installed."""
    if not otel:
        return OFF
    try:
        from twinwire.telemetry.otel import OpenTelemetry
    except ModuleNotFoundError:
        raise SettingsError("`--otel` requires: pip install 'twinwire[otel]'.", field="--otel") from None
    return OpenTelemetry()
