"""SSE, or WebSocket if something between holds an event stream back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twinwire_client.errors import ApiError
from twinwire_client.retry import Broken, Muted
from twinwire_client.run import Connect, Connection, Position


class Auto:
    """One for all runs of a client: what one has found out serves the next.

    SSE comes first and must begin within `mute` seconds; then WebSocket, at the same cursor; if that fails, SSE
    again, which now may take its time.
    """

    def __init__(
        self, sse: Callable[[Position, float | None], Awaitable[Connection | None]], ws: Connect, mute: float
    ) -> None:
        self._sse = sse
        self._ws = ws
        self._mute = mute
        self._muted = False
        self._no_socket = False

    async def connect(self, at: Position) -> Connection | None:
        """See `run.Connect`."""
        if not self._muted or self._no_socket:
            within, self._no_socket = None if self._no_socket else self._mute, False
            try:
                connection = await self._sse(at, within)
            except Muted:
                self._muted = True
            else:
                self._no_socket = within is None
                return connection
        try:
            return await self._ws(at)
        except Broken:
            self._no_socket = True
            raise
        except ApiError as error:
            if error.code != "unknown":
                raise
            self._no_socket = True  # what answered the handshake does not speak for a Twinwire server
            raise Broken(str(error)) from None
