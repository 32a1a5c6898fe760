"""The page at `/` when another process goes on with a run: what does not count is folded, and nothing joins it."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect

from e2e.asking import question, told
from e2e.visit import Transport, Visit, both, device
from support.resuming import resumed, written
from support.serving import Puppets, serving, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

LINE = "Interrupted here; going on."


@both
async def test_a_step_is_done_again(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """A line is between what does not count and what comes then; what the user said and is asked stays in its place."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    await told(puppet, "STEP_START", step=1, max_steps=None)
    await told(puppet, "THINKING", content="Where is it?")
    await told(puppet, "LLM_CHUNK", content="Let me s")
    await told(puppet, "TOOL_CALL_START", tool_call_id="c", tool_name="Read", parameters={"path": "a"})
    await visit.page.keyboard.type("Be quick.")
    await visit.page.keyboard.press("Enter")
    await expect(visit.said).to_have_text("Be quick.")
    asked = question(puppet, "Which one?")
    await expect(visit.card).to_be_visible()
    resumed(puppet.request, 1)
    void = visit.page.locator(".flow > .void")
    await expect(void.locator("> summary")).to_have_text(LINE)
    await expect(visit.answer).to_be_hidden()
    await expect(visit.said).to_be_visible()
    await visit.card.get_by_role("textbox").fill("That one.")
    await visit.button("Answer").click()
    assert await asked == "That one."
    await told(puppet, "STEP_START", step=1, max_steps=None)
    puppet.say("It is ", "here.")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await expect(visit.page.locator(".flow > .answer")).to_have_text(["It is here."])
    await expect(visit.page.locator(".flow > .step")).to_have_text(["Step 1"])
    await visit.button("Copy").click()
    await expect(visit.button("Copied")).to_be_visible()
    assert await visit.page.evaluate("navigator.clipboard.readText()") == "It is here."
    await void.locator("> summary").click()
    await expect(void.locator(".answer")).to_have_text("Let me s")
    await expect(void.locator(".tool .outcome")).to_have_text("not finished")
    await visit.page.reload()
    await expect(visit.page.locator(".flow > .answer")).to_have_text(["It is here."])
    await expect(void.locator("> summary")).to_have_text(LINE)


@both
async def test_some_of_the_text_counts(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """What an agent without steps had told by its checkpoint stays, however often its processes are gone."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    await told(puppet, "LLM_CHUNK", content="One. ")
    number = written(puppet.request)
    await told(puppet, "LLM_CHUNK", content="Tw")
    flow = visit.page.locator(".flow > .answer")
    for epoch, words in ((1, "Two"), (2, "Two. ")):
        resumed(puppet.request, number, epoch=epoch, text="One. ")
        await expect(visit.page.locator(".flow > .void > summary")).to_have_text([LINE] * epoch)
        await expect(flow).to_have_text(["One."])
        await told(puppet, "LLM_CHUNK", content=words)
        await expect(flow).to_have_text([f"One. {words.strip()}"])
    await told(puppet, "TOOL_CALL_START", tool_call_id="c", tool_name="Read", parameters={})
    resumed(puppet.request, None, epoch=3)
    await told(puppet, "TOOL_CALL_FINISH", tool_call_id="c", tool_name="Read", result="x", status="ok", duration=0.1)
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await expect(visit.page.locator(".flow > .tool .outcome")).to_have_text("ok · 100 ms")
    await expect(visit.page.locator(".void")).to_have_count(2)
    await visit.button("Copy").click()
    await expect(visit.button("Copied")).to_be_visible()
    assert await visit.page.evaluate("navigator.clipboard.readText()") == "One. Two. "


@both
async def test_a_late_join(browser: Browser, puppets: Puppets, transport: Transport) -> None:
    """A page that began with a run's state, as its first events are trimmed, shows what of the text counts."""
    async with serving({"mine": puppets}, retry_ms=50, log_events=8) as server:
        first = Visit(await browser.new_page(), server.url)
        await first.page.goto(server.url)
        await first.choose(transport)
        await first.ask("Long?")
        puppet = await puppets.next()
        for number in range(20):
            puppet.say(f"{number} ")
        await until(lambda: written(puppet.request) == 21)
        async with device(browser, first, transport) as late:
            await expect(late.answer).to_contain_text("0 1 2")
            resumed(puppet.request, 3, text="0 1 ")
            puppet.say("and out.")
            puppet.end()
            for page in (first, late):
                await expect(page.notice).to_have_text("Completed")
                await expect(page.page.locator(".flow > .answer")).to_have_text(["0 1 and out."])
                await expect(page.page.locator(".flow > .void > summary")).to_have_text(LINE)
            late.forgive("status of 410")
        first.forgive("status of 410")  # it may have been slower than the burst
        assert first.problems == []
        await first.page.close()
