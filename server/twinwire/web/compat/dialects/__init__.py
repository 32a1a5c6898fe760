"""Read the requests of other protocols: each part is honoured, known to be harmless, or refused with its path.

Pure: a decoded body in, what it asks an agent out, or `BadRequest`. A part that is passed over in silence would have
another question answered, and paid for, than the one that was asked. Each dialect has a module: `ai_sdk`, `ag_ui` and
`openai`; what they share is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from twinwire.agents.accepts import Accepts
from twinwire.models import Message
from twinwire.protocol.errors import BadRequest
from twinwire.protocol.parts import MAX_PARTS, Part, check_image, joined, noted, wrong
from twinwire.protocol.start import are_labels

Body = Mapping[str, Any]

MAX_MESSAGES = 1000
"""Messages of a conversation that count: as objects, short ones take a hundred times their bytes."""
MAX_SENT = 10_000
"""Messages that a request may bring: to check 33,000, which one megabyte has room for, takes 60 ms of everybody's."""
OURS = re.compile(r"[a-z2-7]{26}-[0-9]{1,19}", re.ASCII)  # how `formats.parts` names a call
ASKED = re.compile(r"ask-([a-z2-7]{26})-[0-9]{1,19}", re.ASCII)  # a question, which names its run
MESSAGE_METADATA = "messageMetadata"
"""The setting that the last message's own `metadata` is."""
_SAMPLING = {
    *("temperature", "top_p", "topP", "top_k", "topK", "min_p", "seed", "stop", "stopSequences", "logit_bias"),
    *("presence_penalty", "presencePenalty", "frequency_penalty", "frequencyPenalty", "repetition_penalty"),
    *("max_tokens", "max_completion_tokens", "maxOutputTokens", "min_tokens", "length_penalty", "typical_p", "top_a"),
    *("reasoning_effort", "reasoning", "thinking", "verbosity", "top_logprobs"),
}
COMMON = {*_SAMPLING, "user", "metadata", "store", "service_tier", MESSAGE_METADATA}
"""The fields that are harmless in each dialect."""
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_ANSWERS = {
    *("resume", "approval", "approvals", "approved", "decision", "decisions", "confirmed", "rejected", "answer"),
    *("answers", "toolresult", "toolresults", "tooloutput", "tooloutputs", "interruptresponse"),
}
"""Fields by which a client answers a question, in lower case and without underscores."""


class Fields(NamedTuple):
    """The fields that a body may have: those that are `honoured`, and those that are `harmless`.

    A harmless field is a setting of the run, if its agent accepts it, and else has no effect. Of one that is `spread`
    each entry is such a setting. An agent accepts what is `named` by that name alone, not by `params`.
    """

    honoured: set[str]
    harmless: set[str]
    spread: Collection[str] = ()
    named: Collection[str] = ()


class Turn(NamedTuple):
    """A message of a conversation: its role (`user`, `assistant` or `system`) and its text.

    If it has images or files, `parts` are all of it in OpenAI's form, and `paths` are theirs.
    """

    role: str
    text: str
    parts: Sequence[Part] = ()
    paths: Sequence[str] = ()


class Asked(NamedTuple):
    """The contents of a request: the conversation, which the user's message ends, and the run's settings and labels.

    `ignored` are the parts of the request that have no effect.
    """

    turns: list[Turn]
    params: dict[str, Any]
    metadata: dict[str, Any]
    ignored: list[str]


class Reply(NamedTuple):
    """A question as a request shows it: with the user's answer, given up, or neither. `path` is where the answer is."""

    path: str
    answered: bool = False
    answer: Any = None
    given_up: bool = False


class Replies(NamedTuple):
    """The questions of one run that a request shows, by `input_id`: it asks nothing new, and goes on with the run."""

    run_id: str
    replies: Mapping[str, Reply]


class Content:
    """The content of one message, as its parts are read."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._paths: list[str] = []

    def say(self, text: str) -> None:
        """Add a text."""
        self._parts.append({"type": "text", "text": text})

    def add(self, part: Part, path: str) -> None:
        """Add an image or a file."""
        if len(self._paths) >= MAX_PARTS:
            raise BadRequest(f"`{path}` must be among {MAX_PARTS:,} images and files at most.", field=path)
        self._parts.append(part)
        self._paths.append(path)

    def turn(self, role: str) -> Turn:
        """Return the message."""
        texts = [part["text"] for part in self._parts if part["type"] == "text"]
        if not self._paths:
            return Turn(role, "".join(texts))
        parts = [part for part in self._parts if part["type"] != "text" or part["text"].strip()]
        return Turn(role, joined(texts), parts, self._paths)


def empty(value: Any) -> bool:
    """Return whether a field with this value says as little as one that is left out."""
    return value is None or value is False or (isinstance(value, (str, list, dict)) and not value)


def answers(name: str, value: Any) -> bool:
    """Return whether this field answers a question. A `false` is a no, and says more than a field that is left out."""
    if name.lower().replace("_", "") not in _ANSWERS:
        return False
    return not empty(value) or value is False or value == ""


def asked(turns: list[Turn], body: Body, fields: Fields, accepts: Accepts, said: Body) -> Asked:
    """Return what a request with these turns asks; `said` is the last message as it came. Raise `BadRequest`.

    A history has texts alone: the images and files of earlier messages are not in it, and each leaves a note.
    """
    found = settings({**body, MESSAGE_METADATA: said.get("metadata")}, fields, accepts)
    return found._replace(turns=turns, ignored=[*found.ignored, *(path for turn in turns[:-1] for path in turn.paths)])


def settings(body: Body, fields: Fields, accepts: Accepts) -> Asked:
    """Return the settings and labels in a body, and the fields that have no effect. Raise `BadRequest` for others."""
    params: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    ignored: list[str] = []
    for name, value in body.items():
        harmless = name in fields.harmless
        if name in fields.honoured or (empty(value) and (harmless or not answers(name, value))):
            continue
        if name == "params":
            accepts.check(as_object(value, name), ())
            params |= value
        elif name == "metadata" and are_labels(value):
            metadata = value
        elif name in fields.spread and isinstance(value, dict):
            taken = {each: inner for each, inner in value.items() if accepts.setting(each)}
            params |= taken
            ignored += [f"{name}.{each}" for each in value if each not in taken] if taken else [name]
        elif not answers(name, value) and (name in accepts.words if name in fields.named else accepts.setting(name)):
            params[name] = value
        elif harmless:
            ignored.append(name)
        else:
            raise unknown(name)
    return Asked([], params, metadata, ignored)


def without_effect(body: Body, fields: Fields, accepts: Accepts) -> list[str]:
    """Return the fields of a body that starts no run: none of its settings has an effect. Raise as `settings`."""
    settings(body, fields, accepts)
    return [name for name, value in body.items() if name not in fields.honoured and not empty(value)]


def only(thing: Body, known: Collection[str], path: str) -> None:
    """Raise `BadRequest` if a thing has a value in a field that is not `known`."""
    for name, value in thing.items():
        if name not in known and (answers(name, value) or not empty(value)):
            raise unknown(f"{path}.{name}" if path else name)


def unknown(path: str) -> BadRequest:
    """Return the error for a field that is not known."""
    return refused(path, "is not known, and could change the question")


def refused(path: str, why: str, then: str = "leave it out") -> BadRequest:
    """Return the error for what stands at this path; `why` goes on after the path."""
    return BadRequest(f"`{path[:128]}` {why}; {then}.", field=path[:128])


def not_understood(path: str, kind: Any, where: str = "") -> BadRequest:
    """Return the error for a part of a type that is not understood."""
    return refused(path, f"has the type {str(kind)[:64]!r}, which is not understood{where}")


def as_object(value: Any, path: str) -> Body:
    """Return the object that this must be. Raise `BadRequest`."""
    if not isinstance(value, dict):
        raise wrong(path, "an object")
    return value


def as_role(role: Any, path: str) -> str:
    """Return a message's role as a history has it. Raise `BadRequest`."""
    if not isinstance(role, str) or role not in _ROLES:
        why = f"is {str(role)[:64]!r}, which is not understood"
        raise refused(f"{path}.role", why, "leave the message out")
    return _ROLES[role]


def as_content(
    content: Any, path: str, texts: Collection[str], media: Callable[[Body, str, str], Part | None]
) -> Content:
    """Return the content of a message, which is a string or a list of parts. Raise `BadRequest`.

    `texts` are the fields of a text. `media` reads a part, at its path and of its type, or returns None for a type
    that it does not know.
    """
    found = Content()
    if content is None or isinstance(content, str):
        found.say(content or "")
        return found
    if not isinstance(content, list):
        raise wrong(path, "a string, or a list of parts")
    for index, part in enumerate(content):
        at = f"{path}[{index}]"
        kind = str(as_object(part, at).get("type"))
        if kind == "text":
            found.say(as_text(part, at, texts))
        elif (read := media(part, at, kind)) is not None:
            found.add(read, at)
        else:
            raise not_understood(at, kind)
    return found


def as_text(part: Body, path: str, known: Collection[str]) -> str:
    """Return the text of a part that has no field but the `known` ones. Raise `BadRequest`."""
    only(part, known, path)
    text = part.get("text")
    if not isinstance(text, str):
        raise wrong(f"{path}.text", "a string")
    return text


def as_messages(messages: Any) -> list[tuple[Any, str]]:
    """Return the messages of a conversation, which must end with the user's, and their paths. Raise `BadRequest`."""
    if not isinstance(messages, list):
        raise wrong("messages", "a list of messages")
    if not messages or not isinstance(messages[-1], dict) or messages[-1].get("role") != "user":
        raise BadRequest("`messages` must end with the user's message.", field="messages")
    if len(messages) > MAX_SENT:
        raise BadRequest(f"`messages` must have {MAX_SENT:,} entries at most.", field="messages")
    return [(said, f"messages[{index}]") for index, said in enumerate(messages)]


def check_media(kind: str, path: str, accepts: Accepts, role: str) -> None:
    """Raise `BadRequest` for an `image` or a `file` that is not the user's, or that the agent does not accept."""
    if role != "user":
        raise not_understood(path, kind, " in a message of this role")
    accepts.check_part(kind, path)


def as_image(url: Any, path: str) -> Part:
    """Return the image at an address, which stands at this path. Raise `BadRequest`."""
    check_image(url, path)
    return {"type": "image_url", "image_url": {"url": url}}


def as_file(source: str, value: Any, path: str, filename: Any = None) -> Part:
    """Return the file whose `source` is `file_data` or `file_id`. Its value stands at this path. Raise `BadRequest`."""
    if not (isinstance(value, str) and value):
        raise wrong(path, "a text that is not empty")
    name = {"filename": filename} if isinstance(filename, str) and filename else {}
    return {"type": "file", "file": {source: value, **name}}


def of_one_run(replies: Mapping[str, Reply]) -> Replies | None:
    """Return these questions as those of one run; None if there are none. Raise `BadRequest` if they are of several."""
    runs = {input_id.split("-")[1]: reply.path for input_id, reply in replies.items()}
    if len(runs) > 1:
        raise refused(list(runs.values())[-1], "is of another run than the questions before it")
    return Replies(next(iter(runs)), replies) if runs else None


def question(turns: Sequence[Turn], limit: int) -> tuple[Turn, list[Message]]:
    """Return the last message, and of those before it that have a text the newest: `MAX_MESSAGES`, and `limit` bytes.

    Raise `BadRequest` if the last one has nothing in it.
    """
    last = turns[-1]
    if not (last.text.strip() or last.paths):
        raise BadRequest("The user's last message must have a text.", field="messages")
    history: list[Message] = []
    for turn in reversed(turns[:-1]):
        words = noted(turn.text, turn.parts)
        if not words.strip():
            continue
        limit -= len(words.encode("utf-8", "replace"))
        if limit < 0 or len(history) >= MAX_MESSAGES:
            break
        history.append({"role": turn.role, "content": words})
    return last, history[::-1]
