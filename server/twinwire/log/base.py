"""The protocols of a log: `EventLog` for events, `Control` for what all workers know of runs, `Store` for both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from enum import Enum
from sys import getsizeof
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
from msgspec import Struct, field

from twinwire.log.saying import Noted, Outcome, Saying
from twinwire.protocol.events import Record

if TYPE_CHECKING:
    from twinwire.log.orphan import Orphan

Unsubscribe = Callable[[], None]

Cursor = Callable[[], int]
"""Returns the number of the last event that a follower has read."""

HearLogOut = Callable[[str, float], None]
"""Called with a user, and the Unix time when they logged out."""

MAX_LISTED = 100
"""The most runs that one page of a list has."""
SCANNED = 1000
"""The most runs that are looked at for one page of a list."""

STOPPING = "The server is shutting down."
LOST_EVENTS = "the log has lost events of this run"

SessionKey = tuple[str | None, str | None]
"""User and session; a user's conversation without a session id is a session of its own."""

Position = tuple[str, str]
"""A run's place in lists, which have the newest run first: its `created` and its id."""


class Limits(Struct, frozen=True, kw_only=True):
    """The bounds of a log.

    The newest `max_events` events of a run; `max_bytes` bytes of events of all runs, of which those that ended first go
    first; an ended run for `retention` seconds. Of conversations `max_sessions`, `session_bytes` bytes of each (its
    oldest turns go first), for `session_idle` seconds unused.

    Of what is in this process's memory, `max_ended` ended runs, and `sessions_bytes` bytes of all conversations.
    A run goes on for at most `longest` seconds, those in which it waits for its user among them. An orphan that no
    worker takes over for `claim_timeout` seconds is ended.
    """

    max_events: int
    max_bytes: int
    retention: float
    max_sessions: int
    session_bytes: int
    session_idle: float
    max_ended: int = 100_000
    sessions_bytes: int = 2**28
    longest: float = 8 * 86_400.0
    claim_timeout: float = 60.0


class Quota(Struct, frozen=True, kw_only=True):
    """The quota of one user: `runs` at once, and `starts` in a minute. The new run ends within `longest` seconds.

    Runs that wait for their user are no `runs`, but `waiting`.
    """

    runs: int
    starts: int
    longest: float
    waiting: int = 20


class RunInfo(Struct, frozen=True, kw_only=True):
    """The facts of a run that are known from its start. Its outcome is in its events.

    `created` is RFC 3339, `owner` the worker that started it. `fingerprint` tells whether a request that repeats an
    idempotency key is the same. `metadata` are the labels that its start gave it; `retention` is the number of seconds
    that it is kept after its end, None for the log's own.
    """

    run_id: str
    agent: str
    created: str
    user_id: str | None = None
    session_id: str | None = None
    fingerprint: str = ""
    owner: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    retention: float | None = None

    @property
    def weight(self) -> int:
        """Return the bytes that the labels take in memory."""
        return sum(getsizeof(text) for label in self.metadata.items() for text in label)


class Page(Struct, frozen=True):
    """Some events in order, and what the log has: `first`..`last`; `ended` if `last` is the terminal event.

    A log without an event has `first` 1 and `last` 0.
    """

    records: Sequence[Record]
    first: int
    last: int
    ended: bool


class RunState(Struct, frozen=True):
    """A run and what the log holds of it, as a `Page` tells it; `terminal` is the terminal event once it is there.

    `size` is about how many bytes of events the log holds. `owner` is the worker that has the run now, which may be
    another than the one that started it (`RunInfo.owner`).
    """

    info: RunInfo
    first: int
    last: int
    terminal: Record | None
    size: int = 0
    owner: str = ""


class RunSummary(Struct, frozen=True):
    """A run as a list of runs tells it: how it ended is `events.outcome`, empty before the end.

    No event is read for it, however large the result is.
    """

    info: RunInfo
    first: int
    last: int
    outcome: bytes


class Wanted(Struct, frozen=True, kw_only=True):
    """The runs that a list is to have: those of one user, or of everybody and nobody if `user_id` is None.

    `labels` are texts such as `team:red`: a run has the label `team` with the value `red`. All of them must hold.
    `created_after` and `created_before` are times as `RunInfo.created`; the first itself is within, the second is not.
    """

    user_id: str | None = None
    agent: str | None = None
    status: str | None = None
    labels: Sequence[str] = ()
    created_after: str | None = None
    created_before: str | None = None

    def admits(self, run: RunInfo, status: str) -> bool:
        """Return whether a run of the right user and time is wanted."""
        return (
            self.agent in {None, run.agent}
            and self.status in {None, status}
            and {f"{name}:{value}" for name, value in run.metadata.items()}.issuperset(self.labels)
        )

    def end(self, before: Position | None) -> Position | None:
        """Return the place before which all wanted runs are that come after `before` in a list; None for no bound."""
        ends = [before, None if self.created_before is None else (self.created_before, "")]
        return min((end for end in ends if end is not None), default=None)


class Listing(NamedTuple):
    """A page of a list of runs, and the place after which the next page begins; None if this is the last one."""

    run_ids: Sequence[str]
    next: Position | None


def listing(runs: Sequence[tuple[RunInfo, str]], wanted: Wanted, limit: int, rest: Position | None) -> Listing:
    """Return the page of at most `limit` wanted runs among these, each with its status, the newest first.

    `rest` is the place at which those begin that were not looked at.
    """
    found: list[str] = []
    for number, (run, status) in enumerate(runs, 1):
        if wanted.admits(run, status):
            found.append(run.run_id)
            if len(found) == limit:
                return Listing(found, rest if number == len(runs) else (run.created, run.run_id))
    return Listing(found, rest)


class Folded(NamedTuple):
    """The state that a run's events up to number `seq` come to, as `Fold.state`."""

    seq: int
    state: dict[str, Any]


folded_of = msgspec.json.Decoder(Folded).decode
"""Reads what `events.dump` has made of a `Folded`."""


class Departure(Enum):
    """The way in which a follower of a run has gone."""

    GONE = "gone"  # the connection ended, or follows the run no longer: they may come back
    LEFT = "left"  # for good, as they say
    DROPPED = "dropped"  # by the server, because they were too slow


class Sink(Protocol):
    """A receiver of a run's records as they are appended, without a page being read. Hashable.

    Neither method may raise, and both may have this sink or another leave.
    """

    def push(self, records: Sequence[Record]) -> None:
        """Take records that follow those it has seen."""
        ...

    def lag(self) -> None:
        """Take no more: what is appended next is to be read from the log, or the log may have lost something."""
        ...


class EventLog(Protocol):
    """The store of events: one writer per run, any number of readers.

    `outlives` is true of a log that is there after its process: another can go on with a run then, from what `create`
    and `append` have kept for it until the run's end. No client can read that.
    """

    outlives: bool

    async def create(
        self, run: RunInfo, *, idempotency_key: str | None, quota: Quota | None = None, start: bytes = b""
    ) -> RunInfo:
        """Open the log of a run. `start` is all that another process needs to begin it; empty if none can go on.

        Return `run`, or the run that this user started with this key before. Raise `IdempotencyMismatch` if that one's
        fingerprint differs; `TooManyRuns` or `RateLimited` if a new run is over its user's quota, in which runs count
        as long as they have no terminal event, on all workers.
        """
        ...

    def append(
        self, run_id: str, expected_last: int, records: Sequence[Record], checkpoint: bytes | None = None
    ) -> Awaitable[None] | None:
        """Append records, at least one, whose numbers follow `expected_last`, and wake the followers.

        A `checkpoint` takes the place of the one before, with the records or not at all; there may be no record with
        it. An empty one says that no other process can go on with the run any more.
        Return None if it is done, else an awaitable: a log in memory costs its writer no coroutine.
        Raise `StaleWriter`, having appended nothing, if the log is elsewhere or has ended. To append the same again is
        no error.
        """
        ...

    async def find(self, user_id: str | None, idempotency_key: str) -> RunInfo | None:
        """Return the run that this user started with this key, if it is still known."""
        ...

    async def listed(self, wanted: Wanted, limit: int, before: Position | None = None) -> Listing:
        """Return at most `limit` runs that any worker started, the newest first, of those that come after `before`.

        At most `SCANNED` runs are looked at: so a page may have fewer runs, or none, although there are more. Some of
        the runs may be forgotten since.
        """
        ...

    async def state(self, run_id: str, user_id: str | None = None) -> RunState:
        """Return what is known of the run; with `user_id`, of a run of this user.

        Raises `RunNotFound`. It takes the same steps to find that a run is another user's and that there is none.
        """
        ...

    async def summary(self, run_id: str, user_id: str | None = None) -> RunSummary:
        """Return what a list of runs tells of this one. `user_id` and errors are those of `state`."""
        ...

    async def page(self, run_id: str, after: int, limit: int) -> Page:
        """Return at most `limit` events after number `after`, fewer if they are large. Never wait for more.

        Raise `RunNotFound`, or `CursorGone` for a cursor that was trimmed or lies in the future. If `LogUnavailable` is
        raised, subscribers are woken when it is time to try again.
        """
        ...

    async def delete(self, run_id: str) -> bool:
        """Delete all that is kept of a run that has ended, but for its turn in a conversation.

        Return False, having done nothing, if the run goes on. Raise `RunNotFound`. Followers are woken: the next page
        that they read raises that, too.
        """
        ...

    async def forget(self, user_id: str) -> None:
        """Delete a user's conversations, and the user's runs that have ended, as `delete` does.

        To do so again is no error. Raise `LogUnavailable` if something may be left.
        """
        ...

    async def folded(self, run_id: str) -> Folded | None:
        """Return the state that the log has kept of a run which it has trimmed; the events after it are in the log.

        None if there is none: the run was not trimmed, or goes on in this process.
        """
        ...

    async def ping(self) -> None:
        """Raise `LogUnavailable` if the log cannot be reached."""
        ...

    def newest(self, run_id: str) -> int | None:
        """Return the number of the run's newest event, or None if this process does not have it in memory."""
        ...

    def join(self, run_id: str, after: int, sink: Sink) -> Sink | None:
        """Give what is appended to a run from now on to `sink`, or to an equal one that has joined before.

        Return the sink that gets it, or None if `after` is not the run's newest event, if the run has ended, or if
        this process does not have the run's newest events in memory. A sink that lags has left.
        """
        ...

    def leave(self, run_id: str, sink: Sink) -> None:
        """Give this sink no more. It is no error if it has left, or if the run is not known."""
        ...

    def subscribe(self, run_id: str, wake: Callable[[], None], cursor: Cursor | None = None) -> Unsubscribe:
        """Have `wake` called after each append to a run. It must be quick and must not raise.

        A follower gives its `cursor`: the log waits for it before it trims an event after that, as `backpressure` says.
        A run that is not known is no error: reading its next page is one.
        """
        ...


class Owner(Protocol):
    """The process whose runs a log keeps, which is `Runs`: the log calls it."""

    def cancel_here(self, run_id: str) -> None:
        """Somebody, on any worker, cancels a run that this process owns."""
        ...

    def unfollowed(self, run_id: str, *, left: bool) -> None:
        """The last follower on another worker has gone from a run that this process owns; whether for good."""
        ...

    def interrupt(self, run_ids: Collection[str] | None = None, why: str = STOPPING) -> None:
        """End these runs of this process, or all, with an ERROR `interrupted` whose message is `why`.

        If others have ended a run, or the log has lost it, that ERROR is refused, and the run stops all the same.
        """
        ...

    def block(self, run_id: str) -> None:
        """Have what `emit` returns to the agent of a run wait until `unblock`: a follower is too far behind."""
        ...

    def unblock(self, run_id: str) -> None:
        """Let the agent go on. It is no error if the run was not blocked, or is not known."""
        ...

    async def hear(self, run_id: str, saying: Saying) -> Outcome | None:
        """Take what is said to a run of this process on another worker; None if it does not go on here.

        Raises `UnknownOutcome` and what else `Inputs.hear` does.
        """
        ...

    def folded(self, run_id: str) -> Folded | None:
        """Return the state of a run of this process: of all its events, some of which may not be in the log yet."""
        ...

    def owns(self, run_id: str) -> bool:
        """Return whether this process still writes this run, which it created and has neither ended nor given up."""
        ...

    async def take_over(self, orphan: Orphan) -> bool:
        """Go on with a run whose process is gone, by `Control.claim`, or find that somebody else has been faster.

        Return False if this process cannot: it has no such agent, no room, or is about to end. Another may, until the
        log ends the run as interrupted. Raises `LogUnavailable`.
        """
        ...


class Control(Protocol):
    """The facts about runs that are no events, for all workers that use one log.

    `worker` names this process among them; the runs it starts are its own (`RunInfo.owner`). `heard` is called with
    each log-out on any worker, maybe more than once; it is set before `open`, which calls it with those that count yet.
    """

    worker: str
    heard: HearLogOut

    async def history(self, session: SessionKey) -> list[dict[str, str]]:
        """The conversation so far, oldest message first, in OpenAI's chat form."""
        ...

    async def remember(self, session: SessionKey, question: str, answer: str) -> None:
        """Add a turn to the conversation."""
        ...

    async def occupy(self, session: SessionKey, run_id: str) -> str | None:
        """Make this run the session's one that goes on. Returns None, or the run that is it already."""
        ...

    async def holder(self, session: SessionKey) -> str | None:
        """Return the run that goes on in this session, or has just ended; None if there is none."""
        ...

    async def vacate(self, session: SessionKey, run_id: str) -> None:
        """The session is free again, if this run held it."""
        ...

    async def claim(self, orphan: Orphan, records: Sequence[Record]) -> bool:
        """Make this worker the owner of an orphan, and append its records, whose numbers follow `orphan.last`, as one.

        Return False, having done nothing, if the run is an orphan no more, or not this one any more. From then on
        this worker appends to it, and no append of its owner before is taken.
        """
        ...

    async def release(self, run_id: str) -> None:
        """Let another process go on with a run of this one at once, which writes no more to it.

        Its claims count from 0 again. Does nothing for a run that is not this worker's, and raises no `LogUnavailable`.
        """
        ...

    async def cancel(self, run: RunInfo) -> None:
        """Have the run's owner cancel it, wherever that is.

        If the owner is gone, whoever goes on with the run cancels it.
        """
        ...

    async def tell(self, run: RunInfo, saying: Saying) -> Outcome:
        """Have the run's owner take what is said to it, and return what has become of it.

        Raises `LogUnavailable` if it is not certain that the owner has heard it, and what the owner raises. Whoever
        waits for no answer any more cancels this.
        """
        ...

    def note(self, run: RunInfo, noted: Noted) -> None:
        """Let all workers know what a run of this process asks, soon."""
        ...

    async def noted(self, run_id: str) -> Noted:
        """Return what the owner of a run that goes on elsewhere has noted last."""
        ...

    def follow(self, run_id: str) -> None:
        """This worker has a first follower of a run that it does not own."""
        ...

    def unfollow(self, run_id: str, *, left: bool = False) -> None:
        """This worker has no more follower of it. Tell the run's owner, also whether the last one `left` for good."""
        ...

    async def followed(self, run_id: str) -> bool:
        """Return whether another worker that lives has a follower of this run."""
        ...

    async def log_out(self, user_id: str, when: float, seconds: float) -> None:
        """Tell all workers that this user logged out at this Unix time, also those that start within so many seconds.

        This worker has `heard` it on return. Raises `LogUnavailable`: it is not certain that anybody has, then.
        """
        ...


class Gauge(NamedTuple):
    """A figure of one kind of log, for `/metrics`: its name without `twinwire_`, what it is, its value now."""

    name: str
    text: str
    value: float


class Store(EventLog, Control, Protocol):
    """A log and its control, which live and end together."""

    async def open(self, owner: Owner) -> None:
        """Begin: connect, recover what a crash left open. Idempotent. Raise `SettingsError` if that fails."""
        ...

    async def close(self) -> None:
        """Write what is pending, then let go. Idempotent."""
        ...

    def gauges(self) -> Sequence[Gauge]:
        """Return the figures that only this kind of log has."""
        ...
