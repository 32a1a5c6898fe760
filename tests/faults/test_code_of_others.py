"""A real server, on uvloop, whose agents, tools and callbacks do what ends a program."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.followers import KINDS, rest, start, text
from support.processes import Process

PROGRAM = """
import argparse, asyncio, concurrent.futures, sys, threading, time
from twinwire import DemoModel, ReActAgent, StreamEvent, ToolRegistry, create_app
from twinwire.models import Finish, Text, ToolCall
from twinwire.tools.base import Tool

def word(text):
    return StreamEvent("LLM_CHUNK", {"content": text, "delta": text})

class Arguments(Tool):
    name, description = "Arguments", "Parses arguments as a command does, which exits where they are wrong."
    async def run(self, parameters):
        parser = argparse.ArgumentParser()
        parser.add_argument("--number", type=int)
        return str(parser.parse_args(["--number", parameters["number"]]))

class Model:
    name = "model"
    async def stream(self, messages, tools=()):
        if messages[-1]["role"] == "tool":
            yield [Text(messages[-1]["content"]), Finish("stop")]
        else:
            yield [ToolCall("c1", "Arguments", '{"number": "many"}'), Finish("tool_calls")]

tools = ToolRegistry()
tools.register_tool(Arguments())
react = ReActAgent("react", Model(), tools)

async def mine(request):
    loop = asyncio.get_running_loop()
    verb, _, number = request.message.partition(" ")
    request.emit(word("begun "))
    if verb == "exit":
        sys.exit(3)
    if verb == "callback":
        loop.call_soon(sys.exit, 3)
        await asyncio.sleep(0.05)
    if verb == "interrupt":
        def interrupt():
            raise KeyboardInterrupt
        loop.call_soon(interrupt)
        await asyncio.sleep(0.05)
    if verb == "task":
        async def child():
            sys.exit(3)
        asyncio.create_task(child())
        await asyncio.sleep(0.05)
    if verb == "thread":
        threading.Thread(target=sys.exit).start()
        await asyncio.to_thread(sys.exit, 3)
    if verb == "done":
        loop.create_task(asyncio.sleep(0)).add_done_callback(lambda _: sys.exit(3))
        await asyncio.sleep(0.05)
    if verb == "finalizer":
        async def generator():
            try:
                yield 1
                yield 2
            finally:
                sys.exit(3)
        async for _ in generator():
            break
        import gc; gc.collect()
        await asyncio.sleep(0.05)
    if verb == "hold":
        while True:
            time.sleep(0.01)
            request.emit(word("x"))
    if verb == "sleep":
        time.sleep(100)
    if verb == "stubborn":
        while True:
            try:
                time.sleep(100)
            except BaseException:
                pass
    if verb == "child":
        async def child():
            time.sleep(100)
        await asyncio.create_task(child())
    if verb == "later":
        loop.call_soon(time.sleep, 100)
        await asyncio.Event().wait()
    if verb == "executor":
        with concurrent.futures.ThreadPoolExecutor() as executor:
            await asyncio.wrap_future(executor.submit(time.sleep, 100))
    if verb == "wait":
        await asyncio.Event().wait()
    request.emit(word("on"))

app = create_app(agents={"mine": mine, "react": react})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


@pytest.fixture
def process(folder: Path) -> Iterator[Process]:
    with Process("serve", "program:app", "--port", "0", cwd=folder) as process:
        process.ready()
        yield process


ENDS = {"exit": "agent_error", "thread": "agent_error"}


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_ends_the_server(kind: str, process: Process) -> None:
    """What an agent, its tool, tasks, threads and callbacks raise ends no other run, and a signal ends the server."""
    other = await start(kind, process, "wait", agent="mine")
    verbs = ["exit", "callback", "interrupt", "task", "thread", "done", "finalizer"]
    for verb in verbs:
        seen = await rest(await start(kind, process, verb, agent="mine"))
        told = seen[-1]["data"].get("error_type", "on")
        assert told == ENDS.get(verb, "on"), verb
        assert text(seen) == ("begun " if verb in ENDS else "begun on"), verb
    seen = await rest(await start(kind, process, "hi", agent="react"))
    assert seen[-1]["data"]["result"] == "Error: The tool Arguments failed."
    process.popen.send_signal(signal.SIGTERM)
    assert (await rest(other))[-1]["data"]["error_type"] == "interrupted"
    code, _, err = await asyncio.to_thread(process.end, 10)
    assert code == -signal.SIGTERM, err
    lines = [line for line in err.splitlines() if " ERROR " in line]
    assert sum("the agent mine failed." in line for line in lines) == 2
    assert sum("The tool Arguments failed." in line for line in lines) == 1
    assert sum("Task exception was never retrieved" in line for line in lines) == 2
    assert sum("A callback raised" in line for line in lines) == 3
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("verb", "stop"),
    [
        ("hold", signal.SIGTERM),
        pytest.param("hold", signal.SIGINT, marks=pytest.mark.full),
        ("sleep", signal.SIGTERM),
        pytest.param("child", signal.SIGINT, marks=pytest.mark.full),
        ("later", signal.SIGTERM),
        pytest.param("executor", signal.SIGTERM, marks=pytest.mark.full),
    ],
)
async def test_an_agent_that_holds_the_loop(verb: str, stop: signal.Signals, folder: Path) -> None:
    """A signal ends a server whose agent emits or blocks and never awaits, long before the run's deadline."""
    with Process("serve", "program:app", "--port", "0", "--drain-timeout", "0.5", cwd=folder) as process:
        process.ready()
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
        writer.write(b"GET /chat?agent=mine&message=%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % verb.encode())
        await asyncio.sleep(0.5)  # it answers nobody from now on
        began = time.monotonic()
        process.popen.send_signal(stop)
        code, _, err = await asyncio.to_thread(process.end, 20)
        took = time.monotonic() - began
        body = await reader.read()
        writer.close()
    assert code == -stop, err
    assert took < 10
    assert body.count(b"event: ERROR") == 1
    assert b'"error_type":"interrupted"' in body
    assert body.endswith(b"\r\n0\r\n\r\n")
    assert "Traceback" not in err or verb == "later"  # a callback is the event loop's to tell of


@pytest.mark.full
async def test_an_agent_that_cannot_be_interrupted(folder: Path) -> None:
    """A server whose agent holds the event loop whatever is raised in it ends without it, and says so."""
    with Process("serve", "program:app", "--port", "0", "--drain-timeout", "0.5", cwd=folder) as process:
        process.ready()
        _, writer = await asyncio.open_connection("127.0.0.1", process.port)
        writer.write(b"GET /chat?agent=mine&message=stubborn HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.sleep(0.5)
        process.popen.send_signal(signal.SIGTERM)
        code, _, err = await asyncio.to_thread(process.end, 20)
        writer.close()
    assert code == -signal.SIGTERM, err
    assert "cannot be interrupted" in err


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_signals_still_end_it(stop: signal.Signals, process: Process) -> None:
    """SIGTERM and Ctrl-C end an idle server as ever, without a word."""
    process.popen.send_signal(stop)
    code, _, err = await asyncio.to_thread(process.end, 10)
    assert (code, err) == (-stop, "")
