"""The Python client against a real server, over both transports."""

from __future__ import annotations

import asyncio
import inspect
import sys

import pytest

import twinwire_client
from support.chaos import chaos
from support.following import NOWHERE, Transport, both, connected, numbers, words
from support.serving import Puppets, Running, echo, serving
from twinwire_client import AgentNotFound, ApiError, Client, Gap, Run, RunClosed, RunFailed, RunNotFound, SessionBusy


@both
async def test_full_run(transport: Transport) -> None:
    """A run comes whole and in order, and tells its result."""
    async with serving({"echo": echo}) as server, connected(server.url) as client:
        async with client.stream("one two three", transport=transport) as run:
            assert len(run.run_id) == 26
            events = [event async for event in run]
        assert [event.type for event in events] == ["AGENT_START", *["LLM_CHUNK"] * 3, "AGENT_FINISH"]
        assert numbers(events) == [1, 2, 3, 4, 5]
        assert run.cursor == 5
        assert run.terminal == events[-1]
        assert run.result == "one two three "
        assert (await client.get(run.run_id))["status"] == "completed"


@both
async def test_wait(transport: Transport) -> None:
    """`wait` reads to the end and gives the result, also where somebody else has read all of it."""
    async with serving({"echo": echo}) as server, connected(server.url) as client:
        async with client.stream("a b", transport=transport) as run:
            assert await run.wait() == "a b "
        async with client.attach(run.run_id, after=run.cursor, transport=transport) as again:
            assert [event async for event in again] == []
            assert await again.wait() == "a b "
            assert again.terminal is None


@both
async def test_idempotency_key(transport: Transport, server: Running, puppets: Puppets) -> None:
    """Two starts with one key are one run; for another message the key is refused."""
    async with connected(server.url) as client:
        first = client.stream("m", transport=transport, idempotency_key="k")
        second = client.stream("m", transport=transport, idempotency_key="k")
        async with first, second:
            assert first.run_id == second.run_id
        with pytest.raises(ApiError) as caught:
            async with client.stream("other", transport=transport, idempotency_key="k"):
                pass
    assert caught.value.code == "idempotency_mismatch"
    assert caught.value.field == "idempotency_key"
    assert puppets.started == 1


@both
async def test_gap(transport: Transport, puppets: Puppets) -> None:
    """A cursor that was trimmed or lies in the future is a `Gap` that names what there is."""
    async with serving({"mine": puppets}, log_events=3) as server, connected(server.url) as client:
        async with client.stream("m", transport=transport, on_disconnect="continue") as run:
            puppet = await puppets.next()
            for number in range(8):
                puppet.say(str(number))
                while run.cursor < number + 2:
                    await anext(run)
        for after in (1, 99):
            with pytest.raises(Gap) as caught:
                async with client.attach(run.run_id, after=after, transport=transport):
                    pass
            assert caught.value.first > 2
            assert caught.value.last == 9
        async with client.attach(run.run_id, after=caught.value.first - 1, transport=transport) as late:
            puppet.end()
            assert numbers([event async for event in late])[-1] == 10


@both
async def test_verdicts(transport: Transport, server: Running, puppets: Puppets) -> None:
    """What the server refuses is told at once, by its kind, and not tried again."""
    async with connected(server.url, max_attempts=1) as client:
        with pytest.raises(RunNotFound, match=r"The run does not exist\."):
            async with client.attach(NOWHERE, transport=transport):
                pass
        with pytest.raises(AgentNotFound) as caught:
            async with client.stream("m", transport=transport, agent="nobody"):
                pass
        assert caught.value.field == "agent"
        with pytest.raises(ApiError, match="message"):
            async with client.stream("   ", transport=transport):
                pass
        async with client.stream("m", transport=transport, session_id="s") as first:
            with pytest.raises(SessionBusy):
                async with client.stream("m2", transport=transport, session_id="s"):
                    pass
            async with client.stream("m2", transport=transport, session_id="s", interrupt=True):
                await first.wait()
                assert first.terminal is not None
                assert first.terminal.data["status"] == "cancelled"


async def test_headers(server: Running) -> None:
    """The client's headers go with a WebSocket's handshake too, whose refusal is a verdict."""
    async with connected(server.url, headers={"Origin": "http://elsewhere.example"}, max_attempts=2) as client:
        with pytest.raises(ApiError) as caught:
            async with client.stream("m", transport="ws"):
                pass
    assert caught.value.status == 403


async def test_run_ids_are_checked(server: Running) -> None:
    """What is no run id is no run; it never gets into a path."""
    async with connected(server.url) as client:
        for text in ("", "../healthz", "A" * 26):
            with pytest.raises(RunNotFound):
                await client.get(text)
            with pytest.raises(RunNotFound):
                await client.cancel(text)
        with pytest.raises(RunNotFound):
            await client.get(NOWHERE)


@both
async def test_bad_arguments(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A bad argument is a ValueError that names it, and starts nothing."""
    async with connected(server.url) as client:
        with pytest.raises(ValueError, match="types"):
            client.stream("m", transport=transport, types=["lower"])
        with pytest.raises(ValueError, match="after"):
            client.attach(NOWHERE, after=f"evt-{'b' * 26}-1")
        with pytest.raises(ValueError, match="transport"):
            client.stream("m", transport="smoke")  # type: ignore[arg-type]
    for url in ("ftp://x", "127.0.0.1:8000", "http://"):
        with pytest.raises(ValueError, match="http"):
            Client(url)
    assert puppets.started == 0


@both
async def test_cancel(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A cancel is acknowledged, the run ends for its followers with the answer as far as it came."""
    async with connected(server.url) as client:
        async with client.stream("m", transport=transport) as run:
            puppet = await puppets.next()
            puppet.say("half")
            await anext(run), await anext(run)
            assert await run.cancel() == "accepted"
            assert await run.wait() == "half"
            assert run.terminal is not None
            assert run.terminal.data["status"] == "cancelled"
        await puppet.closed.wait()
        assert await client.cancel(run.run_id) == "already_finished"


@both
async def test_error_event(transport: Transport, server: Running, puppets: Puppets) -> None:
    """An ERROR is an event like others; `wait` raises it."""
    async with connected(server.url) as client:
        async with client.stream("m", transport=transport) as run:
            (await puppets.next()).fail(ValueError("secret"))
            events = [event async for event in run]
            assert events[-1].type == "ERROR"
            with pytest.raises(RunFailed, match="agent_error") as caught:
                await run.wait()
            assert caught.value.error_type == "agent_error"
        async with client.attach(run.run_id, after=run.cursor, transport=transport) as again:
            with pytest.raises(RunFailed, match="agent_error"):
                await again.wait()


@both
async def test_attach_by_event_id(transport: Transport, server: Running, puppets: Puppets) -> None:
    """An event's id is a cursor: what follows it comes, and nothing else."""
    async with connected(server.url) as client, client.stream("m", transport=transport) as run:
        puppet = await puppets.next()
        puppet.say("a", "b")
        puppet.end()
        events = [event async for event in run]
        async with client.attach(run.run_id, after=events[1].id, transport=transport) as second:
            assert [event async for event in second] == events[2:]


@both
async def test_cancelled_wait_loses_nothing(transport: Transport, server: Running, puppets: Puppets) -> None:
    """Who gives up waiting for an event gets it when they ask again."""
    async with connected(server.url) as client, client.stream("m", transport=transport) as run:
        puppet = await puppets.next()
        puppet.say("a")
        await anext(run), await anext(run)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(run), 0.05)
        puppet.say("b")
        puppet.end()
        assert words([event async for event in run]) == ["b"]


@both
async def test_leaving_follows_no_more(transport: Transport, server: Running, puppets: Puppets) -> None:
    """Leaving the block closes the connection: the server cancels the run if its policy says so."""
    async with connected(server.url) as client:
        async with client.stream("m", transport=transport, on_disconnect="cancel") as run:
            puppet = await puppets.next()
            puppet.say("a")
            async for _ in run:
                break
        await puppet.closed.wait()
        with pytest.raises(RunClosed):
            await anext(run)


@both
async def test_not_the_client_s_business(transport: Transport, server: Running) -> None:
    """A server that is not Twinwire's is an error with its status after one request, not a loop."""
    async with chaos(server.port) as proxy, connected(f"{proxy.url}/healthz") as client:
        with pytest.raises(ApiError) as told:
            async with client.stream("m", transport=transport):
                pass
        assert told.value.status == (404 if transport == "sse" else 403)  # a handshake for another path is refused
        assert proxy.accepted == 1


async def test_imports_no_server() -> None:
    """A full run over either transport imports nothing of the server, nor what the server is built on."""
    program = """
import asyncio, sys
import twinwire_client
async def main():
    async with twinwire_client.Client(sys.argv[1]) as client:
        for transport in ("sse", "ws"):
            async with client.stream("x", transport=transport) as run:
                assert await run.wait() == "x "
asyncio.run(main())
print(sorted({"litestar", "openai", "twinwire", "uvicorn"} & {name.partition(".")[0] for name in sys.modules}))
"""
    async with serving({"echo": echo}) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", program, server.url, stdout=-1, stderr=-1
        )
        out, problems = await process.communicate()
    assert (out.decode(), problems.decode()) == ("[]\n", "")


def test_public_names() -> None:
    """`__all__` is what is public."""
    public = {name for name, value in vars(twinwire_client).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert public == set(twinwire_client.__all__)


def test_run_needs_entering() -> None:
    """A run that was not entered has no id and says why."""
    run = Client("http://127.0.0.1:1").stream("m")
    assert isinstance(run, Run)
    with pytest.raises(RuntimeError, match="async with"):
        run.run_id  # noqa: B018


@both
async def test_any_text(server: Running, puppets: Puppets, transport: Transport) -> None:
    """Text of any size comes as it was said, with whatever some take for the end of a line."""
    said = ["x" * 300_000, "a\u2028b\u0085c\r\nd\re\n\n", "\0", "data: x"]
    async with connected(server.url) as client, client.stream("m", transport=transport) as run:
        puppet = await puppets.next()
        puppet.say(*said)
        puppet.end()
        assert words([event async for event in run]) == said
