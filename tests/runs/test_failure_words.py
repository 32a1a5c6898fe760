"""The words of an ERROR for what an agent raised: its developer is told them, everybody else where they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.followers import KINDS, rest, start
from support.processes import Process
from support.scripted import Scripted
from support.serving import serving
from twinwire import ReActAgent, RunRequest, StreamEvent
from twinwire.runs.failure import MAX_CHARS, failure
from twinwire.telemetry.logging import hide

RUN = "a" * 26


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("no luck"), "ValueError: no luck"),
        (ValueError(), "ValueError."),
        (KeyError("name"), "KeyError: 'name'"),
        (FileNotFoundError(2, "No such file", "/home/me/my notes/a.txt"), "No such file: 'a.txt'"),
        (ValueError("cannot read /srv/app/data/a.csv: empty"), "cannot read a.csv: empty"),
        (ValueError(r"cannot read C:\Users\me\a.csv"), "cannot read a.csv"),
        (ValueError("GET https://api.example/v1/models/x was refused"), "https://api.example/v1/models/x"),
        (ValueError("read/write and 1/2"), "read/write and 1/2"),
        (ValueError("two\nlines"), r"ValueError: two\nlines"),
        (ValueError("key sk-0123456789abcdef0123"), "ValueError: key ***"),
        (Unspeakable(), "Unspeakable, which has no text."),
    ],
    ids=repr,
)
def test_the_developer_is_told(error: Exception, words: str) -> None:
    """With `debug` the message has the exception's type and words on one line, without a path or a key."""
    told = failure(error, RUN, debug=True)
    assert words in told.message
    assert told.message.startswith("The agent failed. ")
    assert told.code == "agent_error"
    for secret in ("/home", "/srv", "Users", "sk-0"):
        assert secret not in told.message


def test_a_known_secret_and_a_long_text() -> None:
    """A secret of the settings is hidden, and the words are cut."""
    hide("correct horse battery")
    told = failure(ValueError("correct horse battery " + 10_000 * "x"), RUN, debug=True).message
    assert "horse" not in told
    assert len(told) < MAX_CHARS + 100


@pytest.mark.parametrize("error", [ValueError("no luck"), None], ids=repr)
def test_everybody_else_is_not(error: Exception | None) -> None:
    """Without `debug` the message has the run to look for in the log, and nothing of the exception."""
    told = failure(error, RUN, debug=False)
    assert told.message == f"The agent failed. The server's log says why, under the run {RUN}."


async def raises(_: RunRequest) -> AsyncGenerator[str, None]:
    yield "a"
    raise ValueError("no luck")


async def misspells(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    yield StreamEvent("LLM_CHUNK", {"contents": "a"})


async def in_a_callback(request: RunRequest) -> None:
    emit: Any = request.emit
    asyncio.get_running_loop().call_soon(emit, None)
    await asyncio.Event().wait()


async def at_the_end(_: RunRequest) -> object:
    return object()


AGENTS: list[tuple[Callable[[RunRequest], Any], str]] = [
    (raises, "ValueError: no luck"),
    (misspells, "The right name is `content`."),
    (in_a_callback, "TypeError: An agent must yield or emit a text"),
    (at_the_end, "A value of the type object is no JSON"),
    (ReActAgent("react", Scripted([KeyError("model")])), "KeyError: 'model'"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize(("agent", "words"), AGENTS, ids=[words[:9] for _, words in AGENTS])
async def test_in_a_run(kind: str, debug: bool, agent: Callable[[RunRequest], Any], words: str) -> None:
    """However an agent fails, `--debug` decides whether its ERROR has the words."""
    async with serving({"mine": agent}, debug=debug) as server:
        follower = await start(kind, server)
        data = (await rest(follower))[-1]["data"]
    assert (data["error_type"], data["error"]) == ("agent_error", data["message"])
    assert (words in data["message"]) == debug
    assert (follower.run_id in data["message"]) == (not debug)


PROGRAM = """
from twinwire import Settings, create_app

async def parrot(request):
    raise ValueError("no luck")

app = create_app({"parrot": parrot})

async def around(scope, receive, send):
    await app(scope, receive, send)
"""
TOKENS = {"TWINWIRE_AUTH_TOKENS": "me:correct-horse-battery-staple-0123456789"}


@pytest.mark.parametrize(
    ("arguments", "environ", "told"),
    [
        (["mine:parrot"], {}, True),
        (["mine:app"], {}, True),
        (["mine:app", "--allowed-host", "app.example"], {}, False),
        (["mine:app", "--host", "0.0.0.0", "--insecure"], {}, False),  # noqa: S104 - that is what is tried
        (["mine:app"], TOKENS, False),
        (["mine:app", "--debug"], TOKENS, True),
        (["mine:around"], {}, False),
        (["mine:around", "--debug"], {}, True),
    ],
    ids=str,
)
async def test_who_is_a_developer(tmp_path: Path, arguments: list[str], environ: dict[str, str], told: bool) -> None:
    """The command tells them on loopback if nobody is authenticated and no proxy is expected, or with `--debug`."""
    (tmp_path / "mine.py").write_text(PROGRAM)
    with Process("serve", *arguments, "--port", "0", cwd=tmp_path, environ=environ) as process:
        await asyncio.to_thread(process.ready)
        process.url = process.url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - it is where one connects to
        headers = {"authorization": "Bearer correct-horse-battery-staple-0123456789"} if environ else {}
        if "--allowed-host" in arguments:
            headers["host"] = "app.example"
        async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
            answer = await client.get(f"{process.url}/chat?message=hi&stream=false")
    assert answer.json()["code"] == "agent_error"
    assert ("no luck" in answer.text) == told
