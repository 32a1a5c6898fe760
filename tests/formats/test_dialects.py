"""Requests of other protocols: what is honoured, what is harmless, what is refused with its path; never a 5xx."""

# ruff: noqa: E501 - a table reads best as one
from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from websockets.asyncio.client import connect

from support.chats import Transport, frames, http
from support.serving import Puppets, Running, serving
from twinwire.agents import RunRequest
from twinwire.agents.accepts import Accepts
from twinwire.protocol.errors import BadRequest
from twinwire.protocol.events import StreamEvent
from twinwire.web.compat.dialects import MAX_SENT, Turn, ag_ui, ai_sdk, openai, question

RUN = "abcdefghijklmnopqrstuvwxyz"
OURS = f"{RUN}-7"
ASKED = f"ask-{RUN}-1"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
Message = dict[str, Any]


class Dialect(NamedTuple):
    """Where a dialect's requests go, the least that they have, and messages in its form."""

    path: str
    least: dict[str, Any]
    message: Callable[[str, str], Message]

    def body(self, *messages: Message, **fields: Any) -> dict[str, Any]:
        return {**self.least, "messages": [*messages] or [self.message("user", "hi")], **fields}


def _ui(role: str, text: str) -> Message:
    return {"id": "m", "role": role, "parts": [{"type": "text", "text": text}]}


def _plain(role: str, text: str) -> Message:
    return {"id": "m", "role": role, "content": text}


AI_SDK = Dialect("/ai-sdk/chat", {"id": "c"}, _ui)
AG_UI = Dialect("/ag-ui", {"threadId": "t", "runId": "r"}, _plain)
OPENAI = Dialect("/v1/chat/completions", {"model": "mine"}, _plain)
DIALECTS = {"ai-sdk": AI_SDK, "ag-ui": AG_UI, "openai": OPENAI}
each = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


def _with(role: str, part: Any) -> Message:
    """A message of the AI SDK with a part beside its text."""
    return {**_ui(role, "x"), "parts": [{"type": "text", "text": "x"}, part]}


def _tool(**fields: Any) -> dict[str, Any]:
    return {
        "type": "dynamic-tool",
        "toolName": "Read",
        "toolCallId": OURS,
        "state": "output-available",
        "input": {},
        "output": "secret",
        **fields,
    }


def _parts(*parts: dict[str, Any]) -> Message:
    return {"id": "m", "role": "user", "content": [{"type": "text", "text": "hi"}, *parts]}


CALL = {"id": OURS, "type": "function", "function": {"name": "Read", "arguments": "{}"}}

HONOURED: list[tuple[str, Dialect, dict[str, Any], list[tuple[str, str]]]] = [
    ("texts and roles", AI_SDK, AI_SDK.body(_ui("system", "s"), _ui("user", "a"), _ui("assistant", "b"), _ui("user", "c")), [("system", "s"), ("user", "a"), ("assistant", "b")]),
    ("several texts", AI_SDK, AI_SDK.body(_with("user", {"type": "text", "text": "y", "state": "done"})), []),
    ("the server's own parts", AI_SDK, AI_SDK.body(_ui("user", "a"), {"role": "assistant", "metadata": {"runId": RUN}, "parts": [{"type": "step-start"}, {"type": "reasoning", "text": "hm", "state": "done"}, {"type": "text", "text": "b", "state": "done"}, _tool(), _tool(providerExecuted=True), _tool(state="output-error", errorText="no", output=None), _tool(state="input-available"), {"type": "data-progress", "data": 1}, {"type": "source-url", "sourceId": "1", "url": "https://example.org"}]}, _ui("user", "c")), [("user", "a"), ("assistant", "b")]),
    ("questions and approvals of before", AI_SDK, AI_SDK.body(_ui("user", "a"), {"role": "assistant", "parts": [_tool(state="approval-responded", approval={"id": ASKED, "approved": False}), _tool(state="output-denied", approval={"id": ASKED}), _tool(state="approval-requested", approval={"id": ASKED}), _tool(toolCallId=ASKED, toolName="ask_user", output="dev"), {"type": "text", "text": "b"}]}, _ui("user", "c")), [("user", "a"), ("assistant", "b")]),
    ("what was said to a run", AI_SDK, AI_SDK.body(_ui("user", "a"), {"role": "assistant", "parts": [{"type": "text", "text": "b"}, {"type": "data-user-message", "id": OURS, "data": {"content": "shorter"}}, {"type": "text", "text": "c"}]}, _ui("user", "d")), [("user", "a"), ("assistant", "b"), ("user", "shorter"), ("assistant", "c")]),
    ("a step that was cut off", AI_SDK, AI_SDK.body(_ui("user", "a"), {"role": "assistant", "parts": [{"type": "step-start"}, {"type": "text", "text": "b"}, {"type": "step-start"}, {"type": "text", "text": "void"}, {"type": "data-user-message", "id": OURS, "data": {"content": "shorter"}}, {"type": "text", "text": "void"}, _tool(), {"type": "data-run-resumed", "id": OURS, "data": {"epoch": 1, "step": 2, "void_after": 4}}, {"type": "step-start"}, {"type": "text", "text": "c"}]}, _ui("user", "d")), [("user", "a"), ("assistant", "b"), ("user", "shorter"), ("assistant", "c")]),
    ("a text that was cut off, twice", AI_SDK, AI_SDK.body(_ui("user", "a"), {"role": "assistant", "parts": [{"type": "text", "text": "One. Tw"}, *({"type": "data-run-resumed", "id": OURS, "data": {"epoch": epoch, "step": None, "void_after": 2, "text": "One. "}} for epoch in (1, 2)), {"type": "text", "text": "Two."}]}, _ui("user", "d")), [("user", "a"), ("assistant", "One. Two.")]),
    ("an answer without a text", AI_SDK, AI_SDK.body(_ui("user", "a"), {"role": "assistant", "parts": [_tool()]}, _ui("user", "c")), [("user", "a")]),
    ("an answer anew", AI_SDK, AI_SDK.body(trigger="regenerate-message", messageId="m"), []),
    ("texts and roles", AG_UI, AG_UI.body(_plain("developer", "s"), _plain("user", "a"), _plain("assistant", "b"), _plain("user", "c")), [("system", "s"), ("user", "a"), ("assistant", "b")]),
    ("parts that are text", AG_UI, AG_UI.body(_parts({"type": "text", "text": "!", "id": "p"})), []),
    ("the server's own messages", AG_UI, AG_UI.body(_plain("user", "a"), {"id": "r", "role": "reasoning", "content": "hm"}, {"id": "m", "role": "assistant", "toolCalls": [CALL]}, {"id": f"{OURS}-result", "role": "tool", "toolCallId": OURS, "content": "secret"}, _plain("assistant", "b"), _plain("user", "c")), [("user", "a"), ("assistant", "b")]),
    ("texts and roles", OPENAI, OPENAI.body(_plain("developer", "s"), _plain("user", "a"), _plain("assistant", "b"), _plain("user", "c")), [("system", "s"), ("user", "a"), ("assistant", "b")]),
    ("parts that are text", OPENAI, OPENAI.body(_parts({"type": "text", "text": "!", "cache_control": {"type": "ephemeral"}})), []),
    ("an answer as OpenAI's client has it", OPENAI, OPENAI.body(_plain("user", "a"), {"role": "assistant", "content": "b", "refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None, "reasoning_content": "hm"}, _plain("user", "c")), [("user", "a"), ("assistant", "b")]),
    ("a refusal", OPENAI, OPENAI.body(_plain("user", "a"), {"role": "assistant", "content": None, "refusal": "no"}, _plain("user", "c")), [("user", "a"), ("assistant", "no")]),
    ("a refusal among the parts", OPENAI, OPENAI.body(_plain("user", "a"), {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, _plain("user", "c")), [("user", "a"), ("assistant", "no")]),
    ("an answer as gateways have it", OPENAI, OPENAI.body(_plain("user", "a"), {"role": "assistant", "content": [{"type": "text", "text": "b", "id": "1", "index": 0}], "provider_specific_fields": {"refusal": None}, "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}], "reasoning_details": [{"type": "reasoning.text"}], "images": []}, {**_plain("user", "c"), "timestamp": 1, "cache_control": {"type": "ephemeral"}}), [("user", "a"), ("assistant", "b")]),
    ("functions not to call", OPENAI, OPENAI.body(function_call="auto", functions=[]), []),
    ("messages as apps keep them", AG_UI, AG_UI.body({**_plain("user", "a"), "createdAt": "2026-01-01T00:00:00Z", "timestamp": 1}, {**_plain("assistant", "b"), "agentName": "default", "status": {"code": "success"}, "type": "TextMessage", "parentMessageId": "p"}, _plain("user", "c")), [("user", "a"), ("assistant", "b")]),
    ("what is what it would be anyway", OPENAI, OPENAI.body(n=1, response_format={"type": "text"}, tool_choice="none", modalities=["text"], stream=False, stream_options={"continuous_usage_stats": True}), []),
]  # fmt: skip

SAMPLING = {"temperature": 0.1, "top_p": 0.5, "max_tokens": 9, "stop": ["\n"], "seed": 7, "presence_penalty": 1}
COMMON = {**SAMPLING, "user": "u", "metadata": {"a": ["b"]}, "store": True, "service_tier": "flex"}
HARMLESS: list[tuple[Dialect, dict[str, Any]]] = [
    (AI_SDK, {**COMMON, "messageId": "m", "callSettings": {"temperature": 1}, "config": {"modelName": "m"}}),
    (AG_UI, {**COMMON, "parentRunId": "p", "parentThreadId": "t", "state": {"a": 1}, "context": [{"description": "d", "value": "v"}], "forwardedProps": {"a": 1}, "tools": [{"name": "confirm", "description": "", "parameters": {}}]}),
    (OPENAI, {**COMMON, "max_completion_tokens": 9, "parallel_tool_calls": True, "prompt_cache_key": "k", "safety_identifier": "s", "reasoning_effort": "low"}),
    (OPENAI, {"chat_template_kwargs": {"enable_thinking": False}, "repeat_penalty": 1.1, "top_n_sigma": -1, "mirostat": 1, "num_ctx": 4096, "options": {"num_ctx": 1}, "keep_alive": "5m", "think": True, "include_reasoning": True, "cache_prompt": True, "timings_per_token": True}),
    (OPENAI, {"provider": {"order": ["x"]}, "transforms": ["middle-out"], "usage": {"include": True}, "best_of": 1, "stop_token_ids": [1], "skip_special_tokens": True, "thinking_budget": 9, "session_id": "s"}),
]  # fmt: skip
NOTHING: dict[str, Any] = {"tools": [], "resume": None, "approved": None, "approvals": {}, "images": "", "files": False}
"""Fields that would be refused if they had anything in them."""

REFUSED: list[tuple[str, Dialect, dict[str, Any], str]] = [
    ("a file", AI_SDK, AI_SDK.body(_with("user", {"type": "file", "mediaType": "image/png", "url": "data:,"})), "messages[0].parts[1]"),
    ("a file in an answer", AI_SDK, AI_SDK.body(_with("assistant", {"type": "file", "mediaType": "image/png", "url": "data:,"}), _ui("user", "x")), "messages[0].parts[1]"),
    ("data of the user's", AI_SDK, AI_SDK.body(_with("user", {"type": "data-quote", "data": "x"})), "messages[0].parts[1]"),
    ("an unknown part", AI_SDK, AI_SDK.body(_with("user", {"type": "hologram"})), "messages[0].parts[1]"),
    ("a part that is none", AI_SDK, AI_SDK.body(_with("user", 7)), "messages[0].parts[1]"),
    ("an approval", AI_SDK, AI_SDK.body(_ui("user", "delete it"), {"role": "assistant", "parts": [{"type": "tool-delete", "toolCallId": "1", "state": "approval-responded", "input": {}, "approval": {"id": "a", "approved": False, "reason": "NO, do not"}}]}), "messages[1].parts[0]"),
    ("an approval of our call", AI_SDK, AI_SDK.body(_with("assistant", _tool(state="approval-responded", approval={"id": "a", "approved": False})), _ui("user", "x")), "messages[0].parts[1]"),
    ("a result of the page's tool", AI_SDK, AI_SDK.body(_with("assistant", {**_tool(), "type": "tool-where", "toolCallId": "1"})), "messages[0].parts[1]"),
    ("a result of the page's dynamic tool", AI_SDK, AI_SDK.body(_with("assistant", _tool(toolCallId="call_1")), _ui("user", "x")), "messages[0].parts[1]"),
    ("attachments", AI_SDK, AI_SDK.body({**_ui("user", "x"), "experimental_attachments": [{"url": "data:,"}]}), "messages[0].experimental_attachments"),
    ("a role that is none", AI_SDK, AI_SDK.body({**_ui("user", "x"), "role": "tool"}, _ui("user", "x")), "messages[0].role"),
    ("no parts", AI_SDK, AI_SDK.body({"role": "user", "content": "x"}), "messages[0].content"),
    ("a text that is none", AI_SDK, AI_SDK.body(_with("user", {"type": "text", "text": 7})), "messages[0].parts[1].text"),
    ("instructions of the app's", AI_SDK, AI_SDK.body(system="Answer in French."), "system"),
    ("a model", AI_SDK, AI_SDK.body(model="gpt-5"), "model"),
    ("tools", AI_SDK, AI_SDK.body(tools={"where": {}}), "tools"),
    ("messages and one alone", AI_SDK, AI_SDK.body(message=_ui("user", "x")), "message"),
    ("an answer anew without its conversation", AI_SDK, {"id": "c", "message": _ui("user", "x"), "trigger": "regenerate-message"}, "trigger"),
    ("a trigger that is none", AI_SDK, AI_SDK.body(trigger="resume-stream"), "trigger"),
    ("a file alone", AI_SDK, {"id": "c", "message": _with("user", {"type": "file", "url": "data:,"})}, "message.parts[1]"),
    ("an image", AG_UI, AG_UI.body(_parts({"type": "image", "source": {"type": "url", "value": "u"}})), "messages[0].content[1]"),
    ("a binary", AG_UI, AG_UI.body(_parts({"type": "binary", "mimeType": "image/png", "data": "AA=="})), "messages[0].content[1]"),
    ("a result of the client's tool", AG_UI, AG_UI.body(_plain("user", "x"), {"id": "1", "role": "tool", "toolCallId": "call_1", "content": "NO"}, _plain("user", "y")), "messages[1]"),
    ("a call of the client's tool", AG_UI, AG_UI.body({"role": "assistant", "toolCalls": [{**CALL, "id": "call_1"}]}, _plain("user", "x")), "messages[0].toolCalls[0]"),
    ("an activity", AG_UI, AG_UI.body({"id": "1", "role": "activity", "activityType": "PLAN", "content": {}}, _plain("user", "x")), "messages[0].role"),
    ("an answer to somebody else's interrupt", AG_UI, AG_UI.body(resume=[{"interruptId": "i", "status": "resolved", "payload": "no"}]), "resume[0].interruptId"),
    ("answers to two runs", AG_UI, AG_UI.body(resume=[{"interruptId": ASKED, "status": "cancelled"}, {"interruptId": f"ask-{'a' * 26}-1", "status": "cancelled"}]), "resume[1].payload"),
    ("a status that is none", AG_UI, AG_UI.body(resume=[{"interruptId": ASKED, "status": "denied"}]), "resume[0].status"),
    ("an answer that is given up", AG_UI, AG_UI.body(resume=[{"interruptId": ASKED, "status": "cancelled", "payload": "yes"}]), "resume[0].payload"),
    ("an answer with something beside it", AG_UI, AG_UI.body(resume=[{"interruptId": ASKED, "status": "resolved", "value": "yes"}]), "resume[0].value"),
    ("an entry that is none", AG_UI, AG_UI.body(resume=["yes"]), "resume[0]"),
    ("answers that are no list", AG_UI, AG_UI.body(resume={"interruptId": ASKED}), "resume"),
    ("an approval that is neither", AI_SDK, AI_SDK.body(_ui("user", "x"), {"role": "assistant", "parts": [_tool(state="approval-responded", approval={"id": ASKED})]}), "messages[1].parts[0].approval.approved"),
    ("approvals of two runs", AI_SDK, AI_SDK.body(_ui("user", "x"), {"role": "assistant", "parts": [_tool(state="approval-requested", approval={"id": ASKED}), _tool(state="approval-requested", approval={"id": f"ask-{'a' * 26}-1"})]}), "messages[1].parts[1].approval"),
    ("an approval beside a result of the page's", AI_SDK, AI_SDK.body(_ui("user", "x"), {"role": "assistant", "parts": [_tool(state="approval-responded", approval={"id": ASKED, "approved": True}), {**_tool(), "type": "tool-where"}]}), "messages[1].parts[1]"),
    ("the same, as CopilotKit sends it", AG_UI, AG_UI.body(forwardedProps={"command": {"resume": "no"}}), "forwardedProps.command.resume"),
    ("a no to an interrupt", AG_UI, AG_UI.body(forwardedProps={"command": {"resume": False}}), "forwardedProps.command.resume"),
    ("an empty answer to an interrupt", AG_UI, AG_UI.body(forwardedProps={"command": {"resume": ""}}), "forwardedProps.command.resume"),
    ("an answer beside the conversation", AG_UI, AG_UI.body(forwardedProps={"resume": "no"}), "forwardedProps.resume"),
    ("an approval beside the conversation", AG_UI, AG_UI.body(forwardedProps={"approved": False}), "forwardedProps.approved"),
    ("results beside the conversation", AG_UI, AG_UI.body(forwardedProps={"tool_results": [1]}), "forwardedProps.tool_results"),
    ("a no", AG_UI, AG_UI.body(approved=False), "approved"),
    ("a no", AI_SDK, AI_SDK.body(approved=False), "approved"),
    ("a no", OPENAI, OPENAI.body(approval=False), "approval"),
    ("a call that says it is the server's", AI_SDK, AI_SDK.body(_with("assistant", _tool(toolCallId="call_1", providerExecuted=True)), _ui("user", "x")), "messages[0].parts[1]"),
    ("an unknown setting", AG_UI, AG_UI.body(approvals=["no"]), "approvals"),
    ("an image", OPENAI, OPENAI.body(_parts(IMAGE)), "messages[0].content[1]"),
    ("a file", OPENAI, OPENAI.body(_parts({"type": "file", "file": {"file_id": "f"}})), "messages[0].content[1]"),
    ("a sound", OPENAI, OPENAI.body(_parts({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}})), "messages[0].content[1]"),
    ("a tool's result", OPENAI, OPENAI.body(_plain("user", "x"), {"role": "tool", "tool_call_id": "1", "content": "NO"}), "messages"),
    ("a tool's result before", OPENAI, OPENAI.body({"role": "tool", "tool_call_id": "1", "content": "NO"}, _plain("user", "x")), "messages[0].role"),
    ("a tool's call", OPENAI, OPENAI.body({"role": "assistant", "content": None, "tool_calls": [CALL]}, _plain("user", "x")), "messages[0].tool_calls"),
    ("images as Ollama has them", OPENAI, OPENAI.body({**_plain("user", "x"), "images": ["AA=="]}), "messages[0].images"),
    ("a content that is none", OPENAI, OPENAI.body({"role": "user", "content": {"text": "x"}}), "messages[0].content"),
    ("tools", OPENAI, OPENAI.body(tools=[{"type": "function", "function": {"name": "f"}}]), "tools"),
    ("functions", OPENAI, OPENAI.body(functions=[{"name": "f"}]), "functions"),
    ("a function to call", OPENAI, OPENAI.body(function_call={"name": "f"}), "function_call"),
    ("a schema to follow", OPENAI, OPENAI.body(guided_json={"type": "object"}), "guided_json"),
    ("a refusal that is none", OPENAI, OPENAI.body({"role": "assistant", "content": [{"type": "refusal", "refusal": 7}]}, _plain("user", "x")), "messages[0].content[0].text"),
    ("a tool to choose", OPENAI, OPENAI.body(tool_choice={"type": "function", "function": {"name": "f"}}), "tool_choice"),
    ("several answers", OPENAI, OPENAI.body(n=2), "n"),
    ("JSON", OPENAI, OPENAI.body(response_format={"type": "json_object"}), "response_format"),
    ("probabilities", OPENAI, OPENAI.body(logprobs=True), "logprobs"),
    ("sound", OPENAI, OPENAI.body(modalities=["text", "audio"], audio={"voice": "v"}), "audio"),
    ("a search", OPENAI, OPENAI.body(web_search_options={}), "web_search_options"),
    ("an unknown setting", OPENAI, OPENAI.body(documents=["x"]), "documents"),
    ("an unknown stream option", OPENAI, OPENAI.body(stream_options={"include_images": True}), "stream_options.include_images"),
]  # fmt: skip


def _read(dialect: Dialect, body: dict[str, Any]) -> tuple[str, list[Message]]:
    """What the dialect's pure functions make of a body, for an agent that accepts a text alone."""
    if dialect is AG_UI:
        ag_ui.check_answers(body)
        assert ag_ui.replies(body) is None
    elif dialect is AI_SDK:
        assert ai_sdk.replies(body) is None
    read = {AI_SDK.path: ai_sdk.read, AG_UI.path: ag_ui.read, OPENAI.path: openai.read}[dialect.path]
    last, history = question(read(body, Accepts("mine")).turns, 1000)
    assert last.parts == ()
    return last.text, history


def _path(answer: dict[str, Any]) -> str | None:
    """The path that an error names, in whichever form."""
    error = answer.get("error", answer)
    found: str | None = error.get("param", error.get("field"))
    return found


@pytest.mark.parametrize(
    ("dialect", "body", "history"), [case[1:] for case in HONOURED], ids=[f"{c[1].path}: {c[0]}" for c in HONOURED]
)
async def test_honoured(
    dialect: Dialect, body: dict[str, Any], history: list[tuple[str, str]], server: Running, puppets: Puppets
) -> None:
    """The agent is asked the last message with this history."""
    said, before = _read(dialect, body)
    assert [(turn["role"], turn["content"]) for turn in before] == history
    async with http(server) as client:
        asking = asyncio.create_task(client.post(dialect.path, json=body))
        puppet = await puppets.next()
        puppet.end()
        assert (await asking).status_code == 200
        assert (puppet.request.message, puppet.request.history) == (said, before)


@pytest.mark.parametrize(("dialect", "fields"), HARMLESS, ids=[case[0].path for case in HARMLESS])
async def test_harmless(dialect: Dialect, fields: dict[str, Any], server: Running, puppets: Puppets) -> None:
    """These fields change nothing; those that have something in them are named in `Twinwire-Ignored`."""
    async with http(server) as client:
        asking = asyncio.create_task(client.post(dialect.path, json=dialect.body(**{**NOTHING, **fields})))
        puppet = await puppets.next()
        puppet.end()
        answer = await asking
        assert (answer.status_code, puppet.request.message, puppet.request.history) == (200, "hi", [])
        named = answer.headers["twinwire-ignored"].split(", ")
        assert sorted(named) == sorted(fields)[:16] if len(fields) <= 16 else set(named) < set(fields)


@pytest.mark.parametrize(
    ("dialect", "body", "path"), [case[1:] for case in REFUSED], ids=[f"{c[1].path}: {c[0]}" for c in REFUSED]
)
async def test_refused(dialect: Dialect, body: dict[str, Any], path: str, server: Running, puppets: Puppets) -> None:
    """It is 400 with this path, in the dialect's own form, and nothing runs."""
    with pytest.raises(BadRequest) as caught:
        _read(dialect, body)
    assert caught.value.field == path
    async with http(server) as client:
        answer = await client.post(dialect.path, json=body)
        assert (answer.status_code, _path(answer.json())) == (400, path)
        assert ("error" in answer.json()) == (dialect is OPENAI)
    assert puppets.started == 0


async def test_an_unknown_field_on_a_socket(server: Running, puppets: Puppets) -> None:
    """A message of the AI SDK's socket with a field that is not known is refused, too."""
    async with connect(f"ws://127.0.0.1:{server.port}/ai-sdk/ws", compression=None, proxy=None) as socket:
        client = Transport(socket)
        await client.say("send", "r1", id="c", messages=[_ui("user", "x")], files=["x"])
        assert (await client.next())["errorText"].startswith("`files` ")
    assert puppets.started == 0


@pytest.mark.parametrize(
    ("body", "path"), [case[2:] for case in REFUSED if case[1] is AI_SDK and "messages" in case[2]]
)
async def test_refused_on_a_socket(body: dict[str, Any], path: str, server: Running, puppets: Puppets) -> None:
    """The AI SDK's socket refuses the same, and lives."""
    sent = {name: body.pop(name) for name in ("id", "messages", "trigger") if name in body}
    async with connect(f"ws://127.0.0.1:{server.port}/ai-sdk/ws", compression=None, proxy=None) as socket:
        client = Transport(socket)
        await client.say("send", "r1", **sent, body=body)
        told = await client.next()
        assert (told["type"], f"`{path}`" in told["errorText"]) == ("error", True), told
        await client.say("resume", "r2", id="c")
        assert (await client.next())["type"] == "no-active"
    assert puppets.started == 0


@each
async def test_a_value_that_cannot_be_read(dialect: Dialect, server: Running, puppets: Puppets) -> None:
    """A number that is out of range, at any depth, is 400 with the name of the field."""
    async with http(server) as client:
        for value in (b"1e400", b'[{"a": 1e400}]'):
            body = json.dumps(dialect.body()).encode()[:-1] + b', "metadata": ' + value + b"}"
            answer = await client.post(dialect.path, content=body, headers={"content-type": "application/json"})
            assert (answer.status_code, _path(answer.json())) == (400, "metadata")
    assert puppets.started == 0


@each
async def test_messages_without_number(dialect: Dialect, puppets: Puppets) -> None:
    """A conversation of more messages than the server looks at is refused as a whole."""
    messages = [dialect.message("user", "a")] * (MAX_SENT + 1)
    async with serving({"mine": puppets}) as server, http(server) as client:
        answer = await client.post(dialect.path, json={**dialect.least, "messages": messages})
        assert (answer.status_code, _path(answer.json())) == (400, "messages")
        assert "10,000" in answer.text
    assert puppets.started == 0


@each
@pytest.mark.parametrize("last", ["assistant", "system", None])
async def test_the_last_message_is_the_users(dialect: Dialect, last: str | None, puppets: Puppets) -> None:
    """A conversation that does not end with the user's message is refused; no earlier one is asked again."""
    messages = [] if last is None else [dialect.message("user", "delete it"), dialect.message(last, " ")]
    async with serving({"mine": puppets}) as server, http(server) as client:
        answer = await client.post(dialect.path, json={**dialect.least, "messages": messages})
        assert (answer.status_code, _path(answer.json())) == (400, "messages")
    assert puppets.started == 0


async def test_tools_of_an_ag_ui_client(server: Running, puppets: Puppets) -> None:
    """The client is told in a CUSTOM event that its tools are ignored, also if it joins late."""
    body = AG_UI.body(tools=[{"name": "confirm", "description": "", "parameters": {}}])
    async with http(server) as client:
        asking = asyncio.create_task(client.post("/ag-ui", json=body))
        puppet = await puppets.next()
        puppet.say("one")
        puppet.end()
        for events in (frames(await asking), frames(await client.post("/ag-ui", json=body))):
            assert [event["type"] for event in events][:2] == ["RUN_STARTED", "CUSTOM"]
            assert (events[1]["name"], events[1]["value"]["fields"]) == ("twinwire.ignored", ["tools"])
        again = frames(await client.post("/ag-ui", json=AG_UI.body()))
        assert "CUSTOM" not in [event["type"] for event in again]


# -- any JSON --------------------------------------------------------------------------------------------------

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
KEYS = st.sampled_from(
    [
        *ai_sdk.FIELDS.honoured,
        *ag_ui.FIELDS.honoured,
        *openai.FIELDS.honoured,
        *("role", "content", "parts", "type", "text", "toolCalls", "tool_calls", "toolCallId", "state", "approval"),
        *("resume", "tools", "command", "\x00", "x"),
    ]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS | st.sampled_from(["user", "assistant", "tool", "text", "dynamic-tool", "regenerate-message"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def bodies(draw: st.DrawFn, dialect: Dialect) -> Any:
    """A good body in which one thing, at any depth, was replaced by any JSON or had some added to it."""
    body = json.loads(json.dumps(dialect.body(dialect.message("assistant", "b"), dialect.message("user", "c"))))
    at: Any = body
    while True:
        key = draw(st.sampled_from([*at]) if isinstance(at, dict) else st.integers(0, len(at) - 1))
        if not (isinstance(at[key], (dict, list)) and at[key] and draw(st.booleans())):
            break
        at = at[key]
    if isinstance(at, dict) and draw(st.booleans()):
        key = draw(KEYS)
    at[key] = draw(JSON)
    return body


NAMES = {
    "role",
    "type",
    "id",
    "name",
    "state",
    "metadata",
    "toolCallId",
    "createdAt",
    "subagentRunId",
    "encryptedValue",
}
"""What messages have beside their content."""


def content(thing: Any) -> list[str]:
    """All that messages say, wherever it stands in them."""
    if isinstance(thing, dict):
        return [said for name, value in thing.items() if name not in NAMES for said in content(value)]
    if isinstance(thing, list):
        return [said for value in thing for said in content(value)]
    return [] if thing is None or thing is False else [str(thing)]


@each
async def test_any_body(dialect: Dialect) -> None:
    """Whatever the JSON is, the agent is asked all that it says, or it is answered with 400 or 404 and a path."""
    heard: list[str] = []

    async def listening(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        heard[:] = [request.message, *(said["content"] for said in request.history)]
        yield StreamEvent("NOTHING")

    sent: list[Any] = []

    @settings(max_examples=120, database=None, derandomize=True, suppress_health_check=[*HealthCheck])
    @given(bodies(dialect) | JSON)
    def collect(body: Any) -> None:
        sent.append(body)

    collect()
    statuses = set()
    async with serving({"mine": listening}, user_starts=10**6) as server, http(server) as client:
        for number, body in enumerate(sent):
            if isinstance(body, dict) and body.get("runId") == "r":
                body["runId"] = f"r{number}"  # else it would be joined
            answer = await client.post(dialect.path, json=body)
            statuses.add(answer.status_code)
            if answer.status_code != 200:
                assert answer.status_code in {400, 404}, (body, answer.text)
                assert _path(answer.json()) or not isinstance(body, dict), (body, answer.text)
            else:
                messages = body.get("messages") or [body["message"]]
                spoken = [said for said in messages if said["role"] != "reasoning"]
                assert all(any(said in text for text in heard) for said in content(spoken) if said.strip()), body
    assert statuses - {404} == {200, 400}


def test_short_messages_are_bounded_by_their_number() -> None:
    """Of a conversation of very many short messages the newest thousand count."""
    last, history = question([Turn("user", f"m{i}") for i in range(5000)], 10**6)
    assert last.text == "m4999"
    assert [turn["content"] for turn in history] == [f"m{i}" for i in range(3999, 4999)]
