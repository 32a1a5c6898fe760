"""`Twinwire`: the app as an object, for an application that has more than it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from litestar import asgi
from litestar.config.app import AppConfig
from litestar.plugins import InitPlugin

from twinwire.agents import Agent
from twinwire.agents.spec import AgentSpec
from twinwire.auth import ANYBODY
from twinwire.formats.registry import Transform
from twinwire.protocol.events import StreamEvent, decode, ended
from twinwire.protocol.wire import converted
from twinwire.runs import Runs, RunSpec
from twinwire.runs.endings import EndedRun, OnEnd
from twinwire.settings import Settings
from twinwire.web.app import App, create_app
from twinwire.web.authentication import Authenticate
from twinwire.web.input import StartBody
from twinwire.web.service import Service

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

PAGE_EVENTS = 256
"""The most events that are read from the log at once."""


class RunHandle:
    """A run, for the program that has started it; its methods are for the event loop of the app."""

    def __init__(self, run_id: str, runs: Runs) -> None:
        self.run_id = run_id
        self._runs = runs

    def __repr__(self) -> str:
        return f"RunHandle({self.run_id!r})"

    async def follow(self, after: int = 0) -> AsyncGenerator[StreamEvent, None]:
        """Yield the run's events after number `after`, as they come, to the terminal one.

        Whoever follows counts as a follower for the run's `on_disconnect`. Raise `RunNotFound`, and `CursorGone` if the
        log no longer has the event after `after`.
        """
        news = asyncio.Event()
        await self._runs.seek(self.run_id, after, ANYBODY)
        unsubscribe = self._runs.log.subscribe(self.run_id, news.set)
        self._runs.follow(self.run_id)
        try:
            while True:
                news.clear()
                records = (await self._runs.log.page(self.run_id, after, PAGE_EVENTS)).records
                for record in records:
                    yield decode(record.body)
                    after = record.seq
                    if record.last:
                        return
                if not records:
                    if (await self._runs.seek(self.run_id, after, ANYBODY)).terminal is not None:
                        return  # at `after` already
                    await news.wait()
        finally:
            unsubscribe()
            self._runs.unfollow(self.run_id)

    async def wait(self) -> EndedRun:
        """Wait for the run's end, and return how it ended. Raise `RunNotFound` if the log no longer has it."""
        news = asyncio.Event()
        unsubscribe = self._runs.log.subscribe(self.run_id, news.set)
        try:
            while (state := await self._runs.state(self.run_id, ANYBODY)).terminal is None:
                await news.wait()
                news.clear()
        finally:
            unsubscribe()
        told = {name: msgspec.json.decode(raw) for name, raw in ended(state.terminal.body).items()}
        return EndedRun(
            run_id=self.run_id,
            agent=state.info.agent,
            user_id=state.info.user_id,
            session_id=state.info.session_id,
            status=told.get("status", "error"),
            error_type=told.get("error_type"),
            reason=told.get("reason"),
            usage=told.get("usage"),
            duration=told.get("duration", 0.0),
            result=told.get("result"),
            metadata=state.info.metadata,
        )

    async def cancel(self) -> str:
        """Cancel the run: return `accepted`, or `already_finished`. Raise `RunNotFound`."""
        return await self._runs.cancel(self.run_id, ANYBODY)


class Twinwire:
    """Twinwire as an ASGI app: to serve as it is, or to mount in an application of any framework: docs/EMBEDDING.md.

    `agents`, `settings`, `formats`, `on_end` and `webhooks` are as of `create_app`, which is its short form.

    `authenticate` is a function, async or not, that is called with each connection that has no credential of Twinwire's
    own, over HTTP and WebSocket alike. It returns the id of the user that the connection is of, or None, which is
    answered with 401. The connection is a Litestar `ASGIConnection` with the application's own `session`, `user`,
    `headers` and `cookies`. If it raises, or takes longer than ten seconds, the answer is 503. One that is not async is
    called in a thread.

    Raises `SettingsError`, and `ValueError` for a format's name that is in use.
    """

    def __init__(
        self,
        agents: Mapping[str, Agent | AgentSpec] | None = None,
        *,
        settings: Settings | None = None,
        formats: Mapping[str, Transform] | None = None,
        authenticate: Authenticate | None = None,
        on_end: OnEnd | None = None,
        webhooks: Sequence[str] = (),
    ) -> None:
        self.app: App = create_app(
            agents,
            settings=settings,
            formats=formats,
            authenticate=authenticate,
            on_end=on_end,
            webhooks=webhooks,
        )
        """The app of Litestar that answers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve as an ASGI app. The first connection starts it if no lifespan has."""
        await self.app(scope, receive, send)

    @property
    def service(self) -> Service:
        """The objects that the routes share; another one after a restart of the lifespan."""
        return self.app.hosting.service

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """Start, and drain at the end: `FastAPI(lifespan=ai.lifespan)`, or `async with ai.lifespan():` in one of yours.

        Raise `SettingsError`, `LogUnavailable` or `RunsUnavailable` if it cannot start.
        """
        async with self.app.running():
            yield

    async def drain(self) -> None:
        """End what goes on: let runs finish for `drain_timeout`, interrupt the rest, then end all streams and sockets.

        No run starts after that. A signal that ends the server does so by itself, and so does the lifespan's end.
        """
        await self.app.hosting.drain()

    async def start(
        self,
        agent: str | None,
        message: str,
        *,
        user: str | None = None,
        session: str | None = None,
        params: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        parts: Sequence[Mapping[str, Any]] | None = None,
        on_disconnect: str | None = None,
        interrupt: bool = False,
        idempotency_key: str | None = None,
    ) -> RunHandle:
        """Start a run of this agent, None for the default one, and return it.

        The arguments are the fields of a start (PROTOCOL.md, section 3); `user` and `session` are the ids of these. If
        nobody follows it, the run goes on, unless `on_disconnect` or the agent's own policy says otherwise.
        Raise `BadRequest`, `AgentNotFound`, `SessionBusy`, `IdempotencyMismatch`, `TooManyRuns`, `RateLimited` or
        `Draining`.
        """
        await self.app.hosting.start()
        told = {
            "agent": agent,
            "message": message,
            "user_id": user,
            "session_id": session,
            "params": params,
            "metadata": metadata,
            "parts": parts,
            "on_disconnect": on_disconnect,
            "interrupt": interrupt,
            "idempotency_key": idempotency_key,
        }
        asked = converted({name: value for name, value in told.items() if value is not None}, StartBody)
        info, _ = await self.service.runs.start(
            RunSpec.of(asked, ANYBODY, interrupt=interrupt, on_disconnect="continue")
        )
        return self.run(info.run_id)

    def run(self, run_id: str) -> RunHandle:
        """Return a run by its id, as `start` does; whether there is one shows when it is used."""
        return RunHandle(run_id, self.service.runs)

    async def log_out(self, user: str) -> None:
        """End this user's streams and sockets, and revoke their tickets and logins: call it when they log out of yours.

        Raise `LogUnavailable` if the other workers cannot be told.
        """
        await self.app.hosting.start()
        await self.service.log_out(user)

    async def forget(self, user: str) -> None:
        """Delete all that is kept of this user: call it when you delete the user's account. Runs are cancelled first.

        Raise `LogUnavailable` if something may be left: then call it again.
        """
        await self.app.hosting.start()
        await self.service.runs.forget(user)

    def beside(self, other: AsgiApp, path: str = "/ai") -> AsgiApp:
        """Return an ASGI app that serves this one below `path`, and `other`, such as Django's, everywhere else.

        The lifespan is this app's alone: for a framework with a lifespan of its own, use the mount that it has.
        """
        path = _checked(path)

        async def both(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await self(scope, receive, send)
                return
            root = scope.get("root_path") or ""
            asked = scope["path"].removeprefix(root)
            if asked == path or asked.startswith(f"{path}/"):
                await self({**scope, "path": f"{root}{asked}", "root_path": f"{root}{path}"}, receive, send)
            else:
                await other(scope, receive, send)

        return both

    def plugin(self, path: str = "/ai") -> InitPlugin:
        """Return a plugin for Litestar that serves this app below `path`, and starts and drains it with the host."""
        return _Plugin(self, _checked(path))


def _checked(path: str) -> str:
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(f"`path` must begin with a slash and end without one, such as /ai, not {path!r}.")
    return path


class _Plugin(InitPlugin):
    def __init__(self, app: Twinwire, path: str) -> None:
        self._app = app
        self._path = path

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """See `InitPlugin`."""
        app_config.route_handlers.append(asgi(self._path, is_mount=True, copy_scope=True)(self._app))
        app_config.lifespan.append(self._app.lifespan)
        return app_config
