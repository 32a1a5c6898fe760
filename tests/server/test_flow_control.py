"""Flow control on a socket: a paused run sends nothing, and its follower stays; leaving for good is said so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.followers import KINDS, Refused, WsFollower, attach, check, number, rest, start, text
from support.serving import Puppet, Puppets, Running, serving, until
from twinwire.runs import attendance
from twinwire.transports import Verdict

pytestmark = [
    pytest.mark.parametrize("below", ["direct", "plain"], indirect=True),
    pytest.mark.usefixtures("below"),
]


async def begun(server: Running, puppets: Puppets, **options: Any) -> tuple[WsFollower, Puppet]:
    """Start a run on a socket, and read its first two events."""
    follower = await start("ws", server, **options)
    assert isinstance(follower, WsFollower)
    puppet = await puppets.next()
    puppet.say("0")
    for _ in range(2):
        await follower.next()
    return follower, puppet


async def ask(follower: WsFollower, kind: str, **fields: Any) -> dict[str, Any]:
    """Say a command about the run; its reply, which must be the next message."""
    await follower.say({"type": kind, "run_id": follower.run_id, **fields})
    return await follower.reply()


async def nothing_comes(follower: WsFollower, server: Running) -> None:
    """See that the socket has sent nothing, although the run's events are in the log."""
    await follower.say({"type": "ping", "ref": "nothing"})
    assert await follower.reply() == {"type": "pong", "ref": "nothing"}


async def in_log(server: Running, run_id: str, count: int) -> None:
    """Wait until the log has so many events of the run."""
    await until(lambda: server.runs.log.newest(run_id) == count)


async def test_a_paused_run_sends_nothing_and_goes_on_at_its_cursor(server: Running, puppets: Puppets) -> None:
    """Between `paused` and `resumed` no event comes; then all come, each once, as they are in the log."""
    follower, puppet = await begun(server, puppets)
    seen = []
    for round_ in range(3):
        puppet.say(f"{round_}a ")
        seen.append(json.loads(await follower.next() or b""))
        assert await ask(follower, "pause", ref=7) == {"type": "paused", "run_id": follower.run_id, "ref": 7}
        assert (await ask(follower, "pause"))["type"] == "paused"
        puppet.say(f"{round_}b ", f"{round_}c ")
        await in_log(server, follower.run_id, number(seen[-1]) + 2)
        await nothing_comes(follower, server)
        assert await ask(follower, "resume", ref="x") == {"type": "resumed", "run_id": follower.run_id, "ref": "x"}
        seen += [json.loads(await follower.next() or b"") for _ in range(2)]
    assert (await ask(follower, "resume"))["type"] == "resumed"  # it is not paused
    puppet.end()
    seen += await rest(follower)
    check(seen)
    assert text(seen) == "".join(f"{round_}{letter} " for round_ in range(3) for letter in "abc")


async def test_a_pause_while_pages_are_sent(server: Running, puppets: Puppets) -> None:
    """A pause in the middle of a long replay holds at once; what was on its way comes before the reply."""
    follower, puppet = await begun(server, puppets)
    puppet.say(*(str(count) for count in range(5000)))
    await in_log(server, follower.run_id, 5002)
    late = await attach("ws", server, follower.run_id)
    assert isinstance(late, WsFollower)
    seen: list[dict[str, Any]] = []
    for _ in range(20):
        await late.say({"type": "pause", "run_id": late.run_id})
        while (message := json.loads(await late.receive()))["type"] != "paused":
            seen.append(message)
        assert (await ask(late, "pause"))["type"] == "paused"
        await nothing_comes(late, server)
        assert (await ask(late, "resume"))["type"] == "resumed"
    puppet.end()
    seen += [json.loads(body) async for body in bodies(late)]
    check(seen)
    assert len(seen) == 5003
    await follower.close()


async def bodies(follower: WsFollower) -> AsyncIterator[bytes]:
    """The rest of a run's events."""
    while (body := await follower.next()) is not None:
        yield body
    await follower.close()


async def test_resume_moves_the_cursor(server: Running, puppets: Puppets) -> None:
    """With `after` the events after it come, back or forth; one beyond the log is a `gap`, and changes nothing."""
    follower, puppet = await begun(server, puppets)
    puppet.say("b", "c")
    first = [json.loads(await follower.next() or b"") for _ in range(2)]
    await ask(follower, "pause")
    gap = await ask(follower, "resume", after=9, ref=3)
    assert gap == {"type": "gap", "run_id": follower.run_id, "first": 1, "last": 4, "ref": 3}
    await nothing_comes(follower, server)
    assert (await ask(follower, "resume", after=f"evt-{follower.run_id}-2"))["type"] == "resumed"
    assert [json.loads(await follower.next() or b"") for _ in range(2)] == first
    assert (await ask(follower, "resume", after=2))["type"] == "resumed"
    assert [json.loads(await follower.next() or b"") for _ in range(2)] == first
    puppet.end()
    assert [event["type"] for event in await tail(follower)] == ["AGENT_FINISH"]


async def tail(follower: WsFollower) -> list[dict[str, Any]]:
    return [json.loads(body) async for body in bodies(follower)]


async def test_a_run_that_ends_while_it_is_paused(server: Running, puppets: Puppets) -> None:
    """Its terminal event comes after the resume; then the run is followed no longer, and a pause is refused."""
    follower, puppet = await begun(server, puppets)
    await ask(follower, "pause")
    puppet.say("a")
    puppet.end()
    await puppet.closed.wait()
    await until(lambda: not len(server.runs))
    await nothing_comes(follower, server)
    assert (await ask(follower, "resume"))["type"] == "resumed"
    assert [json.loads(await follower.next() or b"")["type"] for _ in range(2)] == ["LLM_CHUNK", "AGENT_FINISH"]
    for kind in ("pause", "resume"):
        refused = await ask(follower, kind, ref=1)
        assert (refused["type"], refused["code"], refused["field"]) == ("error", "bad_request", "run_id")
        assert (refused["run_id"], refused["ref"]) == (follower.run_id, 1)
    await follower.close()


async def test_what_is_trimmed_under_a_paused_run_is_a_gap(puppets: Puppets) -> None:
    """A resume at a cursor that the log, having waited, no longer holds gives a `gap`, and the run is not followed."""
    async with serving({"mine": puppets}, log_events=100) as server:
        follower, puppet = await begun(server, puppets)
        await ask(follower, "pause")
        puppet.say(*(str(count) for count in range(300)))
        await in_log(server, follower.run_id, 302)
        while (await server.runs.log.state(follower.run_id)).first == 1:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
        await nothing_comes(follower, server)
        assert (await ask(follower, "resume"))["type"] == "resumed"
        with pytest.raises(Refused) as refused:
            await follower.next()
        assert refused.value.code == "gap"
        assert (await ask(follower, "pause"))["type"] == "error"
        await follower.close()


async def test_a_paused_follower_is_present(server: Running, puppets: Puppets) -> None:
    """A run that is cancelled as soon as nobody follows goes on while it is paused; and ends when it is detached."""
    follower, puppet = await begun(server, puppets, on_disconnect="cancel")
    await ask(follower, "pause")
    other = await attach("sse", server, follower.run_id)
    await other.close()
    await until(lambda: len(server.service.heartbeats.pumps) == 1)
    puppet.say("a")
    await in_log(server, follower.run_id, 3)
    assert len(server.runs) == 1
    assert (await ask(follower, "detach"))["type"] == "detached"
    await puppet.closed.wait()
    await follower.close()


async def test_a_connection_that_fills_up_resumes_no_paused_run(puppets: Puppets) -> None:
    """Of two runs on one socket the paused one sends nothing, although the other's events come and go in crowds."""
    async with serving({"mine": puppets}) as server:
        loud, talker = await begun(server, puppets)
        await loud.say({"type": "start", "request_id": "quiet", "message": "hi"})
        while (message := json.loads(await loud.receive()))["type"] != "started":
            pass
        run_id, soft = message["run_id"], await puppets.next()
        await loud.say({"type": "pause", "run_id": run_id})
        while json.loads(await loud.receive())["type"] != "paused":
            pass
        for _ in range(200):
            talker.emit("NOISE", noise="x" * 60_000)
        soft.say("a", "b")
        await in_log(server, run_id, 3)
        talker.end()
        runs = set()
        while (message := json.loads(await loud.receive()))["type"] != "AGENT_FINISH":
            runs.add(message["id"][4:30])
        assert runs == {loud.run_id}
        soft.end()
        await loud.say({"type": "resume", "run_id": run_id})
        kinds: list[str] = []
        while not kinds or kinds[-1] != "AGENT_FINISH":
            kinds.append(json.loads(await loud.receive())["type"])
        assert [kind for kind in kinds if kind != "AGENT_START"] == [
            "resumed", "LLM_CHUNK", "LLM_CHUNK", "AGENT_FINISH",
        ]  # fmt: skip
        await loud.close()


@pytest.mark.parametrize("policy", ["cancel", "cancel_after:300", "continue"])
async def test_leaving_for_good(policy: str, server: Running, puppets: Puppets) -> None:
    """The last follower's `detach` with `leave` waits for no grace; other followers and `continue` keep the run."""
    follower, puppet = await begun(server, puppets, on_disconnect=policy)
    other = await attach("sse", server, follower.run_id)
    assert (await ask(follower, "detach", leave=True))["type"] == "detached"
    puppet.say("a")
    for _ in range(3):
        await other.next()
    assert len(server.runs) == 1
    await follower.say({"type": "attach", "run_id": follower.run_id, "after": 3})
    assert (await follower.reply())["type"] == "attached"
    await other.close()
    await until(lambda: len(server.service.heartbeats.pumps) == 1)
    assert len(server.runs) == 1
    assert (await ask(follower, "detach", leave=True))["type"] == "detached"
    if policy == "continue":
        puppet.say("b")
        puppet.end()
    await puppet.closed.wait()
    seen = await rest(await attach("ws", server, follower.run_id))
    assert seen[-1]["data"]["status"] == ("completed" if policy == "continue" else "cancelled")
    await follower.close()


async def test_detaching_waits_for_the_grace(server: Running, puppets: Puppets) -> None:
    """Without `leave` a detach is a disconnect: whoever attaches within the grace finds the run going on."""
    follower, puppet = await begun(server, puppets, on_disconnect="cancel_after:0.3")
    assert (await ask(follower, "detach"))["type"] == "detached"
    assert (await ask(follower, "attach", after=2))["type"] == "attached"
    puppet.say("a")
    assert json.loads(await follower.next() or b"")["data"]["content"] == "a"
    assert (await ask(follower, "detach"))["type"] == "detached"
    await puppet.closed.wait()
    await follower.close()


@asynccontextmanager
async def dropped(server: Running, puppets: Puppets, **options: Any) -> AsyncIterator[tuple[WsFollower, Puppet]]:
    """A run whose only follower the server has dropped as too slow."""
    follower, puppet = await begun(server, puppets, **options)
    server.cut(Verdict.SLOW)
    await until(lambda: not server.service.heartbeats.pumps)
    await follower.close()
    yield follower, puppet


@pytest.mark.parametrize("policy", ["cancel", "cancel_after:0.1"])
async def test_a_follower_that_was_dropped_as_slow_is_present(policy: str, server: Running, puppets: Puppets) -> None:
    """It counts for the default grace, whatever the run's own is; then the run's policy begins."""
    server.runs.dropped_seconds = 0.6
    loop = asyncio.get_running_loop()
    async with dropped(server, puppets, on_disconnect=policy) as (_, puppet):
        began = loop.time()
        await puppet.closed.wait()
        assert loop.time() - began > 0.5
    assert not server.runs._dropped


@pytest.mark.parametrize("kind", KINDS)
async def test_a_dropped_follower_that_came_back_can_leave(kind: str, server: Running, puppets: Puppets) -> None:
    """It counts once: when it leaves again, nobody who was dropped is waited for."""
    async with dropped(server, puppets, on_disconnect="cancel") as (follower, puppet):
        again = await attach(kind, server, follower.run_id)
        await again.next()
        assert not server.runs._dropped
        await again.close()
        await puppet.closed.wait()


async def test_somebody_who_was_dropped_is_not_left_alone(server: Running, puppets: Puppets) -> None:
    """Another one's pauses and leaving for good end no run of a follower that the server has dropped."""
    follower, puppet = await begun(server, puppets, on_disconnect="cancel")
    other = await attach("sse", server, follower.run_id)
    [pump] = [pump for pump in server.service.heartbeats.pumps if pump.transport == "sse"]
    pump.end(Verdict.SLOW)
    await until(lambda: len(server.service.heartbeats.pumps) == 1)
    for kind in ("pause", "resume", "attach"):
        await follower.say({"type": kind, "run_id": follower.run_id, **({"after": 2} if kind == "attach" else {})})
        await follower.reply()
    assert (await ask(follower, "detach", leave=True))["type"] == "detached"
    assert list(server.runs._dropped) == [follower.run_id]
    puppet.end()
    await puppet.closed.wait()
    seen = await rest(await attach("ws", server, follower.run_id))
    assert seen[-1]["data"]["status"] == "completed"
    await other.close()
    await follower.close()


async def test_one_is_present_of_all_that_were_dropped(server: Running, puppets: Puppets) -> None:
    """However often a run's followers are dropped, one is counted, and forgotten with the run."""
    async with dropped(server, puppets, on_disconnect="cancel") as (follower, puppet):
        for _ in range(3):
            again = await attach("ws", server, follower.run_id)
            server.cut(Verdict.SLOW)
            await until(lambda: not server.service.heartbeats.pumps)
            await again.close()
        assert len(server.runs._dropped) == 1
        assert server.runs._live[follower.run_id].followers._count == 1
        puppet.end()
        await until(lambda: not len(server.runs))
    assert not server.runs._dropped


async def test_a_follower_elsewhere_has_its_grace_too(
    server: Running, puppets: Puppets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that another worker's follower has just left, unheard, waits for its grace before it is cancelled."""
    answers = [True, True, False, False]

    async def followed(_: str) -> bool:
        return answers.pop(0)

    monkeypatch.setattr(server.runs.log, "followed", followed)
    monkeypatch.setattr(attendance, "RECHECK_SECONDS", 0.05)
    follower, puppet = await begun(server, puppets, on_disconnect="cancel_after:0.4")
    await follower.close()
    loop = asyncio.get_running_loop()
    await until(lambda: len(answers) == 1)
    began = loop.time()
    await puppet.closed.wait()
    assert loop.time() - began > 0.3
    assert not answers


async def test_leaving_for_good_elsewhere(server: Running, puppets: Puppets) -> None:
    """What another worker says of its last follower counts as if that had been here."""
    follower, puppet = await begun(server, puppets, on_disconnect="cancel_after:300")
    server.runs.unfollowed(follower.run_id, left=True)  # but somebody follows here
    puppet.say("a")
    await follower.next()
    await follower.close()
    await until(lambda: not server.service.heartbeats.pumps)
    server.runs.unfollowed(follower.run_id, left=False)
    assert len(server.runs) == 1
    server.runs.unfollowed(follower.run_id, left=True)
    await puppet.closed.wait()
