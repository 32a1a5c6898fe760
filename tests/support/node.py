"""Node, for the tests of the JS client: its programs as subprocesses, and whether they can run at all."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "clients/js"


def needed() -> None:
    """Skip the test if Node or the client's packages are not installed."""
    if not shutil.which("node"):
        missing = "node is not installed"
    elif not (CLIENT / "node_modules/.package-lock.json").is_file():
        missing = "the JS client's packages are not installed (npm ci --prefix clients/js)"
    else:
        return
    pytest.skip(missing)


async def node(*arguments: str, stdin: str = "", cwd: Path = CLIENT, **environment: str) -> str:
    """Return what a Node program prints. It must succeed, and is killed if the test ends before it does."""
    needed()
    process = await asyncio.create_subprocess_exec(
        "node",
        *arguments,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()
