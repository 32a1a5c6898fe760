"""The rules of what a program gives to the client: a bad argument is an error where it is given, which names it."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import httpx

from twinwire_client.retry import Backoff

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_POLICY = re.compile(r"continue|cancel|cancel_after:[0-9]{1,6}(\.[0-9]{1,3})?", re.ASCII)
_SECRET = {"headers", "token"}
_SHOWN = 60  # characters of a value


class _Rule(NamedTuple):
    """An argument must be of one of these `types`, and `good`; `said` tells people so."""

    said: str
    types: tuple[Any, ...]
    good: Callable[[Any], bool] = lambda _: True


def is_token(text: object) -> bool:
    """True if this can stand in a header."""
    return isinstance(text, str) and text.isascii() and text.isprintable() and text.strip() != ""


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in {"http", "https"} and url.host != ""


def _is_header(name: object, value: object) -> bool:
    named = isinstance(name, str) and _HEADER.fullmatch(name) is not None
    return named and isinstance(value, str) and (value == "" or is_token(value))


def _are_headers(headers: Mapping[Any, Any]) -> bool:
    return all(_is_header(*each) for each in headers.items())


def _are_labels(labels: Mapping[Any, Any]) -> bool:
    texts = [*labels, *labels.values()]
    return all(isinstance(text, str) and _is_unicode(text) for text in texts)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_backoff(backoff: Backoff) -> bool:
    return all(_is_number(value) and value >= 0 for value in (backoff.base, backoff.cap)) and callable(backoff.rng)


_MISSING = type(None)
_TEXT = _Rule("a text (str) of valid Unicode", (str,), _is_unicode)
_NAME = _Rule(
    "a text (str) of valid Unicode that is not empty", (str, _MISSING), lambda text: text != "" and _is_unicode(text)
)
_SOME_SECONDS = _Rule("a number of seconds above 0", (int, float), lambda seconds: seconds > 0)
_SECONDS = _Rule("a number of seconds that is not negative", (int, float), lambda seconds: seconds >= 0)
_COUNT = _Rule("a whole number above 0", (int,), lambda count: count > 0)
_COUNT_OR_NONE = _COUNT._replace(types=(int, _MISSING))
_FLAG = _Rule("True or False", (bool,))
_FUNCTION = _Rule("a function", (Callable, _MISSING))

_RULES = {
    # of `Client`
    "url": _Rule("an address that begins with http:// or https://, such as http://127.0.0.1:8000", (str,), _is_url),
    "app": _FUNCTION._replace(said="an ASGI app"),
    "headers": _Rule("a mapping of names to texts that HTTP allows", (Mapping, _MISSING), _are_headers),
    "token": _Rule(
        "a text in ASCII without control characters, or a function that gives one",
        (str, Callable, _MISSING),
        lambda token: callable(token) or is_token(token),
    ),
    "transport": _Rule('"auto", "sse" or "ws"', (str,), lambda name: name in {"auto", "sse", "ws"}),
    "timeout": _SOME_SECONDS,
    "heartbeat": _SOME_SECONDS,
    "muted": _SOME_SECONDS,
    "backoff": _Rule("a Backoff of seconds that are not negative", (Backoff,), _is_backoff),
    "patience": _SECONDS,
    "max_attempts": _COUNT_OR_NONE,
    "first_attempts": _COUNT_OR_NONE,
    "max_wait": _SECONDS,
    "on_retry": _FUNCTION,
    "verify": _Rule("True, False, the path of a file or an ssl.SSLContext", (bool, str, ssl.SSLContext)),
    "http_client": _Rule("an httpx.AsyncClient", (httpx.AsyncClient, _MISSING)),
    # of a run
    "run_id": _Rule("a run's id, which `run.run_id` has once the run was entered", (str,)),
    "message": _TEXT,
    "agent": _NAME,
    "user_id": _NAME,
    "session_id": _NAME,
    "on_disconnect": _Rule(
        "continue, cancel or cancel_after:<seconds>",
        (str, _MISSING),
        lambda policy: _POLICY.fullmatch(policy) is not None,
    ),
    "idempotency_key": _NAME,
    "traceparent": _NAME,
    "params": _Rule("a mapping of names to JSON", (Mapping, _MISSING)),
    "metadata": _Rule(
        "a mapping of names to texts",
        (Mapping, _MISSING),
        lambda labels: all(isinstance(text, str) for label in labels.items() for text in label),
    ),
    "parts": _Rule(
        "a list of parts such as {'type': 'image_url', 'image_url': {'url': '…'}}",
        (list, tuple, _MISSING),
        lambda parts: all(isinstance(part, Mapping) for part in parts),
    ),
    "interrupt": _FLAG,
    "types": _Rule("a list of event types such as LLM_CHUNK", (Sequence, _MISSING)),
    "after": _Rule("the number of an event, or an event's id", (int, str)),
    "snapshot": _FLAG,
    "on_input": _FUNCTION,
    # of what is said to a run
    "input_id": _Rule("a question's id, which `question.input_id` has", (str,)),
    "content": _TEXT,
    "message_id": _NAME,
    # of a list, and of a wait
    "limit": _COUNT,
    "status": _NAME,
    "labels": _Rule("a mapping of names to texts, or None", (Mapping, _MISSING), _are_labels),
    "created_after": _NAME,
    "created_before": _NAME,
    "page": _NAME,
}


def check(**given: object) -> None:
    """Raise `TypeError` or `ValueError` for the first of these arguments that is not as its rule says."""
    for name, value in given.items():
        said, types, good = _RULES[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise TypeError(f"`{name}` must be {said}, not {type(value).__name__}.")
        if value is not None and not good(value):
            shown = "" if name in _SECRET else f", not {value!r:.{_SHOWN}}"
            raise ValueError(f"`{name}` must be {said}{shown}.")
