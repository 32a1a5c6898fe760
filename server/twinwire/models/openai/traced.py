"""A call of the model as a span. Instrumentation of the SDK does not see the call, which is made past its methods."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from twinwire.models import Finish, Part, Usage
from twinwire.models.adapters import Produce, PushStream, Take
from twinwire.protocol.errors import RunError
from twinwire.telemetry.tracing import OFF, Span, current

Server = tuple[str, int]
"""The host and the port of a model's server."""


def traced(
    call: Produce[Sequence[Part]], model: str, server: Server, options: Mapping[str, Any]
) -> PushStream[Sequence[Part]]:
    """Return what a call of the model gives. The call is a span if it is made in a run that is traced.

    `options` are fields of the request.
    """
    if (tracer := current.get()) is OFF:
        return PushStream(call)
    begin = functools.partial(tracer.chat, model, "openai", *server, options)
    return PushStream(functools.partial(_traced, begin, call))


async def _traced(begin: Callable[[], Span], call: Produce[Sequence[Part]], take: Take[Sequence[Part]]) -> None:
    began = time.monotonic()
    first_chunk: float | None = None
    finish: Finish | None = None
    usage = Usage()

    def seen(*batches: Sequence[Part]) -> Awaitable[None] | None:
        nonlocal first_chunk, finish, usage
        if first_chunk is None:
            first_chunk = time.monotonic() - began
        last = batches[-1][-1]
        if isinstance(last, Finish):
            finish, usage = last, last.usage or usage
        elif isinstance(last, Usage) and last.counted:
            usage = last
        return take(*batches)

    with begin() as span:
        error, message = None, ""
        try:
            await call(seen)
        except BaseException as failure:
            cancelled = isinstance(failure, (asyncio.CancelledError, GeneratorExit))
            error = "cancelled" if cancelled else type(failure).__name__
            if isinstance(failure, RunError):
                error, message = failure.code, failure.message
            raise
        finally:
            reason = None if finish is None else finish.reason
            span.end(error, message=message, reason=reason, usage=usage.told, first_chunk=first_chunk)
