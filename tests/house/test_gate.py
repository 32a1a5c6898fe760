"""The gate runs what README and the classifiers claim, and skips nothing."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import interpreters
from support.documents import README, ROOT, snippets
from support.followers import rest, start
from support.processes import ENVIRONMENT, Process

GATE = (ROOT / ".ci/run").read_text()
SKIPS = """
import pytest
pytestmark = pytest.mark.filterwarnings("ignore")

@pytest.fixture
def missing():
    pytest.skip("by a fixture")

def test_fixture(missing): ...

@pytest.mark.skipif(True, reason="by a marker")
def test_marker(): ...

def test_body():
    pytest.importorskip("a_module_that_is_not_there", reason="by an import")
"""
MODULE = 'import pytest\npytest.skip("a module", allow_module_level=True)'


SERVE, TEST = snippets(README, "sh")[:2]


def test_the_two_commands() -> None:
    """README begins with the two commands, neither installs into the system's Python, and the gate runs the second."""
    assert SERVE == (
        "python3 -m venv .uv && .uv/bin/pip install -q uv && .uv/bin/uv run --frozen --no-dev twinwire serve\n"
    )
    assert TEST == "python3 -m venv .uv && .uv/bin/pip install -q uv && .uv/bin/uv run --frozen pytest\n"
    assert TEST in GATE


@pytest.mark.parametrize("ci", [False, True])
def test_ci_skips_nothing(ci: bool, tmp_path: Path) -> None:
    """Each way to skip a test is a failure if CI is set, and its reason is told."""
    (tmp_path / "test_skips.py").write_text(SKIPS)
    (tmp_path / "test_module.py").write_text(MODULE)
    environ = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST_")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--continue-on-collection-errors",
            "-c",
            "/dev/null",
            "-p",
            "conftest",
            "-p",
            "no:cacheprovider",
            "-rs",
            tmp_path,
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": str(ROOT / "tests"), **({"CI": "true"} if ci else {})},
    )
    for reason in ("by a fixture", "by a marker", "by an import", "a module"):
        assert reason in done.stdout
    counts = [count for count in re.findall(r"(\d+ \w+)", done.stdout.splitlines()[-1]) if "warning" not in count]
    assert counts[: 2 if ci else 1] == (["1 failed", "3 errors"] if ci else ["4 skipped"]), done.stdout
    assert done.returncode == (1 if ci else 0)


def test_a_test_is_in_one_of_two_parts() -> None:
    """The gate runs all but the marker `full` on each commit, and that marker alone besides: there is no third part."""
    assert '"-m", "not full"' in (ROOT / "pyproject.toml").read_text()
    assert re.findall(r"pytest -m \S+", GATE) == ["pytest -m full"]


def installed(python: str, folder: Path) -> str:
    """Install the server alone, at its locked versions, for this interpreter; return the path of its command."""
    place = {**ENVIRONMENT, "UV_PROJECT_ENVIRONMENT": str(folder)}
    sync = (interpreters.UV, "sync", "-q", "--frozen", "--no-dev", "--python", python, "--project", str(ROOT))
    subprocess.run(sync, check=True, env=place)
    return str(folder / "bin/twinwire")


@pytest.mark.parametrize("version", interpreters.claimed())
async def test_each_claimed_version_serves(version: str, tmp_path: Path) -> None:
    """On each claimed Python version, the server without the client runs an agent to its end over SSE and WebSocket."""
    python = interpreters.find(version)
    if python is None:
        pytest.skip(f"Python {version} is not on this machine.")
    command = installed(python, tmp_path / "venv")
    assert not [*(tmp_path / "venv").rglob("*twinwire_client*")]
    with Process("serve", "--port", "0", "--demo-rate", "0", cwd=tmp_path, command=(command,)) as server:
        server.ready()
        for kind in ("sse", "ws"):
            seen = await rest(await start(kind, server, "Analyse the project structure"))
            assert seen[-1]["type"] == "AGENT_FINISH"
            assert seen[-1]["data"]["status"] == "completed"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone of this checkout's commit."""
    folder = tmp_path_factory.mktemp("fresh") / "twinwire"
    subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
    return folder


def stock(**more: str) -> dict[str, str]:
    """The environment of somebody who has the system's Python alone."""
    kept = {name: value for name, value in ENVIRONMENT.items() if name in {"HOME", "PIP_CERT", "SSL_CERT_FILE"}}
    return {**kept, "PATH": "/usr/bin:/bin", **more}


@pytest.mark.full
@pytest.mark.timeout(300)
async def test_serve_on_the_system_s_python(clone: Path) -> None:
    """README's first command serves in a fresh clone on Debian's Python, and its chat command talks to that server.

    Neither installs a tool for development.
    """
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", SERVE, cwd=clone, env=stock(TWINWIRE_PORT="0"), stdout=-1, start_new_session=True
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(200):
            line = (await process.stdout.readline()).decode()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line
        curl = await asyncio.create_subprocess_exec("curl", "-sN", f"{found[0]}/chat/stream?message=hi", stdout=-1)
        assert b"event: AGENT_FINISH" in (await curl.communicate())[0]
        (chat,) = (block.strip() for block in snippets(README, "sh") if "twinwire chat" in block)
        environ = stock(PATH=f"{clone / '.uv/bin'}:/usr/bin:/bin")
        talk = await asyncio.create_subprocess_exec(
            "bash", "-c", f"{chat} --url {found[0]}", cwd=clone, env=environ, stdout=-1
        )
        assert (await talk.communicate())[0].decode().endswith("🎉 done\n")
    finally:
        os.killpg(process.pid, 15)
        await process.communicate()
    programs = os.listdir(clone / ".venv/bin")  # noqa: PTH208
    assert "twinwire" in programs
    assert "pytest" not in programs


@pytest.mark.full
@pytest.mark.timeout(300)
def test_test_on_the_system_s_python(clone: Path) -> None:
    """README's second command runs tests in a fresh clone on Debian's Python; a file of them stands for all."""
    done = subprocess.run(
        ["bash", "-c", TEST],
        check=False,
        capture_output=True,
        text=True,
        cwd=clone,
        env=stock(PYTEST_ADDOPTS="tests/server/test_both_transports.py"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
