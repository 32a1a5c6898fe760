"""The demo model plays a model honestly, in the real loop with the real tools on a small project."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from support.talks import PlayedTalk, yes
from twinwire.agents import RunRequest
from twinwire.agents.default import default_agents
from twinwire.agents.react import ReActAgent
from twinwire.agents.simple import SimpleAgent
from twinwire.agents.talk import Call, Decision
from twinwire.models import Finish, Message, Text, Thinking, ToolCall, Usage
from twinwire.models.demo import TALK, WHO, DemoModel
from twinwire.protocol.events import StreamEvent
from twinwire.protocol.schema import check_schema
from twinwire.settings import Settings
from twinwire.tools import ReadTool, SearchTool, ToolRegistry


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "README.md").write_text("[badge](x)\n\n# The Weaver\n\nIt weaves\nevents. It does more.\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "weaver"\ndescription = "Weaves."\n\n[x]\nname = "y"\n')
    (tmp_path / "src/a.py").write_text("import asyncio\n# asyncio again\n")
    (tmp_path / "src/b.py").write_text("import asyncio\n")
    (tmp_path / "src/page.html").write_text("<p>hi</p>\n")
    return tmp_path


def agent_on(folder: Path) -> ReActAgent:
    registry = ToolRegistry()
    registry.register_tool(ReadTool(project_root=str(folder)))
    registry.register_tool(SearchTool(project_root=str(folder)))
    return ReActAgent("demo", DemoModel(rate=0), registry)


async def ask(agent: ReActAgent, message: str, history: list[Message] | None = None) -> list[StreamEvent]:
    return [event async for event in agent.arun_stream(message, history or [])]


def calls(events: list[StreamEvent]) -> list[tuple[int, str, dict[str, object]]]:
    started = [event for event in events if event.type == "TOOL_CALL_START"]
    return [(event.metadata["step"], event.data["tool_name"], event.data["parameters"]) for event in started]


async def test_analyses_a_project(project: Path) -> None:
    """Three steps: README and list at once, then what the list showed, then an answer with what is really there."""
    events = await ask(agent_on(project), "Analyse the project structure")
    assert calls(events) == [
        (1, "Read", {"path": "README.md"}),
        (1, "Search", {"glob": "*"}),
        (2, "Read", {"path": "pyproject.toml"}),
    ]
    assert {event.data["status"] for event in events if event.type == "TOOL_CALL_FINISH"} == {"ok"}
    assert {event.metadata["step"] for event in events if event.type == "THINKING"} == {1, 2, 3}
    finish = events[-1].data
    assert finish["status"] == "completed"
    for fact in (
        "**The Weaver**. It weaves events.",
        "weaver - Weaves.",
        "5 files: Python (2), Markdown (1), TOML (1), HTML (1)",
        "`src` (3)",
        WHO,
    ):
        assert fact in finish["result"]
    assert "It does more" not in finish["result"]
    assert "".join(event.data["delta"] for event in events if event.type == "LLM_CHUNK") == finish["result"]
    usage = finish["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert usage["completion_tokens"] > 50


async def test_finds_a_word(project: Path) -> None:
    """Asked to find a word, it searches for it and tells in which files it is, and how often."""
    for question in ('find "asyncio"', "Search for asyncio", "which files mention asyncio?"):
        events = await ask(agent_on(project), question)
        assert calls(events) == [(1, "Search", {"pattern": "asyncio"})]
        assert "`asyncio` is found in 3 lines in 2 files: `src/a.py` (2), `src/b.py` (1)" in events[-1].data["result"]


async def test_finds_nothing(project: Path) -> None:
    """A word that is nowhere is told so."""
    events = await ask(agent_on(project), 'find "nowhere to be seen"')
    assert "`nowhere to be seen` is found in no line" in events[-1].data["result"]


async def test_analyses_an_empty_folder(tmp_path: Path) -> None:
    """In an empty folder the tool's error and the absence of files are told as they are."""
    events = await ask(agent_on(tmp_path), "Analyse the project")
    assert "`README.md` failed" in events[-1].data["result"]
    assert "no files" in events[-1].data["result"]
    assert {step for step, _, _ in calls(events)} == {1}


async def test_reads_another_readme(tmp_path: Path) -> None:
    """Without a README.md and a manifest, it reads the README that there is."""
    (tmp_path / "readme.rst").write_text("Weaver\n======\n")
    (tmp_path / "a.txt").write_text("a\n")
    events = await ask(agent_on(tmp_path), "Analyse the project")
    assert calls(events)[2:] == [(2, "Read", {"path": "readme.rst"})]
    assert "`readme.rst`: Weaver" in events[-1].data["result"]


async def test_long_list(project: Path) -> None:
    """Where the list of files was cut before a manifest, it is searched for by name, and the cut is told."""
    (project / "many").mkdir()
    for number in range(150):
        (project / f"many/{number}.txt").touch()
    events = await ask(agent_on(project), "Analyse the project")
    assert [(step, tool) for step, tool, _ in calls(events)] == [(1, "Read"), (1, "Search"), (2, "Search"), (3, "Read")]
    assert "100 files (and more: the list was cut)" in events[-1].data["result"]
    assert "weaver - Weaves." in events[-1].data["result"]


async def test_empty_file(tmp_path: Path) -> None:
    """A file without text is told to be empty."""
    (tmp_path / "README.md").touch()
    events = await ask(agent_on(tmp_path), "Analyse the project")
    assert "`README.md`: the file is empty" in events[-1].data["result"]


async def test_unreadable_readme(tmp_path: Path) -> None:
    """A file that cannot be read is tried once, and its error is told."""
    (tmp_path / "README.md").write_bytes(b"\0")
    events = await ask(agent_on(tmp_path), "Analyse the project")
    assert calls(events) == [(1, "Read", {"path": "README.md"}), (1, "Search", {"glob": "*"})]
    assert "binary" in events[-1].data["result"]


async def test_package_json(tmp_path: Path) -> None:
    """Of a package.json it tells name and description."""
    (tmp_path / "package.json").write_text(json.dumps({"name": "loom", "description": "A loom."}, indent=2))
    events = await ask(agent_on(tmp_path), "What is this project?")
    assert "`package.json`: loom - A loom." in events[-1].data["result"]


async def test_small_talk(project: Path) -> None:
    """A greeting is answered in one step without tools, with what can be asked and what this model is."""
    events = await ask(agent_on(project), "Hello there")
    assert calls(events) == []
    assert "find" in events[-1].data["result"]
    assert WHO in events[-1].data["result"]


def talking(folder: Path) -> ReActAgent:
    """The agent with all that the demo has, as a server without a key makes it."""
    agent = default_agents(Settings(project_root=str(folder)), DemoModel(rate=0))["react"]
    assert isinstance(agent, ReActAgent)
    return agent


async def told(agent: ReActAgent, message: str, talk: PlayedTalk) -> tuple[str, str]:
    """Return the types of the events of tools, and the answer, with this user."""
    events = [event async for event in agent(RunRequest(message, talk=talk))]
    return " ".join(event.type for event in events if "TOOL" in event.type), events[-1].data["result"]


async def test_asks_for_approval(project: Path) -> None:
    """Told to approve, it calls a tool that needs the user's approval and does nothing, and tells what came of it."""

    async def edit(_: Call) -> Decision:
        return Decision(True, {"to": "me@example.com", "text": "Hi"})

    async def no(call: Call) -> Decision:
        return Decision(False, call.parameters, "not now")

    for reply, fact in (
        (yes, '"Hello from the demo." would have gone to everyone@example.com. This is a demo: nothing was sent.'),
        (edit, 'The user changed the parameters of this call to {"to":"me@example.com","text":"Hi"}. "Hi" would have'),
        (no, "Send failed: The user refused this call: not now."),
    ):
        talk = PlayedTalk(reply)
        types, answer = await told(talking(project), "Let me approve something", talk)
        assert (types, [call.name for call in talk.asked]) == ("TOOL_CALL_START TOOL_CALL_FINISH", ["Send"])
        assert fact in answer
        assert WHO in answer


async def test_asks_a_question(project: Path) -> None:
    """Told to ask, it asks a question that a form can be made of, and tells the answer; it also does both at once."""

    async def reply(asked: object) -> object:
        if isinstance(asked, Call):
            return await yes(asked)
        return {"kind": "black", "cups": 2}

    for message in ("ask", "Ask me something."):
        talk = PlayedTalk(reply)
        types, answer = await told(talking(project), message, talk)
        ((prompt, schema),) = talk.asked
        check_schema(schema)
        assert (types, prompt) == ("", "How do you like your tea?")
        assert 'You answered: `{"kind":"black","cups":2}`.' in answer
    talk = PlayedTalk(reply)
    await told(talking(project), "Ask me to approve", talk)
    assert len(talk.asked) == 2


async def test_asks_nobody(project: Path) -> None:
    """If nobody can be asked, or it has no such tools, it says so; a word that is looked for is no such request."""
    agent = talking(project)
    assert "Send failed: This call requires the user's approval" in await agent.arun("approve")
    assert "Ask failed: The run would have to ask its user" in await agent.arun("ask")
    assert calls(await ask(agent, 'find "ask me"')) == [(1, "Search", {"pattern": "ask me"})]
    assert TALK in await agent.arun("Hello")
    assert TALK not in await agent_on(project).arun("ask")


async def test_conversation(project: Path) -> None:
    """With a history, only the last message is acted on, and the one before is remembered."""
    history = [{"role": "user", "content": "Analyse the project"}, {"role": "assistant", "content": "It is a weaver."}]
    events = await ask(agent_on(project), "Thanks", history)
    assert calls(events) == []
    assert "`Analyse the project`" in events[-1].data["result"]
    events = await ask(agent_on(project), "find asyncio", history)
    assert "2 files" in events[-1].data["result"]


async def test_without_tools() -> None:
    """Without tools it says that it can look at nothing."""
    answer = await SimpleAgent("demo", DemoModel(rate=0)).arun("Analyse the project")
    assert "no tools" in answer
    assert WHO in answer


async def test_is_deterministic(project: Path) -> None:
    """The same question gets the same answer; no two calls of a run have the same id."""
    first, second = [await ask(agent_on(project), "Analyse the project") for _ in range(2)]
    assert first[-1].data["result"] == second[-1].data["result"]
    ids = [event.data["tool_call_id"] for event in first if event.type == "TOOL_CALL_START"]
    assert len(set(ids)) == len(ids) == 3


async def test_parts_of_one_call() -> None:
    """One call gives words of thinking, then of the answer, then a Finish with the words counted."""
    batches = [batch async for batch in DemoModel(rate=0).stream([{"role": "user", "content": "Hi you"}])]
    parts = [part for batch in batches for part in batch]
    words = [part for part in parts if isinstance(part, Text | Thinking)]
    assert parts[:-1] == words
    assert not any(isinstance(part, ToolCall) for part in parts)
    assert parts[-1] == Finish("stop", Usage(2, len(words), 2 + len(words)))
    assert all(len(part.text.split()) == 1 for part in words)


async def test_rate() -> None:
    """Words come at the given rate, one by one; at rate 0 the loop still turns between them."""
    started = time.monotonic()
    count = sum([1 async for _ in DemoModel(rate=1000).stream([])])
    assert time.monotonic() - started > count / 1000 / 2
    turned = asyncio.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    async for _ in DemoModel(rate=0).stream([]):
        pass
    assert turned.is_set()
    with pytest.raises(ValueError, match="rate"):
        DemoModel(rate=-1)
