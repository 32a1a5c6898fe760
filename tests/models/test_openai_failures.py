"""What becomes of a call of the OpenAI chat model whose server refuses, breaks or falls silent."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from support.model_failures import KEY, REFUSED
from support.model_server import (
    DONE,
    ModelServer,
    Script,
    answer,
    cut,
    delta,
    end,
    gate,
    headers,
    joined,
    reset,
    stall,
    status,
    text,
)
from twinwire.models import Finish, Part, Text, Usage
from twinwire.models.openai.model import LINGER, OpenAIChatModel
from twinwire.protocol.errors import UpstreamError, UpstreamTimeout


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


ALIKE = pytest.mark.parametrize("before", [0, 2], ids=["first", "later"])
"""Without calls before it, one goes through the SDK; after two that were alike not before it has failed."""


async def ask(server: ModelServer, before: int = 0, **options: Any) -> list[Part]:
    """Call a model of this server once; return all parts. It was called `before`, and answered well."""
    model = OpenAIChatModel("scripted", **{"api_key": KEY, "base_url": server.url, "timeout": 20.0, **options})
    try:
        for _ in range(before):
            async for _ in model.stream([{"role": "user", "content": "hello"}]):
                pass
            await server.arrived()
        return [part async for batch in model.stream([{"role": "user", "content": "secret"}]) for part in batch]
    finally:
        await model.aclose()


async def fail(server: ModelServer, before: int = 0, **options: Any) -> UpstreamError:
    """Return the error of one call, which must hold neither key nor what was said, nor an address that was reached."""
    with pytest.raises(UpstreamError) as caught:
        await ask(server, before, **options)
    error = caught.value
    told = f"{error!r} {error} {error.payload()}"
    address = () if error.code == "upstream_unreachable" else ("127.0.0.1", "http")
    assert not [word for word in ("canary", "secret", *address) if word in told]
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    return error


def well(server: ModelServer, before: int) -> None:
    """Queue good answers to so many calls."""
    for _ in range(before):
        server.script(answer("a"))


@ALIKE
@pytest.mark.parametrize(("script", "code"), REFUSED.values(), ids=REFUSED)
async def test_failures(server: ModelServer, script: Script, code: str, before: int) -> None:
    """Each failure is one `UpstreamError` with its code, that tells no secret."""
    well(server, before)
    server.script(*script)
    server.script(*script)  # a kept connection that ends without an answer is replaced once
    assert (await fail(server, before, max_retries=0)).code == code


async def test_unreachable(server: ModelServer, caplog: pytest.LogCaptureFixture) -> None:
    """Where nobody listens, the error says so, with the address and the cause, and the log too."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error = await fail(server, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0)
    assert error.code == "upstream_unreachable"
    for told in (error.message, caplog.text):
        assert f"http://127.0.0.1:{port}" in told
        assert "[Errno " in told


async def test_unreachable_elsewhere(server: ModelServer, caplog: pytest.LogCaptureFixture) -> None:
    """The address of a server on another machine is told in the log alone."""
    error = await fail(server, base_url="http://nowhere.invalid/v1", max_retries=0)
    assert error.message == "The model's server cannot be reached."
    assert "http://nowhere.invalid" in caplog.text


@ALIKE
@pytest.mark.parametrize("script", [[stall], [headers, stall], [text("a"), stall]], ids=["headers", "body", "mid"])
async def test_silence(server: ModelServer, script: Script, before: int) -> None:
    """A server that falls silent is a timeout, and its connection is closed."""
    well(server, before)
    server.script(*script)
    error = await fail(server, before, timeout=1.0, max_retries=0)
    assert isinstance(error, UpstreamTimeout)
    assert error.code == "upstream_timeout"
    await (await server.arrived()).closed.wait()


@ALIKE
async def test_headers_timeout_bounds_retries(server: ModelServer, before: int) -> None:
    """The time until the headers is that of all attempts together."""
    well(server, before)
    for _ in range(5):
        server.script(stall)
    start = time.monotonic()
    assert (await fail(server, before, timeout=0.3, max_retries=5)).code == "upstream_timeout"
    assert time.monotonic() - start < 5


@ALIKE
async def test_retry_before_the_first_token(server: ModelServer, before: int) -> None:
    """A failure before the headers is tried again, as often as is allowed."""
    well(server, before)
    server.script(status(503, {"retry-after-ms": "1"}))
    server.script(status(429, {"retry-after-ms": "1"}))
    server.script(answer("a"))
    assert (await ask(server, before))[0] == Text("a")
    counts = [int(request.headers["x-stainless-retry-count"]) for request in server.requests]
    assert counts == [0] * before + [0, 1, 2]


async def test_no_retry_in_mid_answer(server: ModelServer) -> None:
    """What fails after the first token is not asked again."""
    server.script(text("a"), cut)
    server.script(answer("b"))
    assert (await fail(server)).code == "upstream_truncated"
    assert len(server.requests) == 1


@ALIKE
@pytest.mark.parametrize("wait", ["120", "15", "999999999999"])
async def test_long_retry_after(server: ModelServer, wait: str, before: int) -> None:
    """A pause that the timeout does not leave room for is not waited: the limit is told at once."""
    well(server, before)
    server.script(status(429, {"retry-after": wait}))
    start = time.monotonic()
    assert (await fail(server, before)).code == "upstream_rate_limited"
    assert time.monotonic() - start < 5
    assert len(server.requests) == before + 1


@pytest.mark.parametrize(
    ("code", "wait", "expected"),
    [
        (429, "120", 120),
        (503, "120", 120),
        (429, "Fri, 01 Jan 2100 00:00:00 GMT", 2_000_000_000),
        (429, "Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (429, "soon", None),
        (429, "-1", None),
        (401, "120", None),
    ],
)
async def test_retry_after_is_kept(server: ModelServer, code: int, wait: str, expected: int | None) -> None:
    """The error of a server that is busy has its Retry-After in seconds, if that makes sense."""
    server.script(status(code, {"retry-after": wait}))
    seen = (await fail(server, max_retries=0)).retry_after
    assert seen == expected or (expected == 2_000_000_000 and seen is not None and expected < seen < 2.4e9)


@pytest.mark.parametrize("rest", [[stall], [cut], [reset]], ids=["stall", "cut", "reset"])
@pytest.mark.parametrize("last", [[], [DONE]], ids=["finish_reason", "DONE"])
async def test_whole_answer_survives(server: ModelServer, last: Script, rest: Script) -> None:
    """Once the finish_reason has come, the answer is whole, whatever becomes of the connection."""
    server.script(text("a"), delta({}, "stop"), last, rest)
    start = time.monotonic()
    assert await ask(server, timeout=0.5) == [Text("a"), Finish("stop")]
    assert time.monotonic() - start < LINGER + 5


async def test_patience_is_with_the_server(server: ModelServer) -> None:
    """If who takes an answer has it wait for longer than the server has for what follows, the usage is not lost."""
    loop, taken = asyncio.get_running_loop(), asyncio.Event()
    server.script(joined([*text("a"), delta({}, "stop")]), [gate(taken)], end()[1:])
    parts: list[Part] = []

    def take(*batches: Sequence[Part]) -> asyncio.Future[None]:
        parts.extend(part for batch in batches for part in batch)
        taken.set()
        drained: asyncio.Future[None] = loop.create_future()
        loop.call_later(LINGER + 0.2, drained.set_result, None)
        return drained

    model = OpenAIChatModel("scripted", api_key=KEY, base_url=server.url)
    await model.stream([{"role": "user", "content": "hello"}]).for_each(take)
    await model.aclose()
    assert parts == [Text("a"), Finish("stop", Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5))]
