"""The page at `/` when a run asks its user: cards and forms, answered here, on another device, or by nobody."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, expect

from e2e.asking import approval, question, told
from e2e.proxy import Proxy
from e2e.visit import Transport, Visit, both, device, other
from support.credentials import AUTH, TOKENS, asking
from support.serving import Puppet, Puppets, serving
from twinwire.protocol.errors import InputExpired

pytestmark = pytest.mark.asyncio(loop_scope="session")

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def control(visit: Visit, name: str) -> Locator:
    """The control of the open card that has this label."""
    return visit.card.get_by_label(name)


async def finish(puppet: Puppet, call: str = "c1", **data: Any) -> None:
    outcome = {"result": "done", "status": "ok", "duration": 0.01, **data}
    await told(puppet, "TOOL_CALL_FINISH", tool_call_id=call, tool_name="Delete", **outcome)


@pytest.mark.full
@both
async def test_an_approval_is_edited_on_a_phone_while_a_desktop_watches(
    browser: Browser, visit: Visit, puppets: Puppets, transport: Transport
) -> None:
    """What is decided on one device, over one transport, folds the card on the other, over the other one."""
    await visit.choose(transport)
    await visit.ask("Tidy up")
    puppet = await puppets.next()
    asked = await approval(puppet, "Delete 2 files?", paths=["a.txt", "b.txt"], note="line one\nline two", force=True)
    async with device(browser, visit, other(transport), **PHONE) as phone:
        for each in (visit, phone):
            await expect(each.notice).to_have_text("Waiting for your approval: Delete 2 files?")
            await expect(each.card.locator(".title")).to_have_text("Delete needs your approval")
            await expect(each.card.locator("dt")).to_have_text(["paths", "note", "force"])
            await expect(each.card.locator("pre").last).to_have_text("line one\nline two")
            await expect(each.page.locator(".tool .outcome")).to_have_text("needs approval")
            await expect(each.page).to_have_title("Waiting for you · Tidy up · Twinwire")
            await expect(each.shown("State")).to_have_text("waiting")
        await expect(phone.shown("Transport")).to_have_text(other(transport))
        card, button = await phone.card.bounding_box(), await phone.button("Approve").bounding_box()
        assert card is not None
        assert button is not None
        assert (card["width"] >= 350, button["width"] >= 300, button["height"] >= 44) == (True, True, True)
        await phone.button("Edit").tap()
        editor = control(phone, "Parameters, as a JSON object")
        await expect(editor).to_be_focused()
        for text, complaint in (
            ("{", "The parameters are not JSON yet: "),
            ("[]", "The parameters must be a JSON object"),
        ):
            await editor.fill(text)
            await phone.button("Approve with changes").tap()
            await expect(phone.card.locator(".error:visible")).to_contain_text(complaint)
            await expect(editor).to_be_focused()
            await expect(editor).to_have_attribute("aria-invalid", "true")
        await editor.fill('{"paths": ["a.txt"]}')
        await phone.button("Approve with changes").tap()
        decision = await asked
        assert (decision.approved, decision.parameters) == (True, {"paths": ["a.txt"]})
        await expect(phone.decided).to_have_text("Approved with changes by you Delete · Delete 2 files?")
        await expect(visit.decided).to_have_text("Approved with changes Delete · Delete 2 files?")
        await finish(puppet)
        puppet.say("Tidied.")
        puppet.end()
        for each in (visit, phone):
            await expect(each.card).to_have_count(0)
            await expect(each.page.locator(".tool code")).to_have_text('paths: [ "a.txt" ]')
            await expect(each.page.locator(".tool .outcome")).to_have_text("ok · 10 ms")
            await expect(each.notice).to_have_text("Completed")
            await expect(each.page).to_have_title("Tidy up · Twinwire")
        await visit.decided.click()
        await expect(visit.page.locator(".asked dd")).to_have_text('[ "a.txt" ]')


@both
async def test_approved_and_rejected(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """Parallel calls have a card each; one is approved as it is, one rejected with a reason, one without."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    asked = [await approval(puppet, f"Delete {name}?", name, path=f"{name}.txt") for name in "abc"]
    await expect(visit.notice).to_have_text("Waiting for your 3 answers")
    cards = {name: visit.page.get_by_role("group", name=f"Delete {name}?") for name in "abc"}
    await cards["b"].get_by_role("button", name="Reject").click()
    await expect(cards["b"].get_by_label("Reason")).to_be_focused()
    await cards["b"].get_by_role("button", name="Back").click()
    await expect(cards["b"].get_by_role("button", name="Reject")).to_be_focused()
    await visit.page.keyboard.press("Enter")
    await visit.page.keyboard.type("It is still needed.")
    await visit.page.keyboard.press("Enter")
    await cards["a"].get_by_role("button", name="Approve").click()
    await cards["c"].get_by_role("button", name="Reject").click()
    await cards["c"].get_by_role("button", name="Reject").click()
    decisions = [await each for each in asked]
    assert [(each.approved, each.parameters, each.reason) for each in decisions] == [
        (True, {"path": "a.txt"}, None),
        (False, {"path": "b.txt"}, "It is still needed."),
        (False, {"path": "c.txt"}, None),
    ]
    await expect(visit.decided.locator("b")).to_have_text(
        ["Approved by you", "Rejected by you: It is still needed.", "Rejected by you"]
    )
    await finish(puppet, "b", status="error", result="The user rejected this call.")
    await expect(visit.page.locator(".tool .outcome")).to_have_text(["running", "rejected", "rejected"])
    await expect(visit.notice).to_have_text("Answering…")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")


async def fill(visit: Visit, text: str) -> None:
    await control(visit, "Your answer").fill(text)


async def pick(visit: Visit, name: str) -> None:
    await visit.card.get_by_role("radio", name=name, exact=True).check()


async def choose(visit: Visit, name: str) -> None:
    await visit.card.get_by_role("combobox").select_option(name)


TOWNS = ["Oslo", "Rome", "Lima", "Bern", "Kyiv", "Riga"]
KINDS: list[tuple[dict[str, Any], Any, list[tuple[str, str]], str, Any]] = [
    ({}, fill, [("", "An answer is needed.")], "main", "main"),
    (
        {"type": "string", "minLength": 2, "maxLength": 3, "title": "Key"},
        lambda visit, text: control(visit, "Key").fill(text),
        [
            ("a", "Key must be a text of 2 characters or more."),
            ("abcd", "Key must be a text of 3 characters or fewer."),
        ],
        "äöü",
        "äöü",
    ),
    ({"type": "string", "enum": ["main", "dev"]}, pick, [], "dev", "dev"),
    ({"type": "string", "enum": TOWNS}, choose, [("", "An answer is needed.")], "Bern", "Bern"),
    (
        {"type": "string", "format": "email"},
        fill,
        [("a@b", "Your answer must be an e-mail address.")],
        "a@b.co",
        "a@b.co",
    ),
    # The server is stricter than this client: its own words are shown at the field.
    (
        {"type": "string", "format": "uri"},
        fill,
        [("example.com", "Your answer must be a URI"), ("https://[", "Your answer must be a URI")],
        "https://a.example/",
        "https://a.example/",
    ),
    ({"type": "string", "format": "date"}, fill, [("", "An answer is needed.")], "2026-02-28", "2026-02-28"),
    (
        {"type": "string", "format": "date-time", "default": "2026-02-28T10:30:45Z"},
        lambda *_: asyncio.sleep(0),
        [],
        "",
        "2026-02-28T10:30:45.000Z",
    ),
    ({"type": "number", "minimum": 0.5}, fill, [("0.4", "Your answer must be 0.5 or more.")], "1.25", 1.25),
    (
        {"type": "integer", "maximum": 9},
        fill,
        [("1.5", "Your answer must be a whole number."), ("10", "Your answer must be 9 or less.")],
        "-3",
        -3,
    ),
    ({"type": "boolean", "title": "Sure?"}, pick, [], "No", False),
]


@pytest.mark.parametrize("transport", ["SSE", pytest.param("WebSocket", marks=pytest.mark.full)])
async def test_a_question_of_each_kind(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """Each has its form; what does not fit is told at the field, which has the focus, and the question stays open."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    for number, (schema, give, bad, good, answer) in enumerate(KINDS):
        asked = question(puppet, f"Number {number}?", **schema)
        await expect(visit.notice).to_have_text(f"Waiting for your answer: Number {number}?")
        await expect(visit.card.locator(".prompt")).to_have_text(f"Number {number}?")
        for text, complaint in bad:
            await give(visit, text)
            await visit.button("Answer").click()
            await expect(visit.card.locator(".error:visible")).to_contain_text(complaint)
            await expect(visit.card.locator("[aria-invalid=true]")).to_be_focused()
        await give(visit, good)
        await visit.button("Answer").click()
        assert await asked == answer
        await expect(visit.decided).to_have_count(number + 1)
    await expect(visit.decided.first).to_have_text("Answered by you: main Number 0?")
    await expect(visit.decided.last).to_have_text("Answered by you: No Number 10?")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    visit.forgive("status of 400")


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "title": "Name", "description": "As in the passport"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "plan": {"type": "string", "enum": ["free", "paid"], "default": "free"},
        "size": {"type": "string", "enum": ["S", "L"]},
        "news": {"type": "boolean", "default": True, "title": "Send news"},
        "site": {"type": "string", "format": "uri"},
    },
    "required": ["name", "plan"],
}


@both
async def test_a_form_of_several_fields(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """What is not required may be left out, defaults are filled in, and each field's error is at that field."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    asked = question(puppet, "Who are you?", **PERSON)
    labels = visit.card.locator(".field > :first-child")
    await expect(labels).to_have_text(
        ["Name", "age (optional)", "plan", "size (optional)NoneSL", "Send news", "site (optional)"]
    )
    await expect(visit.card.get_by_text("As in the passport · 2 characters or more")).to_be_visible()
    await expect(visit.card.get_by_role("radio", name="free")).to_be_checked()
    await visit.button("Answer").click()
    errors = visit.card.locator(".error:visible")
    await expect(errors).to_have_text("Name is needed.")
    await control(visit, "Name").fill("Bo")
    await control(visit, "age").fill("200")
    await control(visit, "site").fill("https://[")
    await visit.button("Answer").click()
    await expect(errors).to_have_text("age must be 150 or less.")
    await expect(control(visit, "age")).to_be_focused()
    await control(visit, "age").fill("")
    await visit.button("Answer").click()
    await expect(errors).to_have_text("site must be a URI, such as https://example.com/.")  # the server's own words
    await expect(control(visit, "site")).to_be_focused()
    await control(visit, "site").fill("")
    await visit.page.keyboard.press("Enter")
    assert await asked == {"name": "Bo", "plan": "free", "news": True}
    await expect(visit.decided).to_have_text("Answered by you: name: Bo, plan: free, news: Yes Who are you?")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    visit.forgive("status of 400")


@both
async def test_a_second_tab_answers(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """The card folds in the first tab as well, whose focus was in it, and goes to the line that tells the answer."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    asked = question(puppet, "Which branch?")
    await fill(visit, "half an ans")
    second = Visit(await visit.page.context.new_page(), visit.base)
    await second.page.goto(await visit.page.evaluate("location.href"))
    await fill(second, "main")
    await second.page.keyboard.press("Enter")
    assert await asked == "main"
    await expect(second.decided).to_have_text("Answered by you: main Which branch?")
    await visit.page.bring_to_front()
    await expect(visit.decided).to_have_text("Answered: main Which branch?")
    await expect(visit.decided).to_be_focused()
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    assert second.problems == []
    await second.page.close()


@both
async def test_a_reload_in_the_middle_of_a_question(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """Loaded again, the page has the open question to answer, and tells what was decided before."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    first = question(puppet, "One?")
    await fill(visit, "1")
    await visit.button("Answer").click()
    await first
    second = question(puppet, "Two?")
    await expect(visit.notice).to_have_text("Waiting for your answer: Two?")
    await visit.page.reload()
    await expect(visit.notice).to_have_text("Waiting for your answer: Two?")
    await expect(visit.decided).to_have_text("Answered: 1 One?")
    await fill(visit, "2")
    await visit.button("Answer").click()
    assert await second == "2"
    await expect(visit.notice).to_have_text("Answering…")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")


@both
async def test_an_answer_waits_for_the_network(
    visit: Visit, proxy: Proxy, puppets: Puppets, transport: Transport
) -> None:
    """Decided while there is no connection, a call is approved once, as soon as there is one again."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    asked = await approval(puppet, "Delete it?", path="a")
    approve = visit.button("Approve")
    await expect(approve).to_be_enabled()
    proxy.outage = True
    proxy.cut()
    await proxy.refused.wait()
    await approve.click()
    await expect(approve).to_be_disabled()
    await visit.page.keyboard.press("Enter")
    assert not asked.done()
    proxy.outage = False
    assert (await asked).approved
    await expect(visit.decided).to_have_text("Approved by you Delete · Delete it?")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    visit.forgive("net::ERR", "WebSocket conn", "status of 503")


@both
async def test_nobody_answers(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """A question that is not answered in time says so, and one that its run's end has closed, too."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    with pytest.raises(InputExpired):
        await puppet.request.ask("In time?", timeout=0.2)
    await expect(visit.decided).to_have_text("Nobody answered in time In time?")
    dropped = question(puppet, "Or this?")
    await expect(visit.card).to_be_visible()
    dropped.cancel()
    await expect(visit.decided.last).to_have_text("Closed without an answer Or this?")
    asked = question(puppet, "And now?")
    await expect(visit.card).to_be_visible()
    await visit.button("Stop").click()
    await expect(visit.decided.last).to_have_text("Not answered: the run ended And now?")
    await expect(visit.notice).to_have_text("Cancelled")
    await asyncio.wait([asked])
    assert asked.cancelled()


async def test_a_card_takes_no_focus(visit: Visit, puppets: Puppets) -> None:
    """What somebody types goes on when a card comes; the status tells of it, and the keyboard reaches it."""
    await visit.ask()
    puppet = await puppets.next()
    await visit.page.keyboard.type("a dra")
    asked = question(puppet, "Go on?", type="boolean")
    await expect(visit.notice).to_have_text("Waiting for your answer: Go on?")
    await expect(visit.message).to_be_focused()
    await visit.page.keyboard.type("ft")
    await expect(visit.message).to_have_value("a draft")
    assert await visit.output.locator("[aria-live]:not([aria-live=off]), [role=status], [role=alert]").count() == 0
    await visit.page.keyboard.press("Shift+Tab")
    await expect(visit.button("Answer")).to_be_focused()
    await visit.page.keyboard.press("Shift+Tab")
    await visit.page.keyboard.press("Space")
    await visit.page.keyboard.press("Enter")
    assert isinstance(await asked, bool)
    await expect(visit.decided).to_be_focused()
    await expect(visit.notice).to_have_text("Answering…")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await expect(visit.message).to_have_value("a draft")


async def test_a_question_beside_other_work(visit: Visit, puppets: Puppets) -> None:
    """A run that asks and goes on meanwhile does not wait, and what it says stays one text above the card."""
    await visit.ask()
    puppet = await puppets.next()
    puppet.say("```sh\none\n")
    await expect(visit.answer).to_contain_text("one")
    asked = question(puppet, "Which?")
    await expect(visit.card).to_be_visible()
    puppet.say("two\n```\n")
    await expect(visit.answer.locator("code")).to_have_text("one\ntwo")
    await expect(visit.notice).to_have_text("Answering, but asks for your answer: Which?")
    await expect(visit.answer).to_have_count(1)
    await fill(visit, "this")
    await visit.button("Answer").click()
    assert await asked == "this"
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")


async def test_who_answered(browser: Browser, puppets: Puppets) -> None:
    """An answer that its user gave elsewhere, as with a program of theirs, is known to be theirs."""
    async with serving({"mine": puppets}, retry_ms=50, **AUTH) as server:
        page = await browser.new_page()
        visit = Visit(page, server.url)
        await page.goto(server.url)
        await visit.ask()
        await page.get_by_label("Token").fill(TOKENS["alice"])
        await page.keyboard.press("Enter")
        puppet = await puppets.next()
        asked = question(puppet, "Which?")
        await expect(visit.card).to_be_visible()
        run_id = puppet.request.run_id
        async with asking(server, "alice") as program:
            (open_one,) = (await program.get(f"/runs/{run_id}")).json()["questions"]
            path = f"/runs/{run_id}/inputs/{open_one['input_id']}"
            assert (await program.post(path, json={"answer": "main"})).json()["status"] == "accepted"
        assert await asked == "main"
        await expect(visit.decided).to_have_text("Answered by you: main Which?")
        puppet.end()
        await expect(visit.notice).to_have_text("Completed")
        visit.forgive("status of 401")
        assert visit.problems == []
        await page.close()


@both
async def test_a_late_join_shows_what_is_asked(browser: Browser, puppets: Puppets, transport: Transport) -> None:
    """Of a run whose first events are kept no longer, a page that joins shows its state: the question, and the text."""
    async with serving({"mine": puppets}, retry_ms=50, log_events=8) as server:
        first = Visit(await browser.new_page(), server.url)
        await first.page.goto(server.url)
        await first.choose(transport)
        await first.ask("Long?")
        puppet = await puppets.next()
        for number in range(20):
            puppet.say(f"{number} ")
        asked = await approval(puppet, "Delete it?", path="a")
        await expect(first.notice).to_have_text("Waiting for your approval: Delete it?")
        async with device(browser, first, transport) as late:
            await expect(late.notice).to_have_text("Waiting for your approval: Delete it?")
            await expect(late.page.get_by_text("The server keeps the beginning of this run no longer.")).to_be_visible()
            await expect(late.answer).to_contain_text("0 1 2")
            await expect(late.page.locator(".tool .outcome")).to_have_text("needs approval")
            await late.button("Approve").click()
            assert (await asked).approved
            await expect(late.decided).to_have_text("Approved by you Delete · Delete it?")
            puppet.end()
            await expect(late.notice).to_have_text("Completed")
            late.forgive("status of 410")
        await first.page.close()


@both
async def test_a_newcomer_is_asked_without_a_key(browser: Browser, transport: Transport) -> None:
    """The page's own suggestion has the demo model call a tool that needs an approval, and ask a question."""
    async with serving(demo_rate=200.0) as server:
        page = await browser.new_page()
        visit = Visit(page, server.url)
        await page.goto(server.url)
        await visit.choose(transport)
        await visit.button("Show an approval, and ask me something").click()
        await expect(visit.notice).to_have_text("Waiting for your 2 answers")
        await visit.button("Edit").click()
        await visit.card.get_by_label("Parameters").fill('{"to": "me@example.com", "text": "Hi"}')
        await visit.button("Approve with changes").click()
        await expect(visit.decided).to_have_text(re.compile("^Approved with changes by you Send"))
        await control(visit, "Cups").fill("3")
        await visit.button("Answer").click()
        await expect(visit.notice).to_have_text("Completed")
        await expect(visit.answer.last).to_contain_text("would have gone to me@example.com")
        await expect(visit.answer.last).to_contain_text('"cups":3')
        await expect(visit.page.locator(".tool .outcome")).to_contain_text("ok")
        assert visit.problems == []
        await page.close()
