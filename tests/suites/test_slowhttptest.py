"""slowhttptest: slow heads, slow bodies and slow reads, while others are served."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
from pathlib import Path

import httpx
import pytest

from suites.environment import Record, tell
from support.processes import Process

MODES = {
    "slow heads": ("-H", "/healthz"),
    "slow bodies": ("-B", "/runs", "-s", "4096", "-t", "POST", "-f", "application/json"),
    "slow reads": ("-X", "/page/page.js", "-n", "1", "-z", "16", "-w", "16", "-y", "64", "-k", "5"),
}
STATUS = re.compile(r"^(initializing|pending|connected|error|closed|service available):\s+(\w+)", re.MULTILINE)
ANSI = re.compile(r"\x1b\[[0-9;]*m|\x07")
DEADLINE = 30  # of a request's head and body


def resident(pid: int) -> int:
    """Return the process's resident memory in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


LONG = (500, DEADLINE + 20)
whole = [pytest.mark.full, pytest.mark.timeout(150)]


@pytest.mark.parametrize(
    ("mode", "connections", "seconds"),
    [("slow heads", 100, 3), *(pytest.param(mode, *LONG, marks=whole) for mode in MODES)],
)
async def test_slow(mode: str, connections: int, seconds: int, tmp_path: Path, record_property: Record) -> None:
    """The server answers others all the time, closes each slow request at its deadline, and ends without a word."""
    if not shutil.which("slowhttptest"):
        pytest.skip("slowhttptest is not installed")
    flag, path, *more = MODES[mode]
    with Process("serve", "--port", "0", "--demo-rate", "0", "--drain-timeout", "0", cwd=tmp_path) as server:
        server.ready()
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
            assert (await client.get("/healthz")).status_code == 200
            before = resident(server.popen.pid)
            sizes = ("-c", str(connections), "-r", str(connections), "-i", "1", "-l", str(seconds), "-p", "5")
            program = await asyncio.create_subprocess_exec(
                *("slowhttptest", flag, *sizes, *more, "-u", server.url + path), stdout=-1, cwd=tmp_path
            )
            talk = asyncio.create_task(program.communicate())
            while not talk.done():
                answer = await client.get("/healthz", timeout=5)
                assert answer.status_code == 200
                await asyncio.wait([talk], timeout=0.2)
            out = ANSI.sub("", (await talk)[0].decode())
            after = resident(server.popen.pid)
        server.popen.terminate()
        code, _, err = await asyncio.to_thread(server.end)
    assert (code, err) == (-signal.SIGTERM, "")
    told = STATUS.findall(out)
    available = [value for name, value in told if name == "service available"]
    assert available, out
    assert set(available) == {"YES"}
    if seconds > DEADLINE and mode != "slow reads":  # who reads a little all the time may go on
        assert "No open connections left" in out, out
    grown = (after - before) / 2**20
    assert grown < 20
    note = f"{connections} connections for {seconds} s; memory {grown:+.1f} MiB"
    tell(record_property, f"slowhttptest, {mode}", "slowhttptest (Debian)", cases=1, passed=1, note=note)
