"""The streams that model servers have been seen to send, played byte for byte to a server: `vectors/upstream`.

A case passes if one of the objects in its `check` holds. Of every case it is asked as well that there is one terminal
event, the last; that the result is the last step's text; that each call starts and finishes once; that each call in a
request's history has one answer; and that the session's next turn is completed.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from support.followers import rest, start
from support.replay import MISSING, Replay, Request, replaying, resolve
from support.serving import Running, serving, until
from twinwire import OpenAIChatModel, ReActAgent, Tool, ToolRegistry
from twinwire.models.openai import model as openai_model

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors/upstream/cases.json").read_text("utf-8"))
SLOW = {"A23", "A52", "A52b", "U01", "U01b"}
"""The cases that take 20 seconds and more: silences, and what follows them."""
BURST = "U07b"
"""200,000 deltas in one read, twice as many events as the log keeps."""
AT_ONCE = 8
SPARE_SECONDS = 5  # of a busy machine: who waits for a server that says no more waits for 30 s


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for longer after a finish_reason: written byte by byte on a busy machine, what follows takes seconds."""
    monkeypatch.setattr(openai_model, "LINGER", 2.0)
    monkeypatch.setattr(openai_model, "MAX_LINGER", 20.0)


class Fixed(Tool):
    """A tool of fixed results."""

    description = "fixed"

    def __init__(self, name: str) -> None:
        self.name = name

    async def run(self, parameters: Mapping[str, Any]) -> str:
        return f"the result of {dict(parameters)}"


def digest(seen: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return what the events of a run come to, and what is wrong with them."""
    texts: dict[int, list[str]] = {}
    tools: dict[str, dict[str, Any]] = {}
    faults: list[str] = []
    for event in seen:
        kind, data = event["type"], event["data"]
        if kind == "STEP_START":
            texts[data["step"]] = []
        elif kind == "LLM_CHUNK":
            texts[event["metadata"]["step"]].append(data["content"])
        elif kind == "TOOL_CALL_START":
            key = data["tool_call_id"]
            if key in tools and "status" not in tools[key]:
                faults.append(f"two calls that go on have the id {key!r}")
            tools[f"{key} {len(tools)}" if key in tools else key] = {"name": data["tool_name"], **data}
        elif kind == "TOOL_CALL_FINISH":
            last = next(call for call in reversed(tools.values()) if call["tool_call_id"] == data["tool_call_id"])
            last["status"] = data["status"]
    end = seen[-1]
    found = {
        "texts": ["".join(parts) for parts in texts.values()],
        "thinking": "".join(event["data"]["content"] for event in seen if event["type"] == "THINKING"),
        "tools": list(tools.values()),
        "end": end["data"].get("error_type") or end["data"]["status"],
        "message": end["data"].get("message", ""),
        "finish": {"status": end["data"].get("status"), "finish_reason": end["data"].get("finish_reason")},
        "usage": [(end["data"].get("usage") or {}).get(f"{name}_tokens") for name in ("prompt", "completion", "total")],
    }
    found["text"] = found["texts"][-1]
    faults += [f"a call has no end: {call}" for call in tools.values() if "status" not in call]
    terminal = [event["type"] for event in seen if event["type"] in {"AGENT_FINISH", "ERROR"}]
    if terminal != [end["type"]]:
        faults.append(f"terminal events: {terminal}")
    if end["type"] == "AGENT_FINISH" and end["data"]["result"] != found["text"]:
        faults.append(f"the result is {end['data']['result'][:60]!r}")
    return found, faults


def history_faults(requests: list[Request]) -> list[str]:
    """Return what is wrong with the histories that were sent: each call has one answer, by an id of its own."""
    faults = []
    for request in requests:
        messages = (request.body or {}).get("messages", ())
        for at, message in enumerate(messages):
            asked = [call["id"] for call in message.get("tool_calls") or ()]
            answered = [later.get("tool_call_id") for later in messages[at + 1 : at + 1 + len(asked)]]
            if len(set(asked)) != len(asked) or sorted(asked) != sorted(map(str, answered)):
                faults.append(f"request {request.number} has the calls {asked} and the answers {answered}")
    return faults


def holds(key: str, value: Any, found: dict[str, Any], requests: list[Request]) -> bool:
    """Return whether one key of a check is met."""
    match key:
        case "end":
            return fnmatchcase(found["end"], value)
        case "text_is":
            return bool(found["text"] == value[0] * value[1])
        case "tools":
            called = [json.dumps([call["name"], call["parameters"]], sort_keys=True) for call in found["tools"]]
            return sorted(called) == sorted(json.dumps(call, sort_keys=True) for call in value)
        case "tool_names":
            return sorted(call["name"] for call in found["tools"]) == sorted(value)
        case "tool_status":
            return {call["status"] for call in found["tools"]} <= ({value} if isinstance(value, str) else set(value))
        case "message":
            return re.search(value, found["message"], re.IGNORECASE) is not None
        case "finish":
            return re.search(value, json.dumps(found["finish"])) is not None
        case "requests":
            least, most = value if isinstance(value, list) else (value, value)
            return bool(least <= len(requests) <= most)
        case "methods":
            return sorted({request.method for request in requests}) == sorted(value)
        case "sent":
            bodies = {request.number: request.body for request in requests}
            return all(
                (resolve(path, bodies[number]) if number in bodies else MISSING) == expected
                for number, path, expected in value
            )
        case "left":
            return requests[-1].gone
        case "seconds":
            return bool(found["seconds"] <= value + SPARE_SECONDS)
        case "openai_finish":
            reasons = {"incomplete": "length"}
            return bool(reasons.get(found["end"], "stop") == value)
        case _:
            return bool(found[key] == value)


async def play(case: dict[str, Any], writes: str, server: Running, replay: Replay, kind: str = "sse") -> list[str]:
    """Play one case; return what is wrong."""
    name, agent = case["id"], "tools" if case.get("tools") else "patient" if case.get("serve") else "plain"
    options = {"agent": agent, "user_id": f"{name}-{writes}"}
    begun = time.monotonic()
    follower = await start(kind, server, f"Do it. [replay {name} {writes}]", **options)
    found, faults = digest(await rest(follower))
    found["seconds"] = time.monotonic() - begun
    requests = replay.requests[name, writes]
    if any("left" in check for check in case["check"]):
        async with asyncio.timeout(2):
            await until(lambda: requests[-1].gone)
    for check in case["check"]:
        if "tools" in check:
            check.setdefault("tool_status", "ok")
    if not any(all(holds(key, value, found, requests) for key, value in check.items()) for check in case["check"]):
        faults.append(f"{found} is not {case['check']}")
    faults += history_faults(requests)
    follower = await start(kind, server, "And now? [replay ORDINARY then]", **options)
    then, wrong = digest(await rest(follower))
    if wrong or (then["end"], then["text"]) != ("completed", "ordinary answer"):
        faults.append(f"the second turn: {then} {wrong}")
    return [f"{name}, {writes}: {fault}"[:2000] for fault in faults]


async def play_all(cases: list[dict[str, Any]], writes: str, kind: str = "sse") -> list[str]:
    """Play these cases, some at once; return what is wrong with any."""
    with replaying(cases, writes) as replay:
        return await play_at(replay, cases, writes, kind)


async def play_at(replay: Replay, cases: list[dict[str, Any]], writes: str, kind: str) -> list[str]:
    """Play these cases at this model server."""
    url = f"http://127.0.0.1:{replay.port}/v1"
    tools = ToolRegistry()
    for name in ("Read", "Search", "Now"):
        tools.register_tool(Fixed(name))
    models = {
        "plain": OpenAIChatModel("m", base_url=url, timeout=30),
        "tools": OpenAIChatModel("m", base_url=url, timeout=30),
        "patient": OpenAIChatModel("m", base_url=url, timeout=120),
    }
    agents = {name: ReActAgent(name, model, tools if name == "tools" else None) for name, model in models.items()}
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(case: dict[str, Any]) -> list[str]:
        async with slots:
            return await play(case, writes, server, replay, kind)

    try:
        async with serving(agents, run_timeout=300.0) as server:
            return [fault for faults in await asyncio.gather(*map(one, cases)) for fault in faults]
    finally:
        for model in models.values():
            await model.aclose()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("writes", ["each", "one", pytest.param("bytes", marks=pytest.mark.full)])
async def test_upstream_cases(writes: str) -> None:
    """Each case comes to what it should, written in the server's own pieces, at once, or a byte at a time."""
    assert await play_all([case for case in CASES if case["id"] not in {*SLOW, BURST}], writes) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("kind", "writes"),
    [
        ("sse", "one"),
        pytest.param("ws", "each", marks=pytest.mark.full),
        pytest.param("sse", "each", marks=pytest.mark.full),
        pytest.param("sse", "bytes", marks=pytest.mark.full),
        pytest.param("ws", "one", marks=pytest.mark.full),
        pytest.param("ws", "bytes", marks=pytest.mark.full),
    ],
)
async def test_a_burst_upstream(kind: str, writes: str) -> None:
    """All of a burst of twice as many deltas as the log keeps reaches its follower, over either transport."""
    assert await play_all([case for case in CASES if case["id"] == BURST], writes, kind) == []


@pytest.mark.full
@pytest.mark.timeout(240)
@pytest.mark.parametrize("writes", ["each", "one", "bytes"])
async def test_slow_upstream_cases(writes: str) -> None:
    """Each case of a server that is silent for long comes to what it should."""
    assert await play_all([case for case in CASES if case["id"] in SLOW], writes) == []
