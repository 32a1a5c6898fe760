"""The grants that this server signs itself: a ticket or a login is JSON with its HMAC-SHA256, stored nowhere.

Anybody can read it; it holds no secret. `Auth` decides if it is still good.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

import msgspec
from msgspec import Struct


class Grant(Struct, frozen=True, array_like=True):
    """Unix times: `issued`; `until`, for how long it can be used; `expires_at`, after which its streams end."""

    user_id: str
    issued: float
    until: float
    expires_at: float | None
    run_id: str | None


_decode = msgspec.json.Decoder(Grant).decode


class Signer:
    """Signs with this secret, or with a random one, which other processes and later ones do not know."""

    def __init__(self, secret: str | None) -> None:
        self._secret = secrets.token_bytes(32) if secret is None else secret.encode()

    def sign(self, kind: str, grant: Grant) -> str:
        """Return `<JSON>.<HMAC>`, each in base64url without padding (RFC 4648, section 5)."""
        body = _encoded(msgspec.json.encode(grant))
        return f"{body}.{self._mac(kind, body)}"

    def read(self, kind: str, text: str) -> Grant | None:
        """Return the grant if it is of this kind and signed by us, else None."""
        body, _, mac = text.partition(".")
        if not text.isascii() or not hmac.compare_digest(mac, self._mac(kind, body)):
            return None
        try:
            return _decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (binascii.Error, msgspec.DecodeError):
            return None  # of another version of this program

    def _mac(self, kind: str, body: str) -> str:
        return _encoded(hmac.digest(self._secret, f"twinwire {kind} {body}".encode(), hashlib.sha256))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
