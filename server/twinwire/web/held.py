"""JSON answers that may be large: what they cost is claimed before they are made, and until the client has them."""

from __future__ import annotations

from typing import Any

from litestar import Response
from litestar.types import ASGIApp, Receive, Scope, Send

from twinwire.protocol.events import dump
from twinwire.runs.reserve import Claim


class HeldJson(Response[None]):
    """A JSON answer that is encoded when it is sent, and gives its claim back when the client has taken it."""

    def __init__(
        self, value: Any, claim: Claim, *, status_code: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(None, status_code=status_code)
        self._value = value
        self._claim = claim
        self._fields = headers or {}

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        """See `Response`: an ASGI app that serves itself."""
        return self._serve

    async def _serve(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        try:
            body = dump(self._value)
            self._value = None
            fields = {"content-type": "application/json", "content-length": str(len(body)), **self._fields}
            headers = [(name.encode(), value.encode()) for name, value in fields.items()]
            await send({"type": "http.response.start", "status": self.status_code or 200, "headers": headers})
            await send({"type": "http.response.body", "body": body, "more_body": True})
            del body
            # A server waits before it sends more than a client has taken.
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._claim()
