"""`twinwire.testing`: what the tests of others are made with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.hosts import fastapi_app, settings
from support.processes import ENVIRONMENT
from support.scripted import Echo, registry
from support.serving import Puppets, echo
from twinwire import Finish, ReActAgent, Text, Thinking, ToolCall, Twinwire, Usage
from twinwire.protocol.errors import SettingsError, UpstreamError
from twinwire.testing import ScriptedModel, served, twinwire_served
from twinwire_client import RunFailed, SyncClient

__all__ = ["twinwire_served"]


async def test_a_scripted_model() -> None:
    """The model gives its answers in turn, to an agent as to a test; a call too many fails."""
    model = ScriptedModel(
        [Thinking("I look. "), ToolCall("c1", "echo", '{"text": "hi"}')], "It says hi.", [Text("b"), Finish("length")]
    )
    agent = ReActAgent("react", model, tool_registry=registry(Echo()))
    assert await agent.arun("What does it say?") == "It says hi."
    assert [message["role"] for message in model.asked[1]][-1] == "tool"
    batches = [batch async for batch in model.stream([{"role": "user", "content": "again"}])]
    assert batches == [[Text("b")], [Finish("length")]]
    with pytest.raises(AssertionError, match="was asked 4 times"):
        await anext(model.stream([]))


async def test_a_model_that_fails() -> None:
    """An exception among the answers is raised; usage is told."""
    model = ScriptedModel(UpstreamError("The model is busy."), [Text("a"), Finish("stop", Usage(1, 2, 3))])
    with pytest.raises(UpstreamError):
        await anext(model.stream([]))
    assert [batch async for batch in model.stream([])][-1][0] == Finish("stop", Usage(1, 2, 3))


def test_agents_are_served(twinwire_served: Callable[..., str]) -> None:
    """The fixture serves agents in a thread, for a client without an event loop."""
    url = twinwire_served({"echo": echo}, user_runs=1)
    with SyncClient(url) as client, client.stream("a b") as run:
        assert run.wait() == "a b "


@pytest.mark.parametrize("kind", ["object", "app", "mounted"])
def test_apps_are_served(kind: str) -> None:
    """A Twinwire, its app, and an application around it are served; their end leaves no thread behind."""
    ai = Twinwire({"echo": echo}, settings=settings())
    apps: dict[str, Any] = {"object": ai, "app": ai.app, "mounted": fastapi_app(ai)}
    with served(apps[kind]) as url:
        base = f"{url}/ai" if kind == "mounted" else url
        with SyncClient(base) as client, client.stream("a b", transport="ws") as run:
            assert run.wait() == "a b "
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_a_run_that_goes_on_at_the_end() -> None:
    """The end of the block ends runs and their streams at once."""
    with served({"mine": Puppets()}) as url:
        client = SyncClient(url, max_attempts=1)
        run = client.stream("hi").__enter__()
    with pytest.raises(RunFailed) as caught:
        run.wait()
    assert caught.value.error_type == "interrupted"
    client.close()


def test_a_start_that_fails(tmp_path: Path) -> None:
    """What prevents the app's start is raised."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError), served({"echo": echo}, log=f"sqlite:///{tmp_path}/file/log.db"):
        pass
    with (
        pytest.raises(TypeError, match="Settings must be given to the app"),
        served(Twinwire({"a": echo}), user_runs=1),
    ):
        pass


@pytest.mark.full
def test_the_plugin(tmp_path: Path) -> None:
    """In a project of somebody else's the plugin gives its fixtures, without a plugin for asyncio."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["twinwire.testing"]\n')
    (tmp_path / "test_mine.py").write_text(
        "from twinwire import StreamEvent\n"
        "from twinwire_client import SyncClient\n"
        "async def agent(request):\n"
        "    yield StreamEvent('LLM_CHUNK', {'content': request.message})\n"
        "def test_mine(twinwire_served):\n"
        "    with SyncClient(twinwire_served({'mine': agent})) as client, client.stream('hi') as run:\n"
        "        assert run.wait() == 'hi'\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:asyncio",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        ".",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout + done.stderr
