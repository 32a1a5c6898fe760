"""Fixtures for all tests; the event loop is the one the server runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from serving import Puppets, Running, serving


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def puppets() -> Puppets:
    return Puppets()


@pytest.fixture
async def server(puppets: Puppets) -> AsyncIterator[Running]:
    """A server whose only agent, `mine`, is played by the test through `puppets`."""
    async with serving({"mine": puppets}) as running:
        yield running
