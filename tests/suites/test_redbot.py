"""REDbot: what it has to say of the answers that browsers and proxies see."""

from __future__ import annotations

from pathlib import Path

import pytest

from suites.environment import HERE, PYTHON, Record, needed, run, tell, version
from support.processes import Process

PATHS = [
    "/",
    "/page/page.js",
    "/page/page.css",
    "/page/icon.svg",
    "/healthz",
    "/readyz",
    "/metrics",
    "/runs?user_id=me",
    "/runs/none",
    "/chat/stream?message=hi",
    "/schema/openapi.json",
    "/v1/models",
    "/nothing",
]
ALLOWED = {"/chat/stream?message=hi": {"FRESHNESS_NO_CACHE_NO_VALIDATOR"}}
"""Notes on what we answer so on purpose: a stream is never revalidated."""


@pytest.mark.parametrize(
    "paths", [PATHS[:2], pytest.param(PATHS, marks=[pytest.mark.full, pytest.mark.timeout(200)])], ids=len
)
async def test_redbot(paths: list[str], tmp_path: Path, record_property: Record) -> None:
    """REDbot finds nothing bad, and warns of nothing."""
    needed()
    with Process("serve", "--port", "0", "--demo-rate", "0", cwd=tmp_path) as server:
        server.ready()
        found = {path: await run(PYTHON, HERE / "redbot_notes.py", server.url + path) for path in paths}
    wrong = {path: told for path, told in found.items() if {note[0] for note in told} - ALLOWED.get(path, set())}
    assert wrong == {}
    tell(record_property, "REDbot", f"redbot {version('redbot')}", cases=len(paths), passed=len(paths))
