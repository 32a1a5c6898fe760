"""The fields of a model's answer, as servers really write them: total functions from any JSON to what is meant.

Only what steers the answer is strict: these raise `ValueError` for a value that no server means anything by. All
others read what they can, and take the rest for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

from twinwire.models import Usage
from twinwire.protocol.events import dump

MAX_COUNT = 2**53 - 1
"""The largest count that is believed: the largest integer that each JSON parser reads exactly (RFC 8259, section 6)."""

_JOINED = {"content", "data", "reasoning", "reasoning_content", "summary", "text", "thinking"}
"""The fields of a state whose pieces are always parts of one text, even if two are equal."""

_CACHED = ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
"""The names of servers for the tokens of a prompt that came from their cache."""

_raw_decode = json.JSONDecoder().raw_decode


def text_of(value: Any) -> str:
    """Return a text that may be null, or be a list of parts, of which those of texts count. Strict."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list):
        return "".join(map(text_of, value))
    if isinstance(value, dict):
        return text_of(value.get("text")) if value.get("type", "text") in {"text", "output_text"} else ""
    raise ValueError("The text must be a string.")


def thinking_of(value: Any) -> str:
    """Return the reasoning among the parts of a content."""
    parts = value if isinstance(value, list) else [value]
    found = [part for part in parts if isinstance(part, dict) and part.get("type") in {"thinking", "reasoning"}]
    return "".join(text_of(part.get("thinking") or part.get("reasoning") or part.get("text")) for part in found)


def name_of(value: Any) -> str:
    """Return a text that may be null. Strict."""
    if value is None or isinstance(value, str):
        return value or ""
    raise ValueError("The name must be a string.")


def id_of(value: Any) -> str:
    """Return an id, which some servers write as a number; empty if there is none."""
    return value if isinstance(value, str) else str(value) if type(value) is int else ""


def count_of(value: Any) -> int:
    """Return a count, which may be null, 12.0 or a text; 0 for what is none."""
    if isinstance(value, str | float):
        try:
            value = int(float(value))
        except (ValueError, OverflowError):
            return 0
    return value if type(value) is int and 0 <= value <= MAX_COUNT else 0


def index_of(value: Any) -> int | None:
    """Return the index of a call or a choice, which may be a text; None for what is none."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() and len(value) < 10 else None
    return int(value) if type(value) in {int, float} and -MAX_COUNT < value < MAX_COUNT else None


def arguments_of(value: Any) -> str:
    """Return a piece of a call's arguments: a text, which may be null, or the object that it should have told."""
    return text_of(value) if value is None or isinstance(value, str) else dump(value).decode()


def settled(arguments: str) -> str:
    """Return a call's arguments without the object that some servers write before them, `{}`, or after, the same."""
    text = arguments.strip()
    try:
        first, end = _raw_decode(text)
    except (ValueError, RecursionError):
        return arguments
    rest = text[end:].strip()
    if first == {} and rest.startswith("{"):
        return rest
    return text[:end] if rest == text[:end] else arguments


def is_object(arguments: str) -> bool:
    """Return whether a call's arguments are one whole JSON object."""
    if not arguments.rstrip().endswith("}"):
        return False
    try:
        return isinstance(json.loads(settled(arguments)), dict)
    except (ValueError, RecursionError):
        return False


def usage_of(value: Any, before: Usage | None) -> Usage | None:
    """Return the newest usage. A count that is missing or 0 leaves the one `before`; a missing total is computed."""
    if not isinstance(value, dict):
        return before
    old = before or Usage()
    prompt = count_of(value.get("prompt_tokens", value.get("input_tokens")))
    completion = count_of(value.get("completion_tokens", value.get("output_tokens")))
    total = count_of(value.get("total_tokens"))
    if not (prompt or completion or total):
        return before
    prompt, completion = prompt or old.prompt_tokens, completion or old.completion_tokens
    cached = _part_of(value, ("prompt_tokens_details", "input_tokens_details"), _CACHED) or old.cached_tokens
    details = ("completion_tokens_details", "output_tokens_details")
    reasoning = _part_of(value, details, ("reasoning_tokens",)) or old.reasoning_tokens
    return Usage(prompt, completion, max(total, prompt + completion), cached, reasoning)


def _part_of(value: dict[str, Any], details: Sequence[str], names: Sequence[str]) -> int:
    """Return the first count of these names, in the details of a usage or beside them; 0 if there is none."""
    places = [*(place for name in details if isinstance(place := value.get(name), dict)), value]
    return next((count for place in places for name in names if (count := count_of(place.get(name)))), 0)


def is_said(value: Any) -> bool:
    """Return whether a value says anything: `{}`, `""`, false and objects of nulls are what structs are written as."""
    return any(map(is_said, value.values())) if isinstance(value, dict) else bool(value)


def joined(name: str, pieces: Sequence[Any]) -> Any:
    """Return the pieces of a field's value as one value.

    Texts are joined. Lists are put together, and their items of one `type` and `index` are one. Objects are joined
    key by key. Of other values the last one counts that is not null. A text that is the same in all pieces is one,
    unless the field is a text of the model's.
    """
    found = [piece for piece in pieces if piece is not None]
    if found and all(isinstance(piece, str) for piece in found):
        return mended(found[0] if name not in _JOINED and len(set(found)) == 1 else "".join(found))
    if found and all(isinstance(piece, dict) for piece in found):
        names = dict.fromkeys(chain.from_iterable(found))
        return {key: joined(key, [piece[key] for piece in found if key in piece]) for key in names}
    if found and all(isinstance(piece, list) for piece in found):
        items: dict[object, list[Any]] = {}
        for number, item in enumerate(chain.from_iterable(found)):
            index = index_of(item.get("index")) if isinstance(item, dict) else None
            items.setdefault(number if index is None else (str(item.get("type")), index), []).append(item)
        return [joined("", group) for group in items.values()]
    return found[-1] if found else None


def mended(text: str) -> str:
    """Return a text in which the halves of a surrogate pair are one character, and a lone half is U+FFFD."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
