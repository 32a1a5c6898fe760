"""JSON Web Tokens (RFC 7519) that somebody else issues: checked with PyJWT, of the extra `twinwire[jwt]`.

Nothing is fetched: keys come from files, which are read once; see `keys`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from twinwire.auth.files import read
from twinwire.auth.keys import JWKS_FILE, KEY_FILE, Key, from_file, from_jwks
from twinwire.settings import Settings

import jwt  # isort: skip  # after `keys`, which says in one line what to install

LEEWAY_SECONDS = 5  # by how much its issuer's clock may be ahead
_YEAR_10000 = 253_402_300_800
_SUBJECT = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128}")
_BAD = (jwt.PyJWTError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError)
"""All that a library may raise on the bytes of a stranger: the token is not good then, whatever it is."""


class Jwt:
    """Tokens signed with one of these keys; `exp` and `sub` are required, `aud` and `iss` as the settings say."""

    def __init__(self, keys: Sequence[Key], audience: str | None, issuer: str | None) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer

    def verify(self, token: str) -> tuple[str, float | None] | None:
        """Return the token's `sub` and `exp`, or None if it is not good. Its streams end at `exp`: see `Pump.tick`."""
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except _BAD:
            return None
        named = [key for key in self._keys if key.key_id is None or key.key_id == key_id]
        chosen = named or (self._keys if len(self._keys) == 1 and key_id is None else [])
        for key in chosen:
            if (known := self._claims(token, key)) is not None:
                return known
        return None

    def _claims(self, token: str, key: Key) -> tuple[str, float] | None:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=list(key.algorithms),
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "sub"]},
            )
            subject, expires = claims["sub"], claims["exp"]
            # `exp` is a number (RFC 7519, section 2), not a text or a boolean that Python makes one of.
            good = type(expires) in {int, float} and time.time() < expires < _YEAR_10000
            return (subject, float(expires)) if good and _SUBJECT.fullmatch(subject) else None
        except _BAD:
            return None

    @classmethod
    def of(cls, settings: Settings) -> Jwt:
        """Return what the settings name. Raises `SettingsError`."""
        keys: list[Key] = []
        if settings.jwt_key_file is not None:
            keys.append(from_file(read(settings.jwt_key_file, KEY_FILE)))
        if settings.jwt_jwks_file is not None:
            keys += from_jwks(read(settings.jwt_jwks_file, JWKS_FILE))
        return cls(keys, settings.jwt_audience, settings.jwt_issuer)
