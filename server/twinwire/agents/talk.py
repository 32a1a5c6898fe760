"""Questions, approvals and messages between an agent and the run's user while the run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

from msgspec import Struct

from twinwire.models import ToolCall
from twinwire.protocol.errors import InputNotPossible


class Call(Struct, frozen=True):
    """A tool call that is to be approved: its `id`, the tool's `name` and its `parameters`, a JSON object."""

    id: str
    name: str
    parameters: dict[str, Any]


class Decision(Struct, frozen=True):
    """A user's decision about a tool call: the `parameters` to call it with, or the `reason` why not, if there is one.

    `parameters` are those that were asked about, unless the user has edited them.
    """

    approved: bool
    parameters: dict[str, Any]
    reason: str | None = None


class Said(Struct, frozen=True):
    """A message of the user's to a run that goes on; `by` is the user, if that is known."""

    content: str
    message_id: str
    by: str | None = None


class Messages(Protocol):
    """The messages to a run that its agent has not read: `drain` them between steps, or iterate to wait for each."""

    def drain(self) -> list[Said]:
        """Return those that are there, oldest first; they are read then."""
        ...

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Said:
        """Wait for the next one. It never ends by itself: the run's end cancels the agent."""
        ...


class Talk(Protocol):
    """A run's side of it; see `RunRequest.ask`, `approve`, `messages` and `can_ask`."""

    can_ask: bool

    @property
    def messages(self) -> Messages:
        """See `RunRequest.messages`."""
        ...

    async def ask(self, prompt: str, schema: Mapping[str, Any] | None, timeout: float | None) -> Any:
        """See `RunRequest.ask`."""
        ...

    async def approve(self, call: Call | ToolCall, prompt: str, timeout: float | None) -> Decision:
        """See `RunRequest.approve`."""
        ...


class _NoMessages:
    """Nobody says anything to a request that is of no run."""

    def drain(self) -> list[Said]:
        return []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Said:
        raise StopAsyncIteration


class _Silent:
    """A request that is of no run, or of one that has ended: nobody could answer."""

    can_ask = False
    messages: Messages = _NoMessages()

    async def ask(self, prompt: str, schema: Mapping[str, Any] | None, timeout: float | None) -> Any:  # noqa: ARG002
        raise InputNotPossible

    async def approve(self, call: Call | ToolCall, prompt: str, timeout: float | None) -> Decision:  # noqa: ARG002
        raise InputNotPossible


silent: Talk = _Silent()
