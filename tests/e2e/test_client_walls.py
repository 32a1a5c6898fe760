"""Pages that use up a browser's connections, or that a server does not allow, with the JS client in Chromium."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext

from support.serving import Puppets, serving
from support.site import a_site

pytestmark = pytest.mark.asyncio(loop_scope="session")

MANY = """async ([transport, count]) => {
    const { createClient } = await import('/client/index.js');
    const client = createClient({ transport });
    const runs = Array.from({ length: count }, () => client.stream('Hello'));
    const opened = (run) => new Promise((resolve) => run.on('status', (status) => status === 'open' && resolve()));
    await Promise.all(runs.map(opened));
    const began = performance.now();
    const answer = await runs[0].cancel();
    const took = performance.now() - began;
    await runs[0].result;
    const { status } = runs[0];
    client.close();
    return { answer, status, took };
}"""


@pytest.mark.parametrize(("transport", "count"), [("sse", 6), ("auto", 12), ("ws", 12)])
async def test_a_cancel_when_all_connections_are_in_use(
    browser: Browser, puppets: Puppets, transport: str, count: int
) -> None:
    """Over plain HTTP a browser has six connections: a cancel gets through within 2 s, and auto needs only one."""
    async with serving({"mine": puppets}) as server:
        page = await browser.new_page()
        await page.goto(f"{server.url}/healthz")
        outcome: dict[str, Any] = await page.evaluate(MANY, [transport, count])
        assert (outcome["answer"], outcome["status"]) == ("accepted", "cancelled")
        assert outcome["took"] < 2000
        await page.close()


STRANGER = """async ([home, url, transport]) => {
    const { createClient } = await import(`${home}/client/index.js`);
    const began = performance.now();
    const client = createClient({ url, transport });
    const error = await client.stream('Hello').result.catch((thrown) => thrown);
    client.close();
    return { code: error.code, message: error.message, name: error.name, took: performance.now() - began };
}"""

each = pytest.mark.parametrize("transport", ["auto", "sse", "ws"])


@each
async def test_an_origin_that_is_not_allowed(context: BrowserContext, puppets: Puppets, transport: str) -> None:
    """A page that a server does not allow is told so at once, and what to do."""
    async with (
        a_site() as site,
        serving({"mine": puppets}, cors_origin=(site.origin,)) as home,
        serving({"mine": puppets}) as other,
    ):
        page = await context.new_page()
        await page.goto(site.origin)
        outcome: dict[str, Any] = await page.evaluate(STRANGER, [home.url, other.url, transport])
        assert outcome["code"] == "origin_not_allowed"
        assert f"does not let pages of {site.origin} read its answers. List the origin" in outcome["message"]
        assert outcome["took"] < 3000
        assert puppets.started == 0


@each
async def test_nobody_at_an_address(context: BrowserContext, puppets: Puppets, transport: str) -> None:
    """A page that asks a server which is not there is told so within about two seconds."""
    gone = await _free_port()
    async with a_site() as site, serving({"mine": puppets}, cors_origin=(site.origin,)) as home:
        page = await context.new_page()
        await page.goto(site.origin)
        outcome: dict[str, Any] = await page.evaluate(STRANGER, [home.url, f"http://127.0.0.1:{gone}", transport])
        assert outcome["name"] == "ConnectionLost"
        assert outcome["took"] < 4000


async def _free_port() -> int:
    listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port: int = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()
    return port
