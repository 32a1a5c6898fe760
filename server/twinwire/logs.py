"""What the server says on standard error: a line for each thing, for people or as JSON. Never a secret of its settings.

What is said is for other modules to choose, by `logging`. A record's `fields` are what a program would look for in it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from twinwire.settings import SECRETS, Settings


def tell(logger: logging.Logger, what: str, **fields: Any) -> None:
    """Log, at INFO, what happened, with the fields that are not None."""
    if logger.isEnabledFor(logging.INFO):
        logger.info(what, extra={"fields": {name: value for name, value in fields.items() if value is not None}})


class Text(logging.Formatter):
    """`<time> <level> <logger> <message> <name>=<value> …`; what a client chose begins no line of its own."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")
        self._secrets = {form for secret in secrets for form in (secret, json.dumps(secret)[1:-1])}

    def format(self, record: logging.LogRecord) -> str:
        """See `Formatter`."""
        line = self._line(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line

    def _line(self, record: logging.LogRecord) -> str:
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        """See `Formatter`."""
        if not record.message.isprintable():
            record.message = record.message.encode("unicode_escape").decode()
        fields: dict[str, Any] = getattr(record, "fields", {})
        return " ".join([super().formatMessage(record), *(f"{name}={json.dumps(fields[name])}" for name in fields)])


class Json(Text):
    """`{"time", "level", "logger", "pid", "message", …, "exception"?}` in each line; `time` is RFC 3339, in UTC."""

    def _line(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up(settings: Settings) -> None:
    """Log what the settings ask for, as they ask for it."""
    secrets: list[str] = []
    for name in SECRETS:
        value = getattr(settings, name) or ()
        secrets += [value] if isinstance(value, str) else [entry.partition(":")[2] for entry in value]
    handler = logging.StreamHandler()
    handler.setFormatter((Json if settings.log_format == "json" else Text)(secrets))
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper())
    for chatty in ("httpx", "httpx2", "openai"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
