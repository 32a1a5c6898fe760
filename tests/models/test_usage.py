"""What model servers tell of their tokens: each one's own names, and when a call's usage is told before its end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.model_server import DONE, answer, call_deltas, delta, end, sse, text
from twinwire.models import Finish, Part, Text, Usage
from twinwire.models.openai.chunks import CALLS_TOLD, ChunkDecoder
from twinwire.models.openai.fields import usage_of

TOLD: dict[str, tuple[dict[str, Any], Usage]] = {
    "OpenAI": (
        {
            "prompt_tokens": 19,
            "completion_tokens": 10,
            "total_tokens": 29,
            "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 4, "accepted_prediction_tokens": 0},
        },
        Usage(19, 10, 29, 8, 4),
    ),
    "OpenAI's Responses": (
        {
            "input_tokens": 19,
            "output_tokens": 10,
            "input_tokens_details": {"cached_tokens": 8},
            "output_tokens_details": {"reasoning_tokens": 4},
        },
        Usage(19, 10, 29, 8, 4),
    ),
    "DeepSeek": (
        {
            "prompt_tokens": 19,
            "completion_tokens": 10,
            "total_tokens": 29,
            "prompt_cache_hit_tokens": 8,
            "prompt_cache_miss_tokens": 11,
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
        Usage(19, 10, 29, 8, 4),
    ),
    "Anthropic": (
        {"input_tokens": 19, "output_tokens": 10, "cache_read_input_tokens": 8, "cache_creation_input_tokens": 0},
        Usage(19, 10, 29, 8),
    ),
    "Moonshot": ({"prompt_tokens": 19, "completion_tokens": 10, "cached_tokens": 8}, Usage(19, 10, 29, 8)),
    "reasoning beside the completion": (
        {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 33, "reasoning_tokens": 4},
        Usage(19, 10, 33, 0, 4),
    ),
    "details that are null, empty or no objects": (
        {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": None, "completion_tokens_details": []},
        Usage(1, 2, 3),
    ),
    "counts that are null, floats or texts": (
        {
            "prompt_tokens": 19.0,
            "completion_tokens": "10",
            "total_tokens": None,
            "prompt_tokens_details": {"cached_tokens": "8"},
            "completion_tokens_details": {"reasoning_tokens": None},
        },
        Usage(19, 10, 29, 8),
    ),
    "a total below its parts": ({"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 10}, Usage(19, 10, 29)),
    "a total alone": ({"total_tokens": 9}, Usage(0, 0, 9)),
}


def test_void_tokens() -> None:
    """Tokens of void answers count for a budget, are told if there are some, and are in no other count."""
    usage = Usage(10, 5, 15)
    assert usage.told.keys() == {"prompt_tokens", "completion_tokens", "total_tokens"}
    usage.add(Usage(voided_tokens=7))
    assert (usage.counted, usage.spent) == (15, 22)
    assert usage.told == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "voided_tokens": 7}


@pytest.mark.parametrize(("told", "usage"), TOLD.values(), ids=TOLD)
def test_the_names_of_each_server(told: dict[str, Any], usage: Usage) -> None:
    """The tokens that came from a cache and those of reasoning are read from wherever a server tells them."""
    assert usage_of(told, None) == usage
    decoder = ChunkDecoder()
    assert decoder.feed(b"".join([*text("a"), delta({}, "stop"), sse({"usage": told}), DONE]))[-1] == Finish(
        "stop", usage
    )


def test_the_newest_count_of_each_counts() -> None:
    """A count that is missing in a later usage, or 0, leaves the one before."""
    first = usage_of({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}}, None)
    assert usage_of({"completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}}, first) == Usage(5, 2, 7, 3)


EARLY: dict[str, tuple[bytes, list[Part], bool]] = {
    "with each chunk": (
        delta({"content": "a"}, usage={"prompt_tokens": 5, "completion_tokens": 1})
        + delta({"content": "b"}, usage={"prompt_tokens": 5, "completion_tokens": 2})
        + b"".join(end(usage=(5, 2))),
        [Text("a"), Usage(5, 1, 6), Text("b"), Usage(5, 2, 7), Finish("stop", Usage(5, 2, 7))],
        False,
    ),
    "before the answer": (
        sse({"choices": [], "usage": {"prompt_tokens": 5}}) + b"".join(answer("a")),
        [Usage(5, 0, 5), Text("a"), Finish("stop", Usage(3, 2, 5))],
        False,
    ),
    "the same again": (
        delta({"content": "a"}, usage={"total_tokens": 5}) + delta({"content": "b"}, usage={"total_tokens": 5}),
        [Text("a"), Usage(0, 0, 5), Text("b"), Usage(0, 0, 5)],
        True,
    ),
    "before an error": (
        delta({"content": "a"}, "stop") + sse({"usage": {"total_tokens": 5}}) + sse({"error": {"message": "no"}}),
        [Text("a"), Usage(0, 0, 5)],
        True,
    ),
    "within an error": (
        delta({"content": "a"}) + sse({"error": {"message": "no"}, "usage": {"total_tokens": 5}}),
        [Text("a"), Usage(0, 0, 5)],
        True,
    ),
}


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize(("body", "parts", "fails"), EARLY.values(), ids=EARLY)
def test_a_usage_before_the_end(body: bytes, parts: list[Part], fails: bool, size: int) -> None:
    """A usage that comes before the finish_reason, or of an answer that fails, is told in its place."""
    decoder = ChunkDecoder()
    told: list[Part] = []
    for at in range(0, len(body), size):
        told += [] if decoder.done else decoder.feed(body[at : at + size])
    told += [] if decoder.done else decoder.end()
    assert (told, decoder.error is not None) == (parts, fails)


def test_the_arguments_of_calls_are_estimated() -> None:
    """Calls come whole at the end; while they come, their size is told each kibibyte, unless the server counts."""
    called = call_deltas(("Write", {"text": "x" * 10_000}), pieces=100)
    decoder = ChunkDecoder()
    estimates = [part for chunk in called for part in decoder.feed(chunk)]
    assert all(isinstance(part, Usage) and part.counted == 0 for part in estimates)
    told = [part.estimated_tokens for part in estimates if isinstance(part, Usage)]
    assert told == sorted(told)
    assert len(told) == len(json.dumps({"text": "x" * 10_000})) // CALLS_TOLD
    assert told[-1] == pytest.approx(2500, abs=CALLS_TOLD // 4)
    counting = ChunkDecoder()
    counting.feed(sse({"choices": [], "usage": {"prompt_tokens": 5}}))
    assert [part for chunk in called for part in counting.feed(chunk)] == []
