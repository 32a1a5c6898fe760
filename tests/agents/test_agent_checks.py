"""An agent that cannot be one is refused before any run, in a sentence that names it and says what would be right."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any
from unittest.mock import AsyncMock

import pytest

from twinwire import AgentSpec, DemoModel, ReActAgent, RunRequest, create_app, from_thread
from twinwire.protocol.errors import SettingsError


async def good(request: RunRequest) -> AsyncGenerator[str, None]:
    yield request.message


async def coroutine(_: RunRequest, more: int = 1) -> None: ...


def stream(request: RunRequest) -> AsyncIterator[str]:
    return good(request)


def anything(request: RunRequest) -> Any:
    return good(request)


def blocking(request: RunRequest) -> Iterator[str]:
    yield request.message


def plain(request):  # type: ignore[no-untyped-def]
    return request.message


def text(request: RunRequest) -> str:
    return request.message


async def none() -> None: ...


async def two(request: RunRequest, context: Any) -> None: ...


async def keyword(request: RunRequest, *, context: Any) -> None: ...


async def optional(*, request: RunRequest | None = None) -> None: ...


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    return inner


def passed_on(*arguments: Any):  # type: ignore[no-untyped-def]
    return good(*arguments)


class Object:
    async def __call__(self, request: RunRequest) -> str:
        return request.message

    async def method(self, request: RunRequest) -> str:
        return request.message

    def plain(self, request):  # type: ignore[no-untyped-def]
        return request.message


class Blocking:
    def __call__(self, request: RunRequest) -> Generator[str, None, None]:
        yield request.message


GOOD: list[Any] = [
    good,
    coroutine,
    stream,
    anything,
    traced(good),
    passed_on,
    Object(),
    Object().method,
    functools.partial(two, context=1),
    functools.partial(coroutine, more=2),
    lambda request: good(request),  # noqa: PLW0108 - a lambda is what is tried
    AsyncMock(),
    from_thread(blocking),
    ReActAgent("react", DemoModel(0)),
]


@pytest.mark.parametrize("agent", GOOD, ids=lambda agent: getattr(agent, "__name__", type(agent).__name__))
def test_agents(agent: Any) -> None:
    """Whatever takes a request and does not plainly block is an agent, bare and in a spec."""
    create_app({"mine": agent})
    create_app({"mine": AgentSpec(agent)})


BAD: dict[str, tuple[Any, str]] = {
    "a generator": (blocking, "'blocking' is a generator .* twinwire.from_thread"),
    "a wrapped generator": (traced(blocking), "'blocking' is a generator"),
    "an object that blocks": (Blocking(), "'Blocking' is a generator"),
    "a plain def": (plain, "'plain' is a plain `def` .* must be an `async def`, or run in a thread"),
    "a plain def that returns a text": (text, "'text' is a plain `def`"),
    "a plain method": (Object().plain, "'plain' is a plain `def`"),
    "no parameter": (none, "'none' must take one parameter, the request, and takes no parameter"),
    "two parameters": (two, "'two' must take one parameter, the request, and takes 2 parameters"),
    "a keyword": (keyword, "takes 2 parameters"),
    "only an optional keyword": (optional, "takes no parameter"),
    "a class": (Object, "'Object' must be an instance or a function, and is a class"),
    "a number": (5, "not a value of the type int"),
    "None": (None, "not a value of the type NoneType"),
}


@pytest.mark.parametrize("what", BAD)
def test_no_agents(what: str) -> None:
    """Each of these is refused by `create_app` and by a spec."""
    agent, named = BAD[what]
    with pytest.raises(SettingsError, match=named):
        create_app({"mine": agent})
    with pytest.raises(SettingsError, match=named):
        AgentSpec(agent)


def test_what_a_call_of_an_agent_gave() -> None:
    """An agent that was called already is refused, and its coroutine leaves no warning."""
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    for agent in (good(RunRequest("hi")), coroutine(RunRequest("hi")), blocking(RunRequest("hi")), future):
        with pytest.raises(SettingsError, match=r"must be a function, .* Leave its \(\) out"):
            create_app({"mine": agent})  # type: ignore[dict-item]
    loop.close()
