"""The page at `/` as its user has it."""

from __future__ import annotations

from typing import Literal

import pytest
from playwright.async_api import ConsoleMessage, Dialog, Locator, Page, Request

Transport = Literal["SSE", "WebSocket"]
both = pytest.mark.parametrize("transport", ["SSE", "WebSocket"])


class Visit:
    """The page at `base`, open in a browser. `problems` is all that should not happen in any test."""

    def __init__(self, page: Page, base: str) -> None:
        self.page = page
        self.base = base
        self.problems: list[str] = []
        self.notice = page.get_by_role("status")
        self.output = page.get_by_role("log")
        self.answer = page.locator(".answer")
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"script error: {error}"))
        page.on("dialog", self._on_dialog)
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
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
        """What the status line has under this name."""
        return self.page.locator("#status div").filter(has_text=name).locator("dd")

    async def choose(self, transport: Transport) -> None:
        await self.page.locator("label").filter(has_text=transport).click()

    async def ask(self, message: str = "Hello") -> None:
        await self.page.get_by_label("Message").fill(message)
        await self.page.keyboard.press("Enter")
