"""The page at `/` by keyboard: no control leaves the order of Tab, or takes the focus away, by itself."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Locator, expect

from e2e.proxy import Proxy
from e2e.visit import Transport, Visit, both
from support.serving import Puppets

pytestmark = pytest.mark.asyncio(loop_scope="session")

HISTORY = 'aside[aria-label^="Runs"] a'


async def focus(control: Locator) -> None:
    await control.focus()
    await expect(control).to_be_focused()


async def test_no_control_is_disabled(visit: Visit, puppets: Puppets) -> None:
    """No control has the attribute `disabled`, before, during and after a run: Tab reaches it whatever goes on."""

    async def check() -> None:
        assert await visit.page.locator(":disabled").count() == 0

    await check()
    await visit.ask()
    puppet = await puppets.next()
    await expect(visit.notice).to_have_text("Answering…")
    await check()
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await check()


@both
async def test_cut_keeps_the_focus(visit: Visit, proxy: Proxy, puppets: Puppets, transport: Transport) -> None:
    """The Cut button keeps the focus while there is no connection, does nothing then, and works again afterwards."""
    await visit.choose(transport)
    cut = visit.button("Cut the connection")
    await expect(cut).to_be_disabled()
    await visit.ask()
    puppet = await puppets.next()
    puppet.say("word ")
    await expect(visit.answer).to_have_text("word")
    await focus(cut)
    proxy.outage = True
    await visit.page.keyboard.press("Enter")
    await expect(cut).to_be_disabled()
    await visit.page.keyboard.press("Enter")
    await expect(cut).to_be_focused()
    proxy.outage = False
    await expect(cut).to_be_enabled()
    await expect(visit.shown("Reconnects")).to_have_text("1")
    await visit.page.keyboard.press("Enter")
    await expect(visit.shown("Reconnects")).to_have_text("2")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await expect(cut).to_be_disabled()
    await expect(cut).to_be_focused()
    visit.forgive("net::ERR", "WebSocket conn", "status of 503")


async def test_stop_vanishes_when_the_focus_leaves_it(visit: Visit, puppets: Puppets) -> None:
    """If a run ends while Stop has the focus, Stop stays, and does nothing, until the focus goes on."""
    await visit.ask()
    puppet = await puppets.next()
    stop = visit.button("Stop")
    await expect(stop).to_be_enabled()
    await focus(stop)
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await expect(stop).to_be_disabled()
    await expect(stop).to_be_focused()
    await visit.page.keyboard.press("Enter")
    await expect(visit.notice).to_have_text("Completed")
    await visit.page.keyboard.press("Tab")
    await expect(visit.button("Send")).to_be_focused()
    await expect(stop).to_be_hidden()


async def test_a_held_key_sends_no_draft(visit: Visit, puppets: Puppets) -> None:
    """Enter that is held on Stop, which moves the focus to the message, sends nothing of what is written there."""
    await visit.ask()
    puppet = await puppets.next()
    stop = visit.button("Stop")
    await visit.page.get_by_label("Message").fill("a draft")
    await focus(stop)
    await visit.page.keyboard.down("Enter")
    await puppet.closed.wait()
    await expect(visit.page.get_by_label("Message")).to_be_focused()
    await visit.page.keyboard.down("Enter")  # again without `up`: a repeat
    await visit.page.keyboard.up("Enter")
    await expect(visit.page.get_by_label("Message")).to_have_value("a draft")
    assert puppets.started == 1


async def test_an_entry_of_the_list_keeps_the_focus(visit: Visit, puppets: Puppets) -> None:
    """The list of runs changes while one of its links has the focus: the link, with its new text, keeps it."""
    await visit.ask("first")
    (await puppets.next()).end()
    await expect(visit.notice).to_have_text("Completed")
    await visit.button("New conversation").click()
    await visit.ask("second")
    puppet = await puppets.next()
    links = visit.page.locator(HISTORY)
    await expect(links).to_have_count(2)
    for link in (links.first, links.last):
        await focus(link)
        text = await link.locator(".title").text_content()
        await link.evaluate("link => { window.kept = link; }")
        puppet.fail(RuntimeError()) if text == "second" else puppet.end()
        await expect(visit.page.locator(HISTORY, has_text="second")).to_contain_text("Failed")
        await expect(visit.page.locator(HISTORY, has_text=text)).to_be_focused()
        assert await visit.page.evaluate("document.activeElement === window.kept && window.kept.isConnected")
        await visit.page.keyboard.press("Enter")  # opens it, which marks it in the list
        await expect(visit.page.locator(HISTORY, has_text=text)).to_have_attribute("aria-current", "page")
        await expect(visit.page.locator(HISTORY, has_text=text)).to_be_focused()


async def test_a_growing_answer_keeps_the_focus(visit: Visit, puppets: Puppets) -> None:
    """A code block that grows is drawn anew with each token: its Copy button keeps the focus, also when it closes."""
    await visit.ask()
    puppet = await puppets.next()
    puppet.say("```sh\n", "one\n")
    await focus(visit.page.locator(".code .copy"))
    for text in ("two\n", "three\n", "```\n\n", "After it.\n\n", "Last."):
        puppet.say(text)
        await expect(visit.answer).to_contain_text(text.strip(" \n`"))
        await expect(visit.page.locator(".code .copy")).to_be_focused()
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await expect(visit.page.locator(".code .copy")).to_be_focused()


async def test_going_back_leaves_the_focus_in_the_conversation(visit: Visit, puppets: Puppets) -> None:
    """Going to another run by the address takes the focus from what is no longer there to the conversation."""
    await visit.ask("first")
    (await puppets.next()).end()
    await expect(visit.notice).to_have_text("Completed")
    first = re.sub(r".*#", "", visit.page.url)
    await visit.button("New conversation").click()
    await visit.ask("second")
    (await puppets.next()).end()
    await expect(visit.notice).to_have_text("Completed")
    await focus(visit.button("Regenerate"))
    await visit.page.evaluate("run => { location.hash = run; }", first)
    await expect(visit.page.get_by_role("heading", name="first")).to_be_visible()
    await expect(visit.output).to_be_focused()
