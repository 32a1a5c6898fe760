"""The distributions `twinwire` and `twinwire-client`, built as for an index and installed as a stranger does."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.documents import ROOT
from support.interpreters import UV
from support.processes import ENVIRONMENT

CLIENT = ROOT / "clients/python"


def build(project: Path, folder: Path, *options: str) -> Path:
    """Build a project into the folder: the source distribution, and the wheel from that. Return the wheel."""
    command: list[str | Path] = [UV, "build", "-q", "--no-create-gitignore", "--out-dir", folder, *options, project]
    subprocess.run(command, check=True, env=ENVIRONMENT)
    name = "twinwire_client" if project == CLIENT else "twinwire"
    (wheel,) = folder.glob(f"{name}-[0-9]*.whl")
    return wheel


def pip(venv: Path, *arguments: str, links: Path) -> str:
    """Run pip of an environment; it finds packages in the folder `links` too. Return what it prints."""
    environ = {**ENVIRONMENT, "PYTHONWARNINGS": "", "PIP_FIND_LINKS": str(links), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command: list[str | Path] = [venv / "bin/python", "-m", "pip", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(folder: Path, python: str) -> Path:
    """Make an environment without packages for this interpreter."""
    subprocess.run([python, "-m", "venv", folder], check=True, env={**ENVIRONMENT, "PYTHONWARNINGS": ""})
    return folder


def packages(venv: Path) -> set[str]:
    """Return the names of the packages in an environment."""
    return set(pip(venv, "list", "--format", "freeze", links=venv).replace("==", " ").split()[::2])
