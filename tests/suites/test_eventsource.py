"""Other people's EventSource libraries and browsers: cut off at random bytes, each has every event once, in order."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from suites import environment
from suites.environment import PYTHON, Record, tell, version
from support.chaos import chaos
from support.interop_scenes import NODE, PROGRAMS, needs_node
from support.serving import Running, serving, until
from support.talker import Talker

NPM = [
    "@microsoft/fetch-event-source",
    "event-source-polyfill",
    "eventsource",
    "eventsource-client",
    "eventsource-parser",
    "extended-eventsource",
    "fetch-event-stream",
    "launchdarkly-eventsource",
    "reconnecting-eventsource",
    "undici",
]
EARLY = {"@microsoft/fetch-event-source", "extended-eventsource"}
"""Their parser sets the cursor at the `id` line, before it has the event: a cut in the next byte loses that event."""
PYPI = ["aiohttp-sse-client2", "aiosseclient", "httpx-sse", "launchdarkly-eventsource", "requests-sse", "sseclient-py"]
PAGE = ["native", "event-source-polyfill", "sse.js"]
BROWSERS = {"chrome": ("Chromium", "chromium"), "firefox": ("Firefox", "firefox-esr")}

whole = [pytest.mark.full, pytest.mark.timeout(400)]
often = pytest.mark.parametrize("cuts", [2, pytest.param(25, marks=whole)], ids=str)

HEAD = 800
"""More than an answer's head: Firefox's EventSource gives up for good if it is cut off within the first head."""

Seen = list[tuple[str, str, str]]


async def log_of(server: Running, run_id: str) -> list[tuple[str, str, object]]:
    """The id, type and data of each event."""
    found: list[tuple[str, str, object]] = []
    while records := (await server.runs.log.page(run_id, len(found), 1000)).records:
        events = [json.loads(record.body) for record in records]
        found += [(event["id"], event["type"], event["data"]) for event in events]
    return found


async def cut(names: Sequence[str], cuts: int, chance: random.Random, *command: str | Path, first: int = 50) -> str:
    """Have the program follow one run with each library, and cut each off so often or more; check what it saw.

    No cut comes before byte `first` of an answer. Return in words how often that was, and how many events there were.
    """
    talker = Talker(chance, pause=0.02)
    async with AsyncExitStack() as stack:
        settings = {"run_timeout": 600, "retry_ms": 20, "cors_origin": ("*",)}
        server = await stack.enter_async_context(serving({"mine": talker}, **settings))
        proxies = {name: await stack.enter_async_context(chaos(server.port)) for name in names}
        for proxy in proxies.values():  # those that come back faster are cut off more often
            sizes = [first, first + 500, first + 1500, first + 5000]
            proxy.budgets.extend(chance.choice(sizes) + chance.randrange(300) for _ in range(4 * cuts))
        for name in EARLY & set(names):
            proxies[name].spares_ids = True
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as http:
            run_id = (await http.post("/runs", json={"message": "talk"})).json()["run_id"]
        urls = {name: f"{proxy.url}/runs/{run_id}/events" for name, proxy in proxies.items()}
        command = tuple(server.url if part == "SERVER" else part for part in command)
        running = asyncio.create_task(environment.run(*command, send=urls, seconds=40 + 5 * cuts))
        enough = asyncio.create_task(until(lambda: all(proxy.accepted > cuts for proxy in proxies.values())))
        try:
            await asyncio.wait([running, enough], return_when=asyncio.FIRST_COMPLETED)
            missing = [name for name, proxy in proxies.items() if proxy.accepted <= cuts]
            assert not missing, (missing, await running)  # the program's own words, if it failed
            for proxy in proxies.values():
                proxy.budgets.clear()
            talker.stop.set()
            told = await running
        finally:
            enough.cancel()
            running.cancel()
        log = await log_of(server, run_id)
    told = told.get("seen", told)  # a program of `interop` has complaints beside it
    for name in names:
        seen = [(event_id, kind, json.loads(data)) for event_id, kind, data in told[name]]
        ids, all_ids = [event[0] for event in seen], [event[0] for event in log]
        lost = [event_id for event_id in all_ids if event_id not in ids]
        assert ids == all_ids, (name, {"lost": lost, "more": len(ids) - len(set(ids))})
        assert seen == log, name
    total = sum(proxy.accepted - 1 for proxy in proxies.values())
    return f"{total} cuts, {len(log)} events each"


@needs_node
@often
async def test_npm(cuts: int, chance: random.Random, record_property: Record) -> None:
    """Ten libraries of npm, cut off anywhere, resume at their cursor: no event is lost, doubled or reordered."""
    assert NODE is not None
    note = await cut(NPM, cuts, chance, NODE, PROGRAMS / "followers.mjs", "SERVER")
    by = ", ".join(f"{name} {version(name, 'npm')}" for name in NPM)
    tell(record_property, "EventSource libraries of npm", by, cases=len(NPM), passed=len(NPM), note=note)


@often
async def test_pypi(cuts: int, chance: random.Random, record_property: Record) -> None:
    """Six libraries of PyPI likewise."""
    environment.needed()
    note = await cut(PYPI, cuts, chance, PYTHON, environment.HERE / "followers.py")
    by = ", ".join(f"{name} {version(name)}" for name in PYPI)
    tell(record_property, "EventSource libraries of PyPI", by, cases=len(PYPI), passed=len(PYPI), note=note)


@needs_node
@pytest.mark.parametrize(
    ("browser", "cuts"), [("chrome", 2), *(pytest.param(name, 25, marks=whole) for name in BROWSERS)], ids=str
)
async def test_browsers(browser: str, cuts: int, chance: random.Random, record_property: Record) -> None:
    """A browser's own EventSource, and two libraries that are made for pages, likewise."""
    assert NODE is not None
    name, program = BROWSERS[browser]
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    note = await cut(PAGE, cuts, chance, NODE, PROGRAMS / "browsers.mjs", "SERVER", browser, path, first=HEAD)
    by = ", ".join([f"{name}'s own", *(f"{library} {version(library, 'npm')}" for library in PAGE[1:])])
    tell(record_property, f"EventSource in {name}", by, cases=len(PAGE), passed=len(PAGE), note=note)
