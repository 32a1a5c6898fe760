"""All runs of this process: start (once per idempotency key), cancel, count followers, drain."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from twinwire.agents import Agent, RunRequest
from twinwire.errors import AgentNotFound, BadRequest, Draining, RunError, SessionBusy, TooManyRuns
from twinwire.events import timestamp
from twinwire.log import EventLog, RunInfo, RunState
from twinwire.runs.run import Run
from twinwire.sessions import SessionKey, Sessions
from twinwire.wire import check_run_id, new_run_id

logger = logging.getLogger("twinwire.runs")

CancelStatus = Literal["accepted", "already_finished"]


class RunSpec(Struct, frozen=True, kw_only=True):
    """What somebody wants run. `linger` is for how many seconds it may go on with nobody following, None for ever."""

    message: str
    agent: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    linger: float | None = None
    idempotency_key: str | None = None
    interrupt: bool = False


class Runs:
    """The runs of this process and the agents they use.

    The default agent is the one named `react`, or else the first. `deadline` is for each run, in seconds.
    """

    def __init__(
        self, log: EventLog, agents: Mapping[str, Agent], sessions: Sessions, *, deadline: float, max_runs: int
    ) -> None:
        if not agents:
            raise ValueError("at least one agent is needed")
        self.log = log
        self.agents = dict(agents)
        self.default_agent = "react" if "react" in agents else next(iter(agents))
        self.draining = False
        self._sessions = sessions
        self._deadline = deadline
        self._max_runs = max_runs
        self._live: dict[str, Run] = {}
        self._busy: dict[SessionKey, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Future[None] | None = None
        self.started = 0
        self.ended: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._live)

    async def start(self, spec: RunSpec) -> tuple[RunInfo, bool]:
        """Start a run, or find the one that this user started with this idempotency key: it, and whether it is new.

        Raises `BadRequest`, `AgentNotFound`, `SessionBusy`, `IdempotencyMismatch`, `TooManyRuns`, `Draining`.
        """
        name = spec.agent or self.default_agent
        if name not in self.agents:
            raise AgentNotFound
        if not spec.message.strip():
            raise BadRequest("a message is needed", field="message")
        fingerprint = hashlib.sha256(msgspec.json.encode([name, spec.message, spec.session_id])).hexdigest()
        info = RunInfo(
            run_id=new_run_id(),
            agent=name,
            created=timestamp(),
            user_id=spec.user_id,
            session_id=spec.session_id,
            fingerprint=fingerprint,
        )
        if spec.idempotency_key is None or await self.log.find(spec.user_id, spec.idempotency_key) is None:
            self._admit(spec)
        known = await self.log.create(info, idempotency_key=spec.idempotency_key)
        if known is info:
            self._begin(info, spec)
        return known, known is info

    def _admit(self, spec: RunSpec) -> None:
        if self.draining:
            raise Draining
        if len(self._live) >= self._max_runs:
            raise TooManyRuns(self._max_runs)
        busy = self._busy.get((spec.user_id, spec.session_id))
        if busy is not None and not busy.over:
            if not spec.interrupt:
                raise SessionBusy
            busy.cancel()
            self._remember(busy)

    def _begin(self, info: RunInfo, spec: RunSpec) -> None:
        key = (info.user_id, info.session_id)
        kept = key != (None, None)
        run = Run(
            self.log,
            info,
            self.agents[info.agent],
            RunRequest(
                message=spec.message,
                run_id=info.run_id,
                user_id=info.user_id,
                session_id=info.session_id,
                history=self._sessions.history(key) if kept else [],
            ),
            deadline=self._deadline,
            linger=spec.linger,
            on_end=self._end,
        )
        self._live[info.run_id] = run
        if kept:
            self._busy[key] = run
        self.started += 1
        run.start()
        if run.task is not None:
            self._tasks.add(run.task)
            run.task.add_done_callback(self._tasks.discard)

    def _end(self, run: Run) -> None:
        self._live.pop(run.info.run_id, None)
        self._remember(run)
        self.ended[run.fold.status] = self.ended.get(run.fold.status, 0) + 1
        if not self._live and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _remember(self, run: Run) -> None:
        """Keep a turn that ended well or was cancelled; a failed one leaves nothing. Once for each run."""
        key = (run.info.user_id, run.info.session_id)
        if self._busy.get(key) is not run:
            return
        del self._busy[key]
        if run.fold.status in {"completed", "cancelled", "max_steps"}:
            result = run.fold.result
            self._sessions.add(key, run.request.message, result if isinstance(result, str) else run.fold.text)

    async def state(self, run_id: str) -> RunState:
        """What is known of a run. Raises `RunNotFound`."""
        return await self.log.state(check_run_id(run_id))

    async def cancel(self, run_id: str) -> CancelStatus:
        """Cancel a run. Idempotent. Raises `RunNotFound`."""
        state = await self.state(run_id)
        run = self._live.get(run_id)
        if state.terminal is None and run is not None and run.cancel():
            return "accepted"
        return "already_finished"

    def follow(self, run_id: str) -> None:
        """Somebody follows this run from now on."""
        if (run := self._live.get(run_id)) is not None:
            run.follow()

    def unfollow(self, run_id: str) -> None:
        """Somebody who followed this run has left."""
        if (run := self._live.get(run_id)) is not None:
            run.unfollow()

    async def drain(self, grace: float) -> None:
        """Start no more runs, let those that go on finish for `grace` seconds, then end them as interrupted."""
        self.draining = True
        await self._until_idle(grace)
        for run in list(self._live.values()):
            run.fail(RunError("the server is shutting down", code="interrupted"))
        await self._until_idle(0.5)
        if self._tasks:
            _, running = await asyncio.wait(self._tasks, timeout=0.5)
            if running:
                logger.warning("%d agents did not stop", len(running))

    async def _until_idle(self, seconds: float) -> None:
        if self._live and seconds > 0:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._idle], timeout=seconds)
