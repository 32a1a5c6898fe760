"""What a cancel and a flood come to at the model's end, through the whole of it."""

from __future__ import annotations

import asyncio
import time

import pytest

from faults.leaks import leakless
from followers import KINDS, cancel, rest, start, text
from model_server import ModelServer, end, headers, joined, stall, text as tokens
from serving import serving
from twinwire import OpenAIChatModel, SimpleAgent


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("said", [0, 3])
async def test_a_cancel_closes_the_model_s_connection(kind: str, said: int) -> None:
    """Before the first token and in the middle: the model's server sees its client go within half a second."""
    async with ModelServer() as upstream:
        upstream.script(headers, *tokens(*"abc"[:said]), stall)
        agent = SimpleAgent("simple", OpenAIChatModel("scripted", base_url=upstream.url, api_key="none"))
        async with serving({"simple": agent}) as server, leakless(server):
            follower = await start(kind, server)
            request = await upstream.arrived()
            for _ in range(said):
                while b"LLM_CHUNK" not in (await follower.next() or b""):
                    pass
            began = time.monotonic()
            assert await cancel(kind, server, follower.run_id) == "accepted"
            async with asyncio.timeout(0.5):
                await request.closed.wait()
            print(f"{kind}: the model's connection closed {(time.monotonic() - began) * 1000:.0f} ms after the cancel")
            await follower.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_many_tiny_deltas(kind: str) -> None:
    """Fifty thousand deltas in a few reads are as many events, for a follower that has to keep up."""
    words = [f"{number} " for number in range(50_000)]
    async with ModelServer() as upstream:
        upstream.script(*joined([*tokens(*words), *end()]))
        agent = SimpleAgent("simple", OpenAIChatModel("scripted", base_url=upstream.url, api_key="none"))
        async with serving({"simple": agent}) as server, leakless(server):
            assert text(await rest(await start(kind, server))) == "".join(words)
