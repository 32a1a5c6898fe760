"""Results that are published: as JSON that names its commit, and as a table of README made from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.environment import commit, environment

README = Path(__file__).parent / "README.md"
Report = dict[str, Any]


def about() -> Report:
    """Return what a result was measured on and of. Take it before the measurement: it tells of the machine's load."""
    return {"commit": commit("server"), "environment": environment()}


def keep(name: str, report: Report, table: Callable[[Report], str], folder: Path) -> None:
    """Write a report to `folder`. In `benchmarks/results`, it is also README's table of that name."""
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    if folder.resolve() == README.parent / "results":
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        before, _, rest = README.read_text().partition(begin)
        how = (
            f"`python -m benchmarks.{name}`, server of commit {report['commit']}, "
            f"Python {report['environment']['python']}, {report['environment']['processor']}."
        )
        README.write_text(f"{before}{begin}{how}\n\n{table(report)}\n{end}{rest.partition(end)[2]}")
