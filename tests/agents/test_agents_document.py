"""docs/AGENTS.md: each of its agents does what the document says, on a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.cuts import RUN_ID, carried_out
from support.documents import ROOT, snippets
from support.followers import KINDS, rest, start, text
from support.model_server import ModelServer, Request, Script, answer, calls
from support.processes import Process
from support.serving import serving
from twinwire import OpenAIChatModel, ReActAgent


def paying(request: Request) -> Script:
    """Answer as a model that pays two bills at once."""
    if request.body["messages"][-1]["role"] == "tool":
        return answer("Both are ", "paid.")
    return calls(("Pay", {"euros": 7}), ("Pay", {"euros": 8}))


DOCUMENT = (ROOT / "docs/AGENTS.md").read_text()
PROGRAMS = snippets(DOCUMENT, "python")


def named(agent: str) -> Any:
    """Return the agent of this name that a program of the document makes."""
    (program,) = (each for each in PROGRAMS if f"def {agent}(" in each or f"\n{agent} = " in each)
    return made(program)[agent]


def made(program: str) -> dict[str, Any]:
    """Return what a program of the document makes."""
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - it is the document's
    return names


STORY = "Chapter 1 of Rome. Chapter 2 of Rome. Chapter 3 of Rome. "
RESULTS = {
    "parrot": ("You said: Rome", "You said: Rome"),
    "weather": ("It is 21 degrees in Rome.", "It is 21 degrees in Rome."),
    "length": ("", {"characters": 4}),
    "called_back": ("Told by a callback.", "Told by a callback."),
    "crawler": ("page 0\npage 1\npage 2\n", "Three pages."),
    "story": (STORY, STORY),
    "order": ("Your order is on its way.", "Your order is on its way."),
}


def test_each_program_is_run() -> None:
    """The tests below run all of them."""
    assert len(PROGRAMS) == len([*RESULTS, "cashier", "add_up"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("agent", RESULTS)
async def test_an_agent(kind: str, agent: str) -> None:
    """The agent tells what its program says, and ends with that result."""
    async with serving({agent: named(agent)}) as server:
        seen = await rest(await start(kind, server, "Rome"))
    assert (text(seen), seen[-1]["data"]["result"]) == RESULTS[agent]
    if agent == "weather":
        types = ["THINKING", "TOOL_CALL_START", "TOOL_CALL_FINISH", "PROGRESS", "MAP", "LLM_CHUNK"]
        assert [event["type"] for event in seen[1:-1]] == types


async def test_the_first_command(tmp_path: Path) -> None:
    """The first agent is served by the command that stands before it."""
    assert "Save this as `mine.py`, and run `twinwire serve mine`:" in DOCUMENT
    (tmp_path / "mine.py").write_text(PROGRAMS[0])
    with Process("serve", "mine", "--port", "0", cwd=tmp_path) as process:
        await asyncio.to_thread(process.ready)
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{process.url}/chat?message=Rome&stream=false")
        assert answer.json()["result"] == "You said: Rome"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_function_as_a_tool(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool adds up what the model asks it to, and tells how far it is."""
    async with ModelServer() as upstream:
        upstream.script(calls(("add_up", {"numbers": [1.4, 2], "rounding": "whole"}), ("add_up", {"numbers": []})))
        upstream.script(answer("It is 3."))
        model = OpenAIChatModel("m", base_url=upstream.url, api_key="none")
        async with serving({"clerk": ReActAgent("clerk", model, [named("add_up")])}) as server:
            seen = await rest(await start(kind, server, "How much is it?"))
    first, second = [event["data"] for event in seen if event["type"] == "TOOL_CALL_FINISH"]
    assert (first["status"], second["status"]) == ("ok", "error")
    assert first["result"] == "3"
    assert "numbers" in second["result"]
    told = [event["data"]["progress"] for event in seen if event["type"] == "PROGRESS"]
    assert told[:2] == [50, 100]  # the agent tells of its steps behind them
    assert seen[-1]["data"]["result"] == "It is 3."


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("cuts", [[cut] for cut in range(6)] + [[1, 1], [2, 1], [1, 2, 1]])
async def test_a_story_that_is_cut(lost: bool, cuts: list[int]) -> None:
    """Wherever its process ends, the story that counts is the same, and whoever goes on tells only what is missing."""
    agent = named("story")
    assert agent.resumable
    log = await carried_out(agent, *((cut, lost) for cut in cuts))
    told = [event.data["delta"] for event in log.counted if event.type == "LLM_CHUNK"]
    assert "".join(told) == log.counted[-1].data["result"] == STORY.replace("Rome", "go")
    assert sum(event.type == "LLM_CHUNK" for event in log.events) <= 3 + len(cuts)


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("cuts", [[cut] for cut in range(5)] + [[1, 0], [1, 1], [2, 1], [1, 1, 1]])
async def test_an_order_that_is_cut(lost: bool, cuts: list[int]) -> None:
    """Wherever its process ends, the order is paid once, and its events count once."""
    (program,) = (each for each in PROGRAMS if "def order(" in each)
    names = made(program)
    assert names["order"].resumable
    log = await carried_out(names["order"], *((cut, lost) for cut in cuts))
    assert names["PAID"] == {RUN_ID: 5}
    types = [event.type for event in log.counted if event.type != "AGENT_START"]
    assert types == ["TOOL_CALL_START", "TOOL_CALL_FINISH", "LLM_CHUNK", "AGENT_FINISH"]
    assert log.counted[-1].data["result"] == "Your order is on its way."


@pytest.mark.parametrize("cuts", [[cut] for cut in range(7)])
async def test_a_payment_that_is_cut(cuts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever its process ends, the tool pays once, by the key that each of its calls has."""
    (program,) = (each for each in PROGRAMS if "class Pay(" in each)
    async with ModelServer(paying) as upstream:
        monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        names = made(program)
        log = await carried_out(names["cashier"], *((cut, True) for cut in cuts))
        await names["cashier"].model.aclose()
    assert list(names["PAYMENTS"].values()) == [7, 8]
    assert log.counted[-1].data["result"] == "Both are paid."
