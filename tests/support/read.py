"""Reads a run as a user's program does, slowly or with a pause, and prints what came of it: options in, outcome out."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from twinwire_client import Client, Retry


async def read(options: dict[str, Any]) -> None:
    """Read a run to its end."""
    retries: list[Retry] = []
    client = Client(
        options["url"],
        transport=options["transport"],
        timeout=options["timeout"],
        heartbeat=options["heartbeat"],
        on_retry=retries.append,
    )
    async with client, client.stream("go", on_disconnect=options["policy"]) as run:
        count = 0
        async for event in run:
            count += 1
            if int(event.id.rpartition("-")[2]) != count:
                raise AssertionError(f"{event.id} came where {count} was due")
            if count == options["pauseAt"]:
                print("begun", flush=True)
                await asyncio.sleep(options["pause"])
            if options["pace"]:
                await asyncio.sleep(options["pace"])
    assert run.terminal is not None
    status = run.terminal.data.get("status", run.terminal.data.get("error_type"))
    print(json.dumps({"count": count, "retries": len(retries), "status": status}))


if __name__ == "__main__":
    asyncio.run(read(json.loads(sys.argv[1])))
