"""The Python client of Twinwire: a run's events, each exactly once, over SSE or WebSocket.

    async with Client("http://127.0.0.1:8000") as client:
        async with client.stream("Analyse the project") as run:
            async for event in run:
                print(event.type, event.data)

`SyncClient` is the same without an event loop of one's own; `events` has the Structs that `event.payload` gives. It
follows the written protocol and nothing else of the server, which it does not import.
"""

from twinwire_client.client import Client
from twinwire_client.errors import (
    AgentNotFound,
    ApiError,
    ConnectionLost,
    Gap,
    ProtocolError,
    RunFailed,
    RunNotFound,
    SessionBusy,
    TwinwireClientError,
    Unauthenticated,
)
from twinwire_client.events import Event, Snapshot
from twinwire_client.retry import Backoff
from twinwire_client.run import Run
from twinwire_client.sync import SyncClient, SyncRun

__all__ = [
    "AgentNotFound",
    "ApiError",
    "Backoff",
    "Client",
    "ConnectionLost",
    "Event",
    "Gap",
    "ProtocolError",
    "Run",
    "RunFailed",
    "RunNotFound",
    "SessionBusy",
    "Snapshot",
    "SyncClient",
    "SyncRun",
    "TwinwireClientError",
    "Unauthenticated",
]
