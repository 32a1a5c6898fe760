"""One owner for each connection from accept to its end, through every change of protocol.

A connection is in one phase at a time. Its protocol object (TLS handshake, HTTP/1.1, HTTP/2, WebSocket) says when the
phase changes; the table of all connections keeps the deadlines, with one timer for all of them.

| phase     | the connection                                     | deadline                                | yields |
|-----------|----------------------------------------------------|-----------------------------------------|--------|
| OPENING   | was accepted; no request has begun (TLS included)  | REQUEST_SECONDS after accept            | yes    |
| REQUEST   | has begun a request that is not all there          | the same; after an answer, of its start | yes    |
| WORKING   | waits for the app's answer or handshake            | the longest run and REQUEST_SECONDS; a  | no     |
|           |                                                    | handshake keeps that of its request     |        |
| SENDING   | is sent an answer, or is being closed              | as WORKING, anew while bytes are taken  | yes    |
| IDLE      | was answered and is kept alive                     | the keep-alive time                     | yes    |
| STREAMING | carries streams, whose pumps have deadlines        | none                                    | no     |
| STRANGER  | is a socket that has not said whose it is          | its own, by the pump                    | yes    |

A connection of HTTP/2 is WORKING without a deadline while it has requests. Each of these has the deadlines of REQUEST,
WORKING and SENDING itself, and is reset; one that follows a run has its pump's. See `http2.Exchange`.

Outside STREAMING a connection with unsent bytes, or one that is being closed, is dropped when its client takes nothing
for the send timeout. A connection that yields is dropped, the one that has been in its phase for longest first, if
there is no room for a new one.
"""

from __future__ import annotations

import asyncio
import sys
from contextvars import Context
from enum import Enum
from math import inf
from typing import Protocol

from twinwire.telemetry.metrics import Metrics
from twinwire.transports.intake import INTAKE_BYTES, Intake

try:
    import fcntl
    import resource
    import termios
except ImportError:  # not POSIX
    fcntl = resource = termios = None  # type: ignore[assignment]

TICK_SECONDS = 1.0
SPARE = 64  # connections beside streams and sockets: at least so many, or a quarter of these
ANSWER_BYTES = 64 * 2**20  # that all answers beside streams may have unsent
MANY_FILES = 2**20
RESERVED_FILES = 256  # for the log, the model's server and what is read, beside one for each run


def accepted_at_most(max_connections: int, max_runs: int, files: int) -> int:
    """Return how many connections a process accepts that may have so many files open; half of these at least."""
    wanted = max_connections + max(SPARE, max_connections // 4)
    return max(2, min(wanted, files - min(files // 2, RESERVED_FILES + max_runs)))


def open_files(wanted: int | None = None) -> tuple[int, int]:
    """Return how many files this process may open, and how many at most; raise that to `wanted` as far as it may be.

    Without POSIX both are `MANY_FILES`: nobody says.
    """
    if resource is None:
        return MANY_FILES, MANY_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if wanted is not None and soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft, hard


def streams_at_most(max_connections: int, accepted: int) -> int:
    """Return how many of the accepted connections may be streams and sockets, so that some are left for the rest."""
    return max(1, min(max_connections, accepted * 4 // 5))


def unacknowledged(transport: asyncio.Transport | None) -> int:
    """Return how many bytes the kernel has for a client, which is exact even if the transport's buffer is not.

    The kernel takes more from that in pieces of 100 kB, which a slow client may need minutes for.
    """
    connection = None if transport is None else transport.get_extra_info("socket")
    if connection is None or fcntl is None:
        return 0
    try:
        queued = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:  # not on Linux, or closed
        return 0
    return int.from_bytes(queued, sys.byteorder)


class Phase(Enum):
    """See the module. The value says whether a connection in this phase yields to a new one."""

    OPENING = ("opening", True)
    REQUEST = ("request", True)
    WORKING = ("working", False)
    SENDING = ("sending", True)
    IDLE = ("idle", True)
    STREAMING = ("streaming", False)
    STRANGER = ("stranger", True)
    ENDED = ("ended", False)

    def __init__(self, _: str, yields: bool) -> None:
        self.yields = yields


class Carrier(Protocol):
    """The protocol object that a connection has at the moment; it may have no transport yet."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """The connection's transport."""
        ...

    def unsent(self) -> int:
        """Return how many bytes it holds that its client has not taken."""
        ...

    def held(self) -> int:
        """See `Holder`."""
        ...

    def shed(self) -> None:
        """See `Holder`."""
        ...

    def expire(self) -> None:
        """Answer or close the connection: its deadline has passed."""
        ...

    def drop(self) -> None:
        """Abort the connection at once, and tell the app that its client has gone."""
        ...

    def stop(self) -> None:
        """Close the connection when nothing is being answered; do not keep it alive after that."""
        ...

    def tick(self, now: float) -> None:
        """Look after deadlines of its own, at each tick outside STREAMING."""
        ...


class Lifetime:
    """One accepted connection; a `Holder`."""

    __slots__ = ("_held", "_moved_at", "_table", "_unsent", "carrier", "deadline", "phase")

    def __init__(self, table: Lifetimes, carrier: Carrier) -> None:
        self._table = table
        self.carrier = carrier
        self.phase = Phase.OPENING
        self.deadline = inf
        self._unsent = 0  # as the carrier has it
        self._held = 0  # with what the kernel has, if there is any
        self._moved_at = 0.0  # when it was last seen to be less

    def enter(self, phase: Phase, seconds: float | None = None) -> None:
        """Change the phase; the deadline is so many seconds from now, or stays as it is."""
        if self.phase is not Phase.ENDED:
            self.phase = phase
            self._table.entered(self, seconds)

    def serve(self) -> None:
        """Enter WORKING: the request is all there."""
        self.enter(Phase.WORKING, self._table.answer_seconds)

    def send(self) -> None:
        """Enter SENDING: an answer begins, or a connection that has ended its streams is closed."""
        self.enter(Phase.SENDING, self._table.answer_seconds)

    def wrote(self) -> None:
        """Count what an answer has left unsent. Over the bound of all of them, the most idle reader is dropped."""
        if self.phase not in {Phase.STREAMING, Phase.ENDED}:
            self._table.count_unsent(self, self.carrier.unsent())

    def moved(self) -> None:
        """Note that the client has taken something: what is unsent may be as much again by the next tick."""
        if self.phase is not Phase.STREAMING:
            self._moved_at = asyncio.get_running_loop().time()

    def held(self) -> int:
        """See `Holder`."""
        return 0 if self.phase is Phase.ENDED else self.carrier.held()

    def shed(self) -> None:
        """See `Holder`."""
        self.carrier.shed()

    def took(self) -> None:
        """Count what the connection holds of its client's bytes, in what all connections share."""
        self._table.intake.look(self)

    def exchange(self, change: int) -> None:
        """Count requests over HTTP/2, of which one connection has many."""
        self._table.exchanges += change

    @property
    def crowded(self) -> bool:
        """Return whether there are as many requests over HTTP/2 as there may be connections."""
        return self._table.exchanges >= self._table.most

    def refuse(self, code: str) -> None:
        """Count what is refused without dropping the connection."""
        self._table.dropped(code)

    def end(self) -> None:
        """Leave the table: the connection is lost. Idempotent."""
        if self.phase is not Phase.ENDED:
            self.phase = Phase.ENDED
            self._table.left(self)

    def drop(self, code: str) -> None:
        """Abort the connection, counted by this code."""
        if self.phase is not Phase.ENDED:
            self._table.dropped(code)
            self.end()
            self.carrier.drop()


class Lifetimes:
    """All accepted connections of a process, at most `most` of them.

    `metrics` counts those that are dropped: `crowded` (it yielded), `unread` (its client took nothing),
    `unanswered` (the app did not answer), `busy` (others needed the `intake`).
    """

    def __init__(
        self,
        *,
        most: int,
        send_timeout: float,
        answer_seconds: float,
        metrics: Metrics | None = None,
        intake: int = INTAKE_BYTES,
    ) -> None:
        self.most = most
        self.intake = Intake(intake)
        self.answer_seconds = answer_seconds
        self.accepted = 0
        self.exchanges = 0  # requests over HTTP/2
        self._metrics = metrics or Metrics()
        self._send_timeout = send_timeout
        self._watched: dict[Lifetime, None] = {}  # all but STREAMING, in the order in which they entered their phases
        self._unsent = 0
        self._timer: asyncio.Handle | None = None
        self._timer_at = inf  # uvloop's handle of a time that has come does not tell
        self._stopping = False
        self._empty: asyncio.Future[None] | None = None

    def accept(self, carrier: Carrier, seconds: float) -> Lifetime:
        """Take in a connection that may be OPENING for so long. If there is no room, one that yields is dropped.

        That may be this one.
        """
        lifetime = Lifetime(self, carrier)
        self.accepted += 1
        lifetime.enter(Phase.OPENING, seconds)
        if self._stopping:
            lifetime.drop("draining")
        elif self.accepted > self.most:
            next(other for other in self._watched if other.phase.yields).drop("crowded")
        return lifetime

    def entered(self, lifetime: Lifetime, seconds: float | None) -> None:
        """Keep the deadline of a connection that has changed its phase."""
        self._watched.pop(lifetime, None)
        if lifetime in self.intake:
            self.intake.look(lifetime)
        if lifetime.phase is Phase.STREAMING:
            self._unsent -= lifetime._unsent
            lifetime._unsent = 0
            lifetime.deadline, lifetime._moved_at = inf, 0.0
            return
        self._watched[lifetime] = None
        now = asyncio.get_running_loop().time()
        if not lifetime._unsent:
            lifetime._moved_at = now
        if seconds is not None:
            lifetime.deadline = now + seconds
        self._schedule(min(lifetime.deadline, now + self._interval))

    def left(self, lifetime: Lifetime) -> None:
        """Forget a connection that has ended."""
        self.accepted -= 1
        self._unsent -= lifetime._unsent
        lifetime._unsent = 0
        self.intake.forget(lifetime)
        self._watched.pop(lifetime, None)
        if not self._watched and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def dropped(self, code: str) -> None:
        """Count a connection that is dropped, or what it is refused."""
        self._metrics.refuse(code)

    def count_unsent(self, lifetime: Lifetime, unsent: int) -> None:
        """Note what an answer has unsent; drop who has taken nothing for longest while that is too much in all."""
        self._unsent += unsent - lifetime._unsent
        lifetime._unsent = unsent
        while self._unsent > ANSWER_BYTES:
            holding = [other for other in self._watched if other._unsent]
            if len(holding) < 2:  # an answer may be larger if it is alone
                return
            min(holding, key=lambda other: (other._moved_at, -other._unsent)).drop("unread")

    async def stop(self, seconds: float) -> None:
        """Close all connections but those that stream: idle ones now, others once they are answered or time is over."""
        self._stopping = True
        for lifetime in tuple(self._watched):
            lifetime.carrier.stop()
        if self._watched:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._empty], timeout=seconds)
        for lifetime in tuple(self._watched):
            lifetime.drop("draining")

    @property
    def _interval(self) -> float:
        return min(TICK_SECONDS, self._send_timeout / 4)

    def _schedule(self, when: float) -> None:
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        # Without the ids of a request: the timer is everybody's.
        self._timer = asyncio.get_running_loop().call_at(when, self._tick, context=Context())

    def _tick(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for lifetime in tuple(self._watched):
            if lifetime in self._watched:
                self._look(lifetime, now)
        if self._watched:
            self._schedule(min(now + self._interval, *(lifetime.deadline for lifetime in self._watched)))

    def _look(self, lifetime: Lifetime, now: float) -> None:
        transport = lifetime.carrier.transport
        closing = transport is not None and transport.is_closing()
        unsent = lifetime.carrier.unsent()
        held = unsent + unacknowledged(transport) if unsent else 0
        if held < lifetime._held or not (unsent or closing):
            lifetime._moved_at = now
            if unsent and lifetime.phase is Phase.SENDING:
                lifetime.deadline = now + self.answer_seconds
        lifetime._held = held
        self.count_unsent(lifetime, unsent)
        if now - lifetime._moved_at >= self._send_timeout:
            lifetime.drop("unread")
        elif now >= lifetime.deadline:
            lifetime.deadline = inf
            lifetime.carrier.expire()
        else:
            lifetime.carrier.tick(now)
