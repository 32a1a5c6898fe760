"""The runs in a SQLite log that a process before this one left open, as jobs on `Tables`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from twinwire.log.base import RunInfo
from twinwire.log.interrupted import interrupted
from twinwire.log.orphan import MOST_CLAIMS, Orphan
from twinwire.log.sqlite.tables import Head, Tables, info_of
from twinwire.protocol.errors import RunNotFound
from twinwire.protocol.events import Record

_OPEN = "SELECT run_id, info, claims FROM runs LEFT JOIN resumable ON run = id WHERE ended IS NULL ORDER BY id"


class Recovered(NamedTuple):
    """The number of runs that were ended at the opening, and the ids of those with which this process may go on."""

    ended: int
    orphans: Sequence[str]


class Offer(NamedTuple):
    """An orphan, and whether its user has cancelled it since it went on nowhere."""

    orphan: Orphan
    cancelled: bool


class Claimed(NamedTuple):
    """A run that was claimed: the first number that it has now, and the bytes of its events."""

    first: int
    size: int


def recover(tables: Tables) -> Recovered:
    """End the runs that are open, but for those with which this process may go on: each of these is to be offered."""
    tables.resumable.tidy()
    ended, orphans = 0, []
    for run_id, info, claims in tables.rows(_OPEN):
        head = tables.load(run_id)
        tables.size += head.weight
        if head.start and claims is not None and claims < MOST_CLAIMS:
            orphans.append(run_id)
        else:
            _end(tables, head, info_of(info))
            ended += 1
        tables.unload(run_id)
    return Recovered(ended, orphans)


def offer(tables: Tables, run_id: str) -> Offer | None:
    """Return a run for whoever goes on with it; None if nobody can."""
    with suppress(RunNotFound):
        head = tables.load(run_id)
        if not head.ended and (kept := tables.resumable.get(head.id)) is not None:
            orphan = Orphan(
                info=tables.info(head),
                owner=kept.owner,
                epoch=kept.epoch,
                claims=kept.claims,
                first=head.first,
                last=head.last,
                size=head.size,
                start=kept.start,
                checkpoint=kept.checkpoint,
            )
            return Offer(orphan, bool(kept.cancelled))
    return None


def claim(tables: Tables, orphan: Orphan, worker: str, records: Sequence[Record]) -> Claimed | None:
    """Give an orphan to this worker, with these events. Return None, having done nothing, if it is none any more."""
    with suppress(RunNotFound):
        head = tables.load(orphan.info.run_id)
        if not head.ended and head.last == orphan.last and tables.resumable.claim(head.id, orphan, worker):
            tables.quotas.resume(orphan.info)
            tables.add(head, records)
            return Claimed(head.first, head.size)
    return None


def interrupt(tables: Tables, run_id: str) -> bool:
    """End a run that goes on nowhere. Return False if there is no such run."""
    with suppress(RunNotFound):
        head = tables.load(run_id)
        if not head.ended:
            _end(tables, head, tables.info(head))
            tables.unload(run_id)
            return True
    return False


def _end(tables: Tables, head: Head, info: RunInfo) -> None:
    ending = interrupted(info, head.last)
    tables.add(head, ending)
    tables.end(head, ending[-1], info.retention)
