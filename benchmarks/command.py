"""The command line of the programs that measure one thing: a flag for each figure, a table for a person, or JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from benchmarks.processes import step_aside

Report = dict[str, Any]


def command(
    about: str, run: Callable[..., Coroutine[Any, Any, Report]], table: Callable[[Report], str], **numbers: float
) -> None:
    """Run with `numbers`, each of which is the default of a flag, beside what is measured; print the report.

    The flag of one that is False is a switch.
    """
    parser = argparse.ArgumentParser(description=about, allow_abbrev=False)
    for name, number in numbers.items():
        if number is False:
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", type=type(number), default=number, help="default: %(default)s")
    parser.add_argument("--json", action="store_true")
    flags = vars(parser.parse_args())
    as_json = flags.pop("json")
    step_aside()
    report = uvloop.run(run(**flags))
    print(json.dumps(report, indent=2) if as_json else table(report))
