"""Every snippet of the Python client's README does what it says."""

from __future__ import annotations

import sys

from support.credentials import AUTH
from support.documents import ROOT, run, snippets
from support.serving import serving

SNIPPETS = snippets((ROOT / "clients/python/README.md").read_text(), "python")


def test_all_are_run() -> None:
    """The tests below run each of them."""
    assert len(SNIPPETS) == 3


async def test_async() -> None:
    """The first shows the tools that are called, the answer as it comes, and then how it ended and all of it."""
    async with serving() as server:
        code, out, err = await run(sys.executable, "-W", "error", "-c", SNIPPETS[0], server=server)
    assert (code, err) == (0, "")
    assert "\n[Read {'path': 'README.md'}]\n" in out
    streamed, ended = out.rsplit("\n completed ", 1)
    assert ended
    assert streamed.endswith(ended.removesuffix("\n"))


async def test_sync() -> None:
    """The second leaves its run, finds what has happened so far, and has the answer in the end."""
    async with serving(demo_rate=200.0) as server:
        code, out, err = await run(sys.executable, "-W", "error", "-c", SNIPPETS[1], server=server)
        assert (code, err) == (0, "")
        assert server.runs.started == 1
    assert out.startswith("so far: ")
    assert out.splitlines()[-1] == "completed already_finished"


async def test_token() -> None:
    """The third is refused where its token is not known."""
    async with serving(**AUTH) as server:
        done = await run(sys.executable, "-W", "error", "-c", SNIPPETS[2], server=server)
    assert done == (0, "unauthenticated\n", "")
