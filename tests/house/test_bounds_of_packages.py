"""The bounds of both pyproject.toml: what they allow is tried, and they hold no other package back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from support.documents import ROOT
from support.interpreters import UV
from support.processes import ENVIRONMENT

AGENTS = [
    "crewai",
    "google-adk",
    "instructor",
    "langgraph",
    "llama-index-llms-openai",
    "openai-agents",
    "pydantic-ai",
    "strands-agents",
]

OURS = ("pyproject.toml", "clients/python/pyproject.toml", "--all-extras", "--no-emit-package", "twinwire-client")
"""The requirements of the server and the Python client; the client itself, an extra of the server, has no version."""

HELD_BACK = {
    "uvicorn": "serving/ subclasses its protocols: with 0.53 HTTP/2 fails, with 0.52 pings; 0.55 is yet to come",
}
"""The packages of which ours is allowed to bring an older version, and why."""

PART = [
    "tests/agents/test_agents.py",
    "tests/agents/test_tools_project.py",
    "tests/auth/test_auth_jwt.py",
    "tests/clients/test_client.py",
    "tests/clients/test_client_network.py",
    "tests/clients/test_client_sync.py",
    "tests/clients/test_client_vectors.py",
    "tests/clients/test_client_ways.py",
    "tests/clients/test_client_wire.py",
    "tests/house/test_other_peoples_code.py",
    "tests/logs/test_log.py",
    "tests/logs/test_log_control.py",
    "tests/logs/test_log_redis.py",
    "tests/logs/test_log_sqlite.py",
    "tests/logs/test_redis_faults.py",
    "tests/models/test_http1.py",
    "tests/models/test_openai_failures.py",
    "tests/models/test_openai_later.py",
    "tests/models/test_openai_model.py",
    "tests/models/test_options.py",
    "tests/models/test_response_parser.py",
    "tests/models/test_transport.py",
    "tests/models/test_usage.py",
    "tests/protocol/test_events.py",
    "tests/protocol/test_start_fields.py",
    "tests/server/test_both_transports.py",
    "tests/server/test_http2_frames.py",
    "tests/server/test_http_input.py",
    "tests/server/test_metrics.py",
    "tests/server/test_query.py",
    "tests/server/test_slow_readers.py",
    "tests/server/test_sse.py",
    "tests/server/test_traces.py",
    "tests/server/test_websocket.py",
    "tests/server/test_websocket_wire.py",
]
"""The tests that are run with other versions than the locked ones."""


def uv(*arguments: str | Path, send: str = "", **environ: str) -> str:
    """Run uv; return what it prints."""
    done = subprocess.run(
        [UV, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        input=send,
        env={**ENVIRONMENT, **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def resolved(*arguments: str, send: str = "") -> str:
    """Return the requirements that uv finds for this Python version, each with its version."""
    return uv("pip", "compile", "-q", "--no-header", "--no-annotate", "-p", sys.executable, *arguments, send=send)


def versions(requirements: str) -> dict[str, Version]:
    """Return the version of each package."""
    return {
        name: Version(version.split()[0])
        for name, _, version in (line.partition("==") for line in requirements.splitlines())
    }


def older(alone: dict[str, Version], beside: dict[str, Version]) -> dict[str, tuple[str, str]]:
    """Return the packages that are older in the second resolution."""
    return {
        name: (str(alone[name]), str(version))
        for name, version in beside.items()
        if name not in HELD_BACK and name in alone and version < alone[name]
    }


@pytest.mark.full
@pytest.mark.parametrize("package", AGENTS)
def test_nobody_is_held_back(package: str) -> None:
    """What others build agents with resolves beside Twinwire, and brings no older package than alone."""
    alone = versions(resolved("-", send=package))
    beside = versions(resolved(*OURS, "-", send=package))
    assert package in alone
    assert {"httpx-ws", "litestar", package} <= beside.keys()
    assert older(alone, beside) == {}


def test_what_is_held_back_is_found() -> None:
    """An older package is found, unless it is named with its reason."""
    alone, beside = versions("a==2.0\nb==1.10\nuvicorn==2.0\n"), versions("a==2.0\nb==1.9\nuvicorn==1.0\nc==1.0\n")
    assert older(alone, beside) == {"b": ("1.10", "1.9")}


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment of the locked packages."""
    folder = tmp_path / "venv"
    uv("sync", "-q", "--frozen", "--python", sys.executable, UV_PROJECT_ENVIRONMENT=str(folder))
    return folder


def check(environment: Path, requirements: str) -> None:
    """Install these versions in place of the locked ones, and run the part of the tests without httpx2."""
    uv("pip", "install", "-q", "-p", environment, "-r", "-", send=requirements)
    uv("pip", "uninstall", "-q", "-p", environment, "httpx2", "httpcore2")
    done = subprocess.run(
        [environment / "bin/python", "-m", "pytest", "-p", "support.old_websockets", "-p", "no:cacheprovider", *PART],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}, "PYTHONPATH": str(ROOT / "tests")},
    )
    print(requirements, done.stdout[-20_000:], done.stderr[-2_000:])
    assert done.returncode == 0


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_lowest_versions(environment: Path) -> None:
    """The part of the tests passes with the lowest version that is allowed of each package."""
    lowest = resolved("--resolution", "lowest-direct", *OURS)
    assert versions(lowest)["openai"] < Version("3")
    check(environment, lowest)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_openai_2(environment: Path) -> None:
    """The part of the tests passes with the newest openai 2, which is built on httpx."""
    check(environment, "openai<3")
