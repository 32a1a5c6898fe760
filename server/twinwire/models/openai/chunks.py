"""The body of a streamed chat completion, as OpenAI's protocol has it: bytes in, the parts of `models` out.

Pure: no I/O, no clock. `sse` splits the bytes into events, `fields` reads the values, and `calls` puts tool calls
together. What a broken connection or a refused request means is `model`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from twinwire.models import BYTES_PER_TOKEN, Finish, Part, Text, Thinking, Usage
from twinwire.models.openai.calls import Calls
from twinwire.models.openai.failures import garbage, reported
from twinwire.models.openai.fields import index_of, is_said, joined, mended, name_of, text_of, thinking_of, usage_of
from twinwire.models.openai.sse import Event, EventSplitter
from twinwire.models.openai.texts import MAX_MISSES, AlikeEvents, plain_text
from twinwire.protocol.errors import UpstreamError

MAX_EVENT = 32 * 2**20
"""The size of one event, in bytes, above which it is refused: what is not whole yet must be kept.

It is also the bound of all events of an answer that bring calls or a state, since these are kept until its end.
"""

CALLS_TOLD = 1024
"""The bytes of tool calls' arguments after which an estimate of their tokens is told: the calls come at the end."""

REASONS = {
    "stop": "stop end complete completed done eos eos_token end_turn stop_sequence finish finished",
    "length": "length max_tokens max_length max_output_tokens model_length token_limit incomplete",
    "content_filter": "content_filter content_filtered safety recitation blocklist prohibited_content spii refusal "
    "sensitive guardrail_intervened image_safety language",
    "tool_calls": "tool_calls tool_call tool_use function_call function_calls",
    "error": "error failed network_error internal_error insufficient_system_resource malformed_function_call "
    "unexpected_tool_call abort aborted cancelled canceled timeout",
}
"""The words of servers for the reasons of OpenAI's protocol, and for an error. Any other word is a reason too."""

_REASON = {word: reason for reason, words in REASONS.items() for word in words.split()}
_NONE = {"", "null", "none", "undefined"}
_BLANK = b" \t\r\n\xef\xbb\xbf"
_READ = {"role", "content", "refusal", "tool_calls", "function_call"}
_REASONING = ("reasoning_content", "reasoning")

_decode = msgspec.json.Decoder().decode


def _truncated(message: str) -> UpstreamError:
    return UpstreamError(message, code="upstream_truncated")


def _json(data: bytes) -> Any:
    """Return what an event's data are. A lone surrogate is JSON (RFC 8259, section 8.2), but msgspec refuses it."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise garbage("something that is not a chunk of a chat completion") from None


class ChunkDecoder:
    """One call's body. `feed` it what is read until `done`; if the body ends before that, take `end`.

    Both return parts, and raise nothing: `error` is the `UpstreamError` that has ended the answer after these parts, if
    any. `reason` is the finish_reason, as long as nothing has come after it: with it the answer is whole, whatever
    happens to the body.

    A `Usage` is among the parts if it comes before the reason or if the answer fails; else the `Finish` has it.
    """

    __slots__ = (
        "_alike",
        "_begun",
        "_calls",
        "_calls_told",
        "_document",
        "_events",
        "_halves",
        "_index",
        "_kept",
        "_refused",
        "_said",
        "_seen",
        "_state",
        "_usage",
        "done",
        "error",
        "reason",
    )

    def __init__(self) -> None:
        self.done = False
        self.error: UpstreamError | None = None
        self.reason: str | None = None
        self._alike: AlikeEvents | None = AlikeEvents()
        self._begun = False
        self._document: bytearray | None = None  # of a body that is no event stream
        self._events = EventSplitter()
        self._seen = False  # a chunk of a chat completion
        self._said = False  # a part of an answer
        self._refused = False
        self._index: int | None = None  # of the choice that is read
        self._halves: dict[type[Text | Thinking], str] = {Thinking: "", Text: ""}  # the first half of a surrogate pair
        self._usage: Usage | None = None
        self._calls = Calls()
        self._calls_told = 0  # bytes
        self._state: list[dict[str, Any]] = []
        self._kept = 0

    def feed(self, data: bytes) -> list[Part]:
        """Return the parts that these bytes complete, each delta a part of its own; at `[DONE]` also those of `end`.

        What follows `[DONE]` is ignored. The `error` is `upstream_garbage` for what is no chunk, one that the server
        reports in its answer, or one of `end`.
        """
        if not (self.reason or self._halves[Text] or self._events.torn or self._document):
            alike = self._alike
            if alike is not None and (text := alike.text(data)):
                return [Text(text)]
            if (plain := plain_text(data)) is not None:
                text, index = plain
                self._begun = self._seen = True
                if self._index is None:
                    self._index = index
                if index != self._index or not text:
                    return []
                self._said = True
                if alike is not None:
                    alike.learn(data, text, index)
                    if alike.misses >= MAX_MISSES:
                        self._alike = None
                return [Text(text)]
        return self._guarded(self._feed, data)

    def end(self) -> list[Part]:
        """Return the last text, the tool calls and the `Finish`.

        The `error` is `upstream_truncated` if there is no reason, or not what the reason says.
        """
        return self._guarded(self._end)

    def _guarded(self, step: Callable[..., None], *data: bytes) -> list[Part]:
        parts: list[Part] = []
        try:
            step(parts, *data)
        except UpstreamError as error:
            self.error = error
        except (TypeError, ValueError, AttributeError, RecursionError):
            self.error = garbage("something that is not a chunk of a chat completion")
        if self.error is not None:
            self.done = True
            parts += [] if self._usage is None else [self._usage]
        return parts

    def _feed(self, parts: list[Part], data: bytes) -> None:
        if not self._begun:
            data = data.lstrip(_BLANK)
            self._begun = bool(data)
            if data.startswith(b"<"):
                raise garbage("an HTML page in place of an event stream")
            if data.startswith((b"{", b"[")):
                self._document = bytearray()
        if self._document is not None:
            self._document += data
            if len(self._document) > MAX_EVENT:
                raise garbage(f"a document of more than {MAX_EVENT >> 20} MiB in place of an event stream")
            return
        if data.startswith(b"data: {") and data.endswith(b"}\n\n") and not self._events.torn:
            # Whole events, each of one line: what nearly all servers send nearly always.
            blocks = data[6:-2].split(b"\n\ndata: ")
            if data.count(b"\n") == 2 * len(blocks) and b"\r" not in data and b"[DONE]" not in data:
                for block in blocks:
                    self._add(_json(block), len(block), parts)
                return
        for event in self._events.feed(data):
            self._take(event, parts)
            if self.done:
                return
        if self._events.waiting > MAX_EVENT:
            raise garbage(f"an event of more than {MAX_EVENT >> 20} MiB")

    def _take(self, event: Event, parts: list[Part]) -> None:
        data = event.data.strip()
        if data == b"[DONE]":
            self._finish(parts, done=True)
        elif data:
            value = _json(data)
            if event.name == b"error" and isinstance(value, dict) and not is_said(value.get("error")):
                raise reported(value)
            self._add(value, len(data), parts)

    def _add(self, chunk: Any, size: int, parts: list[Part]) -> None:
        """Take in a chunk of so many bytes, or a whole completion. Raise `ValueError`, … for what is neither."""
        if chunk is None:
            return
        before = self._usage
        self._usage = usage_of(chunk.get("usage"), before)
        if is_said(error := chunk.get("error")):
            raise reported(error)
        choices = chunk.get("choices")
        if choices is None:
            if chunk.get("object") == "error":
                raise reported(chunk)
            if str(chunk.get("type", "")).startswith("response."):
                raise garbage("events of the Responses API, which are not chunks of a chat completion")
        elif not isinstance(choices, list):
            raise ValueError("`choices` must be a list.")
        else:
            self._seen = True
        for choice in choices or ():
            if choice is None:
                continue
            index = index_of(choice.get("index")) or 0
            if self._index is None:
                self._index = index
            if index == self._index:
                self._add_choice(choice, size, parts)
        if self._usage is not None and self._usage != before and self.reason is None:
            parts.append(self._usage)

    def _add_choice(self, choice: dict[str, Any], size: int, parts: list[Part]) -> None:
        delta = choice.get("delta")
        if not delta and not self._said:
            delta = choice.get("message")  # of a server that does not stream
        if delta and self._add_delta(delta, size, parts):
            self._said = True
            self.reason = None
        if "usage" in choice:
            self._usage = usage_of(choice["usage"], self._usage)
        reason = name_of(choice.get("finish_reason")).lower()
        if reason not in _NONE:
            self.reason = _REASON.get(reason, reason)
        if is_said(error := choice.get("error")) or self.reason == "error":
            raise reported(error)

    def _add_delta(self, delta: dict[str, Any], size: int, parts: list[Part]) -> bool:
        """Return whether it says anything."""
        content = delta.get("content")
        if len(delta) == 1 and type(content) is str:  # nearly all are like this
            self._tell(Text, content, parts)
            return bool(content)
        count = len(parts)
        thoughts = [thinking_of(content), *(text_of(delta.get(name)) for name in _REASONING)]
        self._tell(Thinking, next(filter(None, thoughts), ""), parts)
        self._tell(Text, text_of(content), parts)
        if refusal := text_of(delta.get("refusal")):
            self._refused = True
            self._tell(Text, refusal, parts)
        calls = delta.get("tool_calls") or delta.get("function_call") or []
        for call in calls if isinstance(calls, list) else [calls]:
            self._calls.add(call)
        if self._calls.size - self._calls_told >= CALLS_TOLD and self._usage is None:
            self._calls_told = self._calls.size
            parts.append(Usage(estimated_tokens=self._calls.size // BYTES_PER_TOKEN))
        state = {key: value for key, value in delta.items() if key not in _READ and is_said(value)}
        if state:
            self._state.append(state)
        if state or calls:
            self._kept += size
            if self._kept > MAX_EVENT:
                raise garbage(f"more than {MAX_EVENT >> 20} MiB of tool calls and reasoning")
        return bool(calls) or len(parts) > count

    def _tell(self, kind: type[Text | Thinking], text: str, parts: list[Part]) -> None:
        """Add a part; hold the first half of a surrogate pair back until the other one comes."""
        if not text.isascii() or self._halves[kind]:
            text = self._halves[kind] + text
            half = text[-1:] if "\ud800" <= text[-1:] < "\udc00" else ""
            self._halves[kind] = half
            text = mended(text[: len(text) - len(half)])
        if text:
            parts.append(kind(text))

    def _end(self, parts: list[Part]) -> None:
        if self._document is not None:
            self._add_document(bytes(self._document), parts)
            return
        if (event := self._events.rest()) is not None:
            try:
                self._take(event, parts)
            except UpstreamError as error:
                if error.code != "upstream_garbage":
                    raise
        if not self.done:
            self._finish(parts, done=False)

    def _add_document(self, document: bytes, parts: list[Part]) -> None:
        """Take in a body that is one JSON value: an error, or a whole completion."""
        try:
            value = _json(document)
        except UpstreamError:
            lines = document.split(b"\n")
            what = "NDJSON" if len(lines) > 1 and lines[0].rstrip().endswith(b"}") else "broken JSON"
            raise garbage(f"{what} in place of an event stream") from None
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(value, dict) or not (is_said(value.get("error")) or isinstance(value.get("choices"), list)):
            raise garbage("JSON that is no chat completion in place of an event stream")
        self._add(value, len(document), parts)
        self._finish(parts, done=True)

    def _finish(self, parts: list[Part], *, done: bool) -> None:
        parts += [kind("\ufffd") for kind, half in self._halves.items() if half]
        reason = self.reason
        if reason is None and done and self._said:
            reason = "unknown"
        if reason is None:
            raise self._unfinished(done=done)
        if self._refused and reason == "stop":
            reason = "content_filter"
        calls = self._calls.end(cut=reason in {"length", "content_filter"})
        if reason == "tool_calls" and not calls:
            raise _truncated("The model's server announced a tool call that never came.")
        self.done = True
        parts += calls
        parts.append(Finish(reason, self._usage, joined("", self._state) or {}))

    def _unfinished(self, *, done: bool) -> UpstreamError:
        if done:
            return _truncated("The model's server ended its answer without a text, a tool call or a finish_reason.")
        if self._seen:
            return _truncated("The model's answer broke off.")
        return _truncated("The model's server sent no chunk of a chat completion.")
