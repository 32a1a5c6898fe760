"""The app or the agent that `twinwire serve MODULE:NAME` names, or one sentence that says why it cannot be served."""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from msgspec import Struct

from twinwire.agents.check import RIGHT, check_agent, required
from twinwire.agents.spec import AgentSpec
from twinwire.protocol.errors import RunsUnavailable, SettingsError
from twinwire.settings import Settings, flag
from twinwire.telemetry import logging as logs

if TYPE_CHECKING:
    from litestar import Litestar

    from twinwire.web.service import Service

logger = logging.getLogger("twinwire")

USUAL = ("app", "application")
"""The names of an app that is served if the target names only its module."""

_COMMANDS = {
    *("host", "port", "ssl_certfile", "ssl_keyfile", "http2", "workers", "insecure", "debug"),
    *("log_format", "log_level"),
}
"""The settings that the command honours itself, whatever settings an app has."""

_OF_MODEL = {"model", "base_url", "model_option"}
_OF_DEFAULTS = {"local", "local_context", "demo_rate", "project_root"}


class Target(Struct, frozen=True):
    """The ASGI `app` to serve, and the `services` of the Twinwire apps in it, the first of which is the app's own.

    A `foreign` app is somebody else's, with Twinwire in it.
    """

    app: Any
    services: Sequence[Service]
    foreign: bool = False

    @property
    def service(self) -> Service:
        """The first of the services."""
        return self.services[0]


def load(target: str, settings: Settings, flags: Mapping[str, Any]) -> Target:
    """Return the app that `module:name` is or has in it, or an app with the agent that it is. Raise `SettingsError`.

    `flags` are those of the command line; None is one that was not given.
    """
    from twinwire.web.service import made

    before = set(made)
    module, name = _named(target)
    found = _attribute(module, name)
    target = f"{module.__name__}:{name}"
    new = [service for service in made if service not in before]
    own = _own(found)
    if own is not None:
        loaded = Target(own, [own.state.service])
    elif _is_asgi(found):
        loaded = Target(found, _within(target, new), foreign=True)
        if settings.http2:
            raise SettingsError(f"`--http2` has no effect on {target!r}, which has Twinwire in it.", field="--http2")
    else:
        loaded = _agent(target, found, settings)
    _check_flags(target, loaded, settings, flags)
    return loaded


def _agent(target: str, found: Any, settings: Settings) -> Target:
    """Return an app with this agent. Raise `SettingsError`, also for what is no agent."""
    if isinstance(found, ModuleType):
        raise SettingsError(f"The target {target!r} is a module. Name an app or an agent in it.")
    if not (callable(found) or isinstance(found, AgentSpec) or inspect.isawaitable(found) or inspect.isasyncgen(found)):
        raise SettingsError(
            f"The target {target!r} must be an app, or an agent: {RIGHT}. It is a value of the type "
            f"{type(found).__qualname__}."
        )
    try:
        if not isinstance(found, AgentSpec):
            check_agent(found)
    except SettingsError as error:
        raise SettingsError(f"The target {target!r} is no app and no agent. {error}") from None

    from twinwire.web.app import create_app

    app = create_app({target.rpartition(":")[2].rpartition(".")[2]: found}, settings=settings)
    return Target(app, [app.state.service])


def _named(target: str) -> tuple[ModuleType, str]:
    """Return the module that a target names, imported, and the name in it, by default that of its only app or agent.

    Raise `SettingsError`.
    """
    module_name, colon, name = target.partition(":")
    _check_form(target, module_name, name, colon)
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - sys.path takes strings
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if f"{module_name}.".startswith(f"{error.name}."):
            raise SettingsError(_hinted(f"The module {module_name!r} does not exist.", _alike(module_name))) from None
        _show(module_name, error)  # something that the module itself imports
    except (SettingsError, RunsUnavailable):
        raise
    except Exception as error:  # noqa: BLE001 - the module's author sees it
        _show(module_name, error)
    return module, name or _only(module)


def _check_form(target: str, module_name: str, name: str, colon: str) -> None:
    """Raise `SettingsError` for a file, a folder, and for what names no module."""
    path = Path(module_name)
    if module_name and path.is_dir() and not (path / "__init__.py").exists():
        inside = ".".join(path.parts)
        raise SettingsError(
            f"The target {target!r} is a folder. Name a module in it, such as {inside}{'.' if inside else ''}main:app."
        )
    if path.suffix == ".py" and path.is_file():
        here = not path.is_absolute() and ".." not in path.parts
        right = ".".join(path.with_suffix("").parts) if here else path.stem
        where = "Name its module" if here else "Change to its folder, and name its module"
        raise SettingsError(f"The target {target!r} is a file. {where}: {right}{f':{name}' if name else ''}.")
    if "" in module_name.split(".") or (colon and not name):
        raise SettingsError(f"The target {target!r} must be of the form module:name.")


def _alike(module_name: str) -> str:
    """Return a hint at modules of the current folder with a name like this one."""
    there = [path.stem for path in Path().glob("*.py")]
    near = difflib.get_close_matches(module_name, there, 1)
    return f"Is it {near[0]}?" if near else ""


def _hinted(message: str, hint: str) -> str:
    return f"{message} {hint}" if hint else message


def _show(module_name: str, error: BaseException) -> NoReturn:
    """Show a module's author where it fails, from the module's own lines on, and end with one line."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_next is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    logger.critical("The module %s cannot be imported.", module_name, exc_info=error.with_traceback(trace))
    line = f"The module {module_name!r} cannot be imported: {type(error).__name__}: {error}"
    sys.stderr.write(f"twinwire: {logs.one_line(logs.scrub(line))}\n")
    raise SystemExit(1)


def _is_ours(file: str) -> bool:
    return file == __file__ or file.startswith("<frozen importlib") or file == importlib.__file__


def _attribute(module: ModuleType, name: str) -> Any:
    """Return the value of a name, or of an attribute of one. Raise `SettingsError`, with a name like it."""
    found: Any = module
    for part in name.split("."):
        there = found
        try:
            found = getattr(found, part)
        except AttributeError:
            known = [each for each in dir(there) if not each.startswith("_")]
            near = difflib.get_close_matches(part, known, 1)
            hint = f"Is it {near[0]!r}?" if near else _listed(_served(module))
            raise SettingsError(_hinted(f"The module {module.__name__!r} has no {name!r}.", hint)) from None
    return found


def _served(module: ModuleType) -> tuple[list[str], list[str]]:
    """Return the names of the apps and of the agents in a module; of functions only those that it defines itself."""
    apps: list[str] = []
    agents: list[str] = []
    for name, value in vars(module).items():
        if name.startswith("_") or isinstance(value, type | ModuleType):
            continue
        function = value if inspect.isfunction(value) else None
        if function is not None and function.__module__ != module.__name__:
            continue
        if _own(value) is not None or _is_asgi(value):
            apps.append(name)
        elif isinstance(value, AgentSpec) or _is_agent(value):
            agents.append(name)
    return apps, agents


def _is_agent(value: Any) -> bool:
    """Return whether this looks like an agent: an async function, or an object that is called with a request."""
    if inspect.isfunction(value):
        called = inspect.unwrap(value)
        return required(value) == 1 and (inspect.isasyncgenfunction(called) or inspect.iscoroutinefunction(called))
    call = getattr(type(value), "__call__", None)  # noqa: B004 - of the class
    if not inspect.isfunction(call):
        return False
    return [*inspect.signature(call).parameters][1:] == ["request"]


def _listed(served: tuple[list[str], list[str]]) -> str:
    """Return a hint at what a module has to serve."""
    names = sorted({*served[0], *served[1]})
    return f"It has {', '.join(names[:10])}." if names else ""


def _only(module: ModuleType) -> str:
    """Return the name of the app or the only agent of a module. Raise `SettingsError` if nobody could tell which."""
    apps, agents = _served(module)
    for usual in USUAL:
        if usual in apps:
            return usual
    found = apps or agents
    if len(found) == 1:
        return found[0]
    if not found:
        raise SettingsError(f"The module {module.__name__!r} has no app, and no agent: {RIGHT}.")
    choices = ", ".join(f"{module.__name__}:{name}" for name in found[:10])
    raise SettingsError(
        f"The module {module.__name__!r} has several {'apps' if apps else 'agents'}. Name one: {choices}."
    )


def _own(found: Any) -> Litestar | None:
    """Return the app that this is if Twinwire has made it, and nothing is around it."""
    if "litestar" not in sys.modules or isinstance(found, type):
        return None
    from litestar import Litestar

    from twinwire.web.twinwire import Twinwire

    app = found.app if isinstance(found, Twinwire) else found
    return app if isinstance(app, Litestar) and hasattr(app.state, "service") else None


def _is_asgi(found: Any) -> bool:
    """Return whether this is called as an ASGI app is: with a scope, a receive and a send."""
    return callable(found) and not isinstance(found, type) and required(found) == 3


def _within(target: str, new: Sequence[Service]) -> Sequence[Service]:
    """Return the services of the Twinwire apps in an app: those made while its module was loaded."""
    if not new:
        raise SettingsError(
            f"The app {target!r} has no Twinwire in it. Mount `twinwire.Twinwire(…)` in it, or serve it as it is with "
            f"another server: uvicorn {target}."
        )
    return new


def _check_flags(target: str, loaded: Target, settings: Settings, flags: Mapping[str, Any]) -> None:
    """Raise `SettingsError` for a flag that has no effect on what is served."""
    given = [name for name in Settings.__struct_fields__ if flags.get(name) is not None]
    defaults = "twinwire.agents.default" in sys.modules  # which `create_app` imports for the agents that it makes
    unread = set() if defaults else set(_OF_DEFAULTS)
    imported = vars(sys.modules["twinwire"])  # has a public name once somebody has used it
    if not (defaults or "OpenAIChatModel" in imported):
        unread |= _OF_MODEL
    for name in given:
        if name in unread:
            raise SettingsError(
                f"`{flag(name)}` has no effect on {target!r}, which takes no model or tools from the command line. "
                "Leave it out.",
                field=flag(name),
            )
        own = loaded.service.settings
        if name not in _COMMANDS | _OF_MODEL | _OF_DEFAULTS and getattr(own, name) != getattr(settings, name):
            raise SettingsError(
                f"`{flag(name)}` has no effect on {target!r}, which has settings of its own. Leave it out, or set "
                f"`{name}` there.",
                field=flag(name),
            )
