"""The lines that a server in this process writes as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twinwire.telemetry.logging import Json


class _Kept(logging.Handler):
    """Keeps each line, as it is written where it is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self.setFormatter(Json())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@contextmanager
def json_lines(*names: str) -> Iterator[list[dict[str, Any]]]:
    """Give the lines of the loggers with these names, and below them, from INFO on; by default the server's."""
    kept = _Kept()
    loggers = [logging.getLogger(name) for name in names or ("twinwire",)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(kept)
        logger.setLevel(logging.INFO)
    try:
        yield kept.lines
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(kept)
            logger.setLevel(level)
