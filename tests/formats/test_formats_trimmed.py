"""A run whose first events are trimmed, in other protocols' formats: they begin with the state it has come to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, strategies as st

from support.chats import Transport, frames, http, opened, said
from support.formats_rules import RUN, RUNS, check_ag_ui, check_ai_sdk, check_openai, datas, paged, records
from support.redis_server import fresh
from support.serving import Puppet, Puppets, Running, serving, until
from support.turns import approved, begin, kinds, ui
from twinwire.auth import ANYBODY
from twinwire.formats import ag_ui, ai_sdk, openai
from twinwire.formats.recap import TRIMMED, recap
from twinwire.protocol.events import StreamEvent
from twinwire.protocol.fold import Fold

CREATED = "2026-02-21T10:30:45.123Z"
KEPT = 16
WORDS = [f"w{number} " for number in range(3 * KEPT)]
WHOLE = "".join(WORDS)


def folded(events: list[StreamEvent]) -> Fold:
    fold = Fold()
    for event in events:
        fold.apply(event)
    return fold


def begun(events: list[StreamEvent], seq: int) -> list[StreamEvent]:
    """A recap of the run up to this event."""
    return recap(RUN, "a", CREATED, seq, folded(events[:seq]).state)


CUTS = st.builds(lambda run, at: (run, at % len(run)), RUNS, st.integers(0, 100))


@given(CUTS)
def test_a_recap_comes_to_the_same(cut: tuple[list[StreamEvent], int]) -> None:
    """The events of a recap, folded, are the state that they are made of, but for the progress."""
    events, seq = cut
    before, after = folded(events[:seq]).state, folded(begun(events, seq)).state
    assert {**after, "progress": before["progress"]} == before


@given(CUTS)
def test_a_fold_goes_on(cut: tuple[list[StreamEvent], int]) -> None:
    """A fold that is restored from a state, as JSON, goes on as if it had never been let go."""
    events, seq = cut
    restored = Fold.restored(json.loads(json.dumps(folded(events[:seq]).state)))
    for event in events[seq:]:
        restored.apply(event)
    end = folded(events).state
    assert restored.state == end


@given(CUTS, st.integers(1, 5))
def test_any_run_is_valid(cut: tuple[list[StreamEvent], int], size: int) -> None:
    """A recap of any run up to any event, and then the other events, is what the clients of each format take."""
    events, seq = cut
    start, rest = begun(events, seq), records(events)[seq:]
    chunks = datas([*(view := ai_sdk.view()).recap(start), *paged(view, rest, size)])
    assert chunks.pop() == "[DONE]"
    check_ai_sdk(chunks)
    late = ag_ui.Late(ag_ui.Events(), [{"id": "u1", "role": "user", "content": "hi"}])
    check_ag_ui(datas([*late.recap(start), *paged(late, rest, size)]))
    completions = openai.view("react", usage=True)
    chunks = datas([*completions.recap(start), *paged(completions, rest, size)])
    assert chunks.pop() == "[DONE]"
    check_openai(chunks)
    socket = ai_sdk.SocketView("r1", ai_sdk.Chunks())
    messages = [json.loads(frame) for frame in [*socket.recap(start), *paged(socket, rest, size)]]
    assert [message["sequence"] for message in messages[:-1]] == list(range(len(messages) - 1))


def test_a_text_that_the_client_has_begun() -> None:
    """An AG-UI client that has the beginning of the open text gets the whole of it under the same name, and once."""
    run = [StreamEvent("STEP_START", {"step": 1}), *(StreamEvent("LLM_CHUNK", {"content": word}) for word in WORDS)]
    mine = {"id": f"{RUN}-2", "role": "assistant", "content": WHOLE[:20]}
    late = ag_ui.Late(ag_ui.Events(), [mine])
    started, told, snapshot, *opened = datas(late.recap(begun(run, len(run))))
    assert (started["type"], told["name"], told["value"]) == ("RUN_STARTED", TRIMMED, {"upto": len(run)})
    assert snapshot["messages"] == []
    assert [(event["type"], event.get("messageId"), event.get("delta")) for event in opened[1:]] == [
        ("TEXT_MESSAGE_START", f"{RUN}-2", None),
        ("TEXT_MESSAGE_CONTENT", f"{RUN}-2", WHOLE),
    ]
    other = ag_ui.Late(ag_ui.Events(), [{**mine, "content": "Something else."}])
    assert f"{RUN}-1-text" in {event.get("messageId") for event in datas(other.recap(begun(run, len(run))))}


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def two(
    request: pytest.FixtureRequest, puppets: Puppets, tmp_path: Path
) -> AsyncIterator[tuple[Running, Running]]:
    """The server on which runs start, and one that is asked for them: another one, if they can share the log."""
    log = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/log.db"}.get(request.param) or fresh()
    async with AsyncExitStack() as stack:
        served = [
            await stack.enter_async_context(serving({"mine": puppets}, log=log, log_events=KEPT))
            for _ in range(1 + (request.param == "redis"))
        ]
        yield served[0], served[-1]


async def trimmed(here: Running, run_id: str) -> None:
    """Wait until the run is trimmed."""
    while (await here.runs.state(run_id, ANYBODY)).first == 1:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.005)


async def long_run(here: Running, puppets: Puppets, **fields: Any) -> Puppet:
    """A run that has said `WHOLE` in its first step, and is trimmed."""
    async with http(here) as client:
        asked = {"message": "hi", "on_disconnect": "continue", **fields}
        assert (await client.post("/runs", json=asked)).status_code == 201
    puppet = await puppets.next()
    puppet.emit("STEP_START", step=1, max_steps=2)
    puppet.say(*WORDS)
    run_id = puppet.request.run_id
    await until(lambda: here.runs._live[run_id].fold.text == WHOLE)
    await trimmed(here, run_id)
    return puppet


def text(name: str, values: list[Any]) -> str:
    """The text that a client of this format has after these values."""
    if name == "openai":
        return "".join(value["choices"][0]["delta"].get("content", "") for value in values if value.get("choices"))
    kind = {"ai-sdk": "text-delta", "ag-ui": "TEXT_MESSAGE_CONTENT"}[name]
    return "".join(value["delta"] for value in values if value["type"] == kind)


CHECKS: dict[str, Callable[[list[Any]], None]] = {
    "ai-sdk": check_ai_sdk,
    "ag-ui": check_ag_ui,
    "openai": lambda _: None,
}


@pytest.mark.parametrize("name", CHECKS)
async def test_each_format(name: str, two: tuple[Running, Running], puppets: Puppets) -> None:
    """The text of the step is whole, while the run goes on and after its end, also on a worker that does not own it."""
    here, there = two
    puppet = await long_run(here, puppets)
    path = f"/runs/{puppet.request.run_id}/events?format={name}"
    async with http(there) as client:
        live = asyncio.create_task(client.get(path))
        await until(lambda: len(there.service.heartbeats.pumps) == 1)
        puppet.say("and on")
        puppet.end()
        answers = [await live, await client.get(path)]
    for answer in answers:
        values = [value for value in frames(answer) if value != "[DONE]"]
        assert text(name, values) == f"{WHOLE}and on"
        CHECKS[name](values)
        notes = {"ai-sdk": ["data-trimmed"], "ag-ui": ["CUSTOM"], "openai": []}[name]
        assert [value["type"] for value in values if value.get("type") in {"data-trimmed", "CUSTOM"}] == notes


@pytest.mark.parametrize("name", ["ai-sdk", "openai"])
async def test_a_cursor_is_no_business_of_theirs(name: str, two: tuple[Running, Running], puppets: Puppets) -> None:
    """A format that begins with the run refuses `after`, of a trimmed run as of any."""
    here, there = two
    run_id = (await long_run(here, puppets)).request.run_id
    async with http(there) as client:
        refused = await client.get(f"/runs/{run_id}/events?format={name}&after=30")
        assert (refused.status_code, refused.json()["field"]) == (400, "after")


async def test_a_snapshot(two: tuple[Running, Running], puppets: Puppets) -> None:
    """The snapshot of a trimmed run is whole on each worker, while the run goes on and when it has ended."""
    here, there = two
    puppet = await long_run(here, puppets)
    path = f"/runs/{puppet.request.run_id}"
    async with http(there) as client:
        live = (await client.get(f"{path}/snapshot")).json()
        assert (live["seq"], live["state"]["text"], live["state"]["step"]) == (len(WORDS) + 2, WHOLE, 1)
        puppet.end()
        while (await client.get(path)).json()["status"] == "running":
            pass
        ended = (await client.get(f"{path}/snapshot")).json()
        assert (ended["seq"], ended["state"]["text"], ended["state"]["status"]) == (len(WORDS) + 3, WHOLE, "completed")


async def test_a_chat_is_resumed(two: tuple[Running, Running], puppets: Puppets) -> None:
    """The AI SDK's page resumes a chat whose run is trimmed, over HTTP and over its socket."""
    here, there = two
    puppet = await long_run(here, puppets, session_id="c")
    async with http(there) as client, opened(there) as connection:
        transport = Transport(connection)
        await transport.say("resume", "r1", id="c")
        resumed = asyncio.create_task(client.get("/ai-sdk/chat/c/stream"))
        await until(lambda: len(there.service.heartbeats.pumps) == 2)
        messages = [await transport.next()]
        while text("ai-sdk", [message["chunk"] for message in messages if "chunk" in message]) != WHOLE:
            messages.append(await transport.next())
        puppet.say("and on")
        puppet.end()
        messages += await transport.until("end", "r1")
        chunks = [message["chunk"] for message in messages if message["type"] == "chunk"]
        assert chunks == frames(await resumed)[:-1]
        check_ai_sdk(chunks)
        assert text("ai-sdk", chunks) == f"{WHOLE}and on"


async def test_a_question_is_answered(two: tuple[Running, Running], puppets: Puppets) -> None:
    """A chat's page that has seen all answers the question of a trimmed run, on any worker, and the run goes on."""
    here, there = two
    chat = "/ai-sdk/chat?on_disconnect=cancel"
    async with http(here) as client, http(there) as other:
        first, run = await begin(client, puppets, chat, {"id": "c", "messages": said("a")})
        await until(lambda: len(here.service.heartbeats.pumps) == 1)
        run.puppet.say(*WORDS)
        decided = await run.approve(here)
        told = frames(await first)
        await trimmed(here, run.run_id)
        assert text("ai-sdk", told[:-1]) == WHOLE
        answer = {"id": "c", "messages": [*said("a"), approved(ui(told))]}
        second = asyncio.create_task(other.post(chat, json=answer))
        assert (await decided).approved
        run.finish()
        run.end("done")
        more = frames(await second)
        assert kinds(more)[-2:] == ["finish", "[DONE]"]
        assert text("ai-sdk", more[:-1]) == "done"
        call = f"{run.run_id}-{len(WORDS) + 2}"
        assert [chunk["toolCallId"] for chunk in more[:-1] if chunk["type"] == "tool-output-available"] == [call]
    assert puppets.started == 1


async def test_an_interrupt_is_resumed(two: tuple[Running, Running], puppets: Puppets) -> None:
    """AG-UI's `resume` answers the question of a trimmed run, and joins it with the state it has come to."""
    here, there = two
    path = "/ag-ui?on_disconnect=cancel"
    body = {"threadId": "t", "messages": [{"id": "u1", "role": "user", "content": "a"}], "protocolVersion": "1.0"}
    async with http(here) as client, http(there) as other:
        first, run = await begin(client, puppets, path, {**body, "runId": "r1"})
        await until(lambda: len(here.service.heartbeats.pumps) == 1)
        run.puppet.say(*WORDS)
        await until(lambda: here.runs._live[run.run_id].fold.text == WHOLE)
        choice = run.ask()
        [interrupt] = frames(await first)[-1]["outcome"]["interrupts"]
        await trimmed(here, run.run_id)
        mine = {"id": f"{run.run_id}-2", "role": "assistant", "content": WHOLE}
        resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": "dev"}]
        asked = {**body, "messages": [*body["messages"], mine], "runId": "r2", "resume": resume}
        second = asyncio.create_task(other.post(path, json=asked))
        assert await choice == "dev"
        run.end("done")
        seen = frames(await second)
        check_ag_ui(seen)
        assert (seen[0]["runId"], seen[-1]["outcome"]) == ("r2", {"type": "success"})
        assert text("ag-ui", seen) in {f"{WHOLE}done", "done"}  # whether it had said so when it was joined


async def test_a_question_that_is_trimmed(two: tuple[Running, Running], puppets: Puppets) -> None:
    """A question that is no longer in the log is gone for the AI SDK: an answer to it is 410, and changes nothing."""
    here, there = two
    chat = "/ai-sdk/chat?on_disconnect=continue"
    async with http(here) as client, http(there) as other:
        first, run = await begin(client, puppets, chat, {"id": "c", "messages": said("a")})
        decided = await run.approve(here)
        told = frames(await first)
        answer = {"id": "c", "messages": [*said("a"), approved(ui(told))]}
        async with client.stream("POST", chat, json=answer):
            assert (await decided).approved
            run.puppet.say(*WORDS)
            await until(lambda: here.runs._live[run.run_id].fold.text == WHOLE)
        await trimmed(here, run.run_id)
        gone: httpx.Response = await other.post(chat, json=answer)
        assert (gone.status_code, gone.json()["code"]) == (410, "gap")
        run.end("done")
