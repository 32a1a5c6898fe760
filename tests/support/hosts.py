"""Applications of other frameworks with Twinwire below `/ai`, and the ASGI servers that they are served on.

Each application has `/login?user=`, which keeps the user in its own session, `/logout`, and `/hello`.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from litestar import Litestar, Request, asgi, get
from litestar.middleware.session.server_side import ServerSideSessionConfig

from support.processes import Process
from twinwire import Settings, Twinwire
from twinwire.web.authentication import Authenticate

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]
SECRET = "s" * 50


def of_session(connection: Any) -> str | None:
    """Return the user of the application's own session."""
    user: str | None = connection.session.get("user")
    return user


def fastapi_app(ai: Twinwire, path: str = "/ai", **options: Any) -> AsgiApp:
    """FastAPI, and its `mount`."""
    fastapi = pytest.importorskip("fastapi")
    app: Any = fastapi.FastAPI(lifespan=ai.lifespan, **options)
    _starlette_routes(app)
    app.mount(path, ai)
    return app  # type: ignore[no-any-return]


def starlette_app(ai: Twinwire, path: str = "/ai") -> AsgiApp:
    """Starlette, and a `Mount`."""
    applications = pytest.importorskip("starlette.applications")
    routing = pytest.importorskip("starlette.routing")
    app: Any = applications.Starlette(routes=[routing.Mount(path, ai)], lifespan=ai.lifespan)
    _starlette_routes(app)
    return app  # type: ignore[no-any-return]


def _starlette_routes(app: Any) -> None:
    pytest.importorskip("itsdangerous")
    from starlette.middleware.sessions import SessionMiddleware
    from starlette.responses import PlainTextResponse

    async def login(request: Any) -> Any:
        request.session["user"] = request.query_params["user"]
        return PlainTextResponse("in")

    async def logout(request: Any) -> Any:
        request.session.clear()
        return PlainTextResponse("out")

    async def hello(_: Any) -> Any:
        return PlainTextResponse("hello")

    app.add_middleware(SessionMiddleware, secret_key=SECRET)
    for name, endpoint in {"login": login, "logout": logout, "hello": hello}.items():
        app.add_route(f"/{name}", endpoint)


@get("/login")
async def _login(request: Request[Any, Any, Any]) -> str:
    request.set_session({"user": request.query_params["user"]})
    return "in"


@get("/logout")
async def _logout(request: Request[Any, Any, Any]) -> str:
    request.clear_session()
    return "out"


@get("/hello")
async def _hello() -> str:
    return "hello"


def litestar_plugin(ai: Twinwire, path: str = "/ai") -> AsgiApp:
    """Litestar, and the plugin."""
    sessions = ServerSideSessionConfig()
    return Litestar(
        [_login, _logout, _hello], plugins=[ai.plugin(path)], middleware=[sessions.middleware], logging_config=None
    )


def litestar_mount(ai: Twinwire, path: str = "/ai") -> AsgiApp:
    """Litestar, and a mount of its own."""
    sessions = ServerSideSessionConfig()
    mount = asgi(path, is_mount=True, copy_scope=True)(ai)
    return Litestar(
        [_login, _logout, _hello, mount],
        lifespan=[ai.lifespan],
        middleware=[sessions.middleware],
        logging_config=None,  # Litestar's own sets this whole process to INFO, and other tests measure its memory
    )


def django_app(ai: Twinwire, path: str = "/ai") -> AsgiApp:
    """Django's ASGI application, and `Twinwire.beside`."""
    pytest.importorskip("django")
    from support.django_site import application

    return ai.beside(application(), path)


HOSTS: Mapping[str, Callable[..., AsgiApp]] = {
    "fastapi": fastapi_app,
    "starlette": starlette_app,
    "litestar plugin": litestar_plugin,
    "litestar mount": litestar_mount,
    "django": django_app,
}
each_host = pytest.mark.parametrize("host", HOSTS)


def authenticate_of(host: str) -> Authenticate:
    """Return how the users of this application are known."""
    if host != "django":
        return of_session
    from support.django_site import of_django

    return of_django


class Address:
    """Where Twinwire is, and the application around it, its `home`."""

    def __init__(self, home: str, path: str = "/ai") -> None:
        self.home = home
        self.url = f"{home}{path}"
        self.ws_url = f"ws{self.url.removeprefix('http')}/ws"


def settings(**told: Any) -> Settings:
    """Return settings that end quickly."""
    return Settings(**{"drain_timeout": 0.0, "demo_rate": 0.0, **told})


@asynccontextmanager
async def hosted(app: AsgiApp, path: str = "/ai", *, lifespan: str = "on", **options: Any) -> AsyncIterator[Address]:
    """Serve an application on uvicorn, with its own protocols, in the test's event loop."""
    config = uvicorn.Config(app, lifespan=lifespan, log_config=None, timeout_graceful_shutdown=5, **options)  # type: ignore[arg-type]
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        await server.startup([listener])
        try:
            yield Address(f"http://127.0.0.1:{listener.getsockname()[1]}", path)
        finally:
            await server.shutdown([listener])


def free_port() -> int:
    """Return a port that nobody listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


BIN = Path(sys.executable).parent
SERVERS: Mapping[str, Callable[[str, int], list[str]]] = {
    "uvicorn": lambda target, port: [f"{BIN}/uvicorn", target, "--port", str(port)],
    "granian": lambda target, port: [f"{BIN}/granian", "--interface", "asgi", "--port", str(port), target],
    "hypercorn": lambda target, port: [f"{BIN}/hypercorn", target, "--bind", f"127.0.0.1:{port}"],
    "daphne": lambda target, port: [f"{BIN}/daphne", "-p", str(port), target],
}


@contextmanager
def served(server: str, folder: Path, *arguments: str, target: str = "main:app") -> Iterator[tuple[Process, Address]]:
    """Serve a program in this folder as a user does, in a process of its own."""
    port = free_port()
    command = SERVERS[server](target, port)
    if not Path(command[0]).exists():
        pytest.skip(f"{server} is not installed")
    environ = {"PYTHONWARNINGS": "default", "PYTHONPATH": str(folder)}
    with Process(*arguments, cwd=folder, environ=environ, command=command) as process:
        while True:
            assert process.popen.poll() is None, process.end()
            with suppress(ConnectionRefusedError), closing(socket.create_connection(("127.0.0.1", port), 1)):
                break
            time.sleep(0.02)  # nothing tells when a port is listened on
        try:
            yield process, Address(f"http://127.0.0.1:{port}")
        finally:  # a server's own processes would outlive it, if it was killed
            process.popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.popen.wait(15)


async def ended(process: Process, seconds: float) -> tuple[int, str]:
    """Wait for a server's end: its exit code, and what it has written."""
    code, out, err = await asyncio.to_thread(process.end, seconds)
    return code, out + err
