"""Five hundred followers that read nothing: memory is bounded, they go in time, nobody else notices (P7)."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from statistics import median

import httpx
import pytest

from faults import bare
from faults.leaks import descriptors, resident, settled
from support.followers import KINDS, AnyFollower, attach
from support.processes import Process

MINE = """
import asyncio, time
from twinwire import StreamEvent

async def mine(request):
    while True:
        if request.message == "clock":
            yield StreamEvent("LLM_CHUNK", {"content": str(time.monotonic()), "delta": ""})
            await asyncio.sleep(0.01)
        else:
            yield StreamEvent("NOISE", {"noise": "x" * 10_000})
            await asyncio.sleep(0.002)
"""
STALLED = 250  # of each transport
SEND_TIMEOUT = 3.0
QUEUED = 256 * 1024  # at most, for one connection


async def delays(follower: AnyFollower, seconds: float) -> list[float]:
    """How late the events of so many seconds came, in seconds; sorted."""
    found: list[float] = []
    begin = time.monotonic()
    while time.monotonic() < begin + seconds:
        event = json.loads(await follower.next() or b"")
        if event["type"] == "LLM_CHUNK" and float(event["data"]["content"]) >= begin:
            found.append(time.monotonic() - float(event["data"]["content"]))
    return sorted(found)


@pytest.mark.parametrize("kind", KINDS)
async def test_stalled_readers(kind: str, tmp_path: Path) -> None:
    """They are dropped within twice the send timeout and are counted; another run's follower is served as before."""
    (tmp_path / "mine.py").write_text(MINE)
    flags = ("--port", "0", "--send-timeout", str(SEND_TIMEOUT), "--run-timeout", "60")
    with Process("serve", "mine:mine", *flags, cwd=tmp_path) as process:
        process.ready()
        pid = process.popen.pid
        async with httpx.AsyncClient(base_url=process.url, trust_env=False, verify=False, timeout=20) as client:
            noisy = (await client.post("/runs", json={"message": "noise"})).json()["run_id"]
            clock = (await client.post("/runs", json={"message": "clock"})).json()["run_id"]
            follower = await attach(kind, process, clock)
            alone = await delays(follower, 1)
            before, fds = resident(pid), descriptors(pid)
            began = time.monotonic()
            streams = await bare.streams(process, f"/runs/{noisy}/events", STALLED)
            sockets = await bare.sockets(process, STALLED, type="attach", run_id=noisy)
            for socket in sockets:
                socket.transport.pause_reading()
            joined = time.monotonic()
            crowded = asyncio.create_task(delays(follower, SEND_TIMEOUT))  # what came before tells of this process
            most, slow = before, 0
            while slow < 2 * STALLED:
                most = max(most, resident(pid))
                lines = (await client.get("/metrics")).text.splitlines()
                slow = sum(int(float(line.split()[-1])) for line in lines if 'verdict="slow"' in line)
                assert slow == 0 or time.monotonic() - began > SEND_TIMEOUT
                assert time.monotonic() - joined < 2 * SEND_TIMEOUT
                await asyncio.sleep(0.1)
            took = time.monotonic() - began
            late = await crowded
            for run_id in (noisy, clock):
                await client.post(f"/runs/{run_id}/cancel")
        for stream in streams:
            stream.close()
        for socket in sockets:
            socket.transport.abort()
        await follower.close()
        await settled(process.url, pid, fds)
        process.popen.terminate()
        code, _, err = await asyncio.to_thread(process.end, 10)
    assert (code, err) == (-signal.SIGTERM, "")
    p50, alone50 = median(late), median(alone)
    print(
        f"{2 * STALLED} stalled, dropped {took:.1f} s after the first came; memory +{(most - before) / 2**20:.0f} MiB; "
        f"{kind} follower's p50 {p50 * 1000:.1f} ms and p99 {late[len(late) * 99 // 100] * 1000:.1f} ms, alone "
        f"{alone50 * 1000:.1f} and {alone[len(alone) * 99 // 100] * 1000:.1f} ms"
    )
    assert most - before < 2 * STALLED * QUEUED + 64 * 2**20
    assert p50 < 5 * alone50
