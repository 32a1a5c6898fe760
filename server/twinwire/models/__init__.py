"""The contract of a chat model: messages and tools in, batches of parts out, as the model gives them.

A model knows nothing of runs, logs or transports. `openai` asks any OpenAI-compatible server, `local` runs a GGUF
file on this machine, `demo` needs neither key nor network.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from msgspec import Struct

from twinwire.models.adapters import PushStream, Take

Message = dict[str, Any]
"""One message of a conversation in OpenAI's chat form: `{"role", "content", "tool_calls"?, "tool_call_id"?}`."""

ToolSpec = dict[str, Any]
"""A tool as OpenAI's chat form tells it: `{"type": "function", "function": {"name", "description", "parameters"}}`."""


class Usage(Struct):
    """Tokens, as the model's server counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    def add(self, other: Usage) -> None:
        """Add another call's tokens to these."""
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.total_tokens += other.total_tokens


class Text(Struct, frozen=True):
    """An increment of the answer."""

    text: str


class Thinking(Struct, frozen=True):
    """An increment of the model's reasoning."""

    text: str


class ToolCall(Struct, frozen=True):
    """A whole tool call, put together from its deltas; `arguments` is the text the model wrote, JSON if it is well.

    `state` is what else the server sent with it: the next request gives it back, unread, with the call.
    """

    id: str
    name: str
    arguments: str
    state: dict[str, Any] = {}


class Finish(Struct, frozen=True):
    """The end of one call: `reason` is `stop`, `length`, `tool_calls`, `content_filter` or the server's own word.

    It is `unknown` if the server gave none but ended its answer. `state` is what else the server sent with its message,
    such as `reasoning_content`: the next request gives it back, unread, with the message.
    """

    reason: str
    usage: Usage | None = None
    state: dict[str, Any] = {}


Part = Text | Thinking | ToolCall | Finish


class ChatModel(Protocol):
    """A model that answers one call at a time; it may serve many calls at once."""

    name: str

    def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> AsyncGenerator[Sequence[Part], None]:
        """One call of the model.

        Yields what came in one read as one batch, never an empty one; the very last part is a `Finish`.
        Closing the generator ends the call at once, upstream too. Raises `errors.UpstreamError`.
        """
        ...


async def ask(
    model: ChatModel, messages: Sequence[Message], tools: Sequence[ToolSpec], take: Take[Sequence[Part]]
) -> None:
    """Call the model once and give its batches to `take`. Cancelling this ends the call at once, upstream too.

    This alone decides how: our own models return a `PushStream`, which is not iterated over.
    """
    stream = model.stream(messages, tools)
    if isinstance(stream, PushStream):
        await stream.for_each(take)
        return
    async with aclosing(stream) as batches:
        async for batch in batches:
            if (room := take(batch)) is not None:
                await room
