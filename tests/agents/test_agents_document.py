"""docs/AGENTS.md: each of its agents does what the document says, on a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.documents import ROOT, snippets
from support.followers import KINDS, rest, start, text
from support.processes import Process
from support.serving import serving

DOCUMENT = (ROOT / "docs/AGENTS.md").read_text()
PROGRAMS = snippets(DOCUMENT, "python")


def named(agent: str) -> Any:
    """Return the agent of this name that a program of the document makes."""
    (program,) = (each for each in PROGRAMS if f"def {agent}(" in each or f"\n{agent} = " in each)
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - it is the document's
    return names[agent]


RESULTS = {
    "parrot": ("You said: Rome", "You said: Rome"),
    "weather": ("It is 21 degrees in Rome.", "It is 21 degrees in Rome."),
    "length": ("", {"characters": 4}),
    "called_back": ("Told by a callback.", "Told by a callback."),
    "crawler": ("page 0\npage 1\npage 2\n", "Three pages."),
}


def test_each_program_is_run() -> None:
    """The tests below run all of them."""
    assert len(PROGRAMS) == len(RESULTS)


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
