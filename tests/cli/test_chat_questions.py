"""A terminal at which a run asks, and is talked to: the real program in a pty, against a real server."""

from __future__ import annotations

import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from support.processes import COMMAND, ENVIRONMENT, parrot
from support.typing_at import Typist, at_terminal

AGENTS = """
import asyncio
import json
from twinwire import StreamEvent
from twinwire.agents.talk import Call

BRANCH = {"type": "string", "enum": ["main", "dev"]}
TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
PERSON = {"type": "object", "properties": {"name": TEXT, "age": NUMBER}, "required": ["name"]}

async def parrot(request):
    def say(text):
        request.emit(StreamEvent("LLM_CHUNK", {"content": text, "delta": text}))

    async def delete(path):
        call = {"tool_call_id": path, "tool_name": "Delete"}
        request.emit(StreamEvent("TOOL_CALL_START", {**call, "parameters": {"path": path}}))
        decision = await request.approve(Call(path, "Delete", {"path": path}), prompt="Delete it?")
        status = "ok" if decision.approved else "error"
        request.emit(StreamEvent("TOOL_CALL_FINISH", {**call, "result": None, "status": status, "duration": 0.0}))
        say(f"{json.dumps(decision.parameters)} {decision.reason}")

    match request.message:
        case "delete":
            await delete("a\\u202e")
        case "twice":
            await delete("a")
            await delete("b")
        case "both":
            answers = await asyncio.gather(request.ask("First?"), request.ask("Second?"))
            say(" and ".join(answers))
        case "branch":
            say(await request.ask("Which branch?", schema=BRANCH))
        case "name":
            say(json.dumps(await request.ask("Who are you?", schema=PERSON)))
        case "listen":
            say("listening")
            async for message in request.messages:
                if message.content == "end":
                    return
                say(f"heard {message.content}")
        case message:
            say(f"{message}, {len(request.history)} before")
"""
ASKED = '✋ Delete it?\n   Delete {"path": "a\\u202e"}\nApprove? [y]es, [n]o, [e]dit: '
both = pytest.mark.parametrize("transport", ["sse", "ws"])
At = Callable[..., AbstractContextManager[Typist]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with the agent above."""
    with parrot(tmp_path_factory.mktemp("parrot"), AGENTS) as url:
        yield url


@pytest.fixture
def at(server: str, tmp_path: Path) -> At:
    """`twinwire` with these arguments at a terminal, and a state directory of the test's own."""

    def begin(command: str, *arguments: str) -> AbstractContextManager[Typist]:
        return at_terminal(command, *arguments, "--url", server, environ=environ)

    environ = {"XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    return begin


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False
    )


def waiting(server: str, who: str) -> str:
    """The newest run of a user, which waits for an answer."""
    [line] = command("runs", "--url", server, "--user", who, "--limit", "1").stdout.splitlines()
    run_id, status, *_ = line.split()
    assert status == "waiting"
    return run_id


@both
@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (["y"], '👍 approved\n  🔧 Delete... ✅\n{"path": "a\\u202e"} None\n'),
        (["n", "Not now."], '👎 rejected: Not now.\n  🔧 Delete... ❌\n{"path": "a\\u202e"} Not now.\n'),
        (["x", "e", "{", '{"path": "b"}'], '👍 approved, with {"path": "b"}\n  🔧 Delete... ✅\n{"path": "b"} None\n'),
    ],
)
def test_an_approval(at: At, transport: str, lines: list[str], shown: str) -> None:
    """A call is shown with its parameters, in which nothing hides, and approved, rejected or edited."""
    with at("chat", "delete", "--transport", transport) as typist:
        assert typist.sees(ASKED).endswith(f"  🔧 Delete...\n{ASKED}")
        for line in lines:
            typist.type(line)
            typist.sees("🎉 done\n" if line == lines[-1] else ": " if line != "n" else "(Return for no reason) ")
        assert typist.end() == (0, "")
    with at("chat", "--transport", transport) as typist:
        typist.sees("> ")
        typist.type("delete")
        typist.sees(ASKED)
        for line in lines:
            typist.type(line)
            if line == lines[-1]:
                assert typist.sees("🎉 done\n").endswith(f"{shown}🎉 done\n")
            else:
                typist.sees("(Return for no reason) " if line == "n" else ": ")
        typist.sees("> ")


@both
def test_a_question(at: At, transport: str) -> None:
    """A question is asked as its schema says, one value after another, until each fits."""
    with at("chat", "--transport", transport) as typist:
        typist.sees("> ")
        typist.type("branch")
        typist.sees("❓ Which branch?\n  1  main\n  2  dev\nAnswer (1 to 2): ")
        typist.type("trunk")
        typist.sees("`answer` must be one of main, dev.\n  1  main\n  2  dev\nAnswer (1 to 2): ")
        typist.type("2")
        typist.sees("👉 answered: dev\ndev\n🎉 done\n> ")
        typist.type("name")
        typist.sees("❓ Who are you?\nname: ")
        typist.type("Bo")
        typist.sees("age (Return for none): ")
        typist.type("")
        typist.sees('👉 answered: {"name": "Bo"}\n{"name": "Bo"}\n🎉 done\n> ')


@both
def test_two_questions_at_once(at: At, transport: str) -> None:
    """One is asked after the other, each below its own words, whatever came between."""
    with at("chat", "both", "--transport", transport) as typist:
        typist.sees("❓ First?\n")
        typist.sees("❓ Second?\n")
        typist.sees("Answer: ")
        typist.type("one")
        typist.sees("👉 answered: one\n")
        typist.sees("❓ Second?\nAnswer: ")
        typist.type("two")
        typist.sees("👉 answered: two\none and two\n🎉 done\n")
        assert typist.end()[0] == 0


@both
def test_messages(at: At, transport: str) -> None:
    """What is typed while a run goes on is said to it, and shown as the log has it; what it did not read comes next."""
    with at("chat", "--transport", transport) as typist:
        typist.sees("> ")
        typist.type("listen")
        typist.sees("listening")
        typist.type("use dev")
        typist.sees("💬 use dev\nheard use dev")
        typist.type("end")
        typist.type("more")
        typist.sees("💬 end\n")
        typist.sees("more, 2 before\n🎉 done\n> ")


@both
@pytest.mark.full
def test_another_device_answers(at: At, server: str, transport: str) -> None:
    """The terminal says that somebody else has answered and asks no more; a line that was half typed is dropped."""
    who = f"elsewhere-{transport}"
    with at("chat", "--transport", transport, "--user", who) as typist:
        typist.sees("> ")
        typist.type("twice")
        typist.sees("Approve? [y]es, [n]o, [e]dit: ")
        run_id = waiting(server, who)
        done = command("runs", "answer", f"ask-{run_id}-1", "no", "Not a.", "--url", server)
        assert (done.returncode, done.stdout, done.stderr) == (0, "accepted\n", "")
        typist.sees("\n👎 rejected elsewhere: Not a.\n  🔧 Delete... ❌\n")
        typist.sees("Approve? [y]es, [n]o, [e]dit: ")
        typist.type("y")
        typist.sees("👍 approved\n  🔧 Delete... ✅\n")
        typist.sees("🎉 done\n> ")
    done = command("runs", "answer", f"ask-{run_id}-1", "yes", "--url", server)
    assert (done.returncode, done.stdout, done.stderr) == (1, "already_finished\n", "")


@both
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_without_a_terminal(server: str, transport: str, flags: list[str]) -> None:
    """Whoever cannot answer here is told the command that does, and the run is followed on."""
    with subprocess.Popen(
        [str(COMMAND), "chat", "delete", "--url", server, "--transport", transport, *flags],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        said, _, told = line.rstrip("\n").partition(" To answer it: ")
        assert said == "twinwire: The run waits for an answer."
        program, *arguments = [{"ANSWER": "yes"}.get(word, word) for word in shlex.split(told)]
        assert program == "twinwire"
        assert command(*arguments).stdout == "accepted\n"
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    if not flags:
        assert out.endswith('👍 approved elsewhere\n  🔧 Delete... ✅\n{"path": "a\\u202e"} None\n🎉 done\n')


@pytest.mark.full
def test_what_does_not_fit(at: At, server: str) -> None:
    """`runs answer` says in a sentence what does not fit, and the question stays open."""
    with at("chat", "branch", "--user", "misfit") as typist:
        typist.sees("Answer (1 to 2): ")
        run_id = waiting(server, "misfit")
        for words, complaint in (
            (["trunk"], "`answer` must be one of main, dev."),
            (["main", "dev"], "`answer` is complete without 'dev'."),
        ):
            done = command("runs", "answer", f"ask-{run_id}-1", *words, "--url", server)
            assert (done.returncode, done.stderr) == (2, f"twinwire: `ANSWER` does not fit the question. {complaint}\n")
        assert command("runs", "answer", f"ask-{run_id}-7", "main", "--url", server).stdout == "not_found\n"
        assert command("runs", "answer", "ask", "main", "--url", server).stderr == "twinwire: The run does not exist.\n"
        assert command("runs", "answer", f"ask-{run_id}-1", "1", "--url", server).stdout == "accepted\n"
        typist.sees("👉 answered elsewhere: main\n")
        assert typist.end()[0] == 0


@both
def test_following_asks_too(at: At, server: str, transport: str) -> None:
    """`runs follow` at a terminal shows a run that waits, and asks what is still open."""
    who = f"follower-{transport}"
    with at("chat", "twice", "--user", who) as asking:
        asking.sees("Approve? [y]es, [n]o, [e]dit: ")
        run_id = waiting(server, who)
        asking.type("y")
        asking.sees("👍 approved\n")
        asking.sees("Approve? [y]es, [n]o, [e]dit: ")
        with at("runs", "follow", run_id, "--transport", transport) as following:
            assert following.sees("Approve? [y]es, [n]o, [e]dit: ").count("✋") == 2
            following.type("y")
            following.sees("👍 approved\n")
            following.sees("🎉 done\n")
            assert following.end()[0] == 0
        asking.sees("\n👍 approved elsewhere\n")
        assert asking.end()[0] == 0


@both
def test_ctrl_c(at: At, transport: str) -> None:
    """At a question Ctrl-C cancels the run, as anywhere; in a conversation the next one begins."""
    with at("chat", "delete", "--transport", transport) as typist:
        typist.sees(ASKED)
        typist.process.send_signal(signal.SIGINT)
        typist.sees("\n🛑 cancelled\n")
        assert typist.end()[0] == 130
    with at("chat", "--transport", transport) as typist:
        typist.sees("> ")
        typist.type("delete")
        typist.sees(ASKED)
        typist.process.send_signal(signal.SIGINT)
        typist.sees("\n🛑 cancelled\n> ")
        typist.type("more")
        typist.sees("more, 2 before\n🎉 done\n> ")


@pytest.mark.full
def test_ctrl_d(at: At, server: str) -> None:
    """At a question Ctrl-D leaves it to others, and says how to answer it; a conversation ends with its run."""
    for arguments in (["chat", "delete", "--user", "left"], ["chat", "--user", "left"]):
        with at(*arguments) as typist:
            if "delete" not in arguments:
                typist.sees("> ")
                typist.type("delete")
            typist.sees(ASKED)
            typist.press(b"\x04")
            typist.sees("twinwire: The run waits for an answer. To answer it: twinwire runs answer ask-")
            assert command("runs", "answer", f"ask-{waiting(server, 'left')}-1", "y", "--url", server).returncode == 0
            typist.sees("👍 approved elsewhere\n")
            typist.sees("🎉 done\n")
            assert typist.end()[0] == 0
