"""The command line: `twinwire serve`, `twinwire chat`, `twinwire runs`."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import msgspec

from twinwire import __version__, settings as settings_module
from twinwire.protocol.errors import RunsUnavailable, SettingsError
from twinwire.settings import GROUPS, HINTS, MEMORY, SECRETS, Settings, flag, is_loopback, units, written
from twinwire.telemetry import logging as logs

if TYPE_CHECKING:
    from twinwire.cli.target import Target
    from twinwire.telemetry.shared import Slot


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message[:1].upper()}{message[1:]}.")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See `ArgumentParser`. A secret on the command line is not repeated in an error about it."""
        for told in sys.argv[1:] if args is None else args:
            for name in SECRETS:
                if told.partition("=")[0] == flag(name):
                    fail(
                        f"`{flag(name)}` would be visible to all users of the machine. "
                        f"Set the variable `TWINWIRE_{name.upper()}` instead."
                    )
        return super().parse_args(args, namespace)


def fail(message: str) -> NoReturn:
    """Say what is wrong, in one line without a secret, and end."""
    sys.stderr.write(f"twinwire: {logs.one_line(logs.scrub(message))}\n")
    raise SystemExit(2)


def parser() -> argparse.ArgumentParser:
    """The command line's grammar; `serve` has a flag for each setting."""
    top = _Parser("twinwire", description="Serve an LLM agent's events over SSE and WebSocket.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"twinwire {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="run the server",
        allow_abbrev=False,
        usage="%(prog)s [OPTIONS] [MODULE:NAME]",
        epilog="A DURATION is 90 (seconds), 90s, 5m, 1h or 2d. A SIZE is 65536 (bytes), 512KiB, 10MB or 64MiB. Each "
        "flag is also a variable: --run-timeout 5m is TWINWIRE_RUN_TIMEOUT=5m. These are variables only: "
        f"{', '.join(f'TWINWIRE_{name.upper()}' for name in sorted(SECRETS))}.",
    )
    serve.add_argument("app", nargs="?", metavar="MODULE:NAME", help="an app or an agent of yours; default: built in")
    _add_settings(serve)
    chat = _asking(commands, "chat", "ask a server something")
    chat.add_argument(
        "message",
        nargs="?",
        metavar="MESSAGE",
        help="what to ask; default: read from standard input, or on a terminal a conversation",
    )
    chat.add_argument("--agent", metavar="NAME", help="the agent to ask; default: the server's own")
    chat.add_argument("--resume", action="store_true", help="go on with the last conversation, and show its last run")
    runs = _asking(commands, "runs", "list your runs, follow one, cancel, delete or answer one")
    runs.set_defaults(action="list", url="http://127.0.0.1:8000", limit=20, agent=None, status=None, label=[])
    actions = runs.add_subparsers(metavar="ACTION")
    told = {
        "list": "list them, the newest first: the default",
        "follow": "show one as it goes on; at a terminal, ask what it asks",
        "cancel": "end one",
        "delete": "delete one for good, which is cancelled if it goes on",
        "answer": "answer what one asks",
    }
    for action, text in told.items():
        # Its flags may stand before the action, too: if they do not come after it, those count.
        command = _asking(actions, action, text, argument_default=argparse.SUPPRESS)
        command.set_defaults(action=action)
        if action in {"follow", "cancel", "delete"}:
            command.add_argument("run_id", metavar="RUN", help="its id, as the list has it")
    answer = actions.choices["answer"]
    answer.add_argument("input_id", metavar="QUESTION", help="its id, as whoever follows the run is told")
    answer.add_argument("answer", nargs="+", metavar="ANSWER", help="what one would type at each prompt, such as yes")
    for command in runs, actions.choices["list"]:
        command.add_argument("--limit", type=int, metavar="N", help="list so many; default 20")
        command.add_argument("--agent", metavar="NAME", help="list the runs of this agent")
        command.add_argument("--status", metavar="STATUS", help="list those of this status, such as running or error")
        command.add_argument("--label", action="append", metavar="NAME:VALUE", help="list those with it; repeatable")
    return top


def _add_settings(serve: argparse.ArgumentParser) -> None:
    """Add a flag for each setting that may be one, by subject."""
    defaults = Settings()
    group: Any = serve
    for name, hint in HINTS.items():
        if name in GROUPS:
            group = serve.add_argument_group(GROUPS[name])
        if name in SECRETS:
            continue
        text = "".join(meta.description or "" for meta in get_args(hint) if isinstance(meta, msgspec.Meta))
        value = getattr(defaults, name)
        how: dict[str, Any] = {"metavar": name.rpartition("_")[2].upper()}
        if isinstance(value, bool):
            how = {"action": "store_const", "const": True}
        elif isinstance(value, tuple):
            how["action"] = "append"
        elif isinstance(value, str):
            text += f"; default {value}"
        elif value is not None:
            text += f"; default {written(name, value)}"
            how["metavar"] = "DURATION" if "s" in units(name) else "SIZE" if units(name) else how["metavar"]
        group.add_argument(flag(name), help=text.replace("%", "%%"), **how)


def _asking(commands: Any, name: str, text: str, **how: Any) -> argparse.ArgumentParser:
    """A command that asks a server."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, allow_abbrev=False, **how)
    server = command.add_argument_group("server")
    server.add_argument("--url", help="the server; default http://127.0.0.1:8000")
    server.add_argument("--transport", choices=("auto", "sse", "ws"), help="default auto")
    server.add_argument("--user", metavar="NAME", help="who you are, if the server authenticates nobody")
    server.add_argument(
        "--token-file", metavar="FILE", help="your token, in a file; default: the variable TWINWIRE_TOKEN"
    )
    output = command.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print each event, or each run, as a line of JSON")
    return command


def _bind(settings: Settings) -> socket.socket:
    """A listening socket, bound here so that a port in use is one clear line. Raises `SettingsError`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise SettingsError(
            f"`--host` must be an address of this machine, not {settings.host!r}.", field="--host"
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere the option lets two servers have one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # `::` is IPv4 too, whatever the system has
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        field = "--port" if error.errno in {errno.EACCES, errno.EADDRINUSE} else "--host"
        raise SettingsError(
            f"`{field}` is not usable: cannot listen on {settings.host}:{settings.port}: {error.strerror}.", field=field
        ) from None
    return listener


def _serve(arguments: argparse.Namespace) -> None:
    # After its own clean shutdown uvicorn raises the signal again. It ends the process then, as SIGTERM does: with a
    # KeyboardInterrupt asyncio would first wait for every task, even for one of an agent that will not be cancelled.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    settings = settings_module.load(os.environ, vars(arguments))
    os.environ.update(settings_module.variables(vars(arguments)))  # where `create_app` of an app's module finds them
    if settings.workers > 1:
        if not hasattr(os, "fork"):
            raise SettingsError("`--workers` must be 1: this system has no fork, which POSIX has.", field="--workers")
        # All workers sign and read the same tickets.
        os.environ["TWINWIRE_SECRET"] = settings.secret or secrets.token_urlsafe(32)
        settings = settings_module.load(os.environ, vars(arguments))
    logs.set_up(settings)
    _check_tls(settings)
    with _bind(settings) as listener:
        if arguments.app is None:
            _check_exposure(settings, authenticates=settings.authenticates)
        if settings.workers > 1:
            _supervise(arguments, settings, listener)
        else:
            _work(arguments, settings, listener, lambda log: _say_ready(arguments, settings, listener, _kept(log)))


def _supervise(arguments: argparse.Namespace, settings: Settings, listener: socket.socket) -> None:
    """Serve with several processes. They share a log, which is in a store of their own if none is named."""
    from twinwire.serving.store import PrivateStore, find_program, most_bytes
    from twinwire.serving.workers import Supervisor

    store = None
    if settings.log == MEMORY:
        store = PrivateStore(find_program(), most_bytes(settings.log_bytes + settings.sessions_bytes))
        os.environ["TWINWIRE_LOG"], arguments.log = store.url, None
        settings = settings_module.load(os.environ, vars(arguments))
    kept = _kept(settings.log) if store is None else f"in a private {store.name}"

    def worker(ready: Callable[[], None]) -> None:
        ends = None if store is None else supervisor.ends
        _reporting(lambda: _work(arguments, settings, listener, lambda _: ready(), slot=supervisor.slot, ends=ends))

    def say_ready() -> None:
        _say_ready(arguments, settings, listener, f"{kept}, which {settings.workers} workers share")

    supervisor = Supervisor(settings.workers, worker, say_ready, store)
    supervisor.run()


def _work(
    arguments: argparse.Namespace,
    settings: Settings,
    listener: socket.socket,
    ready: Callable[[str], None],
    *,
    slot: Slot | None = None,
    ends: Callable[[], bool] | None = None,
) -> None:
    """Serve in this process. `ready` is called with the URL of the log; `slot` is the place of one of several.

    See `Server.ends`.
    """
    target = _target(arguments, settings)
    target.service.metrics.slot = slot
    _check_tls(settings)  # again: a worker that starts later finds what is there then
    for service in target.services:
        _check_exposure(settings, authenticates=service.auth.on)
        _check_log(settings, service.settings.log)
        service.runs.debug |= settings.debug or _is_private(settings, target)
    if any(service.settings.otel for service in target.services):
        from twinwire.telemetry.otel import export

        export()

    from twinwire.serving.shell import serve

    log = target.service.settings.log
    serve(target.app, target.services, settings, listener, lambda: ready(log), foreign=target.foreign, ends=ends)


def _say_ready(arguments: argparse.Namespace, settings: Settings, listener: socket.socket, kept: str) -> None:
    """Print where the server is, with which model, and where events are `kept`."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if settings.ssl_certfile else "http"
    line = f"Twinwire is at {scheme}://{shown}:{port} with {_model(arguments.app, settings)}. Events are kept {kept}."
    print(logs.one_line(logs.scrub(line)), flush=True)


def _kept(log: str) -> str:
    """Return where a log keeps events, without its address."""
    from twinwire.log import kind_of

    return {"memory": "in memory", "sqlite": "in SQLite", "private": "in a private store"}.get(kind_of(log), "in Redis")


def _check_log(told: Settings, log: str) -> None:
    """Raise `SettingsError` if an app with settings of its own keeps its runs where not all workers find them."""
    from twinwire.log import SHARED, kind_of

    private = kind_of(told.log) == "private"
    if told.workers > 1 and log != told.log and (private or kind_of(log) not in SHARED):
        raise SettingsError(
            "`--workers` requires a log that all workers share. The app has settings of its own: set `log` to "
            "redis://host:port/0 there, and name the same by `--log`.",
            field="--workers",
        )


def _check_tls(settings: Settings) -> None:
    """Raises `SettingsError` if a flag lacks another, a file cannot be used, or HTTP/2 is not installed."""
    if settings.ssl_certfile is None or settings.ssl_keyfile is None:
        for name, other in ("ssl_certfile", "ssl_keyfile"), ("ssl_keyfile", "ssl_certfile"), ("http2", "ssl_certfile"):
            if getattr(settings, name) not in {None, False}:
                raise SettingsError(f"`{flag(name)}` requires `{flag(other)}` too.", field=flag(name))
        return
    if sys.platform == "win32":
        raise SettingsError(
            "`--ssl-certfile` requires POSIX. Have a proxy in front of the server speak TLS.", field="--ssl-certfile"
        )

    import ssl

    from twinwire.auth.files import read

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    logs.hide(*logs.in_pem(read(settings.ssl_keyfile, "--ssl-keyfile")))
    read(settings.ssl_certfile, "--ssl-certfile")
    try:
        context.load_verify_locations(settings.ssl_certfile)
    except ssl.SSLError:
        raise SettingsError("`--ssl-certfile` must have a PEM certificate.", field="--ssl-certfile") from None
    try:
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password="")  # and ask nobody for one
    except ssl.SSLError:
        raise SettingsError(
            "`--ssl-keyfile` must have the certificate's key, as unencrypted PEM.", field="--ssl-keyfile"
        ) from None
    if settings.http2 and importlib.util.find_spec("zttp") is None:
        raise SettingsError("`--http2` requires: pip install 'twinwire[http2]'.", field="--http2")


def _check_exposure(told: Settings, *, authenticates: bool) -> None:
    """Raises `SettingsError` if an app lets in more than was told, or all who can reach this machine."""
    if told.authenticates and not authenticates:
        raise SettingsError("The app has settings of its own, which must require authentication as the command's do.")
    if not (authenticates or told.insecure or is_loopback(told.host)):
        raise SettingsError(
            f"`--host` {told.host} is reachable by others without authentication. Set `TWINWIRE_AUTH_TOKENS`, "
            "`--jwt-key-file` or `--insecure`.",
            field="--host",
        )


def _is_private(settings: Settings, target: Target) -> bool:
    """Return whether only its developer uses the server, as far as it can tell: then errors are told with their words.

    With names of its own it may be behind a proxy; somebody else's app may have a login of its own.
    """
    service = target.service
    proxied = settings.insecure or settings.allowed_host or service.settings.allowed_host
    return is_loopback(settings.host) and not (target.foreign or service.auth.on or proxied)


def _target(arguments: argparse.Namespace, settings: Settings) -> Target:
    """Return the app to serve."""
    from twinwire.cli.target import Target, load

    if arguments.app is not None:
        return load(arguments.app, settings, vars(arguments))

    from twinwire.web.app import create_app

    app = create_app(settings=settings)
    return Target(app, [app.state.service])


def _model(target: str | None, settings: Settings) -> str:
    """Return the name of the model of the app that is served."""
    if target is not None:
        return f"the model of {target}"
    if settings.demo:
        return "the embedded demo model (no LLM: set OPENAI_API_KEY or --base-url)"
    return f"the local model {Path(settings.local).stem}" if settings.local is not None else settings.model or ""


def _reporting(command: Callable[[], None]) -> None:
    """Run a command. A setting that cannot be used, or a process that cannot carry out runs, ends it with one line."""
    try:
        command()
    except (SettingsError, RunsUnavailable) as error:
        fail(str(error))


def main() -> None:
    """`twinwire`."""
    logs.hide(*logs.in_environment(os.environ))
    arguments = parser().parse_args()
    commands = {"serve": _serve, "chat": _chat, "runs": _runs}
    _reporting(lambda: commands[arguments.command](arguments))


def _check_client(command: str) -> None:
    """Raise `SettingsError` if the Python client is not installed, by which a command talks to a server."""
    if importlib.util.find_spec("twinwire_client") is None:
        raise SettingsError(f"`twinwire {command}` requires the Python client: pip install 'twinwire[chat]'.")


def _chat(arguments: argparse.Namespace) -> None:
    _check_client("chat")
    from twinwire.cli.chat import chat

    raise SystemExit(chat(arguments))


def _runs(arguments: argparse.Namespace) -> None:
    _check_client("runs")
    from twinwire.cli.runs import runs

    raise SystemExit(runs(arguments))
