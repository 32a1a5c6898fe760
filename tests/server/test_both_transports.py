"""What a follower sees: every scenario over SSE and over WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest

from support.followers import (
    KINDS,
    OTHER,
    SseFollower,
    WsFollower,
    attach,
    check,
    cut_often,
    events,
    number,
    rest,
    start,
    text,
)
from support.serving import Puppets, Running, echo, serving
from twinwire.serving.shell import HttpProtocol, WebSocketProtocol

pytestmark = [
    pytest.mark.parametrize("kind", KINDS),
    pytest.mark.parametrize("below", ["direct", "plain"], indirect=True),
    pytest.mark.usefixtures("below"),
]


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


async def test_what_is_below(kind: str, server: Running, request: pytest.FixtureRequest) -> None:
    """Every scenario really runs both on our server's protocols and on uvicorn's own."""
    follower = await start(kind, server)
    (connection,) = server.server.server_state.connections
    ours = isinstance(connection, (HttpProtocol, WebSocketProtocol))
    assert ours == (request.node.callspec.params["below"] == "direct")
    await follower.close()


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
    nasty = [
        "\r",
        "\n\n",
        "\r\n",
        "\u2028\u2029\x85",
        "\x00",
        "data: x\n\n",
        "🪢",
        'id: evt-"}',
        "\x1b[0m",
        "\ufeff",
        "",
    ]
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
    await cut_often(follower, puppet, lambda _, cursor: attach(kind, server, follower.run_id, cursor))
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
    assert all(len(body.decode().splitlines()) == 1 for body in bodies)
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


async def test_two_hundred_anonymous_runs_at_once(kind: str) -> None:
    """Runs do not get in each other's way."""
    async with serving({"echo": echo}) as server:
        followers = await asyncio.gather(*(start(kind, server, f"run {i} says hello") for i in range(200)))
        for i, seen in enumerate(await asyncio.gather(*(rest(follower) for follower in followers))):
            assert text(seen) == f"run {i} says hello "
        assert len(server.runs) == 0
        assert not server.service.heartbeats.pumps
