"""What a start gives its agent beside a text, over both transports: params, parts, metadata and headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from websockets.asyncio.client import connect

from support.chats import http
from support.followers import KINDS, Refused, rest, start
from support.redis_server import fresh
from support.serving import Puppets, Running, echo, serving
from twinwire import AgentSpec, Settings, Twinwire, create_app
from twinwire.agents.accepts import Accepts, accepted
from twinwire.protocol.errors import BadRequest, IdempotencyMismatch

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
FILE = {"type": "file", "file": {"file_id": "f"}}
TEXT = {"type": "text", "text": "there"}
PARAMS = {"temperature": 0.5, "deep": {"a": [None]}}
LABELS = {"ticket": "4711", "team.name": "ü"}


@pytest.fixture
def puppets() -> Puppets:
    return Puppets({"image", "params"})


def told(kind: str, **fields: Any) -> dict[str, Any]:
    """Return fields of a start as this transport has them: in a query they are JSON."""
    return fields if kind == "ws" else {name: json.dumps(value) for name, value in fields.items()}


@pytest.mark.parametrize("kind", KINDS)
async def test_all_that_is_given(kind: str, server: Running, puppets: Puppets) -> None:
    """The agent is given the settings, the parts behind the message, and the labels, as they were sent."""
    follower = await start(kind, server, **told(kind, params=PARAMS, metadata=LABELS, parts=[TEXT, IMAGE]))
    puppet = await puppets.next()
    request = puppet.request
    assert (request.message, request.params, request.metadata) == ("hi\n\nthere", PARAMS, LABELS)
    assert request.parts == [{"type": "text", "text": "hi"}, TEXT, IMAGE]
    puppet.end()
    events = await rest(follower)
    assert events[0]["data"]["input"] == "hi\n\nthere"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_text_alone(kind: str, server: Running, puppets: Puppets) -> None:
    """A start with a message alone gives nothing else, and none of its dictionaries is shared."""
    for _ in range(2):
        follower = await start(kind, server)
        puppet = await puppets.next()
        request = puppet.request
        assert (request.params, request.metadata, request.parts, request.headers) == ({}, {}, [], {})
        request.params["a"] = request.metadata["a"] = request.headers["a"] = "mine"
        request.parts.append({})
        puppet.end()
        await rest(follower)


@pytest.mark.parametrize("path", ["/runs", "/chat", "/chat/stream"])
async def test_in_a_body(path: str, server: Running, puppets: Puppets) -> None:
    """A body has the same fields, and an image needs no text beside it."""
    body = {"message": "", "params": PARAMS, "metadata": LABELS, "parts": [IMAGE]}
    async with http(server) as client:
        asking = asyncio.create_task(client.post(path, json=body))
        puppet = await puppets.next()
        request = puppet.request
        assert (request.message, request.params, request.metadata, request.parts) == ("", PARAMS, LABELS, [IMAGE])
        puppet.end()
        assert (await asking).status_code in {200, 201}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"params": {"a": 1}}, "params.a"),
    ({"parts": [IMAGE]}, "parts"),
    ({"parts": [TEXT, FILE]}, "parts"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fields", "field"), REFUSED)
async def test_what_is_not_accepted(kind: str, fields: dict[str, Any], field: str) -> None:
    """What the agent does not accept is refused: the error names the field and the agent, and nothing runs."""
    puppets = Puppets({"language"})
    async with serving({"mine": puppets}) as server:
        with pytest.raises(Refused) as caught:
            await start(kind, server, **told(kind, **fields))
        assert (caught.value.answer["code"], caught.value.answer["field"]) == ("bad_request", field)
        message = caught.value.answer["message"]
        assert "`mine`" in message
        assert f"`{field}`" in message
        assert "language" in message
    assert puppets.started == 0


@pytest.mark.parametrize(("fields", "field"), REFUSED)
@pytest.mark.parametrize("path", ["/runs", "/chat", "/chat/stream", "/chat?stream=false"])
async def test_what_is_not_accepted_in_a_body(path: str, fields: dict[str, Any], field: str) -> None:
    """The same is 400 of each route, and of HEAD where that is answered."""
    puppets = Puppets()
    async with serving({"mine": puppets}) as server, http(server) as client:
        answer = await client.post(path, json={"message": "hi", **fields})
        assert (answer.status_code, answer.json()["field"]) == (400, field)
        head = await client.head("/chat", params={"message": "hi", **told("sse", **fields)})
        assert head.status_code == 400
    assert puppets.started == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"params": [1]}, "params"),
        ({"metadata": {"a b": "x"}}, "metadata"),
        ({"metadata": {"a": 7}}, "metadata.a"),
        ({"parts": {"type": "text"}}, "parts"),
        ({"parts": ["hi"]}, "parts[0]"),
        ({"parts": [{"type": "video"}]}, "parts[0].type"),
        ({"message": " ", "parts": [{"type": "text", "text": " "}]}, "message"),
        ({"message": " ", "params": {"a": 1}}, "message"),
    ],
)
async def test_what_is_ill_formed(
    kind: str, fields: dict[str, Any], field: str, server: Running, puppets: Puppets
) -> None:
    """A field that breaks its form or its bounds is a bad request with its path, whatever the agent accepts."""
    given = {name: value for name, value in fields.items() if name != "message"}
    with pytest.raises(Refused) as caught:
        await start(kind, server, fields.get("message", "hi"), **told(kind, **given))
    assert (caught.value.answer["code"], caught.value.answer["field"]) == ("bad_request", field)
    assert puppets.started == 0


async def test_json_in_a_query(server: Running, puppets: Puppets) -> None:
    """What is no JSON in a query is a bad request that names the parameter."""
    async with http(server) as client:
        for name in ("params", "metadata", "parts"):
            answer = await client.get("/chat", params={"message": "hi", name: "temperature=0"})
            assert (answer.status_code, answer.json()["field"]) == (400, name)
    assert puppets.started == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_single_settings(kind: str) -> None:
    """An agent may name the settings that it accepts, by its attribute or in its spec, which wins."""
    puppets, ruled = Puppets({"language"}), Puppets({"language"})
    agents: Any = {"mine": puppets, "ruled": AgentSpec(ruled, accepts={"style"})}
    async with serving(agents) as server:
        follower = await start(kind, server, **told(kind, params={"language": "da"}))
        (puppet := await puppets.next()).end()
        assert puppet.request.params == {"language": "da"}
        await rest(follower)
        for agent, params, field in (
            ("mine", {"style": 1}, "params.style"),
            ("ruled", {"language": 1}, "params.language"),
        ):
            with pytest.raises(Refused) as caught:
                await start(kind, server, agent=agent, **told(kind, params=params))
            assert caught.value.answer["field"] == field
    assert (puppets.started, ruled.started) == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_settings_with_types(kind: str) -> None:
    """A setting that has a type is refused if its value has another, with the path of what is wrong."""
    types = {"language": Literal["da", "fr"], "pages": list[int], "any": Any, "image": Any}
    puppets = Puppets(types)
    async with serving({"mine": puppets}) as server:
        right = {"language": "da", "pages": [1, 2], "any": {"a": None}}
        follower = await start(kind, server, **told(kind, params=right, parts=[IMAGE]))
        (puppet := await puppets.next()).end()
        assert puppet.request.params == right
        await rest(follower)
        for params, field in (
            ({"language": "en"}, "params.language"),
            ({"pages": [1, "2"]}, "params.pages[1]"),
            ({"pages": None}, "params.pages"),
            ({"other": 1}, "params.other"),
        ):
            with pytest.raises(Refused) as caught:
                await start(kind, server, **told(kind, params=params))
            assert (caught.value.answer["code"], caught.value.answer["field"]) == ("bad_request", field)
    assert puppets.started == 1


@pytest.mark.parametrize("words", ["image", ["image", 7], 7, {7: int}, {"size": "large"}])
def test_a_declaration_that_is_none(words: Any) -> None:
    """An `accepts` that has other than texts, or what is no type, is an error when the app is made, with the agent."""
    with pytest.raises(TypeError, match=r"`accepts.*` of the agent mine must be "):
        create_app({"mine": Puppets(words)})


def test_a_declaration() -> None:
    """An agent without one accepts a text alone; `params` are all settings, and no parts."""
    assert accepted("a", AgentSpec(echo)) == Accepts("a")
    every = Accepts("a", frozenset({"params"}))
    every.check({"anything": 1}, [TEXT])
    with pytest.raises(BadRequest):
        every.check({}, [IMAGE])
    pictures = Accepts("a", frozenset({"image"}))
    pictures.check({}, [TEXT, IMAGE])
    with pytest.raises(BadRequest) as caught:
        pictures.check({"image": 1}, [])
    assert caught.value.field == "params.image"


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def kept(request: pytest.FixtureRequest, puppets: Puppets, tmp_path: Path) -> AsyncIterator[Running]:
    """A server on each log."""
    log = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/log.db", "redis": ""}[request.param] or fresh()
    async with serving({"mine": puppets}, log=log) as running:
        yield running


async def test_labels_are_kept(kept: Running, puppets: Puppets) -> None:
    """A run's labels are in the run, its list, its snapshot and what a socket attaches to, also once it has ended."""
    async with http(kept) as client, connect(kept.ws_url, compression=None, proxy=None) as socket:
        body = {"message": "hi", "user_id": "u"}
        run = (await client.post("/runs", json={**body, "session_id": "a", "metadata": LABELS})).json()
        plain = (await client.post("/runs", json={**body, "session_id": "b"})).json()
        assert run["metadata"] == LABELS
        assert "metadata" not in plain
        for _ in range(2):
            assert (await client.get(f"/runs/{run['run_id']}")).json()["metadata"] == LABELS
            assert (await client.get(f"/runs/{run['run_id']}/snapshot")).json()["metadata"] == LABELS
            listed = (await client.get("/runs", params={"user_id": "u"})).json()["runs"]
            assert [each.get("metadata") for each in listed] == [None, LABELS]
            await socket.send(json.dumps({"type": "attach", "run_id": run["run_id"]}))
            while (reply := json.loads(await socket.recv()))["type"] != "attached":
                pass
            assert reply["metadata"] == LABELS
            (await puppets.next()).end()
            await _ended(client, run["run_id"])


async def _ended(client: httpx.AsyncClient, run_id: str) -> None:
    """Wait for the end of a run."""
    async with client.stream("GET", f"/runs/{run_id}/events") as events:
        await events.aread()


async def test_the_same_start_again(kept: Running, puppets: Puppets) -> None:
    """A start that repeats an idempotency key is the same run only if it gives the same; the order of names is none."""
    body = {"message": "hi", "user_id": "u", "idempotency_key": "k"}
    given = {"params": {"a": 1, "b": 2}, "metadata": LABELS, "parts": [IMAGE]}
    async with http(kept) as client:
        first = await client.post("/runs", json={**body, **given})
        again = await client.post("/runs", json={**body, **given, "params": {"b": 2, "a": 1}})
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["run_id"] == again.json()["run_id"]
        others: list[dict[str, Any]] = [{"params": {"a": 1}}, {"metadata": {}}, {"parts": [TEXT, IMAGE]}, {"parts": []}]
        for other in others:
            answer = await client.post("/runs", json={**body, **given, **other})
            assert (answer.status_code, answer.json()["code"]) == (422, IdempotencyMismatch.code)
    assert puppets.started == 1
    (await puppets.next()).end()


async def test_a_conversation_has_texts(kept: Running, puppets: Puppets) -> None:
    """The next turn's history has the texts of the turn before, and a note of its image; its parts are its own."""
    how = {"session_id": "s", "user_id": "u"}
    async with http(kept) as client:
        for message, parts in (("What is it?", [IMAGE]), ("And now?", [])):
            asking = asyncio.create_task(client.post("/chat", json={"message": message, "parts": parts, **how}))
            puppet = await puppets.next()
            assert len(puppet.request.parts) == 2 * len(parts)
            puppet.say("A sun.")
            puppet.end()
            await asking
    assert [turn["content"] for turn in puppet.request.history] == ["What is it?\n\n[image]", "A sun."]


async def test_a_structured_answer_in_a_conversation(server: Running, puppets: Puppets) -> None:
    """An answer that is an object, which was never told as text, is its JSON in the history."""
    how = {"session_id": "s", "user_id": "u", "stream": False}
    async with http(server) as client:
        for _ in range(2):
            asking = asyncio.create_task(client.post("/chat", json={"message": "hi", **how}))
            puppet = await puppets.next()
            puppet.emit("AGENT_FINISH", result={"sum": 3})
            puppet.end()
            assert (await asking).json()["result"] == {"sum": 3}
    assert [turn["content"] for turn in puppet.request.history] == ["hi", '{"sum":3}']


async def test_from_a_program(puppets: Puppets) -> None:
    """A program that starts a run itself gives the same, and what the agent does not accept raises."""
    ai = Twinwire({"mine": puppets}, settings=Settings(drain_timeout=0.0))
    async with ai.lifespan():
        run = await ai.start("mine", "hi", params=PARAMS, metadata=LABELS, parts=[IMAGE])
        (puppet := await puppets.next()).end()
        await run.wait()
        request = puppet.request
        assert (request.params, request.metadata, len(request.parts)) == (PARAMS, LABELS, 2)
        with pytest.raises(BadRequest, match="`mine` does not accept the file"):
            await ai.start("mine", "hi", parts=[FILE])
    assert puppets.started == 1


@pytest.mark.parametrize("below", ["direct", "plain"], indirect=True)
@pytest.mark.usefixtures("below")
async def test_headers(puppets: Puppets) -> None:
    """The agent reads the headers that the settings list, of the request or of the handshake, and no other."""
    sent = {"X-Tenant": "acme", "x-other": "no", "authorization": "Basic none", "cookie": "a=b"}
    async with serving({"mine": puppets}, agent_header=("X-Tenant", "x-missing")) as server, http(server) as client:
        asking = asyncio.create_task(client.post("/chat", json={"message": "hi"}, headers=sent))
        (puppet := await puppets.next()).end()
        assert puppet.request.headers == {"x-tenant": "acme"}
        await asking
        assert (await client.post("/runs", json={"message": "hi"}, headers=sent)).status_code == 201
        (puppet := await puppets.next()).end()
        assert puppet.request.headers == {"x-tenant": "acme"}
        async with connect(server.ws_url, additional_headers=sent, compression=None, proxy=None) as socket:
            await socket.send(json.dumps({"type": "start", "request_id": "r", "message": "hi"}))
            (puppet := await puppets.next()).end()
        assert puppet.request.headers == {"x-tenant": "acme"}


async def test_what_is_given_counts_as_memory(puppets: Puppets) -> None:
    """The parts of runs that go on count among the bytes that all runs share: there is no room for one more."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 500_000}"}}
    async with serving({"mine": puppets}, live_bytes=1_200_000) as server, http(server) as client:
        statuses = [
            (await client.post("/runs", json={"message": "hi", "parts": [picture]})).status_code for _ in range(3)
        ]
        assert statuses == [201, 201, 429]
        (await puppets.next()).end()
        (await puppets.next()).end()
