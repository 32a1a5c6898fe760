"""What is the Redis log's own: what it keeps and forgets, its URLs, and who may use it. `test_log` is for any log."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from support.logs import LIMITS, append, opened, records, run_info, started
from support.redis_server import fresh, own_server
from support.redis_workers import Listener, begun, raw, worker
from twinwire.log import open_log
from twinwire.log.redis.link import Address
from twinwire.log.redis.log import RedisLog
from twinwire.protocol.errors import RunNotFound, SettingsError
from twinwire.settings import Settings


async def test_conversations_are_bounded() -> None:
    """The oldest turns of a conversation go, and the conversations unused for longest; all are forgotten in time."""
    limits = msgspec.structs.replace(LIMITS, session_bytes=10, max_sessions=3)
    url = fresh()
    async with worker(url, limits=limits) as log, raw() as client:
        for turn in ("aaa", "bb", "cc"):
            await log.remember(("u", "s"), turn, turn)
        assert [message["content"] for message in await log.history(("u", "s"))] == ["bb", "bb", "cc", "cc"]
        await log.remember(("u", "s"), "x" * 20, "")
        assert await log.history(("u", "s")) == []
        for name in "abcd":
            await log.remember(("u", name), name, name)
            await log.history(("u", "a"))
        found = {name: bool(await log.history(("u", name))) for name in "abcd"}
        assert found == {"a": True, "b": False, "c": True, "d": True}
        assert 0 < await client.pttl(log._keys.session(("u", "a"))) <= limits.session_idle * 1000


async def test_a_run_s_bytes_are_bounded() -> None:
    """A run over the limit on bytes keeps its newest events."""
    async with worker(fresh()) as log:
        run_id = (await begun(log)).run_id
        for seq in range(30):
            await append(log, run_id, seq, records(run_id, seq, 1, size=100_000))
        state = await log.state(run_id)
        assert state.last == 30
        assert 5 <= state.last - state.first + 1 <= 10
        assert [record.seq for record in (await log.page(run_id, state.first - 1, 1)).records] == [state.first]


async def test_a_large_result_is_read_once() -> None:
    """The pages before a large result do not move it."""
    url = fresh()
    async with worker(url) as here, worker(url) as there, raw() as client:
        run_id = (await begun(here, 50)).run_id
        await append(here, run_id, 50, records(run_id, 50, 1, end=True, size=500_000))
        before = (await client.info("stats"))["total_net_output_bytes"]
        seen = 0
        while page := (await there.page(run_id, seen, 2)).records:
            seen = page[-1].seq
        assert seen == 51
        assert (await client.info("stats"))["total_net_output_bytes"] - before < 2_000_000


async def test_what_has_ended_is_forgotten() -> None:
    """A run's keys all expire with its retention, its idempotency key too; those of one that goes on do not."""
    limits = msgspec.structs.replace(LIMITS, retention=0.2)
    url = fresh()
    async with worker(url, limits=limits) as log, raw() as client:
        info = msgspec.structs.replace(run_info("u"), owner=log.worker)
        await log.create(info, idempotency_key="k")
        await append(log, info.run_id, 0, records(info.run_id, 0, 2))
        log.follow(info.run_id)
        while not await client.exists(log._keys.followers(info.run_id)):
            pass
        assert await client.pttl(log._keys.run(info.run_id)) == -1
        log.unfollow(info.run_id)
        await append(log, info.run_id, 2, records(info.run_id, 2, 1, end=True))
        assert await client.hgetall(log._keys.live) == {}
        with pytest.raises(RunNotFound):
            while True:
                await log.state(info.run_id)
        assert await log.find("u", "k") is None
        while await log._lists.tidy_some():
            pass
        left = {name.decode() async for name in client.scan_iter(match=f"{log._keys._tag}:*")}
        assert left == {log._keys.worker(log.worker), log._keys.commands(log.worker)}


async def test_scripts_that_redis_has_forgotten() -> None:
    """A server that has lost its scripts is given them again."""
    async with worker(fresh()) as log, raw() as client:
        run_id = (await begun(log, 1)).run_id
        await client.script_flush()
        await append(log, run_id, 1, records(run_id, 1, 1))
        await client.script_flush()
        assert await log.occupy((None, "s"), run_id) is None
        assert (await log.state(run_id)).last == 2


async def test_namespaces_do_not_mix() -> None:
    """A run of one namespace is unknown in another."""
    async with opened(fresh()) as one, opened(fresh()) as two:
        run_id = await started(one, 1)
        with pytest.raises(RunNotFound):
            await two.state(run_id)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:secret@host:port/0",
        "redis://u:secret@host:99999/0",
        "redis://u:secret@host/0?namespace=a{b}",
        "redis://u:secret@host/0?namespace=",
        "redis://u:secret@host/0?lease=soon",
        "redis://u:secret@host/0?lease=0",
        "redis://u:secret@host/0?lease=nan",
        "redis://u:secret@host/0?no_such_option=1",
        "redis://u:secret@host/x",
        "redis://u:secret@host/0?protocol=3",
        "redis://u:secret@[host/0",
        "unix://u:secret@host/redis.sock",
        "unix://u:secret@",
        "unix://u:secret@/",
        "unix://u:secret@/redis.sock?db=x",
        "unix://u:secret@/redis.sock?ssl_ca_certs=x",
        "unix://u:sec/r@t@/redis.sock",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    """A URL that cannot be used is one clear line, which does not show the password."""
    with pytest.raises(SettingsError) as caught:
        open_log(url, LIMITS)
    assert caught.value.field == "--log"
    assert "secret" not in str(caught.value)


def test_tls() -> None:
    """`rediss://` is TLS, with redis-py's options; its certificate is checked where nothing else is said."""
    for option, checked in (("", True), ("?ssl_cert_reqs=none&namespace=x", False)):
        connection = Address(f"rediss://u:secret@host:7000/0{option}").connection()
        assert isinstance(connection, SSLConnection)
        assert (connection.host, connection.port) == ("host", 7000)
        assert (connection.ssl_context.cert_reqs == ssl.CERT_REQUIRED) == checked


def test_unix_sockets() -> None:
    """`unix://` is the path of a socket, with redis-py's options for it; a private one is not shown."""
    address = Address("unix://u:secret@/run/my%20redis.sock?db=3&namespace=x&lease=5")
    connection = address.connection()
    assert isinstance(connection, UnixDomainSocketConnection)
    assert (connection.path, connection.db) == ("/run/my redis.sock", 3)
    assert (connection.username, connection.password) == ("u", "secret")
    assert (address.name, address.namespace, address.lease, address.private) == ("/run/my redis.sock", "x", 5.0, False)
    address = Address("private:///run/twinwire-x/log.sock")
    connection = address.connection()
    assert isinstance(connection, UnixDomainSocketConnection)
    assert connection.path == "/run/twinwire-x/log.sock"
    assert (address.name, address.private) == ("a private socket", True)


async def test_a_log_behind_a_socket(tmp_path: Path) -> None:
    """Workers share a log over a Unix socket as they do over TCP."""
    path = tmp_path / "redis.sock"
    with own_server(tmp_path, unixsocket=str(path)) as server:
        async with worker(f"unix://{path}?db=1") as here, worker(f"{server.url[:-1]}1") as there:
            run_id = (await begun(here, 3)).run_id
            assert (await there.state(run_id)).last == 3


async def test_no_server_behind_a_socket(tmp_path: Path) -> None:
    """The error about a socket on which nobody listens has its path, and no password."""
    with pytest.raises(SettingsError, match=f"The Redis at {tmp_path}/none does not answer") as caught:
        async with worker(f"unix://:secret@{tmp_path}/none"):
            pass
    assert "secret" not in str(caught.value)


def test_settings_do_not_show_the_password() -> None:
    """Settings that are printed show where the log is, and nothing of who may use it."""
    shown = repr(Settings(log="redis://u:sec/r@t@host:7000/0"))
    assert "log='redis://***@host:7000/0'" in shown
    assert "sec/r" not in shown


async def test_passwords(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The password in the URL is used; a wrong one is one clear line, and neither is ever shown."""
    caplog.set_level(logging.DEBUG)
    with own_server(tmp_path) as server:
        async with Redis(port=server.port) as client:
            await client.config_set("requirepass", "right")
        async with worker(f"redis://:right@127.0.0.1:{server.port}/1") as log:
            await log.ping()
        for user in (":", "nobody:", ""):
            password = "wrong@" if user else ""
            with pytest.raises(SettingsError, match="refuses this user and password") as caught:
                await _open(f"redis://{user}{password}127.0.0.1:{server.port}")
            assert "wrong" not in str(caught.value)
    assert "wrong" not in caplog.text
    assert "right" not in caplog.text


async def test_nobody_there(tmp_path: Path) -> None:
    """No Redis at this address is one clear line, soon."""
    with own_server(tmp_path) as server:
        port = server.port
    with pytest.raises(SettingsError, match=f"127.0.0.1:{port} does not answer"):
        await _open(f"redis://u:secret@127.0.0.1:{port}/0")


async def _open(url: str) -> None:
    await RedisLog(url, LIMITS).open(Listener())
