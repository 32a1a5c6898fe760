"""The budgets of one run, beside its time and its steps, and of all runs of this process."""

from __future__ import annotations

from collections.abc import Sequence
from sys import getsizeof

from msgspec import Struct
from msgspec.structs import astuple

from twinwire.agents import RunRequest
from twinwire.models import Message
from twinwire.protocol.errors import BudgetSpent, TooManyRuns

MANY = 2**62
MESSAGE_COST = 320
"""Bytes that a message takes beside its text."""


class Budget(Struct, frozen=True, kw_only=True):
    """So many events before the terminal one, so many bytes of them, and so many tokens as the model counts them.

    Tokens are counted when a step's call of the model is over: one call may go over.
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


class Share:
    """One run's share of what is `live`, beside its own budget. `release` it once, at the run's end."""

    __slots__ = ("_bytes", "_events", "_held", "_live", "_size", "_tokens")

    def __init__(self, live: Live, budget: Budget | None) -> None:
        self._live = live
        self._events, self._bytes, self._tokens = astuple(budget or Budget(events=MANY, bytes=MANY, tokens=MANY))
        self._held = 0  # bytes of the conversation
        self._size = 0  # and of the events

    def hold(self, history: Sequence[Message], runs: int) -> None:
        """Count what the run is given, as it is in memory. Raise `TooManyRuns` if there is no room: `runs` go on."""
        cost = sum(MESSAGE_COST + getsizeof(str(message.get("content", ""))) for message in history)
        if self._live.taken + cost > self._live.limit:
            raise TooManyRuns(runs)
        self._live.taken += cost
        self._held += cost

    def check(self, request: RunRequest, events: int, size: int) -> None:
        """Raise `BudgetSpent` if the run may not have so many events, or so many bytes of them.

        Tokens are those that the request's `usage` has.
        """
        if events > self._events:
            raise BudgetSpent(self._events, "events")
        if size > self._bytes:
            raise BudgetSpent(self._bytes, "bytes of events")
        if request.usage.total_tokens > self._tokens:
            raise BudgetSpent(self._tokens, "tokens")
        live = self._live
        taken = live.taken + size - self._size
        if taken > live.limit:
            raise BudgetSpent(live.limit, "bytes that all runs share")
        live.taken = taken
        self._size = size

    def release(self) -> None:
        """Give all of it back."""
        self._live.taken -= self._held + self._size
        self._held = self._size = 0
