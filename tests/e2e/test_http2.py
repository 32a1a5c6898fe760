"""More streams than a browser opens connections: one page of a real Chromium over TLS and HTTP/2."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from e2e.proxy import Proxy, proxying
from support.certificates import Certificate
from support.serving import Puppet, Puppets, Running, serving, until
from twinwire.transports import Verdict

pytestmark = pytest.mark.asyncio(loop_scope="session")

STREAMS = 20
FOLLOW = """url => {
    const seen = {text: '', ids: [], opened: 0, done: false};
    const source = new EventSource(url);
    const take = event => {
        const [, run, number] = event.lastEventId.split('-');
        seen.run = run;
        seen.ids.push(Number(number));
        const data = JSON.parse(event.data);
        seen.text += data.delta ?? '';
        if (event.type === 'AGENT_FINISH') { seen.done = data.status; source.close(); }
    };
    source.onopen = () => seen.opened++;
    for (const type of ['AGENT_START', 'LLM_CHUNK', 'AGENT_FINISH']) source.addEventListener(type, take);
    (window.streams ??= []).push(seen);
}"""


@pytest_asyncio.fixture(loop_scope="session")
async def secure(puppets: Puppets, tmp_path: Path) -> AsyncIterator[Running]:
    certificate = Certificate(tmp_path)
    async with serving({"mine": puppets}, http2=True, retry_ms=50, **certificate.settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def link(secure: Running) -> AsyncIterator[Proxy]:
    """What connections of the page pass through, as bytes that it cannot read."""
    async with proxying(secure.port) as proxy:
        yield proxy


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, link: Proxy) -> AsyncIterator[Page]:
    """A page of the server's that takes its certificate as it is."""
    context = await browser.new_context(ignore_https_errors=True)
    page = await context.new_page()
    await page.goto(f"{link.url.replace('http:', 'https:')}/healthz")
    yield page
    await context.close()


async def streams(page: Page, puppets: Puppets) -> list[Puppet]:
    """`STREAMS` runs at once, each on an EventSource of its own."""
    runs = []
    for number in range(STREAMS):
        await page.evaluate(FOLLOW, f"/chat/stream?message={number}")
        runs.append(await puppets.next())
        runs[-1].say(f"{runs[-1].request.message} ")
    await page.wait_for_function(f"streams.length === {STREAMS} && streams.every(s => s.text)")
    return runs


async def test_twenty_streams_in_one_page(page: Page, puppets: Puppets) -> None:
    """Twenty EventSources are open at once, over h2, each with the events of its run; others are not held up."""
    runs = await streams(page, puppets)
    assert await page.evaluate("fetch('/healthz').then(answer => answer.status)") == 200
    protocols = "[...new Set(performance.getEntries().map(entry => entry.nextHopProtocol).filter(Boolean))]"
    assert await page.evaluate(protocols) == ["h2"]
    for run in runs:
        run.say("done")
        run.end()
    await page.wait_for_function("streams.every(s => s.done)")
    for number, seen in enumerate(await page.evaluate("streams")):
        assert (seen["text"], seen["ids"], seen["opened"]) == (f"{number} done", [1, 2, 3, 4], 1)


async def test_cancel_and_resume(page: Page, link: Proxy, puppets: Puppets) -> None:
    """Cut off, all twenty resume by themselves without a gap; cancelled by the page, each ends."""
    runs = await streams(page, puppets)
    link.cut()
    for run in runs:
        run.say("on")
    await page.wait_for_function("streams.every(s => s.opened === 2 && s.text.endsWith('on'))")
    cancel = "Promise.all(streams.map(s => fetch(`/runs/${s.run}/cancel`, {method: 'POST'}).then(a => a.status)))"
    assert await page.evaluate(cancel) == [202] * STREAMS
    await page.wait_for_function("streams.every(s => s.done)")
    for seen in await page.evaluate("streams"):
        assert (seen["done"], seen["ids"]) == ("cancelled", [1, 2, 3, 4])


async def test_a_stream_cut_short_is_an_error(page: Page, secure: Running, puppets: Puppets) -> None:
    """A stream that ends without its terminal event fails in the page (net::ERR); an EventSource resumes it.

    Their connection goes on.
    """
    failed: list[str | None] = []
    page.on("requestfailed", lambda request: failed.append(request.failure))
    await streams(page, puppets)
    secure.service.limiter._total = STREAMS
    read = "fetch('/chat/stream?message=more').then(a => a.text()).then(() => 'whole', error => error.name)"
    assert await page.evaluate(read) == "TypeError"
    await until(lambda: bool(failed))
    assert failed[0] is not None
    assert failed[0].startswith("net::ERR_HTTP2")
    assert await page.evaluate("streams.every(s => s.opened === 1)")
    connections = len(secure.server.server_state.connections)
    secure.service.limiter._total = STREAMS * 2
    for pump in list(secure.service.heartbeats.pumps):
        pump.end(Verdict.SLOW)
    await page.wait_for_function("streams.every(s => s.opened === 2)")
    assert len(secure.server.server_state.connections) == connections
    assert await page.evaluate("streams.every(s => s.ids.length === 2)")


async def test_a_websocket_beside_it(page: Page, puppets: Puppets) -> None:
    """A WebSocket of the same page works: the browser opens a connection of HTTP/1.1 for it."""
    await streams(page, puppets)
    ping = """() => new Promise((resolve, reject) => {
        const socket = new WebSocket(`wss://${location.host}/ws`);
        socket.onopen = () => socket.send('{"type": "ping"}');
        socket.onmessage = message => resolve(message.data);
        socket.onclose = reject;
    })"""
    assert await page.evaluate(ping) == '{"type":"pong"}'
