"""The Python client's errors: one tree, each retry told, bounded waits, and what waiting cannot mend at once."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain, repeat
from typing import Any

import httpx
import pytest

from support.certificates import Certificate
from support.credentials import AUTH, TOKENS
from support.following import NOWHERE, Transport, both, connected, words
from support.scripted_server import playing
from support.serving import Puppets, Running, echo, serving
from twinwire_client import (
    ApiError,
    Backoff,
    Client,
    ConnectionLost,
    ProtocolError,
    Retry,
    RunNotFound,
    TooLarge,
    TwinwireError,
    Unauthenticated,
)
from twinwire_client.api import refusal
from twinwire_client.errors import api_error
from twinwire_client.retry import Broken


async def lost(client: Client) -> ConnectionLost:
    """Start a run in vain, and return what came of it."""
    with pytest.raises(ConnectionLost) as caught:
        async with client.stream("m"):
            pass
    return caught.value


async def fails() -> str:
    raise OSError("no way to the issuer")


def fails_at_once() -> str:
    raise LookupError("no key")


async def hangs() -> str:
    return await asyncio.Event().wait()  # type: ignore[return-value]


def gives_none() -> Any:
    return None


@both
@pytest.mark.parametrize("bad", [fails, fails_at_once, hangs, gives_none, lambda: "naïve"])
async def test_a_token_that_is_late(transport: Transport, puppets: Puppets, bad: Callable[[], Any]) -> None:
    """A `token` function that fails, hangs or gives no token has made one attempt fail, and is asked again."""
    asked = 0

    def token() -> str | Awaitable[str]:
        nonlocal asked
        asked += 1
        given: str | Awaitable[str] = bad() if asked in {1, 2} else TOKENS["alice"]
        return given

    retries: list[Retry] = []
    options: dict[str, Any] = {"token": token, "transport": transport, "timeout": 1.0, "on_retry": retries.append}
    async with serving({"mine": puppets}, **AUTH) as server, connected(server.url, **options) as client:  # noqa: SIM117
        async with client.stream("m") as run:
            (await puppets.next()).end()
            assert await run.wait() == ""
    assert [(retry.attempt, retry.code, retry.status) for retry in retries] == [
        (1, "token_failed", None),
        (2, "token_failed", None),
    ]
    assert puppets.started == 1


@both
async def test_a_token_that_never_comes(transport: Transport, server: Running) -> None:
    """If it never gives one, the connection is lost, and the error says what the function raised."""
    async with connected(server.url, token=fails, transport=transport, max_attempts=3) as client:
        error = await lost(client)
        with pytest.raises(ConnectionLost, match="no way to the issuer"):
            await client.get(NOWHERE)
    assert (error.code, error.status, error.attempts) == ("token_failed", None, 3)
    assert isinstance(error.__cause__, Broken)
    assert isinstance(error.__cause__.__cause__, OSError)


@both
@pytest.mark.parametrize(("status", "code"), [(429, "rate_limited"), (503, "draining")])
async def test_refusals_that_do_not_get_better(transport: Transport, status: int, code: str) -> None:
    """The last refusal's code, status and time are those of the error, and of each retry before it."""
    refuse = {"status": status, "code": code, "message": "Try again later.", "retry_after": 0}
    script = {"starts": [{"refuse": refuse}] * 3, "connections": [{}]}
    retries: list[Retry] = []
    async with (
        playing(script) as played,
        connected(played.url, transport=transport, max_attempts=3, on_retry=retries.append) as client,
    ):
        error = await lost(client)
    assert (error.code, error.status, error.retry_after, error.attempts) == (code, status, 0, 3)
    assert "Try again later." in str(error)
    assert [retry[:4] for retry in retries] == [(1, code, status, 0), (2, code, status, 0)]
    assert all(0 <= retry.wait <= 0.05 and retry.said == "Try again later." for retry in retries)


@both
async def test_a_wait_that_is_too_long(transport: Transport) -> None:
    """A Retry-After beyond `max_wait` is told at once; one within it is waited for."""
    script = {"starts": [{"refuse": {"status": 503, "code": "draining", "retry_after": 86_400}}], "connections": [{}]}
    async with playing(script) as played, connected(played.url, transport=transport) as client:
        error = await lost(client)
    assert (error.retry_after, error.attempts) == (86_400, 1)
    assert "86400 s, longer than `max_wait`" in str(error)
    script["starts"] = [{"refuse": {"status": 503, "code": "draining", "retry_after": 2}}]
    async with playing(script) as played, connected(played.url, transport=transport, max_wait=1) as client:
        assert (await lost(client)).retry_after == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "Fri, 27 Nov 2026 12:00:30 GMT", "date": "Fri, 27 Nov 2026 12:00:00 GMT"}, 30),
        ({"retry-after": "Fri, 27 Nov 2026 12:00:00 GMT", "date": "Fri, 27 Nov 2026 12:00:30 GMT"}, 0),
        ({"retry-after": "Fri, 27 Nov 1998 12:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """It is a number or a date, by the server's own clock; what is neither is none."""
    told = refusal(httpx.Response(503, headers=headers), b"")
    assert isinstance(told, Broken)
    assert (told.retry_after, told.status, told.code, told.said) == (seconds, 503, None, None)


def test_bodies_of_others() -> None:
    """An error whose body is not the protocol's is one of its status."""
    for content in (b"<html>", b"[]", b'{"code": ["x"], "message": {}}', b'{"error": {"message": "x"}}'):
        told = refusal(httpx.Response(418), content)
        assert isinstance(told, ApiError)
        assert (told.code, told.status, str(told)) == ("unknown", 418, "The server answered 418.")
    kinds = {401: Unauthenticated, 413: TooLarge}
    assert all(type(api_error({}, status)) is kind for status, kind in kinds.items())
    late = api_error({"code": "upstream_rate_limited", "retry_after": 9}, 424)
    assert late.retry_after == 9


@both
async def test_a_callback_that_fails(
    transport: Transport, server: Running, puppets: Puppets, caplog: pytest.LogCaptureFixture
) -> None:
    """An `on_retry` function that raises harms nothing and is logged, as each retry is."""
    caplog.set_level(logging.INFO, "twinwire_client")
    asked: Iterator[Callable[[], Any]] = chain([fails], repeat(lambda: "t"))

    def complains(retry: Retry) -> None:
        raise KeyError(retry.attempt)

    def token() -> Any:
        return next(asked)()

    async with connected(server.url, token=token, transport=transport, on_retry=complains) as client:
        run = client.stream("m")
        asking = asyncio.ensure_future(run.__aenter__())
        await puppets.next()
        await asking
        await run.aclose()
    ours = [record for record in caplog.records if record.name == "twinwire_client"]
    assert [record.levelname for record in ours[:2]] == ["INFO", "ERROR"]
    assert ours[0].getMessage().startswith(f"An attempt to reach {server.url} failed, the next is made in ")
    assert ours[0].getMessage().endswith("no way to the issuer")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


@both
async def test_certificates(transport: Transport, certificate: Certificate) -> None:
    """One that is not trusted is told at once, with what to do; a file, a context or a client of httpx's trusts it."""
    context = ssl.create_default_context(cafile=certificate.ca)
    async with serving({"echo": echo}, **certificate.settings) as server:
        async with connected(server.url, transport=transport) as stranger:
            error = await lost(stranger)
        assert (error.code, error.attempts) == ("certificate_not_trusted", 1)
        assert "`verify=`" in str(error)
        theirs = httpx.AsyncClient(verify=context, headers={"x-ours": "1"})
        choices: list[dict[str, Any]] = [{"verify": certificate.ca}, {"verify": context}, {"http_client": theirs}]
        async with theirs:
            for options in choices:
                async with connected(server.url, transport=transport, **options) as client:  # noqa: SIM117
                    async with client.stream("a b") as run:
                        assert words([event async for event in run]) == ["a ", "b "]
            assert (await theirs.get(f"{server.url}/healthz")).status_code == 200  # it is still open


@both
async def test_a_client_of_httpx_s(transport: Transport, puppets: Puppets) -> None:
    """Token, headers and time-outs are those of the client also with an `http_client`, which is left as it was."""
    async with serving({"mine": puppets}, **AUTH) as server, httpx.AsyncClient() as theirs:
        async with connected(server.url, token=TOKENS["alice"], transport=transport, http_client=theirs) as client:
            async with client.stream("m") as run:
                (await puppets.next()).end()
                assert await run.wait() == ""
            assert [known["run_id"] for known in await client.runs()] == [run.run_id]
        assert "authorization" not in theirs.headers
        assert (await theirs.get(f"{server.url}/runs")).status_code == 401


@both
async def test_nobody_at_the_address(transport: Transport) -> None:
    """An address at which nobody ever listened is told within about two seconds, with what to look at."""
    async with serving({"echo": echo}) as gone:
        url = gone.url
    began = time.monotonic()
    async with Client(url, transport=transport) as client:
        error = await lost(client)
    assert time.monotonic() - began < 4
    assert error.code == "connection_refused"
    assert "Check `url`" in str(error)


@both
async def test_no_tls(transport: Transport, server: Running) -> None:
    """A server that speaks http is told at once if its address says https."""
    async with Client(server.url.replace("http:", "https:"), transport=transport) as client:
        error = await lost(client)
        with pytest.raises(ConnectionLost, match="The server speaks http, not https"):
            await client.get(NOWHERE)
    assert (error.code, error.attempts) == ("not_https", 1)
    assert "SSL" not in str(error)


@both
async def test_the_status_is_that_of_the_code(transport: Transport, puppets: Puppets) -> None:
    """An error has the same status over both transports: PROTOCOL.md's of its code, never a close code."""
    async with serving({"mine": puppets}, **AUTH) as server:
        async with connected(server.url, transport=transport) as nobody:
            with pytest.raises(Unauthenticated) as refused:
                async with nobody.stream("m"):
                    pass
        async with connected(server.url, transport=transport, token=TOKENS["alice"]) as client:
            with pytest.raises(ApiError) as unknown:
                async with client.attach(NOWHERE):
                    pass
            with pytest.raises(ApiError) as ill:
                async with client.stream(" "):
                    pass
    assert [error.value.status for error in (refused, unknown, ill)] == [401, 404, 400]


@both
async def test_a_run_that_is_no_more(transport: Transport) -> None:
    """A run that the server has forgotten in the middle is another matter than one that never was."""
    gone = {"refuse": {"status": 404, "code": "run_not_found", "message": "The run does not exist."}}
    script = {"connections": [{"events": [1]}, gone]}
    async with (
        playing(script) as played,
        connected(played.url, transport=transport) as client,
        client.attach(NOWHERE) as run,
    ):
        await anext(run)
        with pytest.raises(RunNotFound, match="The server no longer has the run") as caught:
            await anext(run)
    assert (caught.value.code, caught.value.status) == ("run_not_found", 404)
    script = {"connections": [gone]}
    async with playing(script) as played, connected(played.url, transport=transport) as client:
        with pytest.raises(RunNotFound, match="The run does not exist"):
            async with client.attach(NOWHERE):
                pass


@both
async def test_an_unknown_host(transport: Transport) -> None:
    """So is a host that has no address."""
    async with Client("http://nobody.invalid:8000", transport=transport) as client:
        error = await lost(client)
    assert error.code == "unknown_host"
    assert "Check `url`" in str(error)


@both
async def test_attempts_that_were_asked_for(transport: Transport) -> None:
    """Whoever says how many attempts to make at first has all of them made, such as before the server is up."""
    async with serving({"echo": echo}) as gone:
        url = gone.url
    async with connected(url, transport=transport, first_attempts=40, backoff=Backoff(0.06, 0.06, lambda: 1)) as client:
        began = time.monotonic()
        assert (await lost(client)).attempts == 40
    assert time.monotonic() - began > 2


async def test_messages_that_cannot_be_sent(server: Running) -> None:
    """A message that is no text is a TypeError at once, and text that cannot be UTF-8 a ValueError; nothing is sent."""
    async with connected(server.url) as client:
        for message in ({"type": "click"}, None, b"m", 5, object()):
            with pytest.raises(TypeError, match="`message` must be a text"):
                client.stream(message)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="`agent` must be a text"):
            client.stream("m", agent=7)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="`message` must be a text"):
            client.stream("a\ud800")
    with pytest.raises(ValueError, match="`verify`"):
        Client(server.url, verify="/nowhere.pem")
    async with httpx.AsyncClient() as theirs:
        with pytest.raises(ValueError, match="`verify`"):
            Client(server.url, verify=False, http_client=theirs)


async def test_answers_that_tell_of_no_run() -> None:
    """An answer that does not tell of a run is a `ProtocolError`, where a run or a list of runs was asked for."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        body = b'{"runs": [{"run_id": "x"}]}' if b"GET /runs?" in asked else b'{"status": "running"}'
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:  # noqa: SIM117
        async with connected(f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}") as client:
            with pytest.raises(ProtocolError):
                await client.get(NOWHERE)
            with pytest.raises(ProtocolError):
                await client.runs()


def test_the_tree() -> None:
    """Every error has the one root, and those of `ApiError` have its attributes."""
    assert issubclass(ConnectionLost, TwinwireError)
    assert issubclass(TooLarge, ApiError)
    plain = ConnectionLost("The server is away.")
    assert (plain.code, plain.status, plain.retry_after, plain.attempts) == (None, None, None, 1)
