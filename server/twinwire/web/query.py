"""The query of a request, against what its path takes: a name that looks like a known one is never passed over.

Pure, except that a request keeps the result in its scope.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote

import msgspec
from msgspec import Struct

from twinwire.protocol.errors import BadRequest
from twinwire.protocol.names import meant, plain

MAX_PARAMETERS = 256
IGNORED_HEADER = "twinwire-ignored"
IGNORED_NAMES = 16
"""The most names that the header has, of `IGNORED_LENGTH` characters each."""
IGNORED_LENGTH = 64
CURSOR = "last_event_id"
"""The field that a cursor of an EventSource in the query goes into."""
_TICKET = "ticket"
_KEY = "twinwire.ignored"
_VALUES = "twinwire.query"


def check(
    query: bytes, takes: type[Struct] | None, elsewhere: Sequence[type[Struct]] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Return the parameters that the path `takes`, by name, and the names that it ignores.

    `elsewhere` has what the path takes in its body or its messages: in the query it would have no effect. Raise
    `BadRequest` for such a name, for one that is within an edit, a case or a hyphen of a known one, and for a known
    one with two values, unless it is a list: that has each.
    """
    if not query:
        return {}, []
    known, body, lists = _names(takes), _names(*elsewhere), _lists(takes)
    values: dict[str, Any] = {}
    ignored: list[str] = []
    for sent, value in _pairs(query):
        name = sent
        if CURSOR in known and plain(sent).endswith(plain(CURSOR)):
            name = CURSOR  # event-source-polyfill says lastEventId, and others the same in their own way
            if not value:
                continue  # older ones say so before their first event
        if name in lists:
            values.setdefault(name, []).append(value)
        elif name in known:
            if values.setdefault(name, value) != value:
                raise BadRequest(f"`{name}` has two values in the query; send one.", field=sent[:128])
        elif name in body:
            raise BadRequest(f"`{name}` has no effect in the query here; send it in the body.", field=name)
        elif name != _TICKET:
            if (right := meant(name, {*known, *body, _TICKET})) is not None:
                raise BadRequest(f"`{name[:128]}` is not a parameter; the right name is `{right}`.", field=name[:128])
            ignored.append(name)
    return values, ignored


def _pairs(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except UnicodeError:
        raise BadRequest("The query must be UTF-8, percent-encoded.") from None
    except ValueError:
        raise BadRequest(f"The query must have at most {MAX_PARAMETERS} parameters.") from None


@functools.cache  # as many as there are paths
def _names(*shapes: type[Struct] | None) -> Collection[str]:
    return {field.encode_name for shape in shapes if shape is not None for field in msgspec.structs.fields(shape)}


@functools.cache
def _lists(shape: type[Struct] | None) -> Collection[str]:
    """Return the names that may be there more than once."""
    fields = () if shape is None else msgspec.structs.fields(shape)
    return {field.encode_name for field in fields if isinstance(field.default, tuple)}


def keep(scope: Any, values: dict[str, Any], ignored: list[str]) -> None:
    """Keep what `check` found with the request."""
    scope[_VALUES], scope[_KEY] = values, ignored


def kept(scope: Any) -> dict[str, Any]:
    """Return the parameters that the request has."""
    values: dict[str, Any] = scope.get(_VALUES, {})
    return values


def ignore(scope: Any, names: Iterable[str]) -> None:
    """Note what else of the request, such as settings in its body, has no effect."""
    scope.setdefault(_KEY, []).extend(names)


def ignored_header(scope: Any) -> list[tuple[bytes, bytes]]:
    """Return the header that names what was ignored, if anything was; each name once, percent-encoded, and cut."""
    names = [*dict.fromkeys(scope.get(_KEY, ()))][:IGNORED_NAMES]
    value = ", ".join(quote(name[:IGNORED_LENGTH], safe="[]", errors="replace")[:IGNORED_LENGTH] for name in names)
    return [(IGNORED_HEADER.encode(), value.encode())] if value else []
