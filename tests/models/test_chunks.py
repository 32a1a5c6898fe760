"""The decoder of streamed chat completions, by tables of bodies: whole, and a byte at a time."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, strategies as st

from support.model_server import DONE, answer, call_deltas, calls, crlf, delta, end, obfuscation, reasoning, sse, text
from twinwire.models import Finish, Part, Text, Thinking, ToolCall, Usage
from twinwire.models.openai import chunks
from twinwire.models.openai.chunks import MAX_EVENT, ChunkDecoder
from twinwire.models.openai.texts import MAX_MISSES
from twinwire.protocol.errors import UpstreamError

USAGE = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)
STOP = Finish("stop", USAGE)
HI = b'{"choices":[{"delta":{"content":"hi"}}]}'
END = b"".join(end())


def tool(index: int | None, identifier: str | None, name: str | None, arguments: str | None) -> bytes:
    """Make a chunk with one delta of a tool call; what is None is left out."""
    fields: dict[str, Any] = {"index": index, "id": identifier, "function": {"name": name, "arguments": arguments}}
    return delta({"tool_calls": [{key: value for key, value in fields.items() if value is not None}]})


def decode(pieces: Sequence[bytes]) -> list[Part]:
    """Feed the pieces of a body, and end it where it has not ended itself."""
    decoder = ChunkDecoder()
    parts: list[Part] = []
    for piece in pieces:
        parts += decoder.feed(piece)
        if decoder.done:
            break
    else:
        parts += decoder.end()
    if decoder.error is not None:
        raise decoder.error
    return [
        ToolCall("?", part.name, part.arguments, part.state)
        if isinstance(part, ToolCall) and re.fullmatch("call_[0-9a-f]{32}", part.id)
        else part
        for part in parts
    ]


def finish(reason: str, usage: Usage | None = USAGE, **state: Any) -> Finish:
    """Make a Finish with a state."""
    return Finish(reason, usage, state)


BODIES: dict[str, tuple[bytes, list[Part]]] = {
    "text": (b"".join(answer("Hel", "lo")), [Text("Hel"), Text("lo"), STOP]),
    "CRLF": (b"".join(crlf(answer("Hel", "lo"))), [Text("Hel"), Text("lo"), STOP]),
    "CR": (b"".join(answer("Hel", "lo")).replace(b"\n", b"\r"), [Text("Hel"), Text("lo"), STOP]),
    "line ends mixed": (b"data:%b\r\ndata:\n\r\n" % HI + END, [Text("hi"), STOP]),
    "a BOM": (b"\xef\xbb\xbfdata: %b\n\n" % HI + END, [Text("hi"), STOP]),
    "comments and other fields": (
        b": ping\n\nevent: x\nid: 1\nretry: 5\nnonsense\ndatax: 1\ndata: %b\n: c\n\n\n\ndata\n\ndata:\n\n" % HI + END,
        [Text("hi"), STOP],
    ),
    "no space after the colon": (b"data:%b\n\n" % HI + END, [Text("hi"), STOP]),
    "several data lines": (b'data: {"choices":\ndata:  [{"delta":{"content":"hi"}}]}\n\n' + END, [Text("hi"), STOP]),
    "UTF-8": (b"".join(answer("grün ", "漢字", "🚀")), [Text("grün "), Text("漢字"), Text("🚀"), STOP]),
    "line separators in a token": (b"".join(answer("a\u2028b\x85c\r\n\x0b")), [Text("a\u2028b\x85c\r\n\x0b"), STOP]),
    "lone surrogates": (
        b'data: {"choices":[{"delta":{"content":"a\\ud800b \\u00fc\\ud83d\\ude80"}}]}\n\n' + END,
        [Text("a\ufffdb ü🚀"), STOP],
    ),
    "reasoning": (
        b"".join([*reasoning("h"), *reasoning("m"), *answer("a")]),
        [Thinking("h"), Thinking("m"), Text("a"), finish("stop", reasoning_content="hm")],
    ),
    "reasoning, the other name": (
        b"".join([*reasoning("hm", field="reasoning"), *answer("a")]),
        [Thinking("hm"), Text("a"), finish("stop", reasoning="hm")],
    ),
    "reasoning under both names": (
        delta({"reasoning": "hm", "reasoning_content": "hm", "content": "a"}) + END,
        [Thinking("hm"), Text("a"), finish("stop", reasoning="hm", reasoning_content="hm")],
    ),
    "empty and null deltas": (
        delta({"role": "assistant", "content": ""})
        + delta({"content": None, "tool_calls": None})
        + sse({"choices": [{"delta": None}]})
        + sse({"choices": None})
        + sse({"type": "ping"})
        + END,
        [STOP],
    ),
    "halves of a surrogate pair": (
        b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n'
        b'data: {"choices":[{"delta":{"content":"\\ude80b\\ud83d"}}]}\n\n' + END,
        [Text("a"), Text("🚀b"), Text("\ufffd"), STOP],
    ),
    "bad UTF-8": (b'data: {"choices":[{"delta":{"content":"a\xc3"}}]}\n\n' + END, [Text("a\ufffd"), STOP]),
    "a content of parts": (
        delta({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]})
        + delta({"content": [{"type": "text", "text": "a"}, "b", {"type": "image", "text": "c"}]})
        + END,
        [Thinking("hm"), Text("ab"), STOP],
    ),
    "errors that say nothing": (
        sse({"choices": [{"delta": {"content": "a"}, "error": {"code": None}}], "error": {}}) + END,
        [Text("a"), STOP],
    ),
    "null, and what is no usage": (b"data: null\n\n" + sse({"usage": []}) + sse({"usage": ""}) + END, [STOP]),
    "counts of other types": (
        delta({}, "stop")
        + sse({"usage": {"prompt_tokens": 12.0, "completion_tokens": "3", "total_tokens": None}})
        + sse({"usage": {"prompt_tokens_details": {"cached_tokens": 0}}})
        + DONE,
        [Finish("stop", Usage(12, 3, 15))],
    ),
    "a reason with more after it": (
        delta({"content": "a"}, "stop") + delta({"content": "b"}, "LENGTH") + DONE,
        [Text("a"), Text("b"), Finish("length")],
    ),
    "reasons that are none": (
        delta({"content": "a"}, "null") + delta({"content": "b"}, "") + END,
        [*map(Text, "ab"), STOP],
    ),
    "[DONE] with blanks": (delta({"content": "a"}, "stop") + b"data: [DONE] \n\n", [Text("a"), Finish("stop")]),
    "[DONE] without a reason": (delta({"content": "a"}) + DONE, [Text("a"), Finish("unknown")]),
    "a last event without its blank line": (delta({"content": "a"}, "stop").rstrip(), [Text("a"), Finish("stop")]),
    "a refusal": (delta({"refusal": "No."}) + delta({}, "stop") + DONE, [Text("No."), Finish("content_filter")]),
    "another choice": (
        sse({"choices": [{"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "b"}}]}) + END,
        [Text("a"), STOP],
    ),
    "a message beside the deltas": (
        delta({"content": "a"}) + sse({"choices": [{"delta": None, "message": {"content": "a"}}]}) + END,
        [Text("a"), STOP],
    ),
    "a whole completion": (
        b' {"choices": [{"message": {"content": "a", "tool_calls": [{"id": "b", "function": {"name": "B"}}]},\n%b'
        % b'"finish_reason": "tool_calls"}], "usage": {"total_tokens": 9}}',
        [Text("a"), ToolCall("b", "B", ""), Finish("tool_calls", Usage(total_tokens=9))],
    ),
    "usage with the finish": (
        sse({"choices": [{"delta": {}, "finish_reason": "length"}], "usage": {"total_tokens": 9}}) + DONE,
        [Finish("length", Usage(total_tokens=9))],
    ),
    "no usage": (b"".join(end(usage=None)), [Finish("stop")]),
    "no [DONE]": (delta({"content": "a"}, "stop"), [Text("a"), Finish("stop")]),
    "more after [DONE]": (END + b"data: garbage\n\n", [STOP]),
    "parallel calls": (
        b"".join(calls(("Read", {"path": "x"}), ("Search", {"pattern": "ü"}))),
        [
            ToolCall("call_1", "Read", json.dumps({"path": "x"})),
            ToolCall("call_2", "Search", json.dumps({"pattern": "ü"})),
            Finish("tool_calls", USAGE),
        ],
    ),
    "a call after text": (
        b"".join([*text("I read"), *call_deltas(("Read", "{}")), *text("!"), *end("tool_calls")]),
        [Text("I read"), Text("!"), ToolCall("call_1", "Read", "{}"), Finish("tool_calls", USAGE)],
    ),
    "calls interleaved": (
        b"".join([tool(1, "b", "B", "{"), tool(0, "a", "A", "["), tool(1, None, None, "}"), tool(0, None, None, "]")])
        + END,
        [ToolCall("b", "B", "{}"), ToolCall("a", "A", "[]"), STOP],
    ),
    "a call in one chunk": (tool(0, "a", "A", '{"x":1}') + END, [ToolCall("a", "A", '{"x":1}'), STOP]),
    "a late id and name": (
        tool(0, None, None, "{") + tool(0, "a", None, None) + tool(0, None, "A", "}") + END,
        [ToolCall("a", "A", "{}"), STOP],
    ),
    "a repeated id and name": (
        tool(0, "a", "A", "{") + tool(0, "a", "A", "}") + END,
        [ToolCall("a", "A", "{}"), STOP],
    ),
    "a new id in each delta": (
        tool(0, "a", "A", "{") + tool(0, "b", None, "}") + END,
        [ToolCall("a", "A", "{}"), STOP],
    ),
    "one index for all calls": (
        tool(0, "a", "A", "{}") + tool(0, "b", "B", "[]") + END,
        [ToolCall("a", "A", "{}"), ToolCall("b", "B", "[]"), STOP],
    ),
    "no index": (
        tool(None, "a", "A", "{") + tool(None, None, None, "}") + tool(None, "b", "B", "{}") + END,
        [ToolCall("a", "A", "{}"), ToolCall("b", "B", "{}"), STOP],
    ),
    "one index and no ids for all calls": (
        tool(0, None, "A", '{"x":1}') + tool(0, None, "B", '{"x":') + tool(0, None, None, "2}") + END,
        [ToolCall("?", "A", '{"x":1}'), ToolCall("?", "B", '{"x":2}'), STOP],
    ),
    "one id for two calls": (
        tool(0, "a", "A", '{"x":1}') + tool(1, "a", "A", '{"x":2}') + END,
        [ToolCall("a", "A", '{"x":1}'), ToolCall("?", "A", '{"x":2}'), STOP],
    ),
    "a whole call that comes again": (
        tool(0, "a", "A", '{"x":1}') * 2 + tool(0, None, "B", '{"x":2}') * 2 + END,
        [ToolCall("a", "A", '{"x":1}'), ToolCall("?", "B", '{"x":2}'), STOP],
    ),
    "a name in each delta": (
        tool(0, None, "A", "") + tool(0, None, "A", '{"x"') + tool(0, None, "A", ":1}") + END,
        [ToolCall("?", "A", '{"x":1}'), STOP],
    ),
    "arguments that begin as {}": (
        tool(0, "a", "A", "{}") + tool(0, None, None, '{"x":') + tool(0, None, None, "1}") + END,
        [ToolCall("a", "A", '{"x":1}'), STOP],
    ),
    "indexes and ids of other types": (
        sse({"choices": [{"delta": {"tool_calls": {"index": "1", "id": 7, "function": {"name": "A"}}}}]})
        + delta({"tool_calls": [{"index": 1.0, "id": "", "function": {"name": "", "arguments": {"x": 1}}}, None]})
        + END,
        [ToolCall("7", "A", '{"x":1}'), STOP],
    ),
    "a function_call": (
        delta({"function_call": {"name": "A", "arguments": ""}})
        + delta({"function_call": {"arguments": "{}"}}, "function_call")
        + DONE,
        [ToolCall("?", "A", "{}"), Finish("tool_calls")],
    ),
    "the state of a call": (
        delta({"tool_calls": [{"id": "a", "type": "function", "function": {"name": "A"}, "extra": {"s": "x"}}]})
        + delta({"tool_calls": [{"index": 0, "function": {"arguments": "{}", "sign": "y"}, "extra": {"t": None}}]})
        + END,
        [ToolCall("a", "A", "{}", {"extra": {"s": "x", "t": None}, "function": {"sign": "y"}}), STOP],
    ),
    "the state of a message": (
        delta({"reasoning_details": [{"index": 0, "type": "t", "text": "a"}], "sign": "x", "audio": None})
        + delta({"reasoning_details": [{"index": 0, "type": "t", "text": "a", "s": "y"}, {"type": "u"}], "sign": "x"})
        + END,
        [
            finish(
                "stop",
                reasoning_details=[{"index": 0, "type": "t", "text": "aa", "s": "y"}, {"type": "u"}],
                sign="x",
            )
        ],
    ),
    "calls cut by the token limit": (
        tool(0, "a", "A", "{}") + tool(1, "b", "B", '{"x') + delta({}, "length") + DONE,
        [ToolCall("a", "A", "{}"), Finish("length")],
    ),
    "truncated arguments": (tool(0, "a", "A", '{"x') + END, [ToolCall("a", "A", '{"x'), STOP]),
    "no arguments": (tool(0, "a", "A", None) + END, [ToolCall("a", "A", ""), STOP]),
}

ERRORS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"data: secret\n\n", "upstream_garbage"),
    "cut JSON": (b"data: %b\n\n" % HI[:-1], "upstream_garbage"),
    "an array": (b"data: []\n\n", "upstream_garbage"),
    "choices of the wrong type": (b'data: {"choices":"secret"}\n\n', "upstream_garbage"),
    "content of the wrong type": (delta({"content": 5}), "upstream_garbage"),
    "deep nesting": (b"data: " + b"[" * 100_000 + b"\n\n", "upstream_garbage"),
    "deep state": (
        b'data: {"choices":[{"delta":{"s":%b1%b}}]}\n\n' % (b'{"a":' * 5000, b"}" * 5000),
        "upstream_garbage",
    ),
    "a long number": (b'data: {"usage":{"total_tokens":%b}}\n\n' % (b"9" * 100_000), "upstream_garbage"),
    "an error object": (b"".join(text("a")) + sse({"error": {"message": "secret"}}), "upstream_error"),
    "an error text": (sse({"error": "secret"}), "upstream_error"),
    "a reason with more after it": (delta({"content": "a"}, "stop") + delta({"content": "b"}), "upstream_truncated"),
    "a call that never came": (delta({"content": "a"}, "tool_calls") + DONE, "upstream_truncated"),
    "an error by its reason": (delta({"content": "a"}, "error") + DONE, "upstream_error"),
    "an error event": (b'event: error\ndata: {"message": "secret"}\n\n', "upstream_error"),
    "a rate limit": (sse({"error": {"code": 429, "message": "secret"}}), "upstream_rate_limited"),
    "a rate limit in words": (sse({"error": {"type": "rate_limit_exceeded"}}), "upstream_rate_limited"),
    "a long prompt": (
        sse({"error": {"code": 400, "message": "prompt is too long: 9 tokens > 8 maximum, secret"}}),
        "upstream_context_length",
    ),
    "HTML": (b"\n<!doctype html><title>secret</title>", "upstream_garbage"),
    "NDJSON": (b'{"message":{"content":"secret"}}\n{"done":true}\n', "upstream_garbage"),
    "JSON of another kind": (b'{"output":"secret"}', "upstream_garbage"),
    "an error as JSON": (b'{"error":{"code":"429","message":"secret"}}', "upstream_rate_limited"),
    "events of the Responses API": (sse({"type": "response.created", "response": {}}), "upstream_garbage"),
    "comments alone": (b": secret\n\n" * 3, "upstream_truncated"),
    "an empty body": (b"", "upstream_truncated"),
    "no finish_reason": (b"".join(text("a")), "upstream_truncated"),
    "[DONE] without an answer": (delta({"content": ""}) + DONE, "upstream_truncated"),
    "a cut event": (delta({"content": "a"}, "stop").rstrip()[:-1], "upstream_truncated"),
}


@pytest.mark.parametrize(("body", "parts"), BODIES.values(), ids=BODIES)
def test_body(body: bytes, parts: list[Part]) -> None:
    """A body gives the same parts fed whole, a byte at a time, and in two pieces split anywhere."""
    assert decode([body]) == parts
    assert decode([body[at : at + 1] for at in range(len(body))]) == parts
    for at in range(len(body)):
        assert decode([body[:at], b"", body[at:]]) == parts


@pytest.mark.parametrize(("body", "code"), ERRORS.values(), ids=ERRORS)
def test_error(body: bytes, code: str) -> None:
    """A bad body is an error with its code, whose text has nothing of the body."""
    for pieces in ([body], [body[at : at + 1] for at in range(len(body))]):
        with pytest.raises(UpstreamError) as caught:
            decode(pieces)
        assert caught.value.code == code
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_parts_before_an_error() -> None:
    """What came before an error in the same read is told."""
    body = delta({"content": "a"}) + sse({"error": "secret"}) + delta({"content": "b"})
    decoder = ChunkDecoder()
    assert decoder.feed(body) == [Text("a")]
    assert decoder.done
    assert decoder.error is not None


def test_generated_ids() -> None:
    """Calls without an id get one each, unlike any other."""
    body = tool(0, None, "A", "{}") + tool(1, None, "B", "{}") + END
    ids = {part.id for _ in range(2) for part in ChunkDecoder().feed(body) if isinstance(part, ToolCall)}
    assert len(ids) == 4
    assert all(identifier.startswith("call_") for identifier in ids)


def test_state() -> None:
    """`reason` tells as soon as the answer is whole, `done` when the body has said so."""
    decoder = ChunkDecoder()
    decoder.feed(delta({"content": "a"}))
    assert (decoder.reason, decoder.done) == (None, False)
    decoder.feed(delta({}, "stop"))
    assert (decoder.reason, decoder.done) == ("stop", False)
    assert decoder.feed(DONE) == [Finish("stop")]
    assert decoder.done


@pytest.mark.parametrize("line", [b"data: ", b": ", b"data: x\ndata: "], ids=["data", "a comment", "two lines"])
def test_event_too_large(line: bytes) -> None:
    """An event that does not end within the limit is refused, before it is kept whole."""
    decoder = ChunkDecoder()
    decoder.feed(line)
    piece, pieces = b"x" * 2**20, MAX_EVENT // 2**20
    for _ in range(pieces - 1):
        decoder.feed(piece)
    assert decoder.error is None
    decoder.feed(piece)
    assert decoder.done
    assert decoder.error is not None
    assert decoder.error.code == "upstream_garbage"


def test_many_data_lines_are_bounded() -> None:
    """The limit holds for an event of many short lines, too."""
    decoder = ChunkDecoder()
    lines = (b"data: " + b"x" * 1023 + b"\n") * 2**10
    for _ in range(MAX_EVENT // 2**20):
        decoder.feed(lines)
    assert decoder.error is None
    decoder.feed(lines)
    assert "32 MiB" in str(decoder.error)


def test_large_delta_is_linear() -> None:
    """A delta of 10 MB in reads of 1 kB takes a time in proportion: each byte is copied a few times, not thousands."""
    body = b"".join(answer("x" * 10_000_000))
    start = time.process_time()
    parts = decode([body[at : at + 1024] for at in range(0, len(body), 1024)])
    assert time.process_time() - start < 5
    assert parts == [Text("x" * 10_000_000), STOP]


LINES = st.sampled_from(
    [
        '{"id":"c1","model":"m","choices":[{"index":0,"delta":{"content":%s},"finish_reason":null}]}',
        '{"id": "c1", "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": %s}}]}',
        '{"id":%s,"choices":[{"delta":{"content":"m"}}]}',
        '{"id":"m","choices":[{"delta":{"content":%s}},{"delta":{"content":"m"}}]}',
        '{"choices":[{"delta":{"content":"m","content":%s}}]}',
        '{"choices":[{"delta":{"content":%s,"content":"m"}}]}',
        '{"choices":[{"delta":{"content":%s,"reasoning":"m"}}]}',
        '{"choices":[{"delta":{"content":%s}}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}',
        '{"choices":[{"delta":{"content":%s},"finish_reason":"stop"}]}',
        '{"choices":[{"delta":{"content":%s},"logprobs":{"content":[{"token":"m"}]}}],"obfuscation":"m"}',
        '{"choices":[{"delta":{"content":"a"}}],"error":%s}',
        '{"choices":[{"delta":{"content":%s,"tool_calls":[{"index":0,"id":"c","function":{"arguments":"1"}}]}}]}',
    ]
)
WORDS = (
    st.sampled_from(
        ["m", "mm", "m?", ":", ",", "c1", "a", "", " ", "stop", 'say "m"', "\\", "\n", "\x7f", "ü", "🚀", "\u2028"]
    )
    | st.text()
)


@given(st.lists(st.tuples(LINES, st.lists(WORDS, min_size=1, max_size=6), st.booleans()), max_size=8))
def test_what_was_learned_changes_nothing(lines: list[tuple[str, list[str], bool]]) -> None:
    """Events that come whole, and mostly are not decoded, come to the same as torn ones, which all are."""
    learned, plain = ChunkDecoder(), ChunkDecoder()
    for line, words, escaped in lines:
        for word in words:
            event = b"data: %b\n\n" % (line % json.dumps(word, ensure_ascii=escaped)).encode("utf-8", "replace")
            parts = plain.feed(event[:1]) + plain.feed(event[1:])
            assert learned.feed(event) == parts
            assert str(learned.error) == str(plain.error)
            assert (learned.reason, learned._usage, learned._state) == (plain.reason, plain._usage, plain._state)
            if plain.done:
                learned, plain = ChunkDecoder(), ChunkDecoder()


@pytest.mark.parametrize("word", [":", ",", ": "])
def test_texts_that_stand_between_strings(word: str) -> None:
    """A text that is also what stands between two of an event's strings is only a text."""
    decoder = ChunkDecoder()
    for _ in range(4):
        event = b'data: {"id": "x","model":"y","choices":[{"delta":{"content":"%b"}}]}\n\n' % word.encode()
        assert decoder.feed(event) == [Text(word)]


@pytest.mark.parametrize("key", ['"content":', '"content": '])
def test_events_that_are_alike_are_not_decoded(key: str) -> None:
    """From the third on, an event that differs from the ones before in its text alone is not decoded any more."""
    decoder = ChunkDecoder()

    def event(word: str) -> bytes:
        return b'data: {"choices":[{"delta":{%b"%b"}}]}\n\n' % (key.encode(), word.encode())

    for word in ("a", "b"):
        assert decoder.feed(event(word)) == [Text(word)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "plain_text", None)
        assert decoder.feed(event("grün 🚀")) == [Text("grün 🚀")]
        with pytest.raises(TypeError):
            decoder.feed(event("\\n"))


def test_events_that_are_never_alike() -> None:
    """Where each event has a random field, a decoder soon stops to look for what is alike."""
    decoder, chance = ChunkDecoder(), random.Random(1)
    for number in range(MAX_MISSES):
        assert decoder._alike is not None
        assert decoder.feed(delta({"content": f"{number}"}, **obfuscation(chance))) == [Text(f"{number}")]
    assert decoder._alike is None
    assert decoder.feed(delta({"content": "a"}, **obfuscation(chance))) == [Text("a")]


def test_torn_events_that_are_alike() -> None:
    """Events that are alike are put together from pieces, however their parts look."""
    whole = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n'
    body = b"".join(whole % word for word in (b"a", b"b", b"c", b"d")) + END
    for cut in range(len(body)):
        assert decode([whole % b"x", whole % b"y", body[:cut], body[cut:]])[2:] == [*map(Text, "abcd"), STOP]
