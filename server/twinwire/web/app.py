"""The Litestar app."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from litestar import Litestar, Request, Response
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin

from twinwire import settings as settings_module
from twinwire.agents import Agent, AgentLimits
from twinwire.agents.spec import AgentSpec, spec_of
from twinwire.auth import Auth
from twinwire.formats.registry import Format, Transform, registry
from twinwire.log import Limits, Quota, open_log
from twinwire.models import ChatModel
from twinwire.models.local import LocalModel
from twinwire.protocol.errors import FailedDependency, SettingsError, TwinwireError
from twinwire.protocol.events import dump
from twinwire.runs import Budget, Runs
from twinwire.runs.endings import Endings, OnEnd
from twinwire.runs.inputs import InputLimits
from twinwire.runs.policies import longest, policies
from twinwire.runs.registry import RESERVE_SECONDS
from twinwire.runs.reserve import Reserve
from twinwire.runs.webhooks import open_webhooks
from twinwire.settings import Settings
from twinwire.telemetry import ids
from twinwire.telemetry.logging import guard_access_lines
from twinwire.telemetry.metrics import Metrics
from twinwire.telemetry.tracing import Tracer, open_tracer
from twinwire.transports import lifetime
from twinwire.transports.heartbeats import Heartbeats
from twinwire.transports.intake import intake_bytes
from twinwire.transports.limiter import Limiter
from twinwire.web import access, answers, chat, guard, health, lists, mounting, openapi, page, runs, socket
from twinwire.web.answers import JsonResponse
from twinwire.web.authentication import Authenticate, Authentication
from twinwire.web.compat import ag_ui, ai_sdk, openai as openai_api
from twinwire.web.hosting import Hosting
from twinwire.web.service import Service
from twinwire.web.stream import RUN_HEADER

logger = logging.getLogger("twinwire.web")

ANSWER_SECONDS = 30.0  # An answer may take so long beside the run that it waits for.
MAX_PATH = 512  # characters; the longest path that there is has a name of 128 in it
NO_PATH = "/too-long"  # there is no such path


class App(Litestar):
    """Litestar without its support for pydantic, which is a third of the start and here for the model's SDK alone."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]

    hosting: Hosting
    known: Collection[str]
    """The first segments of the paths that there are."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the service, and drain it at the end, in whichever tasks. Raise as `Service.start`."""
        await self.hosting.start(again=True)
        self.state.service = self.hosting.service
        self.hosting.attend()
        try:
            yield
        finally:
            await self.hosting.drain()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See `Litestar`. HEAD is wherever GET is; the router keeps a thousand paths, and none of them is long."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        ids.current.set(ids.of_request(scope["headers"]))  # and not reset: a socket's session goes on afterwards
        if self.hosting.loop is not asyncio.get_running_loop():
            try:
                await self.hosting.ready()
            except TwinwireError as error:
                await _unready(error, scope, send)
                return
            self.state.service = self.hosting.service
        self.hosting.attend()
        scope = mounting.inner(scope, self.hosting.service.settings.root_path, self.known)
        if len(scope.get("path", "")) > MAX_PATH:
            scope["path"] = NO_PATH
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope, send = answers.head_only(scope, send)
        elif scope["type"] == "http" and scope["method"] == "OPTIONS" and scope["path"] == "*":
            scope["path"] = "/"  # of the server as a whole (RFC 9110, section 9.3.7)
        await super().__call__(scope, receive, send)


def create_app(
    agents: Mapping[str, Agent | AgentSpec] | None = None,
    *,
    settings: Settings | None = None,
    formats: Mapping[str, Transform] | None = None,
    authenticate: Authenticate | None = None,
    on_end: OnEnd | None = None,
    webhooks: Sequence[str] = (),
) -> App:
    """Return a Twinwire app with these agents by name, or with `react` and `simple` if none are given.

    `formats` are the app's own, by the name that `?format=` gives them: each turns an event into the `data` of an SSE
    block, or None to leave it out. `settings` come from the environment, and the flags of `twinwire serve`, where they
    are not given. `authenticate` tells whose a request without a credential of Twinwire's own is, as of `Twinwire`,
    of which this is the short form: docs/EMBEDDING.md. `on_end` is a function, async or not, that is called with the
    `EndedRun` of each run of this process; it must not block the event loop, and is cancelled after 30 s. `webhooks`
    are URLs that are told the same, beside those of the settings: docs/LIFECYCLE.md. Serve it with
    `twinwire serve module:app`, or mount it.
    Raises `SettingsError`, and `ValueError` for a format's name that is in use and for a wrong `AgentSpec`.
    """
    settings = settings or settings_module.load(os.environ, {})
    guard_access_lines()
    model = None
    if agents is None:
        from twinwire.agents.default import default_agents, default_model

        model = default_model(settings)
        agents = default_agents(settings, model)
    tracer = open_tracer(otel=settings.otel)
    known = registry(formats or {})
    hosting = Hosting(
        lambda: _service(
            settings,
            agents,
            known,
            tracer=tracer,
            model=model,
            authenticate=authenticate,
            endings=Endings(on_end, open_webhooks((*settings.webhook, *webhooks), settings.webhook_secret)),
        )
    )
    return _app(settings, hosting, tracer)


def _service(
    settings: Settings,
    agents: Mapping[str, Agent | AgentSpec],
    formats: Mapping[str, Format],
    *,
    tracer: Tracer,
    model: ChatModel | None,
    authenticate: Authenticate | None,
    endings: Endings,
) -> Service:
    """Return what the routes of an app with these settings share. Raise `SettingsError`."""
    own = policies(
        {name: spec_of(agent) for name, agent in agents.items()},
        deadline=settings.run_timeout,
        limits=msgspec.convert(settings, AgentLimits, from_attributes=True),
    )
    deadline = longest(own)
    limits = Limits(
        max_events=settings.log_events,
        max_bytes=settings.log_bytes,
        retention=settings.retention,
        max_sessions=settings.max_sessions,
        session_bytes=settings.session_bytes,
        session_idle=max(settings.session_idle, deadline),
        max_ended=settings.log_runs,
        sessions_bytes=settings.sessions_bytes,
        longest=deadline + settings.max_wait,
        claim_timeout=settings.claim_timeout,
    )
    log = open_log(settings.log, limits)
    quota = Quota(
        runs=settings.user_runs,
        starts=settings.user_starts,
        longest=deadline,
        waiting=settings.user_waiting,
    )
    budget = Budget(events=settings.run_events, bytes=settings.run_bytes, tokens=settings.run_tokens)
    auth = Auth.of(settings, embedded=authenticate is not None)
    if settings.admin and not auth.on:
        raise SettingsError(
            "`--admin` requires users that are authenticated: set `TWINWIRE_AUTH_TOKENS`.", field="--admin"
        )
    _, files = lifetime.open_files()  # `twinwire serve` raises the soft limit as far as it needs
    accepted = lifetime.accepted_at_most(settings.max_connections, settings.max_runs, files)
    metrics = Metrics()
    return Service(
        settings,
        auth,
        Runs(
            log,
            agents,
            policies=own,
            max_runs=settings.max_runs,
            quota=quota,
            budget=budget,
            live_bytes=settings.live_bytes,
            checkpoint_bytes=settings.checkpoint_bytes,
            reserve=Reserve(settings.reply_bytes, min(settings.send_timeout, RESERVE_SECONDS)),
            metrics=metrics,
            tracer=tracer,
            inputs=InputLimits(
                timeout=settings.input_timeout, longest=settings.max_wait, unread_bytes=settings.max_body
            ),
            endings=endings,
            debug=settings.debug,
        ),
        Heartbeats(heartbeat=settings.heartbeat, send_timeout=settings.send_timeout, logged_out=auth.logged_out),
        Limiter(total=lifetime.streams_at_most(settings.max_connections, accepted), each=settings.user_connections),
        lifetime.Lifetimes(
            most=accepted,
            send_timeout=settings.send_timeout,
            answer_seconds=deadline + ANSWER_SECONDS,
            metrics=metrics,
            intake=intake_bytes(settings.max_body),
        ),
        metrics,
        tracer=tracer,
        local=model if isinstance(model, LocalModel) else None,
        formats=formats,
        application=None if authenticate is None else Authentication(authenticate, auth),
    )


def _app(settings: Settings, hosting: Hosting, tracer: Tracer) -> App:
    """Return the app of a service, which starts and ends with the app's lifespan."""
    app = App(
        [
            chat.chat,
            runs.start_run,
            lists.list_runs,
            lists.delete_run,
            lists.forget_user,
            runs.get_run,
            runs.run_events,
            runs.run_snapshot,
            runs.cancel_run,
            runs.answer_run,
            runs.message_run,
            access.ticket,
            access.login,
            access.logout,
            ai_sdk.chat,
            ai_sdk.resume,
            ai_sdk.stop,
            ag_ui.run_agent,
            openai_api.completions,
            openai_api.models,
            openai_api.model,
            health.healthz,
            health.readyz,
            health.metrics,
            socket.socket,
            socket.chats,
            page.index,
            page.page,
            page.client,
        ],
        dependencies={"service": Provide(lambda: hosting.service, sync_to_thread=False)},
        exception_handlers={TwinwireError: _twinwire_error, HTTPException: _http_error, Exception: _unexpected},
        middleware=[lambda app: guard.Guard(app, lambda: hosting.service), *tracer.middleware],
        response_class=JsonResponse,
        before_send=[
            answers.fields(settings, *openai_api.HEADERS, authenticates=hosting.service.auth.on),
        ],
        openapi_config=openapi.config(),
        lifespan=[lambda _: app.running()],
        logging_config=None,
        signature_types=[Service],
    )
    app.hosting = hosting
    app.known = {route.path.split("/")[1] for route in app.routes}
    app.state.service = hosting.service
    return app


async def _unready(error: TwinwireError, scope: Any, send: Any) -> None:
    """Answer a connection that comes while the service cannot start."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": error.close_code, "reason": error.code})
        return
    body = dump(error.payload())
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"retry-after", b"1")]
    fields += ids.current.get().header
    await send({"type": "http.response.start", "status": error.status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def _twinwire_error(request: Request[Any, Any, Any], error: TwinwireError) -> Response[dict[str, Any]]:
    seconds = 1 if error.retry_after is None and error.status in {429, 503} else error.retry_after
    headers = {} if seconds is None else {"retry-after": str(seconds)}
    if isinstance(error, FailedDependency):  # OpenAI's clients obey `x-should-retry`, whatever the status
        headers |= {"x-should-retry": "false", RUN_HEADER: error.run_id}
        return JsonResponse(_body(request, error, error.status), status_code=error.status, headers=headers)
    if error.status == 413:
        headers["connection"] = "close"  # there may be more of it
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return _refused(request, error, error.status, headers)


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, Any]]:
    """The framework's own refusals: no such route, wrong method, a bad Host."""
    known = {
        404: ("not_found", "The path does not exist."),
        405: ("method_not_allowed", "The path does not allow this method. `Allow` lists the methods that it allows."),
    }
    named = error.__class__.__name__.removesuffix("Exception").lower()
    code, message = known.get(error.status_code, (named, error.detail))
    refusal = TwinwireError(message)
    refusal.code = code
    return _refused(request, refusal, error.status_code, error.headers or {})


def _refused(
    request: Request[Any, Any, Any], error: TwinwireError, status: int, headers: dict[str, str]
) -> Response[dict[str, Any]]:
    """Count a refusal, and answer with it."""
    service: Service = request.app.state.service
    service.metrics.refuse(error, status=status, method=request.method, path=request.scope["path"])
    return JsonResponse(_body(request, error, status), status_code=status, headers=headers)


def _body(request: Request[Any, Any, Any], error: TwinwireError, status: int) -> dict[str, Any]:
    """Return an error in the form that the path's clients know."""
    return openai_api.error_body(error, status) if request.scope["path"].startswith("/v1/") else error.payload()


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    logger.error("The request %s %s failed.", request.method, request.scope["path"], exc_info=error)
    return JsonResponse(_body(request, TwinwireError(), 500), status_code=500)
