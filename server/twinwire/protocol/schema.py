"""The form of an answer: the flat part of JSON Schema that MCP's elicitation uses (PROTOCOL.md, section 10). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from typing import Any
from urllib.parse import urlsplit

from twinwire.protocol.errors import BadRequest
from twinwire.protocol.events import dump

MAX_BYTES = 64 * 1024
"""The most bytes of an answer, and of a question's prompt and schema together."""

_ANY = {"type", "title", "description", "default"}
_BOUNDS: dict[str, dict[str, type]] = {
    "string": {"minLength": int, "maxLength": int, "enum": list, "format": str},
    "number": {"minimum": float, "maximum": float},
    "integer": {"minimum": float, "maximum": float},
    "boolean": {},
}
_A = {"string": "a text", "number": "a number", "integer": "a whole number", "boolean": "true or false"}


def _email(text: str) -> bool:
    name, at, domain = text.partition("@")
    return bool(name and at) and "@" not in domain and "." in domain[1:-1] and re.search(r"\s", text) is None


def _uri(text: str) -> bool:
    try:
        return bool(urlsplit(text).scheme) and not re.search(r"\s", text)
    except ValueError:
        return False


def _date(text: str) -> bool:
    return re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII) is not None and _parses(date.fromisoformat, text)


def _date_time(text: str) -> bool:
    form = r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})"
    return re.fullmatch(form, text, re.ASCII) is not None and _parses(datetime.fromisoformat, text.upper())


def _parses(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


_FORMATS: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    "email": ("an e-mail address", _email),
    "uri": ("a URI, such as https://example.com/", _uri),
    "date": ("a date, such as 2026-02-21", _date),
    "date-time": ("a time of RFC 3339, such as 2026-02-21T10:30:45Z", _date_time),
}


def check_schema(schema: Any) -> None:
    """Raise `ValueError` if this is no schema that every client can draw. The message says what would be one."""
    if isinstance(schema, dict) and schema.get("type") == "object":
        _only(schema, _ANY | {"properties", "required"}, "schema")
        _texts(schema, "schema")
        properties, required = schema.get("properties"), schema.get("required", [])
        if not isinstance(properties, dict) or not properties:
            raise ValueError("`schema.properties` must be an object with at least one property.")
        for name, value in properties.items():
            _check_value(value, f"schema.properties.{name}")
        if not isinstance(required, list) or not all(isinstance(name, str) and name in properties for name in required):
            raise ValueError("`schema.required` must be a list of names of `schema.properties`.")
    else:
        _check_value(schema, "schema")


def _texts(schema: dict[str, Any], where: str) -> None:
    for name in ("title", "description"):
        if not _is(schema.get(name, ""), str):
            raise ValueError(f"The `{name}` of `{where}` must be a text.")


def _only(schema: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(schema) - known):
        raise ValueError(f"`{where}` must not have {unknown[0]!r}. It may have {', '.join(sorted(known))}.")


def _check_value(schema: Any, where: str) -> None:
    kind = schema.get("type") if isinstance(schema, dict) else None
    if not isinstance(kind, str) or kind not in _BOUNDS:
        raise ValueError(f"`{where}` must have a `type` of string, number, integer or boolean.")
    bounds: Mapping[str, type] = _BOUNDS[kind]
    _only(schema, _ANY | set(bounds), where)
    _texts(schema, where)
    for name, type_ in bounds.items():
        value = schema.get(name)
        if value is not None and not (_is(value, type_) and (type_ is not int or value >= 0)):
            raise ValueError(f"The `{name}` of `{where}` must be {_BOUND_WORDS[type_]}.")
    options = schema.get("enum")
    if options is not None and not (options and all(isinstance(option, str) for option in options)):
        raise ValueError(f"The `enum` of `{where}` must be a list of at least one text.")
    if schema.get("format") not in {None, *_FORMATS}:
        raise ValueError(f"The `format` of `{where}` must be one of {', '.join(_FORMATS)}.")
    if "default" in schema and (fault := _fault(schema, schema["default"])) is not None:
        raise ValueError(f"The `default` of `{where}` must be {fault}.")


_BOUND_WORDS = {int: "a whole number of 0 or more", float: "a number", list: "a list", str: "a text"}


def _is(value: Any, type_: type) -> bool:
    if type_ is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, type_) and not isinstance(value, bool)


def check_answer(schema: Mapping[str, Any] | None, answer: Any) -> None:
    """Raise `BadRequest`, whose field is the path of what is wrong, if the answer does not fit; None is any text."""
    schema = {"type": "string"} if schema is None else schema
    if schema["type"] != "object":
        _check(schema, answer, "answer")
        return
    properties = schema["properties"]
    if not isinstance(answer, dict):
        raise BadRequest("`answer` must be an object.", field="answer")
    for name, value in answer.items():
        if name not in properties:
            raise BadRequest(
                f"`answer.{name[:128]}` is unknown. The names are {_listed(properties)}.",
                field=f"answer.{name[:128]}",
            )
        _check(properties[name], value, f"answer.{name}")
    for name in schema.get("required", ()):
        if name not in answer:
            raise BadRequest(f"`answer.{name}` is required.", field=f"answer.{name}")


def _check(schema: Mapping[str, Any], value: Any, path: str) -> None:
    if (fault := _fault(schema, value)) is not None:
        raise BadRequest(f"`{path}` must be {fault}.", field=path)


def _fault(schema: Mapping[str, Any], value: Any) -> str | None:
    """Return what the value would have to be, or None if it fits."""
    kind = schema["type"]
    if kind == "string":
        return _text_fault(schema, value)
    if kind == "boolean":
        return None if isinstance(value, bool) else _A[kind]
    if not _is(value, float) or (kind == "integer" and isinstance(value, float) and not value.is_integer()):
        return _A[kind]
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and value < low:
        return f"{low} or more"
    return f"{high} or less" if high is not None and value > high else None


def _text_fault(schema: Mapping[str, Any], value: Any) -> str | None:
    if not isinstance(value, str):
        return _A["string"]
    options, low, high = schema.get("enum"), schema.get("minLength"), schema.get("maxLength")
    if options is not None and value not in options:
        return f"one of {_listed(options)}"
    if low is not None and len(value) < low:
        return f"a text of {low} characters or more"
    if high is not None and len(value) > high:
        return f"a text of {high} characters or fewer"
    if (form := schema.get("format")) is not None:
        words, fits = _FORMATS[form]
        return None if fits(value) else words
    return None


def size(*parts: Any) -> int:
    """Return how many bytes these take as JSON."""
    return sum(len(dump(part)) for part in parts)


def _listed(names: Iterable[str]) -> str:
    """Return some of these names, for a sentence."""
    names = list(names)
    text = ", ".join(name[:64] for name in names[:16])
    return text if len(names) <= 16 else f"{text}, …"
