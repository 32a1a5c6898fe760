"""The Search tool, on real files."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from support.tool_files import refusal, write
from twinwire.tools import SearchTool


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({}, "pattern"),
        ({"pattern": "", "glob": None}, "pattern"),
        ({"pattern": 1}, "pattern"),
        ({"pattern": "a\nb"}, "pattern"),
        ({"pattern": "\ud800"}, "pattern"),
        ({"pattern": "(?=a)", "regex": True}, "invalid perl operator: (?="),
        ({"pattern": r"(a)\1", "regex": True}, "invalid escape"),
        ({"pattern": "(", "regex": True}, "pattern"),
        ({"pattern": r"(?:\pL{500}){2}", "regex": True}, "pattern"),
        ({"pattern": "a", "regex": "yes"}, "regex"),
        ({"glob": ["*"]}, "glob"),
        ({"glob": "[z-a]"}, "glob"),
        ({"glob": "*", "path": "."}, "path"),
    ],
)
async def test_search_names_a_bad_parameter(tmp_path: Path, parameters: dict[str, Any], named: str) -> None:
    """Bad parameters and expressions that RE2 cannot run are a ToolError that says so."""
    assert named in await refusal(SearchTool(tmp_path), **parameters)


@pytest.mark.parametrize(
    ("pattern", "regex", "hits"),
    [
        ("a.b", False, ["t:2: a.b"]),
        ("a.b", True, ["t:1: axb", "t:2: a.b"]),
        ("AXB", False, ["no line matches"]),
        ("(?i)AXB", True, ["t:1: axb"]),
        ("^$", True, ["t:3: "]),
        ("b$", True, ["t:1: axb", "t:2: a.b"]),
        (r"b\s+a", True, ["no line matches"]),
        ("", True, ["t:1: axb", "t:2: a.b", "t:3: ", "t:4: ü last"]),
        ("last", None, ["t:4: ü last"]),
        (r"\Aa", True, ["t:1: axb"]),
    ],
)
async def test_search_matches_lines(tmp_path: Path, pattern: str, regex: bool | None, hits: list[str]) -> None:
    """Texts and expressions are matched line by line, CRLF or LF, with the line's number."""
    write(tmp_path, {"t": "axb\r\na.b\r\n\r\nü last\n"})
    parameters = {"pattern": pattern or "(?:)", "regex": regex}
    assert (await SearchTool(tmp_path).run(parameters)).split("\n") == hits


async def test_search_numbers_lines_far_into_a_file(tmp_path: Path) -> None:
    """Line numbers are right however the file was cut into pieces."""
    lines = [f"{'x' * (number % 500)} {'needle' if number % 97 == 0 else ''}" for number in range(3000)]
    write(tmp_path, {"t": "\n".join(lines)})
    found = await SearchTool(tmp_path).run({"pattern": "^x* needle$", "regex": True})
    assert [int(hit.split(":")[1]) for hit in found.split("\n")] == [number + 1 for number in range(0, 3000, 97)]


@pytest.mark.parametrize(
    ("glob", "files"),
    [
        ("*.py", "a.py b/c.py b/d/e.py"),
        ("b/*.py", "b/c.py"),
        ("./b/*.py", "b/c.py"),
        ("b/", "b/c.py b/d/e.py"),
        ("b/**/*.py", "b/c.py b/d/e.py"),
        ("**/e.*", "b/d/e.py"),
        ("*.{py,md}", "a.py b/c.py b/d/e.py r.md"),
        ("[ae].py", "a.py b/d/e.py"),
        ("[!a].??", "b/c.py b/d/e.py r.md"),
        ("b", "no file matches"),
        ("../*", "no file matches"),
    ],
)
async def test_search_lists_files(tmp_path: Path, glob: str, files: str) -> None:
    """A glob without a pattern lists files: by name, or by path where it holds a slash."""
    write(tmp_path, dict.fromkeys(["a.py", "b/c.py", "b/d/e.py", "r.md"], "x"))
    listed = (await SearchTool(tmp_path).run({"glob": glob})).split("\n")
    assert listed == (files.split() if "." in files else [files])


async def test_search_looks_only_into_the_chosen_files(tmp_path: Path) -> None:
    """A pattern and a glob together search the files of the glob."""
    write(tmp_path, {"a.py": "x", "b.md": "x"})
    assert await SearchTool(tmp_path).run({"pattern": "x", "glob": "*.md"}) == "b.md:1: x"


async def test_search_cuts_long_lines_around_the_match(tmp_path: Path) -> None:
    """Of a long line some 300 characters are shown, and the match among them."""
    write(tmp_path, {"t": "ü" * 200_000 + "needle" + "y" * 1000})
    found = await SearchTool(tmp_path).run({"pattern": "needle"})
    assert found == "t:1: …" + "ü" * 100 + "needle" + "y" * 194 + "…"


async def test_search_skips_large_files(tmp_path: Path) -> None:
    """A file over 1 MiB is listed but not searched."""
    write(tmp_path, {"edge": b"\n" * ((1 << 20) - 1) + b"x", "large": b"\n" * (1 << 20) + b"x"})
    assert await SearchTool(tmp_path).run({"pattern": "x"}) == "edge:1048576: x"
    assert await SearchTool(tmp_path).run({"glob": "large"}) == "large"


async def test_search_caps_hits(tmp_path: Path) -> None:
    """Of a million hits the first hundred come, and the result says so; exactly a hundred are not cut."""
    write(tmp_path, {f"many{number}": b"x\n" * (1 << 19) for number in range(2)} | {"some": "y\n" * 100})
    hits = (await SearchTool(tmp_path).run({"pattern": "x"})).split("\n")
    assert hits[99:] == ["many0:100: x", "[cut: there are more than these 100; narrow the pattern or glob]"]
    assert len((await SearchTool(tmp_path).run({"pattern": "y"})).split("\n")) == 100


async def test_search_caps_time(tmp_path: Path) -> None:
    """A search whose time is up says so."""
    write(tmp_path, {"a": "x"})
    found = await SearchTool(tmp_path, seconds=0).run({"pattern": "x"})
    assert found == "[cut: not all was searched in 0 s; narrow the glob]"


@pytest.mark.parametrize("pattern", ["(a+)+$b", "(a|aa)*c", "^(([a-z])+.)+[A-Z]([a-z])+$"])
async def test_search_is_not_hung_by_an_expression(tmp_path: Path, pattern: str) -> None:
    """Expressions that backtrack without end elsewhere are done at once."""
    write(tmp_path, {"t": "a" * 100_000})
    assert await SearchTool(tmp_path).run({"pattern": pattern, "regex": True}) == "no line matches"


async def test_cancelled_search_stops_its_thread(tmp_path: Path) -> None:
    """A cancelled search ends its thread long before its time is up."""
    write(tmp_path, {f"{number}": b"ab" * 20 + b"\n" for number in range(2000)})
    search = SearchTool(tmp_path, seconds=1000)
    entered, ended = threading.Event(), threading.Event()
    walk = search._project.files

    def endless(check: Any) -> Any:
        entered.set()
        try:
            while True:
                yield from walk(check)
        finally:
            ended.set()

    search._project.files = endless  # type: ignore[method-assign]
    task = asyncio.create_task(search.run({"pattern": "c"}))
    assert await asyncio.to_thread(entered.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 10)
