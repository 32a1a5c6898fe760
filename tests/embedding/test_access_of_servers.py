"""Access logs of other servers, as they write them: with the query of each request, in which no ticket is shown."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from support.hosts import ended, served

PROGRAM = """
from twinwire import Settings, StreamEvent, create_app

async def talk(request):
    yield StreamEvent("LLM_CHUNK", {"content": request.message, "delta": request.message})

app = create_app({"talk": talk}, settings=Settings())
"""
TICKET = "abcdef0123456789"
LOGS = {
    "uvicorn": [],
    "granian": ["--access-log", "--access-log-fmt", "%(method)s %(path)s?%(query_string)s %(status)d"],
    "hypercorn": ["--access-logfile", "-", "--access-logformat", "%(R)s %(q)s %(s)s"],
}


@pytest.mark.parametrize("server", LOGS)
async def test_no_ticket_is_written(server: str, tmp_path: Path) -> None:
    """The line of a request is there, and has `***` where the ticket was."""
    (tmp_path / "main.py").write_text(PROGRAM)
    with served(server, tmp_path, *LOGS[server]) as (process, address):
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            query = {"ticket": TICKET, "user_id": "u"}
            assert (await http.get(f"{address.home}/runs", params=query)).status_code == 200
        process.popen.terminate()
        _, told = await ended(process, 20)
    assert "/runs?ticket=***&user_id=u" in told
    assert TICKET not in told
