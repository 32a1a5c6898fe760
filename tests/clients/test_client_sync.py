"""The Python client without an event loop of one's own: in threads, against a real server in the test's loop."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import pytest

from support.credentials import AUTH, TOKENS
from support.documents import run
from support.following import NOWHERE, Transport, both, numbers, words
from support.serving import Puppets, Running, serving, until
from twinwire_client import Client, RunClosed, RunNotFound, SyncClient, SyncRun, Unauthenticated, sync

T = TypeVar("T")


async def beside(work: Callable[[], T]) -> T:
    """What a program does that knows no event loop."""
    return await asyncio.to_thread(work)


@both
async def test_a_run(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A run is iterated, cancelled and asked for, and nothing of the client is left when it is closed."""

    def program() -> None:
        with SyncClient(server.url, transport=transport) as client, client.stream("m", user_id="u") as run:
            first = [next(run), next(run)]
            assert [event.type for event in first] == ["AGENT_START", "LLM_CHUNK"]
            assert (run.cursor, run.terminal, run.result) == (2, None, None)
            assert client.get(run.run_id)["status"] == "running"
            assert [listed["run_id"] for listed in client.runs(user_id="u")] == [run.run_id]
            with client.attach(run.run_id, snapshot=True) as late:
                assert late.snapshot is not None
                assert late.snapshot.state["text"] == "half"
            assert run.cancel() == "accepted"
            assert [event.type for event in run] == ["AGENT_FINISH"]
            assert run.wait() == run.result == "half"
            assert client.cancel(run.run_id) == "already_finished"
            with client.attach(run.run_id, after=first[0].id) as again:
                assert numbers(list(again)) == [2, 3]

    working = asyncio.ensure_future(beside(program))
    (await puppets.next()).say("half")
    await working
    assert not [thread for thread in threading.enumerate() if thread.name == "twinwire-client"]


@both
async def test_runs_in_threads(transport: Transport, server: Running, puppets: Puppets) -> None:
    """Threads share one client, and over WebSocket one socket; one of them closes another one's run."""
    client = SyncClient(server.url, transport=transport)
    runs = [client.stream(f"m{i}") for i in range(5)]

    def follow(i: int) -> list[str]:
        with runs[i] as run:
            return words(list(run))

    working = [asyncio.ensure_future(beside(lambda i=i: follow(i))) for i in range(5)]  # type: ignore[misc]
    started = sorted([await puppets.next() for _ in range(5)], key=lambda puppet: puppet.request.message)
    for puppet in started:
        puppet.say(puppet.request.message)
    await until(lambda: all(run._run._seen for run in runs))
    assert len(server.service.heartbeats.pumps) == (1 if transport == "ws" else 5)
    await beside(runs[4].close)
    with pytest.raises(RunClosed):
        await working.pop()
    for puppet in started:
        puppet.end()
    assert await asyncio.gather(*working) == [[f"m{i}"] for i in range(4)]
    await beside(client.close)
    with pytest.raises(RuntimeError, match=r"The client is closed\."):
        await beside(lambda: client.get(NOWHERE))


async def test_errors(server: Running) -> None:
    """What the async client raises is raised here, on entering, iterating or asking; a bad argument at once."""

    def program() -> None:
        with SyncClient(server.url) as client:
            with pytest.raises(RunNotFound):
                client.get(NOWHERE)
            with pytest.raises(RunNotFound), client.attach(NOWHERE):
                pass
            with pytest.raises(RuntimeError, match="`with run` if its client is a SyncClient"):
                next(client.stream("m"))
            with pytest.raises(ValueError, match="transport"):
                client.stream("m", transport="smoke")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="http"):
            SyncClient("nowhere")

    await beside(program)


@both
async def test_forgotten(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A client that nobody has any more is closed, with a warning; a run that somebody has keeps its client."""
    kept: list[SyncRun] = []

    def begin() -> None:
        kept.append(SyncClient(server.url, transport=transport).stream("m", on_disconnect="cancel"))
        gc.collect()
        assert next(kept[0].__enter__()).type == "AGENT_START"

    working = asyncio.ensure_future(beside(begin))
    puppet = await puppets.next()
    puppet.say("a")
    await working
    with pytest.warns(ResourceWarning, match="A SyncClient was not closed"):
        kept.clear()
    await puppet.closed.wait()
    await until(lambda: not [thread for thread in threading.enumerate() if thread.name == "twinwire-client"])


OPEN = """
import sys, threading
from twinwire_client import SyncClient
client = SyncClient(sys.argv[1], transport=sys.argv[2])
run = client.stream("m").__enter__()
print(next(run).type)
if sys.argv[3:]:
    threading.Thread(target=lambda: [None for _ in run], daemon=True).start()
"""


@both
@pytest.mark.parametrize("more", [[], ["reading"]])
async def test_open_at_the_end(transport: Transport, server: Running, puppets: Puppets, more: list[str]) -> None:
    """A program that forgets to close its client ends in silence, also if a daemon thread of its own reads a run."""
    command = (sys.executable, "-W", "error", "-c", OPEN, server.url, transport, *more)
    running = asyncio.ensure_future(run(*command, server=server))
    (await puppets.next()).say("a")
    assert await running == (0, "AGENT_START\n", "")


@both
async def test_a_wait_with_a_bound(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A wait for the result may be bounded, and be taken up again."""
    bounded = threading.Event()

    def program() -> None:
        with SyncClient(server.url, transport=transport) as client, client.stream("m") as run:
            with pytest.raises(TimeoutError):
                run.wait(timeout=0.1)
            bounded.set()
            assert run.wait(10) == "a"
        assert run.wait(10) == "a"  # on a client that is closed

    working = asyncio.ensure_future(beside(program))
    puppet = await puppets.next()
    await until(bounded.is_set)
    puppet.say("a")
    puppet.end()
    await working


PROGRAM = """
import sys
from twinwire_client import SyncClient
with SyncClient(sys.argv[1], transport=sys.argv[2]) as client, client.stream("m") as run:
    print(next(run).type, next(run).data["content"])
    try:
        print("waiting", flush=True)
        next(run)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print([event.data["content"] for event in run if event.type == "LLM_CHUNK"])
"""


@both
async def test_an_interrupted_wait_loses_nothing(transport: Transport, server: Running, puppets: Puppets) -> None:
    """Ctrl-C while an event is awaited ends the waiting; the event is still the next one."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", PROGRAM, server.url, transport, stdout=-1, stderr=-1
    )
    assert process.stdout is not None
    puppet = await puppets.next()
    puppet.say("a")
    assert await process.stdout.readline() == b"AGENT_START a\n"
    assert await process.stdout.readline() == b"waiting\n"
    process.send_signal(signal.SIGINT)
    assert await process.stdout.readline() == b"interrupted\n"
    puppet.say("b")
    puppet.end()
    out, problems = await process.communicate()
    assert (out.decode(), problems.decode(), process.returncode) == ("['b']\n", "", 0)


@both
async def test_interrupted_anywhere(transport: Transport, server: Running, puppets: Puppets) -> None:
    """Ctrl-C at any line of the client that waits for an event loses none, and the next call goes on."""

    def interrupt(after: int) -> Any:
        left = after

        def trace(frame: FrameType, event: str, _: object) -> object:
            nonlocal left
            if frame.f_code.co_filename != sync.__file__:
                return None
            left -= event == "line"
            if left < 0:
                raise KeyboardInterrupt
            return trace

        return trace

    def program() -> list[str]:
        seen, interrupted = [], 0
        with SyncClient(server.url, transport=transport) as client, client.stream("m") as run:
            assert next(run).type == "AGENT_START"
            for lines in range(40):
                sys.settrace(interrupt(lines))
                try:
                    seen.append(next(run))
                except KeyboardInterrupt:
                    interrupted += 1
                finally:
                    sys.settrace(None)
            seen += run
        assert 5 < interrupted < 40
        return words(seen)

    working = asyncio.ensure_future(beside(program))
    puppet = await puppets.next()
    for number in range(50):
        puppet.say(str(number))
    puppet.end()
    assert await working == [str(number) for number in range(50)]


async def test_token(puppets: Puppets) -> None:
    """A token, and a function that gives one, are as good here."""
    async with serving({"mine": puppets}, **AUTH) as server:

        def program() -> None:
            for token in (TOKENS["alice"], lambda: TOKENS["alice"]):
                with SyncClient(server.url, token=token) as client:
                    assert client.runs() == []
            with SyncClient(server.url) as client, pytest.raises(Unauthenticated):
                client.runs()

        await beside(program)


def test_same_signatures() -> None:
    """Each method takes what the async one takes."""
    for name in ("stream", "attach", "get", "cancel", "runs"):
        ours, theirs = getattr(SyncClient, name), getattr(Client, name)
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert ours.__doc__ == theirs.__doc__
