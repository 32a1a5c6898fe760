"""A run of no agent's, which proves that this process can carry runs out: at its start, and for `/readyz`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from twinwire.agents import RunRequest
from twinwire.log import Limits, RunInfo
from twinwire.log.memory import MemoryLog
from twinwire.protocol.errors import RunsUnavailable
from twinwire.protocol.events import StreamEvent, timestamp
from twinwire.protocol.wire import new_run_id
from twinwire.runs.inputs import InputLimits
from twinwire.runs.run import Run
from twinwire.runs.thoughts import Held
from twinwire.telemetry.metrics import Metrics

logger = logging.getLogger("twinwire.runs")

SECONDS = 5.0
LIMITS = Limits(max_events=8, max_bytes=8192, retention=SECONDS, max_sessions=1, session_bytes=1, session_idle=SECONDS)


class _Unheard(Run):
    """A run that writes no line to the log of the process: nobody asked for it."""

    def _tell(self, what: str, **fields: object) -> None:
        pass


async def _agent(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    await asyncio.sleep(0)
    yield StreamEvent("LLM_CHUNK", {"content": request.message, "delta": request.message})


async def probe() -> None:
    """Carry a run out on a log of its own, in memory, and forget it.

    Raise `RunsUnavailable` unless it completes within `SECONDS`; the reason is written to the process's log.
    """
    log = MemoryLog(LIMITS)
    info = RunInfo(run_id=new_run_id(), agent="probe", created=timestamp())
    ended: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
    try:
        await log.create(info, idempotency_key=None)
        run = _Unheard(
            log,
            info,
            _agent,
            RunRequest("ready"),
            deadline=SECONDS,
            share=None,
            orphan_timeout=None,
            held=Held(),
            metrics=Metrics(),
            inputs=InputLimits(),
            can_ask=False,
            on_orphaned=lambda _: None,
            on_input=lambda _: None,
            on_end=ended.set_result,
        )
        await run.start()
        await asyncio.wait_for(ended, SECONDS)
        status, text = run.fold.status, run.fold.text
    except Exception:
        logger.exception("The probe's run failed. No run can be carried out.")
        raise RunsUnavailable from None
    if (status, text) != ("completed", "ready"):
        logger.error("The probe's run ended as %s. No run can be carried out.", status)
        raise RunsUnavailable
