"""hypothesis on every command of the WebSocket and JSON body of the OpenAPI: each is answered, and without a 5xx."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from suites.environment import Record, tell
from support.processes import parrot
from twinwire.protocol.commands import Command

AGENT = """
from twinwire import StreamEvent

async def parrot(request):
    yield StreamEvent("LLM_CHUNK", {"content": "hi", "delta": "hi"})
"""
COMMANDS = Command.__subclasses__()
WORDS = st.sampled_from(
    [
        "",
        "hi",
        "mine",
        "parrot",
        "user",
        "cancel",
        "continue",
        "\0",
        "\ud800",
        "é" * 200,
        "evt-x-1",
        "-1",
        "१",
        "native",
    ]
) | st.text(max_size=40)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | WORDS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=8
)
TEXT_PARTS = st.lists(st.builds(lambda text: {"type": "text", "text": text}, WORDS), min_size=1, max_size=3)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "id": WORDS},
    optional={"content": WORDS | TEXT_PARTS, "parts": TEXT_PARTS},
)
QUESTIONS: st.SearchStrategy[Any] = st.sampled_from(
    [
        {"id": "m", "role": "user", "content": "hi"},
        {"id": "m", "role": "user", "parts": [{"type": "text", "text": "hi"}]},
    ]
)
TYPES = {
    "string": WORDS,
    "boolean": st.booleans(),
    "integer": st.integers(-2, 2**53),
    "object": MESSAGES | st.dictionaries(WORDS, VALUES, max_size=3),
    "null": st.none(),
}

often = pytest.mark.parametrize(
    "examples", [60, pytest.param(1000, marks=[pytest.mark.full, pytest.mark.timeout(900)])], ids=str
)


def of(schema: Mapping[str, Any], parts: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """What a JSON schema allows, as far as types go; an object now and then has a field of another type or name."""
    while "$ref" in schema:
        schema = parts[schema["$ref"].rpartition("/")[2]]
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        return st.one_of(*(of(alternative, parts) for alternative in alternatives))
    if isinstance(schema.get("type"), list):
        return st.one_of(*(of({**schema, "type": kind}, parts) for kind in schema["type"]))
    if schema.get("type") == "array":
        items = st.lists(of(schema.get("items", {}), parts), max_size=4)
        return items | st.builds(lambda before, last: [*before[:2], last], items, QUESTIONS)
    if schema.get("type") == "string" and "minLength" in schema:
        return WORDS.filter(lambda word: schema["minLength"] <= len(word) <= schema["maxLength"])
    if schema.get("type", "object") != "object" or "properties" not in schema:
        return st.sampled_from(schema["enum"]) if "enum" in schema else TYPES.get(str(schema.get("type")), VALUES)
    fields = {name: of(field, parts) for name, field in schema["properties"].items()}
    needed = schema.get("required", ())
    right = st.fixed_dictionaries(
        {name: fields[name] for name in needed},
        optional={name: kind for name, kind in fields.items() if name not in needed},
    )
    wrong = st.dictionaries(st.sampled_from([*fields, "unknown"]), VALUES, max_size=2)
    return right | st.builds(lambda one, other: {**one, **other}, right, wrong)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with parrot(tmp_path_factory.mktemp("inputs"), AGENT) as address:
        yield address


def bodies(url: str) -> dict[str, st.SearchStrategy[Any]]:
    """What to send to each route that takes JSON, after its schema."""
    schema = httpx.get(f"{url}/schema/openapi.json", trust_env=False).json()

    found: dict[str, st.SearchStrategy[Any]] = {}
    for path, methods in schema["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        if "application/json" in content:
            body = of(content["application/json"]["schema"], schema["components"]["schemas"])
            found[path.replace("{run_id}", "a" * 26)] = body | VALUES
    return found


def quick(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )


@often
def test_bodies(examples: int, url: str, chance: random.Random, record_property: Record) -> None:
    """Each body is answered below 500, and a refusal is JSON that names its error."""
    routes = bodies(url)
    assert len(routes) >= 5
    statuses: Counter[int] = Counter()
    with httpx.Client(base_url=url, trust_env=False, timeout=20) as client:

        @seed(chance.randrange(2**32))
        @quick(examples * 3)
        @given(st.one_of(*(st.tuples(st.just(path), body) for path, body in routes.items())))
        def ask(request: tuple[str, Any]) -> None:
            path, value = request
            head = {"content-type": "application/json"}
            with client.stream("POST", path, content=json.dumps(value), headers=head) as response:
                status = response.status_code
                assert status < 500, response.read()
                if status >= 400:
                    assert json.loads(response.read()).keys() & {"code", "error"}
            statuses[status] += 1

        ask()
    note = f"{len(routes)} routes; statuses {', '.join(f'{status}: {n}' for status, n in sorted(statuses.items()))}"
    tell(record_property, "JSON bodies", "hypothesis", cases=statuses.total(), passed=statuses.total(), note=note)


@often
def test_commands(examples: int, url: str, chance: random.Random, record_property: Record) -> None:
    """Each command has a reply, or closes the socket with a code that PROTOCOL.md has, and the server goes on."""
    parts = msgspec.json.schema_components(COMMANDS, ref_template="{name}")
    shapes = [of(shape, parts[1]) for shape in parts[0]]
    replies: Counter[str] = Counter()

    def answered(socket: ClientConnection, value: Any) -> int | None:
        """Send a command, and wait until what comes after it is answered, or return the close code."""
        try:
            socket.send(json.dumps(value))
            socket.send('{"type":"ping","ref":"after"}')
            while (answer := json.loads(socket.recv(timeout=10))) != {"type": "pong", "ref": "after"}:
                replies[answer["type"]] += 1
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006
        return None

    @seed(chance.randrange(2**32))
    @quick(examples)
    @given(st.lists(st.one_of(*shapes, VALUES), min_size=1, max_size=5))
    def say(values: list[Any]) -> None:
        with connect(f"ws{url.removeprefix('http')}/ws", proxy=None, compression=None) as socket:
            for value in values:
                code = answered(socket, value)
                assert code in {None, 4029, 4500, 4501, 1009}
                if code is not None:
                    replies[f"closed with {code}"] += 1
                    break
        replies["commands"] += len(values)

    say()
    assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
    total = replies.pop("commands")
    note = ", ".join(f"{name}: {n}" for name, n in sorted(replies.items()) if name.islower())
    tell(record_property, "Commands", "hypothesis", cases=total, passed=total, note=note)
