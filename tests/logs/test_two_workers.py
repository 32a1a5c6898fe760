"""Two whole servers on one Redis: a run goes on on one, and is followed, resumed and cancelled on the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack

import pytest

from support.asking import Scripted, asks_a_branch, listens, until_asked
from support.chats import Transport, frames, http, opened, said
from support.followers import (
    KINDS,
    AnyFollower,
    Broken,
    Refused,
    attach,
    cancel,
    check,
    cut_often,
    number,
    rest,
    say,
    start,
    text,
)
from support.redis_server import fresh
from support.serving import Puppets, Running, echo, serving, until
from twinwire.agents import RunRequest
from twinwire.log.saying import Outcome, Saying

pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
async def two(puppets: Puppets) -> AsyncIterator[tuple[Running, Running]]:
    """Two servers with the same agent, which the test plays."""
    url = fresh()
    async with serving({"mine": puppets}, log=url) as a, serving({"mine": puppets}, log=url) as b:
        yield a, b


async def test_a_run_is_followed_elsewhere(kind: str, two: tuple[Running, Running], puppets: Puppets) -> None:
    """Followers on both servers see the same run, live and from any cursor."""
    a, b = two
    here = await start(kind, a, "hello there")
    puppet = await puppets.next()
    followers = [await attach(each, b, here.run_id) for each in KINDS]
    puppet.say(*(f"{i} " for i in range(2000)))
    begun = json.loads(await here.next() or b"")
    followers += [await attach(each, b, here.run_id, 1) for each in KINDS]
    puppet.end()
    whole = [begun, *await rest(here)]
    assert [await rest(follower) for follower in followers] == [whole, whole, whole[1:], whole[1:]]
    assert text(whole) == "".join(f"{i} " for i in range(2000))
    late = await attach(kind, b, here.run_id, len(whole))
    assert late.ended
    await late.close()


async def test_cut_and_resume_on_the_other_worker(kind: str, two: tuple[Running, Running], puppets: Puppets) -> None:
    """A follower that is sent from server to server and from transport to transport loses and repeats nothing."""
    follower = await start(kind, two[0])
    puppet = await puppets.next()

    def resume(cut: int, cursor: str) -> Awaitable[AnyFollower]:
        return attach(KINDS[cut // 2 % 2], two[1 - cut % 2], follower.run_id, cursor)

    await cut_often(follower, puppet, resume)
    assert puppets.started == 1


async def test_cancel_on_the_other_worker(kind: str, two: tuple[Running, Running], puppets: Puppets) -> None:
    """A cancel on any server stops the agent and ends the run for all followers; a second one finds it over."""
    a, b = two
    here = await start(kind, a)
    puppet = await puppets.next()
    puppet.say("half ")
    there = await attach(kind, b, here.run_id)
    assert json.loads(await there.next() or b"")["type"] == "AGENT_START"
    assert await cancel(kind, b, here.run_id) == "accepted"
    await puppet.closed.wait()
    whole = await rest(here)
    assert (await rest(there)) == whole[1:]
    assert (whole[-1]["type"], whole[-1]["data"]["status"]) == ("AGENT_FINISH", "cancelled")
    assert await cancel(kind, b, here.run_id) == "already_finished"
    assert await cancel(kind, b, "a" * 26) == "not_found"


async def test_a_follower_elsewhere_keeps_a_run_going(
    kind: str, two: tuple[Running, Running], puppets: Puppets
) -> None:
    """A run that is to end with its last follower goes on while one on the other server is left, and no longer."""
    a, b = two
    here = await start(kind, a, on_disconnect="cancel_after:0.1")
    puppet = await puppets.next()
    there = await attach(kind, b, here.run_id)
    while not await a.runs.log.followed(here.run_id):
        pass
    await here.close()
    await asyncio.sleep(0.3)  # three times its grace
    puppet.say("still here")
    seen = [json.loads(await there.next() or b"") for _ in range(2)]
    assert text(seen) == "still here"
    await there.close()
    await puppet.closed.wait()
    [end] = await rest(await attach(kind, b, here.run_id, number(seen[-1])))
    assert end["data"]["status"] == "cancelled"


async def test_a_conversation_on_two_workers(kind: str, two: tuple[Running, Running], puppets: Puppets) -> None:
    """A session has one run at a time wherever it is asked, and what one server was told the other knows."""
    a, b = two
    first = await start(kind, a, "first", user_id="u", session_id="s")
    puppet = await puppets.next()
    puppet.say("half")
    assert json.loads(await first.next() or b"")["type"] == "AGENT_START"
    if kind == "ws":
        with pytest.raises(Refused) as refused:
            await start(kind, b, "second", user_id="u", session_id="s")
        assert refused.value.code == "session_busy"
    options = {"interrupt": True} if kind == "ws" else {}  # SSE's /chat does so by itself
    second = await start(kind, b, "second", user_id="u", session_id="s", **options)
    puppet = await puppets.next()
    assert puppet.request.history == [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "half"},
    ]
    assert (await rest(first))[-1]["data"]["status"] == "cancelled"
    puppet.end()
    await rest(second)


async def test_a_chat_on_two_workers(kind: str, two: tuple[Running, Running], puppets: Puppets) -> None:
    """The AI SDK's chat that was asked on one server is resumed from its start, and stopped, on the other."""
    a, b = two
    asked = {"id": "c", "messages": said("hello")}
    if kind == "sse":
        async with http(a) as here, http(b) as there:
            asking = asyncio.create_task(here.post("/ai-sdk/chat", json=asked))
            puppet = await puppets.next()
            puppet.say("half")
            resuming = asyncio.create_task(there.get("/ai-sdk/chat/c/stream"))
            await until(lambda: len(b.service.heartbeats.pumps) == 1)
            stopped = await there.post("/ai-sdk/chat/c/stop")
            first, second = frames(await asking)[:-1], frames(await resuming)[:-1]
            assert (stopped.status_code, stopped.json()["run_id"]) == (202, first[0]["messageId"])
            for client in (here, there):
                assert (await client.get("/ai-sdk/chat/c/stream")).status_code == 204
                assert (await client.post("/ai-sdk/chat/c/stop")).status_code == 204
    else:
        async with opened(a) as one, opened(b) as other:
            here_, there_ = Transport(one), Transport(other)
            await here_.say("send", "r1", trigger="submit-message", **asked)
            puppet = await puppets.next()
            puppet.say("half")
            await there_.say("resume", "r2", id="c")
            resumed = await there_.until("chunk", "r2")
            await there_.say("abort", "r2")
            first = [message["chunk"] for message in (await here_.until("end", "r1"))[1:-1]]
            await there_.say("resume", "r3", id="c")
            rest_ = await there_.until("no-active", "r3")
            second = [message["chunk"] for message in resumed[1:] + rest_ if message["type"] == "chunk"]
    await puppet.closed.wait()
    assert [chunk["type"] for chunk in first] == ["start", "text-start", "text-delta", "text-end", "abort", "finish"]
    assert second == first
    assert puppets.started == 1


async def test_a_repeated_start_on_the_other_worker(kind: str, two: tuple[Running, Running], puppets: Puppets) -> None:
    """The same start with the same key on the other server is the same run."""
    a, b = two
    one = await start(kind, a, "x", idempotency_key="k", user_id="u")
    again = await start(kind, b, "x", idempotency_key="k", user_id="u")
    assert one.run_id == again.run_id
    puppet = await puppets.next()
    puppet.end()
    assert await rest(one) == await rest(again)
    assert puppets.started == 1


async def test_many_runs_crosswise(kind: str) -> None:
    """A hundred runs on two servers, each followed on both, do not get in each other's way."""
    url = fresh()
    async with serving({"echo": echo}, log=url) as a, serving({"echo": echo}, log=url) as b:
        servers = (a, b)
        started = await asyncio.gather(*(start(kind, servers[i % 2], f"run {i} says hello") for i in range(100)))
        crossed = await asyncio.gather(
            *(attach(kind, servers[1 - i % 2], follower.run_id) for i, follower in enumerate(started))
        )
        for i, (one, other) in enumerate(zip(started, crossed, strict=True)):
            seen = await rest(one)
            assert text(seen) == f"run {i} says hello "
            assert await rest(other) == seen


async def test_a_worker_drains(kind: str, puppets: Puppets) -> None:
    """Followers of a server that stops resume on the other: of runs that went on there, and of its own, which end."""
    url = fresh()
    async with AsyncExitStack() as stack:
        b = await stack.enter_async_context(serving({"mine": puppets}, log=url))
        async with serving({"mine": puppets}, log=url) as a:
            leaving = await start(kind, a)
            puppet = await puppets.next()
            puppet.say("on a")
            staying = await start(kind, b)
            other = await puppets.next()
            other.say("on b")
            followers = [await attach(kind, a, staying.run_id), await attach(kind, b, leaving.run_id)]
            seen = [json.loads(await followers[0].next() or b"") for _ in range(2)]
        with pytest.raises(Broken) as broken:
            await followers[0].next()
        assert broken.value.code == (1012 if kind == "ws" else None)
        for ended in (await rest(leaving), await rest(followers[1])):
            assert (ended[-1]["type"], ended[-1]["data"]["error_type"]) == ("ERROR", "interrupted")
            assert text(ended) == "on a"
        again = await attach(kind, b, staying.run_id, seen[-1]["id"])
        other.say(", still")
        other.end()
        seen += await rest(again)
        check(seen)
        assert text(seen) == "on b, still"
        assert await rest(staying) == seen


async def test_a_worker_dies(kind: str, puppets: Puppets) -> None:
    """The runs of a server that is gone without a word are ended by another, for followers there too."""
    url = fresh("&lease=0.3")
    async with serving({"mine": puppets}, log=url) as a, serving({"mine": puppets}, log=url) as b:
        here = await start(kind, a)
        puppet = await puppets.next()
        puppet.say("half")
        there = await attach(kind, b, here.run_id)
        for task in a.runs.log._tasks:  # type: ignore[attr-defined]
            task.cancel()
        seen = await rest(there)
        assert seen[-1]["data"]["error_type"] == "interrupted"
        assert text(seen) == "half"
        puppet.say("too late")  # the zombie is refused, and its agent stopped
        await puppet.closed.wait()
        await until(lambda: len(a.runs) == 0)
        await here.close()


@pytest.fixture
async def two_that_ask() -> AsyncIterator[tuple[Running, Running]]:
    """Two servers with an agent that asks, and then listens."""
    url, agent = fresh(), Scripted()

    async def asks_and_listens(request: RunRequest) -> None:
        await asks_a_branch(request)
        await listens(request)

    agent.script = asks_and_listens
    async with serving({"mine": agent}, log=url) as a, serving({"mine": agent}, log=url) as b:
        yield a, b


async def test_what_is_said_on_the_other_worker(kind: str, two_that_ask: tuple[Running, Running]) -> None:
    """Answers and messages reach the run's owner; the outcome is the same as there, refusals too."""
    a, b = two_that_ask
    follower = await start(kind, a)
    run_id, asked = follower.run_id, await until_asked(follower)

    async def described(server: Running) -> tuple[bool, list[str]]:
        async with http(server) as client:
            run = (await client.get(f"/runs/{run_id}")).json()
        return run["waiting"], [question["input_id"] for question in run["questions"]]

    while await described(b) != (True, [asked["input_id"]]):  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.01)  # the owner notes it a moment later
    refused = await say(kind, b, run_id, input_id=asked["input_id"], answer="prod")
    assert (refused["code"], refused["field"]) == ("bad_request", "answer")
    assert (await say(kind, b, run_id, input_id=f"ask-{run_id}-9", answer="dev"))["status"] == "not_found"
    taken = await say(kind, b, run_id, input_id=asked["input_id"], answer="dev", message_id="m")
    assert taken == {"message_id": "m", "status": "accepted"}
    assert await say(kind, a, run_id, input_id=asked["input_id"], answer="dev", message_id="m") == taken
    late = await say(kind, b, run_id, input_id=asked["input_id"], answer="main")
    assert (late["status"], late["message_id"]) == ("already_answered", "m")
    assert await described(a) == (False, [])
    for n in range(20):
        assert (await say(kind, b, run_id, content=f"{n}"))["status"] == "accepted"
    assert (await say(kind, b, run_id, content="end", message_id="last"))["status"] == "accepted"
    seen = await rest(follower)
    assert text(seen) == "It is dev." + "".join(f"{n} " for n in range(20)) + "end "
    for server in (a, b):
        again = await say(kind, server, run_id, content="end", message_id="last")
        assert again == {"message_id": "last", "status": "accepted"}
        assert (await say(kind, server, run_id, content="more"))["status"] == "already_finished"


async def test_an_owner_that_says_nothing(
    kind: str, two_that_ask: tuple[Running, Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can tell whether it was taken: that is said, and the same again settles it."""
    monkeypatch.setattr("twinwire.runs.reach.SAY_SECONDS", 0.3)
    a, b = two_that_ask
    follower = await start(kind, a)
    run_id, asked = follower.run_id, await until_asked(follower)
    obey, heard = a.runs.log._reader._obey, []  # type: ignore[attr-defined]
    monkeypatch.setattr(a.runs.log._reader, "_obey", lambda *what: heard.append(what))  # type: ignore[attr-defined]
    unknown = await say(kind, b, run_id, input_id=asked["input_id"], answer="dev", message_id="m")
    assert (unknown["code"], unknown["message_id"]) == ("unknown_outcome", "m")
    monkeypatch.setattr(a.runs.log._reader, "_obey", obey)  # type: ignore[attr-defined]
    settled = await say(kind, b, run_id, input_id=asked["input_id"], answer="dev", message_id="m")
    assert settled == {"message_id": "m", "status": "accepted"}
    await say(kind, b, run_id, content="end")
    seen = await rest(follower)
    assert [event["type"] for event in seen].count("INPUT_ANSWERED") == 1


async def test_a_dead_owner(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcome of an answer to a run whose worker has died is unknown until another one ends the run."""
    monkeypatch.setattr("twinwire.runs.reach.SAY_SECONDS", 0.3)
    url, agent = fresh("&lease=1"), Scripted()
    async with serving({"mine": agent}, log=url) as a, serving({"mine": agent}, log=url) as b:
        follower = await start(kind, a)
        run_id, asked = follower.run_id, await until_asked(follower)
        watcher = await attach(kind, b, run_id)
        for task in a.runs.log._tasks:  # type: ignore[attr-defined]
            task.cancel()  # as `kill -9` would, as far as others can tell
        what = {"input_id": asked["input_id"], "answer": "dev", "message_id": "m"}
        assert (await say(kind, b, run_id, **what))["code"] == "unknown_outcome"
        end = (await rest(watcher))[-1]
        assert (end["type"], end["data"]["error_type"]) == ("ERROR", "interrupted")
        assert (await say(kind, b, run_id, **what))["status"] == "already_finished"
        await follower.close()


async def test_an_error_that_nobody_thought_of(
    kind: str, two_that_ask: tuple[Running, Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that the owner fails on is unknown to whoever sent it, and holds up nothing that comes after it."""
    monkeypatch.setattr("twinwire.runs.reach.SAY_SECONDS", 0.5)
    a, b = two_that_ask
    follower = await start(kind, a)
    run_id, asked = follower.run_id, await until_asked(follower)
    hear = a.runs.hear

    async def fails(run_id: str, saying: Saying) -> Outcome | None:
        if saying.content == "fail":
            raise OSError
        return await hear(run_id, saying)

    monkeypatch.setattr(a.runs, "hear", fails)
    assert (await say(kind, b, run_id, content="fail"))["code"] == "unknown_outcome"
    assert (await say(kind, b, run_id, input_id=asked["input_id"], answer="dev"))["status"] == "accepted"
    assert (await say(kind, b, run_id, content="end"))["status"] == "accepted"
    await rest(follower)
