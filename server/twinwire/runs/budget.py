"""How much one run may come to, beside its time and its steps, and all runs that go on in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from twinwire.agents import RunRequest
from twinwire.errors import BudgetSpent, TooManyRuns
from twinwire.models import Message

MESSAGE_COST = 320
"""Bytes that a message takes beside its text."""


class Check(Protocol):
    """What a run asks before it writes an event."""

    def check(self, request: RunRequest, events: int, size: int) -> None:
        """Raise `BudgetSpent` if a run may not have so many events, or so many bytes of them."""
        ...


class Budget(Struct, frozen=True, kw_only=True):
    """So many events before the terminal one, so many bytes of them, and so many tokens as the model counts them.

    Tokens are counted when a step's call of the model is over: one call may go over.
    """

    events: int
    bytes: int
    tokens: int

    def check(self, request: RunRequest, events: int, size: int) -> None:
        """Raises `BudgetSpent` for the first that is over; tokens are those that the request's `usage` has."""
        if events > self.events:
            raise BudgetSpent(self.events, "events")
        if size > self.bytes:
            raise BudgetSpent(self.bytes, "bytes of events")
        if request.usage.total_tokens > self.tokens:
            raise BudgetSpent(self.tokens, "tokens")


class Live:
    """What all runs that go on in this process hold: at most `limit` bytes of events and conversations."""

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0


class Share:
    """One run's share of what is `live`, beside its own budget. `release` it once, at the run's end."""

    __slots__ = ("_budget", "_live", "_size", "_taken")

    def __init__(self, live: Live, budget: Budget | None) -> None:
        self._live = live
        self._budget = budget
        self._size = 0
        self._taken = 0

    def hold(self, history: Sequence[Message], runs: int) -> None:
        """Count the conversation that the run is given. Raise `TooManyRuns`, of which `runs` go on, without room."""
        cost = sum(MESSAGE_COST + len(str(message.get("content", ""))) for message in history)
        if self._live.taken + cost > self._live.limit:
            raise TooManyRuns(runs)
        self._live.taken += cost
        self._taken += cost

    def check(self, request: RunRequest, events: int, size: int) -> None:
        """See `Check`."""
        if self._budget is not None:
            self._budget.check(request, events, size)
        live, grown = self._live, size - self._size
        if live.taken + grown > live.limit:
            raise BudgetSpent(live.limit, "bytes that all runs share")
        live.taken += grown
        self._taken += grown
        self._size = size

    def release(self) -> None:
        """Give all of it back."""
        self._live.taken -= self._taken
        self._taken = 0
