"""Bad input over HTTP: one JSON answer with the right status that names the field; never a traceback, never a run."""

# ruff: noqa: E501 - a table reads best as one
from __future__ import annotations

import asyncio
import json
import logging
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from support.followers import rest, start
from support.serving import Puppets, Running

JSON = {"content-type": "application/json"}
DEEP = b"[" * 100_000
HUGE = b"9" * 100_000
LONG = "x" * 200

CASES: list[tuple[str, str, str, dict[str, Any], int, str, str | None]] = [
    # name, method, path, request, status, code, field
    ("no message", "GET", "/chat/stream", {}, 400, "bad_request", "message"),
    ("no message in a POST", "POST", "/chat", {}, 400, "bad_request", "message"),
    ("blank message", "GET", "/chat?message=%20%0A", {}, 400, "bad_request", "message"),
    ("empty message", "POST", "/runs", {"json": {"message": ""}}, 400, "bad_request", "message"),
    ("missing message", "POST", "/runs", {"json": {}}, 400, "bad_request", "message"),
    ("message of a wrong type", "POST", "/runs", {"json": {"message": 1}}, 400, "bad_request", "message"),
    ("null message", "POST", "/runs", {"json": {"message": None}}, 400, "bad_request", "message"),
    ("unknown field", "POST", "/runs", {"json": {"message": "x", "mesage": 1}}, 400, "bad_request", "mesage"),
    ("unknown field to chat", "POST", "/chat", {"json": {"message": "x", "zz": 1}}, 400, "bad_request", "zz"),
    ("no body", "POST", "/runs", {}, 400, "bad_request", None),
    ("empty object's bytes cut", "POST", "/runs", {"content": b'{"message":', "headers": JSON}, 400, "bad_request", None),
    ("array", "POST", "/runs", {"json": []}, 400, "bad_request", None),
    ("string", "POST", "/chat", {"json": "hi"}, 400, "bad_request", None),
    ("bad UTF-8", "POST", "/runs", {"content": b'{"message":"\xff"}', "headers": JSON}, 400, "bad_request", None),
    ("UTF-16", "POST", "/runs", {"content": '{"message":"x"}'.encode("utf-16"), "headers": JSON}, 400, "bad_request", None),
    ("deep nesting", "POST", "/runs", {"content": DEEP, "headers": JSON}, 400, "bad_request", None),
    ("deep value", "POST", "/runs", {"content": b'{"message":' + DEEP, "headers": JSON}, 400, "bad_request", "message"),
    ("deep unknown", "POST", "/runs", {"content": b'{"x":' + DEEP, "headers": JSON}, 400, "bad_request", "x"),
    ("huge integer", "POST", "/runs", {"content": b'{"message":' + HUGE + b"}", "headers": JSON}, 400, "bad_request", "message"),
    ("huge integer to chat", "POST", "/chat", {"content": b'{"stream":' + HUGE + b"}", "headers": JSON}, 400, "bad_request", "stream"),
    ("NaN", "POST", "/runs", {"content": b'{"message":NaN}', "headers": JSON}, 400, "bad_request", None),
    ("text/plain", "POST", "/runs", {"content": b'{"message":"x"}', "headers": {"content-type": "text/plain"}}, 415, "unsupported_media_type", "content-type"),
    ("no content type", "POST", "/chat", {"content": b'{"message":"x"}'}, 415, "unsupported_media_type", "content-type"),
    ("form", "POST", "/chat", {"data": {"message": "x"}}, 415, "unsupported_media_type", "content-type"),
    ("gzip", "POST", "/runs", {"content": b"\x1f\x8b", "headers": {**JSON, "content-encoding": "gzip"}}, 415, "unsupported_media_type", "content-encoding"),
    ("12 MB", "POST", "/runs", {"content": b" " * 12_000_000, "headers": JSON}, 413, "payload_too_large", None),
    ("just too large", "POST", "/runs", {"content": b" " * (2**20 + 1), "headers": JSON}, 413, "payload_too_large", None),
    ("unknown agent", "GET", "/chat?message=x&agent=nope", {}, 404, "agent_not_found", "agent"),
    ("unknown agent to runs", "POST", "/runs", {"json": {"message": "x", "agent": "no"}}, 404, "agent_not_found", "agent"),
    ("ill-formed types", "GET", "/chat?message=x&types=llm_chunk", {}, 400, "bad_request", "types"),
    ("empty types", "GET", "/chat?message=x&types=", {}, 400, "bad_request", "types"),
    ("types with a space", "POST", "/chat", {"json": {"message": "x", "types": ["A B"]}}, 400, "bad_request", "types"),
    ("types of a wrong type", "POST", "/chat", {"json": {"message": "x", "types": [1]}}, 400, "bad_request", "types[0]"),
    ("bad stream", "GET", "/chat?message=x&stream=maybe", {}, 400, "bad_request", "stream"),
    ("bad envelope", "GET", "/chat?message=x&envelope=2", {}, 400, "bad_request", "envelope"),
    ("unknown format", "GET", "/chat?message=x&format=xml", {}, 400, "bad_request", "format"),
    ("bad policy", "GET", "/chat?message=x&on_disconnect=later", {}, 400, "bad_request", "on_disconnect"),
    ("bad grace", "POST", "/runs", {"json": {"message": "x", "on_disconnect": "cancel_after:-1"}}, 400, "bad_request", "on_disconnect"),
    ("long session", "GET", f"/chat?message=x&session_id={LONG}", {}, 400, "bad_request", "session_id"),
    ("empty user", "GET", "/chat?message=x&user_id=", {}, 400, "bad_request", "user_id"),
    ("query that is no UTF-8", "GET", "/chat?message=%ff", {}, 400, "bad_request", None),
    ("cursor that is none", "GET", "/chat/stream", {"headers": {"last-event-id": "abc"}}, 400, "bad_request", "last-event-id"),
    ("number as a chat's cursor", "GET", "/chat?after=3", {}, 400, "bad_request", "after"),
    ("empty cursor", "GET", "/chat?message=x", {"headers": {"last-event-id": ""}}, 400, "bad_request", "last-event-id"),
    ("two cursors", "GET", "/chat", {"headers": [("last-event-id", "evt-a-1"), ("last-event-id", "evt-a-2")]}, 400, "bad_request", "last-event-id"),
    ("long cursor", "GET", "/chat", {"headers": {"last-event-id": "evt-" + "a" * 26 + "-" + "1" * 60}}, 400, "bad_request", "last-event-id"),
    ("cursor of an unknown run", "GET", "/chat?message=x", {"headers": {"last-event-id": f"evt-{'a' * 26}-1"}}, 404, "run_not_found", None),
    ("unknown run", "GET", f"/runs/{'a' * 26}", {}, 404, "run_not_found", None),
    ("ill-formed run", "GET", "/runs/x", {}, 404, "run_not_found", None),
    ("events of an unknown run", "GET", f"/runs/{'a' * 26}/events", {}, 404, "run_not_found", None),
    ("cancel of an unknown run", "POST", f"/runs/{'a' * 26}/cancel", {}, 404, "run_not_found", None),
    ("unknown path", "GET", "/nope", {}, 404, "not_found", None),
    ("wrong method", "DELETE", "/runs", {}, 405, "method_not_allowed", None),
    ("HEAD on a stream, of nothing", "HEAD", "/chat/stream", {}, 400, "", None),
    ("no event stream accepted", "GET", "/chat?message=x", {"headers": {"accept": "application/json"}}, 406, "not_acceptable", "accept"),
    ("event stream refused", "GET", "/chat?message=x", {"headers": {"accept": "text/event-stream;q=0, */*"}}, 406, "not_acceptable", "accept"),
    ("plain request to the WebSocket", "GET", "/ws", {}, 426, "upgrade_required", None),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
async def test_bad_input(
    case: tuple[str, str, str, dict[str, Any], int, str, str | None],
    server: Running,
    puppets: Puppets,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer has the case's status, code and field; no run starts, nothing is logged as an error."""
    _, method, path, request, status, code, field = case
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
        response = await client.request(method, path, **request)
        assert (response.status_code, response.headers["content-type"].partition(";")[0]) == (
            status,
            "application/json",
        )
        if method != "HEAD":
            answer = response.json()
            assert (answer["code"], answer.get("field")) == (code, field)
            assert answer["message"]
            assert answer.keys() <= {"code", "message", "field"}
        assert (await client.get("/healthz")).status_code == 200
    assert puppets.started == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_parameters_the_web_adds_are_left_aside(server: Running, puppets: Puppets) -> None:
    """A query parameter that is none of ours, as caches and trackers add, does no harm."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
        asking = asyncio.create_task(client.get("/chat?message=x&stream=false&_=123&utm_source=y"))
        (await puppets.next()).end()
        assert (await asking).json()["status"] == "completed"


async def test_a_body_wins_over_the_query(server: Running, puppets: Puppets) -> None:
    """What a POST's query says counts where its body says nothing."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
        asking = asyncio.create_task(client.post("/chat?stream=false&message=query", json={"message": "body"}))
        puppet = await puppets.next()
        puppet.end()
        assert puppet.request.message == "body"
        assert (await asking).json() == {"result": "", "run_id": puppet.request.run_id, "status": "completed"}


async def test_a_body_of_the_largest_size(server: Running, puppets: Puppets) -> None:
    """A message of just the limit arrives whole."""
    room = 2**20 - len('{"message": ""}')
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
        body = json.dumps({"message": "x" * room}).encode()
        response = await client.post("/runs", content=body, headers=JSON)
        assert response.status_code == 201
        puppet = await puppets.next()
        assert len(puppet.request.message) == room


async def test_the_header_wins_over_after(server: Running, puppets: Puppets) -> None:
    """Where Last-Event-ID and `after` disagree, the header counts."""
    follower = await start("sse", server)
    puppet = await puppets.next()
    puppet.say("a", "b")
    puppet.end()
    seen = await rest(follower)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
        response = await client.get(f"/runs/{follower.run_id}/events?after=1", headers={"last-event-id": seen[2]["id"]})
        assert response.text.count("\nid: ") == 2
        assert f"id: {seen[2]['id']}\n\nevent: AGENT_FINISH" in response.text


async def test_a_resume_never_starts(server: Running, puppets: Puppets) -> None:
    """A request with a cursor and a message follows the cursor's run; once it has ended, no other message is lost."""
    follower = await start("sse", server)
    puppet = await puppets.next()
    puppet.say("a")
    puppet.end()
    seen = await rest(follower)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
        response = await client.get("/chat/stream?message=again", headers={"last-event-id": seen[0]["id"]})
        assert response.headers["twinwire-run"] == follower.run_id
        asked = quote(puppet.request.message)
        last = await client.get(f"/chat/stream?message={asked}", headers={"last-event-id": seen[-1]["id"]})
        assert (last.status_code, last.content) == (204, b"")
        new = await client.get("/chat/stream?message=again", headers={"last-event-id": seen[-1]["id"]})
        assert (new.status_code, new.json()["field"]) == (400, "message")
    assert puppets.started == 1
