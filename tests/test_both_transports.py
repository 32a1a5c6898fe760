"""What a follower sees: every scenario over SSE and over WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from followers import (
    KINDS,
    Broken,
    Refused,
    SseFollower,
    WsFollower,
    attach,
    cancel,
    check,
    events,
    number,
    rest,
    start,
    text,
)
from serving import Puppets, Running, echo, serving

from twinwire.agents import RunRequest
from twinwire.events import StreamEvent

pytestmark = pytest.mark.parametrize("kind", KINDS)
OTHER = {"sse": "ws", "ws": "sse"}


async def test_a_run_from_start_to_end(kind: str, server: Running, puppets: Puppets) -> None:
    """A follower sees AGENT_START, what the agent yields in order, and one terminal event that counts them all."""
    follower = await start(kind, server, "hello there")
    puppet = await puppets.next()
    puppet.say("a", "b", "c")
    puppet.end()
    seen = await rest(follower)
    assert [event["type"] for event in seen] == ["AGENT_START", *["LLM_CHUNK"] * 3, "AGENT_FINISH"]
    assert number(seen[0]) == 1
    assert seen[0]["data"]["input"] == puppet.request.message == "hello there"
    assert seen[-1]["data"]["result"] == text(seen) == "abc"
    assert seen[-1]["data"]["status"] == "completed"
    assert all(event["id"].startswith(f"evt-{follower.run_id}-") for event in seen)


async def test_events_come_as_they_happen(kind: str, server: Running, puppets: Puppets) -> None:
    """Each token is there before the agent gives the next one."""
    follower = await start(kind, server)
    puppet = await puppets.next()
    stream = events(follower)
    for word in ("one", "two", "three"):
        puppet.say(word)
        event = await anext(stream)
        if event["type"] == "AGENT_START":
            event = await anext(stream)
        assert event["data"]["content"] == word
    await follower.close()


async def test_a_burst_keeps_its_order(kind: str, server: Running, puppets: Puppets) -> None:
    """Ten thousand events in one go arrive complete and in order."""
    follower = await start(kind, server)
    puppet = await puppets.next()
    puppet.say(*(str(i) for i in range(10_000)))
    puppet.end()
    seen = await rest(follower)
    assert [event["data"]["content"] for event in seen[1:-1]] == [str(i) for i in range(10_000)]


async def test_any_text_round_trips(kind: str, server: Running, puppets: Puppets) -> None:
    """Line breaks of every kind, NUL, emoji and look-alikes of the framing reach the client as they were."""
    nasty = ["\r", "\n\n", "\r\n", "\u2028\u2029", "\x00", "data: x\n\n", "🪢", 'id: evt-"}', "\x1b[0m", "\ufeff", ""]
    follower = await start(kind, server, "U+0000: \x00 and 🪢")
    puppet = await puppets.next()
    puppet.say(*nasty)
    puppet.end()
    seen = await rest(follower)
    assert seen[0]["data"]["input"] == "U+0000: \x00 and 🪢"
    assert [event["data"]["content"] for event in seen[1:-1]] == nasty


async def test_cut_and_resume(kind: str, server: Running, puppets: Puppets) -> None:
    """A connection cut in the middle loses nothing, repeats nothing and starts no second run."""
    follower = await start(kind, server)
    puppet = await puppets.next()
    seen = []
    for cut in range(10):
        puppet.say(f"{cut}a ", f"{cut}b ")
        async for event in events(follower):
            seen.append(event)
            if event["data"].get("content") == f"{cut}b ":
                break
        await follower.close()
        puppet.say(f"{cut}c ")  # while nobody is there
        follower = await attach(kind, server, follower.run_id, seen[-1]["id"])
    puppet.end()
    seen += await rest(follower)
    check(seen)
    assert text(seen) == "".join(f"{cut}{letter} " for cut in range(10) for letter in "abc")
    assert puppets.started == 1


async def test_resume_on_the_other_transport(kind: str, server: Running, puppets: Puppets) -> None:
    """A cursor of one transport resumes on the other, by event id and by number alike."""
    follower = await start(kind, server)
    puppet = await puppets.next()
    puppet.say("a", "b")
    seen = [json.loads(await follower.next() or b"") for _ in range(2)]
    await follower.close()
    other = await attach(OTHER[kind], server, follower.run_id, number(seen[-1]))
    puppet.end()
    seen += await rest(other)
    check(seen)
    assert text(seen) == "ab"


async def test_both_transports_carry_the_same_bytes(kind: str, server: Running, puppets: Puppets) -> None:
    """One run followed live over one transport and replayed over the other: equal bytes."""
    live = await start(kind, server)
    puppet = await puppets.next()
    puppet.say("a", "\u2028", "🪢")
    puppet.emit("TOOL_CALL_START", tool_call_id="1", tool_name="Read", parameters={"path": 'a"b'})
    puppet.end()
    bodies = [body async for body in _bodies(live)]
    replay = await attach(OTHER[kind], server, live.run_id, 0)
    assert [body async for body in _bodies(replay)] == bodies
    assert len(bodies) == 6
    await live.close()
    await replay.close()


async def _bodies(follower: SseFollower | WsFollower) -> AsyncGenerator[bytes, None]:
    while (body := await follower.next()) is not None:
        yield body


async def test_many_followers_of_one_run(kind: str, server: Running, puppets: Puppets) -> None:
    """Followers that join at different moments all see the whole run."""
    first = await start(kind, server)
    puppet = await puppets.next()
    followers = [first]
    for i in range(20):
        puppet.say(f"{i} ")
        followers.append(await attach(KINDS[i % 2], server, first.run_id, 0))
    puppet.end()
    whole = [await rest(follower) for follower in followers]
    assert all(seen == whole[0] for seen in whole)


async def test_replay_of_an_ended_run(kind: str, server: Running, puppets: Puppets) -> None:
    """An ended run is replayed from any cursor, and after its end there is nothing more to come."""
    follower = await start(kind, server)
    puppet = await puppets.next()
    puppet.say("a", "b")
    puppet.end()
    seen = await rest(follower)
    for after in range(len(seen)):
        assert await rest(await attach(kind, server, follower.run_id, after)) == seen[after:]
    late = await attach(kind, server, follower.run_id, len(seen))
    assert late.ended
    await late.close()


async def test_a_type_filter_lets_the_terminal_event_through(kind: str, server: Running, puppets: Puppets) -> None:
    """Only the types asked for come, and the terminal event."""
    follower = await start(kind, server, types=["TOOL_CALL_START", "CUSTOM_1"])
    puppet = await puppets.next()
    puppet.say("a")
    puppet.emit("TOOL_CALL_START", tool_call_id="1", tool_name="Read", parameters={})
    puppet.emit("CUSTOM_1", x=1)
    puppet.say("b")
    puppet.end()
    seen = [event async for event in events(follower)]
    assert [event["type"] for event in seen] == ["TOOL_CALL_START", "CUSTOM_1", "AGENT_FINISH"]
    assert seen[-1]["metadata"]["events"] == 6
    await follower.close()


async def test_cancel_in_the_middle(kind: str, server: Running, puppets: Puppets) -> None:
    """A cancel from elsewhere is acknowledged, stops the agent, and ends every follower's stream with what came so far."""
    followers = [await start(kind, server, "x")]
    puppet = await puppets.next()
    followers.append(await attach(OTHER[kind], server, followers[0].run_id, 0))
    puppet.say("par", "tial")
    seen = [json.loads(await followers[0].next() or b"") for _ in range(3)]
    assert await cancel(kind, server, followers[0].run_id) == "accepted"
    seen += await rest(followers[0])
    assert seen[-1]["type"] == "AGENT_FINISH"
    assert seen[-1]["data"]["status"] == "cancelled"
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
        assert seen[-1]["data"]["error_type"] == "timeout"
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
    assert seen[-1]["data"]["status"] == "cancelled"


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
    assert seen[-1]["data"]["status"] == "cancelled"


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


@pytest.mark.parametrize("after", [99, 2**62])
async def test_a_future_cursor_is_a_gap(kind: str, after: int, server: Running, puppets: Puppets) -> None:
    """A cursor beyond the log is answered with what there is, never with a silent start."""
    follower = await start(kind, server)
    await puppets.next()
    with pytest.raises(Refused) as refused:
        await attach(kind, server, follower.run_id, after)
    assert refused.value.code == "gap"
    assert {"first", "last"} <= refused.value.answer.keys()
    await follower.close()


async def test_a_trimmed_cursor_is_a_gap(kind: str, puppets: Puppets) -> None:
    """A cursor before what is kept is answered with what is kept, from which one can go on."""
    async with serving({"mine": puppets}, log_events=100) as server:
        follower = await start(kind, server, on_disconnect="continue")
        puppet = await puppets.next()
        await follower.close()
        puppet.say(*(str(i) for i in range(500)))
        puppet.end()
        await puppet.closed.wait()
        with pytest.raises(Refused) as refused:
            await attach(kind, server, follower.run_id, 1)
        first, last = refused.value.answer["first"], refused.value.answer["last"]
        assert (refused.value.code, last) == ("gap", 502)
        assert 400 <= first <= 420
        seen = await rest(await attach(kind, server, follower.run_id, first - 1))
        assert number(seen[0]) == first


async def test_unknown_runs(kind: str, server: Running) -> None:
    """An unknown run and an ill-formed id get the same answer."""
    answers = []
    for run_id in ("a" * 26, "A" * 26, "x", "a" * 27):
        with pytest.raises(Refused) as refused:
            await attach(kind, server, run_id, 0)
        answers.append({**refused.value.answer, "run_id": ""})
    assert answers[0]["code"] == "run_not_found"
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("after", ["abc", "$", "+", "1_0", "१", "-1", str(2**64), "evt-x-1", "01", " 1", "", "1e3"])
async def test_bad_cursors(kind: str, after: str, server: Running, puppets: Puppets) -> None:
    """Whatever is no number and no event id is refused and names the field."""
    follower = await start(kind, server)
    await puppets.next()
    with pytest.raises(Refused) as refused:
        await attach(kind, server, follower.run_id, after)
    assert refused.value.code == "bad_request"
    assert refused.value.answer["field"] == ("last-event-id" if kind == "sse" and after.startswith("evt") else "after")
    await follower.close()


async def test_a_cursor_of_another_run(kind: str, server: Running, puppets: Puppets) -> None:
    """An event id of another run is no cursor into this one."""
    follower = await start(kind, server)
    await puppets.next()
    with pytest.raises(Refused) as refused:
        await attach(kind, server, follower.run_id, f"evt-{'a' * 26}-1")
    assert refused.value.code == "bad_request"
    await follower.close()


async def test_a_repeated_start_is_the_same_run(kind: str, server: Running, puppets: Puppets) -> None:
    """A start with a known idempotency key follows the run it started first; for another message it is refused."""
    one = await start(kind, server, "x", idempotency_key="k1", user_id="u")
    puppet = await puppets.next()
    two = await start(OTHER[kind], server, "x", idempotency_key="k1", user_id="u")
    assert one.run_id == two.run_id
    with pytest.raises(Refused) as refused:
        await start(kind, server, "y", idempotency_key="k1", user_id="u")
    assert refused.value.code == "idempotency_mismatch"
    puppet.end()
    assert await rest(one) == await rest(two)
    assert puppets.started == 1
    three = await start(kind, server, "x", idempotency_key="k1", user_id="somebody else")
    assert three.run_id != one.run_id
    await three.close()


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
        assert seen[0]["data"]["error_type"] == "interrupted"
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
        while not server.runs.draining:
            await asyncio.sleep(0)
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


async def test_two_hundred_anonymous_runs_at_once(kind: str) -> None:
    """Runs do not get in each other's way."""
    async with serving({"echo": echo}) as server:
        followers = await asyncio.gather(*(start(kind, server, f"run {i} says hello") for i in range(200)))
        for i, seen in enumerate(await asyncio.gather(*(rest(follower) for follower in followers))):
            assert text(seen) == f"run {i} says hello "
        assert len(server.runs) == 0
        assert not server.service.sweep.pumps
