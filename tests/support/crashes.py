"""What the tests that kill servers share: an agent for them, and chance that a failure can be had from again."""

from __future__ import annotations

import random
from pathlib import Path

_AGENT = """
import asyncio
from twinwire import StreamEvent

async def counter(request):
    for n in range(int(request.message)):
        yield StreamEvent("LLM_CHUNK", {"content": f"{n} ", "delta": f"{n} "})
        if n % 3 == 0:
            await asyncio.sleep(PAUSE)
"""


def counter(folder: Path, *, pause: float) -> str:
    """What to serve in this folder: an agent that counts to its message, with pauses of so many seconds."""
    (folder / "mine.py").write_text(_AGENT.replace("PAUSE", str(pause)))
    return "mine:counter"


def seeded() -> random.Random:
    """Chance, whose seed is printed."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)
