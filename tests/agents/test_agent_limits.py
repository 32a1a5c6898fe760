"""`RunRequest.limits`: what the server's settings allow an agent, for those of users as for those built in."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.documents import ROOT, snippets
from support.followers import KINDS, rest, start, text
from support.model_server import ModelServer, answer, headers, stall
from support.processes import Process
from support.scripted import CALLS, STOP, Batch, Scripted, Stuck, call, registry
from support.serving import serving
from twinwire import AgentLimits, OpenAIChatModel, ReActAgent, RunRequest, Settings, StreamEvent
from twinwire.protocol.errors import SettingsError

SET = {"max_steps": 3, "max_tool_calls": 1, "tool_timeout": 0.05, "model_timeout": 7.5}


async def told(request: RunRequest) -> None:
    """Emit the limits of the request."""
    await asyncio.sleep(0)
    request.emit(StreamEvent("LIMITS", msgspec.to_builtins(request.limits)))


@pytest.mark.parametrize("kind", KINDS)
async def test_an_agent_of_ones_own(kind: str) -> None:
    """An agent of a user's is told the four settings, with their units."""
    async with serving({"told": told}, **SET) as server:
        seen = await rest(await start(kind, server))
    assert [event["data"] for event in seen if event["type"] == "LIMITS"] == [SET]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_agent_that_comes_with_twinwire(kind: str) -> None:
    """A ReActAgent keeps to the server's settings, and to its own arguments in their place if it has any."""
    script: list[Batch | Exception | None] = [[call(1, "stuck", "{}"), call(2, "stuck", '{"a": 1}')], CALLS]
    none: dict[str, Any] = {}
    for own, steps, result in (
        (none, 3, "The tool stuck did not finish in 0.05 s."),
        ({"max_steps": 2, "tool_timeout": 0.02}, 2, "The tool stuck did not finish in 0.02 s."),
    ):
        agent = ReActAgent("bot", Scripted(script, script, [STOP]), registry(Stuck().tool), **own)
        async with serving({"bot": agent}, **SET) as server:
            seen = await rest(await start(kind, server))
        assert {event["data"]["max_steps"] for event in seen if "max_steps" in event["data"]} == {steps}
        results = [event["data"]["result"] for event in seen if event["type"] == "TOOL_CALL_FINISH"]
        assert results == ["Only the first 1 calls of a step are run.", result] * (steps - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_document(kind: str, tmp_path: Path) -> None:
    """The agent in docs/SETTINGS.md, served with two of the flags, keeps to them."""
    program, _ = snippets((ROOT / "docs/SETTINGS.md").read_text(), "python")
    (tmp_path / "mine.py").write_text(program)
    flags = ("--max-steps", "2", "--tool-timeout", "0.05")
    with Process("serve", "mine:app", "--port", "0", *flags, cwd=tmp_path) as server:
        server.ready()
        seen = asyncio.run(follow(kind, server))
    assert [event["data"] for event in seen if event["type"] == "STEP_START"] == [
        {"step": step, "max_steps": 2} for step in (1, 2)
    ]
    assert text(seen) == "Found in step 1. Step 2 took too long. "


async def follow(kind: str, server: Process) -> list[dict[str, Any]]:
    """Return all events of a run."""
    return await rest(await start(kind, server))


def test_the_defaults() -> None:
    """Without a server, the limits are what the settings are by default."""
    assert msgspec.convert(Settings(), AgentLimits, from_attributes=True) == AgentLimits() == RunRequest("hi").limits


def test_they_hold() -> None:
    """Nobody changes the limits that all runs share, or sets no step at all."""
    with pytest.raises(AttributeError):
        RunRequest("hi").limits.max_steps = 9  # type: ignore[misc]
    with pytest.raises(ValueError, match="`max_steps` must be at least 1"):
        AgentLimits(max_steps=0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_model_of_ones_own(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenAIChatModel that a user makes is as patient as `--model-timeout` says, which is a variable there."""
    monkeypatch.setenv("TWINWIRE_MODEL_TIMEOUT", "0.3")
    async with ModelServer() as models:
        models.script(headers, stall)
        models.script(*answer("a"))
        model = OpenAIChatModel("m", base_url=models.url, max_retries=0)
        async with serving({"bot": ReActAgent("bot", model)}) as server:
            ends = [(await rest(await start(kind, server)))[-1] for _ in range(2)]
    assert ends[0]["data"]["error_type"] == "upstream_timeout"
    assert ends[1]["data"]["result"] == "a"


def test_a_wrong_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is no time is refused by its name."""
    monkeypatch.setenv("TWINWIRE_MODEL_TIMEOUT", "soon")
    with pytest.raises(SettingsError) as refused:
        OpenAIChatModel("m", base_url="http://127.0.0.1:1/v1")
    assert refused.value.field == "TWINWIRE_MODEL_TIMEOUT"
