"""The access lines of other servers: uvicorn's in fact, others' by their loggers. None shows a ticket."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.logging import AccessFormatter
from websockets.asyncio.client import connect

from support.serving import echo
from twinwire import Settings, create_app
from twinwire.telemetry.logging import ACCESS

TICKET = "abcdef0123456789"


@asynccontextmanager
async def another_server() -> AsyncIterator[str]:
    """Serve an app on uvicorn as it is, with its access log; give the address."""
    options = uvicorn.Config(create_app({"mine": echo}, settings=Settings()), log_config=None, access_log=True)
    server = uvicorn.Server(options)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def test_uvicorn(caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn writes a line for each request and each socket, with `***` for the ticket, in its own form."""
    caplog.set_level("INFO")
    async with another_server() as address, httpx.AsyncClient(trust_env=False) as client:
        await client.get(f"http://{address}/runs?ticket={TICKET}&limit=1")
        async with connect(f"ws://{address}/ws?ticket={TICKET}", proxy=None):
            pass
    lines = [record for record in caplog.records if record.name in ACCESS]
    told = [record.getMessage() for record in lines]
    assert any("GET /runs?ticket=***&limit=1 HTTP/1.1" in line for line in told), told
    assert any("WebSocket /ws?ticket=***" in line for line in told), told
    formatter = AccessFormatter(use_colors=False)
    formed = [formatter.format(record) for record in lines if record.name == "uvicorn.access"]
    assert formed
    assert TICKET not in "".join([*told, *formed])


class Atoms(dict[str, Any]):
    """The arguments of an access line as gunicorn and hypercorn have them: some are made when they are asked for."""

    def __getitem__(self, name: str) -> Any:
        return self.get(name, f"made of {name}")


@pytest.fixture
def guarded() -> None:
    """An app is made, which is all that is needed."""
    create_app({"mine": echo}, settings=Settings())


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("name", ACCESS)
@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("%s %s %d", ("GET", f"/x?a=1&ticket={TICKET}", 200)),
        ('%(r)s %(s)d "%({host}i)s"', (Atoms(r=f"GET /x?a=1&ticket={TICKET}", s=200),)),
        ("%(m)s %(path)s?a=1&%(q)s %(s)d", ({"m": "GET", "path": "/x", "q": f"ticket={TICKET}", "s": 200},)),
        (f"GET /x?a=1&ticket={TICKET} %d", (200,)),
        (f"GET /x?a=1&ticket={TICKET} 200", ()),
    ],
)
def test_the_forms_of_servers(
    name: str, message: str, arguments: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """A line keeps what it has beside the ticket, whichever way its server gives the arguments."""
    caplog.set_level("INFO", name)
    logging.getLogger(name).info(message, *arguments)
    (record,) = caplog.records
    assert record.getMessage().startswith("GET /x?a=1&ticket=*** 200")
    assert "%({host}i)s" not in message or record.getMessage().endswith('"made of {host}i"')
    assert not isinstance(record.args, Mapping) or record.args["s"] == 200


@pytest.mark.usefixtures("guarded")
def test_once() -> None:
    """However many apps there are, each logger has one filter."""
    before = [len(logging.getLogger(name).filters) for name in ACCESS]
    create_app({"mine": echo}, settings=Settings())
    assert [len(logging.getLogger(name).filters) for name in ACCESS] == before
