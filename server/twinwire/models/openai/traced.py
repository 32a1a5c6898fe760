"""A call of the model as a span. Instrumentation of the SDK does not see the call, which is made past its methods."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Sequence

import msgspec

from twinwire.models import Finish, Part
from twinwire.models.adapters import Produce, PushStream, Take
from twinwire.protocol.errors import RunError
from twinwire.telemetry.tracing import OFF, Tracer, current

Server = tuple[str, int]
"""The host and the port of a model's server."""


def traced(call: Produce[Sequence[Part]], model: str, server: Server) -> PushStream[Sequence[Part]]:
    """Return what a call of the model gives. The call is a span if it is made in a run that is traced."""
    tracer = current.get()
    return PushStream(call if tracer is OFF else functools.partial(_traced, tracer, call, model, server))


async def _traced(
    tracer: Tracer, call: Produce[Sequence[Part]], model: str, server: Server, take: Take[Sequence[Part]]
) -> None:
    began = time.monotonic()
    first_chunk: float | None = None
    finish = Finish("")

    def seen(*batches: Sequence[Part]) -> Awaitable[None] | None:
        nonlocal first_chunk, finish
        if first_chunk is None:
            first_chunk = time.monotonic() - began
        if isinstance(last := batches[-1][-1], Finish):
            finish = last
        return take(*batches)

    span = tracer.chat(model, "openai", *server)
    with span:
        try:
            await call(seen)
        except BaseException as error:
            code = error.code if isinstance(error, RunError) else type(error).__name__
            cancelled = isinstance(error, (asyncio.CancelledError, GeneratorExit))
            message = error.message if isinstance(error, RunError) else ""
            span.end("cancelled" if cancelled else code, message=message, first_chunk=first_chunk)
            raise
        usage = None if finish.usage is None else msgspec.structs.asdict(finish.usage)
        span.end(reason=finish.reason, usage=usage, first_chunk=first_chunk)
