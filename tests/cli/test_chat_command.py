"""`twinwire chat` as a user runs it: a real process against a real `twinwire serve`; and what the terminal shows."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from support import processes
from support.processes import COMMAND, ENVIRONMENT, Process
from twinwire.cli.render import Terminal
from twinwire.protocol.events import StreamEvent

AGENTS = """
import asyncio
from twinwire import StreamEvent

async def parrot(request):
    if request.message == "fail":
        raise ValueError("secret")
    yield StreamEvent("LLM_CHUNK", {"content": request.message, "delta": request.message})
    if request.message == "wait":
        await asyncio.Event().wait()
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with the demo model, in a small project."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "README.md").write_text("# Teapot\n\nIt brews tea.\n")
    with Process("serve", "--port", "0", "--demo-rate", "0", cwd=folder) as server:
        server.ready()
        yield server.url


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with the agent above."""
    with processes.parrot(tmp_path_factory.mktemp("parrot"), AGENTS) as url:
        yield url


def command(*arguments: str) -> list[str]:
    return [str(COMMAND), "chat", *arguments]


def chat(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=ENVIRONMENT, input=typed, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("transport", ["sse", "ws", "auto"])
def test_shows_a_run(demo: str, transport: str) -> None:
    """Steps, tools and the answer appear as the guide shows them."""
    done = chat("Analyse the project structure", "--url", demo, "--transport", transport)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:2] == ["🚀 react start", "📍 step 1"]
    assert any(re.fullmatch(r"  🔧 (Read|Search)\.\.\. ✅", line) for line in lines)
    assert "Teapot" in done.stdout
    assert lines[-1] == "🎉 done"
    assert "\x1b" not in done.stdout


def test_json(demo: str) -> None:
    """With `--json` each line is one event, whole and in order."""
    done = chat("Analyse the project structure", "--url", demo, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["type"] == "AGENT_START"
    assert events[-1]["type"] == "AGENT_FINISH"
    assert events[-1]["metadata"]["events"] == len(events)
    assert {"type", "data", "timestamp", "metadata", "id"} == set(events[0])


def test_message_from_standard_input(parrot: str) -> None:
    """Without a message it is read from standard input."""
    done = chat("--url", parrot, typed="polly\n")
    assert (done.returncode, done.stdout) == (0, "🚀 parrot start\npolly\n🎉 done\n")


@pytest.mark.parametrize("transport", ["sse", "ws"])
def test_ctrl_c_cancels(parrot: str, transport: str) -> None:
    """Ctrl-C cancels the run, shows what came of it, and exits as a shell expects."""
    with subprocess.Popen(
        command("wait", "--url", parrot, "--json", "--transport", transport),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        events = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        events += [json.loads(line) for line in process.stdout]
        assert process.wait() == 130
        assert process.stderr.read() == ""
    assert [event["type"] for event in events] == ["AGENT_START", "LLM_CHUNK", "AGENT_FINISH"]
    assert events[-1]["data"]["status"] == "cancelled"
    assert events[-1]["data"]["result"] == "wait"


def test_reader_that_leaves(parrot: str) -> None:
    """Output into a pipe that was closed ends without a traceback."""
    with subprocess.Popen(
        command("wait", "--url", parrot), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait() == 1
        assert process.stderr.read() == ""


def test_other_encodings(parrot: str) -> None:
    """Output that cannot hold a character gets a question mark; input that is no UTF-8 is told."""
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command("é日", "--url", parrot), env=environment, capture_output=True, check=True)
    assert done.stdout.decode("latin-1") == "? parrot start\né?\n? done\n"
    bad = subprocess.run(command("\udcff"), env=ENVIRONMENT, capture_output=True, check=False)
    assert (bad.returncode, bad.stderr) == (2, b"twinwire: `MESSAGE` must be UTF-8.\n")


def on_terminal(*arguments: str) -> tuple[int, str]:
    """The exit code, and what a terminal shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command(*arguments), env=ENVIRONMENT, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 65_536):
                shown += data
        except OSError:
            pass  # how Linux tells that the other side of a terminal is closed
        os.close(ours)
    return process.returncode, shown.decode().replace("\r\n", "\n")


def test_on_a_terminal(demo: str) -> None:
    """On a terminal the thinking is shown, dim, and how far the run is, in a line that goes away again."""
    code, shown = on_terminal("Analyse the project structure", "--url", demo)
    assert code == 0
    assert "\x1b[2m" in shown
    assert re.search(r"  \x1b\[2m█+░+ \d+ %\x1b\[0m\r\x1b\[2K📍 step 2\n", shown)
    assert shown.endswith("🎉 done\n")
    assert on_terminal("--json", "--url", demo) == (
        2,
        "twinwire: `MESSAGE` is required, as an argument or on standard input.\n",
    )


def test_failed_run(parrot: str) -> None:
    """A run that fails is one line on standard error and exit code 1."""
    done = chat("fail", "--url", parrot)
    assert done.returncode == 1
    assert done.stdout == "🚀 parrot start\n"
    assert done.stderr == "twinwire: The run failed with agent_error. The agent failed. ValueError: secret\n"


def test_unknown_agent(demo: str) -> None:
    """An agent that the server does not have is one line and exit code 1."""
    done = chat("hi", "--url", demo, "--agent", "nobody")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "twinwire: The server has no agent of this name.\n")


def test_unreachable() -> None:
    """A server that is not there is one line that names it, and exit code 1."""
    done = chat("hi", "--url", "http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"twinwire: The client could not reach http://127\.0\.0\.1:1 and gave up after \d attempts?\. .*\n", done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((), "MESSAGE"), (("  ",), "MESSAGE"), (("hi", "--url", "nowhere"), "--url"), (("hi", "--transport", "x"), "sse")],
)
def test_usage(arguments: tuple[str, ...], named: str) -> None:
    """What makes no sense is one line that names it, and exit code 2."""
    done = chat(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(f"twinwire: .*{named}.*\n", done.stderr)


def test_a_url_without_a_scheme() -> None:
    """An address that lacks its scheme is one sentence, about the flag."""
    said = "`--url` must be an address that begins with http:// or https://, such as http://127.0.0.1:8000"
    done = chat("hi", "--url", "127.0.0.1:18100")
    assert (done.returncode, done.stderr) == (2, f"twinwire: {said}, not '127.0.0.1:18100'.\n")


def render(*events: tuple[str, dict[str, Any]], style: bool = False) -> str:
    terminal = Terminal(style=style)
    return "".join(terminal.render(StreamEvent(kind, data)) for kind, data in events) + terminal.close()


def tool(kind: str, call: str, name: str, **more: str) -> tuple[str, dict[str, Any]]:
    return f"TOOL_CALL_{kind}", {"tool_call_id": call, "tool_name": name, **more}


def test_parallel_tools() -> None:
    """Tools that finish in another order than they began each get a line that tells how it went."""
    text = render(
        tool("START", "1", "Read"),
        tool("START", "2", "Search"),
        tool("FINISH", "2", "Search", status="error"),
        tool("FINISH", "1", "Read", status="ok"),
    )
    assert text == "  🔧 Read...\n  🔧 Search... ❌\n  🔧 Read... ✅\n"


def test_answer_between_lines() -> None:
    """Text flows as it comes; what follows begins on a line of its own, and no line is left empty."""
    text = render(
        ("STEP_START", {"step": 1}),
        ("LLM_CHUNK", {"content": "one "}),
        ("LLM_CHUNK", {"content": "two\n"}),
        ("STEP_START", {"step": 2}),
        ("LLM_CHUNK", {"content": "three"}),
        ("MY_OWN", {}),
        ("AGENT_FINISH", {"status": "completed"}),
    )
    assert text == "📍 step 1\none two\n📍 step 2\nthree\n🎉 done\n"


def test_another_process_goes_on() -> None:
    """What is void stays on the screen, and a line is between it and what is said then; else nothing is to be told."""
    void: tuple[str, dict[str, Any]] = ("RUN_RESUMED", {"epoch": 1, "step": 1, "void_after": 1})
    finish = ("AGENT_FINISH", {"status": "completed", "result": "Hello"})
    line = "🔁 interrupted here; going on\n"
    assert render(("LLM_CHUNK", {"content": "Hel"}), void, finish) == f"Hel\n{line}Hello\n🎉 done\n"
    words, kept = ("LLM_CHUNK", {"content": "One. Tw"}), ("RUN_RESUMED", {**void[1], "text": "One. "})
    assert render(words, kept, finish) == f"One. Tw\n{line}🎉 done\n"
    all_counts = ("RUN_RESUMED", {"epoch": 1, "step": 1, "void_after": None})
    tools = [tool("START", "1", "Read"), all_counts, tool("FINISH", "1", "Read", status="ok")]
    assert render(*tools) == "  🔧 Read... ✅\n"


def test_thinking() -> None:
    """Thinking is dim on a terminal and left out elsewhere."""
    events = [("THINKING", {"content": "hm"}), ("LLM_CHUNK", {"content": "ah"})]
    assert render(*events) == "ah\n"
    assert render(*events, style=True) == "\x1b[2mhm\x1b[0m\nah\n"


def test_progress() -> None:
    """A bar is drawn on a terminal, over the one before, never into an answer; elsewhere there is none."""
    events: list[tuple[str, dict[str, Any]]] = [
        *(("PROGRESS", {"progress": percent}) for percent in (0, 50, 101, "x")),
        ("LLM_CHUNK", {"content": "ah"}),
        ("PROGRESS", {"progress": 75}),
        ("AGENT_FINISH", {"status": "completed"}),
    ]
    assert render(*events) == "ah\n🎉 done\n"
    bars = [f"\r\x1b[2K  \x1b[2m{'█' * full}{'░' * (20 - full)} {full * 5} %\x1b[0m" for full in (0, 10)]
    assert render(*events, style=True) == f"{''.join(bars)}\r\x1b[2Kah\n🎉 done\n"
    assert render(("PROGRESS", {"progress": 50}), style=True) == f"{bars[1]}\r\x1b[2K"


def test_other_ends() -> None:
    """A run that did not complete says so."""
    assert render(("AGENT_FINISH", {"status": "cancelled"})) == "🛑 cancelled\n"
    assert render(("AGENT_FINISH", {"status": "max_steps"})) == "🛑 stopped: too many steps\n"


@pytest.mark.parametrize(
    ("result", "shown"),
    [("Hello\x07", "Hello\ufffd\n"), ({"sum": 3}, '{"sum": 3}\n'), (0, "0\n"), (None, ""), ("", "")],
)
def test_an_answer_that_was_never_told(result: Any, shown: str) -> None:
    """An answer that is in the result alone is shown at the end, as JSON if it is no text; one that was told is not."""
    end: tuple[str, dict[str, Any]] = ("AGENT_FINISH", {"status": "completed", "result": result})
    step: tuple[str, dict[str, Any]] = ("STEP_START", {"step": 1})
    assert render(end) == f"{shown}🎉 done\n"
    assert render(("LLM_CHUNK", {"content": "ah"}), end) == "ah\n🎉 done\n"
    assert render(("LLM_CHUNK", {"content": "ah"}), step, end) == f"ah\n📍 step 1\n{shown}🎉 done\n"


def test_questions_and_messages() -> None:
    """A question, its answer and a message are lines of their own, with who said it unless it was said here."""
    call = {"kind": "approval", "prompt": "Delete it?", "tool_name": "Delete", "parameters": {"path": "é\u202e\x9b"}}
    said = {"message_id": "m"}
    text = render(
        tool("START", "1", "Delete"),
        ("INPUT_REQUESTED", call),
        ("INPUT_ANSWERED", {**said, "answer": {"decision": "approve"}, "by": "alice"}),
        ("INPUT_ANSWERED", {**said, "answer": {"decision": "approve", "parameters": {"path": "b"}}}),
        ("INPUT_ANSWERED", {**said, "answer": {"decision": "reject", "reason": "No."}}),
        ("INPUT_ANSWERED", {**said, "answer": {"decision": "reject"}}),
        ("INPUT_REQUESTED", {"kind": "question", "prompt": "Which\x1b[2J?"}),
        ("INPUT_ANSWERED", {**said, "answer": "main"}),
        ("INPUT_ANSWERED", {**said, "answer": {"cups": 2}}),
        ("INPUT_ANSWERED", {"expired": True}),
        ("LLM_CHUNK", {"content": "ah"}),
        ("USER_MESSAGE", {**said, "content": "No milk.", "by": "alice"}),
        ("USER_MESSAGE", {**said, "content": "No milk."}),
    )
    assert text.splitlines() == [
        "  🔧 Delete...",
        "✋ Delete it?",
        '   Delete {"path": "é\\u202e\\u009b"}',
        "👍 approved by alice",
        '👍 approved elsewhere, with {"path": "b"}',
        "👎 rejected elsewhere: No.",
        "👎 rejected elsewhere",
        "❓ Which\ufffd[2J?",
        "👉 answered elsewhere: main",
        '👉 answered elsewhere: {"cups": 2}',
        "⌛ not answered in time",
        "ah",
        "💬 alice: No milk.",
        "💬 elsewhere: No milk.",
    ]
    terminal = Terminal(style=False)
    terminal.said.add("m")
    assert terminal.render(StreamEvent("USER_MESSAGE", {**said, "content": "No milk."})) == "💬 No milk.\n"
    approved = {**said, "answer": {"decision": "approve"}, "by": "alice"}
    assert terminal.render(StreamEvent("INPUT_ANSWERED", approved)) == "👍 approved\n"


def test_error_ends_the_line() -> None:
    """An ERROR ends the unfinished line; its text is for standard error."""
    assert render(("LLM_CHUNK", {"content": "half"}), ("ERROR", {"message": "no"})) == "half\n"


def test_no_control_sequences() -> None:
    """What a model says cannot steer the terminal."""
    text = render(
        ("LLM_CHUNK", {"content": "a\x1b]0;title\x07b\tc\r\nd\x9b"}), tool("START", "1", "\x1b[2J"), style=True
    )
    assert text == "a\ufffd]0;title\ufffdb\tc\nd\ufffd\n  🔧 \ufffd[2J...\n"
