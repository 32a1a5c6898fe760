"""Turn the JUnit files of `.ci/run full` into docs/results/full.json, and that into the tables of docs/ROBUSTNESS.md.

`python tests/suites/results.py FOLDER` does both with the files of this folder; without it, only the tables are made.

A test that failed, and whose cause was mended, may be run again: what the file `full-again.xml` has replaces what
`full.xml` has of the same tests. The results name these tests, and the commit that they were run again at.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs/results/full.json"
DOCUMENT = ROOT / "docs/ROBUSTNESS.md"
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"


def properties(case: ET.Element, name: str) -> Iterator[str]:
    """What a test recorded under this name."""
    return (found.get("value", "") for found in case.iter("property") if found.get("name") == name)


def machine() -> dict[str, Any]:
    """Where the tests ran."""
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    model = next((value.strip() for name, value in facts.items() if name.strip() == "model name"), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "kernel": platform.release(),
    }


def failed(suite: ET.Element) -> dict[str, bool]:
    """Each test of a JUnit file, and whether it failed."""
    return {
        f"{case.get('classname')}.{case.get('name')}": any(case.find(end) is not None for end in ("failure", "error"))
        for case in suite.iter("testcase")
    }


def collect(folder: Path, commit: str) -> dict[str, Any]:
    """Read what the JUnit files tell: counts for each part, other people's suites, and the seeds of chance."""
    parts: dict[str, dict[str, Any]] = {}
    suites: dict[str, dict[str, Any]] = {}
    seeds: dict[str, int] = {}
    for file in sorted(folder.glob("*.xml"), key=lambda file: file.stem):
        (suite,) = ET.parse(file).getroot().iter("testsuite")  # noqa: S314 - pytest wrote it
        tests, skipped, seconds = (round(float(suite.get(name, 0))) for name in ("tests", "skipped", "time"))
        found = failed(suite)
        if (part := parts.get(file.stem.removesuffix("-again"))) is None:
            failures = sorted(name for name, bad in found.items() if bad)
            parts[file.stem] = {
                "tests": tests, "failed": failures, "skipped": skipped, "seconds": seconds, "again": []
            }  # fmt: skip
        else:
            part["again"] = [name for name in part["failed"] if not found.get(name, True)]
            part["failed"] = [name for name in part["failed"] if found.get(name, True)]
            part["skipped"] += skipped
        for case in suite.iter("testcase"):
            for told in map(json.loads, properties(case, "suite")):
                known = suites.get(told["suite"], told)
                suites[told["suite"]] = max(known, told, key=lambda row: row["cases"])  # the whole one
            for seed in properties(case, "seed"):
                seeds[f"{case.get('classname')}.{case.get('name')}"] = int(seed)
    return {
        "commit": commit,
        "again_at": head() if any(part["again"] for part in parts.values()) else None,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "parts": parts,
        "suites": sorted(suites.values(), key=lambda told: told["suite"]),
        "seeds": dict(sorted(seeds.items())),
    }


def head() -> str:
    """The commit that is checked out."""
    told = subprocess.run(["git", "rev-parse", "HEAD"], check=True, cwd=ROOT, capture_output=True, text=True)
    return told.stdout.strip()


def again(results: Mapping[str, Any]) -> Iterator[str]:
    """The lines about tests that were run again."""
    names = [f"`{name}` ({part})" for part, counts in results["parts"].items() for name in counts.get("again", ())]
    if names:
        yield ""
        yield f"Run again at `{results['again_at'][:12]}`, once the cause of a failure was mended: {', '.join(names)}."


def tables(results: Mapping[str, Any]) -> str:
    """Return the lines that stand between the markers."""
    on = results["machine"]
    lines = [
        f"Commit `{results['commit'][:12]}`, {results['date']}, on {on['processor']}, {on['cores']} cores,",
        f"{on['memory_gib']} GiB, {on['system']}, Linux {on['kernel']}. The seeds are in the file.",
        "",
        "| suite | cases | passed | by | |",
        "|---|---|---|---|---|",
        *(
            f"| {told['suite']} | {told['cases']:,} | {told['passed']:,} | {told['by']} | {told['note']} |"
            for told in results["suites"]
        ),
        "",
        "| part | tests | failed | skipped | seconds |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {part['tests']:,} | {len(part['failed'])} | {part['skipped']} | {part['seconds']:,} |"
            for name, part in results["parts"].items()
        ),
        *again(results),
    ]
    return "\n".join(lines) + "\n"


def filled(document: str, results: Mapping[str, Any]) -> str:
    """Return the document with the tables of these results."""
    head, rest = document.split(BEGIN)
    return f"{head}{BEGIN}\n{tables(results)}\n{END}{rest.split(END)[1]}"


def main() -> None:
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        marked = folder / "commit"  # of the run, whatever is checked out by now
        told = collect(folder, marked.read_text().strip() if marked.exists() else head())
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    DOCUMENT.write_text(filled(DOCUMENT.read_text(), json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
