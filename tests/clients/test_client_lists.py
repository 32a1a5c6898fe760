"""The Python client lists runs by filters and pages, and deletes them, with an event loop and without one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.serving import Puppets, Running
from twinwire_client import Client, RunNotFound, RunPage, SyncClient


async def begun(client: Client, puppets: Puppets, **options: Any) -> str:
    async with client.stream("hi", user_id="u", on_disconnect="continue", **options) as run:
        (await puppets.next()).end()
        await run.wait()
        return run.run_id


@pytest.mark.parametrize("kind", ["sse", "ws"])
async def test_pages_and_filters(kind: Any, server: Running, puppets: Puppets) -> None:
    """A page has the runs that are asked for and names the next one; the last one names none."""
    async with Client(server.url, transport=kind) as client:
        runs = [await begun(client, puppets, session_id=name) for name in "abc"]
        found: list[str] = []
        page: str | None = None
        while True:
            listed = await client.runs(user_id="u", limit=2, status="completed", page=page)
            assert isinstance(listed, RunPage)
            found += [run["run_id"] for run in listed]
            if (page := listed.next) is None:
                break
        assert found == runs[::-1]
        assert await client.runs(user_id="u", agent="nobody") == []
        assert await client.runs(user_id="u", labels={"team": "red", "a:b": "c d&e"}) == []
        middle = (await client.get(runs[1]))["created"]
        assert [run["run_id"] for run in await client.runs(user_id="u", created_after=middle)] == [runs[2], runs[1]]
        assert [run["run_id"] for run in await client.runs(user_id="u", created_before=middle)] == [runs[0]]


async def test_delete(server: Running, puppets: Puppets) -> None:
    """A deleted run is unknown; one that goes on is cancelled, and its follower reads that."""
    async with Client(server.url) as client:
        run_id = await begun(client, puppets)
        await client.delete(run_id)
        for ask in (client.get, client.cancel, client.delete):
            with pytest.raises(RunNotFound):
                await ask(run_id)
        async with client.stream("hi", user_id="u") as run:
            await puppets.next()
            await client.delete(run.run_id)
            assert [event.data["status"] async for event in run if event.type == "AGENT_FINISH"] == ["cancelled"]
        for bad in ("", "../x", "a" * 25):
            with pytest.raises(RunNotFound):
                await client.delete(bad)


def test_without_an_event_loop() -> None:
    """A `SyncClient` has both, with the arguments of `Client`."""
    for name in ("runs", "delete"):
        assert getattr(SyncClient, name).__wrapped__ is getattr(Client, name)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"labels": ["team:red"]}, TypeError),
        ({"labels": {"team": 1}}, ValueError),
        ({"status": ""}, ValueError),
        ({"page": 3}, TypeError),
        ({"created_after": 5}, TypeError),
    ],
)
async def test_bad_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    """A bad filter is an error that names it, before anything is asked."""
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(error, match=f"`{next(iter(options))}`"):
            await client.runs(**options)


async def lost(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: list[bytes]) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(answers.pop(0))
    await writer.drain()
    writer.close()


async def test_an_answer_that_was_lost() -> None:
    """A deletion whose answer was lost is asked for again; that there is no such run then means that it is done."""
    body = b'{"code":"run_not_found","message":"The run does not exist."}'
    gone = b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    answers = [b"", gone, gone]
    server = await asyncio.start_server(lambda reader, writer: lost(reader, writer, answers), "127.0.0.1", 0)
    async with server, Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        await client.delete("a" * 26)
        with pytest.raises(RunNotFound):
            await client.delete("a" * 26)
