"""The parts of a message, in OpenAI's chat form: texts, images and files. Pure.

A part is `{"type": "text", "text"}`, `{"type": "image_url", "image_url": {"url", "detail"?}}` or
`{"type": "file", "file": {"file_data" or "file_id", "filename"?}}`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from twinwire.protocol.errors import BadRequest

Part = dict[str, Any]

MAX_PARTS = 1000
KINDS = {"image_url": "image", "file": "file"}
"""The types of parts that are no text, and the words by which an agent accepts them."""
_IMAGE = re.compile(r"https?://[^\s/]\S*|data:image/[A-Za-z0-9.+-]+(;[A-Za-z0-9=.+-]*)*,\S+", re.ASCII | re.IGNORECASE)


def checked(part: Any, path: str) -> Part:
    """Return a part that is well-formed. Raise `BadRequest`, with its `path`, for one that is not."""
    kind = _object(part, path).get("type")
    if kind == "text":
        _known(part, {"type", "text"}, path)
        if not isinstance(part.get("text"), str):
            raise wrong(f"{path}.text", "a string")
    elif kind == "image_url":
        _known(part, {"type", "image_url"}, path)
        _image(part.get("image_url"), f"{path}.image_url")
    elif kind == "file":
        _known(part, {"type", "file"}, path)
        _file(part.get("file"), f"{path}.file")
    else:
        raise wrong(f"{path}.type", f"text, image_url or file, not {str(kind)[:64]!r}")
    return dict(part)


def wrong(path: str, right: str) -> BadRequest:
    """Return the error for a value that is not what is `right` there."""
    return BadRequest(f"`{path}` must be {right}.", field=path)


def _object(value: Any, path: str) -> Part:
    if not isinstance(value, dict):
        raise wrong(path, "an object")
    return value


def _known(thing: Part, names: Collection[str], path: str) -> None:
    for name in thing:
        if name not in names:
            field = f"{path}.{name}"[:128]
            raise BadRequest(f"`{field}` is not a known field. Leave it out.", field=field)


def _image(image: Any, path: str) -> None:
    _known(_object(image, path), {"url", "detail"}, path)
    check_image(image.get("url"), f"{path}.url")
    if not isinstance(image.get("detail", ""), str):
        raise wrong(f"{path}.detail", "a text such as low")


def check_image(url: Any, path: str) -> None:
    """Raise `BadRequest` if this is not the address of an image."""
    if not (isinstance(url, str) and _IMAGE.fullmatch(url)):
        raise wrong(path, "an address that begins with https://, http:// or data:image/")


def _file(file: Any, path: str) -> None:
    _known(_object(file, path), {"file_data", "file_id", "filename"}, path)
    for name, value in file.items():
        if not (isinstance(value, str) and value):
            raise wrong(f"{path}.{name}", "a text that is not empty")
    if ("file_data" in file) == ("file_id" in file):
        raise BadRequest(f"`{path}` must have exactly one of `file_data` and `file_id`.", field=path)


def content(message: str, parts: Sequence[Any] | None) -> tuple[str, list[Part]]:
    """Return the text of a message with these parts behind it, and all of it as parts; none if there are none behind.

    The text is that of all texts, with blank lines between. Raise `BadRequest`.
    """
    if not parts:
        return message, []
    if len(parts) > MAX_PARTS:
        raise BadRequest(f"`parts` must have at most {MAX_PARTS:,} entries.", field="parts")
    behind = [checked(part, f"parts[{index}]") for index, part in enumerate(parts)]
    whole = [{"type": "text", "text": message}, *behind] if message.strip() else behind
    return joined(part["text"] for part in whole if part["type"] == "text"), whole


def joined(texts: Iterable[str]) -> str:
    """Return texts as one, with blank lines between."""
    return "\n\n".join(text for text in texts if text.strip())


def noted(message: str, parts: Sequence[Part]) -> str:
    """Return a message for a history, which keeps texts alone: with a note in the place of each image and file."""
    return joined(_note(part) for part in parts) if parts else message


def _note(part: Part) -> str:
    if part["type"] == "text":
        return str(part["text"])
    if part["type"] == "image_url":
        return "[image]"
    return f"[file {name}]" if (name := part["file"].get("filename")) else "[file]"
