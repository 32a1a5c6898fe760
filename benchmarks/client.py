"""What Twinwire's Python client costs: `python -m benchmarks.client URL RUN TRANSPORT` prints its CPU in us per event.

It follows a run to its end, once to warm up and once measured: the connection, parsing, checking, decoding, all of it.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Literal, cast

import uvloop

from twinwire_client import Client


async def follow(url: str, run_id: str, transport: Literal["sse", "ws"]) -> float:
    """CPU microseconds per event."""
    async with Client(url) as client:
        for _ in range(2):
            began, events = time.process_time(), 0
            async with client.attach(run_id, transport=transport) as run:
                async for _ in run:
                    events += 1
    return (time.process_time() - began) * 1e6 / events


if __name__ == "__main__":
    if cpus := os.environ.get("LOAD_CPUS"):
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    print(uvloop.run(follow(sys.argv[1], sys.argv[2], cast("Literal['sse', 'ws']", sys.argv[3]))))
