"""The requests of AG-UI: its RunAgentInput."""

from __future__ import annotations

from typing import Any, NamedTuple

from twinwire.agents.accepts import Accepts
from twinwire.protocol.parts import Part, wrong
from twinwire.web.compat.dialects import (
    ASKED,
    COMMON,
    OURS,
    Asked,
    Body,
    Content,
    Fields,
    Replies,
    Reply,
    Turn,
    answers,
    as_content,
    as_file,
    as_image,
    as_messages,
    as_object,
    as_role,
    asked,
    check_media,
    empty,
    of_one_run,
    only,
    refused,
)

FIELDS = Fields(
    {"threadId", "runId", "messages", "resume", "protocolVersion"},
    {*COMMON, "parentRunId", "parentThreadId", "state", "tools", "context", "forwardedProps"},
    spread={"forwardedProps"},
    named={"state", "tools", "context"},
)
_MESSAGE = {
    *("id", "role", "content", "name", "metadata", "encryptedValue", "subagentRunId"),
    *("createdAt", "timestamp", "type", "status", "agentName", "parentId", "parentMessageId", "runId", "threadId"),
}
_NOBODY_WAITS = "is an answer, and names no question"
_TEXT = {"type", "text", "id", "metadata"}
_MEDIA = {"type", "id", "source", "metadata"}
_SOURCE = {"type", "value", "mimeType", "provider"}
_BINARY = {"type", "mimeType", "id", "url", "data", "filename"}
_KINDS = {"image": "image", "document": "file"}


def check_answers(body: Body) -> None:
    """Raise `BadRequest` for an answer to an interrupt in another place than `resume`."""
    props = body.get("forwardedProps")
    command = props.get("command") if isinstance(props, dict) else None
    for path, thing in (("forwardedProps", props), ("forwardedProps.command", command)):
        for name, value in thing.items() if isinstance(thing, dict) else ():
            if answers(name, value):
                raise refused(f"{path}.{name}", _NOBODY_WAITS, "answer in `resume`")


def replies(body: Body) -> Replies | None:
    """Return the questions that a request's `resume` answers, or gives up. Raise `BadRequest`. None if it has none."""
    entries = body.get("resume")
    if empty(entries):
        return None
    if not isinstance(entries, list):
        raise wrong("resume", "a list of entries")
    found = {}
    for index, entry in enumerate(entries):
        path = f"resume[{index}]"
        only(as_object(entry, path), {"interruptId", "status", "payload", "metadata"}, path)
        input_id, status = entry.get("interruptId"), entry.get("status")
        if not ASKED.fullmatch(str(input_id)):
            raise refused(f"{path}.interruptId", "names no question of this server's")
        if status not in ("resolved", "cancelled"):
            raise wrong(f"{path}.status", "resolved or cancelled")
        given_up = status == "cancelled"
        if given_up and entry.get("payload") is not None:
            raise refused(f"{path}.payload", "is an answer to a question that is given up")
        found[str(input_id)] = Reply(f"{path}.payload", not given_up, entry.get("payload"), given_up)
    return of_one_run(found)


def decision(reply: Reply) -> dict[str, Any]:
    """Return a payload, or a question that is given up, as the answer to an approval. Raise `BadRequest`."""
    if reply.given_up:
        return {"decision": "reject"}
    said = as_object(reply.answer, reply.path)
    only(said, {"approved", "editedArgs", "reason"}, reply.path)
    approved, edited, reason = said.get("approved"), said.get("editedArgs"), said.get("reason")
    if not isinstance(approved, bool):
        raise wrong(f"{reply.path}.approved", "true or false")
    if edited is not None and not (approved and isinstance(edited, dict)):
        raise wrong(f"{reply.path}.editedArgs", "an object, and only there if `approved` is true")
    if not isinstance(reason or "", str):
        raise wrong(f"{reply.path}.reason", "a string")
    if approved:
        return {"decision": "approve", **({} if edited is None else {"parameters": edited})}
    return {"decision": "reject", **({"reason": reason} if reason else {})}


def new_message(body: Body, run_id: str, question: Any, accepts: Accepts) -> str | None:
    """Return the path of the message, if the conversation ends with one of the user's that is not of this run.

    `question` is what the run was asked, which ends the conversation if the run has said nothing. Raise `BadRequest`.
    """
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    ids = [str(said.get("id")).partition("-")[0] for said in messages or () if isinstance(said, dict)]
    if not isinstance(last, dict) or last.get("role") != "user" or ids[-1] == run_id:
        return None
    path = f"messages[{len(messages or ()) - 1}]"
    said = _content(last.get("content"), f"{path}.content", "user", accepts).turn("user").text
    return path if run_id in ids or said != question else None


def read(body: Body, accepts: Accepts) -> Asked:
    """Return what a thread's request asks an agent. Raise `BadRequest`."""
    messages = as_messages(body.get("messages"))
    found = (_turn(as_object(said, path), path, accepts) for said, path in messages)
    return asked([turn for turn in found if turn is not None], body, FIELDS, accepts, messages[-1][0])


def _turn(said: Body, path: str, accepts: Accepts) -> Turn | None:
    """Return a message; None for one that only shows how the server came to its answer."""
    role = said.get("role")
    if role == "reasoning":
        return None
    if role == "tool":
        if not OURS.fullmatch(str(said.get("toolCallId"))):
            raise refused(path, "is the result of a call that the server did not make")
        return None
    normal = as_role(role, path)
    only(said, {*_MESSAGE, "toolCalls"} if role == "assistant" else _MESSAGE, path)
    calls = said.get("toolCalls") or []
    for index, call in enumerate(calls if isinstance(calls, list) else [calls]):
        if not (isinstance(call, dict) and OURS.fullmatch(str(call.get("id")))):
            raise refused(f"{path}.toolCalls[{index}]", "is a call that the server did not make")
    return _content(said.get("content"), f"{path}.content", normal, accepts).turn(normal)


def _content(content: Any, path: str, role: str, accepts: Accepts) -> Content:
    def media(part: Body, at: str, kind: str) -> Part | None:
        return _media(part, at, role, accepts) if kind in _KINDS or kind == "binary" else None

    return as_content(content, path, _TEXT, media)


def _media(part: Body, path: str, role: str, accepts: Accepts) -> Part:
    """Return an image or a document of AG-UI 1.0, or what was `binary` before that."""
    binary = part["type"] == "binary"
    mime = str(part.get("mimeType") or "")
    kind = ("image" if mime.lower().startswith("image/") else "file") if binary else _KINDS[part["type"]]
    check_media(kind, path, accepts, role)
    source = _of_binary(part, path) if binary else _of_media(part, path)
    value, at = source.value, source.path
    if source.how == "file" and kind == "image":
        raise refused(at, "is the id of a file, and an image must have an address or its data", "send it as a file")
    if source.how == "data":
        if not source.mime:
            raise wrong(f"{at.rpartition('.')[0]}.mimeType", "the type of the data, such as image/png")
        value = f"data:{source.mime};base64,{value}" if isinstance(value, str) and value else None
    if kind == "image":
        return as_image(value, at)
    return as_file("file_id" if source.how == "file" else "file_data", value, at, source.filename)


class _Source(NamedTuple):
    """The place of the bytes of an image or a file: `how` is `data`, `url` or `file`; `value` stands at the `path`."""

    how: str
    value: Any
    path: str
    mime: str
    filename: Any


def _of_media(part: Body, path: str) -> _Source:
    only(part, _MEDIA, path)
    source, metadata = as_object(part.get("source"), f"{path}.source"), part.get("metadata")
    only(source, _SOURCE, f"{path}.source")
    how = source.get("type")
    if how not in ("data", "url", "file"):
        raise wrong(f"{path}.source.type", "data, url or file")
    filename = metadata.get("filename") if isinstance(metadata, dict) else None
    return _Source(how, source.get("value"), f"{path}.source.value", str(source.get("mimeType") or ""), filename)


def _of_binary(part: Body, path: str) -> _Source:
    only(part, _BINARY, path)
    given = [name for name in ("data", "url", "id") if not empty(part.get(name))]
    if len(given) != 1:
        raise wrong(path, "a part with exactly one of data, url and id")
    (name,) = given
    how = "file" if name == "id" else name
    return _Source(how, part[name], f"{path}.{name}", str(part.get("mimeType") or ""), part.get("filename"))
