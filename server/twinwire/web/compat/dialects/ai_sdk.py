"""The requests of the AI SDK (npm `ai` 5, 6 and 7): conversations of UIMessages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twinwire.agents.accepts import Accepts
from twinwire.formats.ai_sdk import RESUMED
from twinwire.protocol.errors import BadRequest
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
    as_file,
    as_image,
    as_messages,
    as_object,
    as_text,
    asked,
    check_media,
    empty,
    not_understood,
    of_one_run,
    only,
    refused,
)

FIELDS = Fields(
    {"id", "messages", "message", "trigger", "agent", "user_id", "on_disconnect", "approval_requests"},
    {*COMMON, "messageId", "callSettings", "config"},
)
_MESSAGE = {"id", "role", "parts", "metadata", "createdAt"}
_TEXT = {"type", "text", "state", "providerMetadata"}
_FILE = {"type", "mediaType", "filename", "url", "providerMetadata"}
_SHOWN = {"reasoning", "step-start", "source-url", "source-document"}
_ROLES = ("user", "assistant", "system")
_TRIGGERS = ("submit-message", "regenerate-message")
_TOOL_STATES = (
    *("input-streaming", "input-available", "output-available", "output-error"),
    *("approval-requested", "approval-responded", "output-denied"),
)


def read(body: Body, accepts: Accepts) -> Asked:
    """Return what a chat's request asks an agent. Raise `BadRequest`.

    It says its last message alone if that is its `message`; see `alone`.
    """
    trigger = body.get("trigger")
    if alone(body):
        messages = [(body["message"], "message")]
        if trigger == "regenerate-message":
            raise refused("trigger", "regenerates an answer from `messages` alone", "send the conversation")
    else:
        messages = _messages(body.get("messages"), accepts)
        if body.get("message") is not None:
            raise refused("message", "must not be there beside `messages`", "send one of the two")
    if not empty(trigger) and trigger not in _TRIGGERS:
        raise wrong("trigger", "submit-message or regenerate-message")
    turns = [turn for said, path in messages for turn in _turns(said, path, accepts)]
    return asked(turns, body, FIELDS, accepts, messages[-1][0])


def replies(body: Body) -> Replies | None:
    """Return the questions in a request that ends with the server's message instead of the user's. Raise `BadRequest`.

    None if it shows none.
    """
    messages = [body["message"]] if alone(body) else body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "assistant" or not isinstance(last.get("parts"), list):
        return None
    if body.get("trigger") == "regenerate-message":
        return None
    said = "message" if alone(body) else f"messages[{len(messages or ()) - 1}]"
    found = {}
    for index, part in enumerate(last["parts"]):
        path = f"{said}.parts[{index}]"
        _part(Content(), part, path, "assistant", Accepts(""))
        if (question := _question(part)) is not None:
            found[question] = _reply(part, path)
    return of_one_run(found)


def shown(body: Body) -> int:
    """Return how many texts, reasonings and calls the server's message has with which such a request ends."""
    last = body["message"] if alone(body) else body["messages"][-1]
    return sum(part.get("type") in ("text", "reasoning", "dynamic-tool") for part in last["parts"])


def alone(body: Body) -> bool:
    """Return whether a chat's request brings the user's message without the conversation before it."""
    return body.get("message") is not None and empty(body.get("messages"))


def _question(part: Body) -> str | None:
    """Return the question that a part is, or whose call it is."""
    approval = part.get("approval")
    ids = (approval.get("id") if isinstance(approval, dict) else None, part.get("toolCallId"))
    return next((str(name) for name in ids if ASKED.fullmatch(str(name))), None)


def _reply(part: Body, path: str) -> Reply:
    """Return a question with its answer. An approval has no parameters, and why a call is approved is no answer."""
    approval, state = part.get("approval"), part.get("state")
    if isinstance(approval, dict):
        path = f"{path}.approval"
        if state != "approval-responded":
            return Reply(path)
        approved, reason = approval.get("approved"), approval.get("reason")
        if not isinstance(approved, bool):
            raise wrong(f"{path}.approved", "true or false")
        if approved:
            return Reply(path, answered=True, answer={"decision": "approve"})
        why = {"reason": reason} if isinstance(reason, str) and reason else {}
        return Reply(path, answered=True, answer={"decision": "reject", **why})
    return Reply(f"{path}.output", answered=state == "output-available", answer=part.get("output"))


def _messages(messages: Any, accepts: Accepts) -> list[tuple[Any, str]]:
    """Return the messages and their paths. An answer to a tool, which is no message of the user's, has a path, too."""
    try:
        return as_messages(messages)
    except BadRequest:
        if messages and isinstance(messages, list) and isinstance(messages[-1], dict):
            for index, part in enumerate(parts if isinstance(parts := messages[-1].get("parts"), list) else []):
                _part(Content(), part, f"messages[{len(messages) - 1}].parts[{index}]", "assistant", accepts)
        raise


def _turns(said: Any, path: str, accepts: Accepts) -> list[Turn]:
    """Return the turns in a message: one, or several if the user said something to the run that gave the answer."""
    said = as_object(said, path)
    only(said, _MESSAGE, path)
    role, parts = said.get("role"), said.get("parts")
    if role not in _ROLES:
        raise wrong(f"{path}.role", "user, assistant or system")
    if not isinstance(parts, list):
        raise wrong(f"{path}.parts", "a list of parts")
    turns: list[Turn] = []
    content, void = Content(), _void(parts)
    for index, part in enumerate(parts):
        _part(Content() if index in void else content, part, f"{path}.parts[{index}]", role, accepts)
        if not isinstance(data := part.get("data"), dict):
            continue
        if part["type"] == "data-user-message":
            turns += [content.turn(role), Turn("user", str(data.get("content")))]
            content = Content()
        elif part["type"] == RESUMED and index not in void and isinstance(text := data.get("text"), str):
            content.say(text)
    return [*turns, content.turn(role)]


def _void(parts: Sequence[Any]) -> set[int]:
    """Return which parts do not count: those of a step that was cut off, as another process went on with the run."""
    void: set[int] = set()
    step = 0
    for index, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == RESUMED:
            void.update(range(step, index))
        elif kind == "step-start":
            step = index
    return void


def _part(content: Content, part: Any, path: str, role: str, accepts: Accepts) -> None:
    """Add a part to the content, unless it is something that the server itself has put into an answer."""
    kind = str(as_object(part, path).get("type"))
    if kind == "text":
        content.say(as_text(part, path, _TEXT))
    elif kind == "file":
        content.add(_file(part, path, role, accepts), path)
    elif not (role == "assistant" and (kind in _SHOWN or kind.startswith("data-") or _called_here(kind, part))):
        raise not_understood(path, kind, " in a message of this role")


def _file(part: Body, path: str, role: str, accepts: Accepts) -> Part:
    is_image = str(part.get("mediaType")).lower().startswith("image/")
    check_media("image" if is_image else "file", path, accepts, role)
    only(part, _FILE, path)
    url = part.get("url")
    return as_image(url, f"{path}.url") if is_image else as_file("file_data", url, f"{path}.url", part.get("filename"))


def _called_here(kind: str, part: Body) -> bool:
    """Return whether a part is a call of a tool that the server made, or a question that it asked."""
    if kind != "dynamic-tool" or part.get("state") not in _TOOL_STATES:
        return False
    if not empty(part.get("approval")) or not OURS.fullmatch(str(part.get("toolCallId"))):
        return _question(part) is not None
    return True
