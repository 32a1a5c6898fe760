"""U+0085, U+2028 and U+2029: some readers end a line there, so nothing that goes out has them as they are."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from hypothesis import given, strategies as st

from support.serving import Puppets, Running
from twinwire.protocol.events import StreamEvent, decode, dump, encode

ENDS = "\x85\u2028\u2029"
TEXTS = st.text(st.one_of(st.sampled_from(ENDS + '\\"\n—°é¨©ñ'), st.characters(exclude_categories=["Cs"])))
RUN = "mfrggzdfmztwq2lknnwg23tpob"


def one_line(text: str) -> bool:
    return len(text.splitlines()) <= 1


@given(TEXTS, TEXTS)
def test_an_event_is_one_line(text: str, other: str) -> None:
    """By `str.splitlines` too, in each of its parts; and what it says is what was said."""
    event = StreamEvent("MINE", {"content": text, other: [text]}, timestamp=other, metadata={text: other})
    record = encode(event, RUN, 1)
    assert one_line(record.body.decode())
    found = decode(record.body)
    assert (found.data, found.timestamp, found.metadata) == (event.data, other, event.metadata)
    assert json.loads(record.data) == event.data
    assert record.id.decode() == f"evt-{RUN}-1"
    assert one_line(dump(event.data).decode())
    assert len(event.to_sse().splitlines()) == 4


def test_a_lone_surrogate_beside_them() -> None:
    """What UTF-8 cannot hold is a question mark, on one line too."""
    assert dump({"a": "\ud800\u2028"}) == b'{"a":"?\\u2028"}'
    assert encode(StreamEvent("MINE", {"a": "\ud800\u2028"}), RUN, 1).data == b'{"a":"?\\u2028"}'


def test_other_characters_stay_as_they_are() -> None:
    """Characters that share bytes with them are not escaped."""
    text = "“—…€°é¨©\u2027\u202a\u0086"
    assert dump(text).decode() == f'"{text}"'


@pytest.mark.parametrize("name", ["native", "ai-sdk", "ag-ui", "openai"])
async def test_a_reader_of_lines(name: str, server: Running, puppets: Puppets) -> None:
    """A reader by httpx's `iter_lines`, in each format, reads whole fields, and the text that the agent said."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
        run_id = (await client.post("/runs", json={"message": f"m{ENDS}"})).json()["run_id"]
        puppet = await puppets.next()
        puppet.say(f"a{ENDS}b")
        puppet.emit("TOOL_CALL_START", tool_call_id="c", tool_name="Read", parameters={"path": ENDS})
        puppet.emit("TOOL_CALL_FINISH", tool_call_id="c", tool_name="Read", result=[ENDS], status="ok", duration=1)
        puppet.emit("MINE", text=ENDS)
        puppet.end()
        async with client.stream("GET", f"/runs/{run_id}/events", params={"format": name}) as response:
            lines = [line async for line in response.aiter_lines() if line]
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        assert all(line.startswith(("data: ", "id: ", "event: ", "retry: ", ":")) for line in lines)
        assert any(f"a{ENDS}b" in texts(found) for found in data)


async def test_an_answer_is_one_line(server: Running, puppets: Puppets) -> None:
    """An answer in JSON, an error that quotes its request too, is one line; what it says is what was said."""
    asked = {"message": f"m{ENDS}", "user_id": f"u{ENDS}", "session_id": f"s{ENDS}"}
    chat = {"model": "mine", "messages": [{"role": "user", "content": f"m{ENDS}"}]}
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
        started = await client.post("/runs", json=asked)
        puppet = await puppets.next()
        puppet.say(ENDS)
        puppet.end()
        waiting = asyncio.create_task(client.post("/v1/chat/completions", json=chat))
        puppet = await puppets.next()
        puppet.say(ENDS)
        puppet.end()
        answers = [
            started,
            await waiting,
            await client.get("/runs", params={"user_id": f"u{ENDS}"}),
            await client.get(f"/runs/{started.json()['run_id']}/snapshot"),
            *[await client.post(path, json={**asked, ENDS: 1}) for path in ("/runs", "/chat")],
            await client.post("/v1/chat/completions", json={**chat, ENDS: 1}),
            await client.post("/ag-ui", json={**chat, "threadId": "t", "runId": "r", "model": None, ENDS: 1}),
        ]
    for answer in answers:
        assert one_line(answer.content.decode()), (answer.url, answer.content)
        assert ENDS in texts(answer.text), answer.url


def texts(data: str) -> str:
    """All strings of some JSON, one after the other."""

    def walk(value: object) -> str:
        if isinstance(value, dict):
            return "".join(walk(key) + walk(item) for key, item in value.items())
        return "".join(map(walk, value)) if isinstance(value, list) else value if isinstance(value, str) else ""

    return "" if data == "[DONE]" else walk(json.loads(data))
