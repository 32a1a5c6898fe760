"""What a result was measured on: versions, processor, kernel, and how fast the machine itself was."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("twinwire", "litestar", "uvicorn", "uvloop", "httptools", "websockets", "msgspec")


def environment() -> dict[str, Any]:
    """All but names: nothing in it tells whose machine it is."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_before": os.getloadavg()[0],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def commit(folder: str) -> str:
    """Return the last commit that changed this folder of the project, and whether its files differ from that."""

    def git(*command: str) -> str:
        asked = ["git", *command, "--", folder]
        return subprocess.run(asked, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False).stdout

    return git("log", "-1", "--format=%h").strip() + (", changed" if git("diff", "HEAD", "--name-only") else "")


def calibration() -> float:
    """Milliseconds that a fixed piece of work takes on this machine now: the best of five."""
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        data = b""
        for number in range(4_000):
            data = hashlib.sha256(data + number.to_bytes(4, "big")).digest()
        taken.append(time.perf_counter() - began)
    return min(taken) * 1000
