"""What the fault suite shares: chance with a seed that is printed, and a server that must be left as it was found."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable

import pytest

from faults.leaks import leakless
from support.serving import Puppets, Running, serving


@pytest.fixture
def chance(record_property: Callable[[str, object], None]) -> random.Random:
    """`FAULTS_SEED=…` repeats a run, as far as the scheduler lets it."""
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(2**32))
    print(f"FAULTS_SEED={seed}")
    record_property("seed", seed)
    return random.Random(seed)


@pytest.fixture
async def server(puppets: Puppets) -> AsyncIterator[Running]:
    """As everywhere; and nothing is left of a test but its runs' logs."""
    async with serving({"mine": puppets}) as running, leakless(running):
        yield running
