"""Read the requests of other protocols: each part is honoured, known to be harmless, or refused with its path.

Pure: a decoded body in, the roles and texts of its conversation out, or `BadRequest`. A part that is passed over in
silence would have another question answered, and paid for, than the one that was asked.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from twinwire.models import Message
from twinwire.protocol.errors import BadRequest

Body = Mapping[str, Any]
Said = list[tuple[str, str]]
"""Roles (`user`, `assistant` or `system`) and texts, in order."""

MAX_MESSAGES = 1000
"""Messages of a conversation that count: as objects, short ones take a hundred times their bytes."""
MAX_SENT = 10_000
"""Messages that a request may bring: to check 33,000, which one megabyte has room for, takes 60 ms of everybody's."""
_OURS = re.compile(r"[a-z2-7]{26}-[0-9]{1,19}", re.ASCII)  # how `formats.parts` names a call
_ASKED = re.compile(r"ask-([a-z2-7]{26})-[0-9]{1,19}", re.ASCII)  # a question, which names its run
_SAMPLING = {
    *("temperature", "top_p", "topP", "top_k", "topK", "min_p", "seed", "stop", "stopSequences", "logit_bias"),
    *("presence_penalty", "presencePenalty", "frequency_penalty", "frequencyPenalty", "repetition_penalty"),
    *("max_tokens", "max_completion_tokens", "maxOutputTokens", "min_tokens", "length_penalty", "typical_p", "top_a"),
    *("reasoning_effort", "reasoning", "thinking", "verbosity", "top_logprobs"),
}
_VENDORS = {
    *("enable_thinking", "thinking_budget", "think", "include_reasoning", "reasoning_format", "chat_template_kwargs"),
    *("best_of", "repeat_penalty", "repeat_last_n", "random_seed", "stop_token_ids", "ignore_eos", "mirostat"),
    *("mirostat_eta", "mirostat_tau", "tfs_z", "top_n_sigma", "skip_special_tokens", "spaces_between_special_tokens"),
    *("add_generation_prompt", "num_ctx", "num_predict", "n_predict", "keep_alive", "options", "truncation"),
    *("cache_prompt", "timings_per_token", "return_progress", "samplers", "priority", "safe_prompt"),
    *("provider", "transforms", "usage", "drop_params", "session_id", "chat_id"),
}
"""Settings that clients of other OpenAI-compatible servers send: of sampling, of speed, and of what is reported."""
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_COMMON = {*_SAMPLING, "user", "metadata", "store", "service_tier"}


_ANSWERS = {
    *("resume", "approval", "approvals", "approved", "decision", "decisions", "confirmed", "rejected", "answer"),
    *("answers", "toolresult", "toolresults", "tooloutput", "tooloutputs", "interruptresponse"),
}
"""Fields by which a client answers a question, in lower case and without underscores."""


class Fields(NamedTuple):
    """The fields that a body may have: those that are `honoured`, and those that are `harmless` and have no effect."""

    honoured: set[str]
    harmless: set[str]


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


AI_SDK = Fields(
    {"id", "messages", "message", "trigger", "agent", "user_id", "on_disconnect", "approval_requests"},
    {*_COMMON, "messageId", "callSettings", "config"},
)
AG_UI = Fields(
    {"threadId", "runId", "messages", "resume", "protocolVersion"},
    {*_COMMON, "parentRunId", "parentThreadId", "state", "tools", "context", "forwardedProps"},
)
OPENAI = Fields(
    {
        *("model", "messages", "stream", "stream_options"),
        *("n", "response_format", "tool_choice", "function_call", "modalities"),
    },
    {
        *_COMMON,
        *_VENDORS,
        *("parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "prediction"),
    },
)


def empty(value: Any) -> bool:
    """Return whether a field with this value says as little as one that is left out."""
    return value is None or value is False or (isinstance(value, (str, list, dict)) and not value)


def _answers(name: str, value: Any) -> bool:
    """Return whether this field answers a question. A `false` is a no, and says more than a field that is left out."""
    if name.lower().replace("_", "") not in _ANSWERS:
        return False
    return not empty(value) or value is False or value == ""


def without_effect(body: Body, fields: Fields) -> list[str]:
    """Return the fields of a body that are harmless and not empty. Raise `BadRequest` for one that is not known."""
    _only(body, fields.honoured | fields.harmless, "")
    return [name for name in body if name in fields.harmless and not empty(body[name])]


def _only(thing: Body, known: Collection[str], path: str) -> None:
    """Raise `BadRequest` if a thing has a value in a field that is not `known`."""
    for name, value in thing.items():
        if name not in known and (_answers(name, value) or not empty(value)):
            raise _refused(f"{path}.{name}" if path else name, "is not known, and could change the question")


def _refused(path: str, why: str, then: str = "leave it out") -> BadRequest:
    """Return the error for what stands at this path; `why` goes on after the path."""
    return BadRequest(f"`{path[:128]}` {why}; {then}.", field=path[:128])


def _wrong(path: str, right: str) -> BadRequest:
    return BadRequest(f"`{path}` must be {right}.", field=path)


def _object(value: Any, path: str) -> Body:
    if not isinstance(value, dict):
        raise _wrong(path, "an object")
    return value


def _role(role: Any, path: str) -> str:
    if not isinstance(role, str) or role not in _ROLES:
        why = f"is {str(role)[:64]!r}, which is not understood"
        raise _refused(f"{path}.role", why, "leave the message out")
    return _ROLES[role]


def _text(part: Body, path: str, known: Collection[str]) -> str:
    _only(part, known, path)
    text = part.get("text")
    if not isinstance(text, str):
        raise _wrong(f"{path}.text", "a string")
    return text


# -- the AI SDK (npm `ai` 5, 6, 7): UIMessage ----------------------------------------------------------------------

_UI_MESSAGE = {"id", "role", "parts", "metadata", "createdAt"}
_UI_TEXT = {"type", "text", "state", "providerMetadata"}
_UI_OURS = {"reasoning", "step-start", "source-url", "source-document"}
_UI_ROLES = ("user", "assistant", "system")
_TRIGGERS = ("submit-message", "regenerate-message")
_TOOL_STATES = (
    *("input-streaming", "input-available", "output-available", "output-error"),
    *("approval-requested", "approval-responded", "output-denied"),
)


def ai_sdk(body: Body) -> tuple[Said, list[str]]:
    """Return what a chat's request says, and its fields that have no effect. Raise `BadRequest`.

    It says its last message alone if that is its `message`; see `alone`.
    """
    trigger = body.get("trigger")
    if alone(body):
        messages = [(body["message"], "message")]
        if trigger == "regenerate-message":
            raise _refused("trigger", "regenerates an answer from `messages` alone", "send the conversation")
    else:
        messages = _ui_listed(body.get("messages"))
        if body.get("message") is not None:
            raise _refused("message", "must not be there beside `messages`", "send one of the two")
    ignored = without_effect(body, AI_SDK)
    if not empty(trigger) and trigger not in _TRIGGERS:
        raise _wrong("trigger", "submit-message or regenerate-message")
    return [turn for said, path in messages for turn in _ui_message(said, path)], ignored


def ai_sdk_replies(body: Body) -> Replies | None:
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
    replies = {}
    for index, part in enumerate(last["parts"]):
        path = f"{said}.parts[{index}]"
        _ui_part(part, path, answered=True)
        if (question := _ui_question(part)) is not None:
            replies[question] = _ui_reply(part, path)
    return _of_one_run(replies)


def ai_sdk_parts(body: Body) -> int:
    """Return how many texts, reasonings and calls the server's message has with which such a request ends."""
    last = body["message"] if alone(body) else body["messages"][-1]
    return sum(part.get("type") in ("text", "reasoning", "dynamic-tool") for part in last["parts"])


def _of_one_run(replies: Mapping[str, Reply]) -> Replies | None:
    runs = {input_id.split("-")[1]: reply.path for input_id, reply in replies.items()}
    if len(runs) > 1:
        raise _refused(list(runs.values())[-1], "is of another run than the questions before it")
    return Replies(next(iter(runs)), replies) if runs else None


def _ui_question(part: Body) -> str | None:
    """Return the question that a part is, or whose call it is."""
    approval = part.get("approval")
    ids = (approval.get("id") if isinstance(approval, dict) else None, part.get("toolCallId"))
    return next((str(name) for name in ids if _ASKED.fullmatch(str(name))), None)


def _ui_reply(part: Body, path: str) -> Reply:
    """Return a question with its answer. An approval has no parameters, and why a call is approved is no answer."""
    approval, state = part.get("approval"), part.get("state")
    if isinstance(approval, dict):
        path = f"{path}.approval"
        if state != "approval-responded":
            return Reply(path)
        approved, reason = approval.get("approved"), approval.get("reason")
        if not isinstance(approved, bool):
            raise _wrong(f"{path}.approved", "true or false")
        if approved:
            return Reply(path, answered=True, answer={"decision": "approve"})
        why = {"reason": reason} if isinstance(reason, str) and reason else {}
        return Reply(path, answered=True, answer={"decision": "reject", **why})
    return Reply(f"{path}.output", answered=state == "output-available", answer=part.get("output"))


def alone(body: Body) -> bool:
    """Return whether a chat's request brings the user's message without the conversation before it."""
    return body.get("message") is not None and empty(body.get("messages"))


def _ui_listed(messages: Any) -> list[tuple[Any, str]]:
    """Return the messages and their paths. An answer to a tool, which is no message of the user's, has a path, too."""
    try:
        return _listed(messages)
    except BadRequest:
        if messages and isinstance(messages, list) and isinstance(messages[-1], dict):
            for index, part in enumerate(parts if isinstance(parts := messages[-1].get("parts"), list) else []):
                _ui_part(part, f"messages[{len(messages) - 1}].parts[{index}]", answered=True)
        raise


def _listed(messages: Any) -> list[tuple[Any, str]]:
    """Return the messages of a conversation, which must end with the user's, and their paths."""
    if not isinstance(messages, list):
        raise _wrong("messages", "a list of messages")
    if not messages or not isinstance(messages[-1], dict) or messages[-1].get("role") != "user":
        raise BadRequest("`messages` must end with the user's message.", field="messages")
    if len(messages) > MAX_SENT:
        raise BadRequest(f"`messages` must have {MAX_SENT:,} entries at most.", field="messages")
    return [(said, f"messages[{index}]") for index, said in enumerate(messages)]


def _ui_message(said: Any, path: str) -> list[tuple[str, str]]:
    """Return the turns in a message: one, or several if the user said something to the run that gave the answer."""
    said = _object(said, path)
    _only(said, _UI_MESSAGE, path)
    role, parts = said.get("role"), said.get("parts")
    if role not in _UI_ROLES:
        raise _wrong(f"{path}.role", "user, assistant or system")
    if not isinstance(parts, list):
        raise _wrong(f"{path}.parts", "a list of parts")
    answered = role == "assistant"
    turns = [(role, "")]
    for index, part in enumerate(parts):
        text = _ui_part(part, f"{path}.parts[{index}]", answered=answered)
        if part["type"] == "data-user-message" and isinstance(data := part.get("data"), dict):
            turns += [("user", str(data.get("content"))), (role, "")]
        else:
            turns[-1] = (role, turns[-1][1] + text)
    return turns


def _ui_part(part: Any, path: str, *, answered: bool) -> str:
    """Return the text of a part, which is empty for what the server itself has put into an answer."""
    kind = str(_object(part, path).get("type"))
    if kind == "text":
        return _text(part, path, _UI_TEXT)
    ours = kind in _UI_OURS or kind.startswith("data-") or (kind == "dynamic-tool" and _called_here(part))
    if not (answered and ours):
        raise _refused(path, f"has the type {kind[:64]!r}, which is not understood in a message of this role")
    return ""


def _called_here(part: Body) -> bool:
    """Return whether the server made this call of a tool, or asked this question."""
    if part.get("state") not in _TOOL_STATES:
        return False
    if not empty(part.get("approval")) or not _OURS.fullmatch(str(part.get("toolCallId"))):
        return _ui_question(part) is not None
    return True


# -- AG-UI: RunAgentInput ------------------------------------------------------------------------------------------

_AG_UI_MESSAGE = {
    *("id", "role", "content", "name", "metadata", "encryptedValue", "subagentRunId"),
    *("createdAt", "timestamp", "type", "status", "agentName", "parentId", "parentMessageId", "runId", "threadId"),
}
_NOBODY_WAITS = "is an answer, and names no question"
_AG_UI_TEXT = {"type", "text", "id", "metadata"}


def ag_ui_answers(body: Body) -> None:
    """Raise `BadRequest` for an answer to an interrupt in another place than `resume`."""
    props = body.get("forwardedProps")
    command = props.get("command") if isinstance(props, dict) else None
    for path, thing in (("forwardedProps", props), ("forwardedProps.command", command)):
        for name, value in thing.items() if isinstance(thing, dict) else ():
            if _answers(name, value):
                raise _refused(f"{path}.{name}", _NOBODY_WAITS, "answer in `resume`")


def ag_ui_replies(body: Body) -> Replies | None:
    """Return the questions that a request's `resume` answers, or gives up. Raise `BadRequest`. None if it has none."""
    entries = body.get("resume")
    if empty(entries):
        return None
    if not isinstance(entries, list):
        raise _wrong("resume", "a list of entries")
    replies = {}
    for index, entry in enumerate(entries):
        path = f"resume[{index}]"
        _only(_object(entry, path), {"interruptId", "status", "payload", "metadata"}, path)
        input_id, status = entry.get("interruptId"), entry.get("status")
        if not _ASKED.fullmatch(str(input_id)):
            raise _refused(f"{path}.interruptId", "names no question of this server's")
        if status not in ("resolved", "cancelled"):
            raise _wrong(f"{path}.status", "resolved or cancelled")
        given_up = status == "cancelled"
        if given_up and entry.get("payload") is not None:
            raise _refused(f"{path}.payload", "is an answer to a question that is given up")
        replies[str(input_id)] = Reply(f"{path}.payload", not given_up, entry.get("payload"), given_up)
    return _of_one_run(replies)


def ag_ui_decision(reply: Reply) -> dict[str, Any]:
    """Return a payload, or a question that is given up, as the answer to an approval. Raise `BadRequest`."""
    if reply.given_up:
        return {"decision": "reject"}
    said = _object(reply.answer, reply.path)
    _only(said, {"approved", "editedArgs", "reason"}, reply.path)
    approved, edited, reason = said.get("approved"), said.get("editedArgs"), said.get("reason")
    if not isinstance(approved, bool):
        raise _wrong(f"{reply.path}.approved", "true or false")
    if edited is not None and not (approved and isinstance(edited, dict)):
        raise _wrong(f"{reply.path}.editedArgs", "an object, and only there if `approved` is true")
    if not isinstance(reason or "", str):
        raise _wrong(f"{reply.path}.reason", "a string")
    if approved:
        return {"decision": "approve", **({} if edited is None else {"parameters": edited})}
    return {"decision": "reject", **({"reason": reason} if reason else {})}


def ag_ui_message(body: Body, run_id: str, asked: Any) -> str | None:
    """Return the path of the message, if the conversation ends with one of the user's that is not of this run.

    `asked` is the run's own question, which ends the conversation if the run has said nothing. Raise `BadRequest`.
    """
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    ids = [str(said.get("id")).partition("-")[0] for said in messages or () if isinstance(said, dict)]
    if not isinstance(last, dict) or last.get("role") != "user" or ids[-1] == run_id:
        return None
    path = f"messages[{len(messages or ()) - 1}]"
    return path if run_id in ids or _content(last.get("content"), f"{path}.content", _AG_UI_TEXT) != asked else None


def ag_ui(body: Body) -> tuple[Said, list[str]]:
    """Return what a thread's request says, and its fields that have no effect. Raise `BadRequest`."""
    messages = _listed(body.get("messages"))
    ignored = without_effect(body, AG_UI)
    turns = (_ag_ui_message(_object(said, path), path) for said, path in messages)
    return [turn for turn in turns if turn is not None], ignored


def _ag_ui_message(said: Body, path: str) -> tuple[str, str] | None:
    """Return a message's role and text; None for one that only shows how the server came to its answer."""
    role = said.get("role")
    if role == "reasoning":
        return None
    if role == "tool":
        if not _OURS.fullmatch(str(said.get("toolCallId"))):
            raise _refused(path, "is the result of a call that the server did not make")
        return None
    normal = _role(role, path)
    _only(said, {*_AG_UI_MESSAGE, "toolCalls"} if role == "assistant" else _AG_UI_MESSAGE, path)
    calls = said.get("toolCalls") or []
    for index, call in enumerate(calls if isinstance(calls, list) else [calls]):
        if not (isinstance(call, dict) and _OURS.fullmatch(str(call.get("id")))):
            raise _refused(f"{path}.toolCalls[{index}]", "is a call that the server did not make")
    return normal, _content(said.get("content"), f"{path}.content", _AG_UI_TEXT)


# -- OpenAI's chat completions -------------------------------------------------------------------------------------

_OPENAI_MESSAGE = {"role", "content", "name", "id", "metadata", "cache_control", "timestamp", "created_at"}
_OPENAI_ANSWER = {
    *_OPENAI_MESSAGE,
    *("refusal", "annotations", "reasoning_content", "reasoning", "reasoning_details", "thinking_blocks"),
    "provider_specific_fields",
}
_OPENAI_TEXT = {"type", "text", "cache_control", "annotations", "id", "index"}
_STREAM_OPTIONS = {"include_usage", "include_obfuscation", "continuous_usage_stats"}


def openai(body: Body) -> tuple[Said, list[str]]:
    """Return what a completion's request says, and its fields that have no effect. Raise `BadRequest`."""
    messages = _listed(body.get("messages"))
    _openai_settings(body)
    ignored = without_effect(body, OPENAI)
    return [_openai_message(_object(said, path), path) for said, path in messages], ignored


def _openai_message(said: Body, path: str) -> tuple[str, str]:
    role = said.get("role")
    normal = _role(role, path)
    _only(said, _OPENAI_ANSWER if role == "assistant" else _OPENAI_MESSAGE, path)
    refusal = said.get("refusal") or ""
    if not isinstance(refusal, str):
        raise _wrong(f"{path}.refusal", "a string")
    content = said.get("content")
    if role == "assistant" and isinstance(content, list):
        content = [_refusal_as_text(part) for part in content]
    return normal, _content(content, f"{path}.content", _OPENAI_TEXT) + refusal


def _refusal_as_text(part: Any) -> Any:
    """Return a part of an answer, one that says why there is none as the text that it is."""
    if isinstance(part, dict) and part.get("type") == "refusal" and part.keys() == {"type", "refusal"}:
        return {"type": "text", "text": part["refusal"]}
    return part


def _openai_settings(body: Body) -> None:
    """Raise `BadRequest` for a setting that asks for what an agent's one text is not."""
    format_, choice, modalities = body.get("response_format"), body.get("tool_choice"), body.get("modalities")
    refused = {
        **{name: not empty(body.get(name)) for name in ("tools", "functions", "logprobs", "audio")},
        "function_call": not empty(body.get("function_call")) and body.get("function_call") not in ("none", "auto"),
        "web_search_options": body.get("web_search_options") is not None,
        "n": body.get("n") not in (None, 1),
        "response_format": not empty(format_) and format_ != {"type": "text"},
        "tool_choice": not empty(choice) and choice not in ("none", "auto"),
        "modalities": not empty(modalities) and modalities != ["text"],
    }
    for name, wrong in refused.items():
        if wrong:
            raise _refused(name, "is not supported, since an agent answers with one text and calls its own tools")
    if isinstance(options := body.get("stream_options"), dict):
        _only(options, _STREAM_OPTIONS, "stream_options")


def _content(content: Any, path: str, known: Collection[str]) -> str:
    """Return the text of a message's content, which is a string or has parts that are text."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise _wrong(path, "a string, or a list of parts")
    return "".join(_part(part, f"{path}[{index}]", known) for index, part in enumerate(content))


def _part(part: Any, path: str, known: Collection[str]) -> str:
    kind = str(_object(part, path).get("type"))
    if kind != "text":
        raise _refused(path, f"has the type {kind[:64]!r}, which is not understood")
    return _text(part, path, known)


def question(said: Sequence[tuple[str, str]], limit: int) -> tuple[str, list[Message]]:
    """Return the last message, and of those before it that have a text the newest: `MAX_MESSAGES`, and `limit` bytes.

    Raise `BadRequest` if the last one has none.
    """
    if not said[-1][1].strip():
        raise BadRequest("The user's last message must have a text.", field="messages")
    history: list[Message] = []
    for role, words in reversed(said[:-1]):
        if not words.strip():
            continue
        limit -= len(words.encode("utf-8", "replace"))
        if limit < 0 or len(history) >= MAX_MESSAGES:
            break
        history.append({"role": role, "content": words})
    return said[-1][1], history[::-1]
