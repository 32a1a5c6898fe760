"""A run that asks, on AG-UI's route: a turn ends with interrupts, and `resume` goes on. On `/v1` none can ask."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from support.chats import frames, http
from support.formats_rules import check_ag_ui
from support.serving import Puppets, Running, until
from support.turns import Asking, begin, events, kinds
from twinwire.agents.talk import Decision
from twinwire.auth import ANYBODY
from twinwire.protocol.errors import InputNotPossible
from twinwire.protocol.fold import Fold
from twinwire.web.compat import turns

pytestmark = [
    pytest.mark.parametrize("below", ["direct", "plain"], indirect=True),
    pytest.mark.usefixtures("below"),
]


def thread(run_id: str, *resume: dict[str, Any]) -> dict[str, Any]:
    asked = {"id": "u1", "role": "user", "content": "a"}
    body: dict[str, Any] = {"threadId": "t", "runId": run_id, "messages": [asked], "protocolVersion": "1.0"}
    return {**body, "resume": [*resume]} if resume else body


def resolved(interrupt: dict[str, Any], payload: Any) -> dict[str, Any]:
    return {"interruptId": interrupt["id"], "status": "resolved", "payload": payload}


def interrupts(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    check_ag_ui(told)
    assert told[-1]["outcome"]["type"] == "interrupt"
    found: list[dict[str, Any]] = told[-1]["outcome"]["interrupts"]
    return found


async def thread_waits(
    client: httpx.AsyncClient, server: Running, puppets: Puppets, name: str = "r1"
) -> tuple[Any, Asking, Any]:
    """A thread whose run of this name waits for an approval: what is decided, the run, and the interrupt."""
    first, run = await begin(client, puppets, "/ag-ui", thread(name))
    await run.approve(server)
    [interrupt] = interrupts(frames(await first))
    return run.tasks[0], run, interrupt


@pytest.mark.parametrize(
    ("payload", "decision"),
    [
        ({"approved": True}, Decision(True, {"path": "a"})),
        ({"approved": True, "editedArgs": {"path": "b"}}, Decision(True, {"path": "b"})),
        ({"approved": False, "reason": "no"}, Decision(False, {"path": "a"}, "no")),
    ],
    ids=["approved", "edited", "rejected"],
)
async def test_a_resumed_run(payload: Any, decision: Decision, server: Running, puppets: Puppets) -> None:
    """The run with the answer is the same run, from a snapshot of what was before; it is joined by either name."""
    async with http(server) as client:
        decided, run, interrupt = await thread_waits(client, server, puppets)
        assert (interrupt["reason"], interrupt["responseSchema"]["required"]) == ("tool_call", ["approved"])
        waiting = frames(await client.post("/ag-ui", json=thread("r1")))
        assert kinds(waiting) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
        assert interrupts(waiting) == [interrupt]
        body = thread("r2", resolved(interrupt, payload))
        second = asyncio.create_task(client.post("/ag-ui", json=body))
        assert await decided == decision
        joining = [asyncio.create_task(client.post("/ag-ui", json=asked)) for asked in (thread("r2"), body)]
        await until(lambda: len(server.service.heartbeats.pumps) == 3)
        run.finish()
        run.end("done")
        told = frames(await second)
        check_ag_ui(told)
        assert kinds(told)[:4] == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "CUSTOM", "TOOL_CALL_RESULT"]
        assert (told[0]["runId"], told[-1]["outcome"]) == ("r2", {"type": "success"})
        assert told[3]["toolCallId"] == interrupt["toolCallId"]
        for joined in joining:
            seen = frames(await joined)
            check_ag_ui(seen)
            assert (seen[0]["runId"], seen[-1]["type"]) == ("r2", "RUN_FINISHED")
        assert frames(await client.post("/ag-ui", json=body))[-1]["outcome"] == {"type": "success"}
        assert puppets.started == 1


async def test_a_question_of_ag_ui(server: Running, puppets: Puppets) -> None:
    """An answer that does not fit is refused with its path; so are payloads that are no decision."""
    async with http(server) as client:
        first, run = await begin(client, puppets, "/ag-ui", thread("r1"))
        choice = run.ask(schema={"type": "integer", "minimum": 1})
        [interrupt] = interrupts(frames(await first))
        assert (interrupt["reason"], interrupt["responseSchema"]["minimum"]) == ("input_required", 1)
        for said in (0, "x", None):
            bad = await client.post("/ag-ui", json=thread("r2", resolved(interrupt, said)))
            assert (bad.status_code, bad.json()["field"]) == (400, "resume[0].payload")
        second = asyncio.create_task(client.post("/ag-ui", json=thread("r2", resolved(interrupt, 7))))
        assert await choice == 7
        decided = await run.approve(server)
        [interrupt] = interrupts(frames(await second))
        for payload, field in (
            ("yes", "payload"),
            ({}, "payload.approved"),
            ({"approved": False, "editedArgs": {}}, "payload.editedArgs"),
            ({"approved": True, "args": {"path": "b"}}, "payload.args"),
        ):
            bad = await client.post("/ag-ui", json=thread("r3", resolved(interrupt, payload)))
            assert (bad.status_code, bad.json()["field"]) == (400, f"resume[0].{field}")
        third = asyncio.create_task(client.post("/ag-ui", json=thread("r3", resolved(interrupt, {"approved": True}))))
        assert (await decided).approved
        run.end("done")
        assert frames(await third)[-1]["outcome"] == {"type": "success"}


async def test_a_question_that_is_given_up(server: Running, puppets: Puppets) -> None:
    """That cancels the run; with a message of the user's it begins another one in its place instead."""
    async with http(server) as client:
        _, run, interrupt = await thread_waits(client, server, puppets)
        abandoned = {"interruptId": interrupt["id"], "status": "cancelled"}
        told = frames(await client.post("/ag-ui", json=thread("r2", abandoned)))
        check_ag_ui(told)
        assert told[-1]["outcome"] == {"type": "cancelled"}
        _, run, interrupt = await thread_waits(client, server, puppets, "r3")
        abandoned = {"interruptId": interrupt["id"], "status": "cancelled"}
        message = {"id": "u2", "role": "user", "content": "never mind"}
        body = thread("r4", abandoned)
        asking = asyncio.create_task(client.post("/ag-ui", json={**body, "messages": [*body["messages"], message]}))
        puppet = await puppets.next()
        puppet.end()
        assert puppet.request.message == "never mind"
        assert frames(await asking)[-1]["outcome"] == {"type": "success"}
        fold = Fold()
        for event in await events(server, run.run_id):
            fold.apply(event)
        assert (fold.status, fold.reason) == ("cancelled", "user")


async def test_a_message_beside_an_answer(server: Running, puppets: Puppets) -> None:
    """It is refused with its path, and nothing is answered: the run could not be told both."""
    async with http(server) as client:
        decided, run, interrupt = await thread_waits(client, server, puppets)
        body = thread("r2", resolved(interrupt, {"approved": True}))
        ours = {"id": f"{run.run_id}-2-message", "role": "assistant", "content": ""}
        for more in (
            [{"id": "u2", "role": "user", "content": "b"}],
            [ours, {"id": "u2", "role": "user", "content": "a"}],
        ):
            refused = await client.post("/ag-ui", json={**body, "messages": [*body["messages"], *more]})
            assert (refused.status_code, refused.json()["field"]) == (400, f"messages[{len(more)}]")
        assert not decided.done()
        said_to_it = {"id": f"{run.run_id}-9", "role": "user", "content": "hurry"}
        second = asyncio.create_task(
            client.post("/ag-ui", json={**body, "messages": [*body["messages"], ours, said_to_it]})
        )
        assert (await decided).approved
        run.end()
        assert frames(await second)[-1]["outcome"] == {"type": "success"}


async def test_some_questions_given_up(server: Running, puppets: Puppets) -> None:
    """Beside answers, an approval that is given up is rejected, and a question cannot be."""
    async with http(server) as client:
        first, run = await begin(client, puppets, "/ag-ui", thread("r1"))
        decided = await run.approve(server)
        await until(lambda: bool(server.runs._live[run.run_id].fold.questions))
        choice = run.ask()
        seen = interrupts(frames(await first))
        if len(seen) == 1:  # the turn ended between the two
            seen = interrupts(frames(await client.post("/ag-ui", json=thread("r1"))))
        approval, question = seen
        body = thread(
            "r2", resolved(approval, {"approved": True}), {"interruptId": question["id"], "status": "cancelled"}
        )
        refused = await client.post("/ag-ui", json=body)
        assert (refused.status_code, refused.json()["field"]) == (400, "resume[1].status")
        assert not decided.done()
        body = thread("r2", {"interruptId": approval["id"], "status": "cancelled"}, resolved(question, "dev"))
        second = asyncio.create_task(client.post("/ag-ui", json=body))
        assert (not (await decided).approved, await choice) == (True, "dev")
        run.end()
        assert frames(await second)[-1]["outcome"] == {"type": "success"}


async def test_a_name_of_a_resumed_run(server: Running, puppets: Puppets) -> None:
    """The name is in the run's log: it is that of the answer, and so of no other run."""
    async with http(server) as client:
        decided, run, interrupt = await thread_waits(client, server, puppets)
        second = asyncio.create_task(client.post("/ag-ui", json=thread("r2", resolved(interrupt, {"approved": True}))))
        await decided
        for name, known in (("ag-ui t r2", True), ("ag-ui t r1", False), ("ag-ui u r2", False)):
            assert await turns.resumed_as(server.service, run.run_id, name, ANYBODY) == known
        run.end()
        await second


@pytest.mark.parametrize("stream", [False, True])
async def test_v1_cannot_ask(stream: bool, server: Running, puppets: Puppets) -> None:
    """An agent that asks all the same fails its run: 424 `input_not_possible`, or that as the stream's error."""
    async with http(server) as client:
        body = {"model": "mine", "stream": stream, "messages": [{"role": "user", "content": "a"}]}
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        puppet = await puppets.next()
        assert not puppet.request.can_ask
        with pytest.raises(InputNotPossible) as caught:
            await puppet.request.ask("Which?")
        puppet.fail(caught.value)
        answer = await asking
        error = frames(answer)[-2]["error"] if stream else answer.json()["error"]
        assert (answer.status_code, error["code"]) == (200 if stream else 424, "input_not_possible")
