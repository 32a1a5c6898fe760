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

from support.credentials import asking
from support.serving import Puppets, serving
from twinwire.auth import Auth, Identity
from twinwire.auth.keys import from_file
from twinwire.protocol.errors import SettingsError, Unauthenticated
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
        {"sub": "\ud800"},
        {"sub": "a\0b"},
        {"sub": "a\nb"},
        {"sub": ["alice"]},
        {"exp": str(10**10)},
        {"exp": True},
        {"exp": 10**400},
        {"exp": float("nan")},
        {"exp": [1]},
        {"nbf": 10**400},
        {"nbf": []},
        {"nbf": float("inf")},
        {"iat": {}},
        {"iat": "x"},
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


HEADERS: list[Any] = [
    {"alg": "HS256", "crit": ["exp"]}, {"alg": "HS256", "crit": []}, {"alg": "HS256", "crit": 1},
    {"alg": "HS256", "crit": [["b64"]]}, {"alg": "HS256", "crit": ["b64"], "b64": False},
    {"alg": "HS256", "b64": False},
    {"alg": ["HS256"]}, {"alg": {}}, {"alg": None}, {"alg": "\ud800"}, {"alg": "hs256"}, {"alg": "HS256\0"},
    {"alg": "HS256", "kid": 7}, {"alg": "HS256", "kid": []}, {"typ": "JWT"}, [], "HS256", 1, None, {},
]  # fmt: skip
RAW = [
    b'{"alg": NaN}', b'{"alg": 1e999999}', b'{"alg": ' + b"9" * 5000 + b"}", b"[" * 5000, b'{"alg":' * 800, b"\xff\xfe",
    b'{"alg": "\xff"}', b"", b"\0", b'{"alg":"none","alg":"HS255"}',
]  # fmt: skip


@pytest.mark.parametrize("header", [*HEADERS, *RAW], ids=lambda value: repr(value)[:40])
def test_a_header_that_is_none(header: Any, tmp_path: Path) -> None:
    """Whatever a token's header is, and however deep or large, the token is just not good, and that soon."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (encoded, json.dumps(claims()).encode())]
    signature = hmac.digest(HMAC, b".".join(parts), hashlib.sha256)
    parts.append(base64.urlsafe_b64encode(signature).rstrip(b"="))
    began = time.process_time()
    with pytest.raises(Unauthenticated):
        known(tmp_path, HMAC).bearer(b".".join(parts).decode())
    assert time.process_time() - began < 1


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
    ("jwt_key_file", b"-----BEGIN CERTIFICATE-----\n", "a certificate"),
    ("jwt_key_file", public(rsa.generate_private_key(public_exponent=65537, key_size=1024)), "2048 bits"),  # noqa: S505
    ("jwt_key_file", public(ec.generate_private_key(ec.SECP256K1())), "P-256"),
    ("jwt_key_file", b"x" * (2**20 + 1), "at most 1048576 bytes"),
    ("jwt_jwks_file", b"{}", "JWK set"),
    ("jwt_jwks_file", b"[", "JWK set"),
    ("jwt_jwks_file", b'{"keys": []}', "JWK set"),
    ("jwt_jwks_file", b'{"keys": [{"kty": "none"}]}', "JWK set"),
    ("jwt_jwks_file", b'{"keys": {"kty": "RSA"}}', "JWK set"),
    ("jwt_jwks_file", b'{"keys": 1}', "JWK set"),
    ("jwt_jwks_file", b"[" * 5000, "JWK set"),
    ("jwt_jwks_file", b'{"keys": ["x", 1, null, [], {"kty": ["RSA"]}]}', "must have a key that verifies"),
    ("jwt_jwks_file", b"\xff", "JWK set"),
]  # fmt: skip
PEM = public(RSA)
SSH = RSA.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
SPKI = RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
LOOKS_LIKE_A_KEY = {
    "PEM after a comment": (b"# our key\n" + PRIVATE, "private key"),
    "PEM with its first line gone": (PEM.partition(b"\n")[2], "looks like PEM"),
    "PEM without its lines": (b"".join(PEM.splitlines()[1:-1]), "DER"),
    "PEM's body": (b"\n".join(PEM.splitlines()[1:-1]), "DER"),
    "PEM of UTF-16": (PEM.decode().encode("utf-16"), "byte order mark"),
    "PEM with a byte order mark": (b"\xef\xbb\xbf" + PEM, "byte order mark"),
    "DER": (SPKI, "DER"),
    "DER of Ed25519": (
        KEYS["EdDSA"].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), "DER",
    ),
    "DER of PKCS 1": (RSA.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1), "DER"),
    "private DER": (RSA.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), "DER"),
    "Base64 of PEM": (base64.b64encode(PEM), "encoded key"),
    "Base64 of PEM, in lines": (base64.encodebytes(PEM), "encoded key"),
    "Base64 of a certificate": (base64.b64encode(b"-----BEGIN CERTIFICATE-----\nMIIC\n"), "encoded key"),
    "Base64 of a JWK": (base64.b64encode(b'{"kty": "RSA", "n": "AQABAQABAQABAQAB", "e": "AQAB"}'), "encoded key"),
    "DER in Base64 for URLs": (base64.urlsafe_b64encode(SPKI).rstrip(b"="), "DER"),
    "DER in hexadecimal": (SPKI.hex().encode(), "DER"),
    "two keys": (PEM + PEM, "must have one key"),
    "XML": (b"<RSAKeyValue><Modulus>qrvM3e7/qrvM3e7/qrvM3e7/</Modulus></RSAKeyValue>", "XML"),
    "SSH with options": (b'from="10.0.0.1" ' + SSH, "an SSH key"),
    "SSH's body": (SSH.split()[1], "the body of an SSH key"),
    "SSH of a host": (b"host.example " + SSH, "an SSH key"),
    "SSH": (SSH, "an SSH key"),
    "SSH of Ed25519": (KEYS["EdDSA"].public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH), "an SSH key"),
    "private SSH": (RSA.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), "private key"),
    "SSH2": (b"---- BEGIN SSH2 PUBLIC KEY ----\nAAAAB3NzaC1yc2EAAAADAQABAAAAgQ\n---- END SSH2 PUBLIC KEY ----", "SSH"),
    "PuTTY": (b"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "private key"),
    "PGP": (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQENBF\n-----END PGP PUBLIC KEY BLOCK-----\n", "looks like PEM"),
    "an encrypted PEM": (
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIC\n-----END ENCRYPTED PRIVATE KEY-----\n", "private key",
    ),
    "a request": (b"-----BEGIN CERTIFICATE REQUEST-----\nMIIC\n-----END CERTIFICATE REQUEST-----\n", "like PEM"),
    "parameters": (b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n", "like PEM"),
    "JWK": (b'{"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "0123456789"}', "--jwt-jwks-file"),
    "JWK set": (b' \n{"keys": [{"kty": "oct", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}', "--jwt-jwks-file"),
    "half a JWK": (b'{"kty": "RSA", "n": "AQABAQABAQABAQABAQABAQABAQAB', "--jwt-jwks-file"),
    "a token": (jwt.encode(claims(), HMAC, "HS256").encode(), "a token"),
    "lines": (b"alice:0123456789abcdef\nbob:0123456789abcdef\n", "one line"),
    "a page": (b"<!DOCTYPE html>\n<title>Not Found</title>\n<p>nothing here</p>", "one line"),
    "blanks": (b"  an HMAC secret of 32 bytes or more", "blank"),
    "nothing": (b"", "32 bytes"),
    "31 bytes and a line break": (b"x" * 31 + b"\n", "32 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("form", LOOKS_LIKE_A_KEY)
def test_a_file_that_looks_like_another_key_is_no_hmac_secret(form: str, tmp_path: Path) -> None:
    """A key of another form is refused in one sentence, as is what only looks like one; else anybody could sign."""
    data, reason = LOOKS_LIKE_A_KEY[form]
    with pytest.raises(SettingsError) as caught:
        known(tmp_path, data)
    assert caught.value.field == "--jwt-key-file"
    assert reason in caught.value.message
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("secret", [HMAC, b"\x20\n\x00\xff" * 10, b"{" + b"x" * 31, b"0" * 32, b"0>" + b"\x05" * 62])
def test_an_hmac_secret_is_the_file_but_for_a_line_break_at_its_end(secret: bytes, end: bytes, tmp_path: Path) -> None:
    """Text or bytes, nothing else is taken off or added: the issuer signs with the same."""
    auth = known(tmp_path, secret + end)
    assert auth.bearer(by_hand({"alg": "HS256"}, claims(), secret)).user_id == "alice"
    with pytest.raises(Unauthenticated):
        auth.bearer(by_hand({"alg": "HS256"}, claims(), secret + b"\n"))


def octets(data: bytes, **more: Any) -> dict[str, Any]:
    return {"kty": "oct", "k": base64.urlsafe_b64encode(data).rstrip(b"=").decode(), **more}


def signs(keys: list[dict[str, Any]], folder: Path) -> Auth:
    (folder / "jwks").write_text(json.dumps({"keys": keys}))
    return Auth.of(Settings(jwt_jwks_file=str(folder / "jwks")))


WEAK = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - that is what is refused
BAD_JWKS: dict[str, tuple[dict[str, Any], str]] = {
    "private": ({**jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True), "kid": "p"}, "private key"),
    "RSA for HMAC": (jwk(RSA, alg="HS256"), "of the type of its `alg`"),
    "RSA for EC": (jwk(RSA, alg="ES256"), "of the type of its `alg`"),
    "EC for another curve": (jwk(KEYS["ES256"], alg="ES384"), "whose `alg` must be one of: ES256"),
    "octets for RSA": (octets(HMAC, alg="RS256"), "of the type of its `alg`"),
    "short": (octets(b"x" * 31), "32 bytes"),
    "short for HS512": (octets(b"x" * 63, alg="HS512"), "64 bytes"),
    "weak": (jwk(WEAK), "2048 bits"),
    "no n": ({"kty": "RSA", "e": "AQAB"}, "damaged"),
    "n of a wrong type": ({"kty": "RSA", "e": "AQAB", "n": 7}, "damaged"),
    "n that is no base64": ({"kty": "RSA", "e": "AQAB", "n": "!"}, "damaged"),
    "off the curve": ({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "damaged"),
    "a kid that is no string": (jwk(RSA, kid=["a"]), "`kid`"),
}


@pytest.mark.parametrize("form", BAD_JWKS)
def test_a_bad_key_in_a_set_is_refused(form: str, tmp_path: Path) -> None:
    """A key that is private, weak, damaged or none for its `alg` ends the start, also beside a good one."""
    bad, reason = BAD_JWKS[form]
    with pytest.raises(SettingsError) as caught:
        signs([jwk(KEYS["ES256"], kid="good"), bad], tmp_path)
    assert caught.value.field == "--jwt-jwks-file"
    assert reason in caught.value.message


def test_keys_of_a_set_that_nobody_here_knows_are_passed_over(tmp_path: Path) -> None:
    """As RFC 7517 wants it: another type, curve, algorithm, use or operation does not keep the rest from counting."""
    odd: list[Any] = [
        {"kty": "AKP", "alg": "ML-DSA-44"}, {"kty": "EC", "crv": "secp256k1"}, {"kty": "OKP", "crv": "X25519"},
        jwk(RSA, alg="RSA-OAEP"), jwk(RSA, use="enc"), jwk(RSA, key_ops=["encrypt"]), jwk(RSA, key_ops="verify"), 7,
    ]  # fmt: skip
    auth = signs([*odd, octets(HMAC, alg="HS256", kid="h")], tmp_path)
    assert auth.bearer(jwt.encode(claims(), HMAC, "HS256", headers={"kid": "h"})).user_id == "alice"
    with pytest.raises(Unauthenticated):
        auth.bearer(jwt.encode(claims(), RSA, "RS256"))
    with pytest.raises(SettingsError, match="must have a key that verifies"):
        signs(odd, tmp_path)


def test_no_key_is_shown() -> None:
    """A key's repr, as a debugger or an exception's text has it, does not hold the key."""
    assert "HMAC" not in repr(from_file(HMAC))


@pytest.mark.parametrize(("setting", "data", "reason"), BAD_FILES, ids=lambda value: repr(value)[:30])
def test_a_bad_file_is_one_line(setting: str, data: bytes, reason: str, tmp_path: Path) -> None:
    """It names the flag, says what is wrong, and shows nothing of what is in the file."""
    file = tmp_path / "file"
    file.write_bytes(data)
    named: dict[str, Any] = {setting: str(file)}
    with pytest.raises(SettingsError) as caught:
        Auth.of(Settings(**named))
    assert caught.value.field == "--" + setting.replace("_", "-")
    assert f"`{caught.value.field}`" in caught.value.message
    assert reason in caught.value.message
    assert str(caught.value).isprintable()
    assert "BEGIN" not in str(caught.value)
    assert "x" * 20 not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The same, for any of the files."""
    for name in ("jwt_key_file", "jwt_jwks_file", "auth_tokens_file"):
        for path in (str(tmp_path / "nope"), str(tmp_path), "a\0b"):
            named: dict[str, Any] = {name: path}
            with pytest.raises(SettingsError, match=rf"^`--{name.replace('_', '-')}` must name a readable file: .+\.$"):
                Auth.of(Settings(**named))


def test_without_the_extra(tmp_path: Path) -> None:
    """Where PyJWT is missing one line says what to install."""
    (tmp_path / "key").write_bytes(HMAC)
    code = (
        "import sys; sys.modules['jwt'] = None\n"
        "from twinwire.auth import Auth\nfrom twinwire.protocol.errors import SettingsError\n"
        "from twinwire.settings import Settings\n"
        "try: Auth.of(Settings(jwt_key_file='key'))\nexcept SettingsError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "`--jwt-key-file` and `--jwt-jwks-file` require PyJWT: pip install 'twinwire[jwt]'.\n"


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
