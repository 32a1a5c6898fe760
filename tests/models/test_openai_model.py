"""The OpenAI chat model against a real server that speaks the protocol, and breaks it."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from support.model_server import (
    Exchange,
    ModelServer,
    answer,
    bytewise,
    calls,
    crlf,
    end,
    gate,
    joined,
    reasoning,
    stall,
    status,
    text,
)
from twinwire.models import Finish, Part, Text, Thinking, ToolCall, Usage
from twinwire.models.openai.codings import MAX_PIECE
from twinwire.models.openai.model import OpenAIChatModel
from twinwire.protocol.errors import SettingsError, UpstreamError, UpstreamTimeout

KEY = "sk-canary-7f3a"
MESSAGES = [{"role": "user", "content": "hello"}]
STOP = Finish("stop", Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5))
TOOL = {"type": "function", "function": {"name": "Read", "description": "read", "parameters": {"type": "object"}}}
Build = Callable[..., OpenAIChatModel]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "BASE_URL", "MODEL"):
        monkeypatch.delenv(f"TWINWIRE_{name}", raising=False)
        monkeypatch.delenv(f"OPENAI_{name}", raising=False)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def build(server: ModelServer) -> AsyncIterator[Build]:
    """Make models of the server, closed at the end."""
    models = []

    def build(**options: Any) -> OpenAIChatModel:
        model = OpenAIChatModel("scripted", **{"api_key": KEY, "base_url": server.url, "timeout": 20.0, **options})
        models.append(model)
        return model

    yield build
    for model in models:
        await model.aclose()


async def collect(model: OpenAIChatModel, *tools: dict[str, Any]) -> list[Part]:
    """Call the model once; return all parts."""
    return [part async for batch in model.stream(MESSAGES, tools) for part in batch]


async def test_answer_and_request(server: ModelServer, build: Build) -> None:
    """An answer streams as text and a finish; the request is what the protocol asks for."""
    server.script(answer("Hel", "lo"))
    assert await collect(build()) == [Text("Hel"), Text("lo"), STOP]
    request = await server.arrived()
    assert request.body == {
        "model": "scripted",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["accept-encoding"] == "identity"


async def test_a_server_without_stream_options(server: ModelServer, build: Build) -> None:
    """A server that refuses `stream_options` is asked again without it, and not with it any more."""
    server.script(status(422, body={"detail": [{"loc": ["body", "stream_options"]}]}))
    server.script(answer("a"))
    server.script(answer("b"))
    model = build()
    assert (await collect(model))[0] == Text("a")
    assert (await collect(model))[0] == Text("b")
    assert ["stream_options" in request.body for request in server.requests] == [True, False, False]


async def test_the_time_of_a_server_without_stream_options(server: ModelServer, build: Build) -> None:
    """The request without `stream_options` has what is left of the timeout, and its silence is told as such."""

    async def late(_: Exchange) -> None:
        await asyncio.sleep(2.0)  # of the timeout's 3 s

    server.script(late, status(422, body={"detail": [{"loc": ["body", "stream_options"]}]}))
    server.script(stall)
    begun = time.monotonic()
    with pytest.raises(UpstreamTimeout):
        await collect(build(timeout=3.0))
    assert time.monotonic() - begun < 4.5


async def test_calls_at_once_of_a_server_without_stream_options(server: ModelServer, build: Build) -> None:
    """A call under way whose `stream_options` are refused is sent once more, and one that fails otherwise is not."""
    model, go = build(), asyncio.Event()
    for body in (["stream_options"], ["stream_options"], ["the request"]):
        server.script(gate(go), status(400, body={"error": body}))
    tasks = []
    for _ in range(3):
        tasks.append(asyncio.create_task(collect(model)))
        await server.arrived()
    server.script(status(422, body={"detail": [{"loc": ["body", "stream_options"]}]}))
    for _ in range(3):
        server.script(answer("a"))
    assert (await collect(model))[0] == Text("a")
    go.set()
    assert [(await task)[0] for task in tasks[:2]] == [Text("a")] * 2
    with pytest.raises(UpstreamError) as caught:
        await tasks[2]
    assert caught.value.code == "upstream_rejected"
    assert ["stream_options" in request.body for request in server.requests] == [True] * 4 + [False] * 3


async def test_tool_calls(server: ModelServer, build: Build) -> None:
    """Tools are sent, and calls come whole, just before the finish."""
    server.script(reasoning("hm"), calls(("Read", '{"path": "x"}'), ("Read", '{"path": "y"}')))
    assert await collect(build(), TOOL) == [
        Thinking("hm"),
        ToolCall("call_1", "Read", '{"path": "x"}'),
        ToolCall("call_2", "Read", '{"path": "y"}'),
        Finish("tool_calls", STOP.usage, {"reasoning_content": "hm"}),
    ]
    assert (await server.arrived()).body["tools"] == [TOOL]


@pytest.mark.parametrize("shape", [bytewise, crlf, joined, lambda chunks: bytewise(crlf(chunks))])
async def test_shapes(server: ModelServer, build: Build, shape: Callable[[list[bytes]], list[bytes]]) -> None:
    """However the body is cut into chunks, the parts are the same."""
    server.script(shape(answer("grün ", "🚀")))
    assert await collect(build()) == [Text("grün "), Text("🚀"), STOP]


async def test_compressed_body_that_goes_on(server: ModelServer, build: Build) -> None:
    """A compressed body ends at `[DONE]`, however much that is no part of the answer was read with it."""

    async def compressed(exchange: Exchange) -> None:
        exchange.begin(200, {"content-encoding": "gzip"})

    padding = b":" + b" " * (2 * MAX_PIECE) + b"\n\n"
    server.script(compressed, gzip.compress(b"".join([*answer("a"), padding, *answer("b")])))
    assert await collect(build()) == [Text("a"), STOP]


def deflated(body: bytes) -> bytes:
    """The body in DEFLATE's format, without zlib's head."""
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeeze.compress(body) + squeeze.flush()


@pytest.mark.parametrize("size", [1, 10**6], ids=["bytewise", "at once"])
@pytest.mark.parametrize(
    ("coding", "compress"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("gzip", lambda body: gzip.compress(body[:20]) + gzip.compress(body[20:]) + bytes(8)),
        ("deflate", zlib.compress),
        ("deflate", deflated),
    ],
    ids=["gzip", "x-gzip", "two members and padding", "zlib", "deflate"],
)
async def test_compressed_bodies(
    server: ModelServer, build: Build, coding: str, compress: Callable[[bytes], bytes], size: int
) -> None:
    """A body in any form of gzip and deflate is read, however it is cut."""

    async def compressed(exchange: Exchange) -> None:
        exchange.begin(200, {"content-encoding": coding})

    body = compress(b"".join(answer("grün ", "🚀")))
    server.script(compressed, *(body[at : at + size] for at in range(0, len(body), size)))
    assert await collect(build()) == [Text("grün "), Text("🚀"), STOP]


@pytest.mark.parametrize("size", [1, 10**6], ids=["bytewise", "at once"])
async def test_broken_compressed_body(server: ModelServer, build: Build, size: int) -> None:
    """What came before the broken byte of a compressed body is given, however it is cut; then it is an error."""

    async def compressed(exchange: Exchange) -> None:
        exchange.begin(200, {"content-encoding": "gzip"})

    squeeze = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    body = squeeze.compress(b"".join(text("a", "b"))) + squeeze.flush(zlib.Z_SYNC_FLUSH) + b"\xff" * 9
    server.script(compressed, *(body[at : at + size] for at in range(0, len(body), size)))
    seen: list[Part] = []
    with pytest.raises(UpstreamError, match="broken"):
        async for batch in build().stream(MESSAGES):
            seen += batch
    assert seen == [Text("a"), Text("b")]


async def test_batches(server: ModelServer, build: Build) -> None:
    """What is read at once is one batch, what comes later another: a token is given as soon as it has come."""
    go = asyncio.Event()
    server.script(joined(text("a", "b", "c")), gate(go), joined(answer("d", "e")))
    stream = build().stream(MESSAGES)
    assert await anext(stream) == [Text("a"), Text("b"), Text("c")]
    go.set()
    assert [batch async for batch in stream] == [[Text("d"), Text("e"), STOP]]


async def test_large_answers(server: ModelServer, build: Build) -> None:
    """100,000 tiny deltas and one of 10 MB come through."""
    model = build()
    tiny = text("x") * 100_000
    server.script([b"".join(tiny[at : at + 1000]) for at in range(0, len(tiny), 1000)], end())
    assert await collect(model) == [Text("x")] * 100_000 + [STOP]
    server.script(answer("y" * 10_000_000))
    assert await collect(model) == [Text("y" * 10_000_000), STOP]


async def test_stale_connection(server: ModelServer, build: Build) -> None:
    """A kept connection that the server has closed is replaced."""
    model = build()
    server.script(answer("a"))
    await collect(model)
    for transport in list(server.connections):
        transport.abort()
    server.script(answer("b"))
    assert await collect(model) == [Text("b"), STOP]


async def test_connection_is_reused(server: ModelServer, build: Build) -> None:
    """Calls one after another share a connection."""
    model = build()
    for _ in range(3):
        server.script(answer("a"))
        await collect(model)
    assert len(server.connections) == 1
    assert not any(request.closed.is_set() for request in server.requests)


@pytest.mark.parametrize("way", ["aclose", "break", "cancel", "cancel before headers"])
async def test_closing_closes_upstream(server: ModelServer, build: Build, way: str) -> None:
    """However a call is given up, its upstream connection is closed at once, and the model goes on working."""
    model = build()
    server.script(*([] if way == "cancel before headers" else [text("a")]), stall)
    begun = asyncio.Event()

    async def consume() -> None:
        async with aclosing(model.stream(MESSAGES)) as stream:
            async for _ in stream:
                begun.set()
                if way == "break":
                    break
                if way == "aclose":
                    await stream.aclose()

    task = asyncio.create_task(consume())
    request = await server.arrived()
    if way.startswith("cancel"):
        if way == "cancel":
            await begun.wait()
        task.cancel()
    async with asyncio.timeout(20):
        await request.closed.wait()
    await asyncio.wait([task])
    assert task.cancelled() == way.startswith("cancel")
    server.script(answer("b"))
    assert await collect(model) == [Text("b"), STOP]


async def test_many_at_once(server: ModelServer, build: Build) -> None:
    """One model serves many calls at once."""
    model, go = build(), asyncio.Event()
    for number in range(50):
        server.script(text(str(number)), gate(go), end())
    tasks = [asyncio.create_task(collect(model)) for _ in range(50)]
    for _ in tasks:
        await server.arrived()
    go.set()
    answers = await asyncio.gather(*tasks)
    assert {part.text for parts in answers for part in parts if isinstance(part, Text)} == set(map(str, range(50)))


async def test_no_secret_is_logged(server: ModelServer, build: Build, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a good nor a bad call logs the key."""
    caplog.set_level(logging.INFO)
    model = build()
    server.script(answer("a"))
    server.script(status(401, body={"error": {"message": KEY}}))
    await collect(model)
    with pytest.raises(UpstreamError):
        await collect(model)
    assert KEY not in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a connection of the loop that is gone
def test_one_loop_after_another() -> None:
    """A model whose loop has gone, with its connections open, works on the next loop."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model = OpenAIChatModel("scripted", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0)

    async def use(*, last: bool) -> None:
        async with ModelServer(lambda _: answer("a"), port=port):
            assert await collect(model) == [Text("a"), STOP]
            if last:
                await model.aclose()

    asyncio.run(use(last=False))
    asyncio.run(use(last=True))
    gc.collect()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, server: ModelServer) -> pytest.MonkeyPatch:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_MODEL", "theirs")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-theirs")
    return monkeypatch


@pytest.mark.parametrize(
    ("ours", "given", "expected"),
    [
        ({}, {}, ("theirs", "Bearer sk-theirs")),
        ({"TWINWIRE_MODEL": "ours", "TWINWIRE_API_KEY": "sk-ours\n"}, {}, ("ours", "Bearer sk-ours")),
        (
            {"TWINWIRE_MODEL": "ours", "TWINWIRE_API_KEY": "sk-ours"},
            {"model": "m", "api_key": "sk-m"},
            ("m", "Bearer sk-m"),
        ),
        ({"OPENAI_API_KEY": "", "TWINWIRE_MODEL": ""}, {}, ("theirs", "Bearer no-key")),
    ],
)
async def test_environment(
    server: ModelServer,
    environment: pytest.MonkeyPatch,
    ours: dict[str, str],
    given: dict[str, Any],
    expected: tuple[str, str],
) -> None:
    """What is given wins over TWINWIRE_*, that over OPENAI_*; an empty one is none; a URL needs no key."""
    for variable, value in ours.items():
        environment.setenv(variable, value)
    model = OpenAIChatModel(**given)
    assert model.name == expected[0]
    server.script(answer("a"))
    await collect(model)
    request = await server.arrived()
    assert (request.body["model"], request.headers["authorization"]) == expected
    await model.aclose()


async def test_base_url_from_ours(server: ModelServer, environment: pytest.MonkeyPatch) -> None:
    """TWINWIRE_BASE_URL wins over OPENAI_BASE_URL."""
    environment.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    environment.setenv("TWINWIRE_BASE_URL", server.url)
    model = OpenAIChatModel()
    server.script(answer("a"))
    assert await collect(model) == [Text("a"), STOP]
    await model.aclose()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"api_key": KEY}, "--model"),
        ({"model": "m"}, "TWINWIRE_API_KEY"),
        ({"model": "m", "api_key": f"{KEY}é"}, "TWINWIRE_API_KEY"),
        ({"model": "m", "api_key": f"{KEY}\nx: y"}, "TWINWIRE_API_KEY"),
        ({"model": "m", "base_url": f"{KEY}.example"}, "--base-url"),
    ],
)
def test_bad_settings(options: dict[str, Any], field: str) -> None:
    """What cannot work is told when the model is built, in a line that names the setting and not its value."""
    with pytest.raises(SettingsError) as caught:
        OpenAIChatModel(**options)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"`{field}` ")
    assert KEY not in str(caught.value)


def test_openai_is_imported_late() -> None:
    """Importing the module does not import the SDK, which takes half a second."""
    code = "import sys, twinwire.models.openai.model; sys.exit(bool({'openai', 'httpx', 'httpx2'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
