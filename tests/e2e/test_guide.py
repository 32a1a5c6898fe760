"""The guide's browser code, as it stands, in a page of another origin."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import BrowserContext, expect

from e2e.proxy import proxying
from support.serving import Puppet, Puppets, serving
from support.site import Site, a_site

pytestmark = pytest.mark.asyncio(loop_scope="session")

# ruff: noqa: E501 - the guide's lines are as long as they are
SNIPPET = """
const es = new EventSource(`http://localhost:8000/chat?message=${encodeURIComponent(message)}&stream=true`);
es.addEventListener('AGENT_START',      e => console.log('start'));
es.addEventListener('STEP_START',       e => { const d = JSON.parse(e.data); show(`[step ${d.step}/${d.max_steps}]`); });
es.addEventListener('THINKING',         e => show(JSON.parse(e.data).content));
es.addEventListener('TOOL_CALL_START',  e => show(JSON.parse(e.data).tool_name));
es.addEventListener('TOOL_CALL_FINISH', e => show('done'));
es.addEventListener('LLM_CHUNK',        e => append(JSON.parse(e.data).content));
es.addEventListener('AGENT_FINISH',     e => es.close());
es.addEventListener('ERROR',            e => { show(JSON.parse(e.data).error); es.close(); });
"""
WITHOUT_CLOSE = re.sub(r"es\.close\(\)", "0", SNIPPET)


def begin(puppet: Puppet) -> None:
    puppet.emit("STEP_START", step=1, max_steps=3)
    puppet.emit("THINKING", content="I shall look.")
    puppet.emit("TOOL_CALL_START", tool_call_id="c1", tool_name="Read", parameters={"path": "README.md"})
    puppet.emit("TOOL_CALL_FINISH", tool_call_id="c1", tool_name="Read", result="…", status="ok", duration=0.01)
    puppet.say("Well", ", ")


SHOWN = "<[step 1/3]><I shall look.><Read><done>Well, "


async def test_guide_survives_a_cut_connection(context: BrowserContext, puppets: Puppets) -> None:
    """Events arrive; a cut connection makes no second run, loses and repeats nothing; after the end it stays away."""
    async with (
        a_site() as site,
        serving({"mine": puppets}, cors_origin=(site.origin,), retry_ms=50) as server,
        proxying(server.port) as proxy,
    ):
        page = await site.visit(context, SNIPPET, proxy.url)
        puppet = await puppets.next()
        assert puppet.request.message == "What is in here?"
        begin(puppet)
        await expect(page.locator("#out")).to_have_text(SHOWN)
        proxy.cut()
        await expect(page.locator("#state")).to_have_text("readyState 0")
        puppet.say("some files", ".")
        await expect(page.locator("#out")).to_have_text(SHOWN + "some files.")
        puppet.end()
        await until_a_run_was_followed_to_its_204(context, site, proxy.url, puppets)
        assert await page.evaluate("es.readyState") == 2
        first, resumed, *_ = proxy.asked("/chat?message=What")
        assert first[1] is None
        assert re.fullmatch(r"evt-[a-z2-7]{26}-7", resumed[1] or "")
        assert len(proxy.asked("/chat?message=What")) == 4  # two of this page, two of the page that does not close
        assert puppets.started == 2


async def until_a_run_was_followed_to_its_204(context: BrowserContext, site: Site, url: str, puppets: Puppets) -> None:
    """As long as an EventSource takes to see a run through, come back after the retry time, and get its 204."""
    other = await site.visit(context, WITHOUT_CLOSE, url)
    (await puppets.next()).end()
    await expect(other.locator("#state")).to_have_text("readyState 2")


async def test_a_thought_is_one_line(context: BrowserContext, puppets: Puppets) -> None:
    """A thought that comes word by word is one line of the guide's page for each sentence, and so is what is left."""
    async with a_site() as site, serving({"mine": puppets}, cors_origin=(site.origin,), retry_ms=50) as server:
        page = await site.visit(context, SNIPPET, server.url)
        puppet = await puppets.next()
        for word in ("The user", " wants", " a", " list", ".", " I", " shall", " look", " first"):
            puppet.emit("THINKING", content=word)
        await expect(page.locator("#out")).to_have_text("<The user wants a list.>< I shall look first>")
        for word in (" and", " then", " tell"):
            puppet.emit("THINKING", content=word)
        puppet.say("Well.")
        await expect(page.locator("#out")).to_have_text(
            "<The user wants a list.>< I shall look first>< and then tell>Well."
        )
        puppet.end()


async def test_204_stops_a_page_that_does_not_close(context: BrowserContext, puppets: Puppets) -> None:
    """An EventSource left open after the terminal event comes back once with that cursor, and then never again."""
    async with (
        a_site() as site,
        serving({"mine": puppets}, cors_origin=(site.origin,), retry_ms=50) as server,
        proxying(server.port) as proxy,
    ):
        page = await site.visit(context, WITHOUT_CLOSE, proxy.url)
        puppet = await puppets.next()
        puppet.say("All of it.")
        puppet.end()
        await expect(page.locator("#state")).to_have_text("readyState 2")
        await expect(page.locator("#out")).to_have_text("All of it.")
        cursors = [cursor and cursor.rpartition("-")[2] for _, cursor in proxy.asked("/chat")]
        assert cursors == [None, "3"]
        assert puppets.started == 1


async def test_guide_shows_an_error(context: BrowserContext, puppets: Puppets) -> None:
    """The ERROR event has its text under `error`, where the guide's page reads it, and ends the stream."""
    async with a_site() as site, serving({"mine": puppets}, cors_origin=(site.origin,), retry_ms=50) as server:
        page = await site.visit(context, SNIPPET, server.url)
        (await puppets.next()).fail(RuntimeError("a secret"))
        await expect(page.locator("#out")).to_have_text(re.compile(r"^<The agent failed\. .*>$"))
        assert await page.evaluate("es.readyState") == 2


async def test_another_origin_cannot_read_without_cors(context: BrowserContext, puppets: Puppets) -> None:
    """A server that allows no other origin starts nothing for a page of one, and gives it nothing to read."""
    async with a_site() as site, serving({"mine": puppets}, retry_ms=50) as server:
        page = await site.visit(context, SNIPPET, server.url)
        await expect(page.locator("#state")).to_have_text("readyState 2")
        await expect(page.locator("#out")).to_be_empty()
        assert puppets.started == 0
