"""The most memory that one worker may come to, by its settings: `python -m twinwire.serving.ceiling` prints it.

Each part has an owner that bounds it. The figures are the worst that clients can bring about, all parts at once; a
server that nobody abuses has a small fraction of it. Agents, tools and what they import come on top.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from twinwire.formats.native import TYPE_BYTES
from twinwire.log import SHARED, kind_of
from twinwire.log.backpressure import EXCESS_BYTES
from twinwire.log.quotas import MAX_USERS
from twinwire.log.redis.reader import HELD_BYTES
from twinwire.log.sqlite.log import TAIL_BYTES
from twinwire.log.tail import PAGE_BYTES
from twinwire.protocol.errors import SettingsError
from twinwire.protocol.wire import MAX_TYPES
from twinwire.runs.webhooks import WAITING_BYTES
from twinwire.serving.bounds import HIGH_WATER
from twinwire.serving.store import SPARE_BYTES, most_bytes
from twinwire.settings import Settings, load
from twinwire.transports.intake import SMALL_BYTES, intake_bytes
from twinwire.transports.lifetime import ANSWER_BYTES, SPARE
from twinwire.transports.limiter import FREE_STATE, STATE_BYTES
from twinwire.transports.pump import FOLLOWER_BYTES, MAX_FOLLOWED, REPLY_BYTES
from twinwire.web.session import MAX_REQUEST_IDS

MB = 2**20
PROGRAM = 110 * MB
"""Python, the server and its libraries, and what the allocator keeps of memory that was in use once."""
LOG_FACTOR = 1.25
"""A log counts the bytes that its runs and their events take; the allocator keeps up to a quarter beside them."""
TEXT_FACTOR = 4
"""A Python string with one emoji in it takes four bytes for each of its characters."""
PARSED_FACTOR = 30
"""JSON of many small values takes some thirty times its bytes as objects, while one request is read."""
RUN = 64 * 1024
USER = 1024
SOCKET = MAX_FOLLOWED * (FOLLOWER_BYTES + MAX_TYPES * TYPE_BYTES) + MAX_REQUEST_IDS * 1024
CONNECTION = 8 * 1024
"""The objects of a connection, of its pump and of what its app holds."""


class Part(NamedTuple):
    """One part of the sum, in bytes, and how it is reckoned."""

    name: str
    size: int
    how: str


def ceiling(settings: Settings) -> list[Part]:
    """Return the parts of what one worker with these settings may come to."""
    accepted_each = CONNECTION + SMALL_BYTES
    stream = FREE_STATE + HIGH_WATER + PAGE_BYTES + REPLY_BYTES
    accepted = settings.max_connections + max(SPARE, settings.max_connections // 4)
    return [
        Part("program", PROGRAM, "as measured, rounded up"),
        *_log(settings),
        Part(
            "runs",
            settings.live_bytes * 9 // 8 + settings.max_runs * RUN,
            f"1.125 x --live-bytes + {RUN // 1024} KiB x --max-runs",
        ),
        Part("users", MAX_USERS * USER, f"{USER} bytes x {MAX_USERS} users of the last minute"),
        Part(
            "connections",
            accepted * accepted_each,
            f"{accepted_each // 1024} KiB x 1.25 x --max-connections",
        ),
        Part("streams", settings.max_connections * stream, f"{stream // 1024} KiB x --max-connections"),
        Part(
            "sockets' state",
            min(STATE_BYTES, settings.max_connections * SOCKET),
            "of followers, filters and request ids beyond the first of each",
        ),
        Part(
            "half-sent",
            min(intake_bytes(settings.max_body), accepted * settings.max_body),
            "of all requests and messages that are not complete",
        ),
        Part("large replies", 2 * TEXT_FACTOR * settings.reply_bytes, f"{2 * TEXT_FACTOR} x --reply-bytes"),
        Part("other answers", ANSWER_BYTES, "of all that are not taken yet"),
        Part(
            "one request", PARSED_FACTOR * settings.max_body, f"{PARSED_FACTOR} x --max-body, of the one that is read"
        ),
        *_webhooks(settings),
        Part("one event", 4 * settings.run_bytes, "4 x --run-bytes, while it is encoded"),
    ]


def _webhooks(settings: Settings) -> list[Part]:
    if not settings.webhook:
        return []
    each = 2 * WAITING_BYTES
    return [Part("webhooks", each * len(settings.webhook), f"{each // MB} MiB x each --webhook")]


def _log(settings: Settings) -> list[Part]:
    kind = kind_of(settings.log)
    if kind == "sqlite":
        each = int(LOG_FACTOR * TAIL_BYTES)
        return [Part("newest events", each * settings.max_runs, f"{each // 1024} KiB x --max-runs")]
    if kind in SHARED or settings.workers > 1:
        each = int(LOG_FACTOR * HELD_BYTES)
        held = each * settings.max_runs * settings.workers
        return [Part("newest events", held, f"{each // 1024} KiB x --max-runs x --workers")]
    kept = int(LOG_FACTOR * (settings.log_bytes + EXCESS_BYTES))
    how = f"{LOG_FACTOR} x (--log-bytes + {EXCESS_BYTES // MB} MiB)"
    return [Part("log", kept, how), Part("conversations", settings.sessions_bytes, "--sessions-bytes")]


def beside(settings: Settings) -> list[Part]:
    """Return what several workers have beside them if no log is named: a Valkey of their own."""
    if settings.workers == 1 or kind_of(settings.log) != "memory":
        return []
    kept = most_bytes(settings.log_bytes + settings.sessions_bytes)
    how = f"1.25 x (--log-bytes + --sessions-bytes) + {SPARE_BYTES // MB} MiB, for all workers"
    return [Part("private Valkey", kept, how)]


def table(parts: Sequence[Part], others: Sequence[Part] = ()) -> str:
    """Return the parts and their sum as lines of text, and others that are no part of it."""
    rows = [*parts, Part("in all", sum(part.size for part in parts), "in each worker"), *others]
    return "".join(f"{row.name:<14} {row.size / MB:>9,.0f} MiB   {row.how}\n" for row in rows)


if __name__ == "__main__":
    try:
        told = load(os.environ, {})
        sys.stdout.write(table(ceiling(told), beside(told)))
    except SettingsError as error:
        sys.exit(f"twinwire: {error}")
