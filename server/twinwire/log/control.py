"""The control of a log that one process has to itself: there is no other worker to tell or to ask."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from twinwire.log.base import Gauge, HearLogOut, Limits, RunInfo, SessionKey
from twinwire.log.orphan import Orphan
from twinwire.log.saying import Noted, Outcome, Saying
from twinwire.log.sessions import Sessions
from twinwire.protocol.events import Record


class LocalControl:
    """See `Control`. Conversations are in memory."""

    def __init__(self, limits: Limits) -> None:
        self.worker = secrets.token_hex(8)
        self.heard: HearLogOut = lambda _user_id, _when: None
        self._sessions = Sessions(limits)
        self._busy: dict[SessionKey, str] = {}
        self._waiting: set[str] = set()  # runs that wait for their users

    async def history(self, session: SessionKey) -> list[dict[str, str]]:
        return self._sessions.history(session)

    async def remember(self, session: SessionKey, question: str, answer: str) -> None:
        self._sessions.add(session, question, answer)

    async def occupy(self, session: SessionKey, run_id: str) -> str | None:
        holder = self._busy.setdefault(session, run_id)
        return None if holder == run_id else holder

    async def holder(self, session: SessionKey) -> str | None:
        return self._busy.get(session)

    async def vacate(self, session: SessionKey, run_id: str) -> None:
        if self._busy.get(session) == run_id:
            del self._busy[session]

    async def claim(self, orphan: Orphan, records: Sequence[Record]) -> bool:  # noqa: ARG002 - the protocol's
        """See `Control`. A run that does not go on here goes on nowhere."""
        return False

    async def release(self, run_id: str) -> None:
        """See `Control`. There is no other process."""

    async def cancel(self, run: RunInfo) -> None:
        """See `Control`. A run that does not go on here goes on nowhere."""

    async def tell(self, run: RunInfo, saying: Saying) -> Outcome:  # noqa: ARG002 - the protocol's
        """See `Control`. A run that does not go on here has ended."""
        return Outcome(status="already_finished", message_id=saying.message_id)

    def note(self, run: RunInfo, noted: Noted) -> None:
        (self._waiting.add if noted.waiting else self._waiting.discard)(run.run_id)

    async def noted(self, run_id: str) -> Noted:  # noqa: ARG002 - the protocol's
        return Noted()

    def follow(self, run_id: str) -> None:
        pass

    def unfollow(self, run_id: str, *, left: bool = False) -> None:
        pass

    async def followed(self, run_id: str) -> bool:  # noqa: ARG002 - the protocol's
        return False

    async def log_out(self, user_id: str, when: float, seconds: float) -> None:  # noqa: ARG002 - the protocol's
        self.heard(user_id, when)

    def gauges(self) -> Sequence[Gauge]:
        return ()
