"""Redis loses a run, or a part of one, while nobody says anything: owner and followers hear of it within a lease."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from support.followers import KINDS, AnyFollower, Broken, Refused, attach, cancel, events, rest, start
from support.logs import append, records, run_info
from support.redis_server import fresh, own_server, shared
from support.redis_workers import Listener, begun, die, follow, worker
from support.serving import Puppet, Puppets, Running, serving, until
from twinwire.log import Wanted
from twinwire.protocol.errors import CursorGone, RunNotFound

LEASE = 1.0
WITHIN = 3 * LEASE  # a check takes a fifth of a lease to come; the rest is for a machine under load


class Scene:
    """A quiet run: its owner, its agent, a follower of each kind on the owner and on another worker."""

    def __init__(self, here: Running, puppet: Puppet, client: Redis, followers: list[AnyFollower]) -> None:
        self.here = here
        self.puppet = puppet
        self.client = client
        self.followers = followers
        self.run_id = followers[0].run_id
        self.run = f"{{{here.runs.log._keys.live[1:].partition('}')[0]}}}:run:{self.run_id}"  # type: ignore[attr-defined]
        self.events = f"{self.run}:events"


@asynccontextmanager
async def quiet(puppets: Puppets, port: int, url: str) -> AsyncIterator[Scene]:
    """A run that has said a word, which all its followers have seen; its agent is busy and says no more."""
    async with (
        serving({"mine": puppets}, log=url) as here,
        serving({"mine": puppets}, log=url) as there,
        Redis(port=port, protocol=2) as client,
    ):
        first = await start("sse", here)
        puppet = await puppets.next()
        followers = [first, await attach("ws", here, first.run_id)]
        followers += [await attach(kind, there, first.run_id) for kind in KINDS]
        puppet.say("word")
        for follower in followers:
            while json.loads(await follower.next() or b"")["type"] != "LLM_CHUNK":
                pass
        yield Scene(here, puppet, client, followers)
        for follower in followers:
            await follower.close()


async def heard(follower: AnyFollower) -> str:
    """How the follower hears that its run is no more: what a socket is told, or that the body broke off."""
    try:
        ends = [event async for event in events(follower)]
    except Refused as refused:
        return str(refused.code)
    except Broken:
        return "broken"
    return str(ends[-1]["data"].get("error_type"))


async def all_heard(scene: Scene) -> list[str]:
    """How each follower hears, at once and within the bound."""
    async with asyncio.timeout(WITHIN):
        return await asyncio.gather(*(heard(follower) for follower in scene.followers))


Loss = Callable[[Scene], Awaitable[object]]


def forge(scene: Scene, seq: int) -> Awaitable[object]:
    """Put a well-formed event under this number into the run's stream, which the run's hash knows nothing of."""
    event = records(scene.run_id, seq - 1, 1)[0]
    fields: dict[Any, Any] = {"type": event.type, "body": event.body, "start": event.start, "stop": event.stop}
    return scene.client.xadd(scene.events, fields, f"{seq}-0")


GONE: dict[str, Loss] = {
    "the run": lambda scene: scene.client.delete(scene.run, scene.events),
    "the hash": lambda scene: scene.client.delete(scene.run),
    "a field": lambda scene: scene.client.hdel(scene.run, "last"),
    "the hash's type": lambda scene: scene.client.set(scene.run, "no hash"),
    "the stream's type": lambda scene: scene.client.set(scene.events, "no stream"),
    "the stream's numbers": lambda scene: scene.client.xadd(scene.events, {"mine": "1"}, "99-0"),
    "an event after a hole": lambda scene: forge(scene, 50),
    "an event of no writer": lambda scene: forge(scene, 3),
    "the info": lambda scene: scene.client.hset(scene.run, "info", "{"),
    "the info's type": lambda scene: scene.client.hset(scene.run, "info", "[]"),
    "a field of the info": lambda scene: scene.client.hset(scene.run, "info", f'{{"run_id":"{scene.run_id}"}}'),
    "the info's run": lambda scene: scene.client.hset(scene.run, "info", msgspec.json.encode(run_info())),
    "the name of the key": lambda scene: scene.client.hdel(scene.run, "key"),
}


@pytest.mark.parametrize("loss", GONE)
async def test_a_quiet_run_is_gone(loss: str, puppets: Puppets) -> None:
    """A run that Redis no longer has is told to every follower on every worker, and its owner stops the agent."""
    async with quiet(puppets, shared().port, fresh(f"&lease={LEASE}")) as scene:
        await GONE[loss](scene)
        assert await all_heard(scene) == ["broken", "run_not_found"] * 2
        async with asyncio.timeout(WITHIN):
            await scene.puppet.closed.wait()
        for kind in KINDS:
            with pytest.raises(Refused) as refused:
                await attach(kind, scene.here, scene.run_id, 2)
            assert refused.value.code == "run_not_found"
        again = await start("ws", scene.here)  # and the log goes on
        (await puppets.next()).end()
        await rest(again)


@pytest.mark.parametrize("how", ["flushed", "restarted"])
async def test_redis_forgets_everything(how: str, puppets: Puppets, tmp_path: Path) -> None:
    """FLUSHALL, or a restart without persistence: all hear, the agent stops, and new runs start and are followed."""
    with own_server(tmp_path, appendonly="no") as redis:
        async with quiet(puppets, redis.port, f"{redis.url}?lease={LEASE}") as scene:
            if how == "flushed":
                await scene.client.flushall()
            else:
                redis.kill()
                redis.start()
            assert await all_heard(scene) == ["broken", "run_not_found"] * 2
            await scene.puppet.closed.wait()
            again = await start("ws", scene.here)
            (await puppets.next()).end()
            await rest(again)


PARTS: dict[str, Loss] = {
    "all events": lambda scene: scene.client.delete(scene.events),
    "the first events": lambda scene: scene.client.xtrim(scene.events, maxlen=1, approximate=False),
    "the last event": lambda scene: scene.client.xdel(scene.events, "2-0"),
}


@pytest.mark.parametrize("loss", PARTS)
async def test_a_quiet_run_has_lost_events(loss: str, puppets: Puppets) -> None:
    """A run of which Redis has lost events is ended by its owner: every follower gets one ERROR that says so."""
    async with quiet(puppets, shared().port, fresh(f"&lease={LEASE}")) as scene:
        await PARTS[loss](scene)
        assert await all_heard(scene) == ["interrupted"] * 4
        await scene.puppet.closed.wait()
        with pytest.raises(Refused) as refused:
            await rest(await attach("ws", scene.here, scene.run_id, 0))
        assert (refused.value.code, refused.value.answer["last"]) == ("gap", 3)


async def test_an_ended_run_without_its_end() -> None:
    """A run whose terminal event Redis has lost is unknown: nobody waits for its end for ever."""
    url = fresh(f"&lease={LEASE}")
    async with worker(url) as here, worker(url) as there:
        run_id = (await begun(here, 2)).run_id
        await append(here, run_id, 2, records(run_id, 2, 1, end=True))
        await here._link.call("DEL", here._keys.events(run_id))
        for log in (here, there):
            with pytest.raises(RunNotFound):
                await log.state(run_id)
            with pytest.raises(RunNotFound):
                await log.page(run_id, 1, 10)


NO_EVENTS = [
    ("50-0", "a", "b"),
    ("3-0", "a", "b"),
    ("2-1", "a", "b"),
    ("3-0", "type", "LLM_CHUNK", "body", "\n\n", "start", "0", "stop", "1"),
]


@pytest.mark.parametrize("entry", NO_EVENTS, ids=str)
async def test_an_entry_that_is_no_event(entry: tuple[str, ...]) -> None:
    """Who follows a run on another worker hears of an entry that is no event, before any check deletes the run."""
    url = fresh("&lease=60")  # the next check is seconds away
    async with worker(url) as here, worker(url) as there:
        run_id = (await begun(here, 2)).run_id
        following = asyncio.create_task(follow(there, run_id))
        await until(lambda: run_id in there._reader.held and there._reader.held[run_id].current)
        await there._link.call("XADD", there._keys.events(run_id), *entry)
        async with asyncio.timeout(WITHIN):
            with pytest.raises(RunNotFound):
                await following


async def test_redis_goes_back_in_time(puppets: Puppets) -> None:
    """A Redis that has an older state of a quiet run, as after a failover, is told: the run ends where that ends."""
    async with quiet(puppets, shared().port, fresh(f"&lease={LEASE}")) as scene:
        await scene.client.hset(scene.run, mapping={"last": 1})
        await scene.client.xtrim(scene.events, maxlen=0, approximate=False)
        event = records(scene.run_id, 0, 1)[0]
        fields: dict[Any, Any] = {"type": event.type, "body": event.body, "start": event.start, "stop": event.stop}
        await scene.client.delete(scene.events)
        await scene.client.xadd(scene.events, fields, "1-0")
        told = await all_heard(scene)
        assert set(told) <= {"broken", "gap", "interrupted"}
        await scene.puppet.closed.wait()
        _, end = await rest(await attach("ws", scene.here, scene.run_id, 0))
        assert end["data"]["error_type"] == "interrupted"


async def test_an_end_under_a_number_that_was_seen() -> None:
    """If a run is ended under the number of an event that Redis has lost, who has seen that event is told a gap."""
    url = fresh(f"&lease={LEASE}")
    async with worker(url) as here, worker(url) as there:
        run_id = (await begun(here, 2)).run_id
        leave = there.subscribe(run_id, (woken := asyncio.Event()).set)
        await until(lambda: there._reader.held[run_id].current)
        await append(here, run_id, 2, records(run_id, 2, 1))
        await until(lambda: there._reader.held[run_id].tail.last == 3)
        woken.clear()
        name = here._keys.events(run_id)
        rows = await here._link.call("XRANGE", name, "-", "2-0")
        await here._link.call("DEL", name)
        for entry_id, fields in rows:
            await here._link.call("XADD", name, entry_id, *fields)
        await here._link.call("HSET", here._keys.run(run_id), "last", 2)
        await append(here, run_id, 2, records(run_id, 2, 1, end=True))
        with pytest.raises(CursorGone) as gone:
            async with asyncio.timeout(WITHIN):
                while True:
                    assert not (await there.page(run_id, 3, 10)).ended
                    await woken.wait()
                    woken.clear()
        assert (gone.value.first, gone.value.last) == (1, 3)
        leave()


async def test_a_hole_in_a_run_is_a_gap() -> None:
    """Events that are missing in the middle are never skipped, whether they are read in pages or as they come."""
    url = fresh("&lease=60")
    async with worker(url) as here, worker(url) as there:
        run_id = (await begun(here, 9)).run_id
        await here._link.call("XDEL", here._keys.events(run_id), "5-0")
        assert [record.seq for record in (await there.page(run_id, 0, 100)).records] == [1, 2, 3, 4]
        with pytest.raises(CursorGone) as caught:
            await there.page(run_id, 4, 100)
        assert (caught.value.first, caught.value.last) == (6, 9)


async def test_one_run_s_fault_is_not_the_others(puppets: Puppets) -> None:
    """A run whose keys are of another type, or hold what is no event, holds up no other run followed here."""
    url = fresh(f"&lease={LEASE}")
    async with worker(url) as here, worker(url) as there:
        spoilt = [(await begun(here, 2)).run_id for _ in range(2)]
        whole = (await begun(here, 2)).run_id
        following = [asyncio.create_task(follow(there, run_id)) for run_id in (*spoilt, whole)]
        await until(lambda: all(held.current for held in there._reader.held.values()) and len(there._reader.held) == 3)
        await here._link.call("SET", here._keys.events(spoilt[0]), "no stream")
        await here._link.call("XADD", here._keys.events(spoilt[1]), "3-0", "no", "event")
        for seq in range(2, 20):
            await append(here, whole, seq, records(whole, seq, 1))
        await append(here, whole, 20, records(whole, 20, 1, end=True))
        async with asyncio.timeout(WITHIN):
            assert await following[2] == list(range(1, 22))
            for task in following[:2]:
                with pytest.raises(RunNotFound):
                    await task


async def test_what_a_worker_says_of_itself_is_lost() -> None:
    """Without the list of live runs, the lease and the idempotency key nobody is taken for dead, and all come back."""
    url, owner = fresh(f"&lease={LEASE}"), Listener()
    async with worker(url, owner) as here, worker(url) as there:
        info = await begun(here, 1)
        keyed = await begun(here, 1, key="k")
        for _ in range(3):
            keys = here._keys
            await there._link.call(
                "DEL", keys.live, keys.worker(here.worker), keys.commands(here.worker), keys.idempotency(None, "k")
            )
            await asyncio.sleep(LEASE)  # some checks and sweeps long
            assert dict(_pairs(await there._link.call("HGETALL", keys.live))).keys() == {
                info.run_id.encode(),
                keyed.run_id.encode(),
            }
            assert await there.find(None, "k") == keyed
        assert (await there.state(info.run_id)).terminal is None
        assert owner.interrupted == set()
        await there.cancel(info)
        await until(lambda: owner.cancelled == [info.run_id])


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


async def test_commands_of_a_clock_that_was_set_back() -> None:
    """What is said on a stream that was lost, and whose new ids are lower, is heard all the same."""
    url, owner = fresh(f"&lease={LEASE}"), Listener()
    async with worker(url, owner) as here, worker(url) as there:
        info = await begun(here, 1)
        name = here._keys.commands(here.worker)
        here._reader._cursors[name.encode()] = b"9999999999999-0"  # as if the ids until now had been these
        await there.cancel(info)
        async with asyncio.timeout(3 + WITHIN):
            await until(lambda: owner.cancelled == [info.run_id])


@pytest.mark.parametrize("kind", KINDS)
async def test_keys_of_another_type(kind: str, puppets: Puppets) -> None:
    """What another program has put in place of what all workers share is replaced, and runs start and are cancelled."""
    url = fresh(f"&lease={LEASE}")
    async with quiet(puppets, shared().port, url) as scene:
        log = scene.here.runs.log
        keys = log._keys  # type: ignore[attr-defined]
        for name in (keys.live, keys.sessions, keys.logged_out, keys.log_outs, keys.commands(log.worker)):
            await scene.client.delete(name)
            await scene.client.set(name, "mine")
        async with asyncio.timeout(WITHIN + 5):
            while await scene.client.type(keys.live) != b"hash":
                pass
            assert await cancel(kind, scene.here, scene.run_id) == "accepted"
            assert [await heard(follower) for follower in scene.followers] == ["None"] * 4  # it ended as cancelled
        again = await start(kind, scene.here, user_id="u", session_id="s")
        (await puppets.next()).end()
        await rest(again)


async def test_a_lost_run_of_a_dead_worker() -> None:
    """A run that the list of live runs no longer has, and whose owner is dead, is ended for its followers' sake."""
    url = fresh(f"&lease={LEASE}")
    async with worker(url) as dead, worker(url) as there:
        run_id = (await begun(dead, 1)).run_id
        following = asyncio.create_task(follow(there, run_id))
        await until(lambda: run_id in there._reader.held and there._reader.held[run_id].current)
        die(dead)
        await there._link.call("DEL", there._keys.live)
        assert await following == [1, 2]


@pytest.mark.parametrize("asked", ["state", "summary"])
async def test_an_unfollowed_lost_run_of_a_dead_worker(asked: str) -> None:
    """A run that the list of live runs no longer has, whose owner is dead and that nobody follows, ends once read."""
    url = fresh(f"&lease={LEASE}")
    async with worker(url) as dead, worker(url) as there:
        run_id = (await begun(dead, 1)).run_id
        die(dead)
        await there._link.call("DEL", there._keys.live)
        reads: dict[str, Callable[[], Awaitable[object]]] = {
            "state": lambda: there.state(run_id),
            "summary": lambda: there.summary(run_id),
        }
        async with asyncio.timeout(3 * WITHIN):
            while await there._link.call("HGET", there._keys.run(run_id), "ended") == b"0":
                await reads[asked]()
        terminal = (await there.state(run_id)).terminal
        assert terminal is not None
        assert msgspec.json.decode(terminal.data)["error_type"] == "interrupted"


@pytest.mark.parametrize("damage", [("XADD", "50-0", "a", "b"), ("SET", "no stream"), ("HSET", "info", "{")], ids=str)
async def test_a_damaged_run_of_a_dead_worker(damage: tuple[str, ...]) -> None:
    """A dead worker's run that cannot be read is deleted, and keeps nobody from ending its other runs."""
    url = fresh(f"&lease={LEASE}")
    async with worker(url) as dead, worker(url) as there:
        spoilt = [(await begun(dead, 1)).run_id for _ in range(3)]
        whole = (await begun(dead, 1)).run_id
        command, *arguments = damage
        for run_id in spoilt:
            keys = there._keys
            await there._link.call(command, keys.run(run_id) if command == "HSET" else keys.events(run_id), *arguments)
        die(dead)
        async with asyncio.timeout(3 * WITHIN):
            while (await there.state(whole)).terminal is None:
                pass
            for run_id in spoilt:
                while await there._link.call("EXISTS", there._keys.run(run_id), there._keys.events(run_id)):
                    pass
            while await there._link.call("HLEN", there._keys.live):
                pass


@pytest.mark.parametrize("command", ["CONFIG SET maxmemory 1", "REPLICAOF 127.0.0.1 1"])
async def test_readiness_of_a_redis_that_takes_nothing(command: str, puppets: Puppets, tmp_path: Path) -> None:
    """A server whose Redis answers and cannot be written is not ready: no run could be started."""
    with own_server(tmp_path) as redis:
        async with (
            serving({"mine": puppets}, log=redis.url) as server,
            Redis(port=redis.port) as client,
            httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as http,
        ):
            assert (await http.get("/readyz")).status_code == 200
            await client.execute_command(*command.split())  # type: ignore[no-untyped-call]
            answer = await http.get("/readyz")
            assert (answer.status_code, answer.json()["code"]) == (503, "log_unavailable")
            await client.execute_command("CONFIG", "SET", "maxmemory", "0")  # type: ignore[no-untyped-call]
            await client.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
            async with asyncio.timeout(20):
                while (await http.get("/readyz")).status_code != 200:
                    pass


async def test_a_redis_that_may_evict(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A Redis that may evict keys is warned of at the start."""
    with own_server(tmp_path, **{"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}) as redis:
        async with worker(redis.url):
            assert "may evict" in caplog.text


async def test_a_check_costs_one_command_for_many_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs are followed, one timer looks at them, some hundreds in one command."""
    url = fresh("&lease=60")
    async with worker(url) as here, worker(url) as there:
        runs = [(await begun(here, 1)).run_id for _ in range(300)]
        leaves = [there.subscribe(run_id, lambda: None) for run_id in runs]
        await until(lambda: sum(held.current for held in there._reader.held.values()) == 300)
        calls: list[object] = []
        call = there._link.call

        def counted(*command: object) -> object:
            calls.append(command[0])
            return call(*command)

        monkeypatch.setattr(there._link, "call", counted)
        await there._check.look()
        assert len(calls) <= 5
        for leave in leaves:
            leave()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_user_s_keys_of_another_type(kind: str, puppets: Puppets) -> None:
    """What another program has put in place of a user's keys, or of a run's followers, is replaced when needed."""
    url = fresh(f"&lease={LEASE}")
    async with quiet(puppets, shared().port, url) as scene:
        log = scene.here.runs.log
        keys = log._keys  # type: ignore[attr-defined]
        session = ("u", "s")
        for name in (keys.starts("u"), keys.runs_of("u"), keys.session(session), keys.followers(scene.run_id)):
            await scene.client.set(name, "mine")
        for name in (keys.busy(session), keys.idempotency("u", "k")):
            await scene.client.rpush(name, "mine")
        assert [*(await log.listed(Wanted(user_id="u"), 10)).run_ids] == []
        assert await log.holder(session) is None
        options = {"user_id": "u", "session_id": "s", "idempotency_key": "k"}
        again = await start(kind, scene.here, **options)
        (await puppets.next()).end()
        await rest(again)
        async with asyncio.timeout(WITHIN):
            while not await log.history(session):
                pass
            while not await log.followed(scene.run_id):
                pass
        assert [*(await log.listed(Wanted(user_id="u"), 10)).run_ids] == [again.run_id]
