"""Every snippet of the Python client's README does what it says."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator

from support.credentials import AUTH
from support.documents import ROOT, run, snippets
from support.serving import echo, serving
from twinwire import RunRequest, StreamEvent

SNIPPETS = snippets((ROOT / "clients/python/README.md").read_text(), "python")


def test_all_are_run() -> None:
    """The tests below run each of them."""
    assert len(SNIPPETS) == 9


async def test_async() -> None:
    """The first shows the tools that are called, the answer as it comes, and then how it ended and all of it."""
    async with serving() as server:
        code, out, err = await run(sys.executable, "-W", "error", "-c", SNIPPETS[0], server=server)
    assert (code, err) == (0, "")
    assert "\n[Read {'path': 'README.md'}]\n" in out
    streamed, ended = out.rsplit("\n completed ", 1)
    assert ended
    assert streamed.endswith(ended.removesuffix("\n"))


async def test_sync() -> None:
    """The second leaves its run, finds what has happened so far, and has the answer in the end."""
    async with serving(demo_rate=200.0) as server:
        code, out, err = await run(sys.executable, "-W", "error", "-c", SNIPPETS[1], server=server)
        assert (code, err) == (0, "")
        assert server.runs.started == 1
    assert out.startswith("so far: ")
    assert out.splitlines()[-1] == "completed already_finished"


async def test_why() -> None:
    """The third prints the answer, or which of three things has happened: a failed run, a refusal, nobody there."""
    command = (sys.executable, "-W", "error", "-c", SNIPPETS[2])

    async def fails(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        yield StreamEvent("ERROR", {"error_type": "budget", "message": "No money is left."})

    async with serving({"echo": echo}) as server:
        assert await run(*command, server=server) == (0, "Analyse the project structure \n", "")
    assert (await run(*command, server=server))[1].startswith("The client could not reach http://")
    async with serving({"fails": fails}) as server:
        assert await run(*command, server=server) == (0, "The run failed with budget. No money is left.\n", "")
    async with serving(**AUTH) as server:
        code, out, problems = await run(*command, server=server)
    assert (code, problems) == (0, "")
    assert out.startswith("The server refused it with unauthenticated. ")


async def test_conversation() -> None:
    """The fourth shows the tools and the answer of each of two runs, in one session."""
    async with serving() as server:
        code, out, problems = await run(sys.executable, "-W", "error", "-c", SNIPPETS[3], server=server)
        assert (code, problems) == (0, "")
        assert server.runs.started == 2
    assert "['Read']\n" in out
    assert out.count("completed ") == 2


async def test_answer() -> None:
    """The fifth approves a call, answers a question, and says something meanwhile."""
    async with serving() as server:
        code, out, problems = await run(sys.executable, "-W", "error", "-c", SNIPPETS[4], server=server)
    assert (code, problems) == (0, "")
    lines = out.splitlines()
    assert sorted(line.partition(" ")[0] for line in lines) == ["accepted", "approval", "completed", "question"]
    assert lines[-1] == "completed"


async def test_sync_answer() -> None:
    """The sixth asks at the terminal, and refuses the call if nobody says yes."""
    program = f"import builtins\nbuiltins.input = lambda prompt: print(prompt) or 'n'\n{SNIPPETS[5]}"
    async with serving() as server:
        code, out, problems = await run(sys.executable, "-W", "error", "-c", program, server=server)
    assert (code, problems) == (0, "")
    assert out.startswith("Send {'to': 'everyone@example.com', ")
    assert "The user refused this call: The user said no." in out


async def test_read() -> None:
    """The seventh waits for each event with a bound, and has the answer in the end."""
    async with serving({"echo": echo}) as server:
        done = await run(sys.executable, "-W", "error", "-c", SNIPPETS[6], server=server)
    assert done == (0, "Analyse the project structure \n", "")


async def test_token() -> None:
    """The eighth is refused where its token is not known, and prints the answer where nobody asks for one."""
    async with serving(**AUTH) as server:
        done = await run(sys.executable, "-W", "error", "-c", SNIPPETS[7], server=server)
    assert done == (0, "unauthenticated\n", "")
    async with serving({"echo": echo}) as server:
        done = await run(sys.executable, "-W", "error", "-c", SNIPPETS[7], server=server)
    assert done == (0, "Analyse the project structure \n", "")


async def test_list() -> None:
    """The ninth lists the run that it has made."""
    async with serving({"echo": echo}) as server:
        done = await run(sys.executable, "-W", "error", "-c", SNIPPETS[8], server=server)
    assert done == (0, "['completed']\n", "")
