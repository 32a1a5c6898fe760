"""The npm package as a release would pack it, and strangers' projects that install it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

from support.node import CLIENT
from twinwire import RunRequest, StreamEvent

CONSUMERS = Path(__file__).parents[1] / "consumers"
NPM = {**os.environ, "npm_config_audit": "false", "npm_config_fund": "false", "npm_config_update_notifier": "false"}


def npm(*arguments: str, cwd: Path) -> None:
    """Run npm, which must succeed."""
    done = subprocess.run(("npm", *arguments), cwd=cwd, check=False, capture_output=True, text=True, env=NPM)
    assert done.returncode == 0, done.stdout + done.stderr


def pack(folder: Path) -> Path:
    """Copy the client's sources into this folder, have `npm pack` build and pack them there, and return the archive."""

    def built(path: str, names: list[str]) -> set[str]:
        kept = {"package.json"} if Path(path).name == "cjs" else set(names) - {"node_modules", "test", "types"}
        return set(names) - kept

    source = shutil.copytree(CLIENT, folder / "source", ignore=built)
    (source / "node_modules").symlink_to(CLIENT / "node_modules")
    npm("pack", "--pack-destination", str(folder), cwd=source)
    (archive,) = folder.glob("*.tgz")
    return archive


def project(folder: Path, archive: Path, consumer: str, *packages: str) -> Path:
    """Copy a project of `consumers` into this folder and install the archive there, beside these packages of ours."""
    shutil.copytree(CONSUMERS / consumer, folder, dirs_exist_ok=True)
    if not (folder / "package.json").exists():
        (folder / "package.json").write_text("{}")
    if (folder / "package-lock.json").exists():
        npm("ci", cwd=folder)
        npm("install", "--no-save", str(archive), cwd=folder)
    else:
        npm("install", "--offline", "--no-save", "--no-package-lock", str(archive), cwd=folder)
    for name in packages:
        link = folder / "node_modules" / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(CLIENT / "node_modules" / name)
    return folder


SCENE = {
    "text": "one two ",
    "result": "one two ",
    "status": "completed",
    "failed": "agent_error",
    "rendered": "<p>idle</p>",
}
"""The output of the programs of `consumers/node`, with a server whose agents are `echo` and `failing`."""


async def failing(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    """An agent that fails."""
    yield StreamEvent(type="LLM_CHUNK", data={"content": "one ", "delta": "one "})
    raise RuntimeError(request.message)
