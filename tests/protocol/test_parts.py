"""The parts, settings and labels of a start: what is taken, and what is refused with its path."""

from __future__ import annotations

from typing import Any

import pytest

from twinwire.protocol.errors import BadRequest
from twinwire.protocol.parts import MAX_PARTS, content, noted
from twinwire.protocol.start import PARAMS_BYTES, are_labels, check_labels, check_params


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(url: str = "https://example.org/a.png", **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def file(**fields: Any) -> dict[str, Any]:
    return {"type": "file", "file": fields}


SVG = "DATA:image/svg+xml;charset=utf-8,<svg>"
PDF = file(file_data="data:application/pdf;base64,AA==", filename="a.pdf")


@pytest.mark.parametrize(
    ("message", "parts", "said", "whole"),
    [
        ("hi", None, "hi", []),
        ("hi", [], "hi", []),
        ("hi", [image()], "hi", [text("hi"), image()]),
        (" ", [image(detail="low")], "", [image(detail="low")]),
        ("", [text("a"), image(), text("b")], "a\n\nb", [text("a"), image(), text("b")]),
        ("hi", [text("there"), PDF], "hi\n\nthere", [text("hi"), text("there"), PDF]),
        ("hi", [file(file_id="file-1")], "hi", [text("hi"), file(file_id="file-1")]),
        ("hi", [image(SVG)], "hi", [text("hi"), image(SVG)]),
    ],
)  # fmt: skip
def test_content(message: str, parts: list[Any] | None, said: str, whole: list[Any]) -> None:
    """The text of a message with parts is that of all texts, and its parts are all of it, the message first."""
    assert content(message, parts) == (said, whole)


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ("text", "parts[0]"),
        ({}, "parts[0].type"),
        ({"type": "input_audio"}, "parts[0].type"),
        ({"type": ["text"]}, "parts[0].type"),
        ({"type": "text"}, "parts[0].text"),
        ({"type": "text", "text": 7}, "parts[0].text"),
        ({**text("a"), "cache_control": {}}, "parts[0].cache_control"),
        ({"type": "image_url"}, "parts[0].image_url"),
        ({"type": "image_url", "image_url": "https://a"}, "parts[0].image_url"),
        (image(""), "parts[0].image_url.url"),
        (image("file:///etc/passwd"), "parts[0].image_url.url"),
        (image("data:text/html,x"), "parts[0].image_url.url"),
        (image("AAAA"), "parts[0].image_url.url"),
        (image(detail=7), "parts[0].image_url.detail"),
        (image(alt="x"), "parts[0].image_url.alt"),
        (file(), "parts[0].file"),
        (file(filename="a"), "parts[0].file"),
        (file(file_id="a", file_data="b"), "parts[0].file"),
        (file(file_id=""), "parts[0].file.file_id"),
        (file(file_id="a", filename=7), "parts[0].file.filename"),
        (file(file_id="a", path="/"), "parts[0].file.path"),
    ],
)
def test_a_part_that_is_none(part: Any, path: str) -> None:
    """A part that is ill-formed, or has a field too many, is refused with its path."""
    with pytest.raises(BadRequest) as caught:
        content("hi", [part])
    assert caught.value.field == path


def test_parts_without_number() -> None:
    """More parts than the bound are refused as a whole."""
    assert len(content("", [text("a")] * MAX_PARTS)[1]) == MAX_PARTS
    with pytest.raises(BadRequest) as caught:
        content("", [text("a")] * (MAX_PARTS + 1))
    assert caught.value.field == "parts"


def test_a_note_of_what_is_not_kept() -> None:
    """A history has the texts of a message, and a note in the place of each image and file."""
    assert noted("hi", []) == "hi"
    parts = [text("see"), image(), PDF, file(file_id="f")]
    assert noted("see", parts) == "see\n\n[image]\n\n[file a.pdf]\n\n[file]"


def nested(levels: int) -> Any:
    """Return a setting that makes the settings this deep."""
    value: Any = 1
    for _ in range(levels - 1):
        value = [value]
    return {"a": value}


@pytest.mark.parametrize(
    "params", [None, {}, {"a": [1, None, {"b": "ü"}]}, {"a": "x" * (PARAMS_BYTES - 8)}, nested(100)]
)
def test_params(params: Any) -> None:
    """Settings are any JSON within their bounds."""
    assert check_params(params) == (params or {})


@pytest.mark.parametrize("params", [{"a": "x" * (PARAMS_BYTES - 7)}, nested(101), {"a": object()}, {"a": {1j: 1}}])
def test_params_that_are_none(params: Any) -> None:
    """Settings over a bound, or that are no JSON, are refused."""
    with pytest.raises(BadRequest) as caught:
        check_params(params)
    assert caught.value.field == "params"


@pytest.mark.parametrize(
    "labels",
    [None, {}, {"a": ""}, {"A-b_c.9": "ü" * 256}, {"a" * 64: "x"}, {f"n{number}": "x" for number in range(16)}],
)
def test_labels(labels: Any) -> None:
    """Labels are at most 16 short texts by name."""
    assert check_labels(labels) == (labels or {})
    assert are_labels(labels) == (labels is not None)


@pytest.mark.parametrize(
    ("labels", "field"),
    [
        ({f"n{number}": "x" for number in range(17)}, "metadata"),
        ({"": "x"}, "metadata"),
        ({"a b": "x"}, "metadata"),
        ({"a\n": "x"}, "metadata"),
        ({"ü": "x"}, "metadata"),
        ({"a" * 65: "x"}, "metadata"),
        ({"a": "x" * 257}, "metadata.a"),
        ({"a": 7}, "metadata.a"),
        ({"a": None}, "metadata.a"),
        ({"a": ["x"]}, "metadata.a"),
    ],
)
def test_labels_that_are_none(labels: dict[str, Any], field: str) -> None:
    """Too many labels, a name and a value that is none are refused; another protocol's `metadata` is none then."""
    with pytest.raises(BadRequest) as caught:
        check_labels(labels)
    assert caught.value.field == field
    assert not are_labels(labels)
