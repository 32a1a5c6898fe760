"""A run's result in each format: an answer that was never told as text, and one that is no text."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.chats import frames, http, said
from support.formats_rules import (
    ag_ui_messages,
    ai_sdk_parts,
    check_ag_ui,
    check_ai_sdk,
    check_openai,
    datas,
    records,
)
from support.serving import Puppets, Running
from twinwire.formats import SseView, ag_ui, ai_sdk, openai
from twinwire.protocol.events import StreamEvent, decode

STEP, CHUNK = StreamEvent("STEP_START", {"step": 1}), StreamEvent("LLM_CHUNK", {"content": "Let me see.", "delta": "x"})
CALL = StreamEvent("TOOL_CALL_START", {"tool_call_id": "c", "tool_name": "t", "parameters": {}})


def finish(result: Any, status: str = "completed") -> StreamEvent:
    return StreamEvent("AGENT_FINISH", {"result": result, "status": status, "usage": None})


RUNS: list[tuple[list[StreamEvent], list[str]]] = [
    ([finish("Hello")], ["Hello"]),
    ([STEP, finish("Hello")], ["Hello"]),
    ([STEP, CALL, finish({"sum": 3, "of": [1, "ü"]})], ['{"sum":3,"of":[1,"ü"]}']),
    ([finish([])], ["[]"]),
    ([finish(False)], ["false"]),
    ([finish(0)], ["0"]),
    ([finish("cut", "incomplete")], ["cut"]),
    ([STEP, CHUNK, CALL, STEP, finish("Done.")], ["Let me see.", "Done."]),
    ([STEP, CHUNK, finish("Let me see.")], ["Let me see."]),
    ([STEP, CHUNK, finish({"a": 1})], ["Let me see."]),
    ([StreamEvent("THINKING", {"content": "hm"}), finish("Hello")], ["Hello"]),
    ([finish("")], []),
    ([finish(None)], []),
    ([finish("so far", "cancelled")], []),
    ([StreamEvent("ERROR", {"error_type": "budget", "message": "no"})], []),
]


@pytest.mark.parametrize(("events", "texts"), RUNS)
def test_texts(events: list[StreamEvent], texts: list[str]) -> None:
    """The texts of a run are those that were told, and its result if none was told since the newest step began."""
    run = records(events)
    *chunks, _ = datas(ai_sdk.view().frames(run))
    check_ai_sdk(chunks)
    assert [part["text"] for part in ai_sdk_parts(chunks) if part["type"] == "text"] == texts
    seen = datas(SseView(ag_ui.Events()).frames(run))
    check_ag_ui(seen)
    answers = [said for said in ag_ui_messages(seen) if said.get("role") == "assistant"]
    assert [said["content"] for said in answers if said.get("content")] == texts
    *completion, _ = datas(openai.view("a", usage=True).frames(run))
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in completion if chunk.get("choices")]
    assert "".join(deltas) == "\n\n".join(texts)
    check_openai(completion)


@pytest.mark.parametrize(
    ("result", "content"),
    [("Hello", "Hello"), ({"a": [None, True]}, '{"a":[null,true]}'), ([1], "[1]"), (0, "0"), (None, ""), ("", "")],
)
def test_a_completion(result: Any, content: str) -> None:
    """An answer of `/v1` that is not streamed has JSON for what is no text, and nothing for null."""
    [record] = records([finish(result)])
    assert openai.completion("a", decode(record.body))["choices"][0]["message"]["content"] == content


async def test_served(server: Running, puppets: Puppets) -> None:
    """Each route shows a structured answer of an agent that tells no text."""
    asked = {"role": "user", "content": "hi", "id": "u"}
    requests: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"model": "mine", "messages": [asked]},
        "/v1/chat/completions?": {"model": "mine", "messages": [asked], "stream": True},
        "/ai-sdk/chat": {"id": "c", "messages": said("hi")},
        "/ag-ui": {"threadId": "t", "runId": "r", "messages": [asked]},
    }
    told: dict[str, Any] = {}
    async with http(server) as client:
        for path, body in requests.items():
            asking = asyncio.create_task(client.post(path.removesuffix("?"), json=body))
            puppet = await puppets.next()
            puppet.emit("AGENT_FINISH", result={"sum": 3})
            puppet.end()
            answer = await asking
            told[path] = answer.json() if "stream" not in body and path.startswith("/v1") else frames(answer)
    plain, streamed, chunks, events = told.values()
    assert plain["choices"][0]["message"]["content"] == '{"sum":3}'
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in streamed[:-1]]
    assert "".join(deltas) == '{"sum":3}'
    assert [part["text"] for part in ai_sdk_parts(chunks[:-1])] == ['{"sum":3}']
    assert [said["content"] for said in ag_ui_messages(events)] == ['{"sum":3}']
    assert events[-1]["result"] == {"sum": 3}
