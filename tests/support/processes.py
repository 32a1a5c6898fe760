"""The `twinwire` command as users run it: a process of its own, in a folder of the test's, with a bare environment."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

COMMAND = Path(sys.executable).with_name("twinwire")
MORTAL = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
"""Put before a command: it does not outlive the tests, however these end."""
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("TWINWIRE_", "OPENAI_"))},
    "PYTHONWARNINGS": "error",
}


def url_in(line: str) -> tuple[str, int]:
    """The URL and the port in the line that a server prints once it listens."""
    found = re.search(r"https?://\S+:(\d+)", line)
    assert found, line
    return found[0], int(found[1])


class Process:
    """A command that runs; it is killed at the end of the block if it still does."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        command: Sequence[str] = (str(COMMAND),),
    ) -> None:
        self.popen = subprocess.Popen(
            [*MORTAL, *prefix, *command, *arguments],
            cwd=cwd,
            env={**ENVIRONMENT, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.communicate()

    def ready(self) -> str:
        """The line that a server prints once it listens; its `url` is known from now on."""
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert "://" in line, (line, self.end())
        self.url, self.port = url_in(line)
        self.ws_url = f"ws{self.url.removeprefix('http')}/ws"
        return line

    def workers(self) -> set[int]:
        """The pids of its own processes, as `--workers` starts them; without those that have died."""
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
        return {pid for pid in map(int, children) if state(pid) not in "XZ"}

    def end(self, seconds: float = 30) -> tuple[int, str, str]:
        """Wait for the end: exit code, the rest of the standard output, the standard error."""
        out, err = self.popen.communicate(timeout=seconds)
        return self.popen.returncode, out, err


@contextmanager
def parrot(folder: Path, program: str) -> Iterator[str]:
    """The URL of a server whose agent `parrot` is in this program, put into the folder as `agents.py`."""
    (folder / "agents.py").write_text(program)
    with Process("serve", "agents:parrot", "--port", "0", cwd=folder) as server:
        server.ready()
        yield server.url


def state(pid: int) -> str:
    """A process's state, the letter that proc(5) has for it; X where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """These processes do nothing, and their connections stay open, until the block ends."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            while state(pid) not in "TXZ":
                pass
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
