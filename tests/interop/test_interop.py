"""Other people's clients, as published, against a real server: whole, failed, cancelled, cut and resumed runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings

from support.credentials import AUTH, TOKENS
from support.formats_rules import RUNS, records
from support.interop_scenes import PARTS, TEXT, USAGE, cut, needs_node, node, playing
from support.serving import until
from twinwire.formats import SseTurnView, ag_ui, ai_sdk
from twinwire.protocol.events import Record, StreamEvent

COUNTED = {"inputTokens": 20, "outputTokens": 10, "totalTokens": 30}


@needs_node
@pytest.mark.parametrize(
    ("version", "wire", "user"),
    [
        ("ai5", "http", None),
        ("ai6", "http", None),
        ("ai7", "http", "alice"),
        ("ai7", "ws", None),
        ("ai7", "ws", "alice"),
    ],
)
async def test_ai_sdk(version: str, wire: str, user: str | None) -> None:
    """The AI SDK's transport and chat take every run as it was, stop it, resume it, and double nothing."""
    known, token = (AUTH, TOKENS[user]) if user else ({}, "")
    async with playing(**known) as scene:
        seen = await node("ai_sdk", scene[0].url, version, wire, token, scene=scene)
        await until(lambda: len(scene[0].runs) == 0)
        assert scene[1].cancelled == 1, "only the run that was stopped"
        assert scene[1].asked["call"] == 1, "no page answers the server's tools"
        assert scene[1].asked["delete"] == 0, "an answer is not the question before it"
        assert scene[1].asked["tools"] == 2, "an image is not left out"
    bare, whole = seen["bare"], seen["whole"]
    assert bare["errors"] == []
    assert bare["id"] == bare["metadata"]["runId"]
    assert [chunk["type"] for chunk in bare["chunks"]].count("tool-output-available") == 1
    assert seen["inactive"] is None
    ready = ["submitted", "streaming", "ready"]
    assert (whole["statuses"], whole["text"], whole.get("error")) == (ready, TEXT, None)
    assert [(part["type"], part.get("state")) for part in whole["parts"]] == [
        ("step-start", None),
        ("reasoning", "done"),
        ("text", "done"),
        ("dynamic-tool", "output-available"),
        ("dynamic-tool", "output-error"),
        ("step-start", None),
        ("reasoning", "done"),
        ("text", "done"),
    ]
    assert (whole["parts"][3]["output"], whole["parts"][4]["errorText"]) == ("hello", "no such file")
    assert whole["data"] == ["data-progress"] * 2
    assert whole["metadata"] == {"runId": whole["metadata"]["runId"], "status": "completed", "usage": COUNTED}
    history = "user: tools/assistant: Let me see.It says hello."
    assert seen["second"]["text"] == seen["again"]["text"] == history
    assert seen["again"]["roles"] == ["user", "assistant"] * 2
    assert (seen["failed"]["statuses"][-1], seen["failed"]["error"]) == ("error", "the model is away")
    assert (seen["stopped"]["statuses"], seen["stopped"]["text"]) == (ready, "one ")
    assert (seen["broken"]["statuses"][-1], seen["broken"]["text"]) == ("error", "one ")
    assert (seen["cut"]["statuses"][-1], seen["cut"]["text"], seen["cut"]["roles"]) == (
        "ready",
        "one two",
        ["user", "assistant"],
    )
    for page in seen["page"]:
        assert (page["statuses"][-1], page["text"], page["roles"]) == ("ready", "one two", ["user", "assistant"])
    for page in seen["resumed"]:
        assert (page["statuses"][-1], page["text"], page.get("error")) == ("ready", "no|one two", None)
        assert [(part["type"], part.get("state")) for part in page["parts"]] == [
            ("step-start", None),
            ("reasoning", "done"),
            ("text", "done"),
            ("dynamic-tool", "output-error"),
            ("data-run-resumed", None),
            ("step-start", None),
            ("reasoning", "done"),
            ("text", "done"),
        ]
    assert (seen["nothing"]["statuses"][-1], seen["nothing"]["roles"]) == ("ready", [])
    assert (seen["automatic"]["text"], seen["automatic"]["called"]) == ("done", [])
    assert seen["automatic"]["statuses"] == ready
    for name, path in (("denied", "messages[1].parts[1]"), ("image", "messages[0].parts[0]")):
        assert seen[name]["statuses"][-1] == "error"
        assert path in seen[name]["error"]
    more = {"params": {"webSearch": True, "messageMetadata": {"quote": 7}}, "metadata": {"ticket": "4711"}}
    assert json.loads(seen["given"]) == {"message": "hi", **more, "parts": PARTS}
    assert seen["refused"]["statuses"][-1] == "error"
    assert "128" in seen["refused"]["error"]


@needs_node
@pytest.mark.parametrize(
    ("version", "query"), [("@ag-ui/client", ""), ("ag-ui-0.0.59", ""), ("ag-ui-0.0.42", "?reasoning=false")]
)
async def test_ag_ui(version: str, query: str) -> None:
    """AG-UI's client takes every run without a complaint, and joins one late with just the messages there are."""
    modern, reasoning = version == "@ag-ui/client", not query
    async with playing() as scene:
        seen = await node("ag_ui", scene[0].url, version, query, scene=scene)
        await until(lambda: len(scene[0].runs) == 0)
        assert scene[1].cancelled == 1
    whole = seen["whole"]
    assert whole["errors"] == []
    assert (whole["types"][0], whole["types"][-1], whole["result"]) == ("RUN_STARTED", "RUN_FINISHED", "It says hello.")
    assert {"STEP_STARTED", "TOOL_CALL_RESULT", "CUSTOM"} < set(whole["types"])
    assert ("REASONING_MESSAGE_CONTENT" in whole["types"]) == reasoning
    if modern:
        assert (whole["last"]["outcome"], whole["last"]["usage"]) == ({"type": "success"}, [COUNTED])
    else:
        assert not {"outcome", "usage"} & set(whole["last"])
    roles = ["user", "reasoning", "assistant", "tool", "tool", "reasoning", "assistant"]
    assert [m["role"] for m in whole["messages"]] == [role for role in roles if reasoning or role != "reasoning"]
    said = [message for message in whole["messages"] if message["role"] != "reasoning"]
    assert [call["function"]["name"] for call in said[1]["toolCalls"]] == ["echo", "raising"]
    assert [message["content"] for message in said[2:4]] == ["hello", "Error: no such file"]
    assert seen["second"]["result"] == "user: tools/assistant: Let me see./assistant: It says hello."
    assert (seen["tooled"]["errors"], seen["tooled"]["types"][-1]) == ([], "RUN_FINISHED")
    assert [(notice["name"], notice["value"]["fields"]) for notice in seen["notices"]] == [
        ("twinwire.ignored", ["tools"])
    ]
    assert seen["failed"]["types"][-1] == "RUN_ERROR"
    assert (seen["failed"]["last"]["message"], seen["failed"]["last"]["code"]) == (
        "the model is away",
        "upstream_error",
    )
    cancelled = seen["cancelled"]
    assert (cancelled["errors"], cancelled["last"]["type"]) == ([], "RUN_FINISHED")
    assert cancelled["last"].get("outcome") == ({"type": "cancelled"} if modern else None)
    assert cancelled["messages"][-1]["content"] == "one "
    for broken in seen["broken"]:
        assert broken["errors"] != []
        assert [message["content"] for message in broken["messages"]] == ["slow", "one "]
    assert all("TypeError: terminated" in complaint or "HTTP 400" in complaint for complaint in seen["complaints"])
    late = seen["late"]
    assert (late["errors"], late["types"][:2]) == ([], ["RUN_STARTED", "MESSAGES_SNAPSHOT"])
    assert [message["content"] for message in late["messages"]] == ["slow", "one two"]
    for name, text in (("resumed", ["no", "one two"]), ("rejoined", ["one two"])):
        assert (seen[name]["errors"], seen[name]["types"][-1]) == ([], "RUN_FINISHED")
        assert seen[name]["result"] == "one two"
        said = [message for message in seen[name]["messages"] if message["role"] == "assistant"]
        assert [message["content"] for message in said if message.get("content")] == text
        assert [len(message.get("toolCalls") or []) for message in said] == ([1, 0] if text[0] == "no" else [0])
    assert seen["given"]["errors"] == []
    told = {"message": "hi", "params": {"webSearch": True}, "metadata": {}, "parts": PARTS}
    assert json.loads(seen["given"]["messages"][-1]["content"]) == seen["given"]["result"] == told
    assert "threadId" in seen["refused"]["errors"][0]


@needs_node
async def test_the_clients_own_verifiers() -> None:
    """Runs of every kind, as hypothesis makes them up, pass all six clients' own parsers, schemas and verifiers."""
    runs: list[list[StreamEvent]] = []

    @settings(max_examples=150, database=None, derandomize=True)
    @given(RUNS)
    def collect(events: list[StreamEvent]) -> None:
        runs.append(events)

    collect()
    batch: dict[str, list[Any]] = {"ai_sdk": [], "ai_sdk_before": [], "ag_ui": [], "ag_ui_before": []}
    for events in runs:
        run = records(events)
        for old in (False, True):
            body, ended = _turn(ai_sdk.view(ai_sdk.Chunks(approvals=not old)), run)
            batch["ai_sdk_before" if old else "ai_sdk"].append(
                {"body": body, "failed": int(ended and run[-1].type == "ERROR")}
            )
            events_ = ag_ui.Events("t", "r", modern=not old, reasoning=not old)
            batch["ag_ui_before" if old else "ag_ui"].append(_turn(SseTurnView(events_), run)[0])
    seen = await node("verify", "-", send=batch)
    assert seen == {"failures": [], "count": 4 * len(runs)}


def _turn(view: SseTurnView, run: list[Record]) -> tuple[str, bool]:
    """The body of a run's first turn, in pages of three events, and whether the run ends in it."""
    body = b""
    for start in range(0, len(run), 3):
        body += b"".join(view.frames(run[start : start + 3]))
        if view.waiting:
            return (body + b"".join(view.end_turn())).decode(), False
    return body.decode(), True


def _check_openai(seen: Any) -> None:
    assert seen["text"] == TEXT.replace("|", "\n\n")
    assert (seen["reasoning"], seen["reasons"], seen["usage"]) == ("Hmm.So.", ["stop"], USAGE)


@needs_node
async def test_openai_npm() -> None:
    """OpenAI's npm package streams and awaits an agent, and raises its own errors."""
    async with playing() as scene:
        seen = await node("openai", scene[0].url, scene=scene)
        await until(lambda: scene[1].cancelled == 2)  # by who was cut off, and by who left
        assert (scene[1].asked["fail"], scene[1].asked["slow"]) == (2, 2), "no run is started again by itself"
    assert seen["models"] == ["scenes", "given"]
    resumed = seen["resumed"]
    assert (resumed["text"], resumed["reasoning"], resumed["reasons"]) == ("no\n\none two", "Hm\n\nSo", ["stop"])
    more = {"params": {"temperature": 0.5}, "metadata": {"ticket": "4711"}}
    assert json.loads(seen["given"]) == {"message": "hi", **more, "parts": PARTS}
    _check_openai(seen["streamed"])
    assert seen["whole"] == {"text": "It says hello.", "finish_reason": "stop", "usage": USAGE}
    assert seen["failed"]["error"]["code"] == "upstream_error"
    assert seen["cut"]["name"] == "TypeError"
    assert (seen["failedWhole"]["status"], seen["failedWhole"]["code"]) == (424, "upstream_error")
    assert (seen["unknown"]["status"], seen["unknown"]["code"], seen["unknown"]["param"]) == (
        404,
        "model_not_found",
        "model",
    )
    assert (seen["tools"]["status"], seen["tools"]["param"]) == (400, "tools")


async def test_openai_python() -> None:
    """OpenAI's Python package does the same."""
    async with playing() as (server, scenes):  # noqa: SIM117 - the client needs its URL
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            assert [model.id async for model in client.models.list()] == ["scenes", "given"]
            assert (await client.models.retrieve("scenes")).id == "scenes"
            _check_openai(await _streamed(client, "tools"))
            whole = await client.chat.completions.create(
                model="scenes", messages=[{"role": "user", "content": "tools"}]
            )
            assert whole.choices[0].message.content == "It says hello."
            with pytest.raises(openai.APIError, match="the model is away"):
                await _streamed(client, "fail")
            with pytest.raises(openai.APIStatusError, match="the model is away"):
                await client.chat.completions.create(model="scenes", messages=[{"role": "user", "content": "fail"}])
            assert scenes.asked["fail"] == 2, "no run is started again by itself"
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hi"}])
            stream = await client.chat.completions.create(
                model="scenes", messages=[{"role": "user", "content": "slow"}], stream=True
            )
            async for chunk in stream:
                if chunk.choices[0].delta.content == "one ":
                    break
            await stream.close()
            await until(lambda: scenes.cancelled == 1)
            with pytest.raises((openai.APIError, httpx.RemoteProtocolError)):
                await _streamed(client, "slow", lambda: cut(server))


async def _streamed(
    client: openai.AsyncOpenAI, content: str, begun: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    seen: dict[str, Any] = {"text": "", "reasoning": "", "reasons": [], "usage": None}
    stream = await client.chat.completions.create(
        model="scenes",
        messages=[{"role": "user", "content": content}],
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        for choice in chunk.choices:
            seen["text"] += choice.delta.content or ""
            if seen["text"] == "one ":
                begun()
            seen["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
            seen["reasons"] += [choice.finish_reason] if choice.finish_reason else []
        if chunk.usage is not None:
            seen["usage"] = chunk.usage.model_dump(exclude_unset=True)
    return seen
