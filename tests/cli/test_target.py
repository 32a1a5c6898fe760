"""`twinwire serve MODULE:NAME`: it serves every app with Twinwire in it, and says of all else what would be right."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import httpx
import pytest

from support.followers import SseFollower, WsFollower
from support.processes import Process

MINE = """
import asyncio
from functools import partial
from twinwire import AgentSpec, Settings, create_app

number = 5
text = "app"

class Agent:
    async def __call__(self, request): ...

async def parrot(request):
    yield request.message

def blocking(request):
    yield request.message

def plain(request):
    return request.message

async def none(): ...

async def two(request, context): ...

called = parrot(None)
spec = AgentSpec(parrot, timeout=5)
"""

AROUND = """
import asyncio
from contextlib import asynccontextmanager
from litestar import Litestar, asgi, get
from litestar.types import Receive, Scope, Send
from twinwire import Settings, create_app

async def patient(request):
    yield "wait"
    await asyncio.Event().wait()

async def parrot(request):
    yield request.message

inner = create_app({"parrot": parrot, "patient": patient})
began = []

class Around:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def marked(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-around", b"yes")]
            await send(message)

        await self.app(scope, receive, marked)

async def function(scope, receive, send):
    await inner(scope, receive, send)

@get("/hello")
async def hello() -> str:
    return f"began {len(began)} times"

@asynccontextmanager
async def lifespan(app):
    began.append(1)
    yield
    print("ended", flush=True)

@asgi("/ai", is_mount=True, copy_scope=True)
async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
    await inner({**scope, "path": scope["path"].removeprefix("/ai")}, receive, send)

app = Litestar([hello, mounted], lifespan=[lifespan], logging_config=None)
around = Around(inner)
"""

FILES = {
    "mine.py": MINE,
    "around.py": AROUND,
    "foreign.py": "from litestar import Litestar\napp = Litestar()\n",
    "wsgi.py": "class App:\n    def __call__(self, environ, start_response): ...\n\napp = App()\n",
    "broken.py": "def agent(request):\n    pass\n\n1 / 0\n",
    "unmet.py": "import a_package_that_is_not_installed\n",
    "syntax.py": "def agent(:\n",
    "secretive.py": "import os\nraise ValueError(os.environ['MY_API_KEY'])\n",
    "exits.py": "import sys\nsys.exit(5)\n",
    "empty.py": "from twinwire import StreamEvent, ToolRegistry, create_app\nx = 1\n",
    "several.py": "async def one(request): ...\nasync def two(request): ...\nasync def helper(a, b): ...\n",
    "only.py": "from mine import parrot as imported\nasync def parrot(request):\n    yield request.message\n",
    "usual.py": "from twinwire import create_app\nasync def one(request):\n    yield 'one'\n"
    "app = create_app({'one': one})\nother = create_app({'two': one})\n",
    "own.py": "from twinwire import Settings, create_app\nasync def one(request):\n    yield 'one'\n"
    "app = create_app({'one': one}, settings=Settings(run_timeout=7))\n",
    "asks.py": "from twinwire import OpenAIChatModel, SimpleAgent\n"
    "agent = SimpleAgent('asks', OpenAIChatModel('m', base_url='http://127.0.0.1:1/v1'))\n",
    "package/__init__.py": "",
    "src/main.py": "",
}

REFUSED: dict[str, tuple[list[str], str]] = {
    "the form of mine:": (["mine:"], "The target 'mine:' must be of the form module:name."),
    "the form of :app": ([":app"], "The target ':app' must be of the form module:name."),
    "the form of .mine:text": ([".mine:text"], "The target '.mine:text' must be of the form module:name."),
    "a file": (["mine.py"], "The target 'mine.py' is a file. Name its module: mine."),
    "a file and a name": (
        ["./mine.py:parrot"],
        "mine.py:parrot' is a file. Name its module: mine:parrot.",
    ),
    "a file in a folder": (["src/main.py:app"], "is a file. Name its module: src.main:app."),
    "a folder": (["src"], "The target 'src' is a folder. Name a module in it, such as src.main:app."),
    "this folder": (["."], "The target '.' is a folder. Name a module in it, such as main:app."),
    **{
        f"no module {module}": ([f"{module}:app"], f"The module {module!r} does not exist.")
        for module in ("nothing", "nothing.py", "src/nothing", "package.nothing", "package.a.b.c")
    },
    "a module like another": (["mime:parrot"], "The module 'mime' does not exist. Is it mine?"),
    "an attribute like another": (["mine:parot"], "The module 'mine' has no 'parot'. Is it 'parrot'?"),
    "an attribute like no other": (["mine:zzz"], "The module 'mine' has no 'zzz'. It has parrot, spec."),
    "no attribute of an attribute": (["mine:text.no.thing"], "The module 'mine' has no 'text.no.thing'."),
    "a number": (["mine:number"], "The target 'mine:number' must be an app, or an agent: an async function with one"),
    "a module": (["mine:asyncio"], "The target 'mine:asyncio' is a module. Name an app or an agent in it."),
    "a class": (
        ["mine:Agent"],
        "'mine:Agent' is no app and no agent. The agent 'Agent' must be an instance",
    ),
    "a generator": (["mine:blocking"], "The agent 'blocking' is a generator that would block everybody else."),
    "a plain def": (["mine:plain"], "The agent 'plain' is a plain `def` that would block everybody else."),
    "no parameter": (["mine:none"], "must take one parameter, the request, and takes no parameter."),
    "two parameters": (["mine:two"], "must take one parameter, the request, and takes 2 parameters."),
    "an agent that was called": (["mine:called"], "must be a function, and is what a call of one gave."),
    "an app without Twinwire": (
        ["foreign:app"],
        "The app 'foreign:app' has no Twinwire in it. Mount `twinwire.Twinwire(…)` in it, or serve it as it is with",
    ),
    "an app of WSGI": (["wsgi:app"], "takes 2 parameters."),
    "nothing to serve": (
        ["empty"],
        "The module 'empty' has no app, and no agent: an async function with one",
    ),
    "several agents": (["several"], "The module 'several' has several agents. Name one: several:one, several:two."),
    **{
        f"{flag} beside an agent": (
            [flag, value, "mine:parrot"],
            f"`{flag}` has no effect on 'mine:parrot', which takes no model or tools from the command line.",
        )
        for flag, value in (
            ("--model", "m"),
            ("--base-url", "http://127.0.0.1:1/v1"),
            ("--model-option", "seed=1"),
            ("--local", "no.gguf"),
            ("--demo-rate", "1"),
            ("--project-root", "."),
        )
    },
    "a tool's folder beside a model": (["--project-root", ".", "asks:agent"], "`--project-root` has no effect on"),
    "a flag beside settings": (
        ["--run-timeout", "9", "own:app"],
        "`--run-timeout` has no effect on 'own:app', which has settings of its own. Leave it out, or set `run_timeout`",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a user's modules, good and bad."""
    folder = tmp_path_factory.mktemp("target")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, folder: Path) -> None:
    """What cannot be served, or a flag that would have no effect, is one line and exit code 2."""
    arguments, text = REFUSED[case]
    with Process("serve", "--port", "0", *arguments, cwd=folder) as process:
        code, out, err = process.end()
    assert (code, out) == (2, ""), err
    assert err.startswith("twinwire: ")
    assert err.count("\n") == 1, err
    assert text in err


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("broken", "ZeroDivisionError: division by zero"),
        ("unmet", "ModuleNotFoundError: No module named 'a_package_that_is_not_installed'"),
        ("syntax", "SyntaxError: "),
        ("secretive", "ValueError: ***"),
    ],
)
def test_a_user_s_own_bug_shows_its_traceback(module: str, text: str, folder: Path) -> None:
    """A module that fails when it is imported shows its author where, from its own lines on, and what, in one line."""
    environ = {"MY_API_KEY": "correct-horse"}
    with Process("serve", "--port", "0", f"{module}:agent", cwd=folder, environ=environ) as process:
        code, out, err = process.end()
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert f"{module}.py" in err
    assert "cli/target.py" not in err
    assert "correct-horse" not in err
    last = err.splitlines()[-1]
    assert last.startswith(f"twinwire: The module '{module}' cannot be imported: ")
    assert text in last


def test_a_module_that_exits(folder: Path) -> None:
    """A module that ends the program ends it with its own exit code."""
    with Process("serve", "--port", "0", "exits:agent", cwd=folder) as process:
        assert process.end() == (5, "", "")


@pytest.mark.parametrize(
    ("target", "agent"),
    [("only", "parrot"), ("usual", "one"), ("mine:spec", "spec"), ("asks", "agent"), ("asks:agent", "agent")],
)
def test_found(target: str, agent: str, folder: Path) -> None:
    """A module's only agent, its usual app and a spec are served."""
    with Process("serve", "--port", "0", target, cwd=folder) as process:
        process.ready()
        answer = httpx.get(f"{process.url}/chat?message=polly&stream=false&agent={agent}", trust_env=False)
        assert answer.status_code == (424 if target.startswith("asks") else 200)


def test_a_model_s_flags(folder: Path) -> None:
    """A flag of a model is for an agent that has one of ours."""
    with Process("serve", "--port", "0", "--model-option", "seed=1", "asks:agent", cwd=folder) as process:
        assert process.ready()


def test_the_platform_s_port(folder: Path) -> None:
    """PORT is where it listens, unless TWINWIRE_PORT is set; HOST, which some shells set, is not read."""
    environ = {"PORT": "0", "HOST": "no-such-host.invalid"}
    with Process("serve", "mine:parrot", cwd=folder, environ=environ) as process:
        process.ready()
        taken = process.port
        with Process("serve", "mine:parrot", cwd=folder, environ={"PORT": str(taken), "TWINWIRE_PORT": "0"}) as second:
            second.ready()
            assert second.port != taken


@pytest.mark.parametrize(("target", "prefix"), [("around:around", ""), ("around:function", ""), ("around:app", "/ai")])
async def test_an_app_around_twinwire(target: str, prefix: str, folder: Path) -> None:
    """It is served as the app that it is, on both transports, and SIGTERM ends the streams of the one within."""
    with Process("serve", "--port", "0", target, cwd=folder) as process:
        await asyncio.to_thread(process.ready)
        url = f"{process.url}{prefix}"
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{url}/chat?message=polly&stream=false&agent=parrot")
            assert answer.json()["result"] == "polly"
            assert answer.headers.get("x-around") == ("yes" if target == "around:around" else None)
            assert (await client.get(f"{url}/")).status_code == 200
            if prefix:
                assert (await client.get(f"{process.url}/hello")).text == "began 1 times"
        sse = await SseFollower(f"{url}/chat/stream?message=hi&envelope=1&agent=patient", {}).open()
        command = {"type": "start", "request_id": "r1", "message": "hi", "agent": "patient"}
        ws = await WsFollower(f"ws{url.removeprefix('http')}/ws").open(command)
        for follower in (sse, ws):
            for kind in ("AGENT_START", "LLM_CHUNK"):
                assert json.loads(await follower.next() or b"")["type"] == kind
        process.popen.send_signal(signal.SIGTERM)
        for follower in (sse, ws):
            last = json.loads(await follower.next() or b"")
            assert (last["type"], last["data"]["error_type"]) == ("ERROR", "interrupted")
            assert await follower.next() is None
        await sse.close()
        await ws.close()
        code, out, err = await asyncio.to_thread(process.end)
        assert (code, out, err) == (-signal.SIGTERM, "ended\n" if prefix else "", "")


def test_it_may_not_let_others_in(folder: Path) -> None:
    """An app around Twinwire without authentication listens beyond loopback with `--insecure` alone."""
    with Process("serve", "--port", "0", "--host", "0.0.0.0", "around:app", cwd=folder) as process:  # noqa: S104
        code, _, err = process.end()
    assert code == 2
    assert "is reachable by others without authentication" in err
