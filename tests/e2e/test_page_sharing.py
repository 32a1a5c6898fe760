"""The page at `/` and runs that are there already: another tab's, this browser's, those of who is signed in."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect

from e2e.visit import Transport, Visit, both
from support.credentials import AUTH, TOKENS
from support.serving import Puppets, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOWHERE = "a" * 26


@both
async def test_a_second_tab_follows_live(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """The address is the run's: another tab that opens it has all that was, and all that comes, and may stop it."""
    await visit.choose(transport)
    await visit.ask("Shared?")
    puppet = await puppets.next()
    puppet.say("before ")
    await expect(visit.answer).to_have_text("before")
    other = Visit(await visit.page.context.new_page(), visit.base)
    await other.page.goto(visit.page.url)
    await expect(other.answer).to_have_text("before")
    await expect(other.page.get_by_role("heading", name="Shared?")).to_be_visible()
    await expect(other.shown("Transport")).to_have_text(transport)
    puppet.say("after")
    for tab in (visit, other):
        await expect(tab.answer).to_have_text("before after")
    await other.button("Stop").click()
    await puppet.closed.wait()
    for tab in (visit, other):
        await expect(tab.notice).to_have_text("Cancelled")
        await expect(tab.outcome).to_contain_text("4 of 4 events")
    assert other.problems == []
    await other.page.close()


@both
async def test_a_finished_run_is_replayed(
    browser: Browser, visit: Visit, puppets: Puppets, transport: Transport
) -> None:
    """Somebody else who opens the address later reads all of it, and what they ask goes on from there."""
    await visit.choose(transport)
    await visit.ask("What was?")
    puppet = await puppets.next()
    puppet.say("It *was*.")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    other = Visit(await browser.new_page(), visit.base)
    await other.page.goto(visit.page.url)
    await expect(other.answer.locator("em")).to_have_text("was")
    await expect(other.notice).to_have_text("Completed")
    await expect(other.outcome).to_contain_text("3 of 3 events")
    await expect(other.shown("First token")).to_contain_text("s")
    await expect(other.page).to_have_title("What was? · Twinwire")
    await other.ask("And then?")
    second = await puppets.next()
    assert [message["content"] for message in second.request.history] == ["What was?", "It *was*."]
    second.end()
    await expect(other.outcome).to_have_count(2)
    assert other.problems == []
    await other.page.close()


async def test_a_reload_goes_on(visit: Visit, puppets: Puppets) -> None:
    """A page that is loaded again shows the whole conversation, and follows the run that goes on."""
    await visit.ask("one")
    first = await puppets.next()
    first.say("first")
    first.end()
    await expect(visit.notice).to_have_text("Completed")
    await visit.ask("two")
    second = await puppets.next()
    second.say("sec")
    await expect(visit.answer).to_have_text(["first", "sec"])
    await visit.page.reload()
    await expect(visit.answer).to_have_text(["first", "sec"])
    second.say("ond")
    second.end()
    await expect(visit.answer).to_have_text(["first", "second"])
    await expect(visit.notice).to_have_text("Completed")
    assert puppets.started == 2


async def test_the_list_of_runs(visit: Visit, puppets: Puppets) -> None:
    """This browser's conversations are listed, newest first, are opened again, and can be forgotten."""
    entries = visit.page.get_by_role("complementary", name="Runs").get_by_role("link")
    for question in ("one", "two"):
        await visit.button("New conversation").click()
        await visit.ask(question)
        puppet = await puppets.next()
        puppet.say(f"answer {question}")
        puppet.end()
        await expect(visit.notice).to_have_text("Completed")
    await visit.ask("more")
    (await puppets.next()).fail(RuntimeError())
    await expect(visit.notice).to_have_text("Failed")
    await expect(entries).to_contain_text(["two", "one"])
    await expect(entries.first).to_contain_text("2 turns · Failed")
    await expect(entries.first).to_have_attribute("aria-current", "page")
    await entries.last.click()
    await expect(visit.answer).to_have_text(["answer one"])
    await expect(entries.last).to_have_attribute("aria-current", "page")
    await visit.page.reload()
    await expect(visit.answer).to_have_text(["answer one"])
    await expect(entries).to_have_count(2)
    await visit.button("Forget all").click()
    await expect(entries).to_have_count(0)
    assert await visit.page.evaluate("localStorage.getItem('twinwire.runs')") == "[]"


async def test_a_run_that_is_no_more(visit: Visit) -> None:
    """An address of no run says so."""
    await visit.page.goto(f"{visit.base}/#{NOWHERE}")
    await expect(visit.notice).to_have_text("Failed: The run does not exist.")
    visit.forgive("status of 404")


async def test_preferences_stay(visit: Visit) -> None:
    """The transport and the colours one chose are there the next time."""
    root = visit.page.locator("html")
    await visit.choose("WebSocket")
    for name in ("light", "dark"):
        await visit.page.get_by_role("button", name="Colours").click()
        await expect(root).to_have_css("color-scheme", name)
    await visit.page.reload()
    await expect(root).to_have_css("color-scheme", "dark")
    await expect(visit.page.get_by_role("radio", name="WebSocket")).to_be_checked()


@both
async def test_signing_in_and_out(browser: Browser, puppets: Puppets, transport: Transport) -> None:
    """Where the server asks who one is, so does the page; what was asked goes on, and no script has the token."""
    async with serving({"mine": puppets}, retry_ms=50, **AUTH) as server:
        visit = Visit(await browser.new_page(), server.url)
        await visit.page.goto(server.url)
        await visit.choose(transport)
        await visit.ask("Who am I?")
        token = visit.page.get_by_label("Token")
        await token.fill("a-wrong-token-0123456789")
        await visit.button("Sign in").click()
        await expect(visit.page.get_by_role("alert")).to_have_text("This token is not taken.")
        await expect(token).to_be_focused()
        assert puppets.started == 0
        await token.fill(TOKENS["alice"])
        await token.press("Enter")
        puppet = await puppets.next()
        assert (puppet.request.user_id, puppet.request.message) == ("alice", "Who am I?")
        await expect(token).to_be_hidden()
        puppet.say("alice")
        puppet.end()
        await expect(visit.notice).to_have_text("Completed")
        await visit.page.reload()
        await expect(visit.answer).to_have_text("alice")
        kept = await visit.page.evaluate("JSON.stringify(localStorage) + document.cookie")
        assert TOKENS["alice"] not in kept
        await visit.button("Sign out alice").click()
        await expect(visit.answer).to_have_count(0)
        await expect(visit.page.get_by_role("link")).to_have_count(0)
        await visit.ask("And now?")
        await expect(token).to_be_focused()
        await visit.button("Not now").click()
        await expect(visit.notice).to_have_text("Sign in to go on")
        assert puppets.started == 1
        visit.forgive("status of 401")
        assert visit.problems == []
        await visit.page.close()
