"""A failure of one run, message or command of the Python client ends no other run over the same socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from support.chaos import chaos
from support.following import Transport, both, connected, words
from support.serving import Puppets, Running, serving
from twinwire_client import ProtocolError, RunNotFound, TooLarge

BYTES = 3_000_000


@both
async def test_a_message_that_is_too_large(transport: Transport, server: Running, puppets: Puppets) -> None:
    """It is refused, with the server's own status; another run of the client goes on over the connection it has."""
    async with chaos(server.port) as proxy, connected(proxy.url, transport=transport) as client:  # noqa: SIM117
        async with client.stream("m", on_disconnect="cancel") as run:
            puppet = await puppets.next()
            puppet.say("a")
            await anext(run), await anext(run)
            with pytest.raises(TooLarge) as caught:
                async with client.stream("x" * BYTES):
                    pass
            assert (caught.value.code, caught.value.status) == ("payload_too_large", 413)
            puppet.say("b")
            puppet.end()
            assert await run.wait() == "ab"
    assert puppets.started == 1


async def test_a_large_message_that_is_accepted(server: Running, puppets: Puppets) -> None:
    """A large message is a run like others over a socket, and its start is no message of the socket's."""
    async with connected(server.url, transport="ws") as client, client.stream("x" * 500_000) as run:
        puppet = await puppets.next()
        assert len(puppet.request.message) == 500_000
        puppet.say("a")
        puppet.end()
        assert await run.wait() == "a"


async def test_a_server_with_a_smaller_limit(puppets: Puppets) -> None:
    """A socket that is closed because one message was too large has that refused; the others attach again."""
    async with (
        serving({"mine": puppets}, max_body=20_000) as server,
        chaos(server.port) as proxy,
        connected(proxy.url, transport="ws") as client,
        client.stream("one") as one,
        client.stream("two") as two,
    ):
        first, second = await puppets.next(), await puppets.next()
        first.say("a")
        await anext(one), await anext(one)
        with pytest.raises(TooLarge) as caught:
            async with client.stream("x" * 40_000):
                pass
        assert caught.value.status == 413
        for puppet in (first, second):
            puppet.say("b")
            puppet.end()
        assert words([event async for event in one]) == ["b"]
        assert await two.wait() == "b"
        assert proxy.accepted == 2
    assert puppets.started == 2


def event(run_id: str, number: int, **parts: Any) -> str:
    """An event as a server sends it."""
    usual = {"data": {"content": "x"}, "timestamp": "", "metadata": {}, "id": f"evt-{run_id}-{number}"}
    return json.dumps({"type": "LLM_CHUNK", **usual, **parts})


def end(run_id: str, number: int) -> str:
    return event(run_id, number, type="AGENT_FINISH", data={"result": run_id[0]}, metadata={"events": number})


@asynccontextmanager
async def faulty(fault: Callable[[str, str], str]) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that tells of run `a…` what `fault` gives, and ends the other run only then.

    Its URL, and the types of the commands that it has got.
    """
    commands: list[str] = []
    faulted, followed = False, set[str]()

    async def talk(socket: ServerConnection) -> None:
        nonlocal faulted
        async for text in socket:
            command = json.loads(text)
            commands.append(command["type"])
            run_id = command.get("run_id", "")
            followed.add(run_id)
            if command["type"] == "detach":
                await socket.send(json.dumps({"type": "detached", "run_id": run_id, "ref": command["ref"]}))
            if command["type"] != "attach":
                continue
            reply = {"type": "attached", "run_id": run_id, "ref": command["ref"], "first": 1, "last": 9}
            if run_id[0] == "b":
                await socket.send(json.dumps(reply))
                await socket.send(event(run_id, 1))
            else:
                bad, faulted = fault(run_id, json.dumps(reply)), True
                if "attached" not in bad:
                    await socket.send(json.dumps(reply))
                await socket.send(bad)
                if "attached" not in bad:
                    await socket.send(event(run_id, 2))  # it was on its way
            if faulted and "b" * 26 in followed:
                await socket.send(end("b" * 26, 2))

    async with serve(talk, "127.0.0.1", 0) as other:
        yield f"http://127.0.0.1:{next(iter(other.sockets)).getsockname()[1]}", commands


@pytest.mark.parametrize(
    "fault",
    [
        lambda run_id, _: event(run_id, 3),
        lambda run_id, _: event(run_id, 1, data=[]),
        lambda run_id, _: event(run_id, 1, ref=[5]),
        lambda run_id, _: event(run_id, 1, code=7),
        lambda run_id, _: json.dumps({"type": "gap", "run_id": run_id, "first": "x", "last": 2}),
        lambda _, reply: reply.replace('"first": 1', '"first": "one"'),
        lambda _, reply: reply.replace('"run_id": "a', '"run_id": "A'),
    ],
    ids=["missing", "data", "ref", "code", "gap", "reply", "not a run"],
)
async def test_one_run_s_fault(fault: Callable[[str, str], str]) -> None:
    """A message that is ill-formed and names a run ends that run alone, and it is left."""
    async with faulty(fault) as (url, commands), connected(url, transport="ws") as client:
        one = client.attach("a" * 26)
        with pytest.raises(ProtocolError):
            async with one:
                await one.wait()
        async with client.attach("b" * 26) as two:
            assert await two.wait() == "b"
    assert commands.count("attach") == 2


async def test_a_fault_while_another_run_is_followed() -> None:
    """The run that is followed meanwhile over the same socket has no reconnect."""
    async with faulty(lambda run_id, _: event(run_id, 1, code=7)) as (url, commands):  # noqa: SIM117
        async with connected(url, transport="ws") as client, client.attach("b" * 26) as two:
            assert [(await anext(two)).id[-1]] == ["1"]
            async with client.attach("a" * 26) as one:
                with pytest.raises(ProtocolError):
                    await anext(one)
            assert await two.wait() == "b"
    assert commands.count("attach") == 2
    assert commands.count("detach") == 1


async def test_a_cancel_goes_over_the_socket(server: Running, puppets: Puppets) -> None:
    """A cancel goes over a socket that is open, whichever run it is for: no other connection is made."""
    async with chaos(server.port) as proxy, connected(proxy.url, transport="ws") as client:
        async with client.stream("m") as run, client.stream("n") as other:
            await puppets.next()
            assert await run.cancel() == "accepted"
            assert await run.wait() == ""
            assert await run.cancel() == "already_finished"
            assert await client.cancel(other.run_id) == "accepted"
            with pytest.raises(RunNotFound):
                await client.cancel("b" * 26)
            # A run that the socket says it does not find is asked for by a request, too.
        assert proxy.accepted == 2


@both
async def test_a_cancel_gets_through(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A cancel whose socket, or stream, says nothing more is sent by a request, and is there within two seconds."""
    async with chaos(server.port) as proxy, connected(proxy.url, transport=transport) as client:  # noqa: SIM117
        async with client.stream("m", on_disconnect="continue") as run:
            puppet = await puppets.next()
            puppet.say("a")
            await anext(run)
            proxy.stall()
            async with asyncio.timeout(2):
                assert await run.cancel() in {"accepted", "already_finished"}
                await puppet.closed.wait()
