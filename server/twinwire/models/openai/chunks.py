"""The body of a streamed chat completion, as OpenAI's protocol has it: bytes in, the parts of `models` out.

Pure: no I/O, no clock. It splits Server-Sent Events (WHATWG HTML 9.2.6) at any byte, decodes each chunk's JSON and puts
tool calls together from their deltas. What a broken connection or a refused request means is `openai`'s.
"""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from twinwire.models import Finish, Part, Text, Thinking, ToolCall, Usage
from twinwire.models.openai.alike import MAX_MISSES, AlikeEvents
from twinwire.protocol.errors import UpstreamError

MAX_EVENT = 32 * 2**20
"""The size of one event, in bytes, above which it is refused: what is not whole yet must be kept."""

_BOM = b"\xef\xbb\xbf"


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _CallDelta(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_CallDelta] | None = None


class _Choice(Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    error: Any = None


class _Call(Struct):
    """A tool call that is being put together."""

    id: str | None
    name: str
    arguments: list[str]


_decode = msgspec.json.Decoder(_Chunk).decode


def _garbage(what: str) -> UpstreamError:
    return UpstreamError(f"The model's server sent {what}.", code="upstream_garbage")


def _decode_chunk(data: bytes) -> _Chunk:
    try:
        return _decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass
    try:  # a lone surrogate is JSON (RFC 8259, section 8.2), but msgspec refuses it
        return _decode(json.dumps(json.loads(data), ensure_ascii=False).encode("utf-8", "replace"))
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise _garbage("something that is not a chunk of a chat completion") from None


def _whole_events(data: bytes) -> list[bytes]:
    """Return the data of these events if each is a whole one of one line, as nearly always; else nothing.

    A fast path around `ChunkDecoder._split`, which takes any bytes.
    """
    if data.startswith(b"data: {") and data.endswith(b"}\n\n") and b"\r" not in data and b"[DONE]" not in data:
        events = data[6:-2].split(b"\n\ndata: ")
        if data.count(b"\n") == 2 * len(events):
            return events
    return []


class ChunkDecoder:
    """One call's body. `feed` it what is read until `done`; where the body ends before that, take `end`.

    `reason` is the finish_reason once it has come: from then on the answer is whole, whatever happens to the body.
    """

    __slots__ = (
        "_after_cr",
        "_alike",
        "_calls",
        "_data",
        "_first",
        "_line",
        "_open",
        "_torn",
        "_usage",
        "done",
        "reason",
    )

    def __init__(self) -> None:
        self.done = False
        self.reason: str | None = None
        self._alike: AlikeEvents | None = AlikeEvents()
        self._torn = False  # the bytes so far may end within an event
        self._usage: Usage | None = None
        self._calls: list[_Call] = []
        self._open: dict[int | None, _Call] = {}
        self._line = bytearray()
        self._data = bytearray()
        self._first = True
        self._after_cr = False

    def feed(self, data: bytes) -> list[Part]:
        """Return the parts that these bytes complete, each delta a part of its own; at `[DONE]` also those of `end`.

        What follows `[DONE]` is ignored. Raises `UpstreamError`: `upstream_garbage` for what is no chunk,
        `upstream_error` for an error object, and as `end`.
        """
        if self._torn:
            return self._split(data)
        alike = self._alike
        if alike is not None and (text := alike.text(data)):
            return [Text(text)]
        events = _whole_events(data)
        if not events:
            return self._split(data)
        self._first = False
        parts: list[Part] = []
        for event in events:
            self._add(_decode_chunk(event), parts)
        if alike is not None and len(events) == len(parts) == 1 and isinstance(parts[0], Text):
            alike.learn(data, parts[0].text, _sole_text)
            if alike.misses >= MAX_MISSES:
                self._alike = None
        return parts

    def _split(self, data: bytes) -> list[Part]:
        """Take bytes that may begin, end or be torn anywhere."""
        parts: list[Part] = []
        if self._after_cr and data:
            data = data.removeprefix(b"\n")  # the other half of a CRLF
            self._after_cr = False
        if not data:
            return parts
        self._torn = True
        self._after_cr = data.endswith(b"\r")
        ended = data.endswith((b"\n", b"\r"))
        lines = data.splitlines()
        self._line += lines[0]
        if len(lines) > 1 or ended:
            lines[0] = bytes(self._line)
            self._line = bytearray() if ended else bytearray(lines.pop())
            for line in lines:
                self._take(line, parts)
                if self.done:
                    return parts
        self._torn = bool(self._line or self._data or self._after_cr)
        if len(self._data) + len(self._line) > MAX_EVENT:
            raise _garbage(f"an event of more than {MAX_EVENT >> 20} MiB")
        return parts

    def end(self) -> list[Part]:
        """Return the tool calls and the `Finish`. Raises `UpstreamError`: `upstream_truncated` without a reason."""
        if self.reason is None:
            raise UpstreamError("The model's answer broke off.", code="upstream_truncated")
        self.done = True
        calls = [
            ToolCall(call.id or f"call_{uuid.uuid4().hex}", call.name, "".join(call.arguments)) for call in self._calls
        ]
        return [*calls, Finish(self.reason, self._usage)]

    def _take(self, line: bytes, parts: list[Part]) -> None:
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data += value.removeprefix(b" ") + b"\n"
        elif self._data:
            data = bytes(self._data[:-1])
            self._data.clear()
            if data == b"[DONE]":
                parts += self.end()
            elif data:
                self._add(_decode_chunk(data), parts)

    def _add(self, chunk: _Chunk, parts: list[Part]) -> None:
        if chunk.error is not None:
            raise UpstreamError("The model's server reported an error in the middle of its answer.")
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices or ():
            self.reason = choice.finish_reason or self.reason
            delta = choice.delta
            if delta is None:
                continue
            if reasoning := delta.reasoning_content or delta.reasoning:
                parts.append(Thinking(reasoning))
            if delta.content:
                parts.append(Text(delta.content))
            for call in delta.tool_calls or ():
                self._add_call(call)

    def _add_call(self, delta: _CallDelta) -> None:
        """Servers differ: an index may be missing or shared by several calls, an id missing, late or new each time."""
        function = delta.function or _Function()
        call = self._open.get(delta.index)
        if call is not None and function.name:
            same = delta.id == call.id if delta.id and call.id else delta.index is not None
            call = call if same else None
        if call is None:
            call = self._open[delta.index] = _Call(None, "", [])
            self._calls.append(call)
        call.id = call.id or delta.id
        call.name = call.name or function.name or ""
        if function.arguments:
            call.arguments.append(function.arguments)


def _sole_text(data: bytes) -> str:
    """Return the text of a chunk, if that is all that comes of it."""
    decoder, parts = ChunkDecoder(), list[Part]()
    with suppress(UpstreamError):
        decoder._add(_decode_chunk(data), parts)
        if decoder.reason is None and decoder._usage is None and not decoder._calls:
            return "".join(part.text for part in parts if isinstance(part, Text)) if len(parts) == 1 else ""
    return ""
