"""OpenAI's chat completions, streamed (and the bodies that are not): a run as what a model would have answered.

The reasoning goes in `reasoning_content`, as other servers have it. Tool calls are left out: in this format they ask
the client to make them. So are steps and progress; texts of several steps are parted by a blank line, and so is what
does not count, since another process goes on, from what comes after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from twinwire.formats import SseView
from twinwire.formats.parts import Begin, Delta, End, Open, Part, Parts, Void, seconds
from twinwire.protocol.events import StreamEvent
from twinwire.protocol.fold import as_text

DONE = b"data: [DONE]\n\n"
Fields = dict[str, Any]


def finish_reason(data: Mapping[str, Any]) -> str:
    """Return why an AGENT_FINISH with this data ended: `length` if the tokens or the steps ran out."""
    if data.get("status") == "incomplete" and data.get("finish_reason") == "content_filter":
        return "content_filter"
    return "length" if data.get("status") in {"incomplete", "max_steps"} else "stop"


def error_type(code: str) -> str:
    """Return the kind of an error that has no HTTP status of its own, since the stream has begun."""
    return "rate_limit_error" if code == "upstream_rate_limited" else "server_error"


_PARTS = {
    "cached_tokens": "prompt_tokens_details",
    "reasoning_tokens": "completion_tokens_details",
}


def usage_of(data: Mapping[str, Any]) -> Any:
    """Return the usage of a terminal event with this data, those of parts within their details."""
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return usage
    details = {place: {name: usage[name]} for name, place in _PARTS.items() if name in usage}
    return {**{name: count for name, count in usage.items() if name not in _PARTS}, **details}


class Chunks:
    """The chunks of one run. `model` is what the client asked for; `usage` whether it wants a last chunk with it."""

    def __init__(self, model: str | None = None, *, usage: bool = False) -> None:
        self._model = model
        self._usage = usage
        self._parts = Parts()
        self._texts = 0
        self._reasoned = False
        self._common: Fields = {}

    def __call__(self, event: StreamEvent) -> list[Fields]:
        """See `Translate`."""
        if event.type == "AGENT_START" and self._model is None:
            self._model = str((event.data.get("config") or {}).get("agent", ""))
        return [fields for part in self._parts.take(event) for fields in self._fields(part, event)]

    def _fields(self, part: Part, event: StreamEvent) -> Iterable[Fields]:
        match part:
            case Begin(run_id):
                self._common = {
                    "id": f"chatcmpl-{run_id}",
                    "object": "chat.completion.chunk",
                    "created": int(seconds(event)),
                    "model": self._model or "",
                }
                yield self._chunk({"role": "assistant", "content": ""})
            case Open("text"):
                self._texts += 1
                if self._texts > 1:
                    yield self._chunk({"content": "\n\n"})
            case Delta("text", _, text):
                yield self._chunk({"content": text})
            case Delta(_, _, text):
                self._reasoned = True
                yield self._chunk({"reasoning_content": text})
            case Void() if self._reasoned:
                yield self._chunk({"reasoning_content": "\n\n"})
            case End("ERROR", data):
                code = str(data.get("error_type"))
                message = str(data.get("message", ""))
                if self._usage and data.get("usage"):
                    yield {**self._common, "choices": [], "usage": usage_of(data)}
                yield {"error": {"message": message, "type": error_type(code), "param": None, "code": code}}
            case End(_, data):
                yield self._chunk({}, finish_reason(data))
                if self._usage:
                    yield {**self._common, "choices": [], "usage": usage_of(data)}

    def _chunk(self, delta: Fields, reason: str | None = None) -> Fields:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._common, "choices": [choice], **({"usage": None} if self._usage else {})}


def view(model: str | None = None, *, usage: bool = False) -> SseView:
    """A run's events as SSE, from the first on; `[DONE]` ends them, and the error of a run that failed."""
    return SseView(Chunks(model, usage=usage), DONE)


def completion(model: str, event: StreamEvent) -> Fields:
    """The body of an answer that is not streamed, from the run's AGENT_FINISH."""
    message = {"role": "assistant", "content": as_text(event.data.get("result")), "refusal": None}
    run_id = event.id.removeprefix("evt-").rpartition("-")[0]
    return {
        "id": f"chatcmpl-{run_id}",
        "object": "chat.completion",
        "created": int(seconds(event)),
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(event.data)}],
        "usage": usage_of(event.data),
    }
