"""`twinwire serve` in a process of its own: it comes up, serves what it was given, and ends as it should."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from support.followers import Broken, SseFollower, WsFollower
from support.processes import Process

MINE = """
import asyncio
from twinwire import DemoModel, ReActAgent, Settings, StreamEvent, create_app

async def parrot(request):
    yield StreamEvent("LLM_CHUNK", {"content": request.message, "delta": request.message})

async def patient(request):
    yield StreamEvent("LLM_CHUNK", {"content": "wait", "delta": "wait"})
    await asyncio.Event().wait()

async def stubborn(request):
    yield StreamEvent("LLM_CHUNK", {"content": "wait", "delta": "wait"})
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

async def brief(request):
    yield StreamEvent("LLM_CHUNK", {"content": "wait", "delta": "wait"})
    await asyncio.sleep(0.5)

class Box:
    agent = staticmethod(parrot)

react = ReActAgent("assistant", DemoModel(0))
app = create_app({"one": parrot, "two": patient}, settings=Settings())
plain = create_app({"one": parrot})
"""

ALL = {"TWINWIRE_PORT": "0", "TWINWIRE_DEMO_RATE": "0"}
UPSTREAM = {"OPENAI_API_KEY": "sk-secret", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "OPENAI_MODEL": "my-model"}
UNREACHABLE = " WARNING twinwire.models The model's server at http://127.0.0.1:1 cannot be reached: "
SERVERS: dict[str, tuple[list[str], dict[str, str]]] = {
    "demo": ([], {}),
    "app": (["mine:app"], {}),
    "agent": (["mine:Box.agent"], {}),
    "react": (["mine:react"], {}),
    "model": ([], UPSTREAM),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    (folder / "mine.py").write_text(MINE)
    return folder


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[dict[str, tuple[Process, str]]]:
    """One server of each kind, and the line it printed; started all at once."""
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(Process("serve", *arguments, cwd=folder, environ={**ALL, **environ}))
            for name, (arguments, environ) in SERVERS.items()
        }
        yield {name: (process, process.ready()) for name, process in processes.items()}
        for process in processes.values():
            process.popen.send_signal(signal.SIGINT)
        for name, process in processes.items():
            code, out, err = process.end()
            lines = [line for line in err.splitlines() if name != "model" or UNREACHABLE not in line]
            assert (name, code, out, lines) == (name, -signal.SIGINT, "", [])


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("demo", "the embedded demo model"),
        ("app", "mine:app"),
        ("agent", "mine:Box.agent"),
        ("react", "mine:react"),
        ("model", "my-model"),
    ],
)
def test_one_line_says_where_and_what(servers: dict[str, tuple[Process, str]], name: str, model: str) -> None:
    """The line that a server prints has its URL and its model, no secret, and is true: it answers there."""
    process, line = servers[name]
    assert line.startswith(f"Twinwire is at http://127.0.0.1:{process.port} ")
    assert model in line
    assert "secret" not in line
    assert httpx.get(f"{process.url}/readyz", trust_env=False).status_code == 200


@pytest.mark.parametrize(("name", "agent"), [("app", "one"), ("agent", "agent")])
def test_an_agent_of_one_s_own(servers: dict[str, tuple[Process, str]], name: str, agent: str) -> None:
    """An app is served as it is, a function under the last part of its name."""
    url = servers[name][0].url
    answer = httpx.post(f"{url}/chat", json={"message": "polly", "stream": False, "agent": agent}, trust_env=False)
    assert (answer.status_code, answer.json()["result"]) == (200, "polly")


def test_flags_of_an_app(folder: Path) -> None:
    """An app that brings no settings along has those of the command line."""
    with Process("serve", "mine:plain", "--port", "0", "--log", "sqlite:///runs.db", cwd=folder) as process:
        process.ready()
        assert (folder / "runs.db").is_file()


OPTIONS = """
import json
from twinwire import OpenAIChatModel, StreamEvent, create_app

model = OpenAIChatModel("m", base_url="http://127.0.0.1:1/v1", seed=2)

async def options(request):
    text = json.dumps(dict(model.options))
    yield StreamEvent("LLM_CHUNK", {"content": text, "delta": text})

app = create_app({"options": options})
"""


@pytest.mark.parametrize("environ", [{}, {"TWINWIRE_MODEL_OPTION": "seed=1 temperature=1"}])
def test_model_options_of_an_app(tmp_path: Path, environ: dict[str, str]) -> None:
    """A model that an app makes has the command's options, but for its own; flags win over variables."""
    (tmp_path / "mine.py").write_text(OPTIONS)
    flags = ["--model-option", "stop=a, b", "--model-option", "seed=1", "--model-option", 'x={"y": [1, 2]}']
    with Process("serve", "mine:app", "--port", "0", *flags, cwd=tmp_path, environ=environ) as process:
        process.ready()
        answer = httpx.get(f"{process.url}/chat?message=x&stream=false", trust_env=False).json()
        assert json.loads(answer["result"]) == {"stop": "a, b", "seed": 2, "x": {"y": [1, 2]}}


def test_a_react_agent_of_one_s_own(servers: dict[str, tuple[Process, str]]) -> None:
    """An instance of ReActAgent is an agent as it is."""
    answer = httpx.get(
        f"{servers['react'][0].url}/chat", params={"message": "hi", "stream": "false"}, trust_env=False, timeout=20
    )
    assert answer.status_code == 200
    assert answer.json()["status"] == "completed"
    assert answer.json()["result"]


async def test_a_model_that_cannot_be_reached(servers: dict[str, tuple[Process, str]]) -> None:
    """The server comes up without asking the model; a run then ends in an ERROR that does not show the key."""
    url = f"{servers['model'][0].url}/chat/stream?message=hi&agent=simple"
    follower = await SseFollower(url, {}).open()
    bodies = []
    while (body := await follower.next()) is not None:
        bodies.append(body)
    await follower.close()
    assert json.loads(bodies[-1])["error_type"] == "upstream_unreachable"
    assert b"secret" not in b"".join(bodies)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("agent", ["patient", "stubborn"])
async def test_a_signal_ends_it(folder: Path, agent: str, number: signal.Signals) -> None:
    """Followers on both transports get the terminal event and their protocol's end; the process ends within 5 s.

    So it does where an agent will not be cancelled.
    """
    with Process("serve", f"mine:{agent}", "--port", "0", "--drain-timeout", "0.1", cwd=folder) as process:
        process.ready()
        sse = await SseFollower(f"{process.url}/chat/stream?message=hi&envelope=1", {}).open()
        start = {"type": "start", "request_id": "r1", "message": "hi"}
        ws = await WsFollower(process.ws_url).open(start)
        idle = await WsFollower(process.ws_url).open({"type": "attach", "run_id": sse.run_id, "after": 0})
        await idle.say({"type": "detach", "run_id": sse.run_id})
        while json.loads(await idle.receive())["type"] != "detached":
            pass
        for follower in (sse, ws):
            assert json.loads(await follower.next() or b"")["type"] == "AGENT_START"
            assert json.loads(await follower.next() or b"")["type"] == "LLM_CHUNK"

        process.popen.send_signal(number)
        began = time.monotonic()
        for follower in (sse, ws):
            last = json.loads(await follower.next() or b"")
            assert (last["type"], last["data"]["error_type"]) == ("ERROR", "interrupted")
            assert last["metadata"]["events"] == 3
            assert await follower.next() is None
        for socket in (ws, idle):
            with pytest.raises(Broken) as caught:
                await socket.receive()
            assert caught.value.code == 1012
        await sse.close()
        code, out, err = process.end(20)
        assert time.monotonic() - began < 15
        assert code == -number
        assert out == ""
        assert "Traceback" not in err


async def test_a_run_may_finish_first(folder: Path) -> None:
    """Within the drain's grace a run that is nearly done gets done, and its follower sees it."""
    with Process("serve", "mine:brief", "--port", "0", "--drain-timeout", "20", cwd=folder) as process:
        process.ready()
        sse = await SseFollower(f"{process.url}/chat/stream?message=hi&envelope=1", {}).open()
        for expected in ("AGENT_START", "LLM_CHUNK"):
            assert json.loads(await sse.next() or b"")["type"] == expected
        process.popen.send_signal(signal.SIGTERM)
        last = json.loads(await sse.next() or b"")
        assert (last["type"], last["data"]["status"]) == ("AGENT_FINISH", "completed")
        assert await sse.next() is None
        await sse.close()
        code, _, err = process.end(10)
        assert (code, err) == (-signal.SIGTERM, "")


def test_all_addresses(tmp_path: Path) -> None:
    """A server on `::` says so with brackets, and serves IPv6 and IPv4; loopback is known in either form."""
    with Process("serve", "--host", "::", "--port", "0", "--insecure", cwd=tmp_path) as process:
        assert "http://[::]:" in process.ready()
        for host in ("127.0.0.1", "[::1]"):
            url = f"http://{host}:{process.port}"
            assert httpx.get(f"{url}/runs?user_id=u", trust_env=False).status_code == 200
            refused = httpx.get(f"{url}/runs?user_id=u", headers={"host": "evil.example"}, trust_env=False)
            assert refused.json()["code"] == "bad_host"
        process.popen.terminate()
        code, _, err = process.end()
    assert code == -signal.SIGTERM
    lines = [line.partition(" WARNING ")[2] for line in err.splitlines()]
    assert [line.partition(" status=")[0] for line in lines] == [
        'twinwire.refusals A client was refused. code="bad_host"'
    ] * 2
