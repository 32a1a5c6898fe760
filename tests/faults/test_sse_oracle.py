"""Our SSE read by somebody else's parser: npm's eventsource-parser, at whatever bytes the body is cut."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path

import httpx
import pytest

from support.node import CLIENT, needed, node
from support.serving import Puppets, Running

PARSER = (Path(__file__).with_name("sse_oracle.mjs")).read_text()
ODD = ["\r", "\n", "\r\n", "\n\n", "data: x\n\n", "id: evil\n", "event: EVIL\r\r", "\0", "\u2028", "\u2029", ":"]
ODD += ["\ufeff", "😀", "é", "\x85", "\x0b", "\\n", '"', "", " ", "retry: 1\n\n"]


@pytest.mark.parametrize("envelope", ["0", "1"])
async def test_any_text(envelope: str, server: Running, puppets: Puppets, chance: random.Random) -> None:
    """Each event is one event with its type, its id and its data, which is JSON of what the agent yielded."""
    needed()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
        run_id = (await client.post("/runs", json={"message": "hi"})).json()["run_id"]
        puppet = await puppets.next()
        words = ["".join(chance.choices(ODD, k=chance.randrange(6))) for _ in range(300)]
        puppet.say(*words)
        puppet.end()
        body = (await client.get(f"/runs/{run_id}/events", params={"envelope": envelope})).content
    cuts = sorted(chance.sample(range(1, len(body)), 500))
    asked = json.dumps({"body": base64.b64encode(body).decode(), "cuts": cuts})
    assert (CLIENT / "node_modules/eventsource-parser").is_dir()
    found = json.loads(await node("--input-type=module", "--eval", PARSER, stdin=asked))
    events = found["events"]
    assert [event_id for _, event_id, _ in events] == [f"evt-{run_id}-{n}" for n in range(1, len(words) + 3)]
    assert [kind for kind, _, _ in events] == ["AGENT_START", *["LLM_CHUNK"] * len(words), "AGENT_FINISH"]
    data = [json.loads(data) for _, _, data in events[1:-1]]
    assert [(event["data"] if envelope == "1" else event)["content"] for event in data] == words
    assert (len(found["retries"]), found["errors"]) == (1, [])
