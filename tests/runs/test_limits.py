"""A user's quota, in each log and over both transports: runs at once, starts in a minute, and who is never refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import msgspec
import pytest

from support.followers import KINDS, Refused, attach, rest, start
from support.following import Transport, both, connected
from support.logs import FACTORIES, LogFactory, append, opened, records, run_info
from support.redis_server import fresh
from support.redis_workers import begun, die, raw, worker
from support.serving import Puppets, serving, until
from support.sqlite_logs import Clock
from twinwire.log import Quota, RunInfo, Store
from twinwire.log.quotas import Quotas
from twinwire.protocol.errors import RateLimited, TooManyRuns
from twinwire.protocol.wire import new_run_id
from twinwire.runs import RunSpec

TIGHT = Quota(runs=2, starts=100, longest=30.0)
SLOW = Quota(runs=100, starts=3, longest=30.0)
logs = pytest.mark.parametrize("factory", FACTORIES, ids=[factory.__name__ for factory in FACTORIES])


async def begin(log: Store, quota: Quota, user_id: str | None = "u", key: str | None = None) -> str:
    """Start a run within the quota: its id."""
    info = msgspec.structs.replace(run_info(user_id), owner=log.worker)
    return (await log.create(info, idempotency_key=key, quota=quota)).run_id


async def end(log: Store, run_id: str) -> None:
    """Write the run's terminal event, its first."""
    await append(log, run_id, 0, records(run_id, 0, 1, end=True))


@logs
async def test_runs_at_once(factory: LogFactory, tmp_path: Path) -> None:
    """A run over the number is refused until one has ended, and told when that is so at the latest."""
    async with opened(factory(tmp_path)) as log:
        first, _ = [await begin(log, TIGHT) for _ in range(2)]
        with pytest.raises(TooManyRuns) as refused:
            await begin(log, TIGHT)
        assert (refused.value.code, refused.value.retry_after) == ("too_many_runs", 30)
        await begin(log, TIGHT, "another")
        for _ in range(3):
            await begin(log, TIGHT, None)
        await end(log, first)
        await begin(log, TIGHT)
        with pytest.raises(TooManyRuns):
            await begin(log, TIGHT)


@logs
async def test_starts_in_a_minute(factory: LogFactory, tmp_path: Path) -> None:
    """Runs that have ended count for a minute, and the refusal tells how much of it is left."""
    async with opened(factory(tmp_path)) as log:
        for _ in range(3):
            await end(log, await begin(log, SLOW))
        with pytest.raises(RateLimited) as refused:
            await begin(log, SLOW)
        assert refused.value.code == "rate_limited"
        assert 50 <= refused.value.retry_after <= 60
        await begin(log, SLOW, "another")


@logs
async def test_a_repeat_of_a_start_is_never_refused(factory: LogFactory, tmp_path: Path) -> None:
    """What an idempotency key stands for is given, however many runs there are, and is no start."""
    async with opened(factory(tmp_path)) as log:
        first = await begin(log, TIGHT, key="k")
        await begin(log, TIGHT)
        for _ in range(3):
            assert await begin(log, TIGHT, key="k") == first
        with pytest.raises(TooManyRuns):
            await begin(log, TIGHT, key="l")
        assert await log.find("u", "l") is None


@logs
async def test_starts_at_the_same_time(factory: LogFactory, tmp_path: Path) -> None:
    """Of many starts at once as many go through as there is room for, and a refused one leaves nothing behind."""
    async with opened(factory(tmp_path)) as log:
        quota = Quota(runs=5, starts=100, longest=30.0)
        outcomes = await asyncio.gather(*(begin(log, quota) for _ in range(20)), return_exceptions=True)
        going = [outcome for outcome in outcomes if isinstance(outcome, str)]
        assert len(going) == 5
        assert [type(outcome) for outcome in outcomes if not isinstance(outcome, str)] == [TooManyRuns] * 15
        for run_id in going:
            await end(log, run_id)
        for _ in range(5):
            await begin(log, quota)


async def test_a_quota_is_for_all_workers() -> None:
    """Runs count whichever worker they go on on; those of a dead one until another has ended them."""
    url = fresh("&lease=0.3")
    async with worker(url) as dead, worker(url) as one, worker(url) as two:
        for _ in range(2):
            await begin(dead, TIGHT)
        for log in (dead, one, two):
            with pytest.raises(TooManyRuns):
                await begin(log, TIGHT)
        die(dead)
        async with raw() as client:
            while await client.hlen(one._keys.live):  # noqa: ASYNC110 - Redis announces nothing
                await asyncio.sleep(0.01)
        assert [len(await begin(log, TIGHT)) for log in (one, two)] == [26, 26]


async def test_a_start_sent_again_counts_once() -> None:
    """A start whose reply was lost, and which is sent again, is one start."""
    async with worker(fresh()) as log:
        info = msgspec.structs.replace(run_info("u"), owner=log.worker)
        for _ in range(5):
            assert await log.create(info, idempotency_key=None, quota=TIGHT) is info
        await begin(log, TIGHT)
        with pytest.raises(TooManyRuns):
            await begin(log, TIGHT)


@pytest.mark.parametrize("shift", [-61, 3600], ids=["a minute passes", "the clock is set back by an hour"])
async def test_a_minute_passes_in_redis(shift: int) -> None:
    """Starts older than a minute, or from a future that is none, hold nobody up and are forgotten."""
    async with worker(fresh()) as log, raw() as client:
        for _ in range(3):
            await end(log, await begin(log, SLOW))
        name = log._keys.starts("u")
        runs = [run_id for run_id in await client.zrange(name, 0, -1) if isinstance(run_id, bytes)]
        for run_id in runs:
            await client.zincrby(name, shift * 1000, run_id)
        await begin(log, SLOW)
        assert await client.zcard(name) == 1
        assert 0 < await client.pttl(name) <= 60_000


async def test_anonymous_runs_are_not_kept_count_of() -> None:
    """Without a quota or a user there is nothing about it in Redis."""
    async with worker(fresh()) as log, raw() as client:
        await begin(log, TIGHT, None)
        await begun(log)
        assert not [name async for name in client.scan_iter(f"{{{log._address.namespace}}}:starts:*")]


def started(user_id: str) -> RunInfo:
    """A run of this user's."""
    return msgspec.structs.replace(run_info(user_id), run_id=new_run_id())


def test_a_minute_passes_in_memory() -> None:
    """The minute is any minute: each start is free again 60 s after it was taken, and not before."""
    clock = Clock()
    quotas = Quotas(lambda _: False, clock)
    quota = Quota(runs=100, starts=2, longest=30.0)
    quotas.admit(started("u"), quota)
    clock.now += 40
    quotas.admit(started("u"), quota)
    for wait in (20, 1):
        with pytest.raises(RateLimited) as refused:
            quotas.admit(started("u"), quota)
        assert refused.value.retry_after == wait
        clock.now += wait - 0.5
    quotas.admit(started("u"), quota)
    with pytest.raises(RateLimited) as refused:
        quotas.admit(started("u"), quota)
    assert refused.value.retry_after == 40


def test_users_are_forgotten() -> None:
    """What is kept of users without a run or a start of the last minute goes as others come; of the others it stays."""
    clock = Clock()
    lasting = started("lasting")
    quotas = Quotas({lasting.run_id}.__contains__, clock)
    one = Quota(runs=1, starts=100, longest=3600.0)
    quotas.admit(lasting, one)
    for i in range(1000):
        clock.now += 1
        quotas.admit(started(str(i)), TIGHT)
    assert 61 <= len(quotas) <= 130
    with pytest.raises(TooManyRuns) as refused:
        quotas.admit(started("lasting"), one)
    assert refused.value.retry_after == 2600


@pytest.mark.parametrize("log", ["memory://", "sqlite:///{}/runs.db"], ids=["memory", "sqlite"])
async def test_starts_at_once_count(log: str, tmp_path: Path, puppets: Puppets) -> None:
    """Of runs that are started in the same moment no more begin than may go on."""
    async with serving({"mine": puppets}, log=log.format(tmp_path), max_runs=3) as server:
        starts = [server.runs.start(RunSpec(message="m")) for _ in range(20)]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        assert sum(isinstance(outcome, TooManyRuns) for outcome in outcomes) == 17
        assert len(server.runs) == 3
        for _ in range(3):
            (await puppets.next()).end()
        await until(lambda: not len(server.runs))
        await server.runs.start(RunSpec(message="m"))
        (await puppets.next()).end()


def test_names_of_users_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that come all within a minute are forgotten too, once there are too many."""
    monkeypatch.setattr("twinwire.log.quotas.MAX_USERS", 100)
    quotas = Quotas(lambda _: False, Clock())
    for i in range(1000):
        quotas.admit(started(str(i)), TIGHT)
        assert len(quotas) <= 100


@pytest.mark.parametrize("kind", KINDS)
async def test_over_both_transports(kind: str, puppets: Puppets) -> None:
    """A start over the quota is refused with when to come again; a resume and a repeat of a start never are."""
    async with serving({"mine": puppets}, user_runs=1, run_timeout=20.0) as server:
        follower = await start(kind, server, user_id="u", session_id="1", idempotency_key="k")
        puppet = await puppets.next()
        with pytest.raises(Refused) as refused:
            await start(kind, server, user_id="u", session_id="2")
        assert refused.value.code == "too_many_runs"
        assert 18 <= refused.value.answer["retry_after"] <= 20
        again = await start(kind, server, user_id="u", session_id="1", idempotency_key="k")
        resumed = await attach(kind, server, follower.run_id, 0)
        assert again.run_id == resumed.run_id == follower.run_id
        await (await start(kind, server, user_id="v")).close()
        await (await start(kind, server)).close()
        puppet.end()
        for one in (follower, again, resumed):
            assert len(await rest(one)) == 2
        await (await start(kind, server, user_id="u")).close()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_rate_over_both_transports(kind: str, puppets: Puppets) -> None:
    """A start too many in a minute is told how long to wait; HTTP says the same in Retry-After."""
    async with serving({"mine": puppets}, user_starts=2) as server:
        for session_id in ("1", "2"):
            await (await start(kind, server, user_id="u", session_id=session_id)).close()
        with pytest.raises(Refused) as refused:
            await start(kind, server, user_id="u", session_id="3")
        assert refused.value.code == "rate_limited"
        seconds = refused.value.answer["retry_after"]
        assert 50 <= seconds <= 60
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
            response = await client.post("/runs", json={"message": "x", "user_id": "u"})
        assert response.status_code == 429
        assert seconds - 5 <= int(response.headers["retry-after"]) == response.json()["retry_after"] <= seconds
        assert puppets.started == 2


@both
async def test_the_client_comes_again_in_time(transport: Transport, puppets: Puppets) -> None:
    """Our Python client waits as long as it is told, and starts its run then."""
    async with serving({"mine": puppets}, user_runs=1, run_timeout=1.0) as server, connected(server.url) as client:
        first = await start("sse", server, user_id="u", session_id="1")
        async with client.stream("x", transport=transport, user_id="u", session_id="2") as run:
            events = asyncio.create_task(anext(aiter(run)))
            assert (await rest(first))[-1]["data"]["error_type"] == "timeout"
            await puppets.next()
            puppet = await puppets.next()
            puppet.say("a")
            assert (await events).type == "AGENT_START"
            assert puppets.started == 2
            puppet.end()
