"""The reach of a run: it is followed, asked, told and cancelled here, on another worker, or in the log alone."""

from __future__ import annotations

import asyncio
import secrets

import msgspec

from twinwire.auth import Identity
from twinwire.log import Folded, RunInfo, RunState
from twinwire.log.saying import Noted, Outcome, Saying
from twinwire.protocol.errors import CursorGone, LogUnavailable, RunNotFound, UnknownOutcome
from twinwire.protocol.events import decode
from twinwire.protocol.fold import Fold
from twinwire.protocol.wire import check_run_id
from twinwire.runs.heard import PAGE_EVENTS, finished, heard
from twinwire.runs.kept import CancelStatus, Kept
from twinwire.runs.reserve import Claim, Reserve
from twinwire.runs.run import Run
from twinwire.telemetry.metrics import Metrics

SAY_SECONDS = 5.0  # within which it is known whether a run has taken something that was said to it


class Reach(Kept):
    """The part of `Runs` that reaches a run wherever it goes on. Those of this process are in `_live`."""

    reserve: Reserve
    _live: dict[str, Run]
    _metrics: Metrics

    async def seek(self, run_id: str, after: int, by: Identity, *, recapped: bool = False) -> RunState:
        """Return the run, for `by` to follow it after event number `after`. Raises `RunNotFound`, `CursorGone`.

        With `recapped`, whoever follows begins with the run's state if the event after `after` is trimmed.
        """
        try:
            state = await self.state(run_id, by)
        except RunNotFound:
            self._metrics.cursors["not_found"] += 1
            raise
        if not (recapped or state.first - 1 <= after) or after > state.last:
            self._metrics.cursors["gap"] += 1
            raise CursorGone(state.first, state.last)
        ended = state.terminal is not None and after == state.last
        self._metrics.cursors["ended" if ended else "resumed" if after else "begun"] += 1
        return state

    def _here(self, run_id: str, by: Identity) -> Run | None:
        """Return the run if it goes on here and is for `by` to see. A foreign one is looked up as an unknown one is."""
        run = self._live.get(run_id)
        return run if run is not None and by.sees(run_id, run.info.user_id) else None

    async def claim(self, run_id: str, by: Identity) -> Claim:
        """Reserve what a snapshot of this run may cost, to be held until the client has it.

        Raises `RunNotFound` and `Busy`.
        """
        if (run := self._here(check_run_id(run_id), by)) is not None:
            return await self.reserve.take(run.size)
        return await self.reserve.take((await self.state(run_id, by)).size)

    async def snapshot(self, run_id: str, by: Identity) -> Folded:
        """Return the state of a run.

        Raises `RunNotFound`, and `CursorGone` if the run's first events are trimmed and the log has not kept its state.
        """
        if (run := self._here(check_run_id(run_id), by)) is not None:
            return await run.snapshot()
        trimmed = (await self.state(run_id, by)).first > 1
        kept = await self.log.folded(run_id) if trimmed else None
        fold, seq = (Fold(), 0) if kept is None else (Fold.restored(kept.state), kept.seq)
        while (page := await self.log.page(run_id, seq, PAGE_EVENTS)).records:
            for record in page.records:
                fold.apply(decode(record.body))
            seq = page.records[-1].seq
            await asyncio.sleep(0)  # a long run's events are read in turns with everybody else's
        return Folded(seq, fold.state)

    def folded(self, run_id: str) -> Folded | None:
        """See `Owner`."""
        return None if (run := self._live.get(run_id)) is None else run.folded

    async def cancel(self, run_id: str, by: Identity) -> CancelStatus:
        """Cancel a run, wherever it goes on. Idempotent. Raises `RunNotFound`, as `state`, and `LogUnavailable`."""
        if (run := self._here(run_id, by)) is not None:  # first, so that it needs no log
            cancelled = run.cancel("user")
            if await self._has_ended(run):
                return "accepted" if cancelled else "already_finished"
        state = await self.state(run_id, by)
        if state.terminal is not None:
            return "already_finished"
        await self.log.cancel(state.info)
        return "accepted"

    async def _has_ended(self, run: Run) -> bool:
        """Return whether a run of this process that is over has ended: another may go on with it instead.

        That is certain once its terminal event is in the log. Raise `LogUnavailable` if it takes longer.
        """
        if run.can_resume and not run.elsewhere:
            try:
                async with asyncio.timeout(SAY_SECONDS):
                    await run.writer.flushed()
            except TimeoutError:
                raise LogUnavailable from None
            except LogUnavailable:
                pass  # it has refused the event
        return not run.elsewhere

    async def say(self, run_id: str, saying: Saying, by: Identity) -> Outcome:
        """Say something to a run, wherever it goes on, and return what has become of it. The `message_id` is its key.

        Raises `RunNotFound`, as `state`; what `Inputs.hear` raises, or a `TwinwireError` of the same code, for what the
        run refuses; `UnknownOutcome` if nobody could tell within `SAY_SECONDS`.
        """
        by, again = by.apart, bool(saying.message_id)
        if not again:
            saying = msgspec.structs.replace(saying, message_id=secrets.token_hex(8))
        try:
            async with asyncio.timeout(SAY_SECONDS):
                run = self._here(check_run_id(run_id), by)
                if run is not None and (outcome := await self._hear(run, saying)) is not None:
                    return outcome
                state = await self.state(run_id, by)
                if state.terminal is None:
                    outcome = await self._tell(state.info, saying)
                    if outcome.status != "already_finished":
                        return outcome
                return await heard(self.log, state, saying) if again else finished(saying)
        except TimeoutError:
            raise UnknownOutcome(saying.message_id) from None

    async def _tell(self, info: RunInfo, saying: Saying) -> Outcome:
        try:
            return await self.log.tell(info, saying)
        except LogUnavailable:  # it may have been said
            raise UnknownOutcome(saying.message_id) from None

    async def _hear(self, run: Run, saying: Saying) -> Outcome | None:
        """Have a run of this process take this; return None if another process goes on with it."""
        try:
            outcome = await run.inputs.hear(saying)
            if outcome.status == "already_finished" and not await self._has_ended(run):
                return None
        except LogUnavailable:  # the run has lost its log
            raise UnknownOutcome(saying.message_id) from None
        return outcome

    async def hear(self, run_id: str, saying: Saying) -> Outcome | None:
        """See `Owner`."""
        run = self._live.get(run_id)
        return None if run is None else await self._hear(run, saying)

    def _note(self, run: Run) -> None:
        """Let all workers know of a run's questions, and whether it waits."""
        self.log.note(run.info, Noted(run.fold.questions, run.fold.waiting))

    async def asked(self, run_id: str) -> Noted:
        """Return what a run that goes on asks now: as it is here, or as its owner has noted it."""
        run = self._live.get(run_id)
        return await self.log.noted(run_id) if run is None else Noted(run.fold.questions, run.fold.waiting)

    @property
    def waiting(self) -> tuple[int, int]:
        """Return how many runs of this process wait for their users, and how many questions are open."""
        folds = [run.fold for run in self._live.values()]
        return sum(fold.waiting for fold in folds), sum(len(fold.questions) for fold in folds)

    def cancel_here(self, run_id: str) -> None:
        """See `Owner`."""
        if (run := self._live.get(run_id)) is not None:
            run.cancel("user")

    def block(self, run_id: str) -> None:
        """See `Owner`."""
        if (run := self._live.get(run_id)) is not None:
            run.block()

    def unblock(self, run_id: str) -> None:
        """See `Owner`."""
        if (run := self._live.get(run_id)) is not None:
            run.unblock()

    def owns(self, run_id: str) -> bool:
        """See `Owner`."""
        return run_id in self._live
