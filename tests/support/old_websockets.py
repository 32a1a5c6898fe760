"""A pytest plugin: gives websockets before 15 what the tests use of its client and came with 14 and 15."""

from __future__ import annotations

import inspect
from operator import attrgetter
from typing import Any

from websockets.asyncio import client


class Connect(client.connect):
    """Connects directly: these versions know no proxies."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.pop("proxy", None)
        super().__init__(*args, **options)


if "proxy" not in inspect.signature(client.connect).parameters:
    setattr(client, "connect", Connect)  # noqa: B010 - for mypy a class cannot be replaced
for name in ("close_code", "close_reason"):
    if not hasattr(client.ClientConnection, name):
        setattr(client.ClientConnection, name, property(attrgetter(f"protocol.{name}")))
