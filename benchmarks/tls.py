"""Twinwire's server behind TLS, for the benchmark: `python -m benchmarks.tls FOLDER` prints its port.

The self-signed certificate it makes in FOLDER (with OpenSSL's command) is good for nothing else.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

from benchmarks.synthetic import llm
from twinwire import create_app
from twinwire.server import Server, config
from twinwire.settings import Settings


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate and its key (ECDSA P-256, what public servers mostly have)."""
    command = shutil.which("openssl")
    if command is None:
        raise SystemExit("the certificate is made with openssl, which is not installed")
    made, key = folder / "certificate.pem", folder / "key.pem"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    out = ("-nodes", "-days", "2", "-out", made, "-keyout", key)
    subprocess.run([command, "req", "-x509", *curve, *names, *out], check=True, capture_output=True)
    return made, key


def main(folder: Path) -> None:
    """Serve until the process is ended."""
    settings = Settings(run_timeout=600.0, max_runs=5000)
    app = create_app({"llm": llm}, settings=settings)
    uvicorn_settings = config(app, settings)
    uvicorn_settings.ssl_certfile, uvicorn_settings.ssl_keyfile = certificate(folder)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    port = listener.getsockname()[1]
    Server(uvicorn_settings, app.state.service, lambda: print(port, flush=True)).run(sockets=[listener])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
