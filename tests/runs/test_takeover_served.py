"""A server that ends, or dies, and the next one on its SQLite file: its runs go on, as their followers see it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.asking import Scripted, until_asked
from support.followers import KINDS, Broken, attach, cancel, check, rest, say, start, text
from support.metrics import figures
from support.redis_server import fresh
from support.serving import Running, serving, until
from twinwire import EndedRun
from twinwire.agents import RunRequest
from twinwire.agents.spec import AgentSpec
from twinwire.transports import Verdict


class Counting:
    """A resumable agent that counts to four in steps, each of which is a checkpoint; its first process stops at two."""

    resumable = True

    def __init__(self) -> None:
        self.stopped = asyncio.Event()

    async def __call__(self, request: RunRequest) -> None:
        at = 0 if request.past is None else request.past.state
        for number in range(at + 1, 5):
            request.emit(f"{number} ")
            if number == 3 and request.past is None:
                self.stopped.set()
                await asyncio.Event().wait()
            await request.checkpoint(number)


def address(folder: Path) -> str:
    return f"sqlite:///{folder}/runs.db"


async def die(server: Running) -> None:
    """End the server's runs and its log as `kill -9` would: nothing more is written, and nothing is given up."""
    runs = server.runs
    runs.draining = True
    for run in runs._live.values():
        run._close()
        assert run.task is not None
        run.task.cancel()
    await asyncio.gather(*(run.task for run in runs._live.values() if run.task is not None), return_exceptions=True)
    await runs.log.close()
    runs._live.clear()
    server.cut(Verdict.RESTART)


async def cut_off(follower: Any) -> list[dict[str, Any]]:
    """All that a follower gets whose stream ends without an end."""
    seen = []
    with pytest.raises(Broken):
        while (body := await follower.next()) is not None:
            seen.append(httpx.Response(200, content=body).json())
    await follower.close()
    return seen


@pytest.mark.parametrize("ends", ["it dies", "it is told to end"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_goes_on_in_the_next_server(kind: str, ends: str, tmp_path: Path) -> None:
    """Its follower comes back with its cursor, reads that another process goes on, and reads on to the one end."""
    agent, told = Counting(), list[EndedRun]()
    async with serving({"mine": agent}, log=address(tmp_path), on_end=told.append) as server:
        follower = await start(kind, server)
        run_id = follower.run_id
        await agent.stopped.wait()
        await until(lambda: server.runs.log.newest(run_id) == 4)
        if ends == "it dies":
            await die(server)
        else:
            await server.service.drain()
        seen = await cut_off(follower)
    assert told == []
    async with serving({"mine": agent}, log=address(tmp_path), on_end=told.append) as server:
        again = await attach(kind, server, run_id, seen[-1]["id"] if seen else 0)
        seen += await rest(again)
        check(seen)
        assert [event["data"] for event in seen if event["type"] == "RUN_RESUMED"] == [
            {"epoch": 1, "step": None, "void_after": 3, "text": "1 2 "}
        ]
        assert seen[-1]["data"]["result"] == "1 2 3 4 "
        assert (await figures(server.url))["twinwire_runs_resumed_total", "mine"] == 1
    assert [(run.run_id, run.status) for run in told] == [(run_id, "completed")]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_question_over_restarts(kind: str, tmp_path: Path) -> None:
    """A run that waits is there with its question after each restart, holds its session, and takes its answer."""
    agent = Scripted()
    body = {"message": "hi", "user_id": "u", "session_id": "s", "idempotency_key": "k", "on_disconnect": "continue"}

    async def asks(request: RunRequest) -> None:
        request.emit(f"It is {await request.ask('Which branch?')}.")

    agent.script = asks
    spec = AgentSpec(agent, resumable=True)
    run_id = ""
    for round_ in range(3):
        async with (
            serving({"mine": spec}, log=address(tmp_path)) as server,
            httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
        ):
            started = (await client.post("/runs", json=body)).json()  # the same start, again and again
            assert started["run_id"] == (run_id or started["run_id"])
            run_id = started["run_id"]
            await until(lambda server=server: server.runs.waiting == (1, 1))  # type: ignore[misc]
            run = (await client.get(f"/runs/{run_id}")).json()
            assert (run["status"], run["waiting"]) == ("running", True)
            assert [question["input_id"] for question in run["questions"]] == [f"ask-{run_id}-1"]
            other = await client.post("/runs", json={**body, "idempotency_key": "other"})
            assert (other.status_code, other.json()["code"]) == (409, "session_busy")
            if round_ == 2:
                outcome = await say(kind, server, run_id, input_id=f"ask-{run_id}-1", answer="dev", message_id="m")
                assert outcome["status"] == "accepted"
                seen = await rest(await attach(kind, server, run_id))
                check(seen)
                assert seen[-1]["data"]["result"] == "It is dev."
                assert [event["data"]["epoch"] for event in seen if event["type"] == "RUN_RESUMED"] == [1, 2]
                await until(lambda server=server: not server.runs._tasks)  # type: ignore[misc]
                history = await server.runs.log.history(("u", "s"))
                assert [turn["content"] for turn in history] == ["hi", "It is dev."]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancel_after_a_restart(kind: str, tmp_path: Path) -> None:
    """A run that goes on in the next server is cancelled there as any other."""
    agent = Scripted()

    async def asks(request: RunRequest) -> None:
        request.emit("Well. ")
        await request.ask("Which branch?")

    agent.script = asks
    spec = AgentSpec(agent, resumable=True)
    async with serving({"mine": spec}, log=address(tmp_path)) as server:
        follower = await start(kind, server, on_disconnect="continue")
        await until_asked(follower)
        await follower.close()
    async with serving({"mine": spec}, log=address(tmp_path)) as server:
        again = await attach(kind, server, follower.run_id)
        await until_asked(again)
        assert await cancel(kind, server, follower.run_id) == "accepted"
        seen = await rest(again)
        assert seen[-1]["data"]["status"] == "cancelled"


@pytest.mark.parametrize("kind", KINDS)
async def test_another_worker_goes_on(kind: str) -> None:
    """On Redis another worker goes on at once with the run of one that is told to end; its follower there reads on."""
    agent, url, told = Counting(), fresh("&lease=2"), list[EndedRun]()
    async with (
        serving({"mine": agent}, log=url, on_end=told.append) as ending,
        serving({"mine": agent}, log=url, on_end=told.append) as other,
    ):
        follower = await start(kind, ending)
        await agent.stopped.wait()
        watcher = await attach(kind, other, follower.run_id)
        await ending.service.drain()
        seen = await rest(watcher)
        await cut_off(follower)
        assert seen[-1]["data"]["result"] == "1 2 3 4 "
        assert [event["data"]["epoch"] for event in seen if event["type"] == "RUN_RESUMED"] == [1]
        assert (await figures(other.url))["twinwire_runs_resumed_total", "mine"] == 1
        await until(lambda: len(told) == 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_agent_that_is_not_resumable(kind: str, tmp_path: Path) -> None:
    """Its run ends as interrupted when its server is told to end, and has its AGENT_FINISH or ERROR there."""
    agent = Counting()
    async with serving({"mine": AgentSpec(agent, resumable=False)}, log=address(tmp_path)) as server:
        follower = await start(kind, server)
        await agent.stopped.wait()
        await server.service.drain()
        end = (await rest(follower))[-1]
        assert (end["type"], end["data"]["error_type"]) == ("ERROR", "interrupted")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_checkpoint_that_nobody_can_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of another version ends as interrupted at the next start."""
    agent = Counting()
    async with serving({"mine": agent}, log=address(tmp_path)) as server:
        follower = await start(kind, server)
        await agent.stopped.wait()
        await die(server)
        await cut_off(follower)
    monkeypatch.setattr("twinwire.runs.checkpoints.VERSION", 2)
    async with serving({"mine": agent}, log=address(tmp_path)) as server:
        seen = await rest(await attach(kind, server, follower.run_id))
        assert (seen[-1]["type"], seen[-1]["data"]["error_type"]) == ("ERROR", "interrupted")
        assert text(seen).startswith("1 2 ")
