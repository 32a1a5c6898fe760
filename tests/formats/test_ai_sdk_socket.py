"""`/ai-sdk/ws`, on our server's protocols and on plain ASGI: what is resumed, stopped and refused, and who may ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from support.chats import Transport, opened, said
from support.credentials import AUTH, TOKENS, bearer
from support.serving import Puppet, Puppets, Running, serving, until
from twinwire.auth import ANYBODY

pytestmark = [
    pytest.mark.parametrize("below", ["direct", "plain"], indirect=True),
    pytest.mark.usefixtures("below"),
]
ASKED: dict[str, Any] = {"id": "c", "trigger": "submit-message", "messages": said("a")}


@pytest.fixture
async def asked(server: Running, puppets: Puppets) -> AsyncIterator[tuple[Transport, Puppet]]:
    """A client whose request `r1` is being answered, in chat `c`, and the agent's run."""
    async with opened(server) as socket:
        client = Transport(socket)
        await client.say("send", "r1", **ASKED)
        puppet = await puppets.next()
        puppet.say("one")
        yield client, puppet


async def test_socket_stop(asked: tuple[Transport, Puppet]) -> None:
    """An abort of a send cancels the run at once; a resume of the chat then finds nothing."""
    client, puppet = asked
    await client.say("abort", "r1")
    await puppet.closed.wait()
    seen = await client.until("end", "r1")
    assert (seen[0]["type"], seen[-2]["chunk"]["type"]) == ("start", "finish")
    await client.say("resume", "r2", id="c")
    assert await client.next() == {"type": "no-active", "requestId": "r2"}


async def test_socket_resumed_twice(asked: tuple[Transport, Puppet], server: Running) -> None:
    """An abort of a resume, before another resume of the chat, does not cancel the run; one with none after it does."""
    first, puppet = asked
    async with opened(server) as other:
        second = Transport(other)
        await second.say("resume", "r2", id="c")
        await second.say("abort", "r2")
        await second.say("resume", "r3", id="c")
        await second.until("start", "r3")
        puppet.say("two")
        await asyncio.sleep(1.1)  # longer than the grace: that nothing happens cannot be waited for
        assert not puppet.closed.is_set()
        seen = [await second.next()]
        assert (seen[0]["sequence"], seen[0]["chunk"]["type"]) == (0, "start")
        await second.say("abort", "r3")
        await asyncio.wait_for(puppet.closed.wait(), 10)
        assert (await first.until("end", "r1"))[-2]["chunk"]["type"] == "finish"


async def test_socket_resumed_by_another_request(asked: tuple[Transport, Puppet]) -> None:
    """A request whose run another one of the socket resumes is told so: one run is followed for one request."""
    client, puppet = asked
    await client.until("chunk", "r1")
    await client.say("resume", "r2", id="c")
    told = (await client.until("start", "r2"))[-2]
    assert (told["type"], told["requestId"]) == ("error", "r1")
    puppet.end()
    assert {message["requestId"] for message in await client.until("end", "r2")} == {"r2"}


@pytest.mark.parametrize(
    ("message", "request_id"),
    [
        ("no JSON", ""),
        ("[]", ""),
        ('{"type":"send","requestId":7}', ""),
        ('{"type":"nothing","requestId":"r1"}', "r1"),
        ('{"type":"send","requestId":"r1","id":"c","messages":[]}', "r1"),
        ('{"type":"send","requestId":"r1","id":"c","messages":[5]}', "r1"),
        ('{"type":"resume","requestId":"r1","id":"c","body":{"user_id":5}}', "r1"),
        (
            '{"type":"send","requestId":"r1","id":"c","body":{"agent":"nobody"},"messages":[{"role":"user","parts":[{"type":"text","text":"x"}]}]}',
            "r1",
        ),
    ],
)
async def test_socket_refuses(message: str, request_id: str, server: Running, puppets: Puppets) -> None:
    """Whatever is wrong with a message, its request is told and the socket lives; the client would kill it for less."""
    async with opened(server) as socket:
        await socket.send(message)
        client = Transport(socket)
        answer = await client.next()
        assert (answer["type"], answer["requestId"], bool(answer["errorText"])) == ("error", request_id, True)
        await client.say("resume", "r2", id="c")
        assert (await client.next())["type"] == "no-active"
    assert puppets.started == 0


@pytest.mark.parametrize("by", ["auth", "headers"])
async def test_socket_of_a_user(by: str, puppets: Puppets) -> None:
    """Who it is a first message says, of its own or with its headers; the run is theirs, and nobody else's."""
    async with serving({"mine": puppets}, **AUTH) as server, opened(server) as socket:
        client = Transport(socket)
        await client.say("send", "r1", **ASKED)
        refused = await client.next()
        assert (refused["type"], refused["requestId"]) == ("error", "r1")
        assert puppets.started == 0
        if by == "auth":
            await socket.send(json.dumps({"type": "auth", "token": TOKENS["alice"]}))
            assert await client.next() == {"type": "authenticated", "requestId": ""}
        await client.say("send", "r2", **ASKED, headers=bearer("alice") if by == "headers" else {})
        puppet = await puppets.next()
        puppet.say("one")
        run_id = (await client.until("chunk", "r2"))[-1]["chunk"]["messageId"]
        assert (await server.runs.state(run_id, ANYBODY)).info.user_id == "alice"
        await client.say("resume", "r3", id="c", headers=bearer("bob"))
        assert (await client.until("error", "r3"))[-1]["errorText"].startswith("`token` ")
        async with opened(server) as other:
            stranger = Transport(other)
            await stranger.say("resume", "r1", id="c", headers=bearer("bob"))
            assert await stranger.next() == {"type": "no-active", "requestId": "r1"}
        puppet.end()
        await client.until("end", "r2")


@pytest.mark.parametrize(
    "message",
    [
        {"type": "auth", "token": "alice"},
        {"type": "resume", "requestId": "r1", "id": "c", "headers": {"authorization": "Bearer alice"}},
    ],
    ids=["auth", "headers"],
)
async def test_socket_of_nobody(message: dict[str, Any], puppets: Puppets) -> None:
    """A first token that is not good is told as such, and closes the socket for good; a later one changes nothing."""
    async with serving({"mine": puppets}, **AUTH) as server:
        async with opened(server) as socket:
            await socket.send(json.dumps(message))
            assert json.loads(await socket.recv())["errorText"] == "A valid credential is required."
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 4501
        async with opened(server) as socket:
            client = Transport(socket)
            await client.say("resume", "r1", id="c", headers=bearer("alice"))
            assert (await client.next())["type"] == "no-active"
            await socket.send(json.dumps(message))
            assert (await client.next())["type"] == "error"
            await client.say("resume", "r2", id="c")
            assert (await client.next())["type"] == "no-active"


async def test_socket_too_many_of_a_user(puppets: Puppets) -> None:
    """A socket too many of one user is closed with 4029 when its first message says who that is."""
    async with serving({"mine": puppets}, user_connections=1, **AUTH) as server, opened(server) as first:
        await Transport(first).say("resume", "r1", id="c", headers=bearer("alice"))
        assert (await Transport(first).next())["type"] == "no-active"
        async with opened(server) as second:
            await Transport(second).say("resume", "r1", id="c", headers=bearer("alice"))
            with pytest.raises(ConnectionClosed):
                await second.recv()
            assert second.close_code == 4029
        await until(lambda: len(server.service.heartbeats.pumps) == 1)


async def test_headers_where_authentication_is_off(server: Running, puppets: Puppets) -> None:
    """A token that the server has no use for is passed over, as over HTTP; a message that is only that is refused."""
    async with opened(server) as socket:
        client = Transport(socket)
        await client.say("send", "r1", **ASKED, headers=bearer("alice"))
        (await puppets.next()).end()
        await client.until("end", "r1")
        await socket.send(json.dumps({"type": "auth", "token": "x"}))
        assert "off" in (await client.next())["errorText"]
