"""The runs that the log keeps, whoever has started them: lists of them, and their deletion."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Literal

from twinwire.auth import ANYBODY, Identity
from twinwire.log import (
    MAX_LISTED,
    Listing,
    Position,
    RunInfo,
    RunState,
    RunSummary,
    SessionKey,
    Store,
    Wanted,
)
from twinwire.protocol.errors import LogUnavailable, RunNotFound
from twinwire.protocol.events import status_of
from twinwire.protocol.wire import check_run_id

CancelStatus = Literal["accepted", "already_finished"]

END_SECONDS = 5.0  # within which a run that is cancelled has ended, and its turn is in its conversation
SEEN_SECONDS = 0.2  # in which those who follow a run that is deleted can read how it ended
LOOK_SECONDS = 0.01


class Kept(ABC):
    """The part of `Runs` that needs only the log, and the means to cancel."""

    log: Store

    @abstractmethod
    async def cancel(self, run_id: str, by: Identity) -> CancelStatus:
        """Cancel a run, wherever it goes on. Idempotent. Raises `RunNotFound`, as `state`."""

    async def state(self, run_id: str, by: Identity) -> RunState:
        """Return what is known of a run. Raises `RunNotFound`, also for a run that is not for `by` to see."""
        return await self.log.state(check_run_id(run_id), by.owner(run_id))

    async def summary(self, run_id: str, by: Identity) -> RunSummary:
        """Return what a list of runs tells of this one. Raises `RunNotFound`, as `state`."""
        return await self.log.summary(check_run_id(run_id), by.owner(run_id))

    async def active(self, session: SessionKey, by: Identity) -> str | None:
        """Return the run that goes on in this conversation, if one does and `by` may see it."""
        run_id = await self.log.holder(session)
        try:
            return None if run_id is None or (await self.state(run_id, by)).terminal is not None else run_id
        except RunNotFound:
            return None  # it is only about to start, or somebody else's

    async def listed(self, wanted: Wanted, by: Identity, limit: int, before: Position | None = None) -> Listing:
        """Return a page of runs, as `EventLog.listed`: for a ticket of one run, that run if it is wanted."""
        if by.run_id is None:
            return await self.log.listed(wanted, limit, before)
        try:
            run = await self.summary(by.run_id, by)
        except RunNotFound:
            return Listing((), None)
        created, since, until = run.info.created, wanted.created_after, wanted.created_before
        timely = (since is None or created >= since) and (until is None or created < until)
        admitted = timely and before is None and wanted.admits(run.info, status_of(run.outcome))
        return Listing([by.run_id] if admitted else (), None)

    async def delete(self, run_id: str, by: Identity) -> None:
        """Delete a run, wherever it is; one that goes on is cancelled first. Its turn stays in its conversation.

        Raise `RunNotFound`, as `state`, and `LogUnavailable` if the run does not end in time.
        """
        run = await self.state(run_id, by)
        await self._settle(run.info, ended=run.terminal is not None)
        if not await self.log.delete(run_id):
            raise LogUnavailable

    async def forget(self, user_id: str) -> None:
        """Delete all that is kept of a user: runs, those that go on are cancelled first, and conversations.

        What the user starts meanwhile stays. To do so again is no error. Raise `LogUnavailable` if something may be
        left.
        """
        before: Position | None = None
        settled = True
        while True:
            page = await self.log.listed(Wanted(user_id=user_id), MAX_LISTED, before)
            known = await asyncio.gather(*(self._known(run_id) for run_id in page.run_ids))
            work = [self._settle(run.info, ended=bool(run.outcome)) for run in known if run is not None]
            settled = all(await asyncio.gather(*work)) and settled
            if (before := page.next) is None:
                break
        await self.log.forget(user_id)
        if not settled:
            raise LogUnavailable

    async def _known(self, run_id: str) -> RunSummary | None:
        try:
            return await self.summary(run_id, ANYBODY)
        except RunNotFound:
            return None

    async def _settle(self, run: RunInfo, *, ended: bool) -> bool:
        """Cancel a run unless it has `ended`. Return whether its turn is in its conversation, which it writes last."""
        if not ended:
            try:
                await self.cancel(run.run_id, ANYBODY)
                if not await _until(lambda: self._over(run.run_id)):
                    return False
            except RunNotFound:
                return True
            await asyncio.sleep(SEEN_SECONDS)
        return await _until(lambda: self._left(run))

    async def _over(self, run_id: str) -> bool:
        return bool((await self.summary(run_id, ANYBODY)).outcome)

    async def _left(self, run: RunInfo) -> bool:
        return await self.log.holder((run.user_id, run.session_id)) != run.run_id


async def _until(condition: Callable[[], Awaitable[bool]]) -> bool:
    """Wait for a condition that nothing announces, as another worker may bring it about: for `END_SECONDS` at most."""
    due = time.monotonic() + END_SECONDS
    while not (met := await condition()) and time.monotonic() < due:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(LOOK_SECONDS)
    return met
