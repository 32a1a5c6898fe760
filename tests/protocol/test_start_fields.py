"""The fields of a start are the same whichever way it comes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec import Struct, inspect as shapes

from twinwire.protocol.commands import Start
from twinwire.runs import RunSpec
from twinwire.runs.spec import Asked
from twinwire.web.compat.history import Options
from twinwire.web.input import ChatBody, ChatQuery, StartBody
from twinwire_client import Client
from twinwire_client.sync import SyncClient

ROOT = Path(__file__).parents[2]
FIELDS = {
    *("agent", "user_id", "session_id", "on_disconnect", "idempotency_key", "traceparent"),
    *("params", "metadata", "parts"),
}
"""All that a start may have beside its message."""


def declared(way: type[Struct]) -> Mapping[str, shapes.Type]:
    """Return the type of each field, without its description."""
    kind = shapes.type_info(way)
    assert isinstance(kind, shapes.StructType)
    return {field.name: field.type for field in kind.fields}


@pytest.mark.parametrize("way", [ChatQuery, ChatBody, Start])
def test_each_way_takes_the_same(way: type[Struct]) -> None:
    """A query, a chat's body and a command have the fields of `POST /runs`, of the same types."""
    body, other = declared(StartBody), declared(way)
    assert FIELDS | {"message", "interrupt"} == set(body)
    assert {name: other[name] for name in FIELDS} == {name: body[name] for name in FIELDS}


def test_other_protocols_take_a_part() -> None:
    """What an app may add to another protocol's request is a part of that: the rest is the protocol's own."""
    body, options = declared(StartBody), declared(Options)
    assert options.items() <= body.items()
    own = {"session_id", "idempotency_key", "traceparent", "params", "metadata", "parts"}
    assert FIELDS - set(options) == own


def test_a_run_takes_all() -> None:
    """What the ways have in common is what a run is made of."""
    assert {name for name in vars(Asked) if not name.startswith("_")} == {*FIELDS, "message"}
    assert FIELDS - {"on_disconnect"} <= set(RunSpec.__struct_fields__)


@pytest.mark.parametrize("client", [Client, SyncClient])
def test_the_python_client_sends_all(client: type[Client | SyncClient]) -> None:
    """`stream` of the Python client has a parameter for each field."""
    assert {*FIELDS, "message", "interrupt"} <= set(inspect.signature(client.stream).parameters)


def test_the_javascript_client_sends_all() -> None:
    """The JavaScript client names each field in what it sends."""
    source = (ROOT / "clients/js/src/client.js").read_text()
    assert [name for name in (*FIELDS, "interrupt") if name not in source] == []
