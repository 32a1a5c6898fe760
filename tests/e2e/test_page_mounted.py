"""The page, and the client that the app serves, in somebody's application, below its prefix and with its users."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, expect

from e2e.visit import Transport, Visit, answer, both
from support.documents import ROOT, snippets
from support.hosts import Address, fastapi_app, hosted, of_session, settings
from support.serving import Puppets, echo
from twinwire import Twinwire

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def address(puppets: Puppets) -> AsyncIterator[Address]:
    """FastAPI with its own login, and Twinwire at `/ai`."""
    ai = Twinwire({"mine": puppets, "echo": echo}, settings=settings(), authenticate=of_session)
    async with hosted(fastapi_app(ai)) as address:
        yield address


@both
async def test_the_page_below_a_prefix(
    context: BrowserContext, address: Address, puppets: Puppets, transport: Transport
) -> None:
    """Who has logged in to the application follows a run on the page, stops it, and finds it again at its address."""
    await context.request.get(f"{address.home}/login?user=ann")
    visit = Visit(await context.new_page(), address.url)
    await visit.page.goto(f"{address.url}/")
    await visit.choose(transport)
    await visit.ask("What is this?")
    puppet = await puppets.next()
    assert puppet.request.user_id == "ann"
    answer(puppet, "It ", "is ", "below.")
    await expect(visit.answer).to_have_text("It is below.")
    await expect(visit.shown("Transport")).to_have_text(transport)
    await expect(visit.page).to_have_url(re.compile(f"^{address.url}/#[a-z2-7]{{26}}$"))
    await visit.button("Stop").click()
    await puppet.closed.wait()
    await expect(visit.notice).to_have_text("Cancelled")
    await visit.page.reload()
    await expect(visit.answer).to_have_text("It is below.")
    await visit.button("New conversation").click()
    await expect(visit.page).to_have_url(f"{address.url}/")
    assert visit.problems == []


async def test_the_documents_client(context: BrowserContext, address: Address) -> None:
    """The program for a page of the application's own, as it stands in docs/EMBEDDING.md, writes the answer."""
    (program,) = snippets((ROOT / "docs/EMBEDDING.md").read_text(), "js")
    program = program.replace("'one two three'", "'one two three', { agent: 'echo' }")
    await context.request.get(f"{address.home}/login?user=ann")
    page = await context.new_page()
    await page.goto(f"{address.home}/hello")
    await page.evaluate(f"async () => {{ document.body.textContent = ''; {program} }}")
    await expect(page.locator("body")).to_have_text("one two three ")
