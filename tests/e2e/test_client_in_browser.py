"""The JS client as the server serves it at `/client/`, without a build, in a real Chromium."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Browser, BrowserContext

from e2e.proxy import Proxy
from support.credentials import AUTH, TOKENS
from support.serving import Puppets, Running, serving, until
from support.site import a_site
from twinwire import AgentSpec

pytestmark = pytest.mark.asyncio(loop_scope="session")

each = pytest.mark.parametrize("transport", ["auto", "sse", "ws", "eventsource"])

FOLLOW = """async (options) => {
    const { createClient } = await import('/client/index.js');
    const client = createClient({ ...options, retry: { base: 10 } });
    const run = client.stream('Hello');
    const seen = [];
    run.on('status', (status) => console.log(seen.at(seen.push(status) - 1)));
    run.on('LLM_CHUNK', ({ data }) => console.log(seen.at(seen.push(data.content) - 1)));
    seen.push(await run.result);
    client.close();
    return seen;
}"""


@each
async def test_follows_through_a_cut(
    browser: Browser, server: Running, proxy: Proxy, puppets: Puppets, transport: str
) -> None:
    """On every transport of a browser, a run that is cut off is resumed at its cursor."""
    server.runs.agents["mine"] = AgentSpec(puppets)
    proxy.heal()
    page = await browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    await page.goto(proxy.url)
    following = asyncio.create_task(page.evaluate(FOLLOW, {"transport": transport}))
    puppet = await puppets.next()
    puppet.say("one ")
    await until(lambda: "one " in said)
    proxy.cut()
    await until(lambda: "reconnecting" in said)
    puppet.say("two")
    puppet.end()
    assert await following == ["open", "one ", "reconnecting", "open", "two", "completed", "one two"]
    assert puppets.started == 1
    await page.close()


@each
async def test_says_who_one_is(browser: Browser, puppets: Puppets, transport: str) -> None:
    """A token gets through on every transport, also where no header can be sent."""
    async with serving({"mine": puppets}, auth_tokens=("alice:alice-secret-token",)) as guarded:
        page = await browser.new_page()
        await page.goto(guarded.url)
        following = asyncio.create_task(page.evaluate(FOLLOW, {"transport": transport, "token": "alice-secret-token"}))
        (await puppets.next()).end()
        assert await following == ["open", "completed", ""]
        await page.close()


COOKIE = """async ([url, token, transport]) => {
    const { createClient } = await import(`${url}/client/index.js`);
    const headers = { authorization: `Bearer ${token}` };
    await fetch(`${url}/login`, { method: 'POST', credentials: 'include', headers });
    const client = createClient({ url, transport, credentials: 'include', retry: { base: 10 } });
    const result = await client.stream('Hello').result;
    client.close();
    return result;
}"""


@each
async def test_a_cookie_for_another_origin(context: BrowserContext, puppets: Puppets, transport: str) -> None:
    """If `credentials` is `include`, a login's cookie goes along on every transport."""
    async with (
        a_site() as site,
        serving({"mine": puppets}, cors_origin=(site.origin,), **AUTH) as guarded,
    ):
        page = await context.new_page()
        await page.goto(site.origin)
        following = asyncio.create_task(page.evaluate(COOKIE, [guarded.url, TOKENS["alice"], transport]))
        puppet = await puppets.next()
        assert puppet.request.user_id == "alice"
        puppet.say("Hello")
        puppet.end()
        assert await following == "Hello"
