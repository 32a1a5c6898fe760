"""The npm package where others have it: Deno, Bun and another Node; and what publint and attw say of its archive.

Next is in e2e/test_consumers.py.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from support.documents import run
from support.packed import CONSUMERS, SCENE, failing, project
from support.serving import echo, serving

pytestmark = pytest.mark.full

RUNTIMES = {
    "bun": ("node_modules/.bin/bun", "run"),
    "deno": ("node_modules/.bin/deno", "run", "--allow-all"),
    "node22": ("node_modules/node22/bin/node",),
}


@pytest.fixture(scope="module")
def folder(npm_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the package, the other runtimes, and the linters of packages."""
    folder = project(tmp_path_factory.mktemp("runtimes"), npm_archive, "runtimes")
    return shutil.copytree(CONSUMERS / "node", folder, dirs_exist_ok=True)


@pytest.mark.parametrize("transport", ["sse", "ws", "auto"])
@pytest.mark.parametrize("program", ["esm.mjs", "cjs.cjs"])
@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_on_other_runtimes(folder: Path, runtime: str, program: str, transport: str) -> None:
    """The programs of Node do the same there."""
    async with serving({"echo": echo, "failing": failing}) as server:
        code, out, err = await run(*RUNTIMES[runtime], program, server.url, transport, server=server, cwd=folder)
    assert code == 0, err
    assert json.loads(out) == SCENE


@pytest.mark.parametrize("command", [("publint", "run", "--strict"), ("attw", "--profile", "node16", "--no-emoji")])
async def test_nothing_is_wrong(folder: Path, npm_archive: Path, command: tuple[str, ...]) -> None:
    """publint finds nothing to say of the archive, and attw no way to resolve a type wrongly."""
    process = await asyncio.create_subprocess_exec(
        folder / "node_modules/.bin" / command[0], *command[1:], npm_archive, stdout=-1, stderr=-2, cwd=folder
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
