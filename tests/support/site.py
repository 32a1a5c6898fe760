"""A page of another origin than the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import BrowserContext, Page

from support.raw_server import listening, receive, whole

PAGE = """<!doctype html><title>The guide's</title><link rel="icon" href="data:,">
<pre id="out"></pre><p id="state"></p>
<script>
const message = 'What is in here?';
const append = text => document.getElementById('out').append(text);
const show = text => append(`<${text}>`);
%s
es.addEventListener('error', () => { document.getElementById('state').textContent = `readyState ${es.readyState}`; });
</script>"""


class Site:
    """A web server of another origin; `html` is its only page."""

    html = ""
    origin = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = self.html.encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    async def visit(self, context: BrowserContext, snippet: str, url: str) -> Page:
        self.html = PAGE % snippet.replace("http://localhost:8000", url)
        page = await context.new_page()
        await page.goto(self.origin)
        return page


@asynccontextmanager
async def a_site() -> AsyncIterator[Site]:
    site = Site()
    listener = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    site.origin = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield site
    finally:
        listener.close()


TYPES = {".html": b"text/html; charset=utf-8", ".js": b"text/javascript", ".css": b"text/css"}


@asynccontextmanager
async def a_folder(folder: Path) -> AsyncIterator[str]:
    """Serve the files of a folder; give their origin."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await receive(reader)).split(b" ")[1].partition(b"?")[0].decode()
        file = folder / path.removeprefix("/")
        writer.write(whole(file.read_bytes(), b"Content-Type: " + TYPES[file.suffix], b"Connection: close"))

    async with listening(serve) as url:
        yield url.removesuffix("/")
