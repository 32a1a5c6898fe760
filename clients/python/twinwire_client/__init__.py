"""The Python client of Twinwire: a run's events, each exactly once, over SSE or WebSocket.

    async with Client("http://127.0.0.1:8000") as client:
        async with client.stream("Analyse the project") as run:
            async for event in run:
                print(event.type, event.data)

`SyncClient` is the same without an event loop of one's own; `events` has the Structs that `event.payload` gives. The
client follows the written protocol and imports nothing of the server.
"""

from twinwire_client.client import Client
from twinwire_client.errors import (
    AgentNotFound,
    ApiError,
    ConnectionLost,
    Gap,
    ProtocolError,
    RunClosed,
    RunFailed,
    RunNotFound,
    SessionBusy,
    TooLarge,
    TwinwireError,
    Unauthenticated,
)
from twinwire_client.events import EVENT_TYPES, Event, Snapshot, is_terminal
from twinwire_client.fold import Fold
from twinwire_client.info import RunInfo, RunPage
from twinwire_client.retry import Backoff, Retry
from twinwire_client.run import Run
from twinwire_client.sync import SyncClient, SyncRun
from twinwire_client.talk import Acknowledgement, Question, SyncQuestion

__version__ = "0.1.0"

__all__ = [
    "EVENT_TYPES",
    "Acknowledgement",
    "AgentNotFound",
    "ApiError",
    "Backoff",
    "Client",
    "ConnectionLost",
    "Event",
    "Fold",
    "Gap",
    "ProtocolError",
    "Question",
    "Retry",
    "Run",
    "RunClosed",
    "RunFailed",
    "RunInfo",
    "RunNotFound",
    "RunPage",
    "SessionBusy",
    "Snapshot",
    "SyncClient",
    "SyncQuestion",
    "SyncRun",
    "TooLarge",
    "TwinwireError",
    "Unauthenticated",
    "is_terminal",
]
