"""`twinwire-client/react` built by Vite into a page, in a real Chromium, in StrictMode: on an origin of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect

from e2e.built import built, problems_of
from e2e.tab import opened
from support.serving import Puppets, Running, serving
from twinwire import AgentSpec

pytestmark = pytest.mark.asyncio(loop_scope="session")
both = pytest.mark.parametrize("transport", ["sse", "ws"])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of the built page."""
    async with built("test/react", tmp_path_factory.mktemp("react")) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server() -> AsyncIterator[Running]:
    """A server that pages of other origins may use; its agent is that of the test."""
    async with serving({"mine": Puppets()}, cors_origin=("*",)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext, server: Running, puppets: Puppets) -> AsyncIterator[Page]:
    """A page that must be left without problems."""
    server.runs.agents["mine"] = AgentSpec(puppets)
    page = await context.new_page()
    problems = problems_of(page)
    yield page
    assert problems == []


async def visit(page: Page, app: str, server: Running, **query: str) -> None:
    """Open the page, for it to use the server."""
    await page.goto(f"{app}?{urlencode({'server': server.url, **query})}")


@both
async def test_shows_what_comes(page: Page, app: str, server: Running, puppets: Puppets, transport: str) -> None:
    """All parts of the view follow the events, to the end."""
    await visit(page, app, server, transport=transport)
    await expect(page.locator("#status")).to_have_text("idle")
    await page.get_by_role("button", name="Send").click()
    puppet = await puppets.next()
    puppet.emit("STEP_START", step=2, max_steps=3)
    puppet.emit("THINKING", content="Hm. ")
    puppet.emit("PROGRESS", progress=50, step=2, total=3)
    puppet.emit("TOOL_CALL_START", tool_call_id="c1", tool_name="Read", parameters={})
    puppet.say("Hello ", "you")
    shown = {"step": "2", "thinking": "Hm. ", "progress": "50", "tools": "Read", "text": "Hello you", "status": "open"}
    for name, value in shown.items():
        await expect(page.locator(f"#{name}")).to_have_text(value)
    puppet.end()
    for name, value in {"tools": "", "status": "completed", "events": "8", "error": ""}.items():
        await expect(page.locator(f"#{name}")).to_have_text(value)


async def test_a_run_that_fails(page: Page, app: str, server: Running, puppets: Puppets) -> None:
    """Its error is shown."""
    await visit(page, app, server)
    await page.get_by_role("button", name="Send").click()
    puppet = await puppets.next()
    puppet.emit("ERROR", error_type="agent_error", message="out of ink", error="out of ink")
    await expect(page.locator("#error")).to_have_text("The run failed with agent_error. out of ink")
    await expect(page.locator("#status")).to_have_text("error")


async def test_cancel(page: Page, app: str, server: Running, puppets: Puppets) -> None:
    """The run is cancelled, and what came is kept."""
    await visit(page, app, server)
    await page.get_by_role("button", name="Send").click()
    puppet = await puppets.next()
    puppet.say("Hello")
    await expect(page.locator("#text")).to_have_text("Hello")
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("#status")).to_have_text("cancelled")
    await expect(page.locator("#text")).to_have_text("Hello")


@pytest.mark.parametrize("query", [{"transport": "sse"}, {"transport": "ws"}, {"session": "effect"}])
async def test_an_effect_starts_one_run(
    page: Page, app: str, server: Running, puppets: Puppets, query: dict[str, str]
) -> None:
    """StrictMode mounts twice; a run that an effect starts is started once all the same."""
    await visit(page, app, server, send="hello", **query)
    puppet = await puppets.next()
    puppet.say("Hello")
    puppet.end()
    await expect(page.locator("#status")).to_have_text("completed")
    await expect(page.locator("#text")).to_have_text("Hello")
    await expect(page.locator("#messages")).to_have_text("2")
    assert puppets.started == 1
    assert (await page.evaluate("counted()"))["mounts"] == 2


@both
async def test_unmounting_closes(page: Page, app: str, server: Running, puppets: Puppets, transport: str) -> None:
    """A component that is gone follows nothing any more, and one that comes back begins anew."""
    await visit(page, app, server, transport=transport)
    await page.get_by_role("button", name="Send").click()
    puppet = await puppets.next()
    puppet.say("Hello")
    await expect(page.locator("#text")).to_have_text("Hello")
    await page.get_by_role("button", name="Toggle").click()
    await puppet.closed.wait()  # it was started so that it is cancelled when nobody follows it
    await page.get_by_role("button", name="Toggle").click()
    await expect(page.locator("#status")).to_have_text("idle")


@both
async def test_a_session_is_found_again(
    page: Page, app: str, server: Running, puppets: Puppets, transport: str
) -> None:
    """The run of a session goes on without its component, and one that comes back finds it where it is."""
    await visit(page, app, server, transport=transport, session=f"found over {transport}")
    await page.get_by_role("button", name="Send").click()
    puppet = await puppets.next()
    puppet.say("Hello")
    await expect(page.locator("#text")).to_have_text("Hello")
    await page.get_by_role("button", name="Toggle").click()
    await expect(page.locator("#text")).to_have_count(0)
    puppet.say(" you")
    await page.get_by_role("button", name="Toggle").click()
    await expect(page.locator("#text")).to_have_text("Hello you")
    await page.get_by_role("button", name="Toggle").click()
    puppet.end()
    await page.get_by_role("button", name="Toggle").click()
    await expect(page.locator("#status")).to_have_text("completed")
    await page.get_by_role("button", name="Send").click()
    (await puppets.next()).end()
    await expect(page.locator("#messages")).to_have_text("4")
    assert puppets.started == 2


@both
async def test_renders_no_more_often_than_frames(
    page: Page, app: str, server: Running, puppets: Puppets, transport: str
) -> None:
    """However fast tokens come, React renders once per animation frame at most."""
    await visit(page, app, server, transport=transport)
    await expect(page.locator("#status")).to_have_text("idle")
    before = await page.evaluate("counted()")
    await page.get_by_role("button", name="Send").click()
    puppet = await puppets.next()
    puppet.say(*["x"] * 5_000)
    puppet.end()
    await expect(page.locator("#status")).to_have_text("completed")
    await expect(page.locator("#events")).to_have_text("5002")
    after = await page.evaluate("counted()")
    assert 1 <= after["commits"] - before["commits"] <= after["frames"] - before["frames"] + 1


@both
async def test_a_hidden_tab(browser: Browser, app: str, server: Running, puppets: Puppets, transport: str) -> None:
    """A tab that is hidden has no frames. It follows its run all the same, and tells how it ended."""
    server.runs.agents["mine"] = AgentSpec(puppets)
    query = urlencode({"server": server.url, "transport": transport, "send": "Hello"})
    async with opened(browser, f"{app}?{query}") as tab:
        puppet = await puppets.next()
        puppet.say("Hello")
        await tab.shows("#text", "Hello")
        await tab.hide()
        before = await tab.evaluate("counted()")
        puppet.say(" you")
        await tab.shows("#text", "Hello you")
        puppet.end()
        await tab.shows("#status", "completed")
        assert await tab.evaluate("document.hidden")
        after = await tab.evaluate("counted()")
    assert after["frames"] - before["frames"] <= 1
    assert after["commits"] > before["commits"]
