"""The example of a chat with React (`clients/js/examples/chat`), in a real Chromium, used as its user does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Locator, Page, expect

from e2e.built import built, problems_of
from support.serving import Puppets, serving
from twinwire import Call

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEA = {
    "type": "object",
    "properties": {
        "kind": {"type": "string", "title": "Kind", "enum": ["black", "green"]},
        "cups": {"type": "integer", "maximum": 9},
        "milk": {"type": "boolean"},
        "note": {"type": "string"},
    },
    "required": ["kind", "cups"],
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of the built example."""
    async with built("examples/chat", tmp_path_factory.mktemp("chat")) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="session")
async def chat(context: BrowserContext, app: str, puppets: Puppets) -> AsyncIterator[Page]:
    """The example, just opened; it must be left without problems."""
    async with serving({"mine": puppets}, cors_origin=("*",)) as server:
        page = await context.new_page()
        problems = problems_of(page)
        await page.goto(f"{app}?{urlencode({'server': server.url})}")
        yield page
        assert problems == []
        await page.close()


async def ask(chat: Page, question: str) -> None:
    """Send a question as a user does."""
    await chat.get_by_label("Message").fill(question)
    await chat.get_by_role("button", name="Send").click()


def entry(chat: Page, number: int) -> Locator:
    """A message of the chat; the first is 0."""
    return chat.get_by_role("listitem").nth(number)


async def test_questions_and_answers(chat: Page, puppets: Puppets) -> None:
    """Each question has its answer; another question ends the answer that goes on; an answer can be asked for again."""
    await ask(chat, "One?")
    first = await puppets.next()
    first.emit("THINKING", content="Hm. ")
    first.emit("TOOL_CALL_START", tool_call_id="c1", tool_name="Read", parameters={})
    first.say("Well")
    await expect(entry(chat, 0)).to_have_text("One?")
    await expect(entry(chat, 1)).to_contain_text("Hm. WellRead")
    await ask(chat, "Two?")
    await expect(entry(chat, 1)).to_have_attribute("data-status", "cancelled")
    second = await puppets.next()
    second.say("Two!")
    second.end()
    await expect(entry(chat, 3)).to_have_attribute("data-status", "completed")
    await chat.get_by_role("button", name="Again").click()
    third = await puppets.next()
    assert (third.request.message, third.request.session_id) == ("Two?", second.request.session_id)
    third.say("Two, again")
    await expect(entry(chat, 3)).to_contain_text("Two, again")
    await chat.get_by_role("button", name="Stop").click()
    await third.closed.wait()
    await expect(entry(chat, 3)).to_have_attribute("data-status", "cancelled")
    assert puppets.started == 3


async def test_another_chat_meanwhile(chat: Page, puppets: Puppets) -> None:
    """An answer goes on while another chat is shown, and is whole when its own is shown again."""
    await ask(chat, "One?")
    puppet = await puppets.next()
    puppet.say("Well, ")
    await expect(entry(chat, 1)).to_contain_text("Well, ")
    await chat.get_by_role("button", name="New chat").click()
    await ask(chat, "Other?")
    other = await puppets.next()
    other.say("Other!")
    other.end()
    await expect(entry(chat, 1)).to_contain_text("Other!")
    puppet.say("one")
    puppet.end()
    await chat.get_by_role("button", name="Chat 1").click()
    await expect(entry(chat, 1)).to_have_text("Well, one")
    await expect(entry(chat, 1)).to_have_attribute("data-status", "completed")
    assert puppets.started == 2


async def test_what_a_run_asks(chat: Page, puppets: Puppets) -> None:
    """An approval and a question are answered where they are shown; a form that is filled in wrongly says so."""
    await ask(chat, "Go")
    puppet = await puppets.next()
    call = Call("c1", "Delete", {"path": "a.txt"})
    puppet.emit("TOOL_CALL_START", tool_call_id=call.id, tool_name=call.name, parameters=call.parameters)
    await expect(entry(chat, 1)).to_contain_text("Delete …")
    deciding = asyncio.create_task(puppet.request.approve(call, prompt="Delete it?"))
    form = chat.get_by_role("form")
    await expect(form).to_contain_text('Delete {"path":"a.txt"}')
    await form.get_by_role("button", name="Approve").click()
    assert (await deciding).approved
    await expect(form).to_have_count(0)
    asking = asyncio.create_task(puppet.request.ask("How many?", schema=TEA))
    await form.get_by_label("Kind").select_option("green")
    await form.get_by_label("cups").fill("10")
    await form.get_by_role("button", name="Answer").click()
    await expect(form.get_by_role("alert")).to_have_text("`answer.cups` must be 9 or less.")
    await form.get_by_label("cups").fill("2")
    await form.get_by_label("milk").check()
    await form.get_by_role("button", name="Answer").click()
    assert await asking == {"kind": "green", "cups": 2, "milk": True}
    await expect(form).to_have_count(0)
    puppet.end()
    await expect(entry(chat, 1)).to_have_attribute("data-status", "completed")


async def test_what_is_said_meanwhile(chat: Page, puppets: Puppets) -> None:
    """It is shown, and the agent reads it."""
    await ask(chat, "Go")
    puppet = await puppets.next()
    puppet.say("Well, ")
    await expect(entry(chat, 1)).to_contain_text("Well, ")
    await chat.get_by_label("Message").fill("And more")
    await chat.get_by_role("button", name="Say").click()
    assert (await anext(aiter(puppet.request.messages))).content == "And more"
    await expect(entry(chat, 1)).to_have_text("And more")
    await expect(entry(chat, 2)).to_contain_text("Well, ")
    puppet.end()
    await expect(entry(chat, 2)).to_have_attribute("data-status", "completed")
    assert puppets.started == 1


async def test_a_failure(chat: Page, puppets: Puppets) -> None:
    """A run that fails shows why."""
    await ask(chat, "One?")
    (await puppets.next()).emit("ERROR", error_type="agent_error", message="out of ink", error="out of ink")
    await expect(chat.get_by_role("alert")).to_contain_text("out of ink")
