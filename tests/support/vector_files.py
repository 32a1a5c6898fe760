"""The test vectors: lists of `{name, input, expected}` or `{name, input, error: {code, field}}` any client can read.

`run_ids`: a string, or an error. `cursors`: `input` is an event id, or `{"after", "run_id"}`; the number comes as
text, which JSON's users in JavaScript need. `commands`: the text of a WebSocket message, and what it says with its
defaults filled in. `events`: an event and its number, and the exact bytes of its three frames.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from twinwire.protocol.errors import TwinwireError

Vector = dict[str, Any]


def vectors(name: str) -> list[Vector]:
    """All vectors of one file."""
    found: list[Vector] = json.loads((Path(__file__).parents[1] / f"vectors/{name}.json").read_text())
    return found


def each(name: str) -> pytest.MarkDecorator:
    """Run a test for each vector of a file, as its argument `vector`."""
    return pytest.mark.parametrize("vector", vectors(name), ids=lambda vector: vector["name"])


def error_of(error: TwinwireError) -> dict[str, Any]:
    """What a vector says of an error."""
    return {"code": error.code, "field": error.field}
