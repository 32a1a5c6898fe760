"""What a log-out ends on the worker that is asked: what was given before it, and all streams of that user."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from support.credentials import AUTH, asking, bearer, ticket
from support.followers import KINDS, Broken, SseFollower
from support.serving import Puppets, Running, serving, until
from twinwire.auth import Auth, Identity
from twinwire.web import guard


@pytest.fixture
async def guarded(puppets: Puppets) -> AsyncIterator[Running]:
    """A server that knows alice and bob."""
    async with serving({"mine": puppets}, **AUTH) as running:
        yield running


async def follow(server: Running, query: str, **headers: str) -> SseFollower:
    return await SseFollower(f"{server.url}/chat/stream?{query}&envelope=1", headers).open()


async def test_log_out_ends_all(guarded: Running, puppets: Puppets) -> None:
    """The cookie goes; cookies and tickets from before are refused; the user's streams end, nobody else's does."""
    text = await ticket(guarded)
    async with (
        asking(guarded) as browser,
        connect(guarded.ws_url, proxy=None, additional_headers=bearer("alice")) as hers,
        connect(guarded.ws_url, proxy=None, additional_headers=bearer("bob")) as his,
    ):
        await browser.post("/login", headers=bearer("alice"))
        kept = browser.cookies["twinwire_login"]
        stream = await follow(guarded, f"message=hi&ticket={text}")
        response = await browser.post("/logout")
        assert (response.status_code, "twinwire_login" in browser.cookies) == (204, False)
        (await puppets.next()).say("too late")
        with pytest.raises(Broken):
            await stream.next()
        with pytest.raises(ConnectionClosed) as caught:
            await hers.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 4501
        await his.send('{"type":"ping"}')
        assert await his.recv() == '{"type":"pong"}'
        reconnect = {"last-event-id": f"evt-{stream.run_id}-1"}
        assert (await browser.get(f"/chat/stream?message=hi&ticket={text}", headers=reconnect)).status_code == 401
        assert (await browser.get("/metrics", headers={"cookie": f"twinwire_login={kept}"})).status_code == 401
        assert (await browser.get("/metrics", headers=bearer("alice"))).status_code == 200
        await stream.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_a_log_out_while_a_stream_opens(
    kind: str, user: str, guarded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was identified before the user logged out, and has a stream only then, does not keep it; others do."""
    identify = guard.identify

    def overtaken(scope: Any, auth: Auth, origins: Any) -> Identity | None:
        found = identify(scope, auth, origins)
        guarded.runs.log.heard("alice", auth.clock())
        return found

    monkeypatch.setattr(guard, "identify", overtaken)
    if kind == "sse":
        stream = await follow(guarded, "message=hi", **bearer(user))
        if user == "alice":
            with pytest.raises(Broken):
                await stream.next()
        await stream.close()
    else:
        async with connect(guarded.ws_url, proxy=None, additional_headers=bearer(user)) as opened:
            if user == "alice":
                with pytest.raises(ConnectionClosed) as caught:
                    await opened.recv()
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == 4501
            else:
                await opened.send('{"type":"ping"}')
                assert await opened.recv() == '{"type":"pong"}'
    await until(lambda: not guarded.service.heartbeats.pumps)
    verdicts = {verdict.name for _, verdict in guarded.service.heartbeats.closed}
    assert verdicts == {"UNAUTHENTICATED" if user == "alice" else "LEFT"}
