"""How runs end, over both transports: cancelled, at their deadline, with nobody following, at a shutdown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import httpx
import pytest

from support.followers import (
    KINDS,
    Broken,
    Refused,
    WsFollower,
    attach,
    cancel,
    events,
    rest,
    start,
    text,
)
from support.serving import Puppets, Running, serving, until
from twinwire.agents import RunRequest
from twinwire.protocol.events import StreamEvent
from twinwire.runs.registry import CUT

pytestmark = [
    pytest.mark.parametrize("kind", KINDS),
    pytest.mark.parametrize("below", ["direct", "plain"], indirect=True),
    pytest.mark.usefixtures("below"),
]
OTHER = {"sse": "ws", "ws": "sse"}


async def test_cancel_in_the_middle(kind: str, server: Running, puppets: Puppets) -> None:
    """A cancel from elsewhere is acknowledged, stops the agent, and ends every stream with what came so far."""
    followers = [await start(kind, server, "x")]
    puppet = await puppets.next()
    followers.append(await attach(OTHER[kind], server, followers[0].run_id, 0))
    puppet.say("par", "tial")
    seen = [json.loads(await followers[0].next() or b"") for _ in range(3)]
    assert await cancel(kind, server, followers[0].run_id) == "accepted"
    seen += await rest(followers[0])
    assert seen[-1]["type"] == "AGENT_FINISH"
    assert (seen[-1]["data"]["status"], seen[-1]["data"]["reason"]) == ("cancelled", "user")
    assert seen[-1]["data"]["result"] == "partial"
    assert await rest(followers[1]) == seen
    await puppet.closed.wait()
    assert await cancel(kind, server, followers[0].run_id) == "already_finished"
    assert await cancel(OTHER[kind], server, followers[0].run_id) == "already_finished"


async def test_cancel_before_the_first_event(kind: str, server: Running, puppets: Puppets) -> None:
    """A run cancelled before its agent says anything still is AGENT_START and AGENT_FINISH."""
    follower = await start(kind, server)
    await puppets.next()
    assert await cancel(kind, server, follower.run_id) == "accepted"
    seen = await rest(follower)
    assert [event["type"] for event in seen] == ["AGENT_START", "AGENT_FINISH"]
    assert seen[-1]["data"]["status"] == "cancelled"


async def test_cancel_of_an_unknown_run(kind: str, server: Running) -> None:
    """A run that is not there cannot be cancelled, and an ill-formed id is answered alike."""
    assert await cancel(kind, server, "a" * 26) == "not_found"
    assert await cancel(kind, server, "no such") == "not_found"


async def test_an_agent_that_will_not_stop(kind: str) -> None:
    """The terminal event does not wait for an agent that ignores its cancellation; what it yields later is dropped."""
    going_on, stubborn, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def agent(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        yield StreamEvent(type="LLM_CHUNK", data={"content": "a", "delta": "a"})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stubborn.set()
        await going_on.wait()
        ended.set()
        yield StreamEvent(type="LLM_CHUNK", data={"content": "late", "delta": "late"})

    async with serving({"stubborn": agent}) as server:
        follower = await start(kind, server)
        await follower.next()
        await follower.next()
        assert await cancel(kind, server, follower.run_id) == "accepted"
        seen = await rest(follower)
        assert seen[-1]["data"]["status"] == "cancelled"
        await stubborn.wait()
        going_on.set()
        await ended.wait()
        again = await rest(await attach(kind, server, follower.run_id, 0))
        assert text(again) == "a"


async def test_a_run_has_a_deadline(kind: str, puppets: Puppets) -> None:
    """A run that reaches its deadline ends with one ERROR that says so, and its agent is stopped."""
    async with serving({"mine": puppets}, run_timeout=0.2) as server:
        follower = await start(kind, server)
        puppet = await puppets.next()
        puppet.say("a")
        seen = await rest(follower)
        assert seen[-1]["type"] == "ERROR"
        assert (seen[-1]["data"]["error_type"], seen[-1]["data"]["reason"]) == ("timeout", "deadline")
        assert "0.2 s" in seen[-1]["data"]["message"]
        assert seen[-1]["data"]["error"] == seen[-1]["data"]["message"]
        await puppet.closed.wait()


async def test_on_disconnect_cancel(kind: str, server: Running, puppets: Puppets) -> None:
    """With `cancel` the run ends as soon as the last follower has left, not before."""
    one = await start(kind, server, on_disconnect="cancel")
    puppet = await puppets.next()
    puppet.say("a")
    two = await attach(OTHER[kind], server, one.run_id, 0)
    await two.next()
    await one.close()
    puppet.say("b")
    assert [json.loads(await two.next() or b"")["data"]["content"] for _ in range(2)] == ["a", "b"]
    await two.close()
    await puppet.closed.wait()
    seen = await rest(await attach(kind, server, one.run_id, 0))
    assert (seen[-1]["data"]["status"], seen[-1]["data"]["reason"]) == ("cancelled", "nobody_followed")


async def test_on_disconnect_cancel_after(kind: str, server: Running, puppets: Puppets) -> None:
    """Within the grace a reconnect finds the run going on; after it the run is cancelled."""
    follower = await start(kind, server, on_disconnect="cancel_after:0.3")
    puppet = await puppets.next()
    puppet.say("a")
    await follower.next()
    await follower.close()
    follower = await attach(kind, server, follower.run_id, 1)
    assert json.loads(await follower.next() or b"")["data"]["content"] == "a"
    puppet.say("b")
    assert json.loads(await follower.next() or b"")["data"]["content"] == "b"
    assert not puppet.closed.is_set()
    await follower.close()
    await puppet.closed.wait()
    seen = await rest(await attach(kind, server, follower.run_id, 0))
    assert (seen[-1]["data"]["status"], seen[-1]["data"]["reason"]) == ("cancelled", "nobody_followed")


async def test_the_default_grace(kind: str, server: Running, puppets: Puppets) -> None:
    """A start that names no policy has five minutes, on each route, with a follower and without."""
    text = {"role": "user", "content": "hi", "id": "m"}
    ui = {"role": "user", "id": "m", "parts": [{"type": "text", "text": "hi"}]}
    bodies = {
        "/runs": {"message": "hi"},
        "/chat": {"message": "hi"},
        "/ai-sdk/chat": {"id": "c", "messages": [ui]},
        "/ag-ui": {"threadId": "t", "runId": "r", "messages": [text], "tools": [], "context": []},
    }
    follower = await start(kind, server)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, trust_env=False))
        for path, body in bodies.items():
            response = await stack.enter_async_context(client.stream("POST", path, json=body))
            assert response.status_code in {200, 201}, path
        await until(lambda: puppets.started == 5)
        assert [run.followers._grace for run in server.runs._live.values()] == [300] * 5
    await follower.close()


async def test_on_disconnect_continue(kind: str, server: Running, puppets: Puppets) -> None:
    """With `continue` a run ends by itself though nobody follows."""
    follower = await start(kind, server, on_disconnect="continue")
    puppet = await puppets.next()
    await follower.close()
    puppet.say("a")
    puppet.end()
    await puppet.closed.wait()
    seen = await rest(await attach(kind, server, follower.run_id, 0))
    assert seen[-1]["data"]["status"] == "completed"
    assert "reason" not in seen[-1]["data"]


async def test_shutdown_tells_every_follower(kind: str, puppets: Puppets) -> None:
    """A server that stops ends its runs as interrupted, and its followers see that to the end."""
    async with serving({"mine": puppets}) as server:
        follower = await start(kind, server)
        puppet = await puppets.next()
        puppet.say("a")
        await follower.next()
        await follower.next()
        await server.service.drain()
        seen = [event async for event in events(follower)]
        assert [event["type"] for event in seen] == ["ERROR"]
        assert (seen[0]["data"]["error_type"], seen[0]["data"]["reason"]) == ("interrupted", "shutdown")
        if isinstance(follower, WsFollower):
            with pytest.raises(Broken) as broken:
                await follower.receive()
            assert broken.value.code == 1012
        await follower.close()


async def test_shutdown_lets_runs_finish(kind: str, puppets: Puppets) -> None:
    """A run that ends within the grace of a shutdown ends as it would have."""
    async with serving({"mine": puppets}, drain_timeout=20) as server:
        follower = await start(kind, server)
        puppet = await puppets.next()
        draining = asyncio.create_task(server.service.drain())
        await until(lambda: server.runs.draining)
        puppet.say("a")
        puppet.end()
        seen = await rest(follower)
        assert seen[-1]["data"]["status"] == "completed"
        await draining


async def test_a_draining_server_starts_nothing(kind: str, puppets: Puppets) -> None:
    """A start is refused while the server stops, a resume is not."""
    async with serving({"mine": puppets}) as server:
        follower = await start(kind, server)
        puppet = await puppets.next()
        puppet.end()
        seen = await rest(follower)
        server.runs.draining = True
        with pytest.raises(Refused) as refused:
            await start(kind, server)
        assert refused.value.code == "draining"
        assert await rest(await attach(kind, server, follower.run_id, 0)) == seen
        server.runs.draining = False


async def test_a_session_remembers(kind: str, server: Running, puppets: Puppets) -> None:
    """A user's runs share a history: not of failed turns or of others. A note says which answers were cut off."""
    for message, end in (("one", "end"), ("two", "fail"), ("three", "cancel"), ("cut", "incomplete")):
        follower = await start(kind, server, message, user_id="ann")
        puppet = await puppets.next()
        puppet.say(f"answer {message}")
        for _ in range(2):
            await follower.next()
        if end == "end":
            puppet.end()
        elif end == "fail":
            puppet.fail(RuntimeError())
        elif end == "incomplete":
            puppet.emit("AGENT_FINISH", status="incomplete", finish_reason="length")
        else:
            await cancel(kind, server, follower.run_id)
        await rest(follower)
    follower = await start(kind, server, "four", user_id="ann")
    assert (await puppets.next()).request.history == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "answer one"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "answer three"},
        {"role": "user", "content": "cut"},
        {"role": "assistant", "content": "answer cut" + CUT},
    ]
    await follower.close()
    for others in ({"user_id": "bob"}, {"session_id": "s"}, {"user_id": "ann", "session_id": "s"}, {}):
        follower = await start(kind, server, "hi", **others)
        assert (await puppets.next()).request.history == []
        await follower.close()


async def test_a_busy_session(kind: str, server: Running, puppets: Puppets) -> None:
    """A second message interrupts the first on /chat, and is refused on the WebSocket unless it says `interrupt`."""
    one = await start(kind, server, "one", session_id="s")
    puppet = await puppets.next()
    puppet.say("half")
    for _ in range(2):
        await one.next()
    if kind == "ws":
        with pytest.raises(Refused) as refused:
            await start("ws", server, "two", session_id="s")
        assert (refused.value.code, refused.value.answer["field"]) == ("session_busy", "session_id")
        two = await start("ws", server, "two", session_id="s", interrupt=True)
    else:
        two = await start("sse", server, "two", session_id="s")
    seen = await rest(one)
    assert (seen[-1]["data"]["status"], seen[-1]["data"]["reason"]) == ("cancelled", "user")
    await puppet.closed.wait()
    second = await puppets.next()
    assert second.request.history == [{"role": "user", "content": "one"}, {"role": "assistant", "content": "half"}]
    second.end()
    await rest(two)


async def test_runs_of_no_session_do_not_disturb_each_other(kind: str, server: Running, puppets: Puppets) -> None:
    """Without a user and a session every message is a conversation of its own."""
    followers = [await start(kind, server, str(i)) for i in range(3)]
    for _ in followers:
        (await puppets.next()).end()
    for follower in followers:
        assert (await rest(follower))[-1]["data"]["status"] == "completed"
