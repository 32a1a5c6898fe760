"""The requests of OpenAI's chat completions, and what clients of other servers like it send."""

from __future__ import annotations

from typing import Any

from twinwire.agents.accepts import Accepts
from twinwire.protocol.parts import KINDS, Part, checked, wrong
from twinwire.web.compat.dialects import (
    COMMON,
    Asked,
    Body,
    Content,
    Fields,
    Turn,
    as_content,
    as_messages,
    as_object,
    as_role,
    asked,
    check_media,
    empty,
    only,
    refused,
)

_VENDORS = {
    *("enable_thinking", "thinking_budget", "think", "include_reasoning", "reasoning_format", "chat_template_kwargs"),
    *("best_of", "repeat_penalty", "repeat_last_n", "random_seed", "stop_token_ids", "ignore_eos", "mirostat"),
    *("mirostat_eta", "mirostat_tau", "tfs_z", "top_n_sigma", "skip_special_tokens", "spaces_between_special_tokens"),
    *("add_generation_prompt", "num_ctx", "num_predict", "n_predict", "keep_alive", "options", "truncation"),
    *("cache_prompt", "timings_per_token", "return_progress", "samplers", "priority", "safe_prompt"),
    *("provider", "transforms", "usage", "drop_params", "session_id", "chat_id"),
}
"""Settings that clients of other OpenAI-compatible servers send: of sampling, of speed, and of what is reported."""
FIELDS = Fields(
    {
        *("model", "messages", "stream", "stream_options"),
        *("n", "response_format", "tool_choice", "function_call", "modalities"),
    },
    {
        *COMMON,
        *_VENDORS,
        *("parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "prediction"),
    },
)
_MESSAGE = {"role", "content", "name", "id", "metadata", "cache_control", "timestamp", "created_at"}
_ANSWER = {
    *_MESSAGE,
    *("refusal", "annotations", "reasoning_content", "reasoning", "reasoning_details", "thinking_blocks"),
    "provider_specific_fields",
}
_BESIDE = {"cache_control", "annotations", "id", "index"}
"""The fields that a part may have beside its content."""
_STREAM_OPTIONS = {"include_usage", "include_obfuscation", "continuous_usage_stats"}
_TEXT_FORMAT = {"type": "text"}


def read(body: Body, accepts: Accepts) -> Asked:
    """Return what a completion's request asks an agent. Raise `BadRequest`."""
    messages = as_messages(body.get("messages"))
    _check_settings(body, accepts)
    turns = [_turn(as_object(said, path), path, accepts) for said, path in messages]
    found = asked(turns, body, FIELDS, accepts, messages[-1][0])
    if not empty(shape := body.get("response_format")) and shape != _TEXT_FORMAT:
        found.params["response_format"] = shape
    return found


def _turn(said: Body, path: str, accepts: Accepts) -> Turn:
    role = said.get("role")
    normal = as_role(role, path)
    only(said, _ANSWER if role == "assistant" else _MESSAGE, path)
    refusal = said.get("refusal") or ""
    if not isinstance(refusal, str):
        raise wrong(f"{path}.refusal", "a string")
    content = said.get("content")
    if role == "assistant" and isinstance(content, list):
        content = [_refusal_as_text(part) for part in content]
    found = _content(content, f"{path}.content", normal, accepts)
    if refusal:
        found.say(refusal)
    return found.turn(normal)


def _refusal_as_text(part: Any) -> Any:
    """Return a part of an answer, one that says why there is none as the text that it is."""
    if isinstance(part, dict) and part.get("type") == "refusal" and part.keys() == {"type", "refusal"}:
        return {"type": "text", "text": part["refusal"]}
    return part


def _content(content: Any, path: str, role: str, accepts: Accepts) -> Content:
    def media(part: Body, at: str, kind: str) -> Part | None:
        if kind not in KINDS:
            return None
        check_media(KINDS[kind], at, accepts, role)
        return checked({name: value for name, value in part.items() if name not in _BESIDE}, at)

    return as_content(content, path, {"type", "text", *_BESIDE}, media)


def _check_settings(body: Body, accepts: Accepts) -> None:
    """Raise `BadRequest` for a setting that asks for what an agent's one text is not."""
    shape, choice, modalities = body.get("response_format"), body.get("tool_choice"), body.get("modalities")
    wanted = {
        **{name: not empty(body.get(name)) for name in ("tools", "functions", "logprobs", "audio")},
        "function_call": not empty(body.get("function_call")) and body.get("function_call") not in ("none", "auto"),
        "web_search_options": body.get("web_search_options") is not None,
        "n": body.get("n") not in (None, 1),
        "response_format": not (empty(shape) or shape == _TEXT_FORMAT or accepts.setting("response_format")),
        "tool_choice": not empty(choice) and choice not in ("none", "auto"),
        "modalities": not empty(modalities) and modalities != ["text"],
    }
    for name, wrongly in wanted.items():
        if wrongly:
            raise refused(name, "is not supported, since an agent answers with one text and calls its own tools")
    if isinstance(options := body.get("stream_options"), dict):
        only(options, _STREAM_OPTIONS, "stream_options")
