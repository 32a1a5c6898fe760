"""Certificates for 127.0.0.1, of a CA that nobody else knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme


class Certificate:
    """Files in `folder`; `settings` are what a server needs, `ca` is what its clients need."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        leaf = authority.issue_cert("127.0.0.1", "localhost")
        self.ca, self.certfile, self.keyfile = (str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem"))
        authority.cert_pem.write_to_path(self.ca)
        for blob in leaf.cert_chain_pems:
            blob.write_to_path(self.certfile, append=True)
        leaf.private_key_pem.write_to_path(self.keyfile)
        self.settings = {"ssl_certfile": self.certfile, "ssl_keyfile": self.keyfile}

    def trust(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have all clients in this process trust the CA, by the variable that OpenSSL and httpx read."""
        monkeypatch.setenv("SSL_CERT_FILE", self.ca)
