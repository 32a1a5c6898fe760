"""The transport benchmark: SSE or WebSocket, on your machine. `python -m benchmarks --help` tells what it can do.

It measures, prints a table, and writes `result.json` and `report.html` into a folder. Whatever ends it early, what was
measured until then is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import uvloop

from benchmarks import exact
from benchmarks.processes import ROOT, step_aside
from benchmarks.profiles import FULL, Sizes
from benchmarks.report import page
from benchmarks.stats import compare, verdicts
from benchmarks.suite import PROFILES, QUICK, Settings, Suite
from benchmarks.targets import PEERS, Unusable
from benchmarks.terminal import Progress, compared, table

OUT = ROOT / "test-artefacts" / "benchmark"


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        fail(message)


def fail(message: str) -> NoReturn:
    """Say what is wrong, in one line, and end."""
    sys.stderr.write(f"benchmarks: {message}\n")
    raise SystemExit(2)


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = _Parser("python -m benchmarks", description="Compare SSE and WebSocket on this machine.", allow_abbrev=False)
    top.add_argument(
        "--full",
        action="store_true",
        help="eight minutes: longer, larger, more rounds, TLS, a slow reader",
    )
    top.add_argument(
        "--exact", action="store_true",
        help="count the server's instructions, system calls and bytes per event, with valgrind and strace",
    )  # fmt: skip
    top.add_argument(
        "--profiles",
        help=f"only these, with commas between: {', '.join(PROFILES)}; with --exact: {', '.join(exact.ROWS)}",
    )
    top.add_argument("--rounds", type=_positive, help="how often to measure each; fewer than 3 allow no verdict")
    top.add_argument("--seconds", type=_seconds, help="how long a run of most profiles goes on")
    top.add_argument("--seed", type=int, default=1, help="of the tokens' times and lengths; default %(default)s")
    top.add_argument("--url", help="measure the Twinwire that runs there; with TWINWIRE_TOKEN as its bearer token")
    top.add_argument("--agent", help="the agent to ask there; default: the server's own")
    top.add_argument(
        "--peer", action="append", default=[], metavar="NAME",
        help=f"do the same work on another server too: {', '.join(PEERS)}, or all; repeatable",
    )  # fmt: skip
    top.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="where the result goes; default %(default)s")
    top.add_argument("--compare", type=Path, nargs=2, metavar="FILE", help="what changed from one result to another")
    top.add_argument("--html", type=Path, metavar="FILE", help="only write the report of this result again")
    return top


def _positive(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 100")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0.1 to 60")
    return value


def settings(flags: argparse.Namespace) -> Settings:
    """What the flags ask for. Raises `Unusable`."""
    names = tuple(PROFILES) if flags.full else QUICK
    if flags.profiles:
        names = tuple(dict.fromkeys(flags.profiles.split(",")))
    peers = tuple(PEERS) if "all" in flags.peer else tuple(dict.fromkeys(flags.peer))
    for flag, given, known in (("--profiles", names, PROFILES), ("--peer", peers, PEERS)):
        for name in given:
            if name not in known:
                raise Unusable(f"{flag}: {name!r} is none of {', '.join(known)}")
    sizes = FULL if flags.full else Sizes()
    if flags.seconds:
        sizes = replace(sizes, seconds=flags.seconds)
    rounds = flags.rounds or (8 if flags.full else Settings().rounds)
    side = flags.rounds or (5 if flags.full else Settings().side_rounds)
    return Settings(names, rounds, side, sizes, flags.seed, flags.url, flags.agent, peers)


def read(path: Path) -> dict[str, Any]:
    """A result. Raises `Unusable`."""
    try:
        result = json.loads(path.read_bytes())
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}") from None
    except ValueError:
        result = None
    parts = {"environment", "settings", "calibration", "profiles", "notes"}
    if not isinstance(result, dict) or result.get("version") != 1 or not parts <= result.keys():
        raise Unusable(f"{path}: not a result of this benchmark")
    return result


def change(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What has changed from one result to the other, as text. Raises `Unusable` where they are not of the same work."""
    for name in ("sizes", "seed"):
        if before["settings"].get(name) != after["settings"].get(name):
            raise Unusable(f"--compare: the two have other {name}: give both the same --full, --seconds and --seed")
    return compared(*compare(before, after))


def draw(path: Path) -> None:
    """Put a result's report beside it. Raises `Unusable`."""
    html = page(read(path))
    try:
        path.with_suffix(".html").write_text(html)
    except OSError as error:
        raise Unusable(f"--html: {path.with_suffix('.html')}: {error.strerror}") from None


def write(result: dict[str, Any], folder: Path) -> None:
    """Put the result and its report into a folder. Raises `Unusable`."""
    try:
        (folder / "result.json").write_bytes(msgspec.json.encode(result) + b"\n")
        (folder / "report.html").write_text(page(result))
    except OSError as error:
        raise Unusable(f"--out: {folder}: {error.strerror}") from None


def writable(folder: Path) -> None:
    """Make the folder, before the time is spent. Raises `Unusable`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise Unusable(f"--out: {folder}: {error.strerror}") from None


def count(names: Sequence[str], folder: Path) -> None:
    """Count what the server does per event, print, write. Raises `Unusable`."""
    for name in names:
        if name not in exact.ROWS:
            raise Unusable(f"--profiles: {name!r} is none of {', '.join(exact.ROWS)}")
    writable(folder)
    result = uvloop.run(exact.run(names))
    exact.keep(result, folder)
    print(exact.table(result))
    print(f"\n{folder / 'exact.json'}")


def measure(wanted: Settings, folder: Path) -> None:
    """Measure, print, write; also where it ends early."""
    writable(folder)
    progress = Progress()
    suite = Suite(wanted, progress)
    ended = 0
    step_aside()
    try:
        uvloop.run(suite.run())
    except (Unusable, SystemExit, OSError) as error:
        suite.note(str(error))
        ended = 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        suite.note("ended early")
        ended = 130
    finally:
        progress.close()
    result = suite.result
    found = verdicts(result)
    result["verdicts"] = msgspec.to_builtins(found)
    if any(part["series"] for part in result["profiles"].values()):
        write(result, folder)
        print(table(result, found))
        print(f"\n{folder / 'report.html'}")
    elif ended:
        fail(result["notes"][-1])
    raise SystemExit(ended)


def main() -> None:
    """`python -m benchmarks`."""
    flags = parser().parse_args()
    try:
        if flags.compare:
            print(change(*map(read, flags.compare)))
        elif flags.html:
            draw(flags.html)
        elif flags.exact:
            count(flags.profiles.split(",") if flags.profiles else tuple(exact.ROWS), flags.out)
        else:
            measure(settings(flags), flags.out)
    except Unusable as error:
        fail(str(error))


if __name__ == "__main__":
    main()
