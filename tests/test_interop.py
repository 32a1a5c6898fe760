"""Other people's clients, as published, against a real server: whole, failed, cancelled, cut and resumed runs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import httpx_sse
import openai
import pytest
from hypothesis import given, settings
from websockets.asyncio.client import connect

from formats_rules import RUNS, paged, records
from interop_scenes import TEXT, USAGE, needs_node, node, playing
from serving import until
from twinwire.events import StreamEvent
from twinwire.formats import ag_ui, ai_sdk

TOKENS = {"inputTokens": 20, "outputTokens": 10, "totalTokens": 30}
TYPES = [
    "AGENT_START",
    *["STEP_START", "THINKING", "THINKING", "LLM_CHUNK", "LLM_CHUNK"],
    *["TOOL_CALL_START"] * 2,
    *["TOOL_CALL_FINISH"] * 2,
    *["STEP_FINISH", "PROGRESS"],
    *["STEP_START", "THINKING", "LLM_CHUNK", "LLM_CHUNK", "STEP_FINISH", "PROGRESS"],
    "AGENT_FINISH",
]


@needs_node
@pytest.mark.parametrize(("version", "wire"), [("ai5", "http"), ("ai6", "http"), ("ai7", "http"), ("ai7", "ws")])
async def test_ai_sdk(version: str, wire: str) -> None:
    """The AI SDK's transport and chat take every run as it was, stop it, resume it, and double nothing."""
    async with playing() as scene:
        seen = await node("ai_sdk", scene[0].url, version, wire, scene=scene)
        await until(lambda: len(scene[0].runs) == 0)
        assert scene[1].cancelled == 1, "only the run that was stopped"
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
    assert whole["metadata"] == {"runId": whole["metadata"]["runId"], "status": "completed", "usage": TOKENS}
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
    assert (seen["nothing"]["statuses"][-1], seen["nothing"]["roles"]) == ("ready", [])
    assert seen["refused"]["statuses"][-1] == "error"
    assert "128" in seen["refused"]["error"]


@needs_node
async def test_ag_ui() -> None:
    """AG-UI's client takes every run without a complaint, and joins one late with just the messages there are."""
    async with playing() as scene:
        seen = await node("ag_ui", scene[0].url, scene=scene)
        await until(lambda: len(scene[0].runs) == 0)
        assert scene[1].cancelled == 1
    whole = seen["whole"]
    assert whole["errors"] == []
    assert (whole["types"][0], whole["types"][-1], whole["result"]) == ("RUN_STARTED", "RUN_FINISHED", "It says hello.")
    assert {"STEP_STARTED", "REASONING_MESSAGE_CONTENT", "TOOL_CALL_RESULT", "CUSTOM"} < set(whole["types"])
    assert (whole["last"]["outcome"], whole["last"]["usage"]) == ({"type": "success"}, [TOKENS])
    roles = ["user", "reasoning", "assistant", "tool", "tool", "reasoning", "assistant"]
    assert [message["role"] for message in whole["messages"]] == roles
    assert [call["function"]["name"] for call in whole["messages"][2]["toolCalls"]] == ["echo", "raising"]
    assert [message["content"] for message in whole["messages"][3:5]] == ["hello", "Error: no such file"]
    assert seen["second"]["result"] == "user: tools/assistant: Let me see./assistant: It says hello."
    assert seen["failed"]["types"][-1] == "RUN_ERROR"
    assert (seen["failed"]["last"]["message"], seen["failed"]["last"]["code"]) == (
        "the model is away",
        "upstream_error",
    )
    cancelled = seen["cancelled"]
    assert (cancelled["errors"], cancelled["last"]["outcome"]) == ([], {"type": "cancelled"})
    assert cancelled["messages"][-1]["content"] == "one "
    for broken in seen["broken"]:
        assert broken["errors"] != []
        assert [message["content"] for message in broken["messages"]] == ["slow", "one "]
    assert all("TypeError: terminated" in complaint or "HTTP 400" in complaint for complaint in seen["complaints"])
    late = seen["late"]
    assert (late["errors"], late["types"][:2]) == ([], ["RUN_STARTED", "MESSAGES_SNAPSHOT"])
    assert [message["content"] for message in late["messages"]] == ["slow", "one two"]
    assert "threadId" in seen["refused"]["errors"][0]


@needs_node
async def test_the_clients_own_verifiers() -> None:
    """Runs of every kind, as hypothesis makes them up, pass all four clients' own parsers, schemas and verifiers."""
    runs: list[list[StreamEvent]] = []

    @settings(max_examples=150, database=None, derandomize=True)
    @given(RUNS)
    def collect(events: list[StreamEvent]) -> None:
        runs.append(events)

    collect()
    batch: dict[str, list[Any]] = {"ai_sdk": [], "ag_ui": []}
    for events in runs:
        run = records(events)
        body = b"".join(paged(ai_sdk.view(), run, 3)).decode()
        batch["ai_sdk"].append({"body": body, "failed": int(run[-1].type == "ERROR")})
        batch["ag_ui"].append({"body": b"".join(paged(ag_ui.view(ag_ui.Events("t", "r")), run, 3)).decode()})
    seen = await node("verify", "-", send=batch)
    assert seen == {"failures": [], "count": 2 * len(runs)}


def _check_openai(seen: Any) -> None:
    assert seen["text"] == TEXT.replace("|", "\n\n")
    assert (seen["reasoning"], seen["reasons"], seen["usage"]) == ("Hmm.So.", ["stop"], USAGE)


@needs_node
async def test_openai_npm() -> None:
    """OpenAI's npm package streams and awaits an agent, and raises its own errors."""
    async with playing() as scene:
        seen = await node("openai", scene[0].url, scene=scene)
        await until(lambda: scene[1].cancelled == 1)  # by who left
    assert seen["models"] == ["scenes"]
    _check_openai(seen["streamed"])
    assert seen["whole"] == {"text": "It says hello.", "finish_reason": "stop", "usage": USAGE}
    assert seen["failed"]["error"]["code"] == "upstream_error"
    assert (seen["failedWhole"]["status"], seen["failedWhole"]["code"]) == (502, "upstream_error")
    assert (seen["unknown"]["status"], seen["unknown"]["code"], seen["unknown"]["param"]) == (
        404,
        "model_not_found",
        "model",
    )
    assert (seen["tools"]["status"], seen["tools"]["param"]) == (400, "tools")


async def test_openai_python() -> None:
    """OpenAI's Python package does the same."""
    async with playing() as (server, scenes):  # noqa: SIM117 - the client needs its URL
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            assert [model.id async for model in client.models.list()] == ["scenes"]
            _check_openai(await _streamed(client, "tools"))
            whole = await client.chat.completions.create(
                model="scenes", messages=[{"role": "user", "content": "tools"}]
            )
            assert whole.choices[0].message.content == "It says hello."
            with pytest.raises(openai.APIError, match="the model is away"):
                await _streamed(client, "fail")
            with pytest.raises(openai.InternalServerError, match="the model is away"):
                await client.chat.completions.create(model="scenes", messages=[{"role": "user", "content": "fail"}])
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


async def _streamed(client: openai.AsyncOpenAI, content: str) -> dict[str, Any]:
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
            seen["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
            seen["reasons"] += [choice.finish_reason] if choice.finish_reason else []
        if chunk.usage is not None:
            seen["usage"] = chunk.usage.model_dump(exclude_unset=True)
    return seen


@needs_node
async def test_eventsource_npm() -> None:
    """The npm package eventsource gets every event once, across a cut as well, and an app's own format."""
    async with playing() as scene:
        seen = await node("eventsource", scene[0].url, scene=scene)
    assert [event["type"] for event in seen["whole"]] == TYPES
    for events in (seen["whole"], seen["cut"]):
        assert [int(event["id"].rpartition("-")[2]) for event in events] == list(range(1, len(events) + 1))
    said = [json.loads(event["data"])["content"] for event in seen["cut"] if event["type"] == "LLM_CHUNK"]
    assert said == ["one ", "two"]
    kinds = [event["data"].partition("\n")[0] for event in seen["own"]]
    assert kinds == [kind for kind in TYPES if kind != "THINKING"]


async def test_plain_clients() -> None:
    """httpx-sse, websockets and curl see the same events in the same order."""
    async with playing() as (server, _):
        async with (
            httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False) as client,
            httpx_sse.aconnect_sse(client, "GET", "/chat?message=tools") as source,
        ):
            events = [event async for event in source.aiter_sse()]
            run_id = source.response.headers["twinwire-run"]
        assert [event.event for event in events if event.data] == TYPES
        async with connect(server.ws_url, compression=None, proxy=None) as socket:
            await socket.send(json.dumps({"type": "attach", "run_id": run_id}))
            assert json.loads(await socket.recv())["type"] == "attached"
            messages = [json.loads(await socket.recv()) for _ in TYPES]
        assert [message["type"] for message in messages] == TYPES
        curl = await asyncio.create_subprocess_exec(
            "curl", "-sN", "--noproxy", "*", f"{server.url}/runs/{run_id}/events", stdout=-1
        )
        out, _ = await curl.communicate()
        blocks = [block.split("\n") for block in out.decode().split("\n\n")[1:-1]]
        assert [block[0].removeprefix("event: ") for block in blocks] == TYPES
        assert [json.loads(block[1].removeprefix("data: ")) for block in blocks] == [m["data"] for m in messages]
