"""All runs of this process: their starts (once per idempotency key), their ends, and the drain."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import deque
from collections.abc import Collection, Coroutine, Mapping
from typing import Any

from twinwire.agents import Agent
from twinwire.agents.accepts import Accepts, accepted
from twinwire.agents.spec import AgentSpec, spec_of
from twinwire.auth import ANYBODY
from twinwire.fence import guard_tasks
from twinwire.log import STOPPING, Quota, RunInfo, SessionKey, Store
from twinwire.log.orphan import Orphan
from twinwire.models import patience
from twinwire.protocol.errors import (
    AgentNotFound,
    BadRequest,
    CursorGone,
    Draining,
    LogLost,
    LogUnavailable,
    RunInterrupted,
    RunNotFound,
    SessionBusy,
    TooManyRuns,
)
from twinwire.protocol.events import timestamp
from twinwire.protocol.fold import as_text
from twinwire.protocol.wire import new_run_id, trace_of
from twinwire.runs.attendance import Attendance
from twinwire.runs.budget import Budget, Live, Share
from twinwire.runs.checkpoints import Beginning, Keeper, Unreadable, beginning_of, checkpoint_of
from twinwire.runs.due import Due
from twinwire.runs.endings import Endings
from twinwire.runs.inputs import InputLimits
from twinwire.runs.policies import Policy
from twinwire.runs.reach import Reach
from twinwire.runs.reserve import Reserve
from twinwire.runs.resumption import Resumption, resumption
from twinwire.runs.run import Run
from twinwire.runs.spec import RunSpec
from twinwire.runs.thoughts import Held
from twinwire.runs.watchdog import Watchdog
from twinwire.telemetry import ids
from twinwire.telemetry.metrics import Metrics
from twinwire.telemetry.tracing import OFF, Span, Tracer

logger = logging.getLogger("twinwire.runs")

HAND_OVER_SECONDS = 0.7  # within which a run that is put down has stopped, and another process may go on with it
SETTLE_SECONDS = 5.0  # how long a start waits for the run it interrupts to leave the session
CANCEL_SECONDS = 0.2  # how soon that run is cancelled again: it may have been on its way into this process
LIVE_BYTES = 2**28
CHECKPOINT_BYTES = 2**23
RESERVE_BYTES, RESERVE_SECONDS = 2**26, 10.0
CUT = "\n\n[This answer was cut off here.]"
"""The note that a session's history has after an incomplete answer, so that the model does not take it for whole."""


class Runs(Reach, Attendance):
    """The runs of this process and the agents they use; the `Owner` of its runs to the log.

    The default agent is the one named `react`, or else the first. `policies` are those of each agent, by its name.
    `max_runs` is for this process, `quota` for each named user and all processes, `budget` for each run, `live_bytes`
    for the events, conversations and checkpoints of all runs that go on. A checkpoint, and the start of a run that
    another process could go on with, has at most `checkpoint_bytes`. `reserve` is what large replies about runs share.
    `tracer` records each run, `inputs` bound what is said to each. `endings` hear of each run that has ended. With
    `debug` an ERROR has the words of the exception that its agent raised.
    """

    def __init__(
        self,
        log: Store,
        agents: Mapping[str, Agent | AgentSpec],
        *,
        policies: Mapping[str, Policy],
        max_runs: int,
        quota: Quota | None = None,
        budget: Budget | None = None,
        live_bytes: int = LIVE_BYTES,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
        reserve: Reserve | None = None,
        metrics: Metrics | None = None,
        tracer: Tracer = OFF,
        inputs: InputLimits | None = None,
        endings: Endings | None = None,
        debug: bool = False,
    ) -> None:
        if not agents:
            raise ValueError("`agents` must have at least one agent.")
        super().__init__()
        self.log = log
        self.agents = {name: spec_of(agent) for name, agent in agents.items()}
        self._accepts = {name: accepted(name, spec) for name, spec in self.agents.items()}
        self.default_agent = "react" if "react" in agents else next(iter(agents))
        self.draining = False
        self._policies = policies
        self._max_runs = max_runs
        self._quota = quota
        self._budget = budget
        self._live_bytes = Live(live_bytes)
        self._checkpoint_bytes = checkpoint_bytes
        self.reserve = reserve or Reserve(RESERVE_BYTES, RESERVE_SECONDS)
        self._live: dict[str, Run] = {}
        self._starting = 0  # runs that are on their way into `_live`
        self._leaving: set[str] = set()  # runs that were put down, and are on their way out of it
        self._unfit: deque[str] = deque(maxlen=1000)  # runs of other processes that this one has said it cannot take
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Future[None] | None = None
        self.started = 0
        self._metrics = metrics or Metrics()
        self._tracer = tracer
        self._held = Held()
        self._inputs = inputs or InputLimits()
        self._endings = endings or Endings()
        self.debug = debug
        self._watchdog = Watchdog(self._live)
        self._due: dict[float, Due] = {}  # the deadlines of runs that have so many seconds
        self._on_orphaned, self._on_input, self._on_end = self._orphaned, self._note, self._end

    def __len__(self) -> int:
        return len(self._live)

    def accepts(self, agent: str | None) -> Accepts:
        """Return what the agent of this name accepts, or the default one. Raises `AgentNotFound`."""
        name = agent or self.default_agent
        if name not in self._accepts:
            raise AgentNotFound
        return self._accepts[name]

    async def start(self, spec: RunSpec) -> tuple[RunInfo, bool]:
        """Start a run, or find the one that this user started with this idempotency key: it, and whether it is new.

        Raises `AgentNotFound`, `SessionBusy`, `IdempotencyMismatch`, `TooManyRuns`, `RateLimited`, `Draining`, and
        `BadRequest` for what the agent does not accept.
        """
        accepts = self.accepts(spec.agent)
        accepts.check(spec.params, spec.parts)
        name = accepts.agent
        info = RunInfo(
            run_id=new_run_id(),
            agent=name,
            created=timestamp(),
            user_id=spec.user_id,
            session_id=spec.session_id,
            fingerprint=spec.fingerprint(name),
            owner=self.log.worker,
            metadata=spec.metadata,
            retention=self._policies[name].retention,
        )
        session, share = spec.session, Share(self._live_bytes, self._budget)
        new = spec.idempotency_key is None or await self.log.find(spec.user_id, spec.idempotency_key) is None
        if new:
            if self.draining:
                raise Draining
            if len(self._live) + self._starting >= self._max_runs:
                raise TooManyRuns(self._max_runs)
        self._starting += new
        try:
            if new:
                share.hold([spec.given], len(self._live))
            if new and session is not None:
                await self._enter(session, info.run_id, interrupt=spec.interrupt)
            try:
                history = spec.history
                if history is None:
                    history = await self.log.history(session) if session else []
                if new:
                    share.hold(history, len(self._live))
                quota = self._policies[name].quota(self._quota)
                begun = Beginning(spec=spec, history=[*history])
                start = self._kept(info, begun, share) if new else b""
                known = await self.log.create(info, idempotency_key=spec.idempotency_key, quota=quota, start=start)
                if known is info:
                    self._begin(info, begun, share, start=start)  # with no await between: the log asks who `owns` it
            finally:
                if info.run_id not in self._live and session is not None:
                    await self.log.vacate(session, info.run_id)
        finally:
            if info.run_id not in self._live:
                share.release()
            self._starting -= new
        return known, known is info

    async def _enter(self, session: SessionKey, run_id: str, *, interrupt: bool) -> None:
        """Make this run the session's only one; with `interrupt`, end the one before. Raises `SessionBusy`."""
        patience, again = time.monotonic() + SETTLE_SECONDS, 0.0
        while (holder := await self.log.occupy(session, run_id)) is not None:
            try:
                over = (await self.log.state(holder)).terminal is not None
                if not over:
                    if not interrupt or time.monotonic() > patience:
                        raise SessionBusy(holder)
                    if time.monotonic() >= again:
                        await self.cancel(holder, ANYBODY)
                        again = time.monotonic() + CANCEL_SECONDS
            except RunNotFound:
                over, patience = True, 0.0
            if over and time.monotonic() > patience:
                await self.log.vacate(session, holder)  # its worker has gone without doing so
            else:
                await asyncio.sleep(0.005)  # its worker remembers the turn, then leaves the session

    def _kept(self, info: RunInfo, begun: Beginning, share: Share) -> bytes:
        """Return the start that the log is to keep for another process; nothing if none could go on with the run."""
        if not (self.log.outlives and self._policies[info.agent].resumable):
            return b""
        start = begun.encoded
        if len(start) <= self._checkpoint_bytes and share.keep(len(start)):
            return start
        logger.warning(
            "No other process can go on with the run %s: its start has %d bytes, over `--checkpoint-bytes` or what is "
            "left of `--live-bytes`.",
            info.run_id,
            len(start),
        )
        return b""

    async def take_over(self, orphan: Orphan) -> bool:
        """See `Owner`."""
        info, policy = orphan.info, self._policies.get(orphan.info.agent)
        if self.draining or policy is None or not policy.resumable or info.run_id in self._live:
            return False
        if len(self._live) + self._starting >= self._max_runs:
            return False
        share, begins = Share(self._live_bytes, self._budget), False
        self._starting += 1
        try:
            begun, checkpoint = beginning_of(orphan.start), checkpoint_of(orphan.checkpoint)
            self.accepts(info.agent).check(begun.spec.params, begun.spec.parts)
            share.hold([begun.spec.given, *begun.history], len(self._live))
            resumed = await resumption(self.log, orphan, begun, checkpoint)
            share.resume(resumed.size, len(self._live))
            if not share.keep(len(orphan.start) + len(orphan.checkpoint)):
                return False
            if not await self._enter_again(begun.spec.session, info.run_id):
                return False
            if begins := await self.log.claim(orphan, resumed.records):  # with no await after it, as in `start`
                self._begin(info, begun, share, start=orphan.start, resumed=resumed)
        except (Unreadable, BadRequest) as error:
            if info.run_id not in self._unfit:  # the log may ask again and again
                self._unfit.append(info.run_id)
                logger.warning("This process cannot go on with the run %s. %s", info.run_id, error)
            return False
        except (TooManyRuns, RunNotFound, CursorGone):
            return False
        finally:
            if not (begins and info.run_id in self._live):
                share.release()
            self._starting -= 1
        if begins and self.draining:
            self._put_down(self._live[info.run_id])
        if not begins and begun.spec.session is not None and await self._is_over(info.run_id):
            await self.log.vacate(begun.spec.session, info.run_id)
        return True

    async def _enter_again(self, session: SessionKey | None, run_id: str) -> bool:
        """Return whether a run of another process has its session, if it has one, to itself."""
        return session is None or await self.log.occupy(session, run_id) is None

    async def _is_over(self, run_id: str) -> bool:
        """Return whether a run has ended, or is not known. Raises `LogUnavailable`."""
        try:
            return (await self.log.state(run_id)).terminal is not None
        except RunNotFound:
            return True

    def _begin(
        self, info: RunInfo, begun: Beginning, share: Share, *, start: bytes, resumed: Resumption | None = None
    ) -> None:
        """Begin a run, whose `start` the log keeps if another process can go on with it."""
        spec, epoch = begun.spec, 0 if resumed is None else resumed.past.epoch
        span = self._tracer.run(info.agent, info.run_id, info.session_id, spec.traceparent, epoch=epoch)
        trace_id = span.trace_id or trace_of(spec.traceparent)
        with span, ids.of_run(info.run_id, info.session_id, trace_id):
            self._begin_within(info, begun, share, span, start=start, resumed=resumed)

    def _begin_within(
        self, info: RunInfo, begun: Beginning, share: Share, span: Span, *, start: bytes, resumed: Resumption | None
    ) -> None:
        """Begin a run whose lines in the log, and whose spans, are those of this context."""
        spec, policy = begun.spec, self._policies[info.agent]
        tokens = None if self._budget is None else self._budget.tokens
        request = spec.request(info, begun.history, policy.limits, tokens)
        keeper = functools.partial(
            Keeper,
            share=share,
            most=self._checkpoint_bytes,
            started=len(start),
            newest=None if resumed is None else resumed.checkpoint,
        )
        run = Run(
            self.log,
            info,
            self.agents[info.agent].agent,
            request,
            deadline=policy.deadline,
            due_together=self._due.setdefault(policy.deadline, Due(policy.deadline)),
            share=share,
            orphan_timeout=policy.orphaned(spec),
            inputs=self._inputs,
            can_ask=spec.can_ask,
            held=self._held,
            metrics=self._metrics,
            debug=self.debug,
            resumed=resumed,
            keeper=keeper if start else None,
            on_orphaned=self._on_orphaned,
            on_input=self._on_input,
            on_end=self._on_end,
        )
        run.spec, run.span = spec, span
        guard_tasks(asyncio.get_running_loop())
        self._live[info.run_id] = run
        self._watchdog.start()
        if resumed is None:
            self.started += 1
            self._metrics.run_started(info.agent)
        else:
            self._metrics.run_resumed(info.agent)
        with patience(policy.model_timeout):
            self._keep(run.start())
        if resumed is not None:
            self._arrive(run)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._keep(asyncio.get_running_loop().create_task(work))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _orphaned(self, run: Run) -> None:
        self._spawn(self._cancel_if_unfollowed(run))

    def _end(self, run: Run) -> None:
        """Let go of a run that has ended, or that goes on in another process."""
        if run.share is not None:
            run.share.release()
        run.span.end(run.fold.error_type, status=run.fold.status, usage=run.fold.usage)
        self._live.pop(run.info.run_id, None)
        if not run.elsewhere:
            self._conclude(run)
        else:
            self._depart(run)
            if run.info.run_id not in self._leaving:
                self._spawn(self._part(run))
        self._leaving.discard(run.info.run_id)
        if not self._live and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _part(self, run: Run) -> None:
        """Find out whether a run whose log has refused its writer goes on in another process, or was ended there."""
        try:
            over = await self._is_over(run.info.run_id)
        except LogUnavailable as error:
            over = isinstance(error, LogLost)
        if over:
            self._conclude(run)

    def _conclude(self, run: Run) -> None:
        """Tell whom it concerns that a run has ended."""
        spec = run.spec
        run.tell_end()
        self._forget(run)
        self._metrics.run_ended(run.info.agent, run.fold.status, run.fold.error_type, run.fold.usage)
        self._endings.add(run)
        if run.inputs.asked:
            self._note(run)
        if spec.session is not None:
            said = "\n\n".join([spec.noted, *(text for _, text in run.inputs.messages.read)])
            self._spawn(self._leave(spec.session, said, run))

    async def _leave(self, session: SessionKey, question: str, run: Run) -> None:
        """Keep a turn that ended well or was cancelled (a failed one leaves nothing), then free the session."""
        try:
            if run.fold.status != "error":
                answer = as_text(run.fold.result) or run.fold.text
                if run.fold.status == "incomplete":
                    answer += CUT
                await self.log.remember(session, question, answer)
            await self.log.vacate(session, run.info.run_id)
        except LogUnavailable:
            logger.warning(
                "The turn of the run %s may be lost from its conversation, because the log is unavailable.",
                run.info.run_id,
            )

    async def drain(self, grace: float) -> None:
        """Start no more runs, let those that go on finish for `grace` seconds, then end them, or put them down."""
        self.draining = True
        await self._until_idle(grace)
        self.put_down()
        await self._until_idle(HAND_OVER_SECONDS)
        if self._tasks:
            _, running = await asyncio.wait(self._tasks, timeout=0.5)
            if running:
                logger.warning("The server ends although %d agents did not stop.", len(running))
        await self._endings.drain()

    def put_down(self) -> None:
        """Let other processes go on with the runs that they can go on with; end all others as interrupted."""
        for run in list(self._live.values()):
            self._put_down(run)
        self.interrupt()

    def _put_down(self, run: Run) -> None:
        if (run.put_down() or run.elsewhere) and run.info.run_id not in self._leaving:
            self._leaving.add(run.info.run_id)
            self._spawn(self._hand_over(run))

    async def _hand_over(self, run: Run) -> None:
        """Let another process go on with a run that was put down, once its agent has stopped and all is in the log."""
        try:
            async with asyncio.timeout(HAND_OVER_SECONDS):
                if run.task is not None:
                    await asyncio.wait([run.task], timeout=HAND_OVER_SECONDS / 2)
                await run.writer.flushed()
                await self.log.release(run.info.run_id)
        except (TimeoutError, LogUnavailable):
            logger.warning("The run %s was put down, but its log could not be told so.", run.info.run_id)
        run.leave()

    def interrupt(self, run_ids: Collection[str] | None = None, why: str = STOPPING) -> None:
        """See `Owner`."""
        for run in [run for run_id, run in self._live.items() if run_ids is None or run_id in run_ids]:
            run.fail(RunInterrupted(why, reason="shutdown" if why == STOPPING else None))

    def hurry(self, grace: float) -> None:
        """Let no agent that holds the event loop keep the shutdown waiting for longer than `grace` seconds.

        A signal handler may call this. It ends nothing itself.
        """
        for run in list(self._live.values()):
            run.hurry(RunInterrupted(STOPPING, reason="shutdown"), grace)

    async def _until_idle(self, seconds: float) -> None:
        if self._live and seconds > 0:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._idle], timeout=seconds)
