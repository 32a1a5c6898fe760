"""Webhooks as the Standard Webhooks specification has them (version 1.0.0, symmetric signatures).

Pure. The signature is of `<id>.<timestamp>.<body>`: HMAC-SHA256 in base64, after `v1,`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

PREFIX = "whsec_"
KEY_BYTES = range(24, 65)


def webhook_key(secret: str) -> bytes:
    """Return the key that a secret stands for, `whsec_` and 24 to 64 bytes in base64. Raise `ValueError`."""
    text = secret.removeprefix(PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or len(key) not in KEY_BYTES:
        raise ValueError(
            f"`webhook_secret` must be {PREFIX} and then {KEY_BYTES[0]} to {KEY_BYTES[-1]} random bytes in base64."
        )
    return key


def webhook_headers(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a webhook that is sent at this Unix time; each key has a signature."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    digests = [hmac.new(key, signed, hashlib.sha256).digest() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
    }
