"""The options of `OpenAIChatModel`: what goes with each request beside the conversation, checked before it is sent."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from twinwire.models import Options
from twinwire.protocol.errors import SettingsError
from twinwire.protocol.events import dump
from twinwire.settings import NAMES_OF_SECRETS, model_options


class Shape(Struct, frozen=True):
    """The parts of a request that options set: fields of its body, headers, named in lower case, and its query.

    `stream_options` says whether the server is asked for the usage. Each call sets `timeout`, the seconds for which the
    server may be silent.
    """

    body: dict[str, Any] = {}
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    stream_options: bool = True
    timeout: float = 0.0


def _number(value: Any, least: float, most: float = math.inf) -> bool:
    return type(value) in {int, float} and math.isfinite(value) and least <= value <= most


def _is_stop(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, list | tuple) and bool(texts) and all(isinstance(text, str) and text for text in texts)


def _at_least_one(value: Any) -> bool:
    return type(value) is int and value >= 1


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "temperature": (lambda value: _number(value, 0), "a number of at least 0"),
    "top_p": (lambda value: _number(value, 0, 1), "a number from 0 to 1"),
    "max_tokens": (_at_least_one, "a whole number of at least 1"),
    "max_completion_tokens": (_at_least_one, "a whole number of at least 1"),
    "reasoning_effort": (lambda value: isinstance(value, str) and bool(value), "a text such as low"),
    "stop": (_is_stop, "a text or a list of texts, none of them empty"),
    "seed": (lambda value: type(value) is int, "a whole number"),
    "response_format": (
        lambda value: isinstance(value, Mapping) and isinstance(value.get("type"), str),
        'an object with a type, such as {"type": "json_object"}',
    ),
    "parallel_tool_calls": (lambda value: isinstance(value, bool), "true or false"),
}
"""The options that are fields of the body: what is right, and how that is said."""

_TAKEN = {
    "model": "The model is named by `model`.",
    "messages": "The agent's conversation is sent.",
    "tools": "The agent's tools are sent.",
    "stream": "Each answer is streamed.",
    "stream_options": "It is set unless `stream_options` is false.",
    "n": "One answer is read.",
}
"""The fields that `extra_body` must not have, and why."""

_ONLY_WITH_TOOLS = {"parallel_tool_calls", "tool_choice"}
"""The fields that OpenAI refuses in a request without tools."""

_HEADER_NAME = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+", re.ASCII)  # a token of RFC 9110
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?", re.ASCII)
_OURS = {"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding"}
_SECRET = re.compile(NAMES_OF_SECRETS, re.IGNORECASE)


def shaped(before: Shape, options: Mapping[str, Any], *, prefix: str = "") -> Shape:
    """Return `before` with these options over it.

    Raises `SettingsError` for an option that is unknown or wrong, and for a field that these options have twice. It
    names the option with the `prefix`, and shows no value of a header or of the query.
    """
    body = dict(before.body)
    for name, value in options.items():
        if name in _FIELDS:
            is_right, right = _FIELDS[name]
            if value is None:
                body.pop(name, None)
            elif is_right(value):
                body[name] = value
            else:
                shown = repr(value)
                raise _wrong(prefix, name, f"must be {right}, not {shown[:80]}{'…' if shown[80:] else ''}.")
        elif name not in Options.__annotations__:
            raise _wrong(prefix, name, f"must be one of {', '.join(Options.__annotations__)}. Use `extra_body` for it.")
    body |= _extra_body(options, prefix)
    stream_options = options.get("stream_options")
    if not (stream_options is None or isinstance(stream_options, bool)):
        raise _wrong(prefix, "stream_options", "must be true or false.")
    return Shape(
        msgspec.json.decode(dump(body)),  # a copy, as it is sent
        {**before.headers, **_headers(options, prefix)},
        {**before.query, **_texts("query", options, prefix)},
        before.stream_options if stream_options is None else stream_options,
    )


def without_tools(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return these fields of a body as they are in a request that has no tools."""
    return {name: value for name, value in body.items() if name not in _ONLY_WITH_TOOLS}


def secrets(shape: Shape) -> Iterator[str]:
    """Give the values of headers and of the query that are named like secrets."""
    for name, value in [*shape.headers.items(), *shape.query.items()]:
        if _SECRET.search(name):
            yield from (value, value.removeprefix("Bearer "))


def from_settings(items: Sequence[str], prefix: str) -> Options:
    """Return `--model-option`s as options: those that are not known go into `extra_body`. Raises `SettingsError`."""
    known: Any = {}
    extra: dict[str, Any] = {}
    for name, value in model_options(items).items():
        if name in _TAKEN and name != "stream_options":
            raise _wrong(prefix, name, f"must not be given. {_TAKEN[name]}")
        if name == "extra_body":
            raise _wrong(prefix, name, "must not be given. Give each of its fields as an option.")
        (known if name in Options.__annotations__ else extra)[name] = value
    shaped(Shape(), known, prefix=prefix)  # so that an error names the setting
    if extra:
        known["extra_body"] = extra
    options: Options = known
    return options


def _wrong(prefix: str, name: str, reason: str) -> SettingsError:
    """Return the error of an option, whose `reason` is the rest of a sentence after its name."""
    field = f"{prefix}{name}"
    message = f"`{field}` {reason}"
    return SettingsError(message, field=field)


def _extra_body(options: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    extra = options.get("extra_body")
    if extra is None:
        return {}
    if not (isinstance(extra, Mapping) and all(isinstance(name, str) for name in extra)):
        raise _wrong(prefix, "extra_body", "must be an object whose keys are texts.")
    for name, value in extra.items():
        if name in _TAKEN and not (name == "stream_options" and options.get(name) is False):
            raise _wrong(prefix, "extra_body", f"must not have the field {name}. {_TAKEN[name]}")
        if options.get(name) is not None and name in _FIELDS:
            raise _wrong(prefix, "extra_body", f"must not have the field {name}, which is given as an option, too.")
        try:
            dump(value)
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise _wrong(prefix, "extra_body", f"must have JSON in the field {name}.") from None
    return dict(extra)


def _texts(name: str, options: Mapping[str, Any], prefix: str) -> dict[str, str]:
    told = options.get(name)
    if told is None:
        return {}
    if not (isinstance(told, Mapping) and all(isinstance(text, str) for pair in told.items() for text in pair)):
        raise _wrong(prefix, name, "must be an object of texts.")
    return dict(told)


def _headers(options: Mapping[str, Any], prefix: str) -> dict[str, str]:
    told = _texts("headers", options, prefix)
    for name, value in told.items():
        if not _HEADER_NAME.fullmatch(name):
            raise _wrong(prefix, "headers", f"must have names such as X-Title, not {name[:80]!r}.")
        if name.lower() in _OURS:
            raise _wrong(prefix, "headers", f"must not have {name}, which is set with each request.")
        if not _HEADER_VALUE.fullmatch(value):
            raise _wrong(prefix, "headers", f"must have printable ASCII in {name}.")
    return {name.lower(): value for name, value in told.items()}
