"""The form of an answer, by the vectors that all who draw or check one share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from twinwire.protocol.errors import BadRequest
from twinwire.protocol.schema import check_answer, check_schema

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "schema.json").read_text()
)


def ids(vector: dict[str, Any]) -> str:
    return str(vector["name"])


@pytest.mark.parametrize("vector", VECTORS["fits"], ids=ids)
def test_answers(vector: dict[str, Any]) -> None:
    """A good answer is taken, and what is wrong with a bad one is named by its path."""
    if vector["schema"] is not None:
        check_schema(vector["schema"])
    for answer in vector["good"]:
        check_answer(vector["schema"], answer)
    for bad in vector["bad"]:
        with pytest.raises(BadRequest, match=rf"^`{bad['field']}` ") as raised:
            check_answer(vector["schema"], bad["answer"])
        assert raised.value.field == bad["field"]


@pytest.mark.parametrize("vector", VECTORS["no_schema"], ids=ids)
def test_what_is_no_schema(vector: dict[str, Any]) -> None:
    """A form that not every client could draw is refused in a sentence."""
    with pytest.raises(ValueError, match=r"^.*`schema.* must .*\.$"):
        check_schema(vector["schema"])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["string", "null"]},
        {"type": {}},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": [["a"]]},
        {"type": "object", "properties": {"a": {"type": ["string"]}}},
    ],
)
def test_what_a_model_may_write(schema: dict[str, Any]) -> None:
    """JSON Schema beyond what a client can draw is refused in a sentence, whatever JSON stands in it."""
    with pytest.raises(ValueError, match=r"^`schema.* must .*\.$"):
        check_schema(schema)


def test_a_number_beyond_all_floats() -> None:
    """A whole number of any size is one, and is compared with bounds."""
    check_answer({"type": "integer"}, 10**400)
    with pytest.raises(BadRequest, match="`answer` must be 9 or less"):
        check_answer({"type": "integer", "maximum": 9}, 10**400)
