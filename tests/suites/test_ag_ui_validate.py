"""ag-ui-validate against /ag-ui: by itself, and over what runs of every kind send."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from suites.environment import HERE, Record, needed, tell, version
from support.interop_scenes import Scenes, playing
from support.serving import Running

PROGRAM = HERE / ".venv/bin/ag-ui-validate"
MESSAGES = ["tools", "history", "fail", "slow", "cancelled", "nothing"]


async def validate(target: str | Path) -> dict[str, Any]:
    """Return the validator's report of an endpoint or a recorded stream."""
    process = await asyncio.create_subprocess_exec(PROGRAM, target, "--json", stdout=-1)
    out, _ = await process.communicate()
    report: dict[str, Any] = json.loads(out)
    return report


async def sent(server: Running, scenes: Scenes, message: str) -> bytes:
    """Return what a run sends."""
    said = "slow" if message == "cancelled" else message
    body = {
        "threadId": f"thread-{message}",
        "runId": f"run-{message}",
        "messages": [{"id": "1", "role": "user", "content": said}],
        "state": {},
        "tools": [],
        "context": [],
        "forwardedProps": {},
    }
    async with (
        httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client,
        client.stream("POST", "/ag-ui", json=body) as response,
    ):
        if message == "slow":
            scenes.release.set()
        elif message == "cancelled":
            await client.post(f"/runs/{response.headers['twinwire-run']}/cancel")
        return await response.aread()


@pytest.mark.parametrize(
    "messages", [MESSAGES[:1], pytest.param(MESSAGES, marks=[pytest.mark.full, pytest.mark.timeout(120)])], ids=len
)
async def test_ag_ui(messages: list[str], tmp_path: Path, record_property: Record) -> None:
    """The validator has no error and no warning about the endpoint, nor about any of these runs."""
    needed()
    async with playing() as (server, scenes):
        reports = {"endpoint": await validate(f"{server.url}/ag-ui")}
        for message in messages:
            file = tmp_path / f"{message}.sse"
            file.write_bytes(await sent(server, scenes, message))
            reports[message] = await validate(file)
    for name, report in reports.items():
        assert (report["summary"]["errors"], report["summary"]["warnings"]) == (0, 0), (name, report["diagnostics"])
        assert report["internalErrors"] == []
    events = sum(report["eventCount"] for report in reports.values())
    by = f"ag-ui-validate {version('ag-ui-validate')}"
    note = f"{events} events of an endpoint and {len(messages)} recorded runs"
    tell(record_property, "AG-UI", by, cases=len(reports), passed=len(reports), note=note)
