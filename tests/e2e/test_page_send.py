"""The page at `/` when something is said to a run that goes on: it reaches the run, or it is still there to send."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect

from e2e.asking import question
from e2e.proxy import Proxy
from e2e.visit import Transport, Visit, both, device, other
from support.serving import Puppets

pytestmark = pytest.mark.asyncio(loop_scope="session")

SAYS = "Message to the running agent"


@both
async def test_lines_are_typed_while_the_run_works(
    browser: Browser, visit: Visit, puppets: Puppets, transport: Transport
) -> None:
    """They are shown once they are in the log, to each who follows, in their order, and the run goes on with them."""
    await visit.choose(transport)
    await expect(visit.page.get_by_text(SAYS)).to_have_count(0)
    await visit.ask("Begin")
    puppet = await puppets.next()
    puppet.say("Well, ")
    await expect(visit.page.get_by_text(SAYS)).to_be_visible()
    await expect(visit.answer).to_have_text("Well,")
    async with device(browser, visit, other(transport)) as watching:
        for line in ("in *French*", "and <b>short</b>"):
            await visit.page.keyboard.type(line)
            await visit.page.keyboard.press("Enter")
        for each in (visit, watching):
            await expect(each.said).to_have_text(["in *French*", "and <b>short</b>"])
        await expect(visit.message).to_have_value("")
        await expect(visit.message).to_be_focused()
        assert [said.content for said in puppet.request.messages.drain()] == ["in *French*", "and <b>short</b>"]
        puppet.say("d'accord.")
        puppet.emit("STEP_START", step=2, max_steps=8)
        puppet.say("Voilà.")
        puppet.end()
        for each in (visit, watching):
            await expect(each.answer).to_have_text(["Well, d'accord.", "Voilà."])
            await expect(each.notice).to_have_text("Completed")
            parts = each.page.locator(".flow > *")
            await expect(parts).to_have_class(["answer", "said", "said", "step", "answer"])
    await expect(visit.page.get_by_text(SAYS)).to_have_count(0)
    assert puppets.started == 1


@both
async def test_a_message_to_a_run_that_waits(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """It is said to the run and answers nothing: the question stays open."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    asked = question(puppet, "Which?")
    await expect(visit.card).to_be_visible()
    await expect(visit.page.get_by_text("Message to the agent (answer above)")).to_be_visible()
    await visit.ask("first tell me more")
    await expect(visit.said).to_have_text("first tell me more")
    await expect(visit.notice).to_have_text("Waiting for your answer: Which?")
    await visit.card.get_by_label("Your answer").fill("that")
    await visit.button("Answer").click()
    assert await asked == "that"
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await expect(visit.page.locator(".said .unread")).to_have_text("The agent did not read this.")


@both
async def test_an_agent_that_reads_no_messages(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """What was typed is still there, with a sentence; sent again, it ends that run and starts its own."""
    puppets.takes_messages = False
    await visit.choose(transport)
    await visit.ask("first")
    first = await puppets.next()
    first.say("never fin")
    await expect(visit.answer).to_have_text("never fin")
    await visit.ask("second")
    await expect(visit.page.locator("#unsent")).to_contain_text("This agent reads no messages while it works.")
    await expect(visit.message).to_have_value("second")
    await expect(visit.message).to_be_focused()
    assert puppets.started == 1
    await visit.button("Stop and ask").click()
    second = await puppets.next()
    await first.closed.wait()
    assert second.request.session_id == first.request.session_id
    assert [message["content"] for message in second.request.history] == ["first", "never fin"]
    await expect(visit.page.locator("#unsent")).to_have_text("")
    second.say("done")
    second.end()
    await expect(visit.notice).to_have_text("Completed")
    await expect(visit.answer).to_have_text(["never fin", "done"])
    await expect(visit.outcome.first).to_contain_text("Cancelled")
    visit.forgive("status of 409")


@both
async def test_a_run_that_has_ended_meanwhile(
    visit: Visit, proxy: Proxy, puppets: Puppets, transport: Transport
) -> None:
    """What was sent to it is still there, with what was typed since, and can be asked anew."""
    await visit.choose(transport)
    await visit.ask("first")
    puppet = await puppets.next()
    puppet.say("word")
    await expect(visit.answer).to_have_text("word")
    proxy.outage = True
    proxy.cut()
    await proxy.refused.wait()
    await visit.ask("too late")
    await expect(visit.page.get_by_text("Sending “too late”…")).to_be_visible()
    await visit.page.keyboard.type("a draft")
    puppet.end()
    await puppet.closed.wait()
    proxy.outage = False
    await expect(visit.page.locator("#unsent")).to_contain_text("The run ended before this reached it.")
    await expect(visit.message).to_have_value("too late\na draft")
    await expect(visit.notice).to_have_text("Completed")
    await expect(visit.said).to_have_count(0)
    await visit.button("Send").click()
    again = await puppets.next()
    assert again.request.message == "too late\na draft"
    again.end()
    await expect(visit.outcome).to_have_count(2)
    visit.forgive("net::ERR", "WebSocket conn", "status of 503", "status of 409")


async def test_what_is_too_large_is_not_lost(visit: Visit, puppets: Puppets) -> None:
    """A message that the server does not take is still there, with the server's own words."""
    await visit.choose("SSE")
    await visit.ask()
    puppet = await puppets.next()
    await expect(visit.page.get_by_text(SAYS)).to_be_visible()
    text = "x" * 50_000
    await visit.ask(text)
    await expect(visit.page.locator("#unsent")).to_contain_text("This was not sent: ")
    await expect(visit.message).to_have_value(text)
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    visit.forgive("status of 413")
