"""A real Twinwire server inside the test's event loop, on a free port, and agents that do what a test tells them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, closing
from contextvars import ContextVar
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from twinwire.agents import Agent, RunRequest
from twinwire.agents.spec import AgentSpec
from twinwire.protocol.events import StreamEvent
from twinwire.serving.shell import Server, config
from twinwire.settings import Settings
from twinwire.transports import Verdict
from twinwire.web.app import create_app
from twinwire.web.service import Service

plain: ContextVar[bool] = ContextVar("plain", default=False)
"""Whether to serve on uvicorn's own protocols, as on any other ASGI server, without the extension of ours."""


class Running:
    """A server that is up: its `url`, its WebSocket's `ws_url`, and its insides."""

    def __init__(self, server: Server, service: Service, port: int) -> None:
        s = "s" if server.config.is_ssl else ""
        self.server = server
        self.service = service
        self.runs = service.runs
        self.port = port
        self.url = f"http{s}://127.0.0.1:{port}"
        self.ws_url = f"ws{s}://127.0.0.1:{port}/ws"

    def cut(self, verdict: Verdict) -> None:
        """End each stream and socket that is open now; those that come are served."""
        for pump in tuple(self.service.heartbeats.pumps):
            pump.end(verdict)


@asynccontextmanager
async def serving(agents: Mapping[str, Agent | AgentSpec] | None = None, **settings: Any) -> AsyncIterator[Running]:
    """Serve these agents, with what else `create_app` takes, until the block ends; then shut down as SIGTERM would."""
    names = ("authenticate", "formats", "on_end", "webhooks")
    given = {name: settings.pop(name) for name in names if name in settings}
    chosen = Settings(**{"drain_timeout": 0.0, "demo_rate": 0.0, **settings})
    app = create_app(agents, settings=chosen, **given)
    ready = asyncio.Event()
    options = config(app, chosen)
    if plain.get():
        options.http, options.ws = HttpToolsProtocol, WebSocketsSansIOProtocol
    options.load()
    server = Server(options, app.state.service, ready.set)
    server.lifespan = options.lifespan_class(options)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        await server.startup([listener])
        await server.on_tick(0)
        assert ready.is_set()
        try:
            yield Running(server, app.state.service, listener.getsockname()[1])
        finally:
            await server.shutdown([listener])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nothing announces; the test's own timeout bounds it."""
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.005)


class Puppet:
    """One run of a `Puppets` agent: yields what the test puts in, until the test ends it."""

    def __init__(self, request: RunRequest) -> None:
        self.request = request
        self.closed = asyncio.Event()
        self._queue: asyncio.Queue[StreamEvent | BaseException | None] = asyncio.Queue()

    def emit(self, type: str, **data: Any) -> None:  # noqa: A002 - the event's own name for it
        """Have the agent yield an event."""
        self._queue.put_nowait(StreamEvent(type=type, data=data))

    def say(self, *words: str) -> None:
        """Have the agent yield an LLM_CHUNK for each word."""
        for word in words:
            self.emit("LLM_CHUNK", content=word, delta=word)

    def fail(self, error: BaseException) -> None:
        """Have the agent raise."""
        self._queue.put_nowait(error)

    def end(self) -> None:
        """Have the agent return."""
        self._queue.put_nowait(None)

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        try:
            while (item := await self._queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.closed.set()


class Puppets:
    """An agent whose runs a test plays by hand: `await puppets.next()` is the run that starts next."""

    takes_messages = True

    def __init__(self, accepts: Collection[str] | Mapping[str, Any] = ()) -> None:
        self.accepts = accepts
        self.started = 0
        self._new: asyncio.Queue[Puppet] = asyncio.Queue()

    def __call__(self, request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        puppet = Puppet(request)
        self.started += 1
        self._new.put_nowait(puppet)
        return puppet.events()

    async def next(self) -> Puppet:
        async with asyncio.timeout(10):
            return await self._new.get()


async def echo(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    """An agent that says each word of its message."""
    for word in request.message.split():
        yield StreamEvent(type="LLM_CHUNK", data={"content": f"{word} ", "delta": f"{word} "})
