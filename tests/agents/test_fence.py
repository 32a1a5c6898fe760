"""Other people's code ends its own run and nothing else: one terminal event, one line in the log, others unhurt."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn

import pytest

from support.followers import KINDS, rest, start, text
from support.serving import Puppets, Running, serving
from twinwire import ReActAgent, RunRequest, StreamEvent, ToolRegistry
from twinwire.fence import Fence, report
from twinwire.models import Finish, Text, ToolCall
from twinwire.models.adapters import PushStream, Take
from twinwire.protocol.errors import RunError
from twinwire.tools.base import Tool

pytestmark = pytest.mark.parametrize("kind", KINDS)

CANARY = "sk-canary-5ca1ab1e"


class Odd(BaseException):
    """What only `except BaseException` catches."""


class Unspeakable(Exception):
    """Formatting it fails, and not with an Exception."""

    def __str__(self) -> str:
        raise SystemExit(CANARY)

    __repr__ = __str__


class Nameless(RunError):
    """An error of ours whose message is missing."""

    def __init__(self) -> None:
        Exception.__init__(self, CANARY)

    @property
    def message(self) -> str:  # type: ignore[override]
        raise AttributeError(CANARY)


class Strange(RunError):
    """An error of ours whose fields are of a wrong type."""

    def __init__(self) -> None:
        super().__init__(CANARY)
        self.code = ["a list"]  # type: ignore[assignment]
        self.message = object()  # type: ignore[assignment]


def raised() -> list[BaseException]:
    """One of each kind that code may raise."""
    return [
        SystemExit(CANARY),
        KeyboardInterrupt(CANARY),
        GeneratorExit(CANARY),
        asyncio.CancelledError(CANARY),
        Odd(CANARY),
        ExceptionGroup("a group", [ValueError(CANARY)]),
        BaseExceptionGroup("a group", [SystemExit(CANARY), ValueError(CANARY)]),
        StopIteration(CANARY),
        StopAsyncIteration(CANARY),
        RecursionError(CANARY),
        MemoryError(CANARY),
        Unspeakable(CANARY),
    ]


ERRORS = [type(error).__name__ for error in raised()]


def an(name: str) -> BaseException:
    return next(error for error in raised() if type(error).__name__ == name)


def chunk(word: str) -> StreamEvent:
    return StreamEvent("LLM_CHUNK", {"content": word, "delta": word})


def fails(error: BaseException) -> NoReturn:
    raise error


async def others_are_unhurt(server: Running, puppets: Puppets, kind: str, act: Callable[[], Awaitable[None]]) -> None:
    """Another run goes on from before the act to after it, and a new one runs from start to end."""
    other = await start(kind, server, agent="other")
    puppet = await puppets.next()
    puppet.say("before ")
    await act()
    puppet.say("after")
    puppet.end()
    assert text(await rest(other)) == "before after"
    again = await start(kind, server, agent="other")
    (await puppets.next()).end()
    assert (await rest(again))[-1]["type"] == "AGENT_FINISH"


def error_lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Twinwire's own: asyncio's come whenever the garbage of an earlier test is collected."""
    return [record for record in caplog.records if record.levelno >= logging.ERROR and "twinwire" in record.name]


def ways(error: Callable[[], BaseException]) -> dict[str, Callable[[RunRequest], Any]]:
    """The places where an agent's code may raise it."""

    async def yields(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        yield chunk("a")
        raise error()

    async def emits(request: RunRequest) -> None:
        request.emit(chunk("a"))
        raise error()

    def at_the_call(_: RunRequest) -> Any:
        raise error()

    class FromAiter:
        def __aiter__(self) -> AsyncIterator[StreamEvent]:
            raise error()

    class FromAnext:
        def __aiter__(self) -> AsyncIterator[StreamEvent]:
            return self

        def __anext__(self) -> Any:
            raise error()

    class FromAwait:
        def __await__(self) -> Any:
            raise error()

    class FromAclose(FromAnext):
        def __anext__(self) -> Any:
            raise StopAsyncIteration

        def aclose(self) -> Any:
            raise error()

    async def in_a_thread(_: RunRequest) -> None:
        await asyncio.to_thread(fails, error())

    async def in_a_group(_: RunRequest) -> None:
        async def child() -> None:
            await asyncio.sleep(0)
            raise error()

        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            await asyncio.Event().wait()

    return {
        "yields": yields,
        "emits": emits,
        "at the call": at_the_call,
        "__aiter__": lambda _: FromAiter(),
        "__anext__": lambda _: FromAnext(),
        "__await__": lambda _: FromAwait(),
        "aclose": lambda _: FromAclose(),
        "in a thread": in_a_thread,
        "in a group": in_a_group,
    }


NEVER_RAISES = {
    ("__anext__", "StopAsyncIteration"),  # that is its end
    ("__await__", "StopIteration"),
    ("in a thread", "StopIteration"),  # asyncio raises another error for it
    ("in a group", "CancelledError"),  # a child that is cancelled ends no group
    ("in a group", "GeneratorExit"),
}


@pytest.mark.parametrize("where", list(ways(RuntimeError)))
async def test_an_agent_that_raises(kind: str, where: str, puppets: Puppets, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever an agent raises, wherever: one ERROR without its text, one line at ERROR, and nobody else notices."""
    names = [name for name in ERRORS if (where, name) not in NEVER_RAISES]
    agents = {name: ways(lambda name=name: an(name))[where] for name in names}  # type: ignore[misc]
    async with serving({"other": puppets, **agents}) as server:

        async def act() -> None:
            for name in names:
                caplog.clear()
                seen = await rest(await start(kind, server, agent=name))
                assert [event["type"] for event in seen if event["type"] in {"ERROR", "AGENT_FINISH"}] == ["ERROR"]
                assert seen[-1]["data"]["error_type"] == "agent_error", name
                assert CANARY not in str(seen)
                assert len(error_lines(caplog)) == 1, (name, error_lines(caplog))
                assert f"the agent {name} failed." in error_lines(caplog)[0].getMessage()

        await others_are_unhurt(server, puppets, kind, act)


@pytest.mark.parametrize("error", [Nameless, Strange])
async def test_an_error_of_ours_that_is_none(
    kind: str, error: type[RunError], caplog: pytest.LogCaptureFixture
) -> None:
    """A subclass of RunError without its fields, or with odd ones, is an agent's failure like any other."""

    async def agent(_: RunRequest) -> None:
        raise error

    async with serving({"mine": agent}) as server:
        seen = await rest(await start(kind, server))
        assert [event["type"] for event in seen] == ["AGENT_START", "ERROR"]
        assert seen[-1]["data"]["error_type"] == "agent_error"
        assert CANARY not in str(seen)
        assert len(error_lines(caplog)) == 1


class Raising(Tool):
    name = "Raising"
    description = "Raises."

    def __init__(self, how: Callable[[], Awaitable[str]]) -> None:
        self.how = how

    async def run(self, _: Mapping[str, Any]) -> str:
        return await self.how()


class Caller:
    """A model that calls the tool once, and then answers."""

    name = "caller"

    async def stream(self, messages: Sequence[dict[str, Any]], *_: Any) -> AsyncGenerator[Any, None]:
        if messages[-1]["role"] == "tool":
            yield [Text(messages[-1]["content"]), Finish("stop")]
        else:
            yield [ToolCall("c1", "Raising", "{}"), Finish("tool_calls")]


@pytest.mark.parametrize("thread", [False, True], ids=["async", "in a thread"])
async def test_a_tool_that_raises(kind: str, thread: bool, puppets: Puppets, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a tool raises is its call's error, one line in the log, and the run goes on."""
    names = [name for name in ERRORS if not (thread and name == "StopIteration")]

    def agent(name: str) -> ReActAgent:
        async def how() -> str:
            if thread:
                await asyncio.to_thread(fails, an(name))
            raise an(name)

        registry = ToolRegistry()
        registry.register_tool(Raising(how))
        return ReActAgent("react", Caller(), registry)

    async with serving({"other": puppets, **{name: agent(name) for name in names}}) as server:

        async def act() -> None:
            for name in names:
                caplog.clear()
                seen = await rest(await start(kind, server, agent=name))
                assert seen[-1]["data"]["result"] == "Error: The tool Raising failed.", name
                assert CANARY not in str(seen)
                assert [record.getMessage() for record in error_lines(caplog)] == ["The tool Raising failed."]

        await others_are_unhurt(server, puppets, kind, act)


@pytest.mark.parametrize("pushed", [False, True], ids=["iterated", "pushed"])
async def test_a_model_that_raises(kind: str, pushed: bool, puppets: Puppets, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a model of one's own raises ends its run in one ERROR, with one line in the log."""

    class Model:
        name = "mine"

        def __init__(self, error: str) -> None:
            self.error = error

        async def stream(self, *_: Any) -> AsyncGenerator[Any, None]:
            yield [Text("a")]
            raise an(self.error)

    class Pushing(Model):
        def stream(self, *_: Any) -> PushStream[Any]:
            async def produce(take: Take[Any]) -> None:
                take([Text("a")])
                await asyncio.sleep(0)
                raise an(self.error)

            return PushStream(produce)

    model = Pushing if pushed else Model
    agents = {name: ReActAgent(name, model(name)) for name in ERRORS}
    async with serving({"other": puppets, **agents}) as server:

        async def act() -> None:
            for name in ERRORS:
                caplog.clear()
                seen = await rest(await start(kind, server, agent=name))
                assert seen[-1]["data"]["error_type"] == "agent_error", (name, seen)
                assert CANARY not in str(seen)
                assert len(error_lines(caplog)) == 1, name

        await others_are_unhurt(server, puppets, kind, act)


async def test_a_format_that_raises(kind: str, puppets: Puppets, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a transform raises, the event is left out; its stream and the native ones go on, with one line each."""

    def transform(name: str) -> Callable[[StreamEvent], bytes]:
        def raising(event: StreamEvent) -> bytes:
            if event.type == "LLM_CHUNK":
                raise an(name)
            return event.type.encode()

        return raising

    async with serving({"mine": puppets}, formats={name.lower(): transform(name) for name in ERRORS}) as server:
        native = await start(kind, server)
        puppet = await puppets.next()
        streams = [
            await asyncio.create_subprocess_exec(
                *("curl", "-sN", f"{server.url}/runs/{native.run_id}/events?format={name.lower()}"),
                stdout=asyncio.subprocess.PIPE,
            )
            for name in ERRORS
        ]
        puppet.say("a", "b", "c")
        await asyncio.sleep(0)
        puppet.say("d")
        puppet.end()
        assert text(await rest(native)) == "abcd"
        for stream in streams:
            told, _ = await stream.communicate()
            assert [line for line in told.split(b"\n") if line.startswith(b"data: A")] == [
                b"data: AGENT_START",
                b"data: AGENT_FINISH",
            ]
        assert len(error_lines(caplog)) == len(ERRORS)


def evil() -> StreamEvent:
    """Return an event that cannot be encoded: looking at its data ends a program."""

    class Data(dict):  # type: ignore[type-arg]
        def __contains__(self, key: object) -> bool:
            raise SystemExit(CANARY)

    return StreamEvent("LLM_CHUNK", Data(content="a"))


BAD_EVENTS: dict[str, Callable[[], Any]] = {
    "no event": lambda: {"type": "LLM_CHUNK"},
    "breaks the table": lambda: StreamEvent("ERROR", {"error_type": ["a", "list"]}),
    "no JSON": lambda: StreamEvent("MINE", {"key": object()}),
    "ends programs": evil,
}


@pytest.mark.parametrize("what", list(BAD_EVENTS))
@pytest.mark.parametrize("how", ["call_soon", "call_soon_threadsafe", "a child task", "a thread"])
async def test_a_bad_event_from_elsewhere(
    kind: str, what: str, how: str, puppets: Puppets, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad event that a callback, a thread's callback or a task of the agent's emits ends the agent's run alone."""

    async def agent(request: RunRequest) -> None:
        loop = asyncio.get_running_loop()
        request.emit(chunk("a"))
        if how == "call_soon":
            loop.call_soon(request.emit, BAD_EVENTS[what]())
        elif how == "call_soon_threadsafe":
            thread = threading.Thread(target=loop.call_soon_threadsafe, args=(request.emit, BAD_EVENTS[what]()))
            thread.start()
        elif how == "a thread":
            await asyncio.to_thread(request.emit, BAD_EVENTS[what]())
        else:

            async def child() -> None:
                request.emit(BAD_EVENTS[what]())

            async with asyncio.TaskGroup() as group:
                group.create_task(child())
        await asyncio.Event().wait()

    async with serving({"other": puppets, "bad": agent}) as server:

        async def act() -> None:
            seen = await rest(await start(kind, server, agent="bad"))
            assert [event["type"] for event in seen] == ["AGENT_START", "LLM_CHUNK", "ERROR"]
            assert seen[-1]["data"]["error_type"] == "agent_error"
            assert CANARY not in str(seen)
            assert len(error_lines(caplog)) == 1, error_lines(caplog)

        await others_are_unhurt(server, puppets, kind, act)


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt"])
async def test_a_task_that_nobody_awaits(kind: str, name: str, puppets: Puppets) -> None:
    """A task that an agent starts and leaves alone may raise SystemExit: it ends, and its run and all others go on."""
    failures: list[BaseException | None] = []

    async def agent(request: RunRequest) -> None:
        async def child() -> None:
            raise an(name)

        task = asyncio.create_task(child())
        task.add_done_callback(lambda done: failures.append(done.exception()))
        await asyncio.wait([task])
        request.emit(chunk("still here"))

    async with serving({"other": puppets, "bad": agent}) as server:

        async def act() -> None:
            assert text(await rest(await start(kind, server, agent="bad"))) == "still here"

        await others_are_unhurt(server, puppets, kind, act)
    [failure] = failures
    assert failure is not None
    assert type(failure.__cause__) is type(an(name))
    assert name in str(failure)


async def test_a_task_cancelled_before_it_begins(kind: str) -> None:
    """A fenced task that never began leaves no warning of a coroutine that was not awaited."""

    async def agent(request: RunRequest) -> None:
        task = asyncio.create_task(asyncio.sleep(10))
        task.cancel()
        await asyncio.wait([task])
        request.emit(chunk(str(task.cancelled())))

    async with serving({"mine": agent}) as server:
        assert text(await rest(await start(kind, server))) == "True"


async def test_what_an_agent_leaves_in_its_request(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """An agent that puts garbage into its request ends once, cancelled or not, and its session is free again."""

    async def agent(request: RunRequest) -> None:
        request.message = None  # type: ignore[assignment]
        request.usage = "none"  # type: ignore[assignment]
        request.history = None  # type: ignore[assignment]

    async with serving({"mine": agent}) as server:
        for _ in range(2):
            seen = await rest(await start(kind, server, "hi", user_id="u", session_id="s"))
            assert seen[-1]["type"] == "AGENT_FINISH"
            assert seen[-1]["data"]["usage"]["total_tokens"] == 0
        assert [turn["content"] for turn in await server.runs.log.history(("u", "s"))] == ["hi", "", "hi", ""]
        assert len(error_lines(caplog)) == 2


async def test_a_report_never_raises(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """An exception that cannot be formatted is one line without a traceback."""
    handler = logging.StreamHandler()
    handler.setFormatter(Broken())
    log = logging.getLogger("twinwire.test")
    log.addHandler(handler)
    try:
        report(log, ValueError(), "it failed")
        with Fence(log, "it %s", "failed") as fence:
            raise Odd
    finally:
        log.removeHandler(handler)
    assert type(fence.error) is Odd


class Broken(logging.Formatter):
    """Fails for each record with a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info:
            raise SystemExit
        return super().format(record)
