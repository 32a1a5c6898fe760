"""The requests of the OpenAI chat model that are like the ones before: they are sent without the SDK."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.model_server import Exchange, ModelServer, answer, status
from support.raw_server import OK, listening, replying, whole
from twinwire.models import Text
from twinwire.models.openai.http import httpx
from twinwire.models.openai.model import OpenAIChatModel, _tls
from twinwire.models.openai.pool import Transport

ANSWER = whole(b"".join(answer("a")))
TOOL = {"type": "function", "function": {"name": "Read", "description": "read", "parameters": {"type": "object"}}}


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def model(server: ModelServer) -> AsyncIterator[OpenAIChatModel]:
    model = OpenAIChatModel("scripted", api_key="sk-canary-7f3a", base_url=server.url)
    yield model
    await model.aclose()


async def text_of(model: OpenAIChatModel, *tools: dict[str, Any]) -> str:
    """Call the model; return the text of its answer."""
    messages = [{"role": "user", "content": "hello"}]
    parts = [part async for batch in model.stream(messages, tools) for part in batch]
    return "".join(part.text for part in parts if isinstance(part, Text))


async def test_later_requests(server: ModelServer, model: OpenAIChatModel, caplog: pytest.LogCaptureFixture) -> None:
    """All calls' requests are alike but for the body, whether the SDK writes them or, from the third on, not."""
    caplog.set_level(logging.INFO, httpx.__name__)
    for number in range(4):
        server.script(answer(str(number)))
        assert await text_of(model, *[TOOL] * number) == str(number)
    requests = [await server.arrived() for _ in range(4)]
    assert [len(request.body.get("tools", ())) for request in requests] == [0, 1, 2, 3]
    heads = [{**request.headers, "content-length": None} for request in requests]
    assert heads == [heads[0]] * 4
    logged = [record for record in caplog.records if record.name == httpx.__name__]
    assert len(logged) == 2  # the SDK's client logs its own


async def test_well_again_after_retries(server: ModelServer, model: OpenAIChatModel) -> None:
    """Whatever came before, a call's first attempt says that it is the first."""
    for number in range(5):
        if number in {0, 3}:
            server.script(status(503, {"retry-after-ms": "1"}))
        server.script(answer("a"))
        assert await text_of(model) == "a"
    assert [request.headers["x-stainless-retry-count"] for request in server.requests] == list("0100010")


async def test_no_cookies(server: ModelServer, model: OpenAIChatModel) -> None:
    """A cookie of one call's answer is not sent with the next: all users share the model."""

    async def cookie(exchange: Exchange) -> None:
        exchange.begin(200, {"set-cookie": "user=a; Path=/"})

    for _ in range(3):
        server.script(cookie, answer("a"))
        assert await text_of(model) == "a"
    assert [request.headers.get("cookie") for request in server.requests] == [None] * 3


async def test_redirected_requests_are_not_repeated() -> None:
    """A server that redirects is followed each time: where it leads to may change."""
    moved = b"HTTP/1.1 307 Moved\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"
    connections: list[int] = []
    async with listening(replying(*[moved, ANSWER] * 3, connections=connections)) as url:
        model = OpenAIChatModel("scripted", base_url=url)
        assert [await text_of(model) for _ in range(3)] == ["a"] * 3
        assert connections == [6]
        await model.aclose()


async def test_only_what_is_constant_is_sent_again() -> None:
    """What a request has in common with the last is sent again, until another one has something else."""
    ours = Transport(_tls())
    connections: list[int] = []
    async with (
        listening(replying(*[OK] * 9, connections=connections)) as url,
        httpx.AsyncClient(transport=ours) as client,
    ):

        async def learn(value: str) -> None:
            ours.learn((await client.post(url, headers={"X": value})).request)

        assert await ours.like(b"x") is None
        await learn("a")
        assert await ours.like(b"x") is None
        await learn("a")
        answer = await ours.like(b"x")
        assert isinstance(answer, httpx.Response)
        assert await answer.aread() == b"ok"
        await learn("b")
        assert await ours.like(b"x") is None
        assert connections == [4]
    assert await ours.like(b"x") is None
