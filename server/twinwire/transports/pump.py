"""One pump per connection: takes pages from logs at its cursors and writes them to a transport.

Past and live are one loop over one log. A follower that has seen all there is joins its log, if our server allows
that: an append then writes to the connection itself; else it wakes the pump. Events that a client has yet to take stay
in the log: the pump has one page at most, and ends if a send takes longer than the deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

from twinwire.auth import ANYBODY, Identity
from twinwire.formats import View
from twinwire.formats.native import NativeView
from twinwire.log import Departure, EventLog
from twinwire.protocol.errors import CursorGone, LogLost, LogUnavailable, RunNotFound, TwinwireError
from twinwire.transports import Transport, Verdict
from twinwire.transports.follower import Follower
from twinwire.transports.limiter import FREE_STATE, Limiter

PAGE_EVENTS = 256
MAX_REPLIES = 64
REPLY_BYTES = 16 * 1024
MAX_FOLLOWED = 100
FOLLOWER_BYTES = 1024


def _weight(view: View) -> int:
    """Return how many bytes a follower with this view takes."""
    return FOLLOWER_BYTES + (view.weight if isinstance(view, NativeView) else 0)


class Presence(Protocol):
    """The count of the followers of each run."""

    def follow(self, run_id: str) -> None:
        """One more."""
        ...

    def unfollow(self, run_id: str, departure: Departure) -> None:
        """One less, and how it went."""
        ...


class Pump:
    """The cursors of one connection, served in turn, a page each.

    `once` ends the connection when no cursor is left (SSE); else it stays open for more (WebSocket). `lost`, if set, is
    called with a follower and its error if the events at its cursor are gone; else that ends the connection.

    The pump's task serves the first of these that there is, and looks again:

    | there is | set by | the task |
    |---|---|---|
    | `_verdict` | `end`, which also cancels a send | ends the connection |
    | `_above` | the connection, or a heartbeat | waits until the connection has drained |
    | `_replies` | `say` | sends them |
    | `_ready` | a follower that is woken | sends one page of the first |
    | no follower, if `once` | `detach` | ends the connection: DONE |
    | `_last_verdict` | `end(when_idle=True)` | ends the connection |
    | nothing | | waits for `_sleeping`, which `_wake` resolves |

    `_sending_since` is set while it waits for the client.
    """

    __slots__ = (
        "_above",
        "_beat_at",
        "_by",
        "_counted",
        "_followers",
        "_held",
        "_last_verdict",
        "_limiter",
        "_log",
        "_loop",
        "_once",
        "_presence",
        "_ready",
        "_replies",
        "_reply_bytes",
        "_room",
        "_sending_since",
        "_sent",
        "_sent_at",
        "_sleeping",
        "_task",
        "_transport",
        "_verdict",
        "due",
        "lost",
        "state",
        "transport",
    )

    def __init__(
        self,
        log: EventLog,
        presence: Presence,
        transport: Transport,
        *,
        once: bool,
        limiter: Limiter | None = None,
    ) -> None:
        self._log = log
        self._limiter = limiter  # counts the state of all sockets; None for a stream, which has one follower
        self.state = 0
        """Bytes of what the connection follows, and of what its session remembers."""
        self._counted = 0  # of these, in what all sockets share
        self._presence = presence
        self._transport = transport
        self._once = once
        self.lost: Callable[[Follower, TwinwireError], None] | None = None
        self._by = ANYBODY
        self.due = 0.0  # until when (of the loop's clock) there is nothing to `tick` for
        self.transport = transport.name
        self._loop = asyncio.get_running_loop()
        self._followers: dict[str, Follower] = {}
        self._ready: dict[Follower, None] = {}
        self._replies: list[bytes] = []
        self._reply_bytes = 0  # of the replies that are not sent, the ones that wait for the client among them
        self._sent: list[Callable[[], None]] = []  # to be called when those are sent
        self._room: asyncio.Future[None] | None = None
        self._sleeping: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._verdict: Verdict | None = None
        self._last_verdict: Verdict | None = None
        self._above = False  # an append or a heartbeat has left the connection above its high-water mark
        self._sending_since: float | None = None  # or since when the client was last seen to take something
        self._held = 0  # bytes that it had yet to take then
        self._sent_at = self._beat_at = self._loop.time()
        if transport.direct is not None:
            transport.direct.on_pause = self._rose

    @property
    def by(self) -> Identity:
        """Whose connection it is."""
        return self._by

    @by.setter
    def by(self, identity: Identity) -> None:
        self._by = identity
        self.due = 0.0

    def lags(self) -> Iterator[int]:
        """Return how many events each follower is behind, of those whose run's newest events are in memory."""
        newest = ((self._log.newest(follower.run_id), follower.after) for follower in self._followers.values())
        return (last - after for last, after in newest if last is not None)

    def attach(self, run_id: str, after: int, view: View) -> None:
        """Follow a run from the event after number `after`, at this cursor alone."""
        follower = Follower(self.ready, self._log, run_id, after, view)
        if (before := self._followers.get(run_id)) is None:
            self._presence.follow(run_id)
        else:
            self._let_go(before)
        self._followers[run_id] = follower
        self.weigh(_weight(view))
        follower.wake()

    def detach(self, run_id: str, departure: Departure = Departure.GONE) -> bool:
        """Follow a run no longer. Return False if it was not followed."""
        follower = self._followers.pop(run_id, None)
        if follower is None:
            return False
        self._let_go(follower)
        self._presence.unfollow(run_id, departure)
        return True

    def _let_go(self, follower: Follower) -> None:
        follower.lag()
        follower.close()
        self._ready.pop(follower, None)
        self.weigh(-_weight(follower.view))

    def pause(self, run_id: str) -> bool:
        """Send no more events of a run; its follower keeps its cursor and its place. Return False if not followed."""
        follower = self._followers.get(run_id)
        if follower is not None:
            follower.pause()
            self._ready.pop(follower, None)
        return follower is not None

    def resume(self, run_id: str, after: int | None = None) -> bool:
        """Go on with a run at its cursor, or after event number `after`. Return False if it is not followed."""
        follower = self._followers.get(run_id)
        if follower is not None:
            self.attach(run_id, follower.after if after is None else after, follower.view)
        return follower is not None

    def weigh(self, change: int) -> None:
        """Count so many bytes more of the connection's state."""
        self.state += change
        if self._limiter is not None:
            beyond = max(0, self.state - FREE_STATE)
            self._limiter.state += beyond - self._counted
            self._counted = beyond

    def ready(self, follower: Follower) -> None:
        """The follower has something to read."""
        self._ready[follower] = None
        self._wake()

    def _rose(self) -> None:
        """The connection is above its high-water mark: nobody is live until it is below."""
        for follower in self._followers.values():
            if not follower.paused():
                follower.lag()
                self._ready[follower] = None
        self._above = True
        self._wake()

    @property
    def full(self) -> bool:
        """Return whether the connection follows as many runs as it may."""
        return len(self._followers) >= MAX_FOLLOWED

    @property
    def gone(self) -> bool:
        """Return whether the client is known to have left, although messages of its may wait still."""
        direct = self._transport.direct
        return self._verdict is not None or (direct is not None and direct.transport.is_closing())

    def follows(self, run_id: str) -> bool:
        """Return whether the connection follows this run."""
        return run_id in self._followers

    def say(self, frame: bytes, sent: Callable[[], None] | None = None) -> None:
        """Send a frame that is no event, before any event not yet taken.

        `sent` is called when the client has taken it, or the connection has ended.
        """
        if self._verdict is not None:
            if sent is not None:
                sent()
            return
        self._replies.append(frame)
        self._reply_bytes += len(frame)
        if sent is not None:
            self._sent.append(sent)
        self._wake()

    async def room(self) -> None:
        """Wait while too many replies are unsent, or too many bytes of them.

        A caller that says one reply and then waits keeps at most `REPLY_BYTES` here, and one reply of any size.
        """
        while self._verdict is None and (len(self._replies) >= MAX_REPLIES or self._reply_bytes >= REPLY_BYTES):
            self._room = self._room or self._loop.create_future()
            await self._room

    def end(self, verdict: Verdict, *, when_idle: bool = False) -> None:
        """End the connection: now, also while a send waits for the client, or once nothing is left to send.

        The first verdict that takes effect stands.
        """
        if self._verdict is not None:
            return
        if when_idle:
            self._last_verdict = verdict
            self._wake()
            return
        self._verdict = verdict
        if self._sending_since is not None and self._task is not None:
            self._task.cancel()
        self._wake()

    def left(self) -> None:
        """The client has gone."""
        self.end(Verdict.LEFT)

    def tick(self, now: float, heartbeat: float, send_timeout: float) -> None:
        """Send a heartbeat, or end a connection that takes nothing or has expired, if that is due at this loop time."""
        if self._verdict is not None:
            return
        expires_at = self._by.expires_at
        if expires_at is not None and time.time() >= expires_at:
            self.end(Verdict.EXPIRED)
        elif self._sending_since is not None:
            self._look_for_progress(now)
            if now - self._sending_since >= send_timeout:
                self.end(Verdict.SLOW)
        else:
            self._beat(now, heartbeat)
            if expires_at is None:
                self.due = self._beat_at + heartbeat

    def _look_for_progress(self, now: float) -> None:
        """Count the time of a send anew if the client has taken some of it. Only our own server can tell."""
        if (held := self._transport.unsent()) is not None:
            if held < self._held:
                self._sending_since = now
            self._held = held

    def _beat(self, now: float, heartbeat: float) -> None:
        """Send a heartbeat if it is time."""
        if not self._transport.asks and now - self._beat_at >= heartbeat:
            pushed = [follower.pushed_at for follower in self._followers.values()]
            self._beat_at = max(self._beat_at, self._sent_at, *pushed)
        if now - self._beat_at >= heartbeat:
            self._beat_at = now
            if not self._transport.heartbeat():
                self._above = True
                self._wake()

    async def run(self) -> Verdict:
        """Serve until the connection is to end. Return why. Leave no subscription behind."""
        self._task = asyncio.current_task()
        try:
            while self._verdict is None:
                if (work := self._next()) is not None:
                    await work
                    del work
        except asyncio.CancelledError:
            # A send that was given up; any other cancellation is not ours to swallow.
            if self._verdict is None or self._task is None or self._task.uncancel() > 0:
                raise
        except OSError:
            self._verdict = self._verdict or Verdict.LEFT
        finally:
            self._task = None
            self.close()
        return self._verdict

    def close(self) -> None:
        """Leave no subscription and no waiter behind. Idempotent; `run` does it too."""
        departure = Departure.DROPPED if self._verdict is Verdict.SLOW else Departure.GONE
        for run_id in list(self._followers):
            self.detach(run_id, departure)
        self.weigh(-self.state)
        self._replies.clear()
        self._all_sent(self._reply_bytes, self._sent)
        # These refer to the pump: it, and its replies, would stay until the garbage collector comes by.
        self.lost = None
        if (direct := self._transport.direct) is not None:
            direct.on_pause = direct.on_lost = None

    async def _reply(self) -> None:
        """Send the replies, and hold their part of the budget until the client has taken them."""
        frames, self._replies = self._replies, []
        size, sent = self._reply_bytes, self._sent
        self._sent = []
        try:
            await self._send(taken=self._transport.write(frames))
        finally:
            self._all_sent(size, sent)

    def _all_sent(self, size: int, sent: list[Callable[[], None]]) -> None:
        self._reply_bytes -= size
        for call in sent:
            call()
        sent.clear()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def _next(self) -> Awaitable[None] | None:
        """Return what to await: for room, to send the replies, or one page of one follower, or to sleep."""
        if self._above:
            self._above = False
            return self._send(taken=False)
        if self._replies:
            return self._reply()
        if self._ready:
            follower = next(iter(self._ready))
            del self._ready[follower]
            return self._page(follower)
        if self._once and not self._followers:
            self._verdict = Verdict.DONE
        elif self._last_verdict is not None:
            self._verdict = self._last_verdict
        else:
            self._sleeping = self._loop.create_future()
            return self._sleeping
        return None

    async def _page(self, follower: Follower) -> None:
        try:
            page = await self._log.page(follower.run_id, follower.after, PAGE_EVENTS)
        except (CursorGone, RunNotFound, LogLost) as error:
            self.detach(follower.run_id)
            if self.lost is None:
                self._verdict = Verdict.BROKEN
            else:
                self.lost(follower, error)
            return
        except LogUnavailable:
            return  # the log wakes the follower when it is time to try again
        if self._followers.get(follower.run_id) is not follower or follower.paused():
            return  # detached or paused while the page was read
        last, ended = page.last, page.ended
        if page.records:
            follower.after = page.records[-1].seq
            if follower.after < last:
                self._ready[follower] = None
            if frames := follower.view.frames(page.records):
                taken = self._transport.write(frames)
                del page, frames  # only the connection keeps them while its client takes its time
                await self._send(taken=taken)
            if follower in self._ready:
                await asyncio.sleep(0)  # a fast reader's long replay must not keep everybody else waiting
        if self._followers.get(follower.run_id) is not follower or follower.after != last:
            return
        direct = self._transport.direct
        if ended:
            self.detach(follower.run_id)
        elif follower.waiting:
            frames = follower.end_turn()
            self.detach(follower.run_id)
            await self._send(taken=self._transport.write(frames))
        elif follower not in self._ready and not follower.paused() and not self._above and direct is not None:
            follower.join(direct)

    async def _send(self, *, taken: bool) -> None:
        if not taken:
            self._sending_since = self._loop.time()
            self.due = 0.0
            try:
                await self._transport.drain()
            finally:
                self._sending_since = None
        self._sent_at = self._loop.time()

    def _wake(self) -> None:
        if self._sleeping is not None and not self._sleeping.done():
            self._sleeping.set_result(None)
