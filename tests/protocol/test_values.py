"""Values of other people's types in an event: each is encoded as the JSON that its author would expect."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections import OrderedDict, deque, namedtuple
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import pydantic
import pytest

from support.followers import KINDS, rest, start
from support.serving import serving
from twinwire import RunRequest, StreamEvent
from twinwire.protocol.events import NotAnEvent, checked, dump


class Words(str):
    __slots__ = ()


class Count(int):
    pass


class Share(float):
    pass


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Name(StrEnum):
    ONE = "one"


class Moment(dt.datetime):
    pass


@dataclasses.dataclass
class Point:
    x: int
    tags: set[str]


class Page(pydantic.BaseModel):
    title: str
    seen: dt.date
    inner: list[Point] = []


class Plain(msgspec.Struct):
    a: int


Pair = namedtuple("Pair", "left right")  # noqa: PYI024 - it is what users have

VALUES: dict[str, tuple[Any, Any]] = {
    "a text's subclass": (Words("é"), "é"),
    "a number's subclass": (Count(5), 5),
    "a float's subclass": (Share(0.5), 0.5),
    "an enum": (Colour.RED, "red"),
    "an enum of numbers": (Level.HIGH, 3),
    "an enum of texts": (Name.ONE, "one"),
    "a dataclass": (Point(1, {"a"}), {"x": 1, "tags": ["a"]}),
    "a pydantic model": (
        Page(title="T", seen=dt.date(2026, 2, 21), inner=[Point(1, {"a"})]),
        {"title": "T", "seen": "2026-02-21", "inner": [{"x": 1, "tags": ["a"]}]},
    ),
    "a struct": (Plain(1), {"a": 1}),
    "a named tuple": (Pair(1, Words("b")), [1, "b"]),
    "a time": (dt.datetime(2026, 2, 21, 10, tzinfo=dt.UTC), "2026-02-21T10:00:00Z"),
    "a date": (dt.date(2026, 2, 21), "2026-02-21"),
    "a time's subclass": (Moment(2026, 2, 21, tzinfo=dt.UTC), "2026-02-21T00:00:00+00:00"),
    "a UUID": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "a decimal": (Decimal("1.50"), "1.50"),
    "a set": ({1}, [1]),
    "a frozenset": (frozenset({Words("a")}), ["a"]),
    "a deque": (deque([1, 2]), [1, 2]),
    "an ordered dict": (OrderedDict(a=1), {"a": 1}),
    "a read-only mapping": (MappingProxyType({"a": Count(1)}), {"a": 1}),
    "keys": ({"a": 1}.keys(), ["a"]),
    "a number of numpy": (np.int64(3), 3),
    "a float of numpy": (np.float32(0.5), 0.5),
    "a double of numpy": (np.float64(0.5), 0.5),
    "a truth of numpy": (np.bool_(True), True),
    "a text of numpy": (np.str_("a"), "a"),
    "an array of numpy": (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    "NaN of numpy": (np.float64("nan"), None),
}


@pytest.mark.parametrize("what", VALUES)
def test_it_is_encoded(what: str) -> None:
    """A value is the same JSON in an event's data, in its metadata, and beside a lone surrogate."""
    value, right = VALUES[what]
    event = checked(StreamEvent("MINE", {"a": [value]}, metadata={"b": value}))
    assert (event.data, event.metadata) == ({"a": [right]}, {"b": right})
    assert msgspec.json.decode(dump({"a": value, "b": "\ud83d"})) == {"a": right, "b": "?"}


@pytest.mark.parametrize("kind", KINDS)
async def test_in_a_run(kind: str) -> None:
    """A run has such values wherever an event has any JSON, and subclasses of texts as the texts that they are."""

    async def agent(request: RunRequest) -> dict[str, Any]:
        request.emit(StreamEvent("LLM_CHUNK", {"content": Words("a"), "delta": Words("a")}))
        request.emit(StreamEvent("THINKING", {"content": Words("Well. ")}))
        request.emit(StreamEvent("TOOL_CALL_FINISH", {"tool_call_id": Words("c"), "result": Point(1, {"b"})}))
        request.emit(StreamEvent("PROGRESS", {"progress": np.int32(50)}, metadata={"step": np.int64(1)}))
        return {"page": Page(title="T", seen=dt.date(2026, 2, 21))}

    async with serving({"mine": agent}) as server:
        seen = await rest(await start(kind, server))
    assert [event["data"] for event in seen[1:-1]] == [
        {"content": "a", "delta": "a"},
        {"content": "Well. "},
        {"tool_call_id": "c", "result": {"x": 1, "tags": ["b"]}},
        {"progress": 50},
    ]
    assert seen[-2]["metadata"] == {"step": 1}
    assert seen[-1]["data"]["result"] == {"page": {"title": "T", "seen": "2026-02-21", "inner": []}}


class Unknown:
    pass


class Raising(pydantic.BaseModel):
    def model_dump(self, **_: Any) -> dict[str, Any]:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("value", "named"),
    [(Unknown(), "type Unknown is no JSON"), (1j, "complex"), (Raising(), "no")],
    ids=["Unknown", "complex", "Raising"],
)
def test_what_is_no_json(value: Any, named: str) -> None:
    """The error names the type of a value that is no JSON, or has what its own method raised."""
    with pytest.raises(NotAnEvent, match=f"`data` of MINE must be a JSON object: .*{named}"):
        checked(StreamEvent("MINE", {"a": value}))
