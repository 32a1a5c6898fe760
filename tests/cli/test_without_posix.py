"""The server without uvloop and without the modules and signals of POSIX, which are hidden from it in its process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support.followers import SseFollower, WsFollower, rest
from support.processes import ENVIRONMENT, MORTAL, Process

HIDE = """
import asyncio, os, signal, socket, subprocess, sys

for name in ("fcntl", "termios", "resource", "readline", "pwd", "grp", "pty", "tty", "uvloop"):
    sys.modules[name] = None
for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGCHLD", "SIGUSR1", "setitimer", "sigtimedwait", "pthread_sigmask"):
    delattr(signal, name)
for name in ("fork", "sysconf", "sched_getaffinity"):
    delattr(os, name)
"""
MAIN = f"{HIDE}\nfrom twinwire.cli.main import main\nmain()\n"
MINE = """
import asyncio

async def parrot(request):
    yield f"{request.message} on {type(asyncio.get_running_loop()).__module__}"
"""


def command(folder: Path, program: str = MAIN) -> list[str]:
    """Return the command of a program that hides them first, beside an agent."""
    (folder / "mine.py").write_text(MINE)
    (folder / "bare.py").write_text(program)
    return [sys.executable, "bare.py"]


async def test_it_serves(tmp_path: Path) -> None:
    """A run is followed over both transports, on asyncio's own loop, and SIGTERM ends the process."""
    arguments = ("serve", "mine:parrot", "--port", "0")
    with Process(*arguments, cwd=tmp_path, command=command(tmp_path)) as process:
        await asyncio.to_thread(process.ready)
        sse = await SseFollower(f"{process.url}/chat/stream?message=hi&envelope=1", {}).open()
        ws = await WsFollower(process.ws_url).open({"type": "start", "request_id": "r1", "message": "hi"})
        for follower in (sse, ws):
            result = (await rest(follower))[-1]["data"]["result"]
            assert result == "hi on asyncio.unix_events"
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{process.url}/readyz")).status_code == 200
        process.popen.terminate()
        code, out, err = await asyncio.to_thread(process.end)
    assert (out, err) == ("", "")
    assert code != 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--log", "sqlite:///runs.db"], "`--log` must be memory:// or redis://host:port/0: SQLite requires the file"),
        (["--workers", "2", "--log", "redis://127.0.0.1:1/0"], "`--workers` must be 1: this system has no fork"),
        (["--local", "model.gguf"], "`--local` requires POSIX."),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_needs_posix_says_so(tmp_path: Path, arguments: list[str], text: str) -> None:
    """What cannot do without is refused in one line."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with Process("serve", "--port", "0", *arguments, cwd=tmp_path, command=command(tmp_path)) as process:
        code, out, err = process.end()
    assert (code, out) == (2, ""), err
    assert text in err
    assert err.count("\n") == 1


def test_all_modules_are_imported(tmp_path: Path) -> None:
    """Each module of the package but the supervisor of workers is imported without them."""
    program = f"""{HIDE}
import pkgutil, twinwire
for module in pkgutil.walk_packages(twinwire.__path__, "twinwire."):
    if module.name not in {{"twinwire.serving.workers", "twinwire.__main__"}}:
        __import__(module.name)
print("imported")
"""
    done = subprocess.run(
        [*MORTAL, *command(tmp_path, program)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "imported\n", "")
