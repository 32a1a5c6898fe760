"""A run's side of questions and messages, played by a test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

from twinwire.agents.talk import Call, Decision, Said
from twinwire.models import ToolCall


class Box:
    """Messages that nobody has read."""

    def __init__(self, *contents: str) -> None:
        self.unread: list[Said] = []
        self.say(*contents)

    def say(self, *contents: str) -> None:
        """Say these to the run."""
        self.unread += [Said(content, f"m{number}") for number, content in enumerate(contents)]

    def drain(self) -> list[Said]:
        said, self.unread = self.unread, []
        return said

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Said:
        raise StopAsyncIteration


class PlayedTalk:
    """A `Talk` that gives each question to `reply`, in the form of (prompt, schema) or a Call, and counts the open."""

    can_ask = True

    def __init__(self, reply: Callable[[Any], Awaitable[Any]] | None = None, *, said: Sequence[str] = ()) -> None:
        self.messages = Box(*said)
        self.asked: list[Any] = []
        self.open = 0
        self._reply = reply

    async def ask(self, prompt: str, schema: Mapping[str, Any] | None, timeout: float | None) -> Any:  # noqa: ARG002
        return await self._answer((prompt, schema))

    async def approve(self, call: Call | ToolCall, prompt: str, timeout: float | None) -> Decision:  # noqa: ARG002
        decision = await self._answer(call)
        assert isinstance(decision, Decision)
        return decision

    async def _answer(self, question: Any) -> Any:
        assert self._reply is not None
        self.asked.append(question)
        self.open += 1
        try:
            return await self._reply(question)
        finally:
            self.open -= 1


async def yes(call: Call) -> Decision:
    """Approve the call as it is."""
    return Decision(True, call.parameters)
