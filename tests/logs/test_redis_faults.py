"""Redis frozen, killed, restarted, cut off, full: what was acknowledged is not lost or doubled, and all resume."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from support.chaos import Proxy, chaos
from support.followers import KINDS, AnyFollower, Broken, Refused, attach, cancel, check, rest, start, text
from support.redis_server import fresh, own_server, shared
from support.serving import Puppet, Puppets, Running, serving, until
from twinwire.agents import RunRequest
from twinwire.log import RunInfo
from twinwire.log.redis.link import COMMAND_SECONDS
from twinwire.log.redis.reader import BLOCK_SECONDS
from twinwire.protocol.errors import LogUnavailable
from twinwire.protocol.events import StreamEvent, timestamp
from twinwire.protocol.wire import new_run_id
from twinwire.runs.writer import MAX_PENDING


async def crosswise(
    a: Running, b: Running, puppets: Puppets
) -> tuple[list[AnyFollower], list[Puppet], list[AnyFollower]]:
    """A run on each server, each followed on both: the followers where they are, the agents, those on the other."""
    followers = [await start("sse", a), await start("ws", b)]
    played = [await puppets.next() for _ in followers]
    return followers, played, [await attach("ws", b, followers[0].run_id), await attach("sse", a, followers[1].run_id)]


def through(proxy: Proxy, url: str) -> str:
    """The log at this URL, with the proxy before its server."""
    return proxy.url.replace("http", "redis") + "/0?" + url.partition("?")[2]


async def ready(url: str) -> int:
    """The status of a server's readiness."""
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as client:
        return (await client.get(f"{url}/readyz")).status_code


async def test_redis_is_frozen(puppets: Puppets, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While it is, starts are refused soon; then all goes on by itself: every follower gets every event once."""
    with own_server(tmp_path) as redis:
        async with serving({"mine": puppets}, log=redis.url) as a, serving({"mine": puppets}, log=redis.url) as b:
            here = await start("sse", a)
            puppet = await puppets.next()
            there = [await attach(kind, b, here.run_id) for kind in KINDS]
            puppet.say("before ")
            for follower in there:
                assert json.loads(await follower.next() or b"")["type"] == "AGENT_START"
            with redis.frozen():
                began = time.monotonic()
                for _ in range(20):
                    puppet.say("during ")
                refused = await asyncio.gather(
                    *(start(kind, server) for kind in KINDS for server in (a, b)),
                    start("ws", a, user_id="u"),
                    attach("ws", b, here.run_id),
                    return_exceptions=True,
                )
                assert time.monotonic() - began < 15
                assert [error.code for error in refused if isinstance(error, Refused)] == ["log_unavailable"] * 6
                assert await ready(a.url) == 503
            puppet.say("after ")
            puppet.end()
            whole = await rest(here)
            assert text(whole) == "before " + "during " * 20 + "after "
            assert [await rest(follower) for follower in there] == [whole[1:]] * 2
            assert await ready(a.url) == 200
            again = await start("ws", b)
            (await puppets.next()).end()
            await rest(again)
            assert puppets.started == 2
    assert "Traceback" not in caplog.text


async def test_a_cancel_while_redis_is_away(puppets: Puppets, tmp_path: Path) -> None:
    """A run is cancelled where it goes on, without Redis; its followers see the end when Redis is back."""
    with own_server(tmp_path) as redis:
        async with serving({"mine": puppets}, log=redis.url) as server:
            follower = await start("ws", server)
            puppet = await puppets.next()
            with redis.frozen():
                puppet.say("half")
                assert await cancel("sse", server, follower.run_id) == "accepted"
                await puppet.closed.wait()
            seen = await rest(follower)
            assert seen[-1]["data"]["status"] == "cancelled"


@pytest.mark.parametrize("lease", ["", "?lease=0.2"])
async def test_redis_is_killed_and_restarted(puppets: Puppets, tmp_path: Path, lease: str) -> None:
    """With its append-only file nothing is lost or doubled, and nobody is taken for dead, though all leases ran out."""
    with own_server(tmp_path) as redis:
        url = redis.url + lease
        async with serving({"mine": puppets}, log=url) as a, serving({"mine": puppets}, log=url) as b:
            followers, played, crossed = await crosswise(a, b, puppets)
            for cut in range(3):
                for puppet in played:
                    puppet.say(*(f"{cut}.{i} " for i in range(100)))
                redis.kill()
                for puppet in played:
                    puppet.say(f"{cut} away ")
                await asyncio.sleep(0.3)  # longer than the shorter lease
                redis.start()
            for puppet in played:
                puppet.end()
            words = "".join("".join(f"{cut}.{i} " for i in range(100)) + f"{cut} away " for cut in range(3))
            for follower, cross in zip(followers, crossed, strict=True):
                seen = await rest(follower)
                assert text(seen) == words
                assert await rest(cross) == seen


@pytest.mark.full
async def test_redis_is_frozen_past_all_timeouts(puppets: Puppets, tmp_path: Path) -> None:
    """Every connection was given up and every lease ran out: nobody is taken for dead, nothing is lost or doubled."""
    with own_server(tmp_path) as redis:
        url = f"{redis.url}?lease=1"
        async with serving({"mine": puppets}, log=url) as a, serving({"mine": puppets}, log=url) as b:
            followers, played, crossed = await crosswise(a, b, puppets)
            for puppet, follower in zip(played, crossed, strict=True):
                puppet.say("before ")
                assert json.loads(await follower.next() or b"")["type"] == "AGENT_START"
            with redis.frozen():
                for puppet in played:
                    puppet.say(*(f"{i} " for i in range(100)))
                await asyncio.sleep(BLOCK_SECONDS + COMMAND_SECONDS + 0.5)
            for puppet in played:
                puppet.end()
            for follower, cross in zip(followers, crossed, strict=True):
                seen = await rest(follower)
                assert text(seen) == "before " + "".join(f"{i} " for i in range(100))
                assert await rest(cross) == seen[1:]


async def test_redis_loses_everything(puppets: Puppets, tmp_path: Path) -> None:
    """What Redis has lost is told as such: followers are broken off, the run ends, and new ones start."""
    with own_server(tmp_path, appendonly="no") as redis:
        async with serving({"mine": puppets}, log=redis.url) as a, serving({"mine": puppets}, log=redis.url) as b:
            first = await start("sse", a)
            puppet = await puppets.next()
            there = await attach("sse", b, first.run_id)
            puppet.say("word")
            assert json.loads(await there.next() or b"")["type"] == "AGENT_START"
            redis.kill()
            redis.start()
            puppet.say("more")
            await puppet.closed.wait()
            for follower in (first, there):
                with pytest.raises(Broken):
                    await rest(follower)
            with pytest.raises(Refused) as refused:
                await attach("ws", b, first.run_id)
            assert refused.value.code == "run_not_found"
            again = await start("ws", a)
            (await puppets.next()).end()
            await rest(again)


@pytest.mark.parametrize("kind", KINDS)
async def test_connections_to_redis_are_cut(kind: str, puppets: Puppets) -> None:
    """However often a worker's connections to Redis break, its followers and those elsewhere see one whole run."""
    url = fresh()
    async with chaos(shared().port) as proxy:
        cut = through(proxy, url)
        async with serving({"mine": puppets}, log=cut) as a, serving({"mine": puppets}, log=cut) as b:
            first = await start(kind, a)
            puppet = await puppets.next()
            there = await attach(kind, b, first.run_id)
            stop = asyncio.Event()

            async def saw() -> None:
                while not stop.is_set():
                    proxy.cut()
                    await asyncio.sleep(0.03)

            sawing = asyncio.create_task(saw())
            for i in range(300):
                puppet.say(f"{i} ")
                await asyncio.sleep(0.002)
            puppet.end()
            seen = asyncio.gather(rest(first), rest(there))
            await asyncio.sleep(0.1)
            stop.set()
            await sawing
            one, other = await seen
            assert one == other
            assert text(one) == "".join(f"{i} " for i in range(300))
            assert proxy.accepted > 20


async def test_a_partition_that_heals(puppets: Puppets) -> None:
    """Connections that hear nothing are given up; an append whose answer was lost is not doubled."""
    url = fresh()
    async with chaos(shared().port) as proxy:
        cut = through(proxy, url)
        async with serving({"mine": puppets}, log=cut) as a, serving({"mine": puppets}, log=url) as b:
            first = await start("sse", a)
            puppet = await puppets.next()
            there = await attach("ws", b, first.run_id)
            puppet.say("before ")
            assert json.loads(await there.next() or b"")["type"] == "AGENT_START"
            proxy.stall()
            puppet.say(*(f"{i} " for i in range(50)))
            puppet.end()
            seen = await rest(there)  # it arrived, though its writer does not know
            whole = await rest(first)
            assert whole[1:] == seen
            check(whole)


FULL, READ_ONLY = (("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"), ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"))


@pytest.mark.parametrize(("begin", "end"), [FULL, READ_ONLY], ids=["full", "read-only"])
async def test_redis_takes_nothing(begin: str, end: str, puppets: Puppets, tmp_path: Path) -> None:
    """A Redis out of memory, or made a replica, refuses starts clearly; a run that goes on waits and loses nothing."""
    with own_server(tmp_path) as redis:
        async with serving({"mine": puppets}, log=redis.url) as server, Redis(port=redis.port) as client:
            follower = await start("sse", server)
            puppet = await puppets.next()
            await client.execute_command(*begin.split())  # type: ignore[no-untyped-call]
            puppet.say("waits")
            with pytest.raises(Refused) as refused:
                await start("ws", server)
            assert refused.value.code == "log_unavailable"
            await client.execute_command(*end.split())  # type: ignore[no-untyped-call]
            puppet.end()
            assert text(await rest(follower)) == "waits"


@pytest.mark.parametrize("how", ["yields", "emits"])
async def test_an_agent_waits_for_redis(how: str, tmp_path: Path) -> None:
    """While Redis is away, an agent that talks without end is held up: what waits in memory is bounded."""
    told, go = 0, asyncio.Event()

    async def yields(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        nonlocal told
        await go.wait()
        while told < 5 * MAX_PENDING:
            told += 1
            yield StreamEvent(type="LLM_CHUNK", data={"content": "x", "delta": "x"})

    async def emits(request: RunRequest) -> None:
        async for event in yields(request):
            if (room := request.emit(event)) is not None:
                await room

    with own_server(tmp_path) as redis:
        async with serving({"talker": yields if how == "yields" else emits}, log=redis.url) as server:
            follower = await start("ws", server)
            with redis.frozen():
                go.set()
                await until(lambda: told > 0)
                await asyncio.sleep(0.2)
                assert told <= 2 * MAX_PENDING
            assert len(text(await rest(follower))) == told == 5 * MAX_PENDING


async def test_a_start_whose_answer_was_lost(puppets: Puppets, tmp_path: Path) -> None:
    """A run that Redis has and its worker could not start is ended, so that nobody waits for it."""
    with own_server(tmp_path) as redis:
        async with serving({"mine": puppets}, log=f"{redis.url}?lease=0.3") as server, Redis(port=redis.port) as client:
            info = RunInfo(run_id=new_run_id(), agent="mine", created=timestamp(), owner=server.runs.log.worker)
            await server.runs.log.create(msgspec.structs.replace(info, run_id=new_run_id()), idempotency_key=None)
            with redis.frozen(), pytest.raises(LogUnavailable):
                await server.runs.log.create(info, idempotency_key="k")
            while not await client.exists(f"{{twinwire}}:run:{info.run_id}"):
                pass
            *_, end = await rest(await attach("ws", server, info.run_id))
            assert end["data"]["error_type"] == "interrupted"
            assert puppets.started == 0


async def test_redis_allows_no_scripts(puppets: Puppets, tmp_path: Path) -> None:
    """If an access list forbids scripts, no run can start, and `/readyz` says so until they are allowed again."""
    with own_server(tmp_path) as redis:
        async with serving({"mine": puppets}, log=redis.url) as server, Redis.from_url(redis.url) as other:
            assert await ready(server.url) == 200
            await other.execute_command("ACL", "SETUSER", "default", "-eval", "-evalsha")  # type: ignore[no-untyped-call]
            with pytest.raises(Refused):
                await start("ws", server)
            assert await ready(server.url) == 503
            await other.execute_command("ACL", "SETUSER", "default", "+eval", "+evalsha")  # type: ignore[no-untyped-call]
            assert await ready(server.url) == 200
