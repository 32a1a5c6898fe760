"""The budgets of one run, beside its time and its steps, and of all runs of this process."""

from __future__ import annotations

from collections.abc import Sequence
from sys import getsizeof

from msgspec import Struct
from msgspec.structs import astuple

from twinwire.agents import RunRequest
from twinwire.models import BYTES_PER_TOKEN, Message, Usage
from twinwire.protocol.errors import BudgetSpent, TooManyRuns
from twinwire.protocol.fold import Fold

MANY = 2**62
MESSAGE_COST = 320
"""Bytes that a message takes beside its text."""


LOOK_BYTES = 2**16
"""The most bytes of events between two looks at the tokens of a run that is far from its budget."""


class Budget(Struct, frozen=True, kw_only=True):
    """So many events before the terminal one, so many bytes of them, and so many tokens.

    Tokens are those that the run's `Usage` has: as the model's server counted them. Beside an estimate for a call
    without a count, the text since the last count is estimated as well: a token for four bytes, or for an event.
    """

    events: int
    bytes: int
    tokens: int


class Live:
    """The memory of all runs that go on in this process: at most `limit` bytes of events and conversations."""

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0


_NO_REQUEST, _NO_FOLD = RunRequest(""), Fold()


class Share:
    """One run's share of what is `live`, beside its own budget. `release` it once, at the run's end."""

    __slots__ = (
        *("_at", "_bytes", "_counted", "_events", "_fold", "_held", "_kept", "_live", "_look", "_request"),
        *("_size", "_tokens"),
    )

    def __init__(self, live: Live, budget: Budget | None) -> None:
        self._live = live
        self._events, self._bytes, self._tokens = astuple(budget or Budget(events=MANY, bytes=MANY, tokens=MANY))
        self._held = 0  # bytes of the conversation
        self._size = 0  # and of the events
        self._kept = 0  # and of what another process needs to go on with the run
        self._counted = 0  # tokens
        self._at = 0, 0  # the bytes that were said, and the events, when they were counted
        self._look = 0  # the bytes of events from which on there may be too many, or too many tokens
        self._request, self._fold = _NO_REQUEST, _NO_FOLD  # until it begins

    def begin(self, request: RunRequest, fold: Fold) -> None:
        """The run begins: its usage is in this request, and what it has said in this fold."""
        self._request, self._fold = request, fold

    def hold(self, history: Sequence[Message], runs: int) -> None:
        """Count what the run is given, as it is in memory. Raise `TooManyRuns` if there is no room: `runs` go on."""
        cost = sum(MESSAGE_COST + getsizeof(str(message.get("content", ""))) for message in history)
        if self._live.taken + cost > self._live.limit:
            raise TooManyRuns(runs)
        self._live.taken += cost
        self._held += cost

    def resume(self, size: int, runs: int) -> None:
        """Count the events, of so many bytes, that a run has from other processes. Raise `TooManyRuns` as `hold`."""
        if self._live.taken + size > self._live.limit:
            raise TooManyRuns(runs)
        self._live.taken += size
        self._size = size

    def keep(self, size: int) -> bool:
        """Count so many bytes, in the place of those before, that are kept for another process to go on with the run.

        Return False, having counted nothing, if there is no room.
        """
        if self._live.taken + size - self._kept > self._live.limit:
            return False
        self._live.taken += size - self._kept
        self._kept = size
        return True

    def check(self, events: int, size: int) -> None:
        """Raise `BudgetSpent` if the run may not have so many events, or so many bytes of them, or its tokens."""
        if events > self._events:
            raise BudgetSpent(self._events, "events")
        usage = self._request.usage
        if size >= self._look or usage.total_tokens != self._counted:
            if size > self._bytes:
                raise BudgetSpent(self._bytes, "bytes of events")
            self.spend(usage, self._fold.said, events, self._size)  # this event is not in the fold yet
        live = self._live
        taken = live.taken + size - self._size
        if taken > live.limit:
            raise BudgetSpent(live.limit, "bytes that all runs share")
        live.taken = taken
        self._size = size

    def spend(self, usage: Usage, said: int, events: int, size: int) -> None:
        """Raise `BudgetSpent` if these are too many tokens, in a run that has said so many bytes in its events."""
        if (tokens := usage.counted) != self._counted:
            self._counted, self._at = tokens, (said, events)  # all that was said until now is in it
        tokens += usage.voided_tokens
        if usage.estimated_tokens:
            said_since, events_since = said - self._at[0], events - self._at[1]
            tokens += usage.estimated_tokens + max(said_since // BYTES_PER_TOKEN, events_since)
        if tokens > self._tokens:
            raise BudgetSpent(self._tokens, "tokens")
        more = min(BYTES_PER_TOKEN * (self._tokens - tokens), LOOK_BYTES)  # what is said is in the events
        self._look = min(size + more, self._bytes + 1)

    def release(self) -> None:
        """Give all of it back."""
        self._live.taken -= self._held + self._size + self._kept
        self._held = self._size = self._kept = 0
        self._request, self._fold = _NO_REQUEST, _NO_FOLD
