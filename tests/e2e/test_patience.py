"""A tab that the browser freezes and a network that goes and comes, with the JS client in a real Chromium."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from playwright.async_api import Browser

from support.readers import teller
from support.serving import Puppets, Running, serving, until
from twinwire import AgentSpec
from twinwire.transports import Verdict

pytestmark = pytest.mark.asyncio(loop_scope="session")

each = pytest.mark.parametrize("transport", ["sse", "ws"])

FOLLOW = """async (options) => {
    const { createClient } = await import('/client/index.js');
    const { policy, ...rest } = options;
    const client = createClient(rest);
    const run = client.stream('Hello', { onDisconnect: policy });
    let [count, retries] = [0, 0];
    run.on('retry', () => console.log(`retry ${retries += 1}`));
    for await (const event of run) {
      count += 1;
      if (Number(event.id.split('-')[2]) !== count) return `${event.id} came where ${count} was due`;
      if (count === 10) console.log('begun');
    }
    client.close();
    return JSON.stringify({ count, retries, status: run.status });
}"""


async def frozen(browser: Browser, transport: str, seconds: float, count: int, rate: float, **settings: Any) -> None:
    """Freeze a tab in the middle of its run; leaving for a moment would cancel the run."""
    async with serving({"mine": teller(count, rate, 3000)}, **settings) as server:
        page = await browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        await page.goto(f"{server.url}/healthz")
        devtools = await page.context.new_cdp_session(page)
        following = asyncio.create_task(page.evaluate(FOLLOW, {"transport": transport, "policy": "cancel"}))
        await until(lambda: "begun" in said)
        await devtools.send("Page.setWebLifecycleState", {"state": "frozen"})
        await asyncio.sleep(seconds)
        assert len(server.runs) == 1
        await devtools.send("Page.setWebLifecycleState", {"state": "active"})
        assert json.loads(await following) == {"count": count + 2, "retries": 0, "status": "completed"}
        await page.close()


@each
async def test_a_frozen_tab(browser: Browser, transport: str) -> None:
    """A tab that the browser freezes for longer than several heartbeats keeps its connection, and reads all."""
    await frozen(browser, transport, 3.0, count=1200, rate=300, heartbeat=0.5, send_timeout=20)


@each
@pytest.mark.full
@pytest.mark.timeout(300)
async def test_a_tab_that_is_frozen_for_a_minute(browser: Browser, transport: str) -> None:
    """The same with the defaults."""
    await frozen(browser, transport, 60.0, count=12_000, rate=150, run_timeout=200)


@each
async def test_a_network_that_comes_back(browser: Browser, server: Running, puppets: Puppets, transport: str) -> None:
    """A browser waits for its network, however long that takes, and tries at once when it is there."""
    server.runs.agents["mine"] = AgentSpec(puppets)
    context = await browser.new_context()
    page = await context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    await page.goto(f"{server.url}/healthz")
    options = {"transport": transport, "retry": {"cap": 3_600_000}}
    following = asyncio.create_task(page.evaluate(FOLLOW, options))
    puppet = await puppets.next()
    puppet.say(*(str(number) for number in range(20)))
    await until(lambda: "begun" in said)
    await context.set_offline(True)
    for pump in tuple(server.service.heartbeats.pumps):
        pump.end(Verdict.BROKEN)
    await until(lambda: "retry 1" in said)
    puppet.say("more")
    puppet.end()
    await context.set_offline(False)
    outcome = json.loads(await following)
    assert (outcome["count"], outcome["status"]) == (23, "completed")
    await context.close()
