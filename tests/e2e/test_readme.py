"""README's browser snippets, run as they stand in a page of the server's own origin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, Page, expect

from support.serving import Puppets, Running
from twinwire import AgentSpec

pytestmark = pytest.mark.asyncio(loop_scope="session")

README = (Path(__file__).parents[2] / "README.md").read_text()
SNIPPETS = re.findall(r"^```js\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
AROUND = """() => {
    document.body.innerHTML = '<p id="out"></p><button>stop</button>';
    const message = 'hi', stop = document.querySelector('button');
    const append = text => document.getElementById('out').append(text), show = text => append(`<${text}>`);
    %s
}"""


async def run(context: BrowserContext, server: Running, snippet: str) -> Page:
    page = await context.new_page()
    await page.goto(f"{server.url}/healthz")
    await page.evaluate(AROUND % snippet.replace("localhost:8000", f"127.0.0.1:{server.port}"))
    return page


async def test_event_source(context: BrowserContext, server: Running, puppets: Puppets) -> None:
    """The EventSource snippet shows the answer as it comes, and an error."""
    server.runs.agents["mine"] = AgentSpec(puppets)
    (snippet,) = (snippet for snippet in SNIPPETS if "EventSource" in snippet)
    page = await run(context, server, snippet)
    puppet = await puppets.next()
    puppet.say("Hel", "lo")
    await expect(page.locator("#out")).to_have_text("Hello")
    puppet.emit("ERROR", error="no luck")
    await expect(page.locator("#out")).to_have_text("Hello<no luck>")


async def test_websocket(context: BrowserContext, server: Running, puppets: Puppets) -> None:
    """The WebSocket snippet shows the answer as it comes, and its stop button cancels."""
    server.runs.agents["mine"] = AgentSpec(puppets)
    (snippet,) = (snippet for snippet in SNIPPETS if "new WebSocket(" in snippet)
    page = await run(context, server, snippet)
    puppet = await puppets.next()
    puppet.say("Hel", "lo")
    await expect(page.locator("#out")).to_have_text("Hello")
    await page.get_by_role("button").click()
    await expect(page.locator("#out")).to_have_text("Hello<cancelled>")
    await puppet.closed.wait()
