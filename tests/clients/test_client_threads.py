"""User code around the Python client without an event loop: threads, signals, forks and callbacks lose nothing."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from support.following import Transport, both, words
from support.serving import Puppets, Running, echo, serving, until
from twinwire_client import ConnectionLost, Event, Retry, Run, RunClosed, SyncClient, SyncRun

T = TypeVar("T")


async def beside(work: Callable[[], T]) -> T:
    """Run a program that knows no event loop."""
    return await asyncio.to_thread(work)


SIGNALLED = """
import signal, sys
from twinwire_client import SyncClient

class Reminder(Exception):
    pass

def remind(number, frame):
    raise Reminder

signal.signal(signal.SIGUSR1, remind)
with SyncClient(sys.argv[1], transport=sys.argv[2]) as client, client.stream("m", on_disconnect="cancel") as run:
    print(next(run).type, next(run).data["content"])
    try:
        print("waiting", flush=True)
        next(run)
    except Reminder:
        print("reminded", flush=True)
    try:
        print("waiting", flush=True)
        run.wait()
    except Reminder:
        print("reminded", flush=True)
    print([event.data["content"] for event in run if event.type == "LLM_CHUNK"], run.result)
"""


@both
async def test_a_signal_s_exception_loses_nothing(transport: Transport, server: Running, puppets: Puppets) -> None:
    """Whatever a signal's handler raises in a wait for an event ends the waiting; the event is still the next one."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", SIGNALLED, server.url, transport, stdout=-1, stderr=-1
    )
    assert process.stdout is not None
    puppet = await puppets.next()
    puppet.say("a")
    assert await process.stdout.readline() == b"AGENT_START a\n"
    for _ in range(2):
        assert await process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGUSR1)
        assert await process.stdout.readline() == b"reminded\n"
    puppet.say("b")
    puppet.end()
    out, problems = await process.communicate()
    assert (out.decode(), problems.decode(), process.returncode) == ("['b'] ab\n", "", 0)


FORKED = """
import os, sys
from twinwire_client import SyncClient
with SyncClient(sys.argv[1], transport=sys.argv[2]) as client, client.stream("m") as run:
    next(run), next(run)
    if os.fork() == 0:
        for use in (run.read, run.wait, run.cancel, client.runs, lambda: client.stream("m").__enter__()):
            try:
                use()
            except RuntimeError as error:
                print(error)
        run.close()
        client.close()
        sys.stdout.flush()
        os._exit(0)
    os.wait()
    print(run.wait(), flush=True)
"""


@both
async def test_a_process_that_is_forked(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A forked process is told that the client is its parent's; whatever it does there, the parent reads on."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FORKED, server.url, transport, stdout=-1, stderr=-1
    )
    assert process.stdout is not None
    puppet = await puppets.next()
    puppet.emit("TOLD")
    for _ in range(5):
        assert b"Make a client in each process." in await process.stdout.readline()
    puppet.say("a")
    puppet.end()
    out, _ = await process.communicate()
    assert (out, process.returncode) == (b"a\n", 0)
    assert puppets.started == 1


@both
async def test_reads_with_a_bound(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A read waits for as long as it is told; the event that comes too late for it is the next one."""

    def program(run: SyncRun) -> list[Event | None]:
        with run:
            begun = [run.read(), run.read(timeout=30)]
            assert [event and event.type for event in begun] == ["AGENT_START", "LLM_CHUNK"]
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    run.read(timeout=0.02)
            timed_out.set()
            return [run.read(timeout=30), run.read(timeout=30), run.read(timeout=30)]

    timed_out = threading.Event()
    with SyncClient(server.url, transport=transport) as client:
        working = asyncio.ensure_future(beside(lambda: program(client.stream("m", on_disconnect="cancel"))))
        puppet = await puppets.next()
        puppet.say("a")
        await beside(timed_out.wait)
        puppet.say("b")
        puppet.end()
        late, end, nothing = await working
        await beside(client.close)
    assert late is not None
    assert end is not None
    assert (late.data["content"], end.data["result"], nothing) == ("b", "ab", None)


@both
async def test_closed_while_a_thread_reads(transport: Transport, server: Running, puppets: Puppets) -> None:
    """Closing the client wakes the thread that reads a run, and returns; so is one told that asks for something."""
    client = SyncClient(server.url, transport=transport)
    run = client.stream("m", on_disconnect="cancel")

    def read() -> None:
        with run:
            while True:
                next(run)

    reading = asyncio.ensure_future(beside(read))
    puppet = await puppets.next()
    puppet.emit("TOLD")
    await until(lambda: run._run._reading and run.cursor == 2)
    with pytest.raises(RuntimeError, match="another task"):
        await beside(lambda: next(run))
    await asyncio.gather(beside(client.close), beside(client.close))
    with pytest.raises(RunClosed):
        await reading
    await puppet.closed.wait()
    client.close()
    run.close()
    with pytest.raises(RunClosed):
        next(run)
    with pytest.raises(RunClosed):
        run.wait()
    for call in (client.runs, run.cancel, lambda: client.stream("m")):
        with pytest.raises(RuntimeError, match=r"The client is closed\."):
            call()
    assert not [thread for thread in threading.enumerate() if thread.name == "twinwire-client"]


@both
async def test_closed_when_all_has_come_to_a_thread(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A run whose end had come by when its client was closed is read to its end."""

    def program() -> list[str]:
        client = SyncClient(server.url, transport=transport)
        with client.stream("m") as run:
            run.wait()
        with client.attach(run.run_id) as late:
            next(late)
            connection: Any = late._run._connection
            while not connection.whole():
                pass
            client.close()
            said = words(list(late))
            assert late.wait() == late.result == "ab"
        return said

    working = asyncio.ensure_future(beside(program))
    puppet = await puppets.next()
    puppet.say("a", "b")
    puppet.end()
    assert await working == ["a", "b"]


@both
async def test_closed_by_a_function_that_the_client_calls(transport: Transport) -> None:
    """`on_retry` may close the client, or a run; it cannot wait for the client, whose thread it runs in."""
    async with serving({"echo": echo}) as gone:
        url = gone.url
    said: list[str] = []

    def give_up(_: Retry) -> None:
        try:
            client.runs()
        except RuntimeError as error:
            said.append(str(error))
        run.close()
        client.close()

    client = SyncClient(url, transport=transport, on_retry=give_up)
    run = client.stream("m")
    with pytest.raises(RunClosed):
        await beside(run.__enter__)
    await beside(client.close)
    assert said == ["The client cannot be waited for in a function that it calls itself."]


@both
async def test_a_token_function_that_blocks(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A `token` function that blocks has made one attempt fail, and holds up no other run of the client."""
    blocked, release, asked = threading.Event(), threading.Event(), 0

    def token() -> str:
        nonlocal asked
        asked += 1
        if blocked.is_set():
            release.wait()
        return "t"

    def program() -> list[str]:
        with SyncClient(server.url, transport=transport, token=token, timeout=1.0, max_attempts=2) as client:  # noqa: SIM117
            with client.stream("m") as run:
                assert [next(run).type, next(run).type] == ["AGENT_START", "TOLD"]
                blocked.set()
                with pytest.raises(ConnectionLost) as caught:
                    client.get(run.run_id)
                assert caught.value.code == "token_failed"
                return words(list(run))

    working = asyncio.ensure_future(beside(program))
    try:
        puppet = await puppets.next()
        puppet.emit("TOLD")
        await beside(blocked.wait)
        puppet.say("a")
        puppet.end()
        assert await working == ["a"]
    finally:
        release.set()


def test_same_names() -> None:
    """A `SyncRun` has all names of a `Run`, and `close` for `aclose`."""
    theirs = {name for name in dir(Run) if name[0] != "_"}
    attributes = {"close", "snapshot", "terminal"}
    assert {name for name in dir(SyncRun) if name[0] != "_"} == theirs - {"aclose"} | attributes
