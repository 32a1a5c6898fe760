"""For the tests of whoever uses Twinwire: a scripted model, an app that is served, and fixtures for pytest.

`pytest_plugins = ["twinwire.testing"]` in a `conftest.py` gives the fixtures. For a client without a network there is
`twinwire_client.Client(app=…)`. See docs/EMBEDDING.md.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
import uvicorn

from twinwire.agents import Agent
from twinwire.agents.spec import AgentSpec
from twinwire.models import Finish, Message, Part, Text, ToolCall, ToolSpec
from twinwire.serving.shell import Server, config
from twinwire.settings import Settings
from twinwire.web.app import App
from twinwire.web.twinwire import AsgiApp, Twinwire

Answer = str | Sequence[Part] | Exception
"""A text, parts such as `Text`, `Thinking` and `ToolCall`, or an error to raise, such as `UpstreamError`."""

START_SECONDS = 30.0
END_SECONDS = 10.0


class ScriptedModel:
    """A `ChatModel` that gives these answers, one a call, each part as a batch of its own.

    An answer without a `Finish` gets one. `asked` has the messages of each call. A call more than there are answers
    raises `AssertionError`.
    """

    name = "scripted"

    def __init__(self, *answers: Answer) -> None:
        self._answers = deque(answers)
        self.asked: list[list[Message]] = []

    async def stream(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),  # noqa: ARG002 - the interface's
    ) -> AsyncGenerator[Sequence[Part], None]:
        """See `ChatModel`."""
        self.asked.append([dict(message) for message in messages])
        if not self._answers:
            raise AssertionError(f"The scripted model was asked {len(self.asked)} times, and has one answer less.")
        answer = self._answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        parts: list[Part] = [Text(answer)] if isinstance(answer, str) else [*answer]
        if not (parts and isinstance(parts[-1], Finish)):
            called = any(isinstance(part, ToolCall) for part in parts)
            parts.append(Finish("tool_calls" if called else "stop"))
        for part in parts:
            await asyncio.sleep(0)
            yield [part]


@contextmanager
def served(app: Twinwire | AsgiApp | Mapping[str, Agent | AgentSpec], **settings: Any) -> Iterator[str]:
    """Serve an app, or these agents with these settings, in a thread of its own until the block ends. Give its URL.

    Twinwire is served as `twinwire serve` does, any other ASGI app on uvicorn. No settings come from the environment.
    Raise what the app's start raises.
    """
    if isinstance(app, Mapping):
        app = Twinwire(app, settings=Settings(**{"drain_timeout": 0.0, **settings}))
    elif settings:
        raise TypeError("Settings must be given to the app that they are for.")
    listener = socket.create_server(("127.0.0.1", 0))
    with closing(listener):
        server = _server(app)
        failed: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(server.serve([listener]))
            except BaseException as error:  # noqa: BLE001 - it is raised where the app is to be served
                failed.append(error)

        thread = threading.Thread(target=run, name="twinwire-served", daemon=True)
        thread.start()
        waited = threading.Event()
        for _ in range(round(START_SECONDS / 0.01)):
            if server.started or not thread.is_alive():
                break
            waited.wait(0.01)
        if failed or not server.started:
            raise failed[0] if failed else RuntimeError("The app has not started in time.")
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(END_SECONDS)


def _server(app: Twinwire | AsgiApp) -> uvicorn.Server:
    own = app.app if isinstance(app, Twinwire) else app
    if isinstance(own, App):
        service = own.hosting.service
        return Server(config(own, service.settings), service, lambda: None)
    return uvicorn.Server(uvicorn.Config(own, log_config=None, timeout_graceful_shutdown=1))


@pytest.fixture
def twinwire_served() -> Iterator[Callable[..., str]]:
    """A function that serves an app or agents, as `served`, until the test ends, and returns the URL."""
    with ExitStack() as stack:
        yield lambda app, **settings: stack.enter_context(served(app, **settings))
