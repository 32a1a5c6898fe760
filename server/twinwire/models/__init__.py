"""The contract of a chat model: messages and tools in, batches of parts out, as the model gives them.

A model knows nothing of runs, logs or transports. `openai` asks any OpenAI-compatible server, `local` runs a GGUF
file on this machine, `demo` needs neither key nor network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypedDict, Unpack

from msgspec import Struct

from twinwire.models.adapters import PushStream, Take

Message = dict[str, Any]
"""One message of a conversation in OpenAI's chat form: `{"role", "content", "tool_calls"?, "tool_call_id"?}`."""

ToolSpec = dict[str, Any]
"""A tool as OpenAI's chat form tells it: `{"type": "function", "function": {"name", "description", "parameters"}}`."""


BYTES_PER_TOKEN = 4
"""The bytes of text in UTF-8 that are estimated to be a token, if no server has counted it."""


def bytes_of(text: str) -> int:
    """Return how many bytes a text has in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class Usage(Struct):
    """Tokens, as the model's server counted them; in an answer, those of this call so far.

    `cached_tokens` are some of the prompt's, `reasoning_tokens` some of the completion's. `estimated_tokens` are those
    that no server has counted, yet or at all: they count for a run's budget, and no event tells them. `voided_tokens`
    are those of calls that were cut off with the process that made them, counted or estimated, and in no other count.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated_tokens: int = 0
    voided_tokens: int = 0

    def add(self, other: Usage, before: Usage | None = None) -> None:
        """Add another call's tokens to these, without those that were added of it `before`."""
        for name in self.__struct_fields__:
            more = getattr(other, name) - (getattr(before, name) if before else 0)
            setattr(self, name, getattr(self, name) + more)

    @property
    def counted(self) -> int:
        """Return all tokens that a server counted; the total is computed if it was left out."""
        return max(self.total_tokens, self.prompt_tokens + self.completion_tokens)

    @property
    def spent(self) -> int:
        """Return all tokens that count for a budget."""
        return self.counted + self.estimated_tokens + self.voided_tokens

    @property
    def told(self) -> dict[str, int]:
        """Return the counts as a terminal event has them: those of parts, and void ones, only if there are any."""
        counts = {name: getattr(self, name) for name in ("prompt_tokens", "completion_tokens")}
        parts = {name: getattr(self, name) for name in ("cached_tokens", "reasoning_tokens", "voided_tokens")}
        return {**counts, "total_tokens": self.counted, **{name: count for name, count in parts.items() if count}}


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


Part = Text | Thinking | ToolCall | Usage | Finish
"""A `Usage` tells what a call has used before its end is known. Each is in the place of the one before."""


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


class Options(TypedDict, total=False):
    """Options by their names in OpenAI's API. None is as if it were left out."""

    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    max_completion_tokens: int | None
    reasoning_effort: str | None
    stop: str | Sequence[str] | None
    seed: int | None
    response_format: Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    headers: Mapping[str, str] | None
    query: Mapping[str, str] | None
    extra_body: Mapping[str, Any] | None
    stream_options: bool | None


class ShapedModel(ABC):
    """A `ChatModel` whose requests can be shaped: an agent may add options for one call, and see those that there are.

    `options` are the fields that go with each request, such as `max_tokens`.
    """

    name: str

    @property
    @abstractmethod
    def options(self) -> Mapping[str, Any]: ...  # noqa: D102 - see the class

    @abstractmethod
    def with_options(self, **options: Unpack[Options]) -> ShapedModel:
        """Return a model that is asked with these options too. `extra_body` are fields that have no option."""

    @abstractmethod
    def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> AsyncGenerator[Sequence[Part], None]:
        """See `ChatModel`."""


_patience: ContextVar[float | None] = ContextVar("patience", default=None)


@contextmanager
def patience(seconds: float | None) -> Iterator[None]:
    """In the block, and in tasks that begin in it, have a model be silent for so long; None for what it is made with.

    A model that was made with a `timeout` of its own keeps to that.
    """
    if seconds == _patience.get():  # mostly None: a context that has it is larger
        yield
        return
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


def patient(seconds: float) -> float:
    """Return how long a model may be silent here, which by its settings may be for so long."""
    return _patience.get() or seconds


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
