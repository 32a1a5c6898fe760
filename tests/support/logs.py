"""The logs that the tests of `Store` run against, and how they are written to."""

from __future__ import annotations

import asyncio
import importlib
import os
import random
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import structs

from support.redis_server import fresh
from twinwire.log import Folded, Limits, RunInfo, Store, Wanted, open_log
from twinwire.log.orphan import Orphan
from twinwire.log.saying import Outcome, Saying
from twinwire.protocol.events import Record, StreamEvent, encode, timestamp
from twinwire.protocol.wire import new_run_id

LogFactory = Callable[[Path], Store]
"""Takes a folder of the test's own and returns a log that is not open: for one folder the same log, as processes do."""

LIMITS = Limits(
    max_events=1000, max_bytes=2**20, retention=60.0, max_sessions=1000, session_bytes=2**16, session_idle=3600.0
)


class Nobody:
    """An `Owner` that nothing need be said to."""

    def cancel_here(self, run_id: str) -> None: ...

    def unfollowed(self, run_id: str, *, left: bool) -> None: ...

    def interrupt(self, run_ids: Collection[str] | None = None, why: str = "") -> None: ...

    def block(self, run_id: str) -> None: ...

    def unblock(self, run_id: str) -> None: ...

    async def hear(self, run_id: str, saying: Saying) -> Outcome | None:  # noqa: ARG002 - the protocol's
        return None

    def folded(self, run_id: str) -> Folded | None:  # noqa: ARG002 - the protocol's
        return None

    def owns(self, run_id: str) -> bool:  # noqa: ARG002 - the protocol's
        return True

    async def take_over(self, orphan: Orphan) -> bool:  # noqa: ARG002 - the protocol's
        return False


class Folding(Nobody):
    """An `Owner` whose runs have all come to this state."""

    state = Folded(3, {"text": "x" * 1000})

    def folded(self, run_id: str) -> Folded | None:  # noqa: ARG002 - the protocol's
        return self.state


@asynccontextmanager
async def opened(log: str | Store, limits: Limits = LIMITS) -> AsyncIterator[Store]:
    """This log, or the one of this URL, open until the block ends."""
    log = open_log(log, limits) if isinstance(log, str) else log
    await log.open(Nobody())
    try:
        yield log
    finally:
        await log.close()


def memory(_: Path) -> Store:
    return open_log("memory://", LIMITS)


def sqlite(folder: Path) -> Store:
    return open_log(f"sqlite:///{folder}/log.db", LIMITS)


def redis(folder: Path) -> Store:
    return open_log(_redis_url(folder), LIMITS)


@cache
def _redis_url(folder: Path) -> str:
    return fresh("&lease=2")


def another(name: str) -> LogFactory:
    """The factory that `module:name` names, of a log that is not ours."""
    module, _, attribute = name.partition(":")
    factory: LogFactory = getattr(importlib.import_module(module), attribute)
    return factory


FACTORIES: list[LogFactory] = [another(name)] if (name := os.environ.get("TEST_LOG")) else [memory, sqlite, redis]
"""Each gives an empty log that keeps what `LIMITS` says. `TEST_LOG=module:factory` tries another log instead."""
OUTLIVING = [factory for factory in FACTORIES if factory is not memory]
"""The logs with whose runs another process can go on. `TEST_LOG` is taken for one of them."""


def run_info(user_id: str | None = None, fingerprint: str = "f", owner: str = "") -> RunInfo:
    """A new run."""
    return RunInfo(
        run_id=new_run_id(),
        agent="react",
        created=timestamp(),
        user_id=user_id,
        session_id="s",
        fingerprint=fingerprint,
        owner=owner,
    )


def records(run_id: str, after: int, count: int, *, end: bool = False, size: int = 0) -> list[Record]:
    """`count` records after number `after`, their data `size` characters; the last one terminal where `end`."""
    types = ["LLM_CHUNK"] * (count - end) + ["AGENT_FINISH"] * end
    return [
        encode(StreamEvent(name, {"n": seq, "text": "x" * size}), run_id, seq)
        for seq, name in enumerate(types, after + 1)
    ]


async def append(
    log: Store, run_id: str, expected_last: int, batch: Sequence[Record], checkpoint: bytes | None = None
) -> None:
    """Append, whether the log is done at once or not."""
    if (done := log.append(run_id, expected_last, batch, checkpoint)) is not None:
        await done


async def started(log: Store, count: int = 0, *, end: bool = False, user_id: str | None = None) -> str:
    """A new run with `count` events: its id."""
    info = await log.create(run_info(user_id), idempotency_key=None)
    if count:
        await append(log, info.run_id, 0, records(info.run_id, 0, count, end=end))
    return info.run_id


async def told(log: Store, seed: int) -> list[str]:
    """Append to ten runs as this seed says, up to the end of some. Return their ids."""
    rng = random.Random(seed)
    runs = [await started(log) for _ in range(10)]
    last = dict.fromkeys(range(10), 0)
    for _ in range(20):
        some = {run: rng.randint(1, 5) for run in rng.sample(sorted(last), rng.randint(1, len(last)))}
        ends = {run for run in some if rng.random() < 0.04 and len(last) > 2}
        await asyncio.gather(
            *(
                append(log, runs[run], last[run], records("x" * 26, last[run], count, end=run in ends, size=count))
                for run, count in some.items()
            )
        )
        last = {run: number + some.get(run, 0) for run, number in last.items() if run not in ends}
    return runs


def at(second: int) -> str:
    """A `created` that sorts as the number does."""
    return f"2026-01-01T00:{second // 60:02}:{second % 60:02}.000Z"


async def kept(
    log: Store, second: int, *, user_id: str | None = "alice", end: bool = True, key: str | None = None, **fields: Any
) -> str:
    """A run of two events that was created in this second, by default one that has ended: its id."""
    info = structs.replace(run_info(user_id), created=at(second), **fields)
    await log.create(info, idempotency_key=key)
    await append(log, info.run_id, 0, records(info.run_id, 0, 2, end=end))
    return info.run_id


async def listed(log: Store, wanted: Wanted, limit: int = 100) -> list[list[str]]:
    """The pages of a list, each of at most so many runs."""
    pages, before = [], None
    while True:
        page = await log.listed(wanted, limit, before)
        pages.append([*page.run_ids])
        if (before := page.next) is None:
            return pages
