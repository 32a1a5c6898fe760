"""The command line of the programs that measure one thing: a flag for each figure, a table for a person, or JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import kept
from benchmarks.processes import step_aside

Report = dict[str, Any]


def command(
    about: str,
    run: Callable[..., Coroutine[Any, Any, Report]],
    table: Callable[[Report], str],
    *,
    published: str = "",
    **numbers: float,
) -> None:
    """Run with `numbers`, each of which is the default of a flag, beside what is measured; print the report.

    The flag of one that is False is a switch. `published` is the name of a report that is kept where `--out` says.
    """
    parser = argparse.ArgumentParser(description=about, allow_abbrev=False)
    for name, number in numbers.items():
        if number is False:
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", type=type(number), default=number, help="default: %(default)s")
    parser.add_argument("--json", action="store_true")
    if published:
        parser.add_argument("--out", type=Path, metavar="DIR", help="where the result is kept")
    flags = vars(parser.parse_args())
    as_json, out = flags.pop("json"), flags.pop("out", None)
    step_aside()
    report = {**kept.about(), **uvloop.run(run(**flags))}
    print(json.dumps(report, indent=2) if as_json else table(report))
    if out is not None:
        kept.keep(published, report, table, out)
