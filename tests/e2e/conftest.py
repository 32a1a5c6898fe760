"""A real Chromium for the tests of this folder. Browser, servers and tests share one event loop, the session's."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, async_playwright, expect

from e2e.proxy import Proxy, proxying
from e2e.visit import Visit
from support.serving import Puppets, Running, serving
from twinwire import AgentSpec

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

expect.set_options(timeout=20_000)  # on a busy machine a page takes its time


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Start Chromium, or skip the test if it is not installed."""
    if not shutil.which(CHROMIUM):
        pytest.skip(f"{CHROMIUM} is not installed")
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        await chromium.close()


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser profile of the test's own."""
    context = await browser.new_context()
    yield context
    await context.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server() -> AsyncIterator[Running]:
    """One server for all tests of the page; its agent is that of the test."""
    async with serving({"mine": Puppets()}, retry_ms=50, max_body=2**15) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def proxy(server: Running) -> AsyncIterator[Proxy]:
    async with proxying(server.port) as proxy:
        yield proxy


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tab(browser: Browser, proxy: Proxy) -> AsyncIterator[Visit]:
    context = await browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    yield Visit(await context.new_page(), proxy.url)
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def visit(tab: Visit, server: Running, proxy: Proxy, puppets: Puppets) -> AsyncIterator[Visit]:
    """The page, just opened, with its own agent; the test must leave it without problems."""
    server.runs.agents["mine"] = AgentSpec(puppets)
    proxy.heal()
    await tab.page.goto(f"{tab.base}/healthz")
    await tab.page.evaluate("localStorage.clear()")
    await tab.page.goto(tab.base)
    tab.problems.clear()
    yield tab
    assert tab.problems == []
