"""JSON Web Tokens (RFC 7519) that somebody else issues: checked with PyJWT, of the extra `twinwire[jwt]`.

Which algorithms are taken follows from the key alone, never from the token (RFC 8725, section 3.1). Nothing is fetched:
keys come from files, which are read once.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import msgspec

from twinwire.auth.files import read
from twinwire.errors import SettingsError
from twinwire.settings import Settings

try:
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
except ImportError:
    raise SettingsError("needs PyJWT: pip install 'twinwire[jwt]'", field="--jwt-key-file") from None

KEY_FILE, JWKS_FILE = "--jwt-key-file", "--jwt-jwks-file"
LEEWAY_SECONDS = 5  # by how much its issuer's clock may be ahead
_YEAR_10000 = 253_402_300_800
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


class _Key(NamedTuple):
    key: Any
    algorithms: list[str]
    key_id: str | None = None


class Jwt:
    """Tokens signed with one of these keys; `exp` and `sub` are required, `aud` and `iss` as the settings say."""

    def __init__(self, keys: list[_Key], audience: str | None, issuer: str | None) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer

    def verify(self, token: str) -> tuple[str, float | None] | None:
        """The token's `sub` and `exp`."""
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            named = [key for key in self._keys if key.key_id is None or key.key_id == key_id]
            chosen = named or (self._keys if len(self._keys) == 1 and key_id is None else [])
            for key in chosen:
                if (claims := self._claims(token, key)) is not None:
                    return claims["sub"], float(claims["exp"])
        except (jwt.PyJWTError, ValueError, OverflowError):
            pass
        return None

    def _claims(self, token: str, key: _Key) -> dict[str, Any] | None:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=key.algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "sub"]},
            )
        except jwt.PyJWTError:
            return None
        good = 1 <= len(claims["sub"]) <= 128 and time.time() < int(claims["exp"]) < _YEAR_10000
        return claims if good else None

    @classmethod
    def of(cls, settings: Settings) -> Jwt:
        """What the settings name. Raises `SettingsError`."""
        keys: list[_Key] = []
        if settings.jwt_key_file is not None:
            keys.append(_from_file(read(settings.jwt_key_file, KEY_FILE)))
        if settings.jwt_jwks_file is not None:
            keys += _from_jwks(read(settings.jwt_jwks_file, JWKS_FILE))
        return cls(keys, settings.jwt_audience, settings.jwt_issuer)


def _from_file(data: bytes) -> _Key:
    """A PEM public key, or else the secret of an HMAC."""
    if not data.lstrip().startswith(b"-----BEGIN"):
        secret = data.strip()
        if len(secret) < 32:
            raise SettingsError("an HMAC secret has 32 bytes or more (RFC 7518, section 3.2)", field=KEY_FILE)
        return _Key(secret, ["HS256"])
    if b"PRIVATE KEY" in data:
        raise SettingsError("is a private key; only its public one is needed here", field=KEY_FILE)
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError("is no PEM public key", field=KEY_FILE) from None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return _Key(key, ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return _Key(key, [_CURVES[key.curve.name]])
    if isinstance(key, ed25519.Ed25519PublicKey):
        return _Key(key, ["EdDSA"])
    raise SettingsError("is no RSA key of 2048 bits or more, and none of P-256, P-384, P-521, Ed25519", field=KEY_FILE)


def _from_jwks(data: bytes) -> list[_Key]:
    """The keys of a JWK set (RFC 7517, section 5) that sign; one says its algorithm, or has its type's usual one."""
    try:
        keys = jwt.PyJWKSet.from_dict(msgspec.json.decode(data, type=dict[str, Any])).keys
    except (msgspec.DecodeError, jwt.PyJWTError, ValueError):
        raise SettingsError("is no JWK set with a key that can be used", field=JWKS_FILE) from None
    return [_Key(key, [key.algorithm_name], key.key_id) for key in keys if key.public_key_use in {None, "sig"}]
