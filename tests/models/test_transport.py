"""The models' own transport: its pool, how it connects, and what it does when that fails."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.model_server import answer
from support.raw_server import HEAD, OK, listening, receive, replying, whole
from twinwire.models import Part, Text
from twinwire.models.openai import pool
from twinwire.models.openai.http import httpx
from twinwire.models.openai.model import OpenAIChatModel, _tls
from twinwire.models.openai.pool import Transport

ANSWER = whole(b"".join(answer("a")))


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=Transport(_tls()), timeout=20.0) as client:
        yield client


async def ask(model: OpenAIChatModel) -> Part:
    """Call the model; return the first part."""
    parts = [part async for batch in model.stream([{"role": "user", "content": "hello"}]) for part in batch]
    return parts[0]


async def test_stale_connection_is_replaced(client: httpx.AsyncClient) -> None:
    """A kept connection that ends without a byte of an answer is replaced once; if the new one ends too, it is told."""
    connections: list[int] = []
    async with listening(replying(OK, b"", connections=connections)) as url:
        await client.post(url)
        assert (await client.post(url)).content == b"ok"
        assert connections == [2, 1]
    connections = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(0)
        await replying(*[OK, b""] if len(connections) == 1 else [b""])(reader, writer)

    async with listening(handler) as url:
        await client.post(url)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(url)
    assert len(connections) == 2


async def test_only_one_stale_connection_is_tried(client: httpx.AsyncClient) -> None:
    """Of several kept connections one is tried, then a new one: a server that ends them all costs one attempt."""
    connections: list[int] = []
    async with listening(replying(OK, b"", connections=connections)) as url:
        await asyncio.gather(client.post(url), client.post(url))
        assert (await client.post(url)).content == b"ok"
    assert sorted(connections) == [1, 1, 2]


async def test_begun_answer_is_not_asked_again(client: httpx.AsyncClient) -> None:
    """Where a kept connection breaks in mid-answer, the request may have had its effect: it is not sent again."""
    connections: list[int] = []
    async with listening(replying(OK, HEAD, connections=connections)) as url:
        await client.post(url)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(url)
    assert connections == [2]


async def test_idle_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle connections are kept up to a number and for a time, then closed."""
    ends: asyncio.Queue[None] = asyncio.Queue()
    together = asyncio.Barrier(2)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await receive(reader)
                await together.wait()
                writer.write(OK)
        finally:
            ends.put_nowait(None)

    async with listening(handler) as url, httpx.AsyncClient(transport=Transport(_tls())) as client:
        monkeypatch.setattr(pool, "MAX_IDLE", 1)
        await asyncio.gather(client.post(url), client.post(url))
        await ends.get()
        assert ends.empty()
        monkeypatch.setattr(pool, "IDLE_SECONDS", 0.01)
        monkeypatch.setattr(pool, "MAX_IDLE", 2)
        await asyncio.gather(client.post(url), client.post(url))
        await ends.get()
        await ends.get()


async def test_other_timeouts(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake, a request that is not read, and waiting for a connection have each their timeout and its error."""
    stop = asyncio.Event()

    async def deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await stop.wait()

    async with listening(deaf) as url:
        with pytest.raises(httpx.ConnectTimeout):
            await client.post(url.replace("http:", "https:"), timeout=httpx.Timeout(20, connect=0.1))
        with pytest.raises(httpx.WriteTimeout):
            await client.post(url, content=bytes(2**25), timeout=httpx.Timeout(20, write=0.1))
        monkeypatch.setattr(pool, "MAX_CONNECTIONS", 1)
        async with httpx.AsyncClient(transport=Transport(_tls()), timeout=None) as narrow:
            with pytest.raises(httpx.ConnectTimeout):
                await narrow.post(url.replace("http:", "https:"), timeout=httpx.Timeout(20, connect=0.05))
            asking = asyncio.create_task(narrow.post(url))
            await asyncio.sleep(0)
            with pytest.raises(httpx.PoolTimeout):
                await narrow.post(url, timeout=httpx.Timeout(20, pool=0.05))
            asking.cancel()
            await asyncio.wait([asking])
            asking = asyncio.create_task(narrow.post(url, timeout=httpx.Timeout(20, read=0.05)))
            with pytest.raises(httpx.ReadTimeout):
                await asking  # it had a connection: what failed or was cancelled gave its place back
        stop.set()


async def test_large_request(client: httpx.AsyncClient) -> None:
    """A request that is larger than any buffer is sent whole; from then on it is the answer that is waited for."""
    got: asyncio.Queue[int] = asyncio.Queue()
    answers = [OK, b""]

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.put_nowait(len((await receive(reader)).partition(b"\r\n\r\n")[2]))
        writer.write(answers.pop(0))
        await reader.read()

    async with listening(handler) as url, asyncio.timeout(30):
        assert (await client.post(url, content=bytes(2**24))).content == b"ok"
        assert await got.get() == 2**24
    async with listening(handler) as url, asyncio.timeout(30):
        with pytest.raises(httpx.ReadTimeout):
            await client.post(url, content=bytes(2**24), timeout=httpx.Timeout(20, read=0.1))
        assert await got.get() == 2**24  # the server may have yet to read what the client has sent


async def test_answer_before_the_request_is_read(client: httpx.AsyncClient) -> None:
    """A server that refuses a large request without reading it is heard; that connection is not used again."""
    connections = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")
        await asyncio.Event().wait()

    async with listening(handler) as url:
        for _ in range(2):
            assert (await client.post(url, content=bytes(2**25))).status_code == 413
    assert len(connections) == 2


async def test_closing_breaks_off() -> None:
    """Closing the client ends what is under way, with an error to whoever waits for it."""
    begun = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        begun.set()
        await reader.read()

    client = httpx.AsyncClient(transport=Transport(_tls()))
    async with listening(handler) as url:
        asking = asyncio.create_task(client.post(url))
        await begun.wait()
        await client.aclose()
        with pytest.raises(httpx.CloseError):
            await asking


async def test_bad_requests(client: httpx.AsyncClient) -> None:
    """What cannot be sent is refused before it is: a line break in a header, a body without length, another scheme."""
    connections: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        yield b"x"

    async with listening(replying(OK, connections=connections)) as url:
        for name, value in (("X", "a\r\nY: b"), ("X\n", "a"), ("X", "\0")):
            with pytest.raises(httpx.LocalProtocolError):
                await client.post(url, headers={name: value})
        with pytest.raises(httpx.LocalProtocolError):
            await client.post(url, content=body())
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.post("ftp://127.0.0.1/")
    assert connections == []


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate for localhost and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(path), "-out", "-"]
    made = subprocess.run([*request.split(), *names], capture_output=True, check=True)
    with path.open("ab") as file:
        file.write(made.stdout)
    return path


async def test_tls(client: httpx.AsyncClient, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS the server is verified, told its name and HTTP/1.1; SSL_CERT_FILE says whom a model trusts."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    told: list[Any] = []
    context.sni_callback = lambda _, name, __: told.append(name)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await replying(ANSWER, ANSWER)(reader, writer)

    async with listening(handler, context) as url:
        named = url.replace("127.0.0.1", "localhost")
        with pytest.raises(httpx.ConnectError):
            await client.post(named)
        told.clear()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        _tls.cache_clear()
        try:
            model = OpenAIChatModel("m", base_url=named)
            for _ in range(2):
                assert await ask(model) == Text("a")
            with pytest.raises(httpx.ConnectError):
                await model._client._client.post(url)  # the certificate does not name it
            await model.aclose()
        finally:
            _tls.cache_clear()
    assert told[:2] == ["localhost", "http/1.1"]
    assert told.count("localhost") == 1


async def test_late_address() -> None:
    """Where a host's address is silent or refuses, the next one is tried; where none answers, it is told."""
    with socket.socket() as full, socket.socket() as first, socket.create_server(("127.0.0.1", 0)) as good:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())  # its backlog is full: further connections wait for ever
        with socket.create_server(("127.0.0.1", 0)) as free:
            nobody = free.getsockname()
        refusing, silent, answering = ((socket.AF_INET, to) for to in (nobody, full.getsockname(), good.getsockname()))
        with await pool._dial([refusing, silent, answering]) as sock:
            assert sock.getpeername() == good.getsockname()
        with pytest.raises(ConnectionRefusedError):
            await pool._dial([refusing, refusing])
        with pytest.raises(OSError, match="no address"):
            await pool._dial([])
        dialling = asyncio.create_task(pool._dial([silent]))
        await asyncio.sleep(0)
        dialling.cancel()
        await asyncio.wait([dialling])
        assert dialling.cancelled()


async def test_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy named by the environment is used, and not for the hosts it names as none of its own."""
    asked = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await receive(reader)).split(b" ")[1])
        writer.write(ANSWER)

    async with listening(handler) as url:
        monkeypatch.setenv("HTTP_PROXY", url)
        for no_proxy, target in (
            ("", b"http://model.invalid/v1/chat/completions"),
            ("127.0.0.1", b"/chat/completions"),
        ):
            monkeypatch.setenv("NO_PROXY", no_proxy)
            model = OpenAIChatModel("m", base_url=url if no_proxy else "http://model.invalid/v1")
            assert await ask(model) == Text("a")
            assert asked.pop() == target
            await model.aclose()
