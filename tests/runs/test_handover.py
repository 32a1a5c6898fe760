"""A cancel, an answer and a message at each instant of a hand-over: what is acknowledged holds, and counts once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.lasting import (
    NOBODY,
    Process,
    buried,  # noqa: F401 - a fixture
    types,
)
from support.serving import until
from twinwire.agents import RunRequest
from twinwire.protocol.errors import UnknownOutcome

MOST = 100  # turns of the loop, of which a hand-over takes fewer

Command = Callable[[Process, str], Awaitable[str]]


async def asks(request: RunRequest) -> str:
    """Ask, and tell the answer and what was said meanwhile."""
    answer = await request.ask("Which?")
    heard = [said.content for said in request.messages.drain()]
    await request.checkpoint([answer, heard])
    return f"{answer} {heard}"


async def cancels(process: Process, run_id: str) -> str:
    return await process.cancel(run_id)


async def answers(process: Process, run_id: str) -> str:
    return await process.answer(run_id, "dev")


async def sends(process: Process, run_id: str) -> str:
    return await process.send(run_id, "hurry")


COMMANDS: list[Command] = [cancels, answers, sends]

pytestmark = pytest.mark.usefixtures("buried")


async def waiting() -> tuple[Process, Process, str]:
    """Two processes, the first of which has a run that waits for an answer."""
    first = Process(asks)
    second = Process(asks, first.log)
    run_id = await first.start()
    await first.waits()
    return first, second, run_id


async def _check(command: Command, status: str, second: Process, run_id: str) -> None:
    """See that the command had its effect, once."""
    assert status == "accepted"
    if command is cancels:
        events = await second.ended(run_id)
        assert events[-1].data["status"] == "cancelled"
        return
    if command is sends:
        await until(lambda: run_id in second.runs._live)
        assert await second.answer(run_id, "dev") == "accepted"
    events = await second.ended(run_id)
    assert events[-1].data["result"] == ("dev ['hurry']" if command is sends else "dev []")
    assert types(events).count("INPUT_ANSWERED") == 1
    assert types(events).count("USER_MESSAGE") == (command is sends)


async def after(turns: int, work: asyncio.Task[Any]) -> bool:
    """Let the event loop take so many turns; whether the work goes on."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return not work.done()


@pytest.mark.parametrize("through", ["the one that ends", "the other"])
@pytest.mark.parametrize("command", COMMANDS)
async def test_while_a_run_is_put_down(command: Command, through: str) -> None:
    """It comes through whichever process, at each turn of the loop while one gives the run up and one takes it."""
    for turns in range(MOST):
        first, second, run_id = await waiting()

        async def hands_over(first: Process = first, second: Process = second, run_id: str = run_id) -> None:
            await first.put_down()
            if first.log.kept[run_id].owner == NOBODY:
                assert await second.take_over(run_id)

        handing = asyncio.ensure_future(hands_over())
        goes_on = await after(turns, handing)
        status = await command(first if through == "the one that ends" else second, run_id)
        await handing
        await _check(command, status, second, run_id)
        if not goes_on:
            break
    assert 3 < turns < MOST - 1


@pytest.mark.parametrize("command", COMMANDS)
async def test_while_a_dead_process_is_followed(command: Command) -> None:
    """It comes through the process that takes the run over, at each turn of the loop meanwhile."""
    for turns in range(MOST):
        first, second, run_id = await waiting()
        first.die()
        taking = asyncio.ensure_future(second.take_over(run_id))
        goes_on = await after(turns, taking)
        status = await command(second, run_id)
        assert await taking
        await _check(command, status, second, run_id)
        if not goes_on:
            break
    assert 3 < turns < MOST - 1


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_process_dies_while_it_acknowledges(command: Command) -> None:
    """What it has acknowledged holds in the next one; what it has not can be said again, and counts once."""
    unsure = 0
    for turns in range(MOST):
        first, second, run_id = await waiting()
        saying = asyncio.ensure_future(command(first, run_id))
        goes_on = await after(turns, saying)
        first.die()
        if not first.log._entry(run_id).tail.ended:
            assert await second.take_over(run_id)
        if goes_on:
            unsure += 1
            again = await command(second, run_id)
            assert again == "accepted" or (command is cancels and again == "already_finished")
        else:
            assert await saying == "accepted"
        await _check(command, "accepted", second, run_id)
        if not goes_on:
            break
    assert unsure >= 1
    assert turns < MOST - 1


async def test_nobody_takes_the_run_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever says something to it hears that nobody knows, and says it again once somebody does."""
    monkeypatch.setattr("twinwire.runs.reach.SAY_SECONDS", 0.05)
    first, second, run_id = await waiting()
    await first.put_down()
    with pytest.raises(UnknownOutcome):
        await first.answer(run_id, "dev")
    assert await second.take_over(run_id)
    assert await second.answer(run_id, "dev") == "accepted"
    assert (await second.ended(run_id))[-1].data["result"] == "dev []"
