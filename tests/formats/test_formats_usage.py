"""A run's usage in each format: its cached and reasoning tokens, also of a run that failed."""

from __future__ import annotations

from typing import Any

import pytest

from support.formats_rules import datas, records
from twinwire.formats import SseView, ag_ui, ai_sdk, openai
from twinwire.protocol.events import StreamEvent, decode

USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17, "cached_tokens": 8, "reasoning_tokens": 2}
THEIRS = {"inputTokens": 12, "outputTokens": 5, "totalTokens": 17, "cachedInputTokens": 8, "reasoningTokens": 2}
OPENAI = {
    "prompt_tokens": 12,
    "completion_tokens": 5,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
FINISH = StreamEvent("AGENT_FINISH", {"result": "a", "status": "completed", "usage": USAGE})
ERROR = StreamEvent("ERROR", {"error_type": "timeout", "message": "late", "error": "late", "usage": USAGE})


def ends(view: Any, event: StreamEvent) -> list[dict[str, Any]]:
    """Return what a run that ends with this event ends with."""
    return [value for value in datas(view.frames(records([event]))) if value != "[DONE]"]


@pytest.mark.parametrize("event", [FINISH, ERROR])
def test_ag_ui(event: StreamEvent) -> None:
    """AG-UI has the usage in both ends of a run, and none for a client from before 1.0."""
    assert ends(SseView(ag_ui.Events()), event)[-1]["usage"] == [THEIRS]
    assert "usage" not in ends(SseView(ag_ui.Events(modern=False)), event)[-1]


def test_void_tokens() -> None:
    """Tokens of void answers are in no count of another protocol; OpenAI's usage has them beside its own."""
    finish = StreamEvent("AGENT_FINISH", {**FINISH.data, "usage": {**USAGE, "voided_tokens": 7}})
    assert ends(SseView(ag_ui.Events()), finish)[-1]["usage"] == [THEIRS]
    assert ends(ai_sdk.view(), finish)[-1]["messageMetadata"]["usage"] == THEIRS
    assert ends(openai.view("a", usage=True), finish)[-1]["usage"] == {**OPENAI, "voided_tokens": 7}


def test_ai_sdk() -> None:
    """The AI SDK's message has it in its metadata: a finish brings it, and a chunk of its own before an error."""
    assert ends(ai_sdk.view(), FINISH)[-1]["messageMetadata"]["usage"] == THEIRS
    *_, told, error = ends(ai_sdk.view(), ERROR)
    assert told == {"type": "message-metadata", "messageMetadata": {"usage": THEIRS}}
    assert error["type"] == "error"


def test_openai() -> None:
    """OpenAI's form has them in the details, of a run that failed before its error, and only if they are asked for."""
    assert ends(openai.view("a", usage=True), FINISH)[-1]["usage"] == OPENAI
    *_, told, error = ends(openai.view("a", usage=True), ERROR)
    assert (told["choices"], told["usage"], error["error"]["code"]) == ([], OPENAI, "timeout")
    assert not any("usage" in chunk for chunk in ends(openai.view("a"), ERROR))
    [record] = records([FINISH])
    assert openai.completion("a", decode(record.body))["usage"] == OPENAI


@pytest.mark.parametrize("view", [SseView(ag_ui.Events()), ai_sdk.view(), openai.view("a", usage=True)])
def test_a_failed_run_without_a_usage(view: Any) -> None:
    """A run that has used nothing tells of no usage beside its error."""
    told = ends(view, StreamEvent("ERROR", {"error_type": "timeout", "message": "late"}))
    assert all(not value.get("usage") and value["type"] != "message-metadata" for value in told if "type" in value)
