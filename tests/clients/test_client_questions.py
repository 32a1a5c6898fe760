"""The Python client hears what a run asks, answers it, and says more to it: with a real server, on both transports."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.asking_agents import AGENTS, BRANCH
from support.chaos import chaos
from support.credentials import AUTH, TOKENS
from support.following import NOWHERE, Transport, both, connected, words
from support.serving import Running, serving
from twinwire_client import Acknowledgement, ApiError, Question, Run, RunNotFound, SyncClient, SyncQuestion


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with serving(AGENTS) as running:
        yield running


async def asked(run: Run) -> Question:
    """Read on until the run asks."""
    async for event in run:
        if event.type == "INPUT_REQUESTED":
            return run.questions[-1]
    raise AssertionError("The run asked nothing.")


@both
async def test_a_function_that_answers(transport: Transport, server: Running) -> None:
    """`on_input` is called with each question as it is read, and what it returns is awaited beside the run."""
    said = []

    async def answer(question: Question) -> None:
        said.append(await question.answer("dev"))

    async with connected(server.url, transport=transport) as client:
        async with client.stream("m", agent="asks", on_input=answer) as run:
            assert await run.wait() == '"dev"'
        assert [each.status for each in said] == ["accepted"]
        async with client.stream("m", agent="calls", on_input=lambda question: question.approve({"path": "b"})) as run:
            assert await run.wait() == 'True {"path": "b"} None'
        async with client.stream("m", agent="calls", on_input=lambda question: question.reject("No.")) as run:
            assert await run.wait() == 'False {"path": "a"} No.'


@both
async def test_what_a_question_is(transport: Transport, server: Running) -> None:
    """A run tells its open questions, with all that INPUT_REQUESTED has, until they are answered."""
    async with connected(server.url, transport=transport) as client:
        async with client.stream("m", agent="asks") as run:
            question = await asked(run)
            assert (question.kind, question.prompt, question.schema) == ("question", "Which one?", BRANCH)
            assert question.input_id == f"ask-{run.run_id}-1"
            assert question.expires_at is not None
            info = await client.get(run.run_id)
            assert (info["waiting"], [each["input_id"] for each in info["questions"]]) == (True, [question.input_id])
            assert await question.answer("main", message_id="m1") == Acknowledgement("accepted", "m1")
            assert run.questions == [question]
            assert (await anext(run)).type == "INPUT_ANSWERED"
            assert run.questions == []
            assert await run.wait() == '"main"'
        async with client.stream("m", agent="calls") as run:
            question = await asked(run)
            assert (question.kind, question.tool_name, question.parameters) == ("approval", "Delete", {"path": "a"})
            assert question.tool_call_id == "c"
            await run.cancel()
            await run.wait()
            assert run.questions == []


@both
async def test_from_another_device(transport: Transport) -> None:
    """A question is answered by whoever is first; who comes late hears of it, and everybody of the answer."""
    heard: list[str] = []
    async with (
        serving(AGENTS, **AUTH) as server,
        connected(server.url, transport=transport, token=TOKENS["alice"]) as desk,
        desk.stream("m", agent="stays") as run,
        connected(server.url, transport=transport, token=TOKENS["alice"]) as phone,
    ):
        question = await asked(run)
        late = phone.attach(run.run_id, snapshot=True, on_input=lambda each: heard.append(each.input_id))
        async with late:
            assert heard == [question.input_id] == [each.input_id for each in late.questions]
            assert (await late.questions[0].answer("dev")).status == "accepted"
            second = await question.answer("main")
            first = (await anext(run)).data
            assert first["answer"] == "dev"
            assert (second.status, second.by, second.message_id) == ("already_answered", "alice", first["message_id"])
            assert second.at is not None
            await late.send("Go on.")
            assert await late.wait() == "dev"
        assert (await question.answer("main")).status == "already_finished"
        heard.clear()
        async with phone.attach(run.run_id, on_input=lambda each: heard.append(each.input_id)) as again:
            assert await again.wait() == "dev"
        assert heard == []


@both
async def test_an_answer_that_does_not_fit(transport: Transport, server: Running) -> None:
    """It is an error whose field is the path of what is wrong, and the question stays open."""
    async with connected(server.url, transport=transport) as client, client.stream("name", agent="asks") as run:
        question = await asked(run)
        for value, field in ((3, "answer"), ({"name": "B"}, "answer.name"), ({"name": "Bo", "age": -1}, "answer.age")):
            with pytest.raises(ApiError) as caught:
                await question.answer(value)
            assert (caught.value.code, caught.value.field) == ("bad_request", field)
        assert (await question.answer({"name": "Bo"})).status == "accepted"
        assert await run.wait() == '{"name": "Bo"}'


@both
async def test_messages(transport: Transport, server: Running) -> None:
    """Messages to a run reach its agent in order, once for each id; none does after its end."""
    async with connected(server.url, transport=transport) as client, client.stream("m", agent="listens") as run:
        assert (await run.send("one", message_id="m1")) == Acknowledgement("accepted", "m1")
        assert (await run.send("one", message_id="m1")) == Acknowledgement("accepted", "m1")
        with pytest.raises(ApiError) as caught:
            await run.send("two", message_id="m1")
        assert caught.value.code == "idempotency_mismatch"
        assert (await client.send(run.run_id, "x" * 100_000)).status == "accepted"
        assert (await client.send(run.run_id, "end")).status == "accepted"
        assert await run.wait() == f"listening one {'x' * 100_000} "
        assert (await run.send("late")).status == "already_finished"


@both
async def test_what_is_nowhere(transport: Transport, server: Running) -> None:
    """A run and a question that do not exist are told as such."""
    async with connected(server.url, transport=transport) as client, client.stream("m", agent="asks") as run:
        for unknown in (f"ask-{run.run_id}-9", "../cancel", ""):
            assert (await run.answer(unknown, "x")).status == "not_found"
        with pytest.raises(RunNotFound):
            await client.send(NOWHERE, "x")
        with pytest.raises(RunNotFound):
            await client.send("../x", "x")
        assert (await client.get(run.run_id))["status"] == "running"


@both
async def test_across_a_cut_connection(transport: Transport, server: Running) -> None:
    """A question outlives its connection, and is told of once; its answer gets through."""
    heard: list[str] = []
    async with chaos(server.port) as proxy, connected(proxy.url, transport=transport) as client:
        async with client.stream("m", agent="asks", on_input=lambda each: heard.append(each.input_id)) as run:
            question = await asked(run)
            for link in list(proxy.links.values()):
                link.cut()
            assert (await question.answer("dev")).status == "accepted"
            assert await run.wait() == '"dev"'
        assert heard == [question.input_id]


async def test_a_function_that_fails(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """What `on_input` raises, at once or later, is logged and harms nobody."""

    def at_once(_: Question) -> None:
        raise ZeroDivisionError

    async def later(_: Question) -> None:
        raise ZeroDivisionError

    for function in (at_once, later):
        caplog.clear()
        with caplog.at_level(logging.ERROR, "twinwire_client"):
            async with connected(server.url) as client, client.stream("m", agent="asks", on_input=function) as run:
                await (await asked(run)).answer("dev")
                assert await run.wait() == '"dev"'
        assert [record.message for record in caplog.records] == ["The client's `on_input` function failed."]


@both
async def test_a_function_that_goes_on(transport: Transport, server: Running) -> None:
    """What still answers when the run is closed is cancelled, but for what closes the run or its client itself."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def waits(_: Question) -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with connected(server.url, transport=transport) as client:
        async with client.stream("m", agent="asks", on_input=waits) as run:
            await asked(run)
            await began.wait()
        assert ended.is_set()
    for closes in ("run", "client"):
        ended.clear()

        async def close(_: Question) -> None:
            await (run.aclose() if closes == "run" else client.aclose())  # noqa: B023 - it runs in this round
            ended.set()

        async with (
            connected(server.url, transport=transport) as client,
            client.stream("m", agent="asks", on_input=close) as run,
        ):
            await asked(run)
            await ended.wait()


async def test_bad_arguments(server: Running) -> None:
    """Arguments that no server could take are a TypeError or a ValueError; a filter must leave the questions in."""
    async with connected(server.url) as client, client.stream("m", agent="asks") as run:
        for value in (object(), {1, 2}, b""):
            with pytest.raises(TypeError, match="`value` must be what JSON can tell"):
                await run.answer("ask", value)
        for value in (float("nan"), "\ud800"):
            with pytest.raises(ValueError, match="`value` must be what JSON can tell"):
                await run.answer("ask", value)
        with pytest.raises(TypeError, match="`content` must be a text"):
            await run.send(5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="`types` must have INPUT_REQUESTED and INPUT_ANSWERED"):
            client.stream("m", types=["LLM_CHUNK", "INPUT_REQUESTED"], on_input=print)
        types = ["INPUT_REQUESTED", "INPUT_ANSWERED", "LLM_CHUNK"]
        how: dict[str, Any] = {"agent": "asks", "types": types}
        async with client.stream("m", **how, on_input=lambda each: each.answer("main")) as filtered:
            assert words([event async for event in filtered]) == ['"main"']


@both
async def test_without_an_event_loop(transport: Transport, server: Running) -> None:
    """In a `SyncClient` the function is called in the thread that reads, may block, and answers with what waits."""

    def program() -> None:
        threads = []

        def answer(question: SyncQuestion) -> None:
            threads.append(threading.current_thread())
            assert (question.prompt, question.schema) == ("Which one?", BRANCH)
            said.append(question.answer("dev").status)
            said.append(question.answer("main").status)

        said: list[str] = []
        with SyncClient(server.url, transport=transport) as client:
            with client.stream("m", agent="stays", on_input=answer) as run:
                assert [event.type for event in (next(run), next(run))] == ["AGENT_START", "INPUT_REQUESTED"]
                run.send("Go on.")
                assert run.wait() == "dev"
            assert (said, threads) == (["accepted", "already_answered"], [threading.current_thread()])
            with client.stream("m", agent="calls") as run:
                assert [event.type for event in (next(run), next(run), next(run))][-1] == "INPUT_REQUESTED"
                with client.attach(run.run_id, snapshot=True, on_input=lambda each: each.approve()) as late:
                    assert late.wait() == 'True {"path": "a"} None'
                assert run.questions[0].reject("Late.").status == "already_finished"
            with client.stream("m", agent="listens") as run:
                assert run.send("end").status == "accepted"
                assert run.wait() == "listening "
            with client.stream("m", agent="asks") as run:
                assert client.answer(run.run_id, f"ask-{run.run_id}-1", "dev", message_id="m").message_id == "m"
                assert run.answer(f"ask-{run.run_id}-1", "dev", message_id="m").status == "accepted"
                assert run.wait() == '"dev"'
                assert client.send(run.run_id, "late").status == "already_finished"
            heard: list[SyncQuestion] = []
            with client.stream("m", agent="asks", on_input=heard.append) as run:
                for seconds in (0.5, 0):
                    with pytest.raises(TimeoutError):
                        run.wait(timeout=seconds)
                assert heard.pop().answer("dev").status == "accepted"
                assert (run.wait(30), heard) == ('"dev"', [])

            async def never(_: Question) -> None: ...

            with pytest.raises(TypeError, match="`on_input` of a `SyncClient` must not be async"):
                client.stream("m", on_input=never)

    await asyncio.to_thread(program)


def test_same_signatures() -> None:
    """A question takes the same, and says the same of it, with and without an event loop."""
    for name in ("answer", "approve", "reject"):
        ours, theirs = getattr(SyncQuestion, name), getattr(Question, name)
        assert inspect.signature(ours) == inspect.signature(theirs)
