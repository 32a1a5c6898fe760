"""`on_end`: a function of the operator's is called once for each run that has ended, and can harm nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from support.credentials import asking
from support.serving import Puppets, Running, echo, serving, until
from twinwire import EndedRun, Settings, Twinwire
from twinwire.protocol.errors import RunNotFound
from twinwire.runs import endings


async def begin(server: Running, puppets: Puppets, **body: Any) -> tuple[str, Any]:
    """A run that has said a word."""
    async with asking(server) as client:
        run = (await client.post("/runs", json={"message": "hi", "on_disconnect": "continue", **body})).json()
    puppet = await puppets.next()
    puppet.say("word")
    return str(run["run_id"]), puppet


async def end(server: Running, puppets: Puppets) -> str:
    run_id, puppet = await begin(server, puppets)
    puppet.end()
    await until(lambda: run_id not in server.runs._live)
    return run_id


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
async def test_each_end(is_async: bool, puppets: Puppets) -> None:
    """It has what is known of the run, however it ended, and is called when the terminal event is in the log."""
    told: list[EndedRun] = []

    async def later(run: EndedRun) -> None:
        await asyncio.sleep(0)
        told.append(run)

    async with serving({"mine": puppets}, on_end=later if is_async else told.append) as server:
        completed, puppet = await begin(server, puppets, user_id="u", session_id="s")
        puppet.emit("AGENT_FINISH", result={"a": 1}, status="completed", usage={"total_tokens": 7})
        puppet.end()
        await until(lambda: len(told) == 1)
        async with asking(server) as client:
            assert (await client.get(f"/runs/{completed}")).json()["result"] == {"a": 1}
            failed, puppet = await begin(server, puppets)
            puppet.fail(ValueError("x"))
            await until(lambda: len(told) == 2)
            cancelled, _ = await begin(server, puppets)
            await client.post(f"/runs/{cancelled}/cancel")
            await until(lambda: len(told) == 3)
    assert [(run.run_id, run.status, run.error_type, run.reason) for run in told] == [
        (completed, "completed", None, None),
        (failed, "error", "agent_error", None),
        (cancelled, "cancelled", None, "user"),
    ]
    first = told[0]
    assert (first.agent, first.user_id, first.session_id, first.metadata) == ("mine", "u", "s", {})
    assert first.result == {"a": 1}
    assert first.usage is not None
    assert first.usage["total_tokens"] == 7
    assert all(0 <= run.duration < 60 for run in told)
    assert told[2].result == "word"


async def test_at_the_end_of_the_server(puppets: Puppets) -> None:
    """A run that a shutdown interrupts is told of before the server has ended; a call that goes on is waited for."""
    told: list[EndedRun] = []

    async def later(run: EndedRun) -> None:
        await asyncio.sleep(0.05)
        told.append(run)

    async with serving({"mine": puppets}, on_end=later) as server:
        run_id, _ = await begin(server, puppets)
    assert [(run.run_id, run.error_type, run.reason) for run in told] == [(run_id, "interrupted", "shutdown")]


async def test_an_application_s_own() -> None:
    """A `Twinwire` takes it as well; its user is told of, and forgotten, without a request."""
    told: list[EndedRun] = []
    ai = Twinwire({"echo": echo}, settings=Settings(), on_end=told.append)
    async with ai.lifespan():
        run = await ai.start("echo", "hello there", user="u", metadata={"team": "red"})
        assert (await run.wait()).status == "completed"
        await until(lambda: bool(told))
        await ai.forget(user="u")
        with pytest.raises(RunNotFound):
            await run.wait()
    assert [(each.run_id, each.user_id, each.metadata) for each in told] == [(run.run_id, "u", {"team": "red"})]


def _raise(error: BaseException) -> Callable[[EndedRun], None]:
    def fail(_: EndedRun) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), TimeoutError()], ids=repr
)
async def test_a_function_that_raises(error: BaseException, puppets: Puppets, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it raises is one log line, which names the run; the server and its other runs go on."""
    async with serving({"mine": puppets}, on_end=_raise(error)) as server:
        run_id = await end(server, puppets)
        await until(lambda: f"`on_end` failed for the run {run_id}." in caplog.text)
        await end(server, puppets)


async def test_a_function_that_hangs(
    puppets: Puppets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is cancelled after its time, and the log says so; the next call is made."""
    monkeypatch.setattr(endings, "CALL_SECONDS", 0.05)
    monkeypatch.setattr(endings, "CALLS_AT_ONCE", 1)
    told: list[str] = []

    async def hang(run: EndedRun) -> None:
        told.append(run.run_id)
        await asyncio.Event().wait()

    async with serving({"mine": puppets}, on_end=hang) as server:
        runs = [await end(server, puppets) for _ in range(2)]
        await until(lambda: told == runs)
        await until(lambda: caplog.text.count("`on_end` was cancelled") == 2)


async def test_calls_at_once(
    puppets: Puppets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bounded number of calls is under way, a bounded number waits, and what is over it is told in the log."""
    monkeypatch.setattr(endings, "CALLS_AT_ONCE", 2)
    monkeypatch.setattr(endings, "WAITING", 1)
    going, told = asyncio.Event(), list[str]()

    async def slow(run: EndedRun) -> None:
        told.append(run.run_id)
        await going.wait()

    async with serving({"mine": puppets}, on_end=slow) as server:
        runs = [await end(server, puppets) for _ in range(4)]
        assert f"`on_end` is not called for the run {runs[3]}" in caplog.text
        assert told == runs[:2]
        going.set()
        await until(lambda: told == runs[:3])


async def test_a_function_that_will_not_end(
    puppets: Puppets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that goes on after it was cancelled does not keep the server from ending, and a log line says so."""
    monkeypatch.setattr(endings, "CALL_SECONDS", 0.05)
    monkeypatch.setattr(endings, "DRAIN_SECONDS", 0.2)
    released = asyncio.Event()

    async def stubborn(_: EndedRun) -> None:
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await released.wait()

    async with serving({"mine": puppets}, on_end=stubborn) as server:
        await end(server, puppets)
    assert "`on_end` was not done for 1 runs" in caplog.text
    released.set()


async def test_a_result_is_not_kept(puppets: Puppets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs that wait to be told of, the bytes are bounded as well."""
    monkeypatch.setattr(endings, "CALLS_AT_ONCE", 1)
    monkeypatch.setattr(endings, "WAITING_BYTES", 1)
    going, told = asyncio.Event(), list[str]()

    async def slow(run: EndedRun) -> None:
        told.append(run.run_id)
        await going.wait()

    async with serving({"mine": puppets}, on_end=slow) as server:
        runs = [await end(server, puppets) for _ in range(3)]
        going.set()
        await until(lambda: told == runs[:2])


@pytest.fixture(autouse=True)
def lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "twinwire")
