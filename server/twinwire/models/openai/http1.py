"""One HTTP/1.1 connection of a client (RFC 9112); the answer to a request on it is an `Exchange`.

It sends what it is given. `transport` opens connections, keeps them and is what httpx2 sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httpx2

from twinwire.models.openai.exchange import Exchange


class Connection(asyncio.Protocol):
    """A connection to `origin` (scheme, host, port), for one exchange after another.

    `released(connection)` is called when an exchange is over. `blocked` while much of a request has not been sent.
    """

    def __init__(self, origin: tuple[str, str, int], released: Callable[[Connection], None]) -> None:
        self.origin = origin
        self.blocked = False
        self._released = released
        self._exchange: Exchange | None = None
        self._paused = False
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def open(self) -> bool:
        """Return whether something can be asked, as far as is known."""
        return not self._transport.is_closing()

    def ask(self, request: bytes, timeouts: dict[str, float | None]) -> Exchange:
        """Send a request; the last exchange is over."""
        if self._expiry is not None:
            self._expiry.cancel()
        exchange = self._exchange = Exchange(self, timeouts)
        if self.open:
            self._transport.write(request)
        else:
            self._over(exchange.disconnected())
        return exchange

    def expire(self, seconds: float) -> None:
        """Close after so many seconds in which nothing is asked."""
        self._expiry = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def finish(self, *, keep_alive: bool) -> None:
        """The answer has come to its end."""
        self.resume()
        if not keep_alive or self._transport.get_write_buffer_size():
            self._transport.abort()
        self._over(None)

    def abort(self, error: httpx2.TransportError) -> None:
        """Close at once; an exchange ends with this error."""
        self._transport.abort()
        self._over(error)

    def _over(self, error: httpx2.TransportError | None) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.over(error)
            self._released(self)

    def pause(self) -> None:
        """Receive no more until `resume`."""
        if not self._paused and self.open:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Receive again."""
        if self._paused and self.open:
            self._paused = False
            self._transport.resume_reading()

    # What follows is called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._exchange is None:  # nothing was asked
            self._transport.abort()
        else:
            self._exchange.feed(self, data)

    def pause_writing(self) -> None:  # noqa: D102
        self.blocked = True

    def resume_writing(self) -> None:  # noqa: D102
        self.blocked = False
        if self._exchange is not None:
            self._exchange.wake()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: D102
        if self._expiry is not None:
            self._expiry.cancel()
        if self._exchange is not None:
            self._over(httpx2.ReadError("the connection broke") if error else self._exchange.disconnected())
