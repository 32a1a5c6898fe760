"""A bad argument of the Python client is an error where it is given, which names it and says what would be right."""

from __future__ import annotations

import math
from typing import Any

import httpx
import pytest

from support.following import NOWHERE
from twinwire_client import Backoff, Client, RunNotFound, SyncClient

URL = "http://127.0.0.1:1"

BAD_TYPES: list[tuple[str, Any]] = [
    ("url", None),
    ("app", "mine:app"),
    ("headers", [("a", "b")]),
    ("transport", 5),
    ("transport", ["ws"]),
    ("token", 5),
    ("timeout", "x"),
    ("timeout", True),
    ("heartbeat", None),
    ("muted", "x"),
    ("backoff", 3),
    ("patience", "x"),
    ("max_attempts", 1.5),
    ("max_attempts", True),
    ("first_attempts", "3"),
    ("max_wait", None),
    ("on_retry", 3),
    ("verify", 3),
    ("http_client", "x"),
]
BAD_VALUES: list[tuple[str, Any]] = [
    ("url", "127.0.0.1:18100"),
    ("url", "localhost:8000"),
    ("url", "ftp://a"),
    ("url", "http://"),
    ("url", "http://a:port"),
    ("headers", {"x-bad": "a\nb"}),
    ("headers", {"x bad": "a"}),
    ("headers", {"x": "naïve"}),
    ("headers", {"x": 5}),
    ("transport", "smoke"),
    ("token", "a\nb"),
    ("token", ""),
    ("timeout", 0),
    ("timeout", math.nan),
    ("heartbeat", -1),
    ("muted", 0),
    ("backoff", Backoff("x")),  # type: ignore[arg-type]
    ("backoff", Backoff(-1)),
    ("patience", -1),
    ("max_attempts", 0),
    ("first_attempts", 0),
    ("max_wait", -1),
]


@pytest.mark.parametrize("kind", [Client, SyncClient])
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [*((*bad, TypeError) for bad in BAD_TYPES), *((*bad, ValueError) for bad in BAD_VALUES)],
)
def test_a_client_s(kind: Any, name: str, value: Any, error: type[Exception]) -> None:
    """Each argument of a client is checked; a secret is not repeated."""
    with pytest.raises(error, match=rf"(?s)^`{name}` must be .*\.$") as caught:
        kind(**{"url": URL, name: value})
    assert "a\\nb" not in str(caught.value)


def test_the_good_ones() -> None:
    """All arguments may have the values that their types and documents allow."""
    many = Client(
        "https://user:word@[::1]:8000/below",
        {"x-a": "", "x-b": "c d"},
        transport="sse",
        token=lambda: "t",
        timeout=math.inf,
        heartbeat=1,
        muted=0.1,
        backoff=Backoff(0, 0),
        patience=math.inf,
        max_attempts=1,
        first_attempts=1,
        max_wait=0,
        on_retry=print,
        verify=False,
    )
    many.stream("")
    Client(URL, None, token="t", max_attempts=None, on_retry=None, http_client=httpx.AsyncClient())


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("message", None, TypeError),
        ("message", b"m", TypeError),
        ("message", "a\ud800", ValueError),
        ("transport", "smoke", ValueError),
        ("agent", 7, TypeError),
        ("user_id", "", ValueError),
        ("session_id", "", ValueError),
        ("session_id", 5, TypeError),
        ("on_disconnect", "stop", ValueError),
        ("on_disconnect", "cancel_after:soon", ValueError),
        ("interrupt", "yes", TypeError),
        ("interrupt", None, TypeError),
        ("types", 5, TypeError),
        ("types", "LLM_CHUNK", ValueError),
        ("types", [5], ValueError),
        ("idempotency_key", "", ValueError),
        ("traceparent", 1, TypeError),
        ("params", [1], TypeError),
        ("params", "{}", TypeError),
        ("params", {"a": object()}, TypeError),
        ("params", {"a": math.nan}, ValueError),
        ("params", {"a": "\ud800"}, ValueError),
        ("metadata", ["a"], TypeError),
        ("metadata", {"a": 7}, ValueError),
        ("parts", "hi", TypeError),
        ("parts", {"type": "text"}, TypeError),
        ("parts", ["hi"], ValueError),
        ("on_input", "print", TypeError),
    ],
)
def test_a_start_s(name: str, value: Any, error: type[Exception]) -> None:
    """So is each argument of a start."""
    with pytest.raises(error, match=rf"^`{name}` must .*\.$"):
        Client(URL).stream(**{"message": "m", name: value})


def test_a_start_s_good_ones() -> None:
    """A policy is one of the three, and a name any text."""
    client = Client(URL)
    for policy in ("continue", "cancel", "cancel_after:0", "cancel_after:1.5", None):
        client.stream("m", on_disconnect=policy, user_id="Zoë", interrupt=True, types=("ERROR",))
    client.stream("", params={"a": [None]}, metadata={"a": "b"}, parts=[{"type": "text", "text": "hi"}])
    client.stream("m", params=None, metadata=None, parts=None)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("run_id", None, TypeError),
        ("run_id", 5, TypeError),
        ("after", None, TypeError),
        ("after", True, TypeError),
        ("after", -1, ValueError),
        ("after", f"evt-{'b' * 26}-1", ValueError),
        ("snapshot", "yes", TypeError),
        ("transport", "smoke", ValueError),
        ("types", {"ERROR"}, TypeError),
        ("on_input", 5, TypeError),
    ],
)
def test_an_attach_s(name: str, value: Any, error: type[Exception]) -> None:
    """So is each argument of an attach."""
    with pytest.raises(error, match=rf"^`{name}` must .*\.$"):
        Client(URL).attach(**{"run_id": NOWHERE, name: value})


async def test_others() -> None:
    """So are those of requests; a text that no run can have is a run that does not exist."""
    async with Client(URL) as client:
        with pytest.raises(TypeError, match=r"^`run_id` must be a run's id, which `run\.run_id` has once "):
            client.attach(None)  # type: ignore[arg-type]
        for call in (client.get, client.cancel):
            with pytest.raises(TypeError, match=r"^`run_id` must "):
                await call(None)  # type: ignore[arg-type]
            with pytest.raises(RunNotFound):
                await call("nonsense")
        for wrong, error in ((5, TypeError), ("", ValueError)):
            with pytest.raises(error, match=r"^`message_id` must "):
                await client.send(NOWHERE, "m", message_id=wrong)  # type: ignore[arg-type]
            with pytest.raises(error, match=r"^`message_id` must "):
                await client.answer(NOWHERE, "ask", "a", message_id=wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^`input_id` must "):
            await client.answer(NOWHERE, 5, "a")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"^`content` must "):
            await client.send(NOWHERE, "a\ud800")
        with pytest.raises(RunNotFound) as caught:
            client.attach("nonsense")
        assert caught.value.status == 404
        for bad in ("x", 1.5, True):
            with pytest.raises(TypeError, match=r"^`limit` must "):
                await client.runs(limit=bad)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"^`limit` must "):
            await client.runs(limit=0)
        with pytest.raises(ValueError, match=r"^`user_id` must "):
            await client.runs(user_id="")
