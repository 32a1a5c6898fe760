"""The content codings of a body (RFC 9110, section 8.4.1). None is asked for; some gateways compress all the same."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from typing import Any

from twinwire.models.openai.failures import garbage
from twinwire.protocol.errors import UpstreamError

MAX_PIECE = 2**20
"""The most bytes that are decompressed at once: a read of a few kilobytes may stand for gigabytes."""


class Coding:
    """The coding that `Content-Encoding` names. `plain` is whether the bytes are the body as it is.

    `fault` is the error of a body that is broken, once all before that was given. Raises `UpstreamError`, whose code is
    `upstream_garbage`, for a coding that cannot be undone.
    """

    def __init__(self, name: str) -> None:
        name = name.strip().lower()
        self.plain = name in {"", "identity"}
        self.fault: UpstreamError | None = None
        if name not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise garbage(f"an answer that is compressed as {name!r}, which was not requested")
        self._zlib = _new()
        self._begun = False
        self._raw = name == "deflate"  # unless it begins as zlib's format does

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield the bytes that compressed ones stand for, a piece at a time."""
        while data and self.fault is None:
            before = self._zlib.copy()
            try:
                piece = self._zlib.decompress(data, MAX_PIECE)
            except zlib.error:
                if self._raw and not self._begun:
                    self._begun, self._zlib = True, zlib.decompressobj(-zlib.MAX_WBITS)
                    continue
                self.fault = garbage("a compressed answer that is broken")
                piece = _before_the_fault(before, data)
            self._begun = True
            data = self._zlib.unconsumed_tail
            if self._zlib.eof:  # another member may follow (RFC 1952, section 2.2)
                data = self._zlib.unused_data.lstrip(b"\0")  # or padding
                self._zlib = _new()
            yield piece


def _new() -> Any:
    return zlib.decompressobj(32 + zlib.MAX_WBITS)  # 32: gzip or zlib, as its head says


def _before_the_fault(zlib_: Any, data: bytes) -> bytes:
    """Return what the bytes before the broken one stand for: zlib gives nothing of the data in which it is."""
    found = bytearray()
    with contextlib.suppress(zlib.error):
        for at in range(len(data)):
            found += zlib_.decompress(data[at : at + 1], MAX_PIECE - len(found))
    return bytes(found)
