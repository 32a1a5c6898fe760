"""What Twinwire's Python client costs: `python -m benchmarks.client URL TRANSPORT RUN LOAD [AGENT]` prints two numbers.

Both are microseconds of its CPU per event, with all of it: connection, parsing, checking, decoding. The first is for
the run RUN, read from the log to its end, for a second time; the other for a run of LOAD (a message) as it comes, from
its first event on.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Literal, cast

import uvloop

from twinwire_client import Client
from twinwire_client.run import Run


async def read(run: Run) -> float:
    """Of a whole run."""
    began, events = time.process_time(), 0
    async with run:
        async for _ in run:
            events += 1
    return (time.process_time() - began) * 1e6 / events


async def watch(run: Run) -> float:
    """Of what comes after the first event."""
    async with run:
        await anext(run)
        began, events = time.process_time(), 0
        async for _ in run:
            events += 1
        return (time.process_time() - began) * 1e6 / events


async def main(url: str, transport: Literal["sse", "ws"], run_id: str, message: str, agent: str | None = None) -> None:
    """Both."""
    async with Client(url, transport=transport, token=os.environ.get("TWINWIRE_TOKEN")) as client:
        await read(client.attach(run_id))
        print(await read(client.attach(run_id)), await watch(client.stream(message, agent=agent)))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], cast("Literal['sse', 'ws']", sys.argv[2]), *sys.argv[3:]))
