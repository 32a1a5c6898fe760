"""The conversation that a model is asked with, as an agent looks at it. What a message holds is the model's to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twinwire.models import BYTES_PER_TOKEN, Message, ToolSpec, bytes_of
from twinwire.protocol.events import dump


def estimated(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> int:
    """Return the tokens of a request, estimated from its texts, calls and tools. Images and the like count nothing."""
    size = len(dump(tools)) if tools else 0
    for message in messages:
        content, calls = message.get("content"), message.get("tool_calls")
        for part in content if isinstance(content, list) else [content]:
            text = part.get("text") if isinstance(part, dict) else part
            size += bytes_of(text) if isinstance(text, str) else 0
        size += len(dump(calls)) if calls else 0
    return size // BYTES_PER_TOKEN


def without_calls(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation with its calls and their results told as texts.

    A request without tools must have neither: Anthropic, Bedrock and LiteLLM refuse it.
    """
    told: list[Message] = []
    names: dict[str, str] = {}
    results: list[Any] = []  # of the calls of one message; they become one message
    for message in [*messages, None]:
        if message is not None and message.get("role") == "tool":
            call = str(message.get("tool_call_id"))
            results += [f"The result of {names.get(call, call)}:", message.get("content")]
            continue
        if results:
            told.append({"role": "user", "content": _joined(results)})
            results = []
        if message is not None and (calls := message.get("tool_calls")):
            asked = []
            for call in calls:
                function = call.get("function") or {}
                name = names[str(call.get("id"))] = str(function.get("name"))
                asked.append(f"I call {name} with {function.get('arguments')}.")
            told.append({"role": "assistant", "content": _joined([message.get("content"), *asked])})
        elif message is not None:
            told.append(message)
    return told


def _joined(contents: Iterable[Any]) -> str | list[Any]:
    """Return contents of messages as one: a text if all are texts, else a list of parts."""
    known = [content for content in contents if content]
    if all(isinstance(content, str) for content in known):
        return "\n\n".join(known)
    parts = ([{"type": "text", "text": content}] if isinstance(content, str) else content for content in known)
    return [part for content in parts for part in content]
