"""What docs/SCALING.md says of two servers behind a proxy, with the proxies and the configurations it has."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from support.followers import AnyFollower, Broken, SseFollower, attach, cancel, number, rest, start, text
from support.following import Transport, both, connected, numbers, words
from support.proxies import LANGUAGES, SCALING, Site, proxied
from support.serving import Running, until
from twinwire import settings
from twinwire.cli import main as cli

each_proxy = pytest.mark.parametrize("proxy", LANGUAGES)


def connections(server: Running) -> int:
    """How many follow on this server."""
    return len(server.service.heartbeats.pumps)


async def begin(site: Site, client: httpx.AsyncClient | None = None) -> str:
    """Start a run that goes on without followers: its id."""
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as own:
        response = await (client or own).post(f"{site.url}/runs", json={"message": "x"})
    assert response.status_code == 201, response.text
    return str(response.json()["run_id"])


async def spread(kind: str, site: Site, run_id: str) -> dict[Running, AnyFollower]:
    """A follower on each server: the proxy goes to the one with fewer connections."""
    found: dict[Running, AnyFollower] = {}
    for count in range(1, len(site.servers) + 1):
        follower = await attach(kind, site, run_id)
        await until(lambda count=count: sum(map(connections, site.servers)) == count)  # type: ignore[misc]
        (server,) = (server for server in site.servers if server not in found and connections(server))
        found[server] = follower
    return found


async def word(follower: AnyFollower) -> dict[str, Any]:
    """The next event that says something; where the proxy keeps it, the test fails before the proxy gives up."""
    async with asyncio.timeout(10):
        while (event := json.loads(await follower.next() or b""))["type"] != "LLM_CHUNK":
            pass
    return dict(event)


async def broken(follower: AnyFollower) -> int | str | None:
    """How a stream breaks off without its terminal event: a socket's code, or `ended` as if it were whole."""
    try:
        while body := await follower.next():
            assert json.loads(body)["type"] not in {"AGENT_FINISH", "ERROR"}
    except Broken as error:
        return error.code
    return "ended"


def test_the_commands() -> None:
    """Each command in the document is one that the server takes."""
    commands = re.findall(r"^twinwire (serve.*)$", SCALING, re.MULTILINE)
    logs = [settings.load({}, vars(cli.parser().parse_args(command.split()))).log for command in commands]
    shared = "redis://10.0.0.5:6379/0"
    assert logs == ["memory://", "memory://", "sqlite:///runs.db", shared, shared]


@each_proxy
@both
async def test_each_token_as_it_comes(proxy: str, transport: Transport, tmp_path: Path) -> None:
    """A token passes before the next one is produced."""
    async with proxied(proxy, tmp_path) as site:
        follower = await start(transport, site)
        puppet = await site.puppets.next()
        for content in "abc":
            puppet.say(content)
            assert (await word(follower))["data"]["content"] == content
        puppet.end()
        assert [event["type"] for event in await rest(follower)] == ["AGENT_FINISH"]


@pytest.mark.full
@each_proxy
async def test_silence(proxy: str, tmp_path: Path) -> None:
    """Heartbeats pass, and keep a stream alive in which nothing happens for longer than the proxy's time-outs."""
    async with proxied(proxy, tmp_path, timeout="2s", heartbeat=0.25) as site:
        sse = await start("sse", site)
        socket = await attach("ws", site, sse.run_id)
        puppet = await site.puppets.next()
        puppet.say("a")
        assert number(await word(sse)) == number(await word(socket)) == 2
        assert isinstance(sse, SseFollower)
        after = asyncio.create_task(word(sse))
        await until(lambda: after.done() or sse.comments * 0.25 > 2.5)
        puppet.say("b")
        assert number(await after) == number(await word(socket)) == 3
        puppet.end()
        await rest(sse)
        await rest(socket)


@each_proxy
async def test_a_page_s_own_host(proxy: str, tmp_path: Path) -> None:
    """A page that the proxy served may open a WebSocket to it, one of another host may not."""
    async with proxied(proxy, tmp_path) as site:
        async with connect(site.ws_url, origin=site.url, proxy=None, compression=None) as socket:  # type: ignore[arg-type]
            await socket.send('{"type":"ping"}')
            assert json.loads(await socket.recv()) == {"type": "pong"}
        with pytest.raises(InvalidStatus) as refused:
            await connect(site.ws_url, origin="http://127.0.0.1", proxy=None)  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403


@each_proxy
@both
async def test_no_sticky_sessions(proxy: str, transport: Transport, tmp_path: Path) -> None:
    """A run started by one server is followed, resumed and cancelled at the other."""
    async with proxied(proxy, tmp_path) as site:
        run_id = await begin(site)
        puppet = await site.puppets.next()
        _, other = site.owner(run_id)
        followers = await spread(transport, site, run_id)
        puppet.say("a", "b")
        left = number(await word(followers[other]))
        await followers.pop(other).close()
        await until(lambda: connections(other) == 0)
        resumed = await attach(transport, site, run_id, left)
        assert connections(other) == 1
        assert await cancel(transport, other, run_id) == "accepted"
        seen = [await rest(follower) for follower in (resumed, *followers.values())]
        assert [(events[-1]["data"]["status"], text(events)) for events in seen] == [
            ("cancelled", "b"),
            ("cancelled", "ab"),
        ]


@each_proxy
@both
async def test_a_server_that_stops(proxy: str, transport: Transport, tmp_path: Path) -> None:
    """Who followed there is broken off, comes back through the proxy and has every event once."""
    async with proxied(proxy, tmp_path) as site, connected(site.url) as client:
        run_id = await begin(site)
        puppet = await site.puppets.next()
        _, other = site.owner(run_id)
        followers = await spread(transport, site, run_id)
        async with (
            client.attach(run_id, transport=transport) as one,
            client.attach(run_id, transport=transport) as two,
        ):
            assert connections(other) == 2
            puppet.say("a", "b")
            seen = {run: [await anext(run), await anext(run)] for run in (one, two)}
            await site.stop(other)
            cut_off = followers.pop(other)
            code = await broken(cut_off)
            assert code == (1012 if transport == "ws" else None) or (proxy, code) == ("caddy", "ended")
            await cut_off.close()
            puppet.say("c")
            puppet.end()
            for run, events in seen.items():
                events += [event async for event in run]
                assert numbers(events) == [1, 2, 3, 4, 5]
                assert words(events) == ["a", "b", "c"]
        for follower in followers.values():
            assert text(await rest(follower)) == "abc"


@each_proxy
async def test_a_start_meets_no_server_that_drains(proxy: str, tmp_path: Path) -> None:
    """While a server lets its run go on to its end, runs are started at the other, over old connections too."""
    async with (
        proxied(proxy, tmp_path, drain_timeout=10.0) as site,
        httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as client,
    ):
        run_id = await begin(site, client)
        puppet = await site.puppets.next()
        draining, other = site.owner(run_id)
        stopping = asyncio.create_task(site.stop(draining))
        await until(lambda: draining.runs.draining)
        for _ in range(3):
            assert site.owner(await begin(site, client))[0] is other
            (await site.puppets.next()).end()
        puppet.end()
        await stopping
        follower = await attach("sse", site, run_id)
        assert (await rest(follower))[-1]["data"]["status"] == "completed"


@each_proxy
@both
async def test_a_client_that_leaves(proxy: str, transport: Transport, tmp_path: Path) -> None:
    """The server hears of it: a run that is to be cancelled then is."""
    async with proxied(proxy, tmp_path) as site:
        follower = await start(transport, site, on_disconnect="cancel")
        puppet = await site.puppets.next()
        puppet.say("a")
        await word(follower)
        await follower.close()
        async with asyncio.timeout(10):
            await puppet.closed.wait()
