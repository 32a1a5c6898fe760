"""The proxies of docs/SCALING.md, each with its configuration there, before two servers that share a log."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.redis_server import fresh
from support.serving import Puppets, Running, serving

SCALING = (Path(__file__).parents[2] / "docs/SCALING.md").read_text()
MACHINES = ("10.0.0.11:8000", "10.0.0.12:8000")  # the document's

# What it takes to run beside others, without privileges: an address and a folder of its own.
OURS: Mapping[str, Mapping[str, str]] = {
    "nginx": {
        "listen 80;": "listen {address};",
        "http {": "http {\n    access_log off;"
        + "".join(
            f"\n    {kind}_temp_path {{folder}};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ),
    },
    "caddy": {":80 {": "{\n    admin off\n}\nhttp://{address} {\n    bind 127.0.0.1"},
    "haproxy": {"bind :80": "bind {address}"},
}
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "nginx": ("-e", "{folder}/errors", "-g", "daemon off; pid {folder}/pid;", "-c", "{file}"),
    "caddy": ("run", "--adapter", "caddyfile", "--config", "{file}"),
    "haproxy": ("-db", "-f", "{file}"),
}
LANGUAGES = {"nginx": "nginx", "caddy": "caddyfile", "haproxy": "haproxy"}


class Site:
    """A proxy's `url` and `ws_url`, and the `servers` behind it; all their runs are played through `puppets`."""

    def __init__(self, port: int, puppets: Puppets, servers: Mapping[Running, AsyncExitStack]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.ws_url = f"ws://127.0.0.1:{port}/ws"
        self.puppets = puppets
        self.servers = list(servers)
        self._stacks = servers

    def owner(self, run_id: str) -> tuple[Running, Running]:
        """The server where a run goes on, and the other one."""
        owner, other = sorted(self.servers, key=lambda server: not server.runs.owns(run_id))
        return owner, other

    async def stop(self, server: Running) -> None:
        """End a server as SIGTERM would."""
        await self._stacks[server].aclose()


def configuration(proxy: str, address: str, folder: Path, servers: list[Running], timeout: str) -> str:
    """What stands in the document, for these servers, with this time-out."""
    text: str
    (text,) = re.findall(rf"^```{LANGUAGES[proxy]}\n(.*?)^```$", SCALING, re.MULTILINE | re.DOTALL)
    changes = {
        **OURS[proxy],
        **{name: f"127.0.0.1:{server.port}" for name, server in zip(MACHINES, servers, strict=True)},
        "75s": timeout,
    }
    for old, new in changes.items():
        assert old in text or (old, proxy) == ("75s", "caddy"), old  # Caddy has no time-out
        text = text.replace(old, new.replace("{address}", address).replace("{folder}", str(folder)))
    return text


@asynccontextmanager
async def proxied(proxy: str, folder: Path, *, timeout: str = "75s", **settings: Any) -> AsyncIterator[Site]:
    """The site, until the block ends. A proxy that is not installed skips the test."""
    program = shutil.which(proxy, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip(f"{proxy} is not installed")
    puppets, log = Puppets(), fresh()
    async with AsyncExitStack() as stack:
        servers = {}
        for _ in MACHINES:
            own = await stack.enter_async_context(AsyncExitStack())
            servers[await own.enter_async_context(serving({"mine": puppets}, log=log, **settings))] = own
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        file = folder / "configuration"
        file.write_text(configuration(proxy, f"127.0.0.1:{port}", folder, list(servers), timeout))
        await stack.enter_async_context(_running(proxy, program, file))
        site = Site(port, puppets, servers)
        await _answers(site)
        yield site


@asynccontextmanager
async def _running(proxy: str, program: str, file: Path) -> AsyncIterator[None]:
    home = {"HOME": str(file.parent), "XDG_DATA_HOME": str(file.parent), "XDG_CONFIG_HOME": str(file.parent)}
    with (file.parent / "output").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            program,
            *(part.format(folder=file.parent, file=file) for part in COMMANDS[proxy]),
            stdout=output,
            stderr=output,
            env={**os.environ, **home},
        )
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _answers(site: Site) -> None:
    """Wait until the proxy listens."""
    async with asyncio.timeout(10), httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as client:
        while True:
            try:
                assert (await client.get(f"{site.url}/healthz")).status_code == 200
            except httpx.TransportError:
                await asyncio.sleep(0.02)
            else:
                return
