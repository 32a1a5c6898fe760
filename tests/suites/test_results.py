"""The figures of docs/ROBUSTNESS.md are those of docs/results/full.json, made by a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from suites import results

FILE = """<testsuites><testsuite name="pytest" tests="3" failures="1" errors="0" skipped="0" time="2.5">
<testcase classname="tests.a" name="b"><properties><property name="seed" value="7"/>
<property name="suite" value="{&quot;suite&quot;: &quot;S&quot;, &quot;by&quot;: &quot;s 1&quot;, &quot;cases&quot;: %d,
&quot;passed&quot;: 1, &quot;note&quot;: &quot;&quot;}"/></properties></testcase>
<testcase classname="tests.a" name="c"><failure message="no"/></testcase></testsuite></testsuites>"""
AGAIN = """<testsuites><testsuite name="pytest" tests="2" failures="0" errors="0" skipped="0" time="1">
<testcase classname="tests.a" name="b"/><testcase classname="tests.a" name="c">%s</testcase></testsuite></testsuites>"""


def test_the_tables_are_made() -> None:
    """The committed tables are what the command makes of the committed results."""
    document = results.DOCUMENT.read_text()
    assert document == results.filled(document, json.loads(results.RESULTS.read_text()))


def test_the_results_are_whole() -> None:
    """The committed results have no failure and skip nothing."""
    told = json.loads(results.RESULTS.read_text())
    for part in told["parts"].values():
        assert part["tests"] > 0
        assert not part["failed"]
        assert part["skipped"] == 0
    assert len(told["commit"]) == 40
    assert len(told["suites"]) > 8


def test_collecting(tmp_path: Path) -> None:
    """Counts and seeds come from the JUnit files; what the whole suite told replaces its representative."""
    (tmp_path / "full.xml").write_text(FILE % 20)
    (tmp_path / "tests.xml").write_text(FILE % 2)
    told = results.collect(tmp_path, "c" * 40)
    counts = {"tests": 3, "failed": ["tests.a.c"], "skipped": 0, "seconds": 2, "again": []}
    assert told["parts"] == {"full": counts, "tests": counts}
    assert (told["commit"], told["again_at"]) == ("c" * 40, None)
    assert [(suite["suite"], suite["cases"]) for suite in told["suites"]] == [("S", 20)]
    assert told["seeds"] == {"tests.a.b": 7}
    assert told["machine"]["cores"] > 0


@pytest.mark.parametrize("passes", [True, False])
def test_what_was_run_again(tmp_path: Path, passes: bool) -> None:
    """A test that failed and was run again counts as it was then, and the document names it."""
    (tmp_path / "full.xml").write_text(FILE % 20)
    (tmp_path / "full-again.xml").write_text(AGAIN % ("" if passes else "<error/>"))
    told = results.collect(tmp_path, "c" * 40)
    failed, again = ([], ["tests.a.c"]) if passes else (["tests.a.c"], [])
    assert told["parts"] == {"full": {"tests": 3, "failed": failed, "skipped": 0, "seconds": 2, "again": again}}
    assert (told["again_at"] is not None) == passes
    assert ("`tests.a.c` (full)" in results.tables(told)) == passes
