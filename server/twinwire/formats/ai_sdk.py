"""The AI SDK's UI message stream (npm `ai` 5, 6 and 7), for its `useChat` over SSE and over a WebSocket.

Only chunks that all three take, but for approvals, which 5 does not know. A follower gets the run from its first event,
since the client builds its message anew from a replay, under the `messageId`, which is the run's id; or the turn after
a question, with which the client adds to its message. Requests are not read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twinwire.formats import SseTurnView, parts
from twinwire.formats.openai import finish_reason
from twinwire.protocol.events import Record, StreamEvent, decode, dump

HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}
DONE = b"data: [DONE]\n\n"
ASK = "ask_user"
"""The tool that a plain question is."""
UNANSWERED = "Nobody answered this question."
RESUMED = "data-run-resumed"
"""The part of a message before which its step does not count."""
Chunk = dict[str, Any]
_RUN_HERE: Chunk = {"dynamic": True, "providerExecuted": True}
"""Marks a tool as run by the server. Else a page that answers tools by itself would send the chat for ever."""
_RUN_THERE: Chunk = {"dynamic": True}
_OPENERS = {"text-start", "reasoning-start", "tool-input-start"}
_OURS = ("input_id", "tool_call_id")  # which the client knows by other names


class Chunks:
    """The chunks of one run.

    `approvals` is whether the client knows approvals: npm `ai` 5 does not, and is asked as by a plain question.

    A plain question is a tool that the page answers (`addToolOutput`), the one thing that each version shows, answers
    and sends again by itself. What comes after its answer begins with a step of its own: in the same step the page
    would take the answered tool for a reason to send the chat once more, for ever.
    """

    def __init__(self, *, approvals: bool = True) -> None:
        self._parts = parts.Parts()
        self._approvals = approvals
        self._stepping = False  # the client has been told of a step, and not of its end
        self._answered = False  # a plain question, since the last step began
        self._asking: set[str] = set()  # questions that the page has open as calls
        self._called: dict[str, str] = {}  # the open calls of this step, and their tools
        self._undecided: set[str] = set()  # calls that are to be approved, and have no result
        self._denied: set[str] = set()
        self.shown = 0
        """The number of texts, reasonings and calls in the events that were skipped."""

    @property
    def waiting(self) -> bool:
        """See `TurnView`."""
        return self._parts.waiting

    def __call__(self, event: StreamEvent) -> list[Chunk]:
        """See `Translate`. A field that has no value is left out: the clients refuse a null."""
        return [chunk for part in self._parts.take(event) for chunk in self._chunks(part)]

    def end_turn(self) -> list[Chunk]:
        """See `TurnView`."""
        return [chunk for part in self._parts.end_turn() for chunk in self._chunks(part)]

    def skip(self, records: Sequence[Record]) -> None:
        """Take in the events of the turns before."""
        for record in records:
            self.shown += sum(chunk["type"] in _OPENERS for chunk in self(decode(record.body)))

    def go_on(self, run_id: str) -> Chunk:
        """Return the chunk that begins another turn of the same message."""
        self._stepping = False
        return _start(run_id)

    def _chunks(self, part: parts.Part) -> list[Chunk]:
        match part:
            case parts.Begin(run_id):
                return [_start(run_id)]
            case parts.Open(kind, id):
                return [*self._anew(), {"type": f"{kind}-start", "id": id}]
            case parts.Delta(kind, id, text):
                return [{"type": f"{kind}-delta", "id": id, "delta": text}]
            case parts.Close(kind, id):
                return [{"type": f"{kind}-end", "id": id}]
            case parts.StepBegin():
                self._answered = False
                return self._step()
            case parts.StepEnd():
                return self._step_end()
            case parts.Call(id, name, parameters):
                anew = self._anew()
                self._called[id] = name
                return [*anew, *_called(id, name, parameters, _RUN_HERE)]
            case parts.Answer(id, result, ok):
                return self._answer(id, result, ok)
            case parts.Question(id, call, data):
                if call is not None and self._approvals:
                    self._undecided.add(call)
                    self._denied.discard(call)  # it is asked about anew
                    prompt = str(data.get("prompt", ""))
                    return [{"type": "tool-approval-request", "approvalId": id, "toolCallId": call, "reason": prompt}]
                if id in self._asking:
                    return []  # the same question, of a call that was begun anew
                self._asking.add(id)
                asked = {name: value for name, value in data.items() if name not in _OURS and value is not None}
                about = asked if call is None else {**asked, "toolCallId": call}
                return [*self._anew(), *_called(id, ASK, about, _RUN_THERE)]
            case parts.QuestionEnd():
                return self._close(part)
            case parts.UserMessage(id, data):
                return [{"type": "data-user-message", "id": id, "data": data}]
            case parts.Void(id, _, data):
                return [{"type": RESUMED, "id": id, "data": data}]
            case parts.Note(type, data):
                return [{"type": f"data-{type.lower().replace('_', '-')}", "data": data, "transient": True}]
            case parts.TurnEnd():
                return [*self._step_end(), {"type": "finish", "finishReason": "tool-calls"}]
            case parts.End(type, data):
                return [*self._anew(), *self._step_end(), *_end(type, data)]

    def _step(self) -> list[Chunk]:
        """Begin a step, in place of one that is open."""
        before = self._step_end()
        self._stepping = True
        self._called.clear()
        return [*before, {"type": "start-step"}]

    def _step_end(self) -> list[Chunk]:
        stepping, self._stepping = self._stepping, False
        return [{"type": "finish-step"}] if stepping else []

    def _anew(self) -> list[Chunk]:
        """Begin a step if a plain question was answered in this one."""
        answered, self._answered = self._answered, False
        return self._step() if answered else []

    def _answer(self, call: str, result: Any, ok: bool) -> list[Chunk]:
        self._called.pop(call, None)
        self._undecided.discard(call)
        denied = call in self._denied
        self._denied.discard(call)
        if ok:
            return [{"type": "tool-output-available", "toolCallId": call, "output": result, **_RUN_HERE}]
        text = result if isinstance(result, str) else dump(result).decode()
        failed = {"type": "tool-output-error", "toolCallId": call, "errorText": text, **_RUN_HERE}
        return [] if denied else [failed]

    def _close(self, end: parts.QuestionEnd) -> list[Chunk]:
        question, call = end.question, end.question.call
        if call is None or not self._approvals:
            self._answered = True
            self._asking.discard(question.id)
            about = {"toolCallId": question.id, "dynamic": True}
            if "answer" in end.data:
                return [{"type": "tool-output-available", **about, "output": end.data["answer"]}]
            return [{"type": "tool-output-error", **about, "errorText": UNANSWERED}]
        undecided = call in self._undecided
        self._undecided.discard(call)
        if end.rejected and not undecided:
            return []  # the agent had a result without waiting
        if end.rejected:
            self._denied.add(call)
            return [{"type": "tool-output-denied", "toolCallId": call}]
        # Only in its own step can a call be shown anew; else it would be there twice.
        return _called(call, self._called[call], end.parameters, _RUN_HERE)[1:] if call in self._called else []


def _start(run_id: str) -> Chunk:
    return {"type": "start", "messageId": run_id, "messageMetadata": {"runId": run_id}}


def _called(call: str, name: str, parameters: dict[str, Any], where: Chunk) -> list[Chunk]:
    about = {"toolCallId": call, "toolName": name, **where}
    return [{"type": "tool-input-start", **about}, {"type": "tool-input-available", **about, "input": parameters}]


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


def view(chunks: Chunks | None = None) -> SseTurnView:
    """A run's events as SSE, from the first on, or after those that `chunks` have taken in; `[DONE]` ends each turn."""
    return SseTurnView(chunks or Chunks(), DONE)


class SocketView:
    """The same as messages of a WebSocket, in answer to one request of the client's."""

    def __init__(self, request_id: str, chunks: Chunks) -> None:
        self.request_id = request_id
        self._chunks = chunks
        self._sequence = 0

    @property
    def waiting(self) -> bool:
        """See `TurnView`."""
        return self._chunks.waiting

    def go_on(self, run_id: str) -> bytes:
        """Return the message that begins another turn, once the chunks have taken in those before."""
        return self._message(self._chunks.go_on(run_id))

    def recap(self, events: Sequence[StreamEvent]) -> Sequence[bytes]:
        """See `RecapView`."""
        return [self._message(chunk) for event in events for chunk in self._chunks(event)]

    def frames(self, records: Sequence[Record]) -> Sequence[bytes]:
        """See `View`. `sequence` counts from 0 without gaps: at a gap the client drops the socket."""
        frames = []
        for record in records:
            frames += [self._message(chunk) for chunk in self._chunks(decode(record.body))]
            if record.last:
                frames.append(message("end", self.request_id))
        return frames

    def end_turn(self) -> Sequence[bytes]:
        """See `TurnView`."""
        return [*map(self._message, self._chunks.end_turn()), message("end", self.request_id)]

    def _message(self, chunk: Chunk) -> bytes:
        self._sequence += 1
        return message("chunk", self.request_id, sequence=self._sequence - 1, chunk=chunk)


def message(kind: str, request_id: str, **fields: Any) -> bytes:
    """A message of the server: `start`, `chunk`, `end`, `error` or `no-active`."""
    return dump({"type": kind, "requestId": request_id, **fields})
