"""The values of other people's types as JSON: subclasses of text and numbers, pydantic models, numpy's values.

msgspec itself encodes dataclasses, attrs, named tuples, sets, times, UUID, Decimal and enums.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Mapping, Set as AbstractSet
from enum import Enum
from typing import Any


def builtin(value: Any) -> Any:
    """Return a value that msgspec does not know as one that it does: its `enc_hook`. Raise `TypeError` if none is.

    Nothing is imported for that: a type is known by its bases, its module or its methods.
    """
    if value is None or isinstance(value, tuple | frozenset):  # msgspec knows them as values
        raise TypeError("The keys of an object must be texts or numbers.")
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, dt.date | dt.time):  # their subclasses, such as those of pandas and pendulum
        return value.isoformat()
    kind = type(value)
    if hasattr(kind, "model_dump"):  # pydantic
        return value.model_dump(mode="json")
    if kind.__module__.partition(".")[0] == "numpy" and hasattr(kind, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, AbstractSet | deque):
        return list(value)
    raise TypeError(f"A value of the type {kind.__qualname__} is no JSON.")
