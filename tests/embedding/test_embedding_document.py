"""docs/EMBEDDING.md: each of its programs is run, and its two applications are used for an hour."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from support.documents import ROOT, snippets
from support.hosts import BIN, Address, served
from support.processes import ENVIRONMENT

DOCUMENT = (ROOT / "docs/EMBEDDING.md").read_text()
PROGRAMS = snippets(DOCUMENT, "python")
Login = Callable[[httpx.AsyncClient, str], Awaitable[dict[str, str]]]


def program(word: str) -> str:
    """Return the program with this text in it."""
    (found,) = [text for text in PROGRAMS if word in text]
    return found


def environment(folder: Path) -> dict[str, str]:
    return {
        **ENVIRONMENT,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONWARNINGS": "default",
        "PYTHONPATH": str(folder),
    }


def run(folder: Path, *command: str) -> str:
    """Run a command in a folder; return what it prints."""
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fastapi_project(folder: Path) -> str:
    """Save the FastAPI application; return what is served."""
    pytest.importorskip("fastapi")
    text = program("FastAPI, HTTPException")
    assert len(text.splitlines()) < 40
    (folder / "main.py").write_text(text)
    return "main:app"


def django_project(folder: Path) -> str:
    """Make the Django project by the document's commands; return what is served."""
    pytest.importorskip("django")
    (commands,) = [text for text in snippets(DOCUMENT, "sh") if "startproject" in text]
    run(folder, "bash", "-ec", commands)
    texts = {"asgi": "get_asgi_application", "assistant": "SessionStore", "urls": "admin.site"}
    assert sum(len(program(word).splitlines()) for word in texts.values()) < 55
    assert len(program("SessionStore").splitlines()) < 40
    for name, word in texts.items():
        (folder / f"shop/{name}.py").write_text(program(word))
    return "shop.asgi:application"


async def fastapi_login(http: httpx.AsyncClient, name: str) -> dict[str, str]:
    told = await http.post("/login", params={"name": name, "password": "correct horse"})
    assert told.status_code == 200, told.text
    return {}


async def django_login(http: httpx.AsyncClient, name: str) -> dict[str, str]:
    await http.get("/admin/login/")
    form = {"username": name, "password": "correct horse", "csrfmiddlewaretoken": http.cookies["csrftoken"]}
    told = await http.post("/admin/login/?next=/ai/", data=form)
    assert told.status_code == 302, told.text
    return {"x-csrftoken": http.cookies["csrftoken"]}


async def chunks(address: Address, run_id: str, cookies: str, first: asyncio.Event) -> list[str]:
    """Follow a run over a WebSocket with the host's cookies; return the types of its events."""
    types = []
    async with connect(address.ws_url, additional_headers={"cookie": cookies}, proxy=None) as socket:
        await socket.send(json.dumps({"type": "attach", "run_id": run_id, "after": 0}))
        async for message in socket:
            types.append(json.loads(message)["type"])
            if types[-1] == "LLM_CHUNK":
                first.set()
            if types[-1] in {"AGENT_FINISH", "ERROR"}:
                break
    return types


async def hour(address: Address, login: Login) -> None:
    """Refuse a stranger; log in; start, follow over both transports, cancel; list; delete all of it."""
    async with httpx.AsyncClient(base_url=address.home, trust_env=False, timeout=20) as http:
        assert (await http.post("/ai/runs", json={"message": "hi"})).status_code == 401
        headers = await login(http, "ann")
        started = (await http.post("/ai/runs", json={"message": "one two three " * 20})).json()
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in http.cookies.jar)
        first = asyncio.Event()
        following = asyncio.create_task(chunks(address, started["run_id"], cookies, first))
        async with http.stream("GET", f"/ai/runs/{started['run_id']}/events") as stream:
            lines = aiter(stream.aiter_lines())
            while await anext(lines) != "event: LLM_CHUNK":
                pass
            await first.wait()
            assert (await http.post(f"/ai/runs/{started['run_id']}/cancel")).status_code == 202
            rest = [line async for line in lines]
        assert "event: AGENT_FINISH" in rest
        assert (await following)[-1] == "AGENT_FINISH"
        told = await http.post("/ai/chat", json={"message": "hi", "stream": False})
        assert told.json()["result"] == "hi "
        listed = (await http.get("/ai/runs")).json()["runs"]
        assert [run["status"] for run in listed] == ["completed", "cancelled"]
        page = await http.get("/ai/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert (await http.request("DELETE", "/account", headers=headers)).status_code == 200
        assert (await http.get("/ai/runs")).status_code == 401
        if login is fastapi_login:
            await login(http, "ann")
            assert (await http.get("/ai/runs")).json()["runs"] == []
            assert (await http.get(f"/ai/runs/{started['run_id']}")).status_code == 404


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
async def test_an_hour_with_fastapi(server: str, tmp_path: Path) -> None:
    """A user logs in, follows a run over both transports, cancels it, and deletes the account with all runs."""
    with served(server, tmp_path, target=fastapi_project(tmp_path)) as (_, address):
        await hour(address, fastapi_login)


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
@pytest.mark.full
async def test_an_hour_with_django(server: str, tmp_path: Path) -> None:
    """The same in a Django project, with Django's own login and users."""
    target = django_project(tmp_path)
    arguments = ["--lifespan", "auto"] if server == "uvicorn" else []
    with served(server, tmp_path, *arguments, target=target) as (_, address):
        await hour(address, django_login)


async def test_a_lifespan_of_ones_own(tmp_path: Path) -> None:
    """The application whose lifespan enters Twinwire's is served, and ends."""
    pytest.importorskip("fastapi")
    (tmp_path / "main.py").write_text(program("asynccontextmanager"))
    with served("uvicorn", tmp_path) as (process, address):
        async with httpx.AsyncClient(base_url=address.url, trust_env=False, timeout=20) as http:
            assert (await http.get("/readyz")).json() == {"status": "ready"}
        process.popen.terminate()
        _, told = await asyncio.to_thread(lambda: process.end(15)[1:])
        assert "Application shutdown complete" in told


def test_runs_from_ones_own_code(tmp_path: Path) -> None:
    """The program starts a run, follows it, and prints how it ended."""
    told = run(tmp_path, sys.executable, "-c", program("ai.start")).splitlines()
    assert told[:3] == ["AGENT_START", "LLM_CHUNK", "AGENT_FINISH"]
    assert told[3].startswith("completed HELLO ")


def test_a_test_in_process(tmp_path: Path) -> None:
    """The test of an agent with a scripted model passes."""
    run(tmp_path, sys.executable, "-W", "error", "-c", program("ScriptedModel"))


@pytest.mark.full
def test_a_test_with_the_plugin(tmp_path: Path) -> None:
    """The test with the fixture passes as it stands, without a plugin for asyncio."""
    (tmp_path / "test_it.py").write_text(program("twinwire_served"))
    told = run(
        tmp_path,
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
    )
    assert "1 passed" in told


def test_all_programs_are_run() -> None:
    """The tests here, and one in a browser, run each of them."""
    assert len(PROGRAMS) == 8
    assert [len(snippets(DOCUMENT, language)) for language in ("sh", "js")] == [3, 1]
