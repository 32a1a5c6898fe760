"""The page at `/` in a real browser, on both transports: a question, its run, and what one can do about it."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import expect

from e2e.visit import Transport, Visit, answer, both
from support.serving import Puppets

pytestmark = pytest.mark.asyncio(loop_scope="session")


@both
async def test_a_run_is_shown(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """Thinking, tool calls, steps, progress and the answer appear, and the end is verified."""
    await visit.choose(transport)
    await visit.ask("What is\tthis?")
    puppet = await puppets.next()
    assert puppet.request.message == "What is\tthis?"
    answer(puppet, "A *ser", "ver*:\n\n", "- it streams\n", "- it resumes")
    await expect(visit.page.get_by_role("heading", name="What is this?")).to_be_visible()
    await expect(visit.answer.locator("em")).to_have_text("server")
    await expect(visit.answer.locator("li")).to_have_text(["it streams", "it resumes"])
    await expect(visit.page.locator(".step")).to_have_text(["Step 1 of 8", "Step 2 of 8"])
    await expect(visit.page.get_by_role("progressbar")).to_have_js_property("value", 40)
    await expect(visit.notice).to_have_text("Answering…")
    await expect(visit.shown("Transport")).to_have_text(transport)
    await expect(visit.shown("Step")).to_have_text("2 of 8")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await expect(visit.outcome).to_contain_text("15 of 15 events")
    await expect(visit.shown("Cursor")).to_have_text("event 15")
    await expect(visit.shown("First token")).to_contain_text("s")
    await expect(visit.shown("Received")).to_contain_text("kB")
    await expect(visit.shown("Reconnects")).to_have_text("0")
    await expect(visit.page.locator("#spark polyline")).to_have_attribute("points", re.compile(r"^0\.0,[\d.]+ "))
    await expect(visit.button("Stop")).to_be_hidden()


async def test_work_is_folded(visit: Visit, puppets: Puppets) -> None:
    """Thinking is a line to unfold; a tool call a card whose line tells how it went and which holds all of it."""
    await visit.ask()
    puppet = await puppets.next()
    puppet.emit("THINKING", content="First this, ")
    thinking = visit.page.locator(".thinking")
    await expect(thinking.locator("summary")).to_have_text("ThinkingFirst this, ")
    await expect(thinking.locator(".text")).to_be_hidden()
    answer(puppet)
    tools = visit.page.locator(".tool")
    await expect(tools.locator("summary")).to_have_text(
        ["Read path: README.md ok · 12 ms", "Search glob: *.rs failed · 1.3 s"]
    )
    await expect(thinking.first).to_contain_text("Thought")
    await thinking.first.locator("summary").click()
    await expect(thinking.locator(".text").first).to_have_text("First this, ")
    await tools.first.locator("summary").click()
    await expect(tools.first.locator("pre")).to_have_text(['{ "path": "README.md" }', "# Twinwire"])
    await expect(tools.last.locator("pre").last).to_be_hidden()
    await tools.last.locator("summary").press("Enter")
    await expect(tools.last.locator("pre").last).to_have_text("no file matches")
    await expect(tools.last.locator("pre").last).to_be_visible()


async def test_an_agents_own_events(visit: Visit, puppets: Puppets) -> None:
    """An event of a type that only its agent knows is there to unfold."""
    await visit.ask()
    (puppet := await puppets.next()).emit("LIFT_OFF", asked="Hello")
    puppet.end()
    await visit.page.get_by_text("LIFT_OFF").click()
    await expect(visit.page.locator(".note pre")).to_have_text('{ "asked": "Hello" }')


@both
async def test_stop_cancels(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """Stop ends the agent itself, and the page shows the run as cancelled with what had come."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    puppet.say("This far")
    await expect(visit.answer).to_have_text("This far")
    await visit.button("Stop").click()
    await puppet.closed.wait()
    await expect(visit.notice).to_have_text("Cancelled")
    await expect(visit.outcome).to_contain_text("Cancelled")
    await expect(visit.page.get_by_label("Message")).to_be_focused()


@both
async def test_stop_before_the_first_token(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """A run that has said nothing is cancelled all the same."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    await visit.button("Stop").click()
    await puppet.closed.wait()
    await expect(visit.notice).to_have_text("Cancelled")


@both
async def test_an_error_is_shown(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """A failed run ends with its message in red, and a tool call it left open is closed."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    puppet.emit("TOOL_CALL_START", tool_call_id="c1", tool_name="Read", parameters={"path": "a"})
    puppet.fail(RuntimeError("a secret"))
    error = visit.page.locator(".flow .error")
    await expect(error).to_have_text(re.compile(r"^The agent failed\. "))
    await expect(error).to_have_css("color", "rgb(179, 38, 30)")
    await expect(visit.page.locator(".tool")).to_contain_text("not finished")
    await expect(visit.notice).to_have_text("Failed")


@both
async def test_new_conversation(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """A new conversation empties the pane and knows nothing of the one before, which goes on without it."""
    await visit.choose(transport)
    await visit.ask("first")
    first = await puppets.next()
    first.say("word")
    await expect(visit.answer).to_have_text("word")
    await visit.button("New conversation").click()
    await expect(visit.answer).to_have_count(0)
    await visit.button("Analyse the project structure").click()
    second = await puppets.next()
    assert second.request.message == "Analyse the project structure"
    assert second.request.history == []
    assert not first.closed.is_set()
    first.end()
    second.end()
    await expect(visit.notice).to_have_text("Completed")


async def test_regenerate(visit: Visit, puppets: Puppets) -> None:
    """The same question again, in the same conversation."""
    await visit.ask("Why?")
    first = await puppets.next()
    first.say("Because.")
    first.end()
    await visit.button("Regenerate").click()
    second = await puppets.next()
    assert (second.request.message, second.request.session_id) == ("Why?", first.request.session_id)
    second.say("Therefore.")
    second.end()
    await expect(visit.answer).to_have_text(["Because.", "Therefore."])


async def test_copying(visit: Visit, puppets: Puppets) -> None:
    """A code block is copied as it is, an answer as the model wrote it, a link as one opens it."""
    await visit.ask()
    puppet = await puppets.next()
    text = "Run *this*:\n\n```sh\n  ls <x> &&\n\n  pwd\n```\n\nand that."
    puppet.say(*text)
    puppet.end()
    await expect(visit.outcome).to_be_visible()
    here = await visit.page.evaluate("location.href")  # `page.url` is told of a new fragment only later
    await expect(visit.page.locator("figcaption").get_by_role("button", name="Copy")).to_be_visible()
    for name, copied in (("Copy", "  ls <x> &&\n\n  pwd"), ("Copy", text), ("Copy link", here)):
        button = visit.page.get_by_role("button", name=name, exact=True).first
        await button.click()
        await expect(visit.page.get_by_role("button", name="Copied", exact=True).last).to_be_visible()
        assert await visit.page.evaluate("navigator.clipboard.readText()") == copied
    await expect(visit.page.locator("figcaption")).to_contain_text("sh")


async def test_pane_follows_unless_its_reader_scrolled_up(visit: Visit, puppets: Puppets) -> None:
    """What comes scrolls the pane, but not away from what somebody went back to read."""
    await visit.ask()
    puppet = await puppets.next()
    puppet.say(*(f"line {number}\n\n" for number in range(200)), "newest")
    await expect(visit.answer).to_contain_text("newest")
    await expect(visit.shown("Cursor")).to_have_text("event 202")
    await expect(visit.answer.get_by_text("newest")).to_be_in_viewport()
    await visit.output.focus()
    await visit.page.keyboard.press("Home")
    await expect(visit.page.locator(".question")).to_be_in_viewport()
    await visit.output.evaluate("pane => new Promise(done => pane.scrollTop ? pane.onscrollend = done : done())")
    puppet.say(*(f"line {number}\n\n" for number in range(50)))
    await expect(visit.shown("Cursor")).to_have_text("event 252")
    assert await visit.output.evaluate("pane => pane.scrollTop") == 0


async def test_keyboard(visit: Visit, puppets: Puppets) -> None:
    """Enter sends, Shift+Enter makes a new line, a blank message is none, and the controls are reached by Tab."""
    message = visit.page.get_by_label("Message")
    await expect(message).to_be_focused()
    await visit.page.keyboard.press("Enter")
    await visit.page.keyboard.type("one")
    await visit.page.keyboard.press("Shift+Enter")
    await visit.page.keyboard.type("two")
    await visit.page.keyboard.press("Enter")
    puppet = await puppets.next()
    assert puppet.request.message == "one\ntwo"
    await expect(visit.button("Cut the connection")).to_be_enabled()
    await expect(message).to_be_focused()
    for control in (visit.button("Stop"), visit.button("Send"), visit.page.get_by_role("radio", name="Auto")):
        await visit.page.keyboard.press("Tab")
        await expect(control).to_be_focused()
    await visit.page.keyboard.press("ArrowRight")
    await expect(visit.page.get_by_role("radio", name="SSE")).to_be_checked()
    await visit.page.keyboard.press("Tab")
    await expect(visit.button("Cut the connection")).to_be_focused()
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    assert puppets.started == 1


async def test_a_screen_reader_is_not_shouted_at(visit: Visit, puppets: Puppets) -> None:
    """Tokens are in no live region; the status, which is one, changes with the run's state and not with its tokens."""
    await visit.ask()
    puppet = await puppets.next()
    await expect(visit.notice).to_have_text("Answering…")
    await visit.notice.evaluate(
        "said => { window.said = []; new MutationObserver(() => window.said.push(said.textContent))"
        ".observe(said, {childList: true, characterData: true, subtree: true}); }"
    )
    puppet.say(*["word "] * 50)
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    assert await visit.page.evaluate("window.said") == ["Completed"]
    await expect(visit.output).to_have_attribute("aria-live", "off")
    assert await visit.output.locator("[aria-live]:not([aria-live=off]), [role=status], [role=alert]").count() == 0


async def test_a_reload_fetches_no_file_again(visit: Visit) -> None:
    """The browser has all of the page's files, and the server says that they are the same."""
    asked = "performance.getEntriesByType('resource').map(entry => [entry.name, entry.transferSize])"
    await visit.page.reload(wait_until="networkidle")
    files = await visit.page.evaluate(asked)
    assert len(files) > 20
    assert [file for file in files if file[1] > 300] == []  # what Chromium counts for a 304
