"""The AI SDK's UI message stream (npm `ai` 5, 6 and 7), for its `useChat` over SSE and over a WebSocket.

Only chunks that all three take. A follower always gets the run from its first event: the client builds its message
anew from a replay, under the `messageId`, which is the run's id. Requests are not read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twinwire.formats import SseView, parts
from twinwire.formats.openai import finish_reason
from twinwire.protocol.events import Record, StreamEvent, decode, dump

HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}
DONE = b"data: [DONE]\n\n"
_RUN_HERE = {"dynamic": True, "providerExecuted": True}
"""Marks a tool as run by the server. Else a page that answers tools by itself would send the chat for ever."""


class Chunks:
    """The chunks of one run."""

    def __init__(self) -> None:
        self._parts = parts.Parts()

    def __call__(self, event: StreamEvent) -> list[dict[str, Any]]:
        """See `Translate`. A field that has no value is left out: the clients refuse a null."""
        return [chunk for part in self._parts.take(event) for chunk in self._chunks(part)]

    def _chunks(self, part: parts.Part) -> list[dict[str, Any]]:
        match part:
            case parts.Begin(run_id):
                return [{"type": "start", "messageId": run_id, "messageMetadata": {"runId": run_id}}]
            case parts.Open(kind, id):
                return [{"type": f"{kind}-start", "id": id}]
            case parts.Delta(kind, id, text):
                return [{"type": f"{kind}-delta", "id": id, "delta": text}]
            case parts.Close(kind, id):
                return [{"type": f"{kind}-end", "id": id}]
            case parts.StepBegin():
                return [{"type": "start-step"}]
            case parts.StepEnd():
                return [{"type": "finish-step"}]
            case parts.Call(id, name, parameters):
                call = {"toolCallId": id, "toolName": name, **_RUN_HERE}
                return [
                    {"type": "tool-input-start", **call},
                    {"type": "tool-input-available", **call, "input": parameters},
                ]
            case parts.Answer(id, result, ok):
                if ok:
                    return [{"type": "tool-output-available", "toolCallId": id, "output": result, **_RUN_HERE}]
                text = result if isinstance(result, str) else dump(result).decode()
                return [{"type": "tool-output-error", "toolCallId": id, "errorText": text, **_RUN_HERE}]
            case parts.Note(type, data):
                return [{"type": f"data-{type.lower().replace('_', '-')}", "data": data, "transient": True}]
            case parts.End(type, data):
                return _end(type, data)


def _end(kind: str, data: dict[str, Any]) -> list[dict[str, Any]]:
    usage = parts.usage(data)
    ended = {} if data.get("reason") is None else {"reason": data["reason"]}
    if kind == "ERROR":
        error = {"type": "error", "errorText": str(data.get("message", ""))}
        metadata = ({"usage": usage} if usage else {}) | ended
        return [{"type": "message-metadata", "messageMetadata": metadata}, error] if metadata else [error]
    status = data.get("status")
    metadata = {"status": status, "usage": usage, **ended}
    reason = finish_reason(data).replace("_", "-") if status in ("completed", "incomplete") else "other"
    finish = {"type": "finish", "finishReason": reason, "messageMetadata": metadata}
    return [{"type": "abort"}, finish] if status == "cancelled" else [finish]


def view() -> SseView:
    """A run's events as SSE, from the first on; `[DONE]` ends them."""
    return SseView(Chunks(), DONE)


class SocketView:
    """The same as messages of a WebSocket, in answer to one request of the client's."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self._chunks = Chunks()
        self._sequence = 0

    def frames(self, records: Sequence[Record]) -> Sequence[bytes]:
        """See `View`. `sequence` counts from 0 without gaps: at a gap the client drops the socket."""
        frames = []
        for record in records:
            for chunk in self._chunks(decode(record.body)):
                frames.append(message("chunk", self.request_id, sequence=self._sequence, chunk=chunk))
                self._sequence += 1
            if record.last:
                frames.append(message("end", self.request_id))
        return frames


def message(kind: str, request_id: str, **fields: Any) -> bytes:
    """A message of the server: `start`, `chunk`, `end`, `error` or `no-active`."""
    return dump({"type": kind, "requestId": request_id, **fields})
