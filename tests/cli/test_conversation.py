"""`twinwire chat` as a conversation, and `twinwire runs`: the real program at a terminal, against a real server."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from support.processes import COMMAND, ENVIRONMENT, Process, parrot, stopped
from support.typing_at import Typist, at_terminal

AGENTS = """
import asyncio
from twinwire import StreamEvent

async def parrot(request):
    if request.message == "fail":
        raise ValueError("secret")
    text = f"{request.message}, {len(request.history)} before"
    yield StreamEvent("LLM_CHUNK", {"content": text, "delta": text})
    if request.message == "wait":
        await asyncio.Event().wait()
"""
both = pytest.mark.parametrize("transport", ["sse", "ws"])
Talk = Callable[..., AbstractContextManager[Typist]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server whose agent says what it was asked and how many messages were before."""
    with parrot(tmp_path_factory.mktemp("parrot"), AGENTS) as url:
        yield url


@pytest.fixture
def talk(server: str, tmp_path: Path) -> Talk:
    """`twinwire chat` with these arguments, and a state directory of the test's own."""

    def begin(*arguments: str) -> AbstractContextManager[Typist]:
        return at_terminal("chat", "--url", server, *arguments, environ=environ)

    environ = {"XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}  # readline then shows text, and nothing else
    return begin


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False
    )


@both
def test_a_conversation(talk: Talk, transport: str) -> None:
    """What was said before is known, until another conversation begins; a run that fails is one line."""
    with talk("--transport", transport) as typist:
        for said, known in (("hello", 0), ("again", 2), ("/new", None), ("hello", 0), ("fail", None), ("again", 2)):
            typist.sees("> ")
            typist.type(said)
            if known is not None:
                assert "🚀 parrot start\n" in typist.sees(f"{said}, {known} before\n🎉 done\n")
            elif said == "fail":
                told = "The run failed with agent_error. The agent failed. "
                typist.sees(f"🚀 parrot start\ntwinwire: {told}")
        typist.sees("> ")
        typist.press(b"\x04")
        assert typist.end() == (0, "\n")


def test_commands(talk: Talk) -> None:
    """Each command does what the help says; what is none is told and asks the server nothing."""
    with talk() as typist:
        typist.sees("> ")
        typist.type("/help")
        shown = typist.sees("> ")
        assert re.findall(r"^/\w+", shown.removeprefix("/help\n"), re.MULTILINE) == [
            "/stop", "/new", "/transport", "/help", "/quit",
        ]  # fmt: skip
        for typed in ("/transport smoke", "/transport"):
            typist.type(typed)
            assert typist.sees("> ") == f"{typed}\nThe transport must be auto, sse or ws.\n> "
        for typed in ("/what", "/new now"):
            typist.type(typed)
            assert typist.sees("> ") == f"{typed}\nThere is no such command. /help lists the commands.\n> "
        typist.type("/stop")
        assert typist.sees("> ") == "/stop\nNo run goes on.\n> "
        for transport in ("ws", "sse", "auto"):
            typist.type(f"/transport {transport}")
            typist.sees("> ")
            typist.type("hi")
            typist.sees("🎉 done\n> ")
        typist.type("")
        typist.sees("> ")
        typist.type("/quit")
        assert typist.end() == (0, "/quit\n")


@both
@pytest.mark.parametrize("by", ["/stop", "Ctrl-C"])
def test_stopping_a_run(talk: Talk, transport: str, by: str) -> None:
    """A run is cancelled while it goes on, and the conversation with it goes on; at the prompt Ctrl-C leaves."""
    with talk("--transport", transport) as typist:
        typist.sees("> ")
        typist.type("wait")
        typist.sees("wait, 0 before")
        if by == "/stop":
            typist.type("/stop")
        else:
            typist.process.send_signal(signal.SIGINT)
        typist.sees("🛑 cancelled\n> ")
        typist.type("more")
        typist.sees("more, 2 before\n🎉 done\n> ")
        typist.process.send_signal(signal.SIGINT)
        assert typist.end() == (130, "\n")


@pytest.mark.full
def test_a_second_ctrl_c_leaves(tmp_path: Path) -> None:
    """Where the server does not answer any more, the second Ctrl-C ends the program at once."""
    (tmp_path / "agents.py").write_text(AGENTS)
    with Process("serve", "agents:parrot", "--port", "0", cwd=tmp_path) as running:
        running.ready()
        environ = {"XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
        with at_terminal("chat", "--url", running.url, environ=environ) as typist:
            typist.sees("> ")
            typist.type("wait")
            typist.sees("wait, 0 before")
            with stopped(running.popen.pid):
                typist.process.send_signal(signal.SIGINT)
                typist.sees("twinwire: the server did not confirm that the run is cancelled\n")
                typist.process.send_signal(signal.SIGINT)
                assert typist.end() == (130, "\n")


@pytest.mark.full
def test_lines_of_before(talk: Talk, tmp_path: Path) -> None:
    """The arrow keys bring back what was typed, in this conversation and in those before; a line can be edited."""
    up, home = b"\x1b[A", b"\x01"
    with talk() as typist:
        typist.sees("> ")
        typist.type("hello")
        typist.sees("hello, 0 before\n🎉 done\n> ")
        typist.press(up)
        typist.sees("hello")
        typist.press(home + b"oh ")
        typist.type("")
        typist.sees("oh hello, 2 before\n🎉 done\n> ")
        typist.type("/quit")
        assert typist.end()[0] == 0
    assert (tmp_path / "twinwire/history").stat().st_mode & 0o777 == 0o600
    with talk() as typist:
        typist.sees("> ")
        typist.press(3 * up)
        typist.type("")
        typist.sees("hello, 0 before\n🎉 done\n> ")


def test_typing_ahead(talk: Talk) -> None:
    """Lines that are typed while a run goes on are asked when it has ended, and Ctrl-D leaves after them."""
    with talk() as typist:
        typist.sees("> ")
        typist.type("wait")
        typist.sees("wait, 0 before")
        typist.type("first")
        typist.type("second")
        typist.type("/stop")
        typist.sees("first, 2 before")
        typist.sees("second, 4 before\n🎉 done\n> ")
        typist.type("wait")
        typist.sees("wait, 6 before")
        typist.type("third")
        typist.press(b"\x04")
        typist.process.send_signal(signal.SIGINT)
        typist.sees("third, 8 before\n🎉 done\n")
        assert typist.end() == (0, "\n")


@both
def test_resume_after_the_program_died(talk: Talk, transport: str, tmp_path: Path) -> None:
    """The run went on meanwhile: it is shown from its start, and the conversation goes on where it was."""
    with talk("--transport", transport) as typist:
        typist.sees("> ")
        typist.type("wait")
        typist.sees("wait, 0 before")
    kept = tmp_path / "twinwire/last.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    with talk("--resume", "--transport", transport) as typist:
        typist.sees("🚀 parrot start\nwait, 0 before")
        typist.type("/stop")
        typist.sees("🛑 cancelled\n> ")
        typist.type("more")
        typist.sees("more, 2 before\n🎉 done\n> ")


def test_nothing_to_resume(server: str, tmp_path: Path) -> None:
    """Without a conversation before, or with a file that is none, `--resume` is one line and exit code 2."""
    for content in (None, "{}", "}{"):
        if content is not None:
            (tmp_path / "twinwire").mkdir(exist_ok=True)
            (tmp_path / "twinwire/last.json").write_text(content)
        with at_terminal("chat", "--resume", environ={"XDG_STATE_HOME": str(tmp_path)}) as typist:
            assert typist.end() == (2, "twinwire: `--resume` requires an earlier conversation, but there is none.\n")


@pytest.mark.full
def test_runs(server: str) -> None:
    """`twinwire runs` lists a user's runs, the newest first, as lines for people or of JSON."""
    who = ("--url", server, "--user", "lister")
    for message in ("one", "two"):
        assert command("chat", message, *who).returncode == 0
    done = command("runs", *who)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert all(re.fullmatch(r"[a-z2-7]{26}  completed  \d{4}-\S+Z  parrot", line) for line in lines)
    told = [json.loads(line) for line in command("runs", "list", *who, "--json").stdout.splitlines()]
    assert [run["run_id"] for run in told] == [line[:26] for line in lines]
    assert told[0]["created"] > told[1]["created"]
    for flags in (("--limit", "1", *who), ("--limit", "1", "list", *who), (*who, "list", "--limit", "1")):
        assert command("runs", *flags).stdout.splitlines() == lines[:1]
    for order in (("follow", *who, lines[0][:26], "--json"), (*who, "--json", "follow", lines[0][:26])):
        assert json.loads(command("runs", *order).stdout.splitlines()[-1])["data"]["result"] == "two, 2 before"
    assert command("runs", "--url", server, "--user", "nobody").stdout == ""


@pytest.mark.full
def test_choose_and_delete(server: str) -> None:
    """The list can be of an agent, a status and labels, and goes on over pages; a run is deleted by its id."""
    who = ("--url", server, "--user", "chooser")
    for message in ("one", "two", "three"):
        assert command("chat", message, *who).returncode == 0
    lines = command("runs", *who).stdout.splitlines()
    for flags, count in (
        (("--agent", "parrot"), 3),
        (("--agent", "nobody"), 0),
        (("--status", "completed", "--limit", "2"), 2),
        (("--status", "running"), 0),
        (("--label", "team:red"), 0),
    ):
        assert command("runs", "list", *who, *flags).stdout.splitlines() == lines[:count]
    deleted = command("runs", "delete", lines[1][:26], *who)
    assert (deleted.returncode, deleted.stdout) == (0, "deleted\n")
    assert command("runs", *who).stdout.splitlines() == [lines[0], lines[2]]
    again = command("runs", "delete", lines[1][:26], *who)
    assert (again.returncode, again.stderr) == (1, "twinwire: The run does not exist.\n")


@both
@pytest.mark.full
def test_follow_and_cancel(server: str, transport: str) -> None:
    """A run is followed from elsewhere; Ctrl-C leaves it going on, `cancel` ends it for all who follow."""
    who = ("--url", server, "--user", f"by-{transport}")
    with at_terminal("chat", "wait", *who) as asking:
        asking.sees("wait, 0 before")
        run_id = command("runs", *who).stdout[:26]
        with at_terminal("runs", "follow", run_id, "--transport", transport, *who) as following:
            following.sees("wait, 0 before")
            following.process.send_signal(signal.SIGINT)
            assert following.end() == (130, "\n")
        assert " running " in command("runs", *who).stdout
        assert command("runs", "cancel", run_id, *who).stdout == "accepted\n"
        asking.sees("🛑 cancelled\n")
    assert command("runs", "cancel", run_id, *who).stdout == "already_finished\n"
    done = command("runs", "follow", run_id, "--transport", transport, "--json", *who)
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()][-1] == "AGENT_FINISH"


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ((), 1, "`--user` is required when authentication is off."),
        (("--user", "u", "--limit", "101"), 1, "`--limit` .*100.*"),
        (("--user", "u", "--limit", "0"), 2, "`--limit` must be a whole number above 0, not 0."),
        (("--user", ""), 2, "`--user` must be a text .* that is not empty, not ''."),
        (("follow",), 2, r"The following arguments are required: RUN\."),
        (("list", "a" * 26), 2, r"Unrecognized arguments: a+\."),
        (("smoke",), 2, r"Argument ACTION: invalid choice: 'smoke' .*\."),
        (("follow", "a" * 26), 1, "The run does not exist."),
        (("cancel", "../x"), 1, "The run does not exist."),
        (("delete",), 2, r"The following arguments are required: RUN\."),
        (("--user", "u", "--label", "red"), 2, "`--label` must be NAME:VALUE, such as team:red, .*"),
        (("--user", "u", "--label", "a:b", "--label", "a:c"), 2, "`--label` must be .* with each name once."),
        (("--user", "u", "--status", "done"), 1, "`(--)?status` must be one of running, .*"),
    ],
)
def test_runs_usage(server: str, arguments: tuple[str, ...], code: int, complaint: str) -> None:
    """What makes no sense, or is not there, is one line that says so."""
    done = command("runs", *arguments, "--url", server)
    assert (done.returncode, done.stdout) == (code, "")
    assert re.fullmatch(f"twinwire: {complaint}\n", done.stderr), done.stderr
