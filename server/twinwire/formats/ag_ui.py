"""AG-UI 1.0, and what clients before it take. Requests are not read here.

A follower gets the run from its first event, or joins late: what is complete as one snapshot of the messages, then what
is open begins again under its id with its text so far, and the rest follows. No text is sent twice: the client would
append both. A snapshot has nothing that was void by then; what a client has seen cannot be taken back.

A run that waits for its user ends here with an interrupt for each question. The run that the client begins with its
answers is the same run, joined late.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from twinwire.formats import SseTurnView, parts, sse_data
from twinwire.formats.recap import TRIMMED
from twinwire.protocol.events import TERMINAL_TYPES, Record, StreamEvent, decode, dump

VERSION = "1.0"
Fields = dict[str, Any]

NOTICE = "twinwire.ignored"
TOOLS_IGNORED: Fields = {
    "type": "CUSTOM",
    "name": NOTICE,
    "value": {"fields": ["tools"], "message": "The agent calls its own tools; those of the client were ignored."},
}

APPROVAL: Fields = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "editedArgs": {"type": "object", "description": "All arguments, in place of those that were asked about."},
        "reason": {"type": "string", "description": "Why the tool is not to be called."},
    },
    "required": ["approved"],
}
"""The form of an answer to an approval, as AG-UI's documents have it, and `reason`."""

_OPENERS = {"STEP_STARTED", "TEXT_MESSAGE_START", "REASONING_START", "REASONING_MESSAGE_START"}
_ROLES = {"LLM_CHUNK": "assistant", "THINKING": "reasoning"}
_CLOSERS = {"STEP_FINISHED", "TEXT_MESSAGE_END", "REASONING_MESSAGE_END", "REASONING_END"}


class Events:
    """The AG-UI events of one run.

    `thread_id` and `run_id` are the client's, else the run's own id. `modern` is whether the client said that it speaks
    1.0: one before it refuses an outcome `cancelled`. `reasoning` is whether it is told of that: one before npm's
    0.0.45 fails on it. `toolless` is whether the client sent tools of its own, and is told that they were ignored.
    """

    def __init__(
        self,
        thread_id: str | None = None,
        run_id: str | None = None,
        *,
        modern: bool = True,
        reasoning: bool = True,
        toolless: bool = False,
    ) -> None:
        self._thread_id = thread_id
        self._run_id = run_id
        self._modern = modern
        self._reasoning = reasoning
        self._toolless = toolless
        self._parts = parts.Parts()
        self._parent: str | None = None  # the assistant message that the calls to come belong to
        self._common: Fields = {}  # to what an event has become

    @property
    def waiting(self) -> bool:
        """See `TurnView`."""
        return self._parts.waiting

    def end_turn(self) -> list[Fields]:
        """See `TurnView`."""
        return [{**fields, **self._common} for part in self._parts.end_turn() for fields in self._fields(part)]

    def __call__(self, event: StreamEvent) -> list[Fields]:
        """See `Translate`. `timestamp` is in milliseconds; `metadata.id` is the id of the event it came from."""
        metadata = {"id": event.id}
        if event.type in TERMINAL_TYPES:
            told = {"finishReason": event.data.get("finish_reason"), "reason": event.data.get("reason")}
            metadata |= {name: str(value) for name, value in told.items() if value is not None}
        self._common = common = {"timestamp": round(parts.seconds(event) * 1000), "metadata": metadata}
        return [{**fields, **common} for part in self._parts.take(event) for fields in self._fields(part)]

    def _fields(self, part: parts.Part) -> list[Fields]:
        match part:
            case parts.Begin(run_id):
                self._thread_id, self._run_id = self._thread_id or run_id, self._run_id or run_id
                version = {"protocolVersion": VERSION} if self._modern else {}
                started = {"type": "RUN_STARTED", **self._ids, **version}
                return [started, dict(TOOLS_IGNORED)] if self._toolless else [started]
            case parts.Open("text", id):
                self._parent = id
                return [{"type": "TEXT_MESSAGE_START", "messageId": id, "role": "assistant"}]
            case parts.Delta("text", id, text):
                return [{"type": "TEXT_MESSAGE_CONTENT", "messageId": id, "delta": text}]
            case parts.Close("text", id):
                return [{"type": "TEXT_MESSAGE_END", "messageId": id}]
            case parts.Open() | parts.Delta() | parts.Close() if not self._reasoning:
                return []
            case parts.Open(_, id):
                return [
                    {"type": "REASONING_START", "messageId": id},
                    {"type": "REASONING_MESSAGE_START", "messageId": id, "role": "reasoning"},
                ]
            case parts.Delta(_, id, text):
                return [{"type": "REASONING_MESSAGE_CONTENT", "messageId": id, "delta": text}]
            case parts.Close(_, id):
                return [{"type": "REASONING_MESSAGE_END", "messageId": id}, {"type": "REASONING_END", "messageId": id}]
            case parts.StepBegin(name):
                self._parent = None
                return [{"type": "STEP_STARTED", "stepName": name}]
            case parts.StepEnd(name):
                return [{"type": "STEP_FINISHED", "stepName": name}]
            case parts.Call(id, name, parameters):
                self._parent = self._parent or f"{id}-message"
                return [
                    {
                        "type": "TOOL_CALL_START",
                        "toolCallId": id,
                        "toolCallName": name,
                        "parentMessageId": self._parent,
                    },
                    {"type": "TOOL_CALL_ARGS", "toolCallId": id, "delta": dump(parameters).decode()},
                    {"type": "TOOL_CALL_END", "toolCallId": id},
                ]
            case parts.Answer(id, result, ok):
                text = result if isinstance(result, str) else dump(result).decode()
                content = text if ok else f"Error: {text}"
                about = {"messageId": f"{id}-result", "toolCallId": id, "content": content, "role": "tool"}
                return [{"type": "TOOL_CALL_RESULT", **about}]
            case parts.Question(_, _, data):
                return [{"type": "CUSTOM", "name": "INPUT_REQUESTED", "value": data}]
            case parts.QuestionEnd(_, data):
                return [{"type": "CUSTOM", "name": "INPUT_ANSWERED", "value": data}] if data else []
            case parts.UserMessage(id, data):
                return self._user_message(id, data)
            case parts.Void(_, _, data):
                self._parent = None
                return [{"type": "CUSTOM", "name": "RUN_RESUMED", "value": data}]
            case parts.Note(type, data):
                return [{"type": "CUSTOM", "name": type, "value": data}]
            case parts.TurnEnd(questions):
                outcome = {"type": "interrupt", "interrupts": [_interrupt(question) for question in questions]}
                return [{"type": "RUN_FINISHED", **self._ids, "outcome": outcome}]
            case parts.End(type, data):
                return [self._end(type, data)]

    def _user_message(self, message_id: str, data: Fields) -> list[Fields]:
        """Return a message of the user's in the thread; clients before 1.0 know only messages of the assistant."""
        content = data.get("content")
        if not (self._modern and isinstance(content, str) and content):
            return [{"type": "CUSTOM", "name": "USER_MESSAGE", "value": data}]
        return [
            {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "user"},
            {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": content},
            {"type": "TEXT_MESSAGE_END", "messageId": message_id},
        ]

    @property
    def _ids(self) -> Fields:
        return {"threadId": self._thread_id, "runId": self._run_id}

    def _end(self, kind: str, data: Fields) -> Fields:
        if kind == "ERROR":
            error = {"type": "RUN_ERROR", "message": str(data.get("message", "")), "code": str(data.get("error_type"))}
            return {**error, "usage": [usage]} if self._modern and (usage := parts.usage(data)) else error
        end = {"type": "RUN_FINISHED", **self._ids}
        if (result := data.get("result")) is not None:
            end["result"] = result
        if self._modern:
            end["outcome"] = {"type": "cancelled" if data.get("status") == "cancelled" else "success"}
            end["usage"] = [parts.usage(data)]
        return end


def _interrupt(question: parts.Question) -> Fields:
    data, call = question.data, question.call
    schema = data.get("schema") or {"type": "string"}
    about = {
        "reason": "input_required" if call is None else "tool_call",
        "toolCallId": call,
        "message": data.get("prompt"),
        "responseSchema": schema if call is None else APPROVAL,
        "expiresAt": data.get("expires_at"),
    }
    return {"id": question.id, **{name: value for name, value in about.items() if value is not None}}


class Late(SseTurnView):
    """A `JoiningView`: a follower that joins late has a snapshot of the messages first, then what is open.

    `messages` are those that the client has, which a snapshot that left them out would take from it.
    """

    def __init__(self, events: Events, messages: Iterable[Fields] = ()) -> None:
        super().__init__(events)
        self._events = events
        self._messages = {str(message.get("id")): message for message in messages}
        self._texts: dict[str, list[tuple[int, str]]] = {}  # of those messages that are the run's, by events
        self._numbers: dict[str, int] = {}  # of the events that began the run's messages and calls
        self._started: list[Fields] = []  # RUN_STARTED, and a notice if there is one
        self._open: list[Fields] = []
        self._call: Fields = {}

    def skip(self, records: Sequence[Record]) -> None:
        """See `JoiningView`."""
        for record in records:
            for fields in self._events(decode(record.body)):
                self._take(fields, record.seq)

    def recap(self, events: Sequence[StreamEvent]) -> Sequence[bytes]:
        """See `RecapView`. A text that the client has the beginning of goes on under the name that it has there."""
        for event in events:
            name = self._begun(event)
            for fields in self._events(event if name is None else msgspec.structs.replace(event, id=f"evt-{name}")):
                self._take(fields, 0)
        return [self.join()]

    def _begun(self, event: StreamEvent) -> str | None:
        """Return the name of the client's own message that the text of this event begins with."""
        if (role := _ROLES.get(event.type)) is None:
            return None
        whole = event.data["content"]
        run = event.id.removeprefix("evt-").partition("-")[0]
        for name, message in reversed(self._messages.items()):
            text = message.get("content")
            if name.startswith(f"{run}-") and message.get("role") == role and isinstance(text, str):
                return name if text and whole.startswith(text) else None
        return None

    def _take(self, fields: Fields, number: int) -> None:
        """Take in what event `number` has become."""
        kind, name = fields["type"], str(fields.get("messageId"))
        messages = self._messages
        if kind == "RUN_STARTED" or (kind == "CUSTOM" and fields["name"] in {NOTICE, TRIMMED}):
            self._started.append(fields)
        elif kind in _OPENERS:
            self._open.append(fields)
            if "role" in fields:
                messages[name] = {"id": name, "role": fields["role"], "content": ""}
                self._texts[name] = []
                self._numbers[name] = number
        elif kind in _CLOSERS:
            del self._open[-1]  # they nest
        elif kind in {"TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT"}:
            self._texts[name].append((number, fields["delta"]))
        elif kind == "TOOL_CALL_START":
            parent = fields["parentMessageId"]
            self._call = {"name": fields["toolCallName"], "arguments": ""}
            call = {"id": fields["toolCallId"], "type": "function", "function": self._call}
            if parent not in self._numbers:
                self._numbers[parent] = number
                messages[parent] = {"id": parent, "role": "assistant"}
            messages[parent].setdefault("toolCalls", []).append(call)
            self._numbers[call["id"]] = number
        elif kind == "TOOL_CALL_ARGS":
            self._call["arguments"] = fields["delta"]
        elif kind == "TOOL_CALL_RESULT":
            about = {field: fields[field] for field in ("role", "content", "toolCallId")}
            messages[name] = {"id": name, **about}
            self._numbers[name] = self._numbers.get(fields["toolCallId"], number)
        elif kind == "CUSTOM" and fields["name"] == "RUN_RESUMED":
            self._void(fields["value"].get("void_after"))

    def _void(self, after: Any) -> None:
        """Drop all that events after number `after` have become, but for messages of the user's."""
        if type(after) is not int:
            return
        void = {name for name, number in self._numbers.items() if number > after}
        for name in self._numbers.keys() & self._messages.keys():
            message = self._messages[name]
            if message["role"] == "user":
                continue
            if name in void:
                del self._messages[name]
                self._texts.pop(name, None)
                continue
            if name in self._texts:
                self._texts[name] = [(number, text) for number, text in self._texts[name] if number <= after]
            calls = message.pop("toolCalls", [])
            if left := [call for call in calls if call["id"] not in void]:
                message["toolCalls"] = left

    def join(self) -> bytes:
        """See `JoiningView`."""
        messages, all_texts, opened = self._messages, self._texts, self._open
        self._messages, self._texts, self._numbers = {}, {}, {}  # the follower may stay for long
        self._open, self._call = [], {}
        if not self._started:
            return b""
        for name, texts in all_texts.items():
            messages[name] = {**messages[name], "content": "".join(text for _, text in texts)}
        if opened and "role" in (fields := opened[-1]):
            # Said anew, not in the snapshot: clients before 1.0 would have a message of its name twice.
            text = messages.pop(fields["messageId"])["content"]
            kind = fields["type"].replace("_START", "_CONTENT")
            opened.append({"type": kind, "messageId": fields["messageId"], "delta": text})
        snapshot = {"type": "MESSAGES_SNAPSHOT", "messages": list(messages.values())}
        return b"".join(sse_data(fields) for fields in (*self._started, snapshot, *opened))
