"""How the page at `/` looks, on a desk and on a phone, whether everybody can use it, and what it is made of."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from e2e.asking import approval, question
from e2e.proxy import Proxy
from e2e.visit import Visit, answer
from support.node import CLIENT, needed, node
from support.serving import Puppets, Running
from twinwire import AgentSpec

pytestmark = pytest.mark.asyncio(loop_scope="session")

ARTEFACTS = Path(__file__).parents[2] / "test-artefacts"
WEB = CLIENT.parent / "web"
TEXT = """Twinwire serves an agent's events over **Server-Sent Events** and **WebSocket**, from *one* log. Read on in

1. `server/PROTOCOL.md`, the wire on three pages
2. the [HTML standard](https://html.spec.whatwg.org/multipage/server-sent-events.html), and so_many_words_in_one_name_{}

## What it costs

| transport | hop, p50 | hop, p99 | the machine it was measured on |
|---|---:|---:|---|
| SSE | 0.42 ms | 1.9 ms | two_cores_and_a_very_long_name |
| WebSocket | 0.39 ms | 1.7 ms | two cores |

```js
for await (const event of run) {{
  if (event.type === 'LLM_CHUNK') append(event.data.content); // a line that is longer than its box, which scrolls
}}
```

> A disconnect is not a cancel.

- a list

And what comes after it.
"""
GAPS = """turn => [...turn.querySelectorAll(':scope .answer > *')].filter(block => block.offsetHeight)
    .map(block => block.getBoundingClientRect()).map(({top}, i, all) => i ? top - all[i - 1].bottom : 99)"""


@pytest_asyncio.fixture(
    params=[("light", 1280, 800), ("dark", 1280, 800), ("phone", 320, 640), ("phone-dark", 320, 640)],
    ids=lambda looks: str(looks[0]),
    loop_scope="session",
)
async def seen(
    request: pytest.FixtureRequest, browser: Browser, server: Running, proxy: Proxy, puppets: Puppets
) -> AsyncIterator[tuple[str, Visit]]:
    """The page in a window of this size and in these colours."""
    name, width, height = request.param
    server.runs.agents["mine"] = AgentSpec(puppets)
    dark: Literal["dark", "light"] = "dark" if "dark" in name else "light"
    context = await browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=dark, reduced_motion="reduce", has_touch=width < 400
    )
    visit = Visit(await context.new_page(), proxy.url)
    await visit.page.goto(visit.base)
    yield name, visit
    assert visit.problems == []
    await context.close()


async def faults(page: Page) -> list[tuple[str, Any]]:
    """What axe-core finds that is serious."""
    needed()
    await page.evaluate((CLIENT / "node_modules/axe-core/axe.min.js").read_text())
    violations = json.loads(await page.evaluate("axe.run().then(({violations}) => JSON.stringify(violations))"))
    return [
        (each["id"], [node["html"] for node in each["nodes"]])
        for each in violations
        if each["impact"] in {"serious", "critical"}
    ]


async def look(visit: Visit, name: str) -> None:
    """A screenshot for human eyes; the page must not be wider than its window, and all must be able to use it."""
    ARTEFACTS.mkdir(exist_ok=True)
    await visit.page.screenshot(path=ARTEFACTS / f"page-{name}.png")
    widths = await visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    assert await visit.output.evaluate("pane => pane.scrollWidth - pane.clientWidth") == 0
    assert await faults(visit.page) == []


async def test_looks(seen: tuple[str, Visit], puppets: Puppets) -> None:
    """Empty, at work and done: light, dark and as narrow as a phone, nothing scrolls sideways, nobody is shut out."""
    name, visit = seen
    await expect(visit.notice).to_have_text("Ready")
    await look(visit, f"{name}-empty")
    await visit.ask("What is this project, and where would a newcomer start to read?")
    puppet = await puppets.next()
    answer(puppet, "Twinwire serves an **agent's** events.")
    await expect(visit.answer).to_be_visible()
    await look(visit, f"{name}-running")
    puppet.say(f"\n\n{TEXT.format('x' * 80)}")
    puppet.end()
    await expect(visit.outcome).to_be_visible()
    assert min(await visit.page.locator(".turn").evaluate(GAPS)) >= 8
    for folded in await visit.page.locator("details").all():
        await folded.locator("summary").click()
    await look(visit, name)
    await visit.ask("And what went wrong?")
    (await puppets.next()).fail(RuntimeError())
    await expect(visit.notice).to_have_text("Failed")
    await expect(visit.page.get_by_role("heading", name="And what went wrong?")).to_be_in_viewport()
    await look(visit, f"{name}-failed")


PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "title": "Name", "description": "As it stands in the passport"},
        "born": {"type": "string", "format": "date", "title": "Born on"},
        "plan": {"type": "string", "enum": ["free", "paid"], "title": "Plan"},
        "town": {"type": "string", "enum": ["Oslo", "Rome", "Lima", "Bern", "Kyiv", "Riga"]},
        "news": {"type": "boolean", "title": "Send me news"},
    },
    "required": ["name", "plan"],
}


@pytest.mark.full
async def test_looks_of_questions(seen: tuple[str, Visit], puppets: Puppets) -> None:
    """Cards, their forms with what is wrong, an edited call, and what is folded: everybody can use each of them."""
    name, visit = seen
    await visit.ask("Clean up the project, and register me.")
    puppet = await puppets.next()
    puppet.emit("STEP_START", step=1, max_steps=8)
    puppet.say("I have found two files that nothing uses.")
    await expect(visit.answer).to_be_visible()
    asked = question(puppet, "Who is to be registered?", **PERSON)
    await visit.button("Answer").click()
    await expect(visit.card.locator(".error:visible")).to_have_text("Name is needed.")
    await look(visit, f"{name}-question")
    await visit.card.get_by_label("Name").fill("Bo")
    await visit.card.get_by_role("radio", name="paid").check()
    await visit.button("Answer").click()
    await asked
    parameters = {"paths": [f"src/{'x' * 60}.js", "b.txt"], "command": "rm \\\n  a.txt\n  b.txt", "force": True}
    call = await approval(puppet, "Delete 2 files that nothing uses?", **parameters)
    await expect(visit.button("Approve")).to_be_visible()
    await visit.ask("and tell me how large they were, in an answer of one line, please")
    await expect(visit.said).to_be_visible()
    await look(visit, f"{name}-approval")
    await visit.button("Edit").click()
    await visit.card.get_by_role("textbox").fill("[]")
    await visit.button("Approve with changes").click()
    await look(visit, f"{name}-edit")
    await visit.button("Back").click()
    await visit.button("Reject").click()
    await look(visit, f"{name}-reject")
    await visit.card.get_by_role("textbox").fill("They are used by the tests.")
    await visit.button("Reject").click()
    assert not (await call).approved
    for folded in await visit.page.locator("details").all():
        await folded.locator("summary").click()
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await look(visit, f"{name}-decided")


@pytest.mark.full
async def test_panels_on_a_phone(browser: Browser, proxy: Proxy, server: Running, puppets: Puppets) -> None:
    """The list and the live panel are opened over the conversation, hold the same controls, and close with Escape."""
    server.runs.agents["mine"] = AgentSpec(puppets)
    page = await browser.new_page(viewport={"width": 320, "height": 640}, reduced_motion="reduce")
    visit = Visit(page, proxy.url)
    await page.goto(proxy.url)
    await visit.ask("Hello")
    puppet = await puppets.next()
    puppet.say("one ")
    for opener, panel in (("Runs", "Runs of this browser"), ("Live", "Live")):
        aside = page.get_by_role("complementary", name=panel, exact=True)
        await expect(aside).to_be_hidden()
        await page.locator(f"[popovertarget={opener.lower()}]").click()
        await expect(aside).to_be_visible()
        await look(visit, f"phone-{opener.lower()}")
        if opener == "Live":
            await visit.button("Cut the connection").click()
            await expect(visit.notice).to_have_text("Resumed at event 2")
        await page.keyboard.press("Escape")
        await expect(aside).to_be_hidden()
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    assert visit.problems == []
    await page.close()


async def test_the_dialog(visit: Visit) -> None:
    """Whoever is asked for a token can tell what for, also with a screen reader."""
    await visit.page.locator("#login").evaluate("dialog => dialog.showModal()")
    await expect(visit.page.get_by_role("dialog", name="Who is asking?")).to_be_visible()
    await look(visit, "login")


async def test_types() -> None:
    """The strict type check of the page's modules finds nothing."""
    await node("node_modules/typescript/bin/tsc", "--project", "tsconfig.web.json")


@pytest.mark.parametrize(
    ("vendored", "published"),
    [
        ("marked.js", "marked/lib/marked.esm.js"),
        ("marked.LICENSE", "marked/LICENSE"),
        ("purify.js", "dompurify/dist/purify.es.mjs"),
        ("purify.LICENSE", "dompurify/LICENSE"),
    ],
)
async def test_vendored_files_are_the_published_ones(vendored: str, published: str) -> None:
    """What is served is what npm has, to the byte, in the versions that the lock file names."""
    needed()
    assert (WEB / "vendor" / vendored).read_bytes() == (CLIENT / "node_modules" / published).read_bytes()


async def test_needs_nothing_else(visit: Visit) -> None:
    """The page is whole from this server alone, under a policy that lets it be nothing else."""
    response = await visit.page.goto(visit.base)
    assert response is not None
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    html = await response.text()
    assert " style=" not in html
    assert "<style" not in html
    assert html.count("<script") == html.count('<script type="module" src="page/')
