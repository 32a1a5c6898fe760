"""The agent that the transport benchmark measures Twinwire with: `twinwire serve benchmarks.synthetic:llm`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from benchmarks.schedule import Load, tokens
from twinwire import RunRequest, StreamEvent


async def llm(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    """An LLM_CHUNK for each token of the load that the message asks for."""
    async with aclosing(tokens(Load.of(request.message))) as texts:
        async for text in texts:
            yield StreamEvent("LLM_CHUNK", {"content": text, "delta": text})
