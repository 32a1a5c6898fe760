"""The WebSocket's commands, from the vectors any client can read, and its replies."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from support.vector_files import Vector, each, error_of
from twinwire.protocol.commands import decode_command, error_reply, labels, reply
from twinwire.protocol.errors import BadHost, BadRequest, CursorGone, RunNotFound


@each("commands")
def test_vectors(vector: Vector) -> None:
    """Each vector's message is the command it says, defaults filled in, or an error that names the field."""
    try:
        said = msgspec.to_builtins(decode_command(vector["input"]))
    except BadRequest as error:
        found = error_of(error)
    else:
        found = {name: value for name, value in said.items() if value is not None}
    assert found == vector.get("error", vector.get("expected"))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"type":"ping","x":' + "[" * 200_000,
        '{"type":"ping","ref":' + '{"a":' * 200_000,
        '{"type":"ping","ref":' + "9" * 100_000 + "}",
        '{"type":"attach","run_id":"x","after":' + "9" * 100_000 + "}",
        '{"type":"' + "p" * 1_000_000 + '"}',
        '{"type":"ping","' + "k" * 1_000_000 + '":1}',
        '{"type":"ping","ref":"\ud800"}',
    ],
    ids=lambda text: f"{text[:30]!r}",
)
def test_monsters(text: str) -> None:
    """Deep nesting, huge numbers, huge names and text that is no Unicode are each one short error."""
    with pytest.raises(BadRequest) as caught:
        decode_command(text)
    assert len(error_reply(caught.value, **labels(text))) < 1000


KEYS = st.sampled_from(["type", "ref", "request_id", "run_id"]) | st.text(max_size=3)
VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["ping", "cancel", "detach"])
OBJECTS = st.dictionaries(KEYS, VALUES | st.lists(VALUES) | st.dictionaries(KEYS, VALUES), max_size=4)


@given(st.text() | OBJECTS.map(json.dumps))
def test_any_text(text: str) -> None:
    """Any text at all is a command or an error that can be sent."""
    try:
        command = decode_command(text)
    except BadRequest as error:
        sent, kind = error_reply(error, **labels(text)), "error"
    else:
        sent, kind = reply("pong", command.ref), "pong"
    assert json.loads(sent)["type"] == kind


def test_replies_leave_out_what_is_none() -> None:
    """A reply has its type first and no nulls; `ref` comes as it was given, even where it is empty or zero."""
    assert reply("pong") == b'{"type":"pong"}'
    assert reply("pong", 0) == b'{"type":"pong","ref":0}'
    assert reply("pong", "") == b'{"type":"pong","ref":""}'
    assert json.loads(reply("attached", "x", run_id="r", first=1, last=0, ended=False)) == {
        "type": "attached",
        "run_id": "r",
        "first": 1,
        "last": 0,
        "ended": False,
        "ref": "x",
    }


def test_the_largest_ref_comes_back() -> None:
    """Any `ref` that is accepted can be echoed."""
    ref = 10**120
    assert json.loads(reply("pong", decode_command(json.dumps({"type": "ping", "ref": ref})).ref)) == {
        "type": "pong",
        "ref": ref,
    }


@pytest.mark.parametrize(
    ("error", "body"),
    [
        (RunNotFound(), {"code": "run_not_found", "message": "The run does not exist."}),
        (BadRequest("no", field="after"), {"code": "bad_request", "message": "no", "field": "after"}),
        (CursorGone(3, 9), {"code": "gap", "message": str(CursorGone(3, 9)), "first": 3, "last": 9}),
        (
            BadHost(),
            {"code": "bad_host", "message": str(BadHost()), "field": "host"},
        ),
    ],
)
def test_error_replies(error: Any, body: dict[str, Any]) -> None:
    """An error's reply is its payload with the names of what it is about."""
    assert json.loads(error_reply(error, run_id="r", request_id=None, ref=7)) == {
        "type": "error",
        **body,
        "run_id": "r",
        "ref": 7,
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"type":"nonsense","ref":5,"request_id":"r1","more":1}', {"ref": 5, "request_id": "r1"}),
        ('{"ref":"x","request_id":null}', {"ref": "x"}),
        ('{"ref":true,"request_id":false}', {}),
        ('{"ref":1.5,"request_id":["r"]}', {}),
        (json.dumps({"ref": "x" * 129, "request_id": "r" * 128}), {"request_id": "r" * 128}),
        ('{"ref":' + "9" * 129 + "}", {}),
        ('[{"ref":1}]', {}),
        ('"ref"', {}),
        ('{"ref":1', {}),
        ("", {}),
    ],
)
def test_labels(text: str, found: dict[str, Any]) -> None:
    """Of a bad message only a usable `ref` and `request_id` are echoed."""
    assert labels(text) == found
