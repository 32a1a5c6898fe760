"""What the suites share: the programs of others, which run in environments of their own, and what is told of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PYTHON = HERE / ".venv/bin/python"
"""It has the packages of pyproject.toml in this folder (`uv sync --frozen --project tests/suites`)."""

Record = Callable[[str, object], None]
"""pytest's `record_property`."""


def needed() -> None:
    """Skip the test if the Python packages of this folder are not installed."""
    if not PYTHON.is_file():
        pytest.skip("The suites' packages are not installed (uv sync --frozen --project tests/suites).")


def version(package: str, registry: str = "PyPI") -> str:
    """Return the version at which a package of PyPI or npm is pinned here."""
    if registry == "npm":
        npm: dict[str, str] = json.loads((HERE.parent / "interop/package.json").read_text())["dependencies"]
        return npm[package]
    pins: list[str] = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]["dependencies"]
    (found,) = (
        number for name, _, number in (pin.partition("==") for pin in pins) if name.partition("[")[0] == package
    )
    return found


async def run(*command: str | Path, send: Any = None, seconds: float = 50) -> Any:
    """Return the JSON that a program prints. Kill it (-9) after so many seconds, or if the test ends."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=-1, stdout=-1, stderr=-1, start_new_session=True, limit=2**26
    )
    talk = asyncio.create_task(process.communicate(json.dumps(send).encode()))
    try:
        await asyncio.wait([talk], timeout=seconds)
    finally:
        if not talk.done():
            os.killpg(process.pid, signal.SIGKILL)  # a browser has children
            await asyncio.wait([talk])
    out, err = await talk
    if process.returncode != 0:
        raise AssertionError(f"{command} ended with {process.returncode}. {(out + err).decode()[-3000:]}")
    return json.loads(out)


def tell(record: Record, suite: str, by: str, *, cases: int, passed: int, note: str = "") -> None:
    """Record how a suite went, for docs/results/full.json and the table in docs/ROBUSTNESS.md."""
    record("suite", json.dumps({"suite": suite, "by": by, "cases": cases, "passed": passed, "note": note}))
    print(f"{suite} ({by}): {passed} of {cases} passed. {note}")
