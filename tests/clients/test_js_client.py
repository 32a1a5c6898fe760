"""The JS client's own tests (`clients/js/test`), run against real servers, and its types."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from support.certificates import Certificate
from support.node import CLIENT, node
from support.serving import serving
from twinwire import Call, InputExpired, RunRequest, StreamEvent

TSC = "node_modules/typescript/bin/tsc"

FILES = sorted(str(path.relative_to(CLIENT)) for path in (CLIENT / "test").rglob("*.test.*"))


class Told:
    """An agent that does what its message says."""

    accepts = ("image", "params")

    def __init__(self) -> None:
        self._gates: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._counts: Counter[str] = Counter()

    async def __call__(self, request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        verb, _, name = request.message.partition(" ")
        if verb == "words":
            for number in range(1, int(name) + 1):
                yield _chunk(f"{number} ")
        elif verb == "flood":
            for number in range(1, 1001):
                yield _chunk(f"{number} ")
            await self._gates[name].wait()
            yield _chunk("after")
        elif verb == "result":
            yield StreamEvent(type="AGENT_FINISH", data={"result": json.loads(name)})
        elif verb == "given":
            given = {"params": request.params, "metadata": request.metadata, "parts": request.parts}
            yield StreamEvent(type="AGENT_FINISH", data={"result": given})
        elif verb == "umlauts":
            yield _chunk("ä€😀")
        elif verb == "count":
            self._counts[name] += 1
            yield _chunk(str(self._counts[name]))
        elif verb == "ask":
            schema = {"type": "string", "enum": ["main", "dev"]}
            yield _chunk(await request.ask("Which branch?", schema=schema))
            if name:
                await self._gates[name].wait()
        elif verb == "expire":
            with suppress(InputExpired):
                await request.ask("Which branch?", timeout=0.05)
            yield _chunk("nobody")
            await self._gates[name].wait()
        elif verb == "approve":
            call = Call("c1", "Delete", {"path": name})
            told = {"tool_call_id": call.id, "tool_name": call.name}
            yield StreamEvent(type="TOOL_CALL_START", data={**told, "parameters": call.parameters})
            decision = await request.approve(call, prompt="Delete it?")
            yield StreamEvent(type="TOOL_CALL_FINISH", data={**told, "result": None, "status": "ok", "duration": 0.0})
            yield _chunk(msgspec.json.encode(decision).decode())
        elif verb == "hear":
            async for said in request.messages:
                yield _chunk(f"{said.content} ")
                if said.content == "enough":
                    return
        elif verb == "open":
            self._gates[name].set()
        elif verb == "fail":
            raise RuntimeError("as told")
        else:  # gate, forever
            yield _chunk("before ")
            await self._gates[name].wait()
            yield _chunk("after")


def _chunk(text: str) -> StreamEvent:
    return StreamEvent(type="LLM_CHUNK", data={"content": text, "delta": text})


@pytest.mark.parametrize("file", FILES)
async def test_against_real_servers(file: str, tmp_path: Path) -> None:
    """A file of vitest's, against servers for anybody, for who has a token, for tokens that expire, and over TLS."""
    token = ("alice:alice-secret-token",)
    key = tmp_path / "key"
    key.write_text("an HMAC secret of 32 bytes or more")
    async with (
        serving({"mine": Told()}) as anybody,
        serving({"mine": Told()}, auth_tokens=token) as guarded,
        serving({"mine": Told()}, jwt_key_file=str(key), heartbeat=0.4) as expiring,
        serving({"mine": Told()}, **Certificate(tmp_path).settings) as secret,
    ):
        await node(
            "node_modules/vitest/vitest.mjs",
            "run",
            file,
            TWINWIRE_URL=anybody.url,
            TWINWIRE_AUTH_URL=guarded.url,
            TWINWIRE_JWT_URL=expiring.url,
            TWINWIRE_JWT_KEY=key.read_text(),
            TWINWIRE_TLS_URL=secret.url,
        )


async def test_types() -> None:
    """The strict type check of sources and tests finds nothing."""
    await node(TSC, "--project", str(CLIENT))
