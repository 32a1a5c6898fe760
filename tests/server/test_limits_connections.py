"""Bounds on connections and on what is said on one: nobody is turned away in a way that makes EventSource give up."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from support.credentials import AUTH, TOKENS, bearer
from support.followers import Broken, SseFollower, attach, rest, start
from support.serving import Puppets, serving, until


async def closed(socket: ClientConnection) -> tuple[int, str]:
    """The close frame that the server sends, after anything else."""
    with pytest.raises(ConnectionClosed) as error:
        while True:
            await socket.recv()
    assert error.value.rcvd is not None
    return error.value.rcvd.code, error.value.rcvd.reason


@pytest.mark.parametrize(
    "settings", [{"max_connections": 2}, {"max_connections": 100, "user_connections": 2}], ids=["in all", "of one user"]
)
async def test_streams_over_the_bound_are_put_off(settings: dict[str, Any], puppets: Puppets) -> None:
    """A stream too many is a 200 with its cursor and a time to come again, then breaks; with room again it follows."""
    async with serving({"mine": puppets}, **settings) as server:
        first = await start("sse", server, user_id="u")
        puppet = await puppets.next()
        puppet.say("a")
        assert b"AGENT_START" in (await first.next() or b"")
        second = await attach("sse", server, first.run_id)
        for after in (0, f"evt-{first.run_id}-1"):
            third = await attach("sse", server, first.run_id, after)
            assert isinstance(third, SseFollower)
            with pytest.raises(Broken):
                await third.next()
            retry, cursor = third.opening.split(b"\n")
            assert 2500 <= int(retry.removeprefix(b"retry: ")) <= 7500
            assert cursor == f"id: evt-{first.run_id}-{'0' if after == 0 else 1}".encode()
            await third.close()
        await second.close()
        await until(lambda: len(server.service.heartbeats.pumps) == 1)
        third = await attach("sse", server, first.run_id)
        puppet.end()
        assert [len(await rest(follower)) for follower in (third, first)] == [3, 2]


async def test_a_user_s_streams_do_not_count_for_others(puppets: Puppets) -> None:
    """Who has as many as they may is put off, and no run starts for them; another user, and who names none, is not."""
    async with serving({"mine": puppets}, user_connections=1) as server:
        first = await start("sse", server, user_id="u", session_id="1")
        put_off = await start("sse", server, user_id="u", session_id="2")
        with pytest.raises(Broken):
            await put_off.next()
        assert isinstance(put_off, SseFollower)
        assert (put_off.run_id, b"id" in put_off.opening) == ("", False)
        others = [await start("sse", server, **who) for who in ({"user_id": "v"}, {}, {})]
        for _ in range(4):
            (await puppets.next()).say("a")
        for follower in others:
            assert b"AGENT_START" in (await follower.next() or b"")
        for follower in (first, put_off, *others):
            await follower.close()


async def test_sockets_over_the_bound_are_closed_with_4029(puppets: Puppets) -> None:
    """A socket too many opens and is closed with a code that says to reconnect; a stream counts as much as a socket."""
    async with serving({"mine": puppets}, max_connections=2) as server:
        stream = await start("sse", server)
        async with connect(server.ws_url, compression=None, proxy=None) as socket:
            async with connect(server.ws_url, compression=None, proxy=None) as refused:
                assert await closed(refused) == (4029, "The client exceeded a limit. Reconnect later.")
            await socket.send('{"type":"ping"}')
            assert json.loads(await socket.recv()) == {"type": "pong"}
            await stream.close()
            await until(lambda: len(server.service.heartbeats.pumps) == 1)
            async with connect(server.ws_url, compression=None, proxy=None) as admitted:
                await admitted.send('{"type":"ping"}')
                assert json.loads(await admitted.recv()) == {"type": "pong"}


async def test_a_socket_counts_once_it_says_whose_it_is(puppets: Puppets) -> None:
    """A socket too many of one user is closed with 4029 when its first message says who it is; leaving makes room."""
    hello = json.dumps({"type": "auth", "token": TOKENS["alice"]})
    async with serving({"mine": puppets}, user_connections=1, **AUTH) as server:
        async with connect(server.ws_url, proxy=None) as first:
            for _ in range(2):  # a newer token of the same user's is no other socket
                await first.send(hello)
                assert json.loads(await first.recv()) == {"type": "authenticated"}
            for headers in (bearer("alice"), None):
                async with connect(server.ws_url, proxy=None, additional_headers=headers) as refused:
                    if headers is None:
                        await refused.send(hello)
                    assert await closed(refused) == (4029, "The client exceeded a limit. Reconnect later.")
            async with connect(server.ws_url, proxy=None) as other:
                await other.send(json.dumps({"type": "auth", "token": TOKENS["bob"]}))
                assert json.loads(await other.recv()) == {"type": "authenticated"}
        await until(lambda: not server.service.heartbeats.pumps)
        async with connect(server.ws_url, proxy=None) as admitted:
            await admitted.send(hello)
            assert json.loads(await admitted.recv()) == {"type": "authenticated"}


async def test_a_socket_that_says_too_much(puppets: Puppets) -> None:
    """Ten seconds' worth of messages in one go are answered, more than that close the socket; no other one suffers."""
    async with (
        serving({"mine": puppets}, socket_rate=10) as server,
        connect(server.ws_url, compression=None, proxy=None) as loud,
        connect(server.ws_url, compression=None, proxy=None) as other,
    ):
        for i in range(100):
            await loud.send(json.dumps({"type": "ping", "ref": i}))
            assert json.loads(await loud.recv()) == {"type": "pong", "ref": i}
        for _ in range(100):
            await loud.send("no JSON is counted too")
        assert await closed(loud) == (4029, "The client exceeded a limit. Reconnect later.")
        await other.send('{"type":"ping"}')
        assert json.loads(await other.recv()) == {"type": "pong"}


ANSWERS = {
    "/chat": {"message": "hi", "stream": False},
    "/v1/chat/completions": {"model": "mine", "messages": [{"role": "user", "content": "hi"}]},
}


@pytest.mark.parametrize("path", ANSWERS)
async def test_requests_that_wait_for_an_answer(path: str, puppets: Puppets) -> None:
    """A request that waits for its run counts as a connection: one too many is 429 and starts nothing."""
    async with (
        serving({"mine": puppets}, max_connections=2) as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client,
    ):
        waiting = [asyncio.create_task(client.post(path, json=ANSWERS[path])) for _ in range(2)]
        played = [await puppets.next() for _ in waiting]
        refused = await client.post(path, json=ANSWERS[path])
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        assert "too_many_connections" in refused.text
        assert server.runs.started == 2
        assert (await client.get("/healthz")).status_code == 200
        for puppet in played:
            puppet.end()
        assert [(await answer).status_code for answer in waiting] == [200, 200]
        assert server.service.limiter._open.total() == 0
