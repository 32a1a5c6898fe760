"""The Python client with tokens that expire while a run goes on: real JWTs, which a real server believes until then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import pytest

from support.chaos import chaos
from support.following import Transport, both, connected, words
from support.serving import Puppets, Running, serving, until
from twinwire_client import ConnectionLost, Retry, api

KEY = b"an HMAC secret of 32 bytes or more"


def good_for(seconds: float) -> str:
    """A token of alice's."""
    return jwt.encode({"sub": "alice", "exp": time.time() + seconds}, KEY, "HS256")


@pytest.fixture
async def guarded(puppets: Puppets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    """A server that looks ten times a second what has expired; clients ask early, as a busy machine is late."""
    monkeypatch.setattr(api, "RENEW_AT", 0.3)
    (tmp_path / "key").write_bytes(KEY)
    async with serving({"mine": puppets}, jwt_key_file=str(tmp_path / "key"), heartbeat=0.4) as server:
        yield server


async def test_a_socket_outlives_its_tokens(guarded: Running, puppets: Puppets) -> None:
    """On a socket a newer token is said before the old one expires: the run goes on over the same connection."""
    tokens = [good_for(3), good_for(4), good_for(600)]
    asked: list[str] = []

    async def token() -> str:
        asked.append(tokens[min(len(asked), 2)])
        return asked[-1]

    async with (
        chaos(guarded.port) as proxy,
        connected(proxy.url, token=token, transport="ws") as client,
        client.stream("m") as run,
        connected(guarded.url, token=tokens[1], transport="ws", max_attempts=1) as other,
        other.attach(run.run_id) as ending,
    ):
        puppet = await puppets.next()
        puppet.say("a")
        with pytest.raises(ConnectionLost, match="4001"):
            await ending.wait()
        puppet.say("b")
        puppet.end()
        assert words([event async for event in run]) == ["a", "b"]
        assert proxy.accepted == 1
    assert asked == tokens


@both
async def test_a_token_without_successor(transport: Transport, guarded: Running, puppets: Puppets) -> None:
    """Where no newer token is to be had in time, the run goes on with the one there is when the old one has expired."""
    first = good_for(1.5)
    expires = time.time() + 1.5
    asked: list[float] = []

    def token() -> str:
        asked.append(time.time())
        return first if time.time() < expires else good_for(600)

    async with connected(guarded.url, token=token, transport=transport) as client, client.stream("m") as run:
        puppet = await puppets.next()
        puppet.say("a")
        assert words([await anext(run), await anext(run)]) == ["a"]
        following = asyncio.ensure_future(anext(run))
        await until(lambda: asked[-1] >= expires)
        puppet.say("b")
        assert words([await following]) == ["b"]
        puppet.end()
        assert await run.wait() == "ab"
    assert puppets.started == 1


async def test_a_function_that_fails_later(guarded: Running, puppets: Puppets) -> None:
    """A token function that fails harms nothing while the token is good; when one is needed it is a failed attempt."""
    asked = 0
    retries: list[Retry] = []

    def token() -> str:
        nonlocal asked
        asked += 1
        if asked in {2, 3}:
            raise OSError("no key to be had")
        return good_for(2 if asked == 1 else 600)

    async with (
        connected(guarded.url, token=token, transport="ws", on_retry=retries.append) as client,
        client.stream("m") as run,
    ):
        puppet = await puppets.next()
        puppet.say("a")
        await anext(run)
        await until(lambda: asked == 2)
        assert words([await anext(run)]) == ["a"]
        following = asyncio.ensure_future(anext(run))
        await until(lambda: asked >= 4)
        puppet.say("b")
        assert words([await following]) == ["b"]
    assert [(retry.code, retry.status) for retry in retries[:2]] == [(None, None), ("token_failed", None)]
