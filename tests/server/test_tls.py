"""Served over TLS: the same on both transports, and a file that is no use is told in a line that names its flag."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from support.certificates import Certificate
from support.followers import KINDS, Broken, attach, rest, start, text
from support.following import Transport, both, connected, words
from support.processes import Process
from support.redis_server import fresh
from support.serving import Puppets, echo, serving, until
from twinwire_client import TwinwireError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


@both
async def test_a_client_that_trusts_the_certificate(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch, transport: Transport
) -> None:
    """The Python client gets a whole run over https and wss, and verifies the certificate; without its CA, nothing."""
    async with serving({"echo": echo}, **certificate.settings) as server:
        assert server.url.startswith("https://")
        async with connected(server.url, max_attempts=1) as stranger:
            with pytest.raises(TwinwireError):
                async with stranger.stream("one two", transport=transport) as run:
                    _ = [event async for event in run]
        certificate.trust(monkeypatch)
        async with connected(server.url) as client, client.stream("one two", transport=transport) as run:
            events = [event async for event in run]
        assert words(events) == ["one ", "two "]
        assert run.terminal == events[-1]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stalled_follower_is_dropped_and_resumes(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch, puppets: Puppets, kind: str
) -> None:
    """One who takes nothing is dropped, in the middle of the body, with little buffered for it, and resumes."""
    certificate.trust(monkeypatch)
    async with serving({"mine": puppets}, send_timeout=0.4, **certificate.settings) as server:
        stalled = await start(kind, server, on_disconnect="continue")
        puppet = await puppets.next()
        puppet.say("first")
        seen = [json.loads(await stalled.next() or b"")]
        for _ in range(250):
            puppet.emit("NOISE", noise="x" * 60_000)
        await until(lambda: not server.service.heartbeats.pumps)
        with pytest.raises(Broken):
            while (body := await stalled.next()) is not None:
                seen.append(json.loads(body))
        await stalled.close()
        assert len(seen) < 250
        puppet.end()
        seen += await rest(await attach(kind, server, stalled.run_id, seen[-1]["id"]))
        assert (len(seen), text(seen)) == (253, "first")


def test_workers(certificate: Certificate, tmp_path: Path) -> None:
    """Each of several workers serves https, which the ready line has; a signal ends them all."""
    flags = ("--ssl-certfile", certificate.certfile, "--ssl-keyfile", certificate.keyfile, "--http2")
    with Process("serve", "--port", "0", "--workers", "2", "--log", fresh(), *flags, cwd=tmp_path) as process:
        assert process.ready().startswith(f"Twinwire is at https://127.0.0.1:{process.port} ")
        trusting = ssl.create_default_context(cafile=certificate.ca)
        for _ in range(8):
            assert httpx.get(f"{process.url}/readyz", verify=trusting, trust_env=False).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"http://127.0.0.1:{process.port}/readyz", trust_env=False)
        process.popen.send_signal(signal.SIGTERM)
        assert process.end() == (-signal.SIGTERM, "", "")


def _unusable(certificate: Certificate, folder: Path) -> dict[str, str]:
    """Files by what is wrong with them; `cert` and `key` are good."""
    other = folder / "other"
    other.mkdir()
    (folder / "text").write_text("no PEM")
    locked = folder / "locked"
    command = ["openssl", "pkey", "-in", certificate.keyfile, "-aes256", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    files = {name: str(folder / name) for name in ("text", "locked", "absent")}
    return files | {"cert": certificate.certfile, "key": certificate.keyfile, "other": Certificate(other).keyfile}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--ssl-certfile cert", "`--ssl-certfile` requires `--ssl-keyfile` too."),
        ("--ssl-keyfile key", "`--ssl-keyfile` requires `--ssl-certfile` too."),
        ("--http2", "`--http2` requires `--ssl-certfile` too."),
        (
            "--ssl-certfile absent --ssl-keyfile key",
            "`--ssl-certfile` must name a readable file: No such file or directory.",
        ),
        (
            "--ssl-certfile cert --ssl-keyfile absent",
            "`--ssl-keyfile` must name a readable file: No such file or directory.",
        ),
        ("--ssl-certfile text --ssl-keyfile key", "`--ssl-certfile` must have a PEM certificate."),
        (
            "--ssl-certfile cert --ssl-keyfile text",
            "`--ssl-keyfile` must have the certificate's key, as unencrypted PEM.",
        ),
        (
            "--ssl-certfile cert --ssl-keyfile other",
            "`--ssl-keyfile` must have the certificate's key, as unencrypted PEM.",
        ),
        (
            "--ssl-certfile cert --ssl-keyfile locked",
            "`--ssl-keyfile` must have the certificate's key, as unencrypted PEM.",
        ),
    ],
)
def test_what_cannot_be_used(certificate: Certificate, tmp_path: Path, flags: str, said: str) -> None:
    """A file that is missing, is no PEM, does not fit or is encrypted, and a flag without another: one line each."""
    files = _unusable(certificate, tmp_path)
    with Process("serve", "--port", "0", *(files.get(word, word) for word in flags.split()), cwd=tmp_path) as process:
        assert process.end() == (2, "", f"twinwire: {said}\n")
