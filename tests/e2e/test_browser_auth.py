"""Authentication as a browser does it: a cookie on the server's own pages, a ticket in the URL on others."""

from __future__ import annotations

import pytest
from playwright.async_api import BrowserContext, Page

from e2e.proxy import proxying
from support.credentials import AUTH, TOKENS, protocol
from support.serving import Puppets, serving
from support.site import a_site

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOLLOW = """([url, protocols]) => {
    window.seen = [];
    window.es = new EventSource(url);
    es.addEventListener('LLM_CHUNK', e => seen.push(JSON.parse(e.data).content));
    es.addEventListener('error', () => seen.push(es.readyState));
    window.told = [];
    window.socket = new WebSocket(new URL('/ws', url).href.replace('http', 'ws'), protocols);
    socket.onopen = () => socket.send('{"type":"ping"}');
    socket.onmessage = e => told.push(e.data, socket.protocol);
    socket.onclose = e => told.push(e.code);
}"""
ASK = """async ([url, token]) => {
    const response = await fetch(url, {method: 'POST', headers: token ? {authorization: `Bearer ${token}`} : {}});
    return [response.status, document.cookie, await response.text()];
}"""


async def until(page: Page, condition: str) -> None:
    """Wait for the page to have come that far."""
    await page.evaluate(
        f"new Promise(done => {{ const look = () => {condition} ? done() : setTimeout(look, 10); look() }})"
    )


async def test_a_cookie_from_login_to_logout(context: BrowserContext, puppets: Puppets) -> None:
    """EventSource and WebSocket open with it, no script sees it; after the log-out neither comes back."""
    async with serving({"mine": puppets}, retry_ms=50, **AUTH) as server:
        page = await context.new_page()
        await page.goto(server.url)
        assert (await page.evaluate(ASK, [f"{server.url}/login", TOKENS["alice"]]))[:2] == [200, ""]
        await page.evaluate(FOLLOW, [f"{server.url}/chat/stream?message=hi", []])
        puppet = await puppets.next()
        assert puppet.request.user_id == "alice"
        puppet.say("a")
        await until(page, "seen.includes('a') && told.length == 2")
        assert await page.evaluate("told") == ['{"type":"pong"}', ""]
        assert (await page.evaluate(ASK, [f"{server.url}/logout", ""]))[0] == 204
        await until(page, "es.readyState == 2 && told.length == 3")
        assert await page.evaluate("[seen, told[2]]") == [["a", 0, 2], 4501]
        assert puppets.started == 1
        await page.close()


async def test_a_ticket_on_a_page_of_another_origin(context: BrowserContext, puppets: Puppets) -> None:
    """The reconnect to the same URL resumes with the same ticket; a socket takes the token as a subprotocol."""
    async with (
        a_site() as site,
        serving({"mine": puppets}, cors_origin=(site.origin,), retry_ms=50, **AUTH) as server,
        proxying(server.port) as proxy,
    ):
        page = await context.new_page()
        await page.goto(site.origin)
        status, _, body = await page.evaluate(ASK, [f"{proxy.url}/tickets", TOKENS["bob"]])
        assert status == 201
        ticket = body.split('"')[3]
        offered = ["twinwire.v1", protocol(TOKENS["bob"])]
        await page.evaluate(FOLLOW, [f"{proxy.url}/chat/stream?message=hi&ticket={ticket}", offered])
        puppet = await puppets.next()
        assert puppet.request.user_id == "bob"
        puppet.say("a")
        await until(page, "seen.includes('a') && told.length == 2")
        assert await page.evaluate("told") == ['{"type":"pong"}', "twinwire.v1"]
        proxy.cut()
        await until(page, "seen.includes(0)")
        puppet.say("b")
        await until(page, "seen.includes('b')")
        assert await page.evaluate("seen.filter(each => each)") == ["a", "b"]
        assert puppets.started == 1
        await page.close()
