"""A page with React that Vite builds from the JS client's folder, on an origin of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Page

from support.node import node
from support.site import a_folder


@asynccontextmanager
async def built(source: str, folder: Path) -> AsyncIterator[str]:
    """Build the page into the folder, and serve it. React is the one for development: only its StrictMode is strict."""
    build = ("build", source, "--base", "./", "--outDir", str(folder), "--logLevel", "warn")
    await node("node_modules/vite/bin/vite.js", *build, NODE_ENV="development")
    async with a_folder(folder) as origin:
        yield f"{origin}/index.html"


def problems_of(page: Page) -> list[str]:
    """Return the list that the page's errors and warnings are added to from now on."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type in {"error", "warning"} else None)
    return problems
