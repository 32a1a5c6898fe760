"""The runs that a process before this one left open, offered to this one while a SQLite log is opened."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twinwire.log.base import Owner
from twinwire.log.orphan import Orphan
from twinwire.log.sqlite.orphans import Offer, interrupt, offer
from twinwire.log.sqlite.tables import Tables
from twinwire.log.tail import Tail

logger = logging.getLogger("twinwire.log")

AT_ONCE = 8  # their checkpoints are in memory meanwhile
TAKE_OVER_SECONDS = 10.0

Do = Callable[[Callable[[Tables], Any]], asyncio.Future[Any]]
"""Has the writer do something; the future has its outcome once that is committed."""


class Offers:
    """Each run is offered to `owner` for `TAKE_OVER_SECONDS`, `AT_ONCE` at a time; one that is not taken is ended.

    `tail` returns the tail of a run that was claimed; `give_up` has the log hold it no longer.
    """

    def __init__(
        self, owner: Owner, do: Do, tail: Callable[[str], Tail | None], give_up: Callable[[str], None]
    ) -> None:
        self._owner = owner
        self._do = do
        self._tail = tail
        self._give_up = give_up

    async def make(self, run_ids: Sequence[str]) -> int:
        """Offer these runs. Return how many go on. Raises `LogUnavailable` if one cannot be read or ended."""
        waiting = iter(run_ids)
        works = [asyncio.ensure_future(self._work(waiting)) for _ in run_ids[:AT_ONCE]]
        try:
            return sum(await asyncio.gather(*works))
        finally:
            for work in works:
                work.cancel()
            if works:
                await asyncio.wait(works)

    async def _work(self, run_ids: Iterator[str]) -> int:
        return sum([await self._make(run_id) for run_id in run_ids])

    async def _make(self, run_id: str) -> bool:
        found: Offer | None = await self._do(lambda tables: offer(tables, run_id))
        if found is not None and await self._taken(found.orphan) and self._tail(run_id) is not None:
            if found.cancelled:
                self._owner.cancel_here(run_id)
            return True
        ended = await self._do(lambda tables: interrupt(tables, run_id))
        self._give_up(run_id)  # if it was claimed, but nobody writes it
        return not ended

    async def _taken(self, orphan: Orphan) -> bool:
        run_id = orphan.info.run_id
        try:
            async with asyncio.timeout(TAKE_OVER_SECONDS):
                return await self._owner.take_over(orphan)
        except TimeoutError:
            logger.error("The run %s was not taken over within %g s.", run_id, TAKE_OVER_SECONDS)  # noqa: TRY400
        except Exception:
            logger.exception("The run %s could not be taken over.", run_id)
        return self._owner.owns(run_id)
