"""The Python client is a distribution of its own: it installs and works without the server, as this does without it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from email import message_from_bytes
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

import twinwire
import twinwire_client
from support import interpreters
from support.credentials import AUTH
from support.documents import README, ROOT, run, snippets
from support.packages import CLIENT, build, environment, packages, pip
from support.processes import ENVIRONMENT
from support.serving import serving

TYPED = """
import asyncio
from typing import assert_type

from twinwire_client import Acknowledgement, Client, Event, Fold, Question, Run, SyncClient, SyncQuestion
from twinwire_client.events import LLMChunk


async def answer(question: Question) -> None:
    assert_type(await question.approve(), Acknowledgement)


def reject(question: SyncQuestion) -> None:
    assert_type(question.reject("No."), Acknowledgement)


async def main() -> None:
    async with Client("http://127.0.0.1:8000") as client, client.stream("Hi", on_input=answer) as run:
        assert_type(run, Run)
        async for event in run:
            assert_type(event, Event)
            match event.payload:
                case LLMChunk(content=text):
                    assert_type(text, str)


def work(client: SyncClient) -> None:
    fold = Fold()
    with client.stream("Hi", session_id="s", interrupt=True, on_input=reject) as run:
        for event in run:
            fold.apply(event)


asyncio.run(main())
"""
ANSWERS = "import builtins; builtins.input = lambda prompt: 'y'"
"""Nobody sits at the terminal of a test."""
WRONG = 'SyncClient("http://127.0.0.1:8000").stream(5)'


def project(folder: Path) -> dict[str, Any]:
    """Return a distribution's metadata."""
    found: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return found


def requirements(wheel: Path) -> list[str]:
    """Return what a wheel requires."""
    with ZipFile(wheel) as parts:
        (name,) = (name for name in parts.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(parts.read(name)).get_all("Requires-Dist", [])


def names(requirements: list[str]) -> set[str]:
    """Return the names of the packages that are required without an extra."""
    return {re.split(r"[^\w-]", line)[0] for line in requirements if "extra ==" not in line}


def test_metadata() -> None:
    """The client claims the server's Python versions and licence, and its version is what it says."""
    client, server = project(CLIENT), project(ROOT)
    shared = ("requires-python", "license", "license-files", "version")
    assert [client[name] for name in shared] == [server[name] for name in shared]
    assert [*interpreters.claimed()] == interpreters.CLASSIFIER.findall((CLIENT / "pyproject.toml").read_text())
    assert (CLIENT / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert client["version"] == twinwire_client.__version__ == twinwire.__version__


def test_the_readme_stands_alone() -> None:
    """An index shows the README without the repository, so that no link in it is relative."""
    links = re.findall(r"\]\(([^)]*)\)", (CLIENT / "README.md").read_text())
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_the_wheel(tmp_path: Path) -> None:
    """The client's wheel has the client alone, typed, with its licence, and requires nothing of the server."""
    wheel = build(CLIENT, tmp_path, "--wheel")
    sources = {f"twinwire_client/{path.name}" for path in (CLIENT / "twinwire_client").glob("*.py")}
    with ZipFile(wheel) as parts:
        inside = {name for name in parts.namelist() if ".dist-info/" not in name}
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in parts.namelist())
    assert inside == sources | {"twinwire_client/py.typed"}
    assert names(requirements(wheel)) == {"anyio", "httpx", "httpx-sse", "httpx-ws", "msgspec", "wsproto"}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both distributions."""
    folder = tmp_path_factory.mktemp("index")
    build(CLIENT, folder)
    build(ROOT, folder)
    return folder


@pytest.mark.full
def test_both_distributions(index: Path) -> None:
    """Neither has the other's files, the server needs the client for an extra only, and the sources are whole."""
    (server,) = index.glob("twinwire-*.whl")
    with ZipFile(server) as parts:
        assert [name for name in parts.namelist() if "twinwire_client" in name] == []
    (needed,) = (line for line in requirements(server) if line.startswith("twinwire-client"))
    assert needed.endswith("extra == 'chat'")
    (source,) = index.glob("twinwire_client-*.tar.gz")
    with tarfile.open(source) as parts:
        inside = {name.partition("/")[2] for name in parts.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "twinwire_client/py.typed"} <= inside
    assert not any(name.startswith("tests") for name in inside)


@pytest.mark.full
@pytest.mark.parametrize("version", interpreters.claimed())
async def test_the_first_hour(version: str, index: Path, tmp_path: Path) -> None:
    """On each claimed Python, the README's command installs the client without the server, and its programs run."""
    python = interpreters.find(version)
    if python is None:
        pytest.skip(f"Python {version} is not on this machine.")
    venv = environment(tmp_path / "venv", python)
    text = (CLIENT / "README.md").read_text()
    (command,) = snippets(text, "sh")
    assert command.startswith("pip ")
    pip(venv, *command.split()[1:], "-q", links=index)
    assert "twinwire-client" in packages(venv)
    assert not packages(venv) & {"twinwire", "litestar", "openai", "uvicorn"}
    for program in [*snippets(text, "python"), TYPED]:
        asked = [str(venv / "bin/python"), "-I", "-W", "error", "-c", f"{ANSWERS}\n{program}"]
        async with serving(demo_rate=200.0, **(AUTH if "token=" in program else {})) as server:
            code, _, problems = await run(*asked, server=server, cwd=tmp_path)
            assert (code, problems) == (0, ""), program


@pytest.mark.full
def test_types(index: Path, tmp_path: Path) -> None:
    """A type checker knows the installed client's types, and finds what is wrong."""
    venv = environment(tmp_path / "venv", sys.executable)
    pip(venv, "install", "-q", "twinwire-client", links=index)
    for name, program, code in ("good.py", TYPED, 0), ("bad.py", f"{TYPED}{WRONG}\n", 1):
        (tmp_path / name).write_text(program)
        command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable"]
        told = subprocess.run(
            [*command, venv / "bin/python", name], check=False, capture_output=True, text=True, cwd=tmp_path
        )
        assert told.returncode == code, told.stdout
    assert 'incompatible type "int"' in told.stdout


@pytest.mark.full
async def test_the_server_without_the_client(index: Path, tmp_path: Path) -> None:
    """The server installs without the client. `twinwire chat` then says what to install, with which it works."""
    venv = environment(tmp_path / "venv", sys.executable)
    pip(venv, "install", "-q", "twinwire", links=index)
    assert "twinwire-client" not in packages(venv)
    async with serving() as server:
        chat = [str(venv / "bin/twinwire"), "chat", "Analyse the project structure", "--url", server.url]
        code, out, told = await run(*chat, server=server, cwd=tmp_path)
        assert (code, out) == (2, "")
        command = re.fullmatch(r"twinwire: `twinwire chat` requires the Python client: pip (install '.*')\.\n", told)
        assert command, told
        await asyncio.to_thread(pip, venv, *command[1].replace("'", "").split(), "-q", links=index)
        code, out, told = await run(*chat, server=server, cwd=tmp_path)
        assert (code, told) == (0, "")
        assert out.endswith("🎉 done\n")


@pytest.mark.full
def test_from_a_clone(tmp_path: Path) -> None:
    """README's command installs the client from a clone."""
    (command,) = (block for block in snippets(README, "sh") if "clients/python" in block)
    venv = environment(tmp_path / "venv", sys.executable)
    path = f"{venv / 'bin'}:{os.environ['PATH']}"
    environ = {**ENVIRONMENT, "PYTHONWARNINGS": "", "PATH": path}
    subprocess.run(["bash", "-c", command], check=True, cwd=ROOT, env=environ)
    assert "twinwire-client" in packages(venv)
