"""Queries: each parameter is honoured, refused with the right name, or named in `Twinwire-Ignored`."""

from __future__ import annotations

import asyncio
import string
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, strategies as st
from litestar.routes import HTTPRoute
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from support.chats import Transport, http, said
from support.followers import rest, start
from support.serving import Puppets, Running
from twinwire.auth import Scope
from twinwire.auth.scopes import of_route
from twinwire.protocol.errors import BadRequest
from twinwire.settings import Settings
from twinwire.web import query
from twinwire.web.app import create_app
from twinwire.web.input import ChatQuery, StartBody
from twinwire.web.lists import ListQuery

ASKED = {"id": "c", "trigger": "submit-message", "messages": said("a")}


@pytest.mark.parametrize(
    ("sent", "right"),
    [
        ("mesage", "message"),
        ("messagge", "message"),
        ("messaeg", "message"),
        ("Message", "message"),
        ("sessionId", "session_id"),
        ("Session-ID", "session_id"),
        ("Session_ID", "session_id"),
        ("idempotencykey", "idempotency_key"),
        ("idempotncy-Key", "idempotency_key"),
        ("type", "types"),
        ("tickets", "ticket"),
        ("lastEventIds", "last_event_id"),
    ],
)
def test_a_name_that_looks_like_a_known_one(sent: str, right: str) -> None:
    """It is refused with the right name, however it was misspelt."""
    with pytest.raises(BadRequest, match=f"`{right}`") as caught:
        query.check(f"{sent}=x".encode(), ChatQuery)
    assert caught.value.field == sent


@pytest.mark.parametrize("sent", ["_", "t", "utm_source", "fbclid", "api-version", "user", "session", "id", "x" * 9])
def test_a_name_of_somebody_elses(sent: str) -> None:
    """It is ignored, and named."""
    assert query.check(f"message=a&{sent}=1".encode(), ChatQuery) == ({"message": "a"}, [sent])


@pytest.mark.parametrize("name", ["lastEventId", "LASTEVENTID", "last-event-id", "Last_Event_Id", "evs_last_event_id"])
def test_a_cursor_by_any_name(name: str) -> None:
    """An EventSource's cursor is known in any case, with any hyphens; where there is none yet, it is empty."""
    assert query.check(f"{name}=evt-a-1".encode(), ChatQuery) == ({"last_event_id": "evt-a-1"}, [])
    assert query.check(f"{name}=".encode(), ChatQuery) == ({}, [])
    assert query.check(f"{name}=x".encode(), ListQuery)[1] == [name]


@pytest.mark.parametrize(
    ("sent", "field"),
    [("message=a&message=b", "message"), ("lastEventId=a&last-event-id=b", "last-event-id")],
)
def test_a_parameter_with_two_values(sent: str, field: str) -> None:
    """It is refused: either could be meant."""
    with pytest.raises(BadRequest) as caught:
        query.check(sent.encode(), ChatQuery)
    assert caught.value.field == field
    assert query.check(b"message=a&message=a", ChatQuery)[0] == {"message": "a"}


def test_a_parameter_that_is_a_list() -> None:
    """It may be there more than once, and has each value in order; with one value it is a list, too."""
    assert query.check(b"label=a:b&limit=1&label=c:d", ListQuery)[0] == {"label": ["a:b", "c:d"], "limit": "1"}
    assert query.check(b"label=a:b", ListQuery)[0] == {"label": ["a:b"]}
    with pytest.raises(BadRequest, match="`label`"):
        query.check(b"labels=a:b", ListQuery)


def test_what_belongs_into_the_body() -> None:
    """A field of the body is refused in the query, where it would have no effect."""
    for sent in ("interrupt", "message", "agnet"):
        with pytest.raises(BadRequest) as caught:
            query.check(f"{sent}=x".encode(), None, (StartBody,))
        assert caught.value.field == sent


@given(st.binary(max_size=200))
def test_any_query(sent: bytes) -> None:
    """Of any query the parameters are known ones, the ignored names are not, or it is a `BadRequest`."""
    with suppress(BadRequest):
        values, ignored = query.check(sent, ChatQuery, (StartBody,))
        assert values.keys() <= {*ChatQuery.__struct_fields__}
        assert not {*ignored} & {*ChatQuery.__struct_fields__, *StartBody.__struct_fields__}


@given(st.lists(st.text(max_size=300), max_size=40))
def test_the_header_is_bounded_ascii(names: list[str]) -> None:
    """Whatever the names are, the header has visible ASCII and spaces, and at most a kilobyte and a bit."""
    scope: dict[str, Any] = {}
    query.ignore(scope, names)
    for _, value in query.ignored_header(scope):
        assert len(value) <= query.IGNORED_NAMES * (query.IGNORED_LENGTH + 2)
        assert set(value.decode()) <= {*string.ascii_letters, *string.digits, *"_.-~%[], "}


async def test_every_route_refuses_a_name_that_looks_like_a_known_one(server: Running, puppets: Puppets) -> None:
    """No route with a query passes over `tickett`; what no route knows is ignored and named."""
    app = create_app(settings=Settings())
    async with http(server) as client:
        routes = [route for route in app.routes if isinstance(route, HTTPRoute)]
        asked = [(method, route.path_format) for route in routes for method in route.methods - {"OPTIONS", "HEAD"}]
        checked = [(method, path) for method, path in asked if of_route(method, path) is not Scope.OPEN]
        assert len(checked) > 15
        for method, path in checked:
            refused = await client.request(method, f"{path}?tickett=x", json={})
            told = refused.json()
            told = told.get("error", told)
            assert (refused.status_code, told.get("field", told.get("param"))) == (400, "tickett"), (method, path)
            ignored = await client.request(method, f"{path}?fbclid=x&a%0d%0aB:=y", json={})
            assert ignored.headers["twinwire-ignored"] == "fbclid, a%0D%0AB%3A", (method, path)
    assert puppets.started == 0


async def test_a_stream_names_what_it_ignored(server: Running, puppets: Puppets) -> None:
    """The header is on answers that stream, too."""
    async with http(server) as client:
        asking = asyncio.create_task(client.get("/chat?message=x&_=1"))
        (await puppets.next()).end()
        assert (await asking).headers["twinwire-ignored"] == "_"


@pytest.mark.parametrize("path", ["/chat?message=again&after=evt-{run}-0&", "/runs/{run}/events?after=0&"])
async def test_a_cursor_in_the_query_resumes(path: str, server: Running, puppets: Puppets) -> None:
    """event-source-polyfill's `lastEventId` resumes, wins over `after` as the header does, and loses to the header."""
    follower = await start("sse", server)
    puppet = await puppets.next()
    puppet.say("a", "b")
    puppet.end()
    await rest(follower)
    cursor = f"evt-{follower.run_id}-"
    async with http(server) as client:
        url = path.format(run=follower.run_id)
        seen = await client.get(f"{url}lastEventId={cursor}2")
        assert [line for line in seen.text.splitlines() if line.startswith("id")][1:] == [
            f"id: {cursor}3",
            f"id: {cursor}4",
        ]
        seen = await client.get(f"{url}lastEventId={cursor}1", headers={"last-event-id": f"{cursor}3"})
        assert f"id: {cursor}3\n\nevent: AGENT_FINISH" in seen.text
        bad = await client.get(f"{url}lastEventId=3")
        assert (bad.status_code, bad.json()["field"]) == (400, "last_event_id")
    assert puppets.started == 1


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/ws?tickett=x", "tickett"),
        ("/ws?agent=x", "agent"),
        ("/ws?run_id=x", "run_id"),
        ("/ai-sdk/ws?agnet=x", "agnet"),
        ("/ai-sdk/ws?messages=x", "messages"),
        ("/ai-sdk/ws?user_id=", "user_id"),
    ],
)
async def test_a_sockets_query_is_checked(path: str, field: str, server: Running) -> None:
    """A socket opens and is closed for good, with the name in the reason."""
    async with connect(f"ws://127.0.0.1:{server.port}{path}", compression=None, proxy=None) as socket:
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 4500
        assert (socket.close_reason or "").startswith(f"`{field}` ")


@pytest.mark.parametrize("path", ["/ws", "/ai-sdk/ws"])
async def test_a_socket_names_what_it_ignored(path: str, server: Running) -> None:
    """The answer to the handshake has the header."""
    async with connect(f"ws://127.0.0.1:{server.port}{path}?fbclid=x", compression=None, proxy=None) as socket:
        assert socket.response is not None
        assert socket.response.headers["twinwire-ignored"] == "fbclid"


async def test_a_chats_socket_has_options_in_its_query(server: Running, puppets: Puppets) -> None:
    """`/ai-sdk/ws?agent=` names the agent of all its messages, but for those whose `body` names one."""
    url = f"ws://127.0.0.1:{server.port}/ai-sdk/ws?agent=nobody&user_id=ann"
    async with connect(url, compression=None, proxy=None) as socket:
        client = Transport(socket)
        await client.say("send", "r1", **ASKED)
        assert (await client.next())["errorText"] == "The server has no agent of this name."
        await client.say("send", "r2", **{**ASKED, "body": {"agent": "mine"}})
        puppet = await puppets.next()
        assert puppet.request.user_id == "ann"
        await client.say("resume", "r3", id="c")
        assert {(await client.until("start", "r3"))[-1]["type"]} == {"start"}
        puppet.end()
        await client.until("end", "r3")
