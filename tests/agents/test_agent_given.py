"""Settings, images and files of a run in the agents that come with Twinwire, which ask a real model's server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.chats import http
from support.followers import KINDS, Refused, start
from support.model_server import ModelServer, answer, calls
from support.scripted import STOP, Scripted
from support.serving import serving
from twinwire import AgentSpec, OpenAIChatModel, ReActAgent, SimpleAgent, ToolRegistry
from twinwire.agents.accepts import accepted
from twinwire.agents.react import SAMPLING
from twinwire.models import Text
from twinwire.tools import AskTool

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
FILE = {"type": "file", "file": {"file_id": "file-1"}}
PARAMS = {"temperature": 0.5, "top_p": 1, "max_tokens": 9, "stop": ["\n"], "seed": 7, "reasoning_effort": "low"}
BOTH = pytest.mark.parametrize("agent", [ReActAgent, SimpleAgent])


@pytest.fixture
async def upstream() -> AsyncIterator[ModelServer]:
    async with ModelServer() as upstream:
        yield upstream


def model(upstream: ModelServer, **options: Any) -> OpenAIChatModel:
    return OpenAIChatModel("scripted", base_url=upstream.url, **options)


@BOTH
async def test_settings_of_the_model(agent: Any, upstream: ModelServer) -> None:
    """A run's settings go with each call of the model, over the model's own, and those of other runs have none."""
    upstream.script(answer("Hello"))
    upstream.script(answer("Hello"))
    async with serving({"a": agent("a", model(upstream, temperature=0, seed=1))}) as server, http(server) as client:
        for body in ({"params": PARAMS}, {}):
            told = await client.post("/chat", json={"message": "hi", "stream": False, **body})
            assert told.json()["result"] == "Hello"
    first, second = [(await upstream.arrived()).body for _ in range(2)]
    assert {name: first[name] for name in PARAMS} == PARAMS
    assert {name: second[name] for name in SAMPLING.keys() & second.keys()} == {"temperature": 0, "seed": 1}


async def test_settings_in_each_step(upstream: ModelServer) -> None:
    """The settings hold for each call of the model in the run, with tools as well."""
    tools = ToolRegistry()
    tools.register_tool(AskTool())
    upstream.script(calls(("Nothing", {})))
    upstream.script(answer("Hello"))
    async with serving({"a": ReActAgent("a", model(upstream), tools)}) as server, http(server) as client:
        body = {"message": "hi", "stream": False, "params": {"temperature": 0.5}}
        assert (await client.post("/chat", json=body)).json()["result"] == "Hello"
    assert [(await upstream.arrived()).body["temperature"] for _ in range(2)] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("own", "asked", "sent"),
    [
        ({"max_tokens": 5}, {"max_tokens": 9}, {"max_tokens": 5}),
        ({"max_tokens": 9}, {"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 5}, {"max_completion_tokens": 9}, {"max_tokens": 5}),
        ({"max_completion_tokens": 9}, {"max_tokens": 5}, {"max_completion_tokens": 5}),
        ({"max_tokens": 5}, {"max_tokens": None}, {"max_tokens": 5}),
        ({}, {"max_tokens": 9}, {"max_tokens": 9}),
    ],
)
async def test_a_limit_of_the_model(
    own: dict[str, Any], asked: dict[str, Any], sent: dict[str, Any], upstream: ModelServer
) -> None:
    """A run may lower the model's limit of tokens, by either name, and neither raise it nor take it out."""
    upstream.script(answer("Hello"))
    async with serving({"a": SimpleAgent("a", model(upstream, **own))}) as server, http(server) as client:
        await client.post("/chat", json={"message": "hi", "stream": False, "params": asked})
    body = (await upstream.arrived()).body
    assert {name: body[name] for name in body.keys() & {"max_tokens", "max_completion_tokens"}} == sent


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "hot"),
        ("temperature", -1),
        ("temperature", True),
        ("top_p", 1.1),
        ("max_tokens", 0),
        ("max_completion_tokens", 1.5),
        ("reasoning_effort", ""),
        ("stop", []),
        ("stop", ["a", ""]),
        ("seed", "7"),
    ],
)
async def test_a_value_that_is_none(kind: str, name: str, value: Any, upstream: ModelServer) -> None:
    """A setting with a wrong value is refused with a sentence that names it, and no run begins."""
    params: Any = {name: value}
    async with serving({"a": SimpleAgent("a", model(upstream))}) as server:
        with pytest.raises(Refused) as caught:
            await start(kind, server, params=params if kind == "ws" else json.dumps(params))
    field = "params.stop[1]" if value == ["a", ""] else f"params.{name}"
    assert (caught.value.answer["code"], caught.value.answer["field"]) == ("bad_request", field)
    assert caught.value.answer["message"].startswith(f"`{field}` must be ")
    assert upstream.requests == []


@pytest.mark.parametrize("value", [None, 0, 0.5, 2])
def test_a_value_that_is_right(value: Any) -> None:
    """A value that the model's options take, or null, is accepted."""
    accepted("a", AgentSpec(SimpleAgent("a", OpenAIChatModel("m", api_key="k")))).check({"temperature": value}, [])


@pytest.mark.parametrize(("params", "field"), [({"n": 2}, "params.n"), ({"messages": []}, "params.messages")])
async def test_settings_that_are_not_the_models(params: dict[str, Any], field: str, upstream: ModelServer) -> None:
    """A setting that no model's option is for is refused."""
    async with serving({"a": SimpleAgent("a", model(upstream))}) as server, http(server) as client:
        told = await client.post("/runs", json={"message": "hi", "params": params})
        assert (told.status_code, told.json()["field"]) == (400, field)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_model_without_options(kind: str) -> None:
    """An agent whose model takes no options accepts no settings."""
    agent = SimpleAgent("a", Scripted([[Text("hi")], STOP]))
    assert agent.accepts == {}
    async with serving({"a": agent}) as server:
        with pytest.raises(Refused) as caught:
            await start(kind, server, params={"temperature": 0} if kind == "ws" else '{"temperature": 0}')
        assert caught.value.answer["field"] == "params.temperature"


@BOTH
async def test_images_and_files(agent: Any, upstream: ModelServer) -> None:
    """An agent that is made for them sends the message's parts to its model as they are."""
    upstream.script(answer("A sun."))
    made = agent("a", model(upstream), accepts={"image", "file"})
    async with serving({"a": made}) as server, http(server) as client:
        body = {"message": "What is it?", "stream": False, "parts": [IMAGE, FILE]}
        assert (await client.post("/chat", json=body)).json()["result"] == "A sun."
    content = (await upstream.arrived()).body["messages"][-1]["content"]
    assert content == [{"type": "text", "text": "What is it?"}, IMAGE, FILE]


@BOTH
async def test_images_that_are_not_accepted(agent: Any, upstream: ModelServer) -> None:
    """By default it accepts neither; one that is made for images refuses files."""
    for accepts, part in (((), IMAGE), (("image",), FILE)):
        async with serving({"a": agent("a", model(upstream), accepts=accepts)}) as server, http(server) as client:
            told = await client.post("/runs", json={"message": "hi", "parts": [part]})
            assert (told.status_code, told.json()["field"]) == (400, "parts")
    assert upstream.requests == []


@BOTH
def test_what_it_cannot_accept(agent: Any) -> None:
    """It is made for images and files alone."""
    with pytest.raises(ValueError, match="`accepts` must have image and file alone, not state, tools"):
        agent("a", Scripted([STOP]), accepts={"tools", "state", "image"})


async def test_openais_client(upstream: ModelServer) -> None:
    """The settings of a request to `/v1` reach the model, and only what the agent does not accept is ignored."""
    upstream.script(answer("Hello"))
    async with serving({"a": SimpleAgent("a", model(upstream))}) as server, http(server) as client:
        body = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5, "top_k": 3}
        told = await client.post("/v1/chat/completions", json=body)
        assert told.headers["twinwire-ignored"] == "top_k"
    sent = (await upstream.arrived()).body
    assert (sent["temperature"], "top_k" in sent) == (0.5, False)
