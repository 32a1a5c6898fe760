"""How long a server keeps a follower that is not there any more: `python half_open.py sse|ws`, in a network of its own.

The network is a namespace with a loopback alone, which is taken down under an open stream: nothing is acknowledged, and
nobody is told.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import time

from support.followers import start
from support.serving import Puppets, serving, until
from twinwire.serving import shell as ours

SECONDS = 1.5


def loopback(*, up: bool) -> None:
    """Switch it (netdevice(7): SIOCSIFFLAGS, IFF_UP)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 1 if up else 0))


async def main(kind: str) -> None:
    """Print how many seconds it was."""
    ours.UNACKNOWLEDGED_MS = round(SECONDS * 1000)
    loopback(up=True)
    puppets = Puppets()
    async with serving({"mine": puppets}, send_timeout=600) as server:
        follower = await start(kind, server, on_disconnect="continue")
        puppet = await puppets.next()
        puppet.say("a")
        while b"LLM_CHUNK" not in (await follower.next() or b""):
            pass
        loopback(up=False)
        began = time.monotonic()
        puppet.say("b")
        await until(lambda: not server.service.heartbeats.pumps)
        print(round(time.monotonic() - began, 2))
        loopback(up=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
