"""The check of an agent before any run: a callable of one parameter that is not plainly a blocking function."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

from twinwire.protocol.errors import SettingsError

RIGHT = "an async function with one parameter, the request, that yields, emits or returns"
_BLOCKING = re.compile(
    r"(?:typing\.|collections\.abc\.|builtins\.)?"
    r"(?:None|str|int|float|bool|bytes|[Dd]ict|[Ll]ist|[Tt]uple|Iterator|Iterable|Generator)\b"
)
"""The annotations of what a plain function returns that cannot be awaited, nor iterated over without blocking."""
_BOUND = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


def name_of(agent: Any) -> str:
    """Return the name that its author knows an agent by."""
    name = getattr(agent, "__name__", None) or getattr(agent, "name", None)
    return name if isinstance(name, str) else type(agent).__qualname__


def check_agent(agent: Any) -> None:
    """Raise `SettingsError` for what cannot be an agent: the message names it, and says what would be right."""
    name = name_of(agent)
    if inspect.isawaitable(agent) or inspect.isasyncgen(agent) or inspect.isgenerator(agent):
        if inspect.iscoroutine(agent):
            agent.close()  # nobody awaits it
        raise _wrong(f"The agent {name!r} must be a function, and is what a call of one gave. Leave its () out.")
    if isinstance(agent, type):
        raise _wrong(f"The agent {name!r} must be an instance or a function, and is a class. Call it once.")
    if not callable(agent):
        raise _wrong(f"An agent must be {RIGHT}, and not a value of the type {type(agent).__qualname__}.")
    function = _function(agent)
    if inspect.isgeneratorfunction(function):
        raise _wrong(
            f"The agent {name!r} is a generator that would block everybody else. "
            "It must be an `async def`, or run in a thread: twinwire.from_thread."
        )
    needed = required(agent)
    if needed is not None and needed != 1:
        takes = "no parameter" if needed == 0 else f"{needed} parameters"
        raise _wrong(f"The agent {name!r} must take one parameter, the request, and takes {takes}.")
    if function is agent and _blocks(agent):
        raise _wrong(
            f"The agent {name!r} is a plain `def` that would block everybody else. "
            "It must be an `async def`, or run in a thread: twinwire.from_thread."
        )


def _wrong(message: str) -> SettingsError:
    return SettingsError(message, field="agents")


def _function(agent: Any) -> Any:
    """Return the function that a call of the agent ends in, as far as that can be seen."""
    while isinstance(agent, functools.partial):
        agent = agent.func
    if not (inspect.isroutine(agent) or inspect.isbuiltin(agent)):
        agent = type(agent).__call__
    return inspect.unwrap(agent)


def required(target: Any) -> int | None:
    """Return how many arguments a callable must be given, 1 if it needs none and takes one; None if nobody knows."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return None
    needed = sum(each.default is each.empty and each.kind in _BOUND for each in parameters)
    needed += sum(each.default is each.empty and each.kind is each.KEYWORD_ONLY for each in parameters)
    room = any(each.kind in {*_BOUND, each.VAR_POSITIONAL} for each in parameters)
    return 1 if needed == 0 and room else needed


def _blocks(function: Any) -> bool:
    """Return whether a plain function returns what can be neither awaited nor iterated over.

    A function without an annotation is taken for one, unless it is a lambda or passes any arguments on.
    """
    if not inspect.isfunction(getattr(function, "__func__", function)) or function.__name__ == "<lambda>":
        return False
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return False
    signature = inspect.signature(function)
    if any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values()):
        return False
    told = signature.return_annotation
    if told is signature.empty:
        return True
    text = told if isinstance(told, str) else inspect.formatannotation(told)
    return _BLOCKING.match(text) is not None
