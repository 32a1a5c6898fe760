"""How much one run may come to, beside its time and its steps."""

from __future__ import annotations

from msgspec import Struct

from twinwire.agents import RunRequest
from twinwire.errors import BudgetSpent


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
