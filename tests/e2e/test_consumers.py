"""Strangers' pages that have the npm package from its archive, built by Vite, in a real Chromium."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import BrowserContext, Page, expect

from support.documents import README as OF_THE_SERVER, snippets
from support.node import CLIENT, node
from support.packed import project
from support.serving import Puppets, serving
from support.site import a_folder

pytestmark = pytest.mark.asyncio(loop_scope="session")

TSC, VITE = (str(CLIENT / "node_modules" / path) for path in ("typescript/bin/tsc", "vite/bin/vite.js"))


async def build(folder: Path) -> Path:
    """Build a page as its author would, and return where it is."""
    await node(VITE, "build", "--logLevel", "warn", cwd=folder)
    return folder / "dist"


async def visit(context: BrowserContext, url: str, problems: list[str]) -> Page:
    """Open a page, and note what it complains of."""
    page = await context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    await page.goto(url)
    return page


async def test_vite_and_typescript(context: BrowserContext, npm_archive: Path, tmp_path: Path) -> None:
    """A page in TypeScript is checked, built, and hears an agent's own event, whose type it has named."""
    (agents,) = (block for block in snippets(OF_THE_SERVER, "python") if "countdown" in block)
    names: dict[str, Any] = {}
    exec(agents, names)  # noqa: S102 - it is the document's
    folder = await asyncio.to_thread(project, tmp_path, npm_archive, "vite")
    await node(TSC, cwd=folder)
    problems: list[str] = []
    async with (
        a_folder(await build(folder)) as origin,
        serving({"countdown": names["countdown"]}, cors_origin=(origin,)) as server,
    ):
        page = await visit(context, f"{origin}/index.html#{server.url}", problems)
        await expect(page.locator("body")).to_have_text("3… 2… 1… go completed")
    assert problems == []


async def test_the_component_of_the_readme(
    context: BrowserContext, npm_archive: Path, tmp_path: Path, puppets: Puppets
) -> None:
    """README's React component sends, shows what comes, and stops."""
    (chat,) = snippets((CLIENT / "README.md").read_text(), "jsx")
    folder = await asyncio.to_thread(project, tmp_path, npm_archive, "react", "react", "react-dom", "scheduler")
    problems: list[str] = []
    async with a_folder(folder / "dist") as origin, serving({"mine": puppets}, cors_origin=(origin,)) as server:
        (folder / "Chat.jsx").write_text(chat.replace("http://127.0.0.1:8000", server.url))
        await build(folder)
        page = await visit(context, f"{origin}/index.html", problems)
        await expect(page.locator("p")).to_have_text("idle")
        await page.get_by_role("button", name="Send").click()
        puppet = await puppets.next()
        assert puppet.request.message == "Analyse the project structure"
        puppet.say("Hello ", "you")
        await expect(page.locator("output")).to_have_text("Hello you")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("p")).to_have_text("cancelled")
        await puppet.closed.wait()
    assert problems == []


@pytest.mark.full
async def test_next(context: BrowserContext, npm_archive: Path, tmp_path: Path, puppets: Puppets) -> None:
    """Next builds README's component, and a client without a URL, in its app router; the page works."""
    (chat,) = snippets((CLIENT / "README.md").read_text(), "jsx")
    folder = await asyncio.to_thread(project, tmp_path, npm_archive, "next")
    next_ = str(folder / "node_modules/next/dist/bin/next")
    problems: list[str] = []
    async with serving({"mine": puppets}, cors_origin=("*",)) as server:
        (folder / "app/Chat.jsx").write_text(chat.replace("http://127.0.0.1:8000", server.url))
        await node(next_, "build", cwd=folder, NEXT_TELEMETRY_DISABLED="1", NODE_ENV="production")
        served = await asyncio.create_subprocess_exec(
            "node", next_, "start", "--hostname", "127.0.0.1", "--port", "0", cwd=folder, stdout=-1
        )
        try:
            assert served.stdout is not None
            origin = ""
            while not origin:
                line = (await served.stdout.readline()).decode()
                assert line
                origin = "".join(re.findall(r"http://127\.0\.0\.1:[1-9]\d*", line))
            async with httpx.AsyncClient(trust_env=False) as client:
                assert "<p>idle" in (await client.get(origin)).text
            page = await visit(context, origin, problems)
            await page.get_by_role("button", name="Send").click()
            puppet = await puppets.next()
            puppet.say("Hello")
            puppet.end()
            await expect(page.locator("output")).to_have_text("Hello")
            await expect(page.locator("p")).to_have_text("completed")
        finally:
            served.terminate()
            await served.communicate()
    assert problems == []
