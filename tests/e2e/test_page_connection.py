"""The page at `/` when its connection is cut, refused or changed, on both transports."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect

from e2e.proxy import Proxy
from e2e.visit import Transport, Visit, both
from support.serving import Puppets, Running
from twinwire import AgentSpec

pytestmark = pytest.mark.asyncio(loop_scope="session")


@both
async def test_a_cut_network_is_resumed(visit: Visit, proxy: Proxy, puppets: Puppets, transport: Transport) -> None:
    """A reset connection is told and resumed at the cursor: no text is lost or comes twice, no second run starts."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    for number in range(3):
        puppet.say(f"{number}a ", f"{number}b ")
        await expect(visit.answer).to_contain_text(f"{number}b")
        proxy.cut()
        await expect(visit.notice).to_have_text(f"Resumed at event {3 + 2 * number}")
    puppet.say("end")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await expect(visit.answer).to_have_text("0a 0b 1a 1b 2a 2b end")
    await expect(visit.outcome).to_contain_text("9 of 9 events")
    await expect(visit.shown("Reconnects")).to_have_text("3")
    assert puppets.started == 1
    visit.forgive("net::ERR", "WebSocket conn")


@both
async def test_an_outage_is_waited_out(visit: Visit, proxy: Proxy, puppets: Puppets, transport: Transport) -> None:
    """While a load balancer has no server left, the page says what it does, and then resumes the run at its cursor."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    puppet.say("before ")
    await expect(visit.answer).to_have_text("before")
    proxy.outage = True
    proxy.cut()
    await proxy.refused.wait()
    await expect(visit.notice).to_have_text("Connection lost, resuming at event 2…")
    puppet.say("after")
    puppet.end()
    proxy.outage = False
    await expect(visit.notice).to_have_text("Completed")
    await expect(visit.answer).to_have_text("before after")
    assert puppets.started == 1
    if transport == "SSE":
        assert proxy.asked("/runs/")[-1][0].endswith("/events?after=2&envelope=1")
    visit.forgive("net::ERR", "WebSocket conn", "status of 503")


@both
async def test_cut_button_shows_the_resume(visit: Visit, puppets: Puppets, transport: Transport) -> None:
    """The page can cut its own connection: it says so, and goes on at its cursor with what came meanwhile."""
    await visit.choose(transport)
    await visit.ask()
    puppet = await puppets.next()
    puppet.say("before ")
    await expect(visit.answer).to_have_text("before")
    await visit.button("Cut the connection").click()
    puppet.say("between ")
    await expect(visit.notice).to_have_text("Resumed at event 2")
    await expect(visit.shown("Reconnects")).to_have_text("1")
    puppet.say("after")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await expect(visit.answer).to_have_text("before between after")
    assert puppets.started == 1


async def test_a_run_moves_between_transports(visit: Visit, proxy: Proxy, puppets: Puppets) -> None:
    """The cursor is one for all transports: a run goes on over another one in the middle of its answer."""
    await visit.choose("SSE")
    await visit.ask()
    puppet = await puppets.next()
    puppet.say("one ")
    await expect(visit.answer).to_have_text("one")
    moves: tuple[tuple[Transport, str], ...] = (("WebSocket", "two "), ("SSE", "three "))
    for transport, word in moves:
        await visit.choose(transport)
        puppet.say(word)
        await expect(visit.answer).to_contain_text(word.strip())
        await expect(visit.shown("Transport")).to_have_text(transport)
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    await expect(visit.answer).to_have_text("one two three")
    assert len(proxy.asked("/ws")) == 1
    assert puppets.started == 1


@both
async def test_a_refused_start_is_shown(
    visit: Visit, server: Running, puppets: Puppets, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal is final and told with the server's own words."""
    await visit.choose(transport)
    monkeypatch.setattr(server.runs, "default_agent", "other")
    await visit.ask()
    await expect(visit.page.locator(".flow .error")).to_have_text("The server has no agent of this name.")
    await expect(visit.notice).to_have_text("Failed: The server has no agent of this name.")
    assert puppets.started == 0
    visit.forgive("status of 404")


@both
async def test_a_refusal_that_passes_is_tried_again(
    visit: Visit, server: Running, puppets: Puppets, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has no room yet is asked again until it has; meanwhile the page says what the matter is."""
    await visit.choose(transport)
    monkeypatch.setattr(server.runs, "_max_runs", 0)
    await visit.ask()
    await expect(visit.notice).to_have_text("The limit of 0 runs at once is reached, trying again…")
    monkeypatch.undo()
    (await puppets.next()).end()
    await expect(visit.notice).to_have_text("Completed")
    assert puppets.started == 1
    visit.forgive("status of 429")


async def test_a_fatal_close_code_is_obeyed(visit: Visit, proxy: Proxy, puppets: Puppets) -> None:
    """What the server closes a socket for as too large would be too large again: it is told, not tried again."""
    await visit.choose("WebSocket")
    await visit.ask("x" * 50_000)  # more than the server takes, and not yet a request of its own
    await expect(visit.notice).to_contain_text("Failed: ")
    await expect(visit.button("Stop")).to_be_hidden()
    assert len(proxy.asked("/ws")) == 1
    assert puppets.started == 0


async def test_a_dead_socket_is_noticed(browser: Browser, server: Running, proxy: Proxy, puppets: Puppets) -> None:
    """A WebSocket on which not even an answer to a ping comes is taken for dead, and the run resumed on another."""
    server.runs.agents["mine"] = AgentSpec(puppets)
    visit = Visit(await browser.new_page(), proxy.url)
    await visit.page.clock.install()
    await visit.page.goto(proxy.url)
    await visit.choose("WebSocket")
    await visit.ask()
    puppet = await puppets.next()
    puppet.say("before ")
    await expect(visit.answer).to_have_text("before")
    proxy.dead = True
    puppet.say("after")
    await visit.page.clock.run_for(45_000)
    await expect(visit.notice).to_have_text("Connection lost, resuming at event 2…")
    proxy.dead = False
    await visit.page.clock.run_for(15_000)
    await expect(visit.answer).to_have_text("before after")
    puppet.end()
    await expect(visit.notice).to_have_text("Completed")
    visit.forgive("WebSocket is closed before the connection is established", "WebSocket conn")
    assert visit.problems == []
    await visit.page.close()
