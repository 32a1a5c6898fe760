"""The page at `/` as its user has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from playwright.async_api import Browser, ConsoleMessage, Dialog, Locator, Page, Request

from support.serving import Puppet

Transport = Literal["SSE", "WebSocket"]
both = pytest.mark.parametrize("transport", ["SSE", "WebSocket"])


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


class Visit:
    """The page at `base`, open in a browser. `problems` is all that should not happen in any test."""

    def __init__(self, page: Page, base: str) -> None:
        self.page = page
        self.base = base
        self.problems: list[str] = []
        self.notice = page.get_by_role("status")
        self.output = page.get_by_role("log")
        self.answer = page.locator(".answer")
        self.outcome = page.locator(".turn > .outcome")
        self.card = page.locator(".ask")
        self.decided = page.locator(".asked > summary")
        self.said = page.locator(".said .text")
        self.message = page.locator("#form").get_by_label("Message")
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"script error: {error}"))
        page.on("dialog", self._on_dialog)
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} or message.text.startswith("[DOM]"):  # the latter are hints
            self.problems.append(f"console: {message.text}")

    async def _on_dialog(self, dialog: Dialog) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith(self.base + "/"):
            self.problems.append(f"request to {request.url}")

    def forgive(self, *texts: str) -> None:
        """Chromium tells the console of each request that fails: a test that makes them fail expects that."""
        self.problems = [problem for problem in self.problems if not any(text in problem for text in texts)]

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def shown(self, name: str) -> Locator:
        """What the live panel has under this name."""
        return self.page.locator(".figures div").filter(has=self.page.get_by_text(name, exact=True)).locator("dd")

    async def choose(self, transport: Transport) -> None:
        await self.page.locator(".switch label").filter(has_text=transport).click()

    async def ask(self, message: str = "Hello") -> None:
        await self.message.fill(message)
        await self.page.keyboard.press("Enter")


def other(transport: Transport) -> Transport:
    return "WebSocket" if transport == "SSE" else "SSE"


@asynccontextmanager
async def device(browser: Browser, visit: Visit, transport: Transport, **options: Any) -> AsyncIterator[Visit]:
    """Open what is shown on another device, which shares nothing with the first one, over this transport."""
    context = await browser.new_context(reduced_motion="reduce", **options)
    kept = {"SSE": "sse", "WebSocket": "ws"}[transport]
    await context.add_init_script(f"try {{ localStorage.setItem('twinwire.transport', '{kept}') }} catch {{}}")
    opened = Visit(await context.new_page(), visit.base)
    await visit.page.wait_for_function("location.hash")
    await opened.page.goto(await visit.page.evaluate("location.href"))
    yield opened
    assert opened.problems == []
    await context.close()
