"""The options of a model: what goes over the wire with each, and which are refused before anything does."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from support.model_server import ModelServer, Request, answer, status
from twinwire.models import Text
from twinwire.models.openai.model import OpenAIChatModel
from twinwire.models.openai.options import Shape, shaped
from twinwire.protocol.errors import SettingsError, UpstreamError

KEY = "sk-canary-7f3a"
MESSAGES = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "Read", "description": "read", "parameters": {"type": "object"}}}
PLAIN = {"model": "scripted", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
ALL: dict[str, Any] = {
    "temperature": 0,
    "top_p": 0.5,
    "max_tokens": 100,
    "max_completion_tokens": 200,
    "reasoning_effort": "low",
    "stop": ["END", "\n\n"],
    "seed": -7,
    "response_format": FORMAT,
    "parallel_tool_calls": False,
}
Build = Callable[..., OpenAIChatModel]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TWINWIRE_MODEL_OPTION", "TWINWIRE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(lambda _: answer("a")) as server:
        yield server


@pytest.fixture
async def build(server: ModelServer) -> AsyncIterator[Build]:
    """Make models of the server, closed at the end."""
    models = []

    def build(**options: Any) -> OpenAIChatModel:
        model = OpenAIChatModel("scripted", base_url=server.url, **{"api_key": KEY, **options})
        models.append(model)
        return model

    yield build
    for model in models:
        await model.aclose()


async def ask(server: ModelServer, model: OpenAIChatModel, *tools: dict[str, Any]) -> Request:
    """Call the model once; return the request that came."""
    parts = [part async for batch in model.stream(MESSAGES, tools) for part in batch]
    assert parts[0] == Text("a")
    return await server.arrived()


@pytest.mark.parametrize("way", ["at once", "with_options", "one after another", "variable"])
async def test_each_option_is_sent(
    server: ModelServer, build: Build, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each option is a field of each request's body, however the request is sent and the option was given."""
    if way == "variable":
        monkeypatch.setenv(
            "TWINWIRE_MODEL_OPTION",
            "temperature=0 top_p=0.5, max_tokens=100 max_completion_tokens=200 reasoning_effort=low "
            f'stop=["END", "\\n\\n"] seed=-7 response_format={json.dumps(FORMAT)} parallel_tool_calls=false, top_k=3',
        )
        model = build()
    elif way == "one after another":
        model = build()
        for name, value in ALL.items():
            model = model.with_options(**{name: value})
        model = model.with_options(extra_body={"top_k": 3})
    else:
        model = (
            build(**ALL, extra_body={"top_k": 3})
            if way == "at once"
            else build().with_options(**ALL, extra_body={"top_k": 3})
        )
    assert model.options == {**ALL, "top_k": 3}
    for _ in range(3):  # the third is sent without the SDK
        assert (await ask(server, model, TOOL)).body == {**PLAIN, "tools": [TOOL], **ALL, "top_k": 3}


async def test_one_call_s_options(server: ModelServer, build: Build) -> None:
    """Options of one call are over the model's, which stay as they are; None takes one out. Connections are shared."""
    model = build(temperature=0.5, seed=1, extra_body={"top_k": 3})
    warm = model.with_options(temperature=1, seed=None, extra_body={"top_k": 4, "min_p": 0})
    assert isinstance(warm, OpenAIChatModel)
    assert (await ask(server, warm)).body == {**PLAIN, "temperature": 1, "top_k": 4, "min_p": 0}
    assert (await ask(server, model)).body == {**PLAIN, "temperature": 0.5, "seed": 1, "top_k": 3}
    assert (await ask(server, warm.with_options(extra_body={"temperature": 2}))).body["temperature"] == 2
    assert len(server.connections) == 1


async def test_headers_and_query(server: ModelServer, build: Build) -> None:
    """Headers and the query go with each request; those of one call do not stay for the next."""
    model = build(headers={"X-Title": "t", "User-Agent": "mine"}, query={"api-version": "2024-10-21"})
    other = model.with_options(headers={"x-title": "u", "X-More": "m"}, query={"more": "1"})
    for _ in range(3):
        request = await ask(server, model)
        assert request.path.endswith("/chat/completions?api-version=2024-10-21")
        assert {"x-title": "t", "user-agent": "mine"}.items() <= request.headers.items()
        assert "x-more" not in request.headers
        assert request.headers["authorization"] == f"Bearer {KEY}"
        request = await ask(server, other)
        assert request.path.endswith("/chat/completions?api-version=2024-10-21&more=1")
        assert (request.headers["x-title"], request.headers["x-more"]) == ("u", "m")


async def test_an_api_key_header(
    server: ModelServer, build: Build, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An `api-key` header is sent in place of any other key, and no log line shows it."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-server")
    model = build(api_key=None, headers={"api-key": KEY})
    for _ in range(3):
        request = await ask(server, model)
        assert request.headers["api-key"] == KEY
        assert "authorization" not in request.headers
    server.script(status(401, body={"error": {"message": KEY}}))
    with pytest.raises(UpstreamError):
        await ask(server, model)
    await server.arrived()
    assert KEY not in caplog.text
    request = await ask(server, build(headers={"authorization": f"Bearer {KEY}2"}))
    assert request.headers["authorization"] == f"Bearer {KEY}2"


async def test_a_header_of_ones_own_stays(server: ModelServer, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is given its `Authorization` sends that, beside an `api-key` of the environment too."""
    monkeypatch.setenv("TWINWIRE_MODEL_OPTION", 'headers={"api-key": "of-another"}')
    request = await ask(server, build(headers={"Authorization": f"Bearer {KEY}"}))
    assert request.headers["authorization"] == f"Bearer {KEY}"


async def test_what_has_no_meaning_without_tools(server: ModelServer, build: Build) -> None:
    """OpenAI refuses `parallel_tool_calls` and `tool_choice` in a request without tools: there they are left out."""
    model = build(parallel_tool_calls=False, extra_body={"tool_choice": "auto"})
    assert (await ask(server, model)).body == PLAIN
    body = (await ask(server, model, TOOL)).body
    assert (body["parallel_tool_calls"], body["tool_choice"]) == (False, "auto")


async def test_stream_options_of_ones_own(server: ModelServer, build: Build) -> None:
    """`stream_options=False` leaves the field out, or to `extra_body`, also for one call."""
    assert "stream_options" not in (await ask(server, build(stream_options=False))).body
    assert "stream_options" not in (await ask(server, build().with_options(stream_options=False))).body
    own = {"include_usage": True, "continuous_usage_stats": True}
    model = build(stream_options=False, extra_body={"stream_options": own})
    assert (await ask(server, model)).body["stream_options"] == own


async def test_an_option_s_value_is_the_model_s_own(server: ModelServer, build: Build) -> None:
    """What a caller does to a value afterwards changes nothing."""
    stop, extra = ["END"], {"a": {"b": 1}}
    model = build(stop=stop, extra_body=extra)
    stop.append("x")
    extra["a"]["b"] = 2
    body = (await ask(server, model)).body
    assert (body["stop"], body["a"]) == (["END"], {"b": 1})


async def test_a_server_refuses_an_option(server: ModelServer, build: Build) -> None:
    """What a server makes of an option is the server's: it is sent once, and the refusal is told."""
    server.script(status(400, body={"error": {"message": "Unsupported parameter: 'max_tokens'"}}))
    with pytest.raises(UpstreamError) as caught:
        await ask(server, build(max_tokens=5))
    assert (caught.value.code, len(server.requests)) == ("upstream_rejected", 1)


def each(name: str, right: str, *values: Any) -> list[tuple[str, Any, str]]:
    """Return a case for each of these wrong values."""
    return [(name, value, right) for value in values]


WRONG = [
    *each("temperature", "a number of at least 0", "hot", "0", True, -1, math.nan, math.inf, []),
    *each("top_p", "a number from 0 to 1", 1.1, -0.1, False, "1"),
    *each("max_tokens", "a whole number of at least 1", 0, -1, 1.5, "5", True),
    *each("max_completion_tokens", "a whole number of at least 1", 0, 2.0),
    *each("reasoning_effort", "a text such as low", "", 1, ["low"]),
    *each("stop", "a text or a list of texts", "", [], [""], [1], {"a": 1}, 5),
    *each("seed", "a whole number", 1.5, "1", True),
    *each("response_format", "an object with a type", "json_object", {}, {"type": 1}, []),
    *each("parallel_tool_calls", "true or false", 0, "false", []),
    *each("stream_options", "true or false", 0, "false", {"include_usage": True}),
    *each("headers", "an object of texts", "a: b", {"a": 1}, {1: "a"}, [("a", "b")]),
    *each("headers", "names such as X-Title", *({name: "b"} for name in ("", "a b", "a:", "a\r\nb", "\xe4"))),
    *each("headers", "printable ASCII in a", *({"a": text} for text in ("", " b", "b\r\nc: d", "\xe4", "b\0"))),
    *each("headers", "set with each request", *({name: "b"} for name in ("Host", "content-length", "Accept"))),
    *each("query", "an object of texts", "a=b", {"a": 1}, []),
    *each("extra_body", "an object whose keys are texts", "{}", [], {1: 2}),
    *each("extra_body", "JSON in the field a", {"a": object()}, {"a": iter({1, 2})}),
    *(
        ("extra_body", {name: None}, f"must not have the field {name}.")
        for name in ("model", "messages", "tools", "stream", "stream_options", "n")
    ),
    ("temprature", 1, "must be one of temperature, "),
]


@pytest.mark.parametrize(("name", "value", "right"), WRONG, ids=lambda value: repr(value)[:24])
def test_a_wrong_option(build: Build, name: str, value: Any, right: str) -> None:
    """It is refused when the model is built, and by `with_options`, with its name and what would be right."""
    for make in (build, build().with_options):
        with pytest.raises(SettingsError) as caught:
            make(**{name: value})
        assert caught.value.field == name
        line = str(caught.value)
        assert line.startswith(f"`{name}` must ")
        assert right in line
        assert line.endswith((".", "for it."))
        assert line.isprintable()
        assert len(line) < 300


@pytest.mark.parametrize("name", ALL)
def test_a_field_that_is_given_twice(build: Build, name: str) -> None:
    """A field that is both an option and in `extra_body` is refused, also if both say the same."""
    with pytest.raises(SettingsError, match=f"^`extra_body` must not have the field {name}, which is given"):
        build(**{name: ALL[name]}, extra_body={name: ALL[name]})


def test_no_secret_is_shown() -> None:
    """An error about a header or the query shows no value."""
    wrong: list[Mapping[str, Any]] = [
        {"headers": {"api-key": f"{KEY}\n"}},
        {"headers": {"api-key": [KEY]}},
        {"query": {"key": [KEY]}},
        {"headers": KEY},
    ]
    for options in wrong:
        with pytest.raises(SettingsError) as caught:
            shaped(Shape(), options)
        assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("temperature=hot", "`TWINWIRE_MODEL_OPTION temperature` must be a number of at least 0, not 'hot'."),
        ("messages=[]", "`TWINWIRE_MODEL_OPTION messages` must not be given. The agent's conversation is sent."),
        ("temperature", "`TWINWIRE_MODEL_OPTION` must be KEY=VALUE"),
    ],
)
def test_a_wrong_variable(build: Build, monkeypatch: pytest.MonkeyPatch, text: str, line: str) -> None:
    """A wrong option of the variable is told with the variable's name."""
    monkeypatch.setenv("TWINWIRE_MODEL_OPTION", text)
    with pytest.raises(SettingsError) as caught:
        build()
    assert str(caught.value).startswith(line)


async def test_what_is_given_wins_over_the_variable(
    server: ModelServer, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options of the variable are those of a model that is not given its own."""
    monkeypatch.setenv("TWINWIRE_MODEL_OPTION", "temperature=1 seed=2 top_k=3")
    body = (await ask(server, build(temperature=0, extra_body={"top_k": 4}))).body
    assert body == {**PLAIN, "temperature": 0, "seed": 2, "top_k": 4}


async def test_many_shapes_at_once(server: ModelServer, build: Build) -> None:
    """Calls with options of their own do not mix."""
    model = build()
    seeds = range(20)
    await asyncio.gather(*(ask(server, model.with_options(seed=seed, headers={"x-n": str(seed)})) for seed in seeds))
    assert {(request.body["seed"], request.headers["x-n"]) for request in server.requests} == {
        (seed, str(seed)) for seed in seeds
    }
