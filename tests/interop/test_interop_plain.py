"""Clients of Twinwire's own format that know nothing of it, against a real server: what each sees of every run."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from typing import Any

import httpx
import httpx_sse
import pytest
from websockets.asyncio.client import connect

from support.interop_scenes import cut, needs_node, node, playing
from support.serving import Running, until

Seen = tuple[str, Any, str]
"""An event's type, data and id."""
TYPES = [
    "AGENT_START",
    *["STEP_START", "THINKING", "LLM_CHUNK", "LLM_CHUNK"],
    *["TOOL_CALL_START"] * 2,
    *["TOOL_CALL_FINISH"] * 2,
    *["STEP_FINISH", "PROGRESS"],
    *["STEP_START", "THINKING", "LLM_CHUNK", "LLM_CHUNK", "STEP_FINISH", "PROGRESS"],
    "AGENT_FINISH",
]


@needs_node
async def test_eventsource_npm() -> None:
    """The npm package eventsource gets every event once, across a cut as well, and an app's own format.

    So does event-source-polyfill; a cut before the first event starts no other run where a key is in the URL.
    """
    async with playing() as scene:
        seen = await node("eventsource", scene[0].url, scene=scene)
        assert (scene[1].asked["slow"], scene[1].asked["silent"]) == (3, 1), "no reconnect starts a run"
    assert [event["type"] for event in seen["whole"]] == TYPES
    assert [event["type"] for event in seen["failed"]] == ["AGENT_START", "LLM_CHUNK", "ERROR"]
    assert json.loads(seen["cancelled"][-1]["data"])["status"] == "cancelled"
    for events in (seen["whole"], seen["cut"], seen["polyfilled"], seen["failed"], seen["cancelled"]):
        assert [int(event["id"].rpartition("-")[2]) for event in events] == list(range(1, len(events) + 1))
    assert seen["told"] == ["TypeError: terminated"]
    for name, words in (("cut", ["one ", "two"]), ("polyfilled", ["one ", "two"]), ("keyed", ["two"])):
        said = [json.loads(event["data"])["content"] for event in seen[name] if event["type"] == "LLM_CHUNK"]
        assert said == words
    kinds = [event["data"].partition("\n")[0] for event in seen["own"]]
    assert kinds == [kind for kind in TYPES if kind != "THINKING"]


async def _httpx_sse(server: Running, run_id: str, after: str) -> list[Seen]:
    async with (
        httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client,
        httpx_sse.aconnect_sse(client, "GET", f"/runs/{run_id}/events", headers={"last-event-id": after}) as source,
    ):
        events = [event async for event in source.aiter_sse()]
    return [(event.event, json.loads(event.data), event.id) for event in events if event.data]


async def _websockets(server: Running, run_id: str, after: str) -> list[Seen]:
    async with connect(server.ws_url, compression=None, proxy=None) as socket:
        await socket.send(json.dumps({"type": "attach", "run_id": run_id, "after": after}))
        assert json.loads(await socket.recv())["type"] == "attached"
        seen: list[Seen] = []
        while not seen or seen[-1][0] not in {"AGENT_FINISH", "ERROR"}:
            event = json.loads(await socket.recv())
            seen.append((event["type"], event["data"], event["id"]))
    return seen


async def _curl(server: Running, run_id: str, after: str) -> list[Seen]:
    asked = ("-H", f"Last-Event-ID: {after}", f"{server.url}/runs/{run_id}/events")
    curl = await asyncio.create_subprocess_exec("curl", "-sN", "--noproxy", "*", *asked, stdout=-1)
    out, _ = await curl.communicate()
    assert curl.returncode == 0
    blocks = [[line.partition(": ")[2] for line in block.split("\n")] for block in out.decode().split("\n\n")[1:-1]]
    return [(kind, json.loads(data), cursor) for kind, data, cursor in blocks]


@pytest.mark.parametrize(
    ("message", "types"),
    [
        ("tools", TYPES),
        ("fail", ["AGENT_START", "LLM_CHUNK", "ERROR"]),
        ("slow", ["AGENT_START", "LLM_CHUNK", "AGENT_FINISH"]),
    ],
)
async def test_plain_clients(message: str, types: list[str]) -> None:
    """httpx-sse, websockets and curl see a whole, a failed, a cut and cancelled run alike, from any cursor."""
    async with (
        playing() as (server, scenes),
        httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client,
        httpx_sse.aconnect_sse(client, "GET", f"/chat?message={message}") as source,
    ):
        run_id = source.response.headers["twinwire-run"]
        events = []
        with pytest.raises(httpx.RemoteProtocolError) if message == "slow" else nullcontext():
            async for event in source.aiter_sse():
                events += [event] if event.data else []
                if message == "slow" and event.event == "LLM_CHUNK":
                    cut(server)
        seen = [(event.event, json.loads(event.data), event.id) for event in events]
        following = [
            asyncio.create_task(follow(server, run_id, f"evt-{run_id}-{after}"))
            for follow in (_httpx_sse, _websockets, _curl)
            for after in (0, 1)
        ]
        if message == "slow":
            await until(lambda: len(server.service.heartbeats.pumps) == len(following))
            await client.post(f"/runs/{run_id}/cancel")
            assert scenes.cancelled == 1
        whole, *others = await asyncio.gather(*following)
        assert others == [whole[1:], whole, whole[1:], whole, whole[1:]]
        assert whole[: len(seen)] == seen
        assert [kind for kind, _, _ in whole] == types
        assert whole[-1][1].get("status") == {"tools": "completed", "slow": "cancelled"}.get(message)
