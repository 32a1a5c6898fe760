"""JSON answers that may be large: what they cost is claimed before they are made, and until the client has them."""

from __future__ import annotations

from typing import Any

from litestar.types import Receive, Scope, Send

from twinwire.protocol.events import dump
from twinwire.runs.reserve import Claim
from twinwire.web.answers import OwnAnswer, encoded


class HeldJson(OwnAnswer):
    """A JSON answer that is encoded when it is sent, and gives its claim back when the client has taken it."""

    def __init__(
        self, value: Any, claim: Claim, *, status_code: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(None, status_code=status_code)
        self._value = value
        self._claim = claim
        self._fields = headers or {}

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """See `OwnAnswer`."""
        try:
            body = dump(self._value)
            self._value = None
            fields = {"content-type": "application/json", "content-length": str(len(body)), **self._fields}
            status = self.status_code or 200
            await send({"type": "http.response.start", "status": status, "headers": encoded(fields)})
            await send({"type": "http.response.body", "body": body, "more_body": True})
            del body
            # A server waits before it sends more than a client has taken.
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._claim()
