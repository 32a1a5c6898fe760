"""A run that asks, on the AI SDK's routes: a turn ends at the question, and an answer goes on with the next one.

The published clients do the same in tests/interop.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from support.chats import Transport, frames, http, opened, said
from support.credentials import AUTH, bearer
from support.serving import Puppets, Running, serving, until
from support.turns import Asking, answered, approved, begin, events, kinds, ui
from twinwire.agents.talk import Call, Decision
from twinwire.protocol.errors import InputExpired

CHAT = "/ai-sdk/chat"
pytestmark = [
    pytest.mark.parametrize("below", ["direct", "plain"], indirect=True),
    pytest.mark.usefixtures("below"),
]


async def chat_waits(client: httpx.AsyncClient, server: Running, puppets: Puppets) -> tuple[Any, Asking, list[Any]]:
    """A chat `c` whose run waits for an approval: the first turn, the run, and what is decided."""
    first, run = await begin(client, puppets, CHAT, {"id": "c", "messages": said("a")})
    await run.approve(server)
    return run.tasks[0], run, frames(await first)


def again(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The chat's request that ends with the server's message."""
    return {"id": "c", "messages": [*said("a"), *parts], "trigger": "submit-message", **fields}


@pytest.mark.parametrize(
    ("how", "decision", "state"),
    [
        ({"approved": True, "reason": "why not"}, Decision(True, {"path": "a"}), "output-available"),
        ({"approved": False, "reason": "no"}, Decision(False, {"path": "a"}, "no"), "output-denied"),
    ],
    ids=["approved", "rejected"],
)
async def test_an_approval(
    how: dict[str, Any], decision: Decision, state: str, server: Running, puppets: Puppets
) -> None:
    """The body ends at the question, and the chat's stream up to there; the answer goes on, in the same message."""
    async with http(server) as client:
        decided, run, first = await chat_waits(client, server, puppets)
        assert kinds(first) == [
            *("start", "tool-input-start", "tool-input-available", "tool-approval-request", "finish", "[DONE]"),
        ]
        resumed = await client.get(f"{CHAT}/c/stream")
        assert frames(resumed) == first
        second = asyncio.create_task(client.post(CHAT, json=again(approved(ui(first), **how))))
        assert await decided == decision
        run.finish(result="gone" if decision.approved else "no", status="ok" if decision.approved else "error")
        run.end("done")
        told = frames(await second)
        assert (told[0]["type"], told[0]["messageId"], told[-1]) == ("start", run.run_id, "[DONE]")
        assert told[-2]["messageMetadata"]["status"] == "completed"
        message = ui(first, told)
        assert [part["type"] for part in message["parts"]] == ["dynamic-tool", "text"]
        assert message["parts"][0]["state"] == state
        assert puppets.started == 1


async def test_a_question(server: Running, puppets: Puppets) -> None:
    """A question is a call of `ask_user`, and its output the answer; one that does not fit is refused with its path."""
    schema = {"type": "object", "properties": {"branch": {"type": "string", "enum": ["main", "dev"]}}}
    async with http(server) as client:
        first, run = await begin(client, puppets, CHAT, {"id": "c", "message": said("a")[0]})
        choice = run.ask(schema=schema)
        told = frames(await first)
        message = ui(told)
        assert message["parts"][0]["input"]["schema"] == schema
        bad = await client.post(CHAT, json=again(answered(message, {"branch": "x"})))
        assert (bad.status_code, bad.json()["field"]) == (400, "messages[1].parts[0].output.branch")
        unanswered = await client.post(CHAT, json=again(message))
        assert (unanswered.status_code, unanswered.json()["field"]) == (400, "messages[1].parts[0].output")
        body = {"id": "c", "message": answered(message, {"branch": "dev"})}
        second = asyncio.create_task(client.post(CHAT, json=body))
        assert await choice == {"branch": "dev"}
        later = run.ask()
        more = frames(await second)
        assert kinds(more) == [
            *("start", "tool-output-available", "start-step", "tool-input-start", "tool-input-available"),
            *("finish-step", "finish", "[DONE]"),
        ]
        third = asyncio.create_task(client.post(CHAT, json=again(answered(ui(told, more), "x"))))
        assert await later == "x"
        run.end("done")
        assert frames(await third)[-2]["finishReason"] == "stop"
        assert puppets.started == 1


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ({"decision": "approve", "parameters": {"path": "b"}}, "output-available"),
        ({"decision": "reject", "reason": "no"}, "output-denied"),
        (None, "output-error"),
    ],
    ids=["edited", "rejected", "expired"],
)
async def test_a_question_that_is_closed(answer: Any, state: str, server: Running, puppets: Puppets) -> None:
    """An answer to a question that somebody answered, or nobody in time, is none: the turn shows what became of it."""
    async with http(server) as client:
        first, run = await begin(client, puppets, CHAT, {"id": "c", "messages": said("a")})
        decided = await run.approve(server, timeout=0.2 if answer is None else None)
        told = frames(await first)
        if answer is None:
            with pytest.raises(InputExpired):
                await decided
        else:
            path = f"/runs/{run.run_id}/inputs/ask-{run.run_id}-1"
            assert (await client.post(path, json={"answer": answer})).json()["status"] == "accepted"
            await decided
        run.finish(result="done", status="ok" if state == "output-available" else "error")
        run.end("so")
        await until(lambda: len(server.runs) == 0)
        more = frames(await client.post(CHAT, json=again(approved(ui(told)))))
        [call, text] = ui(told, more)["parts"]
        assert (call["state"], text["text"]) == (state, "so")
        assert call["input"] == {"path": "b" if answer and "parameters" in answer else "a"}
        given = [event.data.get("answer") for event in await events(server, run.run_id) if "ANSWERED" in event.type]
        assert given == [answer]


async def test_two_approvals(server: Running, puppets: Puppets) -> None:
    """Each open one that the message shows must be decided about, else none is; one is answered elsewhere meanwhile."""
    async with http(server) as client:
        first, run = await begin(client, puppets, CHAT, {"id": "c", "messages": said("a")})
        await run.called(server, "c2")
        one = await run.approve(server, "c1")
        two = run._start(run.puppet.request.approve(Call("c2", "Delete", {"path": "a"})))
        told = frames(await first)
        assert kinds(told).count("tool-approval-request") == 2
        message = approved(ui(told))
        half = {**message, "parts": [message["parts"][0], ui(told)["parts"][1]]}
        refused = await client.post(CHAT, json=again(half))
        assert (refused.status_code, refused.json()["field"]) == (400, "messages[1].parts[1].approval")
        assert not one.done()
        assert not two.done()
        path = f"/runs/{run.run_id}/inputs/ask-{run.run_id}-1"
        assert (await client.post(path, json={"answer": {"decision": "reject"}})).status_code == 200
        assert not (await one).approved
        run.finish("c1", "no", "error")
        await until(lambda: "c1" not in server.runs._live[run.run_id].fold.tools)
        second = asyncio.create_task(client.post(CHAT, json=again(message)))
        assert (await two).approved
        run.finish("c2")
        run.end("done")
        states = [part["state"] for part in ui(told, frames(await second))["parts"] if "state" in part]
        assert sorted(states) == ["output-available", "output-denied"]


async def test_the_same_answer_again(server: Running, puppets: Puppets) -> None:
    """A request that is sent again, after a cut or once the run has ended, goes on from the question once more."""
    async with http(server) as client:
        decided, run, told = await chat_waits(client, server, puppets)
        body = again(approved(ui(told)))
        second, third = (asyncio.create_task(client.post(CHAT, json=body)) for _ in range(2))
        await decided
        run.finish()
        run.end("done")
        assert frames(await second) == frames(await third) == frames(await client.post(CHAT, json=body))
        assert puppets.started == 1
        longer = ui(told, frames(await second))
        cut = await client.post(CHAT, json=again({**longer, "parts": [*longer["parts"][:1], longer["parts"][1]]}))
        assert (cut.status_code, cut.json()["field"]) == (400, "messages")
        assert "Resume the stream" in cut.json()["message"]


async def test_a_new_message_instead(server: Running, puppets: Puppets) -> None:
    """A message of the user's instead of an answer begins another run in place of the one that waits."""
    async with http(server) as client:
        decided, run, told = await chat_waits(client, server, puppets)
        body = again(approved(ui(told), approved=False), *said("never mind"))
        asking = asyncio.create_task(client.post(CHAT, json=body))
        puppet = await puppets.next()
        puppet.end()
        assert frames(await asking)[0]["messageId"] == puppet.request.run_id != run.run_id
        assert decided.cancelled() or decided.done()
        assert (await events(server, run.run_id))[-1].data["reason"] == "user"


async def test_whose_run_it_is(puppets: Puppets) -> None:
    """Nobody answers another user's run, nor a run of another chat; `by` is who answered."""
    async with serving({"mine": puppets}, **AUTH) as server, http(server) as client:
        client.headers.update(bearer("alice"))
        decided, run, told = await chat_waits(client, server, puppets)
        body = again(approved(ui(told)))
        for who, chat in (("bob", "c"), ("alice", "d")):
            refused = await client.post(CHAT, json={**body, "id": chat}, headers=bearer(who))
            assert (refused.status_code, refused.json()["code"]) == (404, "run_not_found")
        resume = [{"interruptId": f"ask-{run.run_id}-1", "status": "resolved", "payload": {"approved": True}}]
        asked = {"threadId": "t", "runId": "r", "messages": [], "resume": resume}
        assert (await client.post("/ag-ui", json=asked)).json()["code"] == "run_not_found"
        never = body["messages"][-1]["parts"][0]["approval"]["id"].replace("-1", "-9")
        unknown = {"type": "dynamic-tool", "state": "approval-responded", "toolCallId": "x"}
        asked = again({**ui(told), "parts": [{**unknown, "approval": {"id": never, "approved": True}}]})
        told_ = await client.post(CHAT, json=asked)
        assert (told_.status_code, told_.json()["code"]) == (404, "input_not_found")
        assert not decided.done()
        second = asyncio.create_task(client.post(CHAT, json=body))
        await decided
        run.finish()
        run.end()
        await second
        [answer] = [event for event in await events(server, run.run_id) if event.type == "INPUT_ANSWERED"]
        assert answer.data["by"] == "alice"


async def test_a_run_started_elsewhere(server: Running, puppets: Puppets) -> None:
    """In the formats of both a run of ours ends at the question as well; in ours it stays open."""
    async with http(server) as client:
        started = asyncio.create_task(client.get("/chat?message=a"))
        run = Asking(await puppets.next())
        answer = run.ask()
        for name, last in (("ai-sdk", "finish"), ("ag-ui", "RUN_FINISHED")):
            body = frames(await client.get(f"/runs/{run.run_id}/events?format={name}"))
            assert [kind for kind in kinds(body) if kind != "[DONE]"][-1] == last
        after = frames(await client.get(f"/runs/{run.run_id}/events?format=ag-ui&after=2"))
        assert kinds(after) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
        assert not started.done()
        path = f"/runs/{run.run_id}/inputs/ask-{run.run_id}-1"
        await client.post(path, json={"answer": "x"})
        assert await answer == "x"
        run.end()
        assert b"AGENT_FINISH" in (await started).content


async def test_a_tool_at_work_beside_a_question(server: Running, puppets: Puppets) -> None:
    """The body stays open while a call that nobody approves is at work, and ends when that has its result."""
    async with http(server) as client:
        first, run = await begin(client, puppets, CHAT, {"id": "c", "messages": said("a")})
        await run.called(server, "c2")
        decided = await run.approve(server)
        await until(lambda: bool(server.runs._live[run.run_id].fold.questions))
        run.puppet.emit("PROGRESS", progress=50)
        await asyncio.sleep(0.05)  # that nothing happens cannot be waited for
        assert not first.done()
        run.finish("c2", "read")
        told = frames(await first)
        assert [part["state"] for part in ui(told)["parts"]] == ["output-available", "approval-requested"]
        second = asyncio.create_task(client.post(CHAT, json=again(approved(ui(told)))))
        await decided
        run.finish()
        run.end("done")
        message = ui(told, frames(await second))
        assert [part.get("state") for part in message["parts"]] == ["output-available"] * 2 + [None]


async def test_a_client_without_approvals(server: Running, puppets: Puppets) -> None:
    """With `approval_requests=false` an approval is a question; its answer may have other parameters."""
    async with http(server) as client:
        first, run = await begin(client, puppets, CHAT, {"id": "c", "messages": said("a"), "approval_requests": False})
        decided = await run.approve(server)
        told = frames(await first)
        assert frames(await client.get(f"{CHAT}/c/stream?approval_requests=false")) == told
        edited = {"decision": "approve", "parameters": {"path": "b"}}
        body = again(answered(ui(told), edited), approval_requests=False)
        second = asyncio.create_task(client.post(CHAT, json=body))
        assert (await decided).parameters == {"path": "b"}
        run.finish()
        run.end("done")
        assert kinds(frames(await second))[:2] == ["start", "tool-output-available"]


async def test_on_a_socket(server: Running, puppets: Puppets) -> None:
    """On the AI SDK's socket a request ends at the question, a resume of the chat too, and the answers are another."""
    async with opened(server) as socket:
        client = Transport(socket)
        await client.say("send", "r1", id="c", messages=said("a"), trigger="submit-message")
        run = Asking(await puppets.next())
        decided = await run.approve(server)
        seen = await client.until("end", "r1")
        told = [message["chunk"] for message in seen if message["type"] == "chunk"]
        assert kinds(told)[-2:] == ["tool-approval-request", "finish"]
        await client.say("resume", "r2", id="c")
        resumed = [message["chunk"] for message in await client.until("end", "r2") if message["type"] == "chunk"]
        assert resumed == told
        await client.say("send", "r3", id="c", messages=[*said("a"), approved(ui(told))])
        await decided
        run.finish()
        run.end("done")
        more = [message for message in await client.until("end", "r3") if message["type"] == "chunk"]
        assert [message["sequence"] for message in more] == list(range(len(more)))
        assert more[0]["chunk"]["messageId"] == run.run_id
        parts = ui(told, [message["chunk"] for message in more])["parts"]
        assert [part["type"] for part in parts] == ["dynamic-tool", "text"]
