"""The Tool interface and the ToolRegistry, which runs a call so that whatever a tool does becomes a result."""

from __future__ import annotations

import asyncio
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from inspect import iscoroutinefunction
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import msgspec
from msgspec import Struct

from twinwire.fence import Fence
from twinwire.telemetry import tracing

logger = logging.getLogger("twinwire.tools")


P = TypeVar("P", bound=Struct)

Approval: TypeAlias = bool | Callable[[Mapping[str, Any]], bool]
"""True if a tool's calls need the user's approval, or a function that says it of one call's parameters."""

Effects: TypeAlias = Literal["none", "idempotent", "once"]
"""The effects that a tool's calls have on the world; see `Tool.effects`."""

_key: ContextVar[str] = ContextVar("call_key")


def call_key() -> str:
    """Return the key of the call that the running tool makes, to give to a service as its idempotency key.

    The key is the same if another process makes the call again. No other call has it, in this run or another. It is 32
    hexadecimal digits, and tells nothing of the run. Raises `LookupError` outside of `Tool.run`.
    """
    if (key := _key.get(None)) is None:
        raise LookupError("`call_key` must be called within the `run` of a tool.")
    return key


class ToolError(Exception):
    """A tool's failure, told to the model and to followers in these words: no secret, no path outside the project."""


class ToolResult(Struct, frozen=True):
    """The outcome of a call: the text for the model, and whether it is a result or an error."""

    text: str
    status: Literal["ok", "error"]


class Tool(ABC):
    """One tool. `parameters` is the JSON Schema of the object that `run` takes.

    `effects` decides about a call during which the process of its run has ended. The process that goes on with the run
    makes the call again if the `effects` are `none` (the tool only reads) or `idempotent` (with the same `call_key` it
    takes effect once). It does not if they are `once`, since the call may have taken effect: the model is told that
    nobody knows. `approval` is what `ToolRegistry.register_tool` is given if it is not told otherwise.
    """

    name: str
    description: str
    parameters: Mapping[str, Any] = {"type": "object", "properties": {}}
    effects: Effects = "once"
    approval: Approval = False

    @abstractmethod
    async def run(self, parameters: Mapping[str, Any]) -> str:
        """Make the call. `parameters` come from a model: check them. Raise `ToolError`. The call may be cancelled."""

    @property
    def spec(self) -> dict[str, Any]:
        """The tool in OpenAI's chat form."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


def schema(parameters: type[Struct]) -> dict[str, Any]:
    """Return the JSON Schema of a Struct without inner Structs, for `Tool.parameters`."""
    _, components = msgspec.json.schema_components([parameters])
    return {key: value for key, value in components[parameters.__name__].items() if key not in {"title", "description"}}


def parse(parameters: Mapping[str, Any], into: type[P]) -> P:
    """Return a model's parameters as a Struct. Raise `ToolError`, which names the one that is wrong."""
    try:
        return msgspec.convert(parameters, into)
    except msgspec.ValidationError as error:
        raise ToolError(f"The parameters are not valid: {error}.") from None


class ToolRegistry:
    """The tools of an agent, by name."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}
        self._approvals: dict[str, Approval] = {}
        self._left: set[asyncio.Task[ToolResult]] = set()

    def register_tool(self, tool: Tool, *, approval: Approval | None = None) -> None:
        """Add a tool. Raise `ValueError` if its name is taken, or its `effects` are none of the three.

        Raise `TypeError` for what is no tool, and if `approval` is of no use.

        `approval` is True if the user must approve each call before it is run, or a function that takes a call's
        parameters and returns that; None is the tool's own. It is called on the event loop. If it raises, the user is
        asked.
        """
        if not isinstance(tool, Tool):
            raise TypeError(f"A tool must be a `Tool`, not {tool!r}. `twinwire.tool` makes one of a function.")
        approval = tool.approval if approval is None else approval
        if tool.name in self._tools:
            raise ValueError(f"A tool named {tool.name!r} is registered already.")
        if tool.effects not in get_args(Effects):
            raise ValueError(
                f"The `effects` of the tool {tool.name!r} must be `none`, `idempotent` or `once`, not {tool.effects!r}."
            )
        if not callable(approval) and not isinstance(approval, bool):
            raise TypeError("`approval` must be True, False or a function of the parameters.")
        if iscoroutinefunction(approval):
            raise TypeError("`approval` must be an ordinary function, not a coroutine function.")
        self._tools[tool.name] = tool
        self._approvals[tool.name] = approval

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def get(self, name: str) -> Tool | None:
        """Return the tool of this name, if there is one."""
        return self._tools.get(name)

    def unknown(self, name: str) -> str:
        """Return what a model is told that calls a tool of this name, which there is not."""
        return f"There is no tool named {name!r}. The tools are: {', '.join(self._tools) or 'none'}."

    def effects(self, name: str) -> Effects:
        """Return the effects of a tool's calls: of one that is not registered (any more) they may be anything."""
        tool = self._tools.get(name)
        return "once" if tool is None else tool.effects

    def needs_approval(self, name: str, parameters: Mapping[str, Any]) -> bool:
        """Return whether the user must approve this call before `call` runs it: the agent asks. Never raises."""
        approval = self._approvals.get(name, False)
        if isinstance(approval, bool):
            return approval
        with Fence(logger, "The approval function of the tool %s failed.", name):
            return bool(approval(parameters))
        return True

    @property
    def specs(self) -> list[dict[str, Any]]:
        """All tools in OpenAI's chat form."""
        return [tool.spec for tool in self]

    @staticmethod
    def parse_arguments(text: str) -> dict[str, Any]:
        """Return the parameters in a model's `arguments` text, none for an empty one. Raise `ToolError`."""
        try:
            parameters = msgspec.json.decode(text or "{}")
        except (ValueError, RecursionError):
            raise ToolError("The call's arguments must be valid JSON.") from None
        if not isinstance(parameters, dict):
            raise ToolError("The call's arguments must be a JSON object.")
        return parameters

    async def call(
        self, name: str, parameters: Mapping[str, Any], timeout: float, *, call_id: str = "", key: str = ""
    ) -> ToolResult:
        """Run one call for at most `timeout` seconds. Never raises but when cancelled itself.

        A tool that is late, or whose caller is cancelled, is cancelled and not waited for: it may not stop. `call_id`
        is the model's, for the call's span. `key` is the call's `call_key`, by default a random one.
        """
        tool = self._tools.get(name)
        if tool is None:
            return ToolResult(self.unknown(name), "error")
        span = tracing.current.get().tool(name, call_id)
        with span:
            task = asyncio.create_task(_run(name, tool, parameters, key or secrets.token_hex(16)))
        try:
            await asyncio.wait({task}, timeout=timeout)
        except asyncio.CancelledError:
            self._leave(task)
            span.end("cancelled")
            raise
        if not task.done():
            self._leave(task)
            span.end("timeout")
            return ToolResult(f"The tool {name} did not finish in {timeout:g} s.", "error")
        result = ToolResult(f"The tool {name} failed.", "error") if task.cancelled() else task.result()
        span.end(None if result.status == "ok" else "tool_error")
        return result

    def _leave(self, task: asyncio.Task[ToolResult]) -> None:
        """Cancel a tool and keep it until it stops. Nobody reads its result."""
        self._left.add(task)
        task.add_done_callback(self._left.discard)
        task.cancel()


async def _run(name: str, tool: Tool, parameters: Mapping[str, Any], key: str) -> ToolResult:
    """Run a tool within the fence. Raise only if this task is cancelled."""
    _key.set(key)  # in this task's context
    with Fence(logger, "The tool %s failed.", name):
        try:
            text = await tool.run(parameters)
        except ToolError as error:
            return ToolResult(str(error), "error")
        if not isinstance(text, str):
            raise TypeError(f"A tool's result must be a str, not {type(text).__name__}.")
        return ToolResult(str.__str__(text), "ok")  # of a subclass, the text alone
    return ToolResult(f"The tool {name} failed.", "error")
