"""The conversation that a model is asked with, as an agent looks at it. What a message holds is the model's to read."""

from __future__ import annotations

from collections.abc import Sequence

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
