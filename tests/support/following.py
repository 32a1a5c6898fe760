"""What the tests of the Python client share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest

from twinwire_client import Backoff, Client, Event

QUICK = Backoff(base=0.01, cap=0.05)
NOWHERE = "a" * 26
Transport = Literal["sse", "ws"]
both = pytest.mark.parametrize("transport", ["sse", "ws"])


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Client]:
    """A client that tries again fast; when it is closed, no task of its own is left."""
    before = asyncio.all_tasks()
    async with Client(url, **{"backoff": QUICK, **options}) as client:
        yield client
    left = [str(task.get_coro()) for task in asyncio.all_tasks() - before]
    assert not [name for name in left if "async_generator" in name or "Session." in name]


def words(events: Sequence[Event]) -> list[str]:
    """What the agent said."""
    return [event.data["content"] for event in events if event.type == "LLM_CHUNK"]


def numbers(events: Sequence[Event]) -> list[int]:
    """The numbers in the events' ids."""
    return [int(event.id.rpartition("-")[2]) for event in events]
