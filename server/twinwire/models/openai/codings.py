"""The content codings of a body (RFC 9110, section 8.4.1). None is asked for; some gateways compress all the same."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from twinwire.models.openai.failures import garbage

MAX_PIECE = 2**20
"""The most bytes that are decompressed at once: a read of a few kilobytes may stand for gigabytes."""


class Coding:
    """The coding that `Content-Encoding` names. `plain` is whether the bytes are the body as it is.

    Raises `UpstreamError`, whose code is `upstream_garbage`, for one that cannot be undone.
    """

    def __init__(self, name: str) -> None:
        name = name.strip().lower()
        self.plain = name in {"", "identity"}
        if name not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise garbage(f"an answer that is compressed as {name!r}, which was not requested")
        self._zlib = zlib.decompressobj(32 + zlib.MAX_WBITS)  # 32: gzip or zlib, as its head says

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield the bytes that compressed ones stand for, a piece at a time."""
        try:
            while data:
                yield self._zlib.decompress(data, MAX_PIECE)
                data = self._zlib.unconsumed_tail
        except zlib.error:
            raise garbage("a compressed answer that is broken") from None
