"""Questions, answers and messages of a run whose process is gone: they stand in the next one."""

from __future__ import annotations

import asyncio

import pytest

from support.lasting import (
    Process,
    buried,  # noqa: F401 - a fixture
    types,
)
from support.serving import until
from twinwire.agents import RunRequest
from twinwire.agents.talk import Call
from twinwire.protocol.errors import InputExpired
from twinwire.protocol.events import StreamEvent, dump
from twinwire.runs.checkpoints import Checkpoint, checkpoint_of
from twinwire.runs.inputs import InputLimits

pytestmark = pytest.mark.usefixtures("buried")


async def asks(request: RunRequest) -> str:
    """Say something, ask twice, and tell what it heard beside."""
    request.emit("Well. ")
    first = await request.ask("Which?", timeout=60)
    second = await request.ask("Which?", schema={"type": "integer"}, timeout=60)
    heard = [said.content for said in request.messages.drain()]
    return f"{first} {second} {heard}"


async def test_an_answer_stands() -> None:
    """The agent that asks the same again gets the answer that was given, with no new question."""
    first = Process(asks)
    run_id = await first.start()
    await first.waits()
    assert await first.answer(run_id, "dev") == "accepted"
    await first.waits()
    second = Process(asks, first.log)
    first.die()
    assert await second.take_over(run_id)
    assert await second.answer(run_id, "other", message_id="other") == "already_answered"
    assert await second.answer(run_id, "dev") == "accepted"  # the same again
    await second.waits()
    assert await second.answer(run_id, 7, 2, "m2") == "accepted"
    events = await second.ended(run_id)
    assert events[-1].data["result"] == "dev 7 []"
    asked = [event.data for event in events if event.type == "INPUT_REQUESTED"]
    assert [each["input_id"][-1] for each in asked] == ["1", "2", "2"]  # the open one once more: the run waits for it
    assert asked[1] == asked[2]
    assert [event.data["answer"] for event in events if event.type == "INPUT_ANSWERED"] == ["dev", 7]


async def test_a_question_that_stays_open() -> None:
    """A waiting run waits in the next process as well, as others see it and for its own deadline; ten times over."""
    process = Process(asks)
    run_id = await process.start()
    await process.waits()
    for _ in range(10):
        heir = Process(asks, process.log)
        process.die()
        process = heir
        assert await process.take_over(run_id)
        await process.waits()
        assert process.runs._live[run_id]._deadline.due == float("inf")
        await until(lambda process=process: process.log.kept[run_id].claims == 0)  # type: ignore[misc]
    assert await process.answer(run_id, "dev") == "accepted"
    await process.waits()
    assert await process.answer(run_id, 1, 2, "m2") == "accepted"
    events = await process.ended(run_id)
    assert events[-1].data["result"] == "dev 1 []"
    assert len({event.data["expires_at"] for event in events if event.type == "INPUT_REQUESTED"}) == 2


async def test_a_process_that_dies_before_the_run_waits_counts() -> None:
    """A run that has only begun in a process, or works on something else, writes no checkpoint for that."""

    async def dies(request: RunRequest) -> None:
        if request.past is None:
            await request.ask("Which?")
        await asyncio.Event().wait()

    process = Process(dies)
    run_id = await process.start()
    await process.waits()
    for claims in range(1, 4):
        heir = Process(dies, process.log)
        process.die()
        process = heir
        assert await process.take_over(run_id)
        assert process.log.kept[run_id].claims == claims
    assert await process.cancel(run_id) == "accepted"


async def test_a_question_that_has_expired_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is that of the wall: a process that comes too late closes it, and the agent hears of it."""
    heard: list[type] = []

    async def insists(request: RunRequest) -> str:
        try:
            await request.ask("Which?", timeout=60)
        except InputExpired as error:
            heard.append(type(error))
        return "done"

    first = Process(insists)
    run_id = await first.start()
    await first.waits()
    second = Process(insists, first.log)
    first.die()
    monkeypatch.setattr("twinwire.runs.inputs._left", lambda expires_at, otherwise: -1.0)  # noqa: ARG005 - as it takes
    assert await second.take_over(run_id)
    events = await second.ended(run_id)
    assert heard == [InputExpired]
    assert [event.data for event in events if event.type == "INPUT_ANSWERED"] == [
        {"input_id": f"ask-{run_id}-1", "expired": True}
    ]


async def test_questions_before_the_checkpoint_are_others() -> None:
    """The same words, asked again in a later step, are a new question with a new id."""

    async def twice(request: RunRequest) -> str:
        answers = [] if request.past is None else list(request.past.state)
        while len(answers) < 2:
            answers.append(await request.ask("Which?"))
            await request.checkpoint(answers)
        return " ".join(answers)

    first = Process(twice)
    run_id = await first.start()
    await first.waits()
    assert await first.answer(run_id, "one") == "accepted"
    await until(lambda: first.log.kept[run_id].checkpoint != b"")
    await first.waits()
    second = Process(twice, first.log)
    first.die()
    assert await second.take_over(run_id)
    await second.waits()
    assert await second.answer(run_id, "two", 2, "m2") == "accepted"
    assert (await second.ended(run_id))[-1].data["result"] == "one two"


async def test_an_approval_stands() -> None:
    """A call that was approved, with other parameters, is approved in the next process, and waits for nobody."""
    halt = [True]

    async def calls(request: RunRequest) -> str:
        request.emit(StreamEvent("TOOL_CALL_START", {"tool_call_id": "c", "tool_name": "T", "parameters": {"a": 1}}))
        await request.checkpoint("asked", counts=True)
        decision = await request.approve(Call("c", "T", {"a": 1}))
        if halt.pop() if halt else False:
            await asyncio.Event().wait()
        return f"{decision.approved} {decision.parameters}"

    async def goes_on(request: RunRequest) -> str:
        if request.past is None:
            return await calls(request)
        decision = await request.approve(Call("c", "T", {"a": 1}))
        return f"{decision.approved} {decision.parameters}"

    first = Process(goes_on)
    run_id = await first.start()
    await first.waits()
    verdict = {"decision": "approve", "parameters": {"a": 2}}
    assert await first.answer(run_id, verdict) == "accepted"
    await until(lambda: not halt)
    second = Process(goes_on, first.log)
    first.die()
    assert await second.take_over(run_id)
    events = await second.ended(run_id)
    assert events[-1].data["result"] == "True {'a': 2}"
    assert types(events).count("INPUT_REQUESTED") == 1


async def test_a_waiting_call_goes_on_waiting() -> None:
    """Where nothing is void, an open approval is attached to without a word, and the run waits all the while."""

    async def calls(request: RunRequest) -> str:
        if request.past is None:
            call = {"tool_call_id": "c", "tool_name": "T", "parameters": {}}
            request.emit(StreamEvent("TOOL_CALL_START", call))
            await request.checkpoint("asked", counts=True)
        return f"{(await request.approve(Call('c', 'T', {}))).approved}"

    first = Process(calls)
    run_id = await first.start()
    await first.waits()
    second = Process(calls, first.log)
    first.die()
    assert await second.take_over(run_id)
    assert second.runs.waiting == (1, 1)
    await until(lambda: second.log.kept[run_id].claims == 0)
    assert await second.answer(run_id, {"decision": "approve"}) == "accepted"
    events = await second.ended(run_id)
    assert types(events).startswith("AGENT_START TOOL_CALL_START INPUT_REQUESTED RUN_RESUMED INPUT_ANSWERED LLM_CHUNK")


async def test_messages_that_were_not_read() -> None:
    """The agent reads those that its checkpoint has not, once more, and the same message again is known."""
    halted = asyncio.Event()

    async def reads(request: RunRequest) -> str:
        heard = [] if request.past is None else list(request.past.state)
        async for said in request.messages:
            heard.append(said.content)
            if said.content == "kept":
                await request.checkpoint(heard)
            if said.content == "lost" and request.past is None:
                halted.set()
                await asyncio.Event().wait()
            if said.content == "end":
                break
        return " ".join(heard)

    first = Process(reads)
    run_id = await first.start(session_id="s", user_id="u")
    for word in ("one", "kept", "lost", "unread"):
        assert await first.send(run_id, word, word) == "accepted"
    await halted.wait()
    second = Process(reads, first.log)
    first.die()
    assert await second.take_over(run_id)
    for word in ("lost", "end"):
        assert await second.send(run_id, word, word) == "accepted"
    events = await second.ended(run_id)
    assert events[-1].data["result"] == "one kept lost unread end"
    assert types(events).count("USER_MESSAGE") == 5
    await until(lambda: not second.runs._tasks)
    (asked, answered) = await second.log.history(("u", "s"))
    assert asked["content"] == "hi\n\none\n\nkept\n\nlost\n\nunread\n\nend"
    assert answered["content"] == "one kept lost unread end"


async def test_the_longest_wait_goes_on() -> None:
    """What a run has waited for its user in other processes counts for the most that it may, and for no deadline."""
    first = Process(asks, inputs=InputLimits(longest=100.0))
    run_id = await first.start()
    await first.waits()
    assert await first.answer(run_id, "dev") == "accepted"
    kept = Checkpoint(after=2, elapsed=70.0, waited=40.0)
    first.log.kept[run_id].checkpoint = dump(kept)
    second = Process(asks, first.log, inputs=InputLimits(longest=100.0))
    first.die()
    assert await second.take_over(run_id)
    await second.waits()
    deadline = second.runs._live[run_id]._deadline
    assert deadline.waited == pytest.approx(40.0, abs=5.0)
    assert deadline._left == pytest.approx(60.0 - 30.0, abs=5.0)
    again = checkpoint_of(first.log.kept[run_id].checkpoint)  # since the run waits once more
    assert again.elapsed == pytest.approx(70.0, abs=5.0)
    assert again.waited == pytest.approx(40.0, abs=5.0)
    assert await second.cancel(run_id) == "accepted"
