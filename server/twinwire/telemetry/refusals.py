"""A line in the log for each refusal, bounded in rate: a flood of refusals is counted, and fills no disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import monotonic
from typing import Any

from twinwire.protocol.errors import TwinwireError

logger = logging.getLogger("twinwire.refusals")

BURST = 20
"""The lines about one code that may come at once."""
SECONDS = 10.0
"""The time after which one more may come: a code writes fewer than 9,000 lines a day."""
MAX_PATH = 200
MAX_REASON = 300
"""The most characters of a path, and of a reason, that are written."""

_OPERATORS = frozenset({"bad_host", "origin_not_allowed"})
"""Codes that the server's settings may be the reason for."""
_EXPECTED = frozenset({"draining", "not_implemented"})
"""Codes with a status of 500 and more that are nothing to look after."""


class Refusals:
    """Writes the lines: at WARNING if the server is why, and so somebody may have to act, else at INFO.

    A line has the fields `code`, and as far as they are known `status`, `method`, `path` (without the query, where
    tickets are), `field` and `reason`; and `left_out`, the number of refusals of this code since the last line that
    have none.
    """

    def __init__(self) -> None:
        self._codes: dict[str, tuple[float, float, int]] = {}  # lines that each may write, when that was, and left out

    def log(self, code: str, refusal: TwinwireError | str, about: Mapping[str, Any]) -> None:
        """Write a line about this refusal, unless there were too many."""
        status = about.get("status")
        if status is None and isinstance(refusal, TwinwireError):
            status = refusal.status
        failed = status is not None and status >= 500 and code not in _EXPECTED
        level = logging.WARNING if failed or code in _OPERATORS else logging.INFO
        if not logger.isEnabledFor(level):
            return
        now = monotonic()
        credit, before, left_out = self._codes.get(code, (float(BURST), now, 0))
        credit = min(credit + (now - before) / SECONDS, float(BURST))
        if credit < 1:
            self._codes[code] = credit, now, left_out + 1
            return
        self._codes[code] = credit - 1, now, 0
        fields = {"code": code, **about, "status": status, "left_out": left_out or None}
        if isinstance(refusal, TwinwireError):
            fields |= {"field": refusal.field, "reason": refusal.message[:MAX_REASON]}
        if isinstance(path := fields.get("path"), str):
            fields["path"] = path[:MAX_PATH]
        told = {name: value for name, value in fields.items() if value is not None}
        logger.log(level, "A client was refused.", extra={"fields": told})
