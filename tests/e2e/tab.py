"""A tab that can be hidden: Playwright has each page that it controls believe that it is seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from playwright.async_api import Browser, CDPSession

SHOWS = """new Promise((resolve) => {
    const look = () => document.querySelector(%s)?.textContent === %s && resolve();
    new MutationObserver(look).observe(document, { subtree: true, childList: true, characterData: true });
    look();
})"""


class Tab:
    """A tab of the browser's own profile, by the DevTools protocol."""

    def __init__(self, devtools: CDPSession, session: str) -> None:
        self.targets: list[str] = []
        self._devtools = devtools
        self._session = session
        self._ids = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        devtools.on("Target.receivedMessageFromTarget", self._received)

    async def evaluate(self, expression: str) -> Any:
        """Return what a script of JavaScript gives, as JSON; it must be there within 20 s."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        params = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        message = json.dumps({"id": number, "method": "Runtime.evaluate", "params": params})
        await self._devtools.send("Target.sendMessageToTarget", {"sessionId": self._session, "message": message})
        async with asyncio.timeout(20):
            result = (await answer)["result"]
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def shows(self, selector: str, text: str) -> None:
        """Wait until an element has this text."""
        await self.evaluate(SHOWS % (json.dumps(selector), json.dumps(text)))

    async def hide(self) -> None:
        """Show another tab until the end."""
        shown = await self._devtools.send("Target.createTarget", {"url": "about:blank"})
        self.targets.append(shown["targetId"])
        await self.evaluate("""new Promise((resolve) => {
            document.addEventListener('visibilitychange', resolve);
            if (document.hidden) resolve();
        })""")

    def _received(self, event: dict[str, Any]) -> None:
        message = json.loads(event["message"])
        if event["sessionId"] == self._session and message.get("id") in self._answers:
            self._answers.pop(message["id"]).set_result(message)


@asynccontextmanager
async def opened(browser: Browser, url: str) -> AsyncIterator[Tab]:
    """Open a tab at this URL, and close it in the end."""
    devtools = await browser.new_browser_cdp_session()
    target = (await devtools.send("Target.createTarget", {"url": url}))["targetId"]
    attached = await devtools.send("Target.attachToTarget", {"targetId": target, "flatten": False})
    tab = Tab(devtools, attached["sessionId"])
    try:
        yield tab
    finally:
        for each in (target, *tab.targets):
            await devtools.send("Target.closeTarget", {"targetId": each})
        await devtools.detach()
