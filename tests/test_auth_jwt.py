"""JSON Web Tokens: which are taken, and every trick that must not work (RFC 8725)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from credentials import asking
from serving import Puppets, serving
from twinwire.auth import Auth, Identity
from twinwire.errors import SettingsError, Unauthenticated
from twinwire.settings import Settings

HMAC = b"an HMAC secret of 32 bytes or more"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS: dict[str, Any] = {
    "RS256": RSA,
    "PS384": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "HS256": HMAC,
}


def public(key: Any) -> bytes:
    """What the server gets of a key."""
    if isinstance(key, bytes):
        return key
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def known(folder: Path, key: bytes, **settings: Any) -> Auth:
    """A server's credentials with this key file."""
    file = folder / "key"
    file.write_bytes(key)
    return Auth.of(Settings(jwt_key_file=str(file), **settings))


def claims(**more: Any) -> dict[str, Any]:
    made = {"sub": "alice", "exp": int(time.time()) + 60, **more}
    return {name: value for name, value in made.items() if value is not None}


def by_hand(header: dict[str, Any], body: dict[str, Any], secret: bytes | None = None) -> str:
    """A token as no library would make it."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, body)]
    signature = b"" if secret is None else hmac.digest(secret, b".".join(parts), hashlib.sha256)
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


@pytest.mark.parametrize("algorithm", KEYS)
def test_each_kind_of_key(algorithm: str, tmp_path: Path) -> None:
    """A token that is signed as its key's type says is its subject's until it expires; no other algorithm is taken."""
    key = KEYS[algorithm]
    auth = known(tmp_path, public(key))
    made = claims()
    assert auth.on
    assert auth.bearer(jwt.encode(made, key, algorithm)) == Identity("alice", made["exp"])
    for other, other_key in KEYS.items():
        if other_key is not key:
            with pytest.raises(Unauthenticated):
                auth.bearer(jwt.encode(made, other_key, other))


def test_clocks_that_differ(tmp_path: Path) -> None:
    """One issued or good a moment from now is good, by clocks that differ a little; not after it has expired."""
    auth, now = known(tmp_path, HMAC), time.time()
    assert auth.bearer(jwt.encode(claims(iat=now + 2, nbf=now + 2), HMAC, "HS256")).user_id == "alice"
    with pytest.raises(Unauthenticated):  # its streams would be ended as soon as they had begun
        auth.bearer(jwt.encode(claims(exp=now - 1), HMAC, "HS256"))


@pytest.mark.parametrize("algorithm", KEYS)
def test_no_signature_and_the_wrong_one(algorithm: str, tmp_path: Path) -> None:
    """`alg: none`, and a public key used as an HMAC secret, are refused."""
    key = public(KEYS[algorithm])
    auth = known(tmp_path, key)
    tricks = [by_hand({"alg": none, "typ": "JWT"}, claims()) for none in ("none", "None", "NONE", "", "HS256")]
    if algorithm != "HS256":
        tricks += [
            by_hand({"alg": alg}, claims(), secret) for alg in ("HS256", algorithm) for secret in (key, key.strip())
        ]
    good = jwt.encode(claims(), KEYS[algorithm], algorithm)
    head, body, signature = good.split(".")
    tricks += [f"{head}.{body}.", f"{head}.{body}", f"{good}.x", f"{head}..{signature}", "", "..", "a.b.c"]
    for trick in tricks:
        with pytest.raises(Unauthenticated):
            auth.bearer(trick)
    assert auth.bearer(good).user_id == "alice"


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": None},
        {"exp": 1},
        {"exp": "soon"},
        {"exp": 1e300},
        {"exp": float("inf")},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a" * 129},
        {"nbf": 4e9},
        {"iat": 4e9},
        {"aud": None},
        {"aud": "another"},
        {"iss": None},
        {"iss": "another"},
    ],
    ids=str,
)
def test_claims(changed: dict[str, Any], tmp_path: Path) -> None:
    """Without a subject or an expiry, too early, too late, for others or from others: refused."""
    auth = known(tmp_path, HMAC, jwt_audience="us", jwt_issuer="them")
    good = claims(aud="us", iss="them")
    assert auth.bearer(by_hand({"alg": "HS256"}, good, HMAC)).user_id == "alice"
    bad = {name: value for name, value in {**good, **changed}.items() if value is not None}
    with pytest.raises(Unauthenticated):
        auth.bearer(by_hand({"alg": "HS256"}, bad, HMAC))


def test_a_token_for_an_audience_needs_one(tmp_path: Path) -> None:
    """Where no audience is configured a token for a certain one is not for us."""
    with pytest.raises(Unauthenticated):
        known(tmp_path, HMAC).bearer(jwt.encode(claims(aud="others"), HMAC, "HS256"))


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    algorithm = (
        jwt.algorithms.ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else jwt.algorithms.RSAAlgorithm
    )
    made: dict[str, Any] = algorithm.to_jwk(key.public_key(), as_dict=True)
    return {**made, **more}


def test_a_set_of_keys(tmp_path: Path) -> None:
    """The token names its key; that key's algorithm counts, not the token's; a key for encryption signs nothing."""
    file = tmp_path / "jwks.json"
    keys = [jwk(RSA, kid="r", use="sig"), jwk(KEYS["ES256"], kid="e"), jwk(RSA, kid="x", use="enc")]
    file.write_text(json.dumps({"keys": keys}))
    auth = Auth.of(Settings(jwt_jwks_file=str(file)))
    for key_id, key, algorithm in (("r", RSA, "RS256"), ("e", KEYS["ES256"], "ES256")):
        assert auth.bearer(jwt.encode(claims(), key, algorithm, headers={"kid": key_id})).user_id == "alice"
    for key_id, key, algorithm in (
        ("e", RSA, "RS256"),
        ("x", RSA, "RS256"),
        ("nope", RSA, "RS256"),
        ("r", RSA, "PS256"),
    ):
        with pytest.raises(Unauthenticated):
            auth.bearer(jwt.encode(claims(), key, algorithm, headers={"kid": key_id}))
    with pytest.raises(Unauthenticated):
        auth.bearer(jwt.encode(claims(), RSA, "RS256"))
    file.write_text(json.dumps({"keys": keys[:1]}))
    assert Auth.of(Settings(jwt_jwks_file=str(file))).bearer(jwt.encode(claims(), RSA, "RS256")).user_id == "alice"


PRIVATE = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
BAD_FILES = [
    ("jwt_key_file", b"short", "32 bytes"),
    ("jwt_key_file", PRIVATE, "private key"),
    ("jwt_key_file", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no PEM public key"),
    ("jwt_key_file", b"-----BEGIN CERTIFICATE-----\n", "no PEM public key"),
    ("jwt_key_file", public(rsa.generate_private_key(public_exponent=65537, key_size=1024)), "2048 bits"),  # noqa: S505
    ("jwt_key_file", public(ec.generate_private_key(ec.SECP256K1())), "P-256"),
    ("jwt_key_file", b"x" * (2**20 + 1), "too large"),
    ("jwt_jwks_file", b"{}", "JWK set"),
    ("jwt_jwks_file", b"[", "JWK set"),
    ("jwt_jwks_file", b'{"keys": []}', "JWK set"),
    ("jwt_jwks_file", b'{"keys": [{"kty": "none"}]}', "JWK set"),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "data", "reason"), BAD_FILES, ids=lambda value: repr(value)[:30])
def test_a_bad_file_is_one_line(setting: str, data: bytes, reason: str, tmp_path: Path) -> None:
    """It names the flag, says what is wrong, and shows nothing of what is in the file."""
    file = tmp_path / "file"
    file.write_bytes(data)
    named: dict[str, Any] = {setting: str(file)}
    with pytest.raises(SettingsError) as caught:
        Auth.of(Settings(**named))
    assert caught.value.field == "--" + setting.replace("_", "-")
    assert reason in caught.value.message
    assert str(caught.value).isprintable()
    assert "BEGIN" not in str(caught.value)
    assert "x" * 20 not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The same, for any of the files."""
    for name in ("jwt_key_file", "jwt_jwks_file", "auth_tokens_file"):
        for path in (str(tmp_path / "nope"), str(tmp_path), "a\0b"):
            named: dict[str, Any] = {name: path}
            with pytest.raises(SettingsError, match="cannot be read"):
                Auth.of(Settings(**named))


def test_without_the_extra(tmp_path: Path) -> None:
    """Where PyJWT is missing one line says what to install."""
    (tmp_path / "key").write_bytes(HMAC)
    code = (
        "import sys; sys.modules['jwt'] = None\n"
        "from twinwire.auth import Auth\nfrom twinwire.errors import SettingsError\n"
        "from twinwire.settings import Settings\n"
        "try: Auth.of(Settings(jwt_key_file='key'))\nexcept SettingsError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "--jwt-key-file: needs PyJWT: pip install 'twinwire[jwt]'\n"


async def test_a_socket_outlives_its_first_token(puppets: Puppets, tmp_path: Path) -> None:
    """A socket ends with 4001 when its token expires, unless a later one was sent in time."""
    (tmp_path / "key").write_bytes(HMAC)
    async with serving({"mine": puppets}, jwt_key_file=str(tmp_path / "key"), heartbeat=0.4) as server:
        soon, later = (jwt.encode(claims(exp=int(time.time()) + life), HMAC, "HS256") for life in (2, 600))
        headers = {"Authorization": f"Bearer {soon}"}
        async with (
            connect(server.ws_url, proxy=None, additional_headers=headers) as socket,
            connect(server.ws_url, proxy=None, additional_headers=headers) as renewed,
        ):
            await renewed.send(json.dumps({"type": "auth", "token": later}))
            answer = json.loads(await renewed.recv())
            assert (answer["type"], answer["expires_at"][-5:]) == ("authenticated", ".000Z")
            with pytest.raises(ConnectionClosed) as caught:
                await socket.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 4001
            await renewed.send('{"type":"ping"}')
            assert await renewed.recv() == '{"type":"pong"}'
        async with asking(server, None, authorization=f"Bearer {later}") as client:
            response = await client.post("/tickets")
            assert response.status_code == 201
