"""`tool`: a function as a tool. The types of its parameters make the schema, and its docstring is the description."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Union, get_type_hints, overload

import msgspec
from msgspec import NODEFAULT, UNSET, Struct, UnsetType

from twinwire.agents import RunRequest
from twinwire.agents.threads import Threads
from twinwire.protocol.events import dump
from twinwire.tools.base import Approval, Effects, Tool, ToolRegistry, parse

THREADS = 32
"""The calls of one blocking function that run at once. Further calls wait for one to end."""

asking: ContextVar[RunRequest] = ContextVar("asking")
"""The request of the run that makes the running tool's call."""


def call_request() -> RunRequest:
    """Return the request of the run that calls the running tool: its user, its labels, and `emit`.

    Raises `LookupError` outside of a call that an agent makes.
    """
    if (request := asking.get(None)) is None:
        raise LookupError("`call_request` must be called within a tool that an agent calls.")
    return request


@overload
def tool(
    function: Callable[..., Any],
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    effects: Effects = "once",
    approval: Approval = False,
) -> FunctionTool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    effects: Effects = "once",
    approval: Approval = False,
) -> Callable[[Callable[..., Any]], FunctionTool]: ...
def tool(function: Callable[..., Any] | None = None, /, **how: Any) -> Any:
    """Return a function as a tool, or a decorator that does. A model calls it with what its parameters are named.

    The parameters have type hints, which msgspec knows: `int`, `str | None`, `list[...]`, `Literal[...]`, dataclasses,
    `Annotated[int, msgspec.Meta(ge=1, description="...")]`. One without a default is required. One of the type
    `RunRequest` gets the request of the run, and the model does not know of it. By default `name` is the function's,
    and `description` its docstring. For `effects` see `Tool`, and for `approval` `ToolRegistry.register_tool`.

    What the function returns is the result: a text, or anything that JSON can hold. It raises `ToolError` for a failure
    that the model is to know of. A coroutine function may emit events through its `RunRequest`, such as `Progress`. A
    plain one runs in a thread of its own, at most `THREADS` at once, and cannot be interrupted: a call that was
    cancelled, or is late, keeps its thread until it returns.

    Raises `TypeError` for what cannot be a tool, and names the parameter.
    """
    if function is None:
        return lambda found: FunctionTool(found, **how)
    return FunctionTool(function, **how)


class FunctionTool(Tool):
    """A function as a tool; see `tool`. It can still be called as the function that it is."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        effects: Effects = "once",
        approval: Approval = False,
    ) -> None:
        if not (inspect.isfunction(function) or inspect.ismethod(function)):
            raise TypeError(f"A tool must be a function, not {function!r}.")
        self.function = function
        self.name = name or function.__name__
        self.description = inspect.getdoc(function) or "" if description is None else description
        self.effects = effects
        self.approval = approval
        self._is_async = inspect.iscoroutinefunction(function)
        self._threads = Threads(THREADS)
        fields, self._requests = _parameters(self.name, function)
        self._shape: type[Struct] = msgspec.defstruct("Parameters", fields, kw_only=True, forbid_unknown_fields=True)
        try:
            self.parameters = _schema(self._shape)
        except TypeError as error:
            raise TypeError(
                f"The parameters of the tool {self.name} must have types that msgspec knows: {error}."
            ) from None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function itself."""
        return self.function(*arguments, **named)

    async def run(self, parameters: Mapping[str, Any]) -> str:
        """See `Tool`."""
        given = parse(parameters, self._shape)
        named = {name: value for name in self._shape.__struct_fields__ if (value := getattr(given, name)) is not UNSET}
        named |= {name: call_request() for name in self._requests}
        result = await (self.function(**named) if self._is_async else self._in_thread(named))
        return result if isinstance(result, str) else dump(result).decode()

    async def _in_thread(self, named: Mapping[str, Any]) -> Any:
        """Call the function in a thread, which nobody waits for once this is cancelled."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

        def end(value: Any, error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result((value, error))

        def work() -> None:
            value, failure = None, None
            try:
                value = self.function(**named)
            except BaseException as error:  # noqa: BLE001 - it is the tool's, and raised in its call
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(end, value, failure)

        await self._threads.start(work, f"tool {self.name}")
        value, failure = await ended
        if failure is not None:
            raise failure
        return value


def _parameters(name: str, function: Any) -> tuple[list[tuple[str, Any, Any]], list[str]]:
    """Return the fields that the model gives, and the parameters that get the run's request. Raise `TypeError`."""
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"The tool {name} must return its result. It may emit events, and yields none.")
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"The type hints of the tool {name} must be names of its module: {error}.") from None
    fields, requests = [], []
    for each in inspect.signature(function).parameters.values():
        if each.kind not in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}:
            raise TypeError(f"The parameter `{each.name}` of the tool {name} must be one that is given by its name.")
        if each.name not in hints:
            raise TypeError(f"The parameter `{each.name}` of the tool {name} must have a type hint.")
        if hints[each.name] is RunRequest:
            requests.append(each.name)
        else:
            hint, required = hints[each.name], each.default is each.empty
            optional: Any = Union[hint, UnsetType]  # noqa: UP007 - `|` is not for any hint
            fields.append((each.name, hint, NODEFAULT) if required else (each.name, optional, UNSET))
    return fields, requests


def _schema(shape: type[Struct]) -> dict[str, Any]:
    """Return the JSON Schema of the tool's parameters, an object; the shapes that they name are in its `$defs`."""
    schema = msgspec.json.schema(shape)
    inner = schema["$defs"]
    own = inner.pop(schema["$ref"].rpartition("/")[2])
    own.pop("title", None)
    return {**own, "$defs": inner} if inner else own


def registry_of(tools: ToolRegistry | Iterable[Tool | Callable[..., Any]] | None) -> ToolRegistry:
    """Return these tools as a registry; functions become tools. Raises as `tool` and `register_tool`."""
    if isinstance(tools, ToolRegistry):
        return tools
    registry = ToolRegistry()
    for each in tools or ():
        registry.register_tool(each if isinstance(each, Tool) else tool(each))
    return registry
