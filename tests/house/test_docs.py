"""Every snippet of README.md, MODELS.md and PROTOCOL.md does what it says. e2e/ runs those in JavaScript."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.documents import README, ROOT, run, snippets
from support.followers import rest, start
from support.model_server import ModelServer, answer
from support.processes import Process
from support.serving import serving
from twinwire import SimpleAgent
from twinwire.protocol import commands
from twinwire.protocol.events import StreamEventType, decode
from twinwire.protocol.wire import parse_cursor
from twinwire.settings import Settings

MODELS = (ROOT / "docs/MODELS.md").read_text()
PROTOCOL = (ROOT / "server/PROTOCOL.md").read_text()


def snippet(text: str, language: str, word: str) -> str:
    """The only snippet with this word in it."""
    (found,) = (block for block in snippets(text, language) if word in block)
    return found


async def test_watch_an_agent() -> None:
    """The curl command shows an agent that really reads this project."""
    async with serving() as server:
        code, out, err = await run("bash", "-c", snippet(README, "sh", "/chat/stream"), server=server)
        assert code == 0, err
        assert "event: TOOL_CALL_FINISH" in out
        assert '"tool_name":"Read"' in out
        assert "# Twinwire" in out
        assert "event: AGENT_FINISH" in out


async def test_start_follow_resume_cancel() -> None:
    """The script starts one run, follows it, resumes it after event 10 and cancels it."""
    async with serving(demo_rate=Settings().demo_rate) as server:
        _, out, err = await run("bash", "-c", snippet(README, "sh", "RUN="), server=server)
        assert server.runs.started == 1, err
        numbers = [int(number) for number in re.findall(r"^id: evt-\w+-(\d+)$", out, re.MULTILINE)]
        resumed = numbers.index(10, numbers.index(10) + 1)
        assert numbers[:resumed] == list(range(resumed))
        assert numbers[resumed:] == list(range(10, 10 + len(numbers) - resumed))
        ack, info = (json.loads(line) for line in re.findall(r"\{\"run_id\".*?\}(?=\{|$)", out.splitlines()[-1]))
        assert ack["status"] == "accepted"
        assert (info["run_id"], info["status"]) == (ack["run_id"], "cancelled")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("mine:app", ['event: LIFT_OFF\ndata: {"asked":"go"}', '"result":"3… 2… 1… "']),
        ("mine:countdown", ['event: LIFT_OFF\ndata: {"asked":"go"}', '"result":"3… 2… 1… "']),
        ("mine:asked", ['"result":"You asked: go"']),
        ("gambler", ['"tool_name":"dice"', '"status":"ok"', '"result":"You rolled ']),
    ],
)
async def test_an_agent_of_ones_own(target: str, told: list[str], tmp_path: Path) -> None:
    """README's agents, saved as mine.py, are served by the command that README gives."""
    word = {"mine:asked": "async def asked", "gambler": "class Gambler"}.get(target, "countdown")
    (tmp_path / "mine.py").write_text(snippet(README, "python", word))
    if word == "countdown":
        assert f"twinwire serve {target}" in " ".join(README.split())
    target = "mine:app" if target == "gambler" else target
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "twinwire", "serve", target, "--port", "0", cwd=tmp_path, stdout=-1
    )
    try:
        assert process.stdout is not None
        ready = (await process.stdout.readline()).decode()
        url = re.search(r"http://\S+", ready)
        assert url, ready
        async with httpx.AsyncClient(base_url=url[0], trust_env=False, verify=False, timeout=20) as client:
            answer = (await client.get("/chat?message=go")).text
        assert all(part in answer for part in told), answer
    finally:
        process.terminate()
        await process.wait()


async def test_the_library() -> None:
    """README's library snippet answers from the folder it runs in."""
    async with serving() as server:
        code, out, err = await run(sys.executable, "-c", snippet(README, "python", "arun_stream"), server=server)
        assert (code, err) == (0, "")
        assert "Twinwire" in out


async def test_the_client_and_the_terminal() -> None:
    """README's client prints the events, its chat command the answer."""
    async with serving() as server:
        code, out, err = await run(sys.executable, "-c", snippet(README, "python", "Client("), server=server)
        assert (code, err) == (0, "")
        assert out.splitlines()[0].startswith("AGENT_START")
        assert out.splitlines()[-1].startswith("AGENT_FINISH")
        chat = snippet(README, "sh", "twinwire chat").partition("--extra chat ")[2].strip()
        code, out, err = await run("bash", "-c", f"{chat} --url http://127.0.0.1:8000", server=server)
        assert (code, err) == (0, "")
        assert "🔧 Read... ✅" in out


@pytest.fixture
async def upstream(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ModelServer]:
    """A model's server that answers with one word, and keys for it."""
    for name in ("AZURE_OPENAI_API_KEY", "OPENROUTER_API_KEY"):
        monkeypatch.setenv(name, "sk-0815")
    async with ModelServer(lambda _: answer("Well.")) as upstream:
        yield upstream


def models_page(upstream: ModelServer, language: str, word: str) -> str:
    """Return the snippet of MODELS.md with this word in it, which asks this server."""
    found = snippet(MODELS, language, word)
    hosts = r"https?://(my-resource\.openai\.azure\.com|openrouter\.ai|127\.0\.0\.1:11434)(/api)?"
    return re.sub(hosts, upstream.url.removesuffix("/v1"), found)


def test_all_snippets_about_models_are_run() -> None:
    """The tests below run each of them."""
    assert [len(snippets(MODELS, language)) for language in ("python", "sh")] == [4, 2]


@pytest.mark.parametrize(
    ("word", "path", "headers", "body"),
    [
        (
            "AZURE",
            "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21",
            {"api-key": "sk-0815"},
            {"model": "gpt-4o"},
        ),
        (
            "OPENROUTER",
            "/v1/chat/completions",
            {"authorization": "Bearer sk-0815", "http-referer": "https://app.example", "x-title": "My app"},
            {"model": "deepseek/deepseek-chat", "provider": {"order": ["deepinfra"], "allow_fallbacks": False}},
        ),
    ],
)
async def test_models_of_providers(
    upstream: ModelServer, word: str, path: str, headers: dict[str, str], body: dict[str, object]
) -> None:
    """Each model that the page makes sends what its provider wants, and no other key."""
    names: dict[str, Any] = {}
    exec(models_page(upstream, "python", word), names)  # noqa: S102 - it is the document's
    for _ in range(3):
        assert await SimpleAgent("simple", names["model"]).arun("Hi?") == "Well."
        request = await upstream.arrived()
        assert request.path == path
        assert headers.items() <= request.headers.items()
        assert ("authorization" in request.headers) == ("authorization" in headers)
        assert body.items() <= request.body.items()
    await names["model"].aclose()


@pytest.mark.parametrize(
    ("word", "agent", "body"),
    [
        ("with_options", "exact", {"temperature": 0, "seed": 7, "max_tokens": 2000, "top_k": 20}),
        ("with_options", "free", {"max_tokens": 2000, "top_k": 20}),
        ("PICTURE", "look", {"model": "qwen3-vl"}),
    ],
)
async def test_agents_of_the_models_page(upstream: ModelServer, word: str, agent: str, body: dict[str, object]) -> None:
    """Each agent that the page makes asks its model with these options, and counts what it has used."""
    names: dict[str, Any] = {}
    exec(models_page(upstream, "python", word), names)  # noqa: S102 - it is the document's
    async with serving({agent: names["app"].state.service.runs.agents[agent]}) as server:
        last = (await rest(await start("sse", server, "What is it?")))[-1]["data"]
    assert (last["result"], last["usage"]["total_tokens"]) == ("Well.", 5)
    request = await upstream.arrived()
    options = {"temperature", "seed", "max_tokens", "top_k"} & request.body.keys()
    assert options == body.keys() - {"model"}
    assert body.items() <= request.body.items()
    if agent == "look":
        assert [part["type"] for part in request.body["messages"][0]["content"]] == ["text", "image_url"]
    await names["model"].aclose()


@pytest.mark.parametrize(
    ("word", "path", "body"),
    [
        ("temperature=0.2", "/v1/chat/completions", {"model": "qwen3", "temperature": 0.2, "stop": ["END"]}),
        ("TWINWIRE_MODEL_OPTION", "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21", {}),
    ],
)
async def test_the_options_of_a_command(
    upstream: ModelServer, tmp_path: Path, word: str, path: str, body: dict[str, object]
) -> None:
    """The page's commands serve a model that is asked with their options."""
    command = models_page(upstream, "sh", word).strip().replace("twinwire serve", "exec twinwire serve --port 0")
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "AZURE_OPENAI_API_KEY": "sk-0815"}
    with Process(cwd=tmp_path, environ=environ, command=["bash", "-c", command]) as process:
        await asyncio.to_thread(process.ready)
        async with httpx.AsyncClient(trust_env=False) as client:
            told = await client.get(f"{process.url}/chat?message=Hi&stream=false&agent=simple")
        assert told.json()["result"] == "Well."
        request = await upstream.arrived()
        assert request.path == path
        assert body.items() <= request.body.items()
        if word == "TWINWIRE_MODEL_OPTION":
            assert request.headers["api-key"] == "sk-0815"
            assert "authorization" not in request.headers
        process.popen.terminate()
        _, _, err = await asyncio.to_thread(process.end)
        assert "0815" not in err


def test_the_protocols_event() -> None:
    """The protocol's example is an event, and its table has just the types there are."""
    (example,) = snippets(PROTOCOL, "json")
    event = decode(example)
    assert parse_cursor(event.id, "id").seq == 7
    table = PROTOCOL.partition("| type | data |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([A-Z_]{5,})`", table)) == set(StreamEventType)


def test_the_protocols_commands() -> None:
    """Each command that the protocol shows is one, with the type the protocol says."""
    shown = re.findall(r"^\| (`\{\"type\".*?\}`.*?) \|", PROTOCOL, re.MULTILINE)
    texts = [text for cell in shown for text in re.findall(r"`(\{.*?\})`", cell)]
    types = [type(commands.decode_command(text)).__name__ for text in texts]
    assert types == [
        "Start",
        "Attach",
        "Detach",
        "Pause",
        "Resume",
        "Cancel",
        "Cancel",
        "Answer",
        "Send",
        "Auth",
        "Ping",
    ]


def test_the_protocols_codes() -> None:
    """Every error code the protocol names is one that the server has."""
    from twinwire.protocol import errors

    known = {
        kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TwinwireError)
    }
    table = PROTOCOL.partition("| status | code | when |")[2].partition("\n\n")[0]
    named = {
        code
        for row in table.splitlines()
        for code in re.findall(r"`([a-z_]+)`", row.split("|")[2] if "|" in row else "")
    }
    assert named - {"method_not_allowed"} <= known
    assert len(named) > 10
