"""The keys that JWTs are verified with: read from a file, checked, and each pinned to its algorithms.

The algorithms follow from the key's type alone, never from the token (RFC 8725, section 3.1). A file that looks like a
key of another form is refused: taken for an HMAC secret, a public key would let anybody sign.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from twinwire.protocol.errors import SettingsError
from twinwire.telemetry.logging import hide

try:
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
except ImportError:
    raise SettingsError(
        "`--jwt-key-file` and `--jwt-jwks-file` require PyJWT: pip install 'twinwire[jwt]'.", field="--jwt-key-file"
    ) from None

KEY_FILE, JWKS_FILE = "--jwt-key-file", "--jwt-jwks-file"

_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_HMAC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518, section 3.2
_SECRET_PARTS = {"d", "p", "q", "dp", "dq", "qi", "oth"}  # of a JWK (RFC 7518, section 6)
_KNOWN: dict[str, Sequence[str | None]] = {  # the members of a JWK that tell whether it is of a kind known here
    "kty": ["RSA", "EC", "OKP", "oct"],
    "use": ["sig", None],
    "alg": [*_RSA, *_CURVES.values(), "EdDSA", *_HMAC_BYTES, None],
    "crv": ["P-256", "P-384", "P-521", "Ed25519", None],
}
_OTHER_FORMS = {
    "a certificate; `openssl x509 -pubkey -noout` shows its key": rb"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----",
    "a private key; only its public one is required": rb"PuTTY-User-Key-File|-----BEGIN [A-Z0-9 ]*PRIVATE KEY",
    "an SSH key; `ssh-keygen -e -m PKCS8` makes PEM of it": (
        rb"\s*(sk-)?(ssh|ecdsa)-[a-z0-9]|---- BEGIN SSH2|.*\b(ssh|ecdsa)-[\w@.-]+ +AAAA"
    ),
    "XML; a PEM public key is required": rb"\s*<[A-Za-z?][^\n]*>\s*\Z",
    "text with a byte order mark; save it as UTF-8 without one": rb"\xef\xbb\xbf|\xff\xfe|\xfe\xff",
}


_SSH_KEY = re.compile(rb"\0{3}.(sk-)?(ssh|ecdsa)-", re.DOTALL)  # RFC 4253, section 6.6
_URL_SAFE = str.maketrans("+/", "-_")


class Key(msgspec.Struct, frozen=True):
    """A key, the algorithms that it verifies, and the `kid` by which a token names it."""

    key: Any
    algorithms: tuple[str, ...]
    key_id: str | None = None

    def __repr__(self) -> str:
        return f"Key(***, {self.algorithms}, {self.key_id!r})"


def from_file(data: bytes) -> Key:
    """Return the key in a file: a PEM public key, or else the secret of an HMAC.

    One line break at the end is not part of a secret; everything else is. Raises `SettingsError`.
    """
    for form, pattern in _OTHER_FORMS.items():
        if re.match(pattern, data) or (b"-----" in data and re.search(pattern, data)):
            raise SettingsError(f"The file of `{KEY_FILE}` is {form}.", field=KEY_FILE)
    if b"-----" in data:
        try:
            key = load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm):
            raise SettingsError(
                f"The file of `{KEY_FILE}` looks like PEM, but has no PEM public key.", field=KEY_FILE
            ) from None
        if data.count(b"-----BEGIN ") > 1:
            raise SettingsError(
                f"The file of `{KEY_FILE}` must have one key; `{JWKS_FILE}` allows several.", field=KEY_FILE
            )
        return Key(key, _pinned(key, KEY_FILE))
    return Key(_secret(data), ("HS256",))


def _secret(data: bytes) -> bytes:
    """Return the HMAC secret in a file that is no PEM. Raises `SettingsError` if it looks like anything else."""
    if re.search(rb'"(kty|keys)"', data) or _is_json(data):
        raise SettingsError(f"The file of `{KEY_FILE}` is JSON; a JWK set belongs into `{JWKS_FILE}`.", field=KEY_FILE)
    for form in (data, *_decoded(data)):
        if _is_der(form):
            raise SettingsError(
                f"The file of `{KEY_FILE}` is a DER key; `openssl pkey -pubin -inform DER` makes PEM of a public one.",
                field=KEY_FILE,
            )
        if _SSH_KEY.match(form):
            raise SettingsError(
                f"The file of `{KEY_FILE}` is the body of an SSH key; a PEM public key is required.", field=KEY_FILE
            )
        if form is not data and (b"-----BEGIN " in form or _is_json(form)):
            raise SettingsError(f"The file of `{KEY_FILE}` is an encoded key; save the decoded key.", field=KEY_FILE)
    secret = data.removesuffix(b"\n").removesuffix(b"\r")
    if re.search(rb"[\r\n]", secret) and _is_text(secret):
        raise SettingsError(f"The HMAC secret of `{KEY_FILE}` must be one line.", field=KEY_FILE)
    if secret != secret.strip() and _is_text(secret):
        raise SettingsError(f"The HMAC secret of `{KEY_FILE}` must not begin or end with a blank.", field=KEY_FILE)
    if re.fullmatch(rb"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*){2}", secret) and secret.startswith(b"eyJ"):
        raise SettingsError(
            f"The file of `{KEY_FILE}` is a token; the key that signs tokens is required.", field=KEY_FILE
        )
    return _long_enough(secret, "HS256", KEY_FILE)


def _is_json(data: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(data), dict | list)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False


def _is_text(data: bytes) -> bool:
    try:
        return data.decode().replace("\n", "").replace("\r", "").replace("\t", "").isprintable()
    except UnicodeDecodeError:
        return False


def _decoded(data: bytes) -> Iterator[bytes]:
    """Give what the file encodes, if it is Base64 of either alphabet, such as the body of a PEM, or hexadecimal."""
    text = b"".join(data.split())
    for decode in (_from_base64, binascii.unhexlify):
        try:
            yield decode(text)
        except binascii.Error:
            continue


def _from_base64(text: bytes) -> bytes:
    text = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)


def _is_der(data: bytes) -> bool:
    """Return whether this is one ASN.1 SEQUENCE (X.690, section 8.1) to its end, as all DER keys are."""
    if len(data) < 40 or data[0] != 0x30:
        return False
    count = data[1] & 0x7F if data[1] & 0x80 else 0
    size = int.from_bytes(data[2 : 2 + count], "big") if count else data[1]
    return len(data) - (2 + count + size) in {0, 1, 2} and data[2 + count] in {0x02, 0x30}  # an INTEGER, a SEQUENCE


def _long_enough(secret: bytes, algorithm: str, field: str) -> bytes:
    if len(secret) < _HMAC_BYTES[algorithm]:
        raise SettingsError(
            f"The HMAC secret of `{field}` must have {_HMAC_BYTES[algorithm]} bytes or more for {algorithm} "
            "(RFC 7518, section 3.2).",
            field=field,
        )
    encoded = base64.b64encode(secret).decode()
    hide(secret.decode("utf-8", "replace"), repr(secret)[2:-1], encoded, encoded.translate(_URL_SAFE).rstrip("="))
    return secret


def _pinned(key: Any, field: str) -> tuple[str, ...]:
    """Return the algorithms of a public key, by its type and size. Raises `SettingsError`."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return _RSA
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return (_CURVES[key.curve.name],)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return ("EdDSA",)
    raise SettingsError(
        f"The key of `{field}` must be RSA of 2048 bits or more, or of P-256, P-384, P-521 or Ed25519.", field=field
    )


def from_jwks(data: bytes) -> list[Key]:
    """Return the keys of a JWK set (RFC 7517, section 5) that verify signatures. Raises `SettingsError`.

    A key of an unknown type, curve or algorithm is passed over, as that section wants it, and so is one for encryption.
    """
    try:
        listed = msgspec.json.decode(data, type=dict[str, Any])["keys"]
        entries = [entry for entry in listed if isinstance(entry, dict)]
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, RecursionError):
        raise SettingsError(
            f"The file of `{JWKS_FILE}` must be a JWK set, a JSON object with `keys`.", field=JWKS_FILE
        ) from None
    keys = [key for entry in entries if (key := _from_jwk(entry)) is not None]
    if not keys:
        raise SettingsError(f"The JWK set of `{JWKS_FILE}` must have a key that verifies signatures.", field=JWKS_FILE)
    return keys


def _from_jwk(entry: dict[str, Any]) -> Key | None:
    if any(entry.get(name) not in values for name, values in _KNOWN.items()):
        return None
    if entry.keys() & _SECRET_PARTS:
        raise SettingsError(
            f"The JWK set of `{JWKS_FILE}` must not have a private key; only public ones are required.", field=JWKS_FILE
        )
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    key_id = entry.get("kid")
    if not isinstance(key_id, str | None):
        raise SettingsError(f"Each `kid` in the JWK set of `{JWKS_FILE}` must be a string.", field=JWKS_FILE)
    try:
        made = jwt.PyJWK.from_dict(entry)
    except (jwt.PyJWTError, ValueError, LookupError, TypeError, AttributeError, UnsupportedAlgorithm, RecursionError):
        raise SettingsError(
            f"The JWK set of `{JWKS_FILE}` has a key that is damaged or not of the type of its `alg`.", field=JWKS_FILE
        ) from None
    algorithm = made.algorithm_name
    allowed = tuple(_HMAC_BYTES) if entry["kty"] == "oct" else _pinned(made.key, JWKS_FILE)
    if algorithm not in allowed:
        raise SettingsError(
            f"The JWK set of `{JWKS_FILE}` has a key whose `alg` must be one of: {', '.join(allowed)}.", field=JWKS_FILE
        )
    if entry["kty"] == "oct":
        _long_enough(made.key, algorithm, JWKS_FILE)
    return Key(made.key, (algorithm,), key_id)
