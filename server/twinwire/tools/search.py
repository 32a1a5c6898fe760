"""The Search tool: lines of the project's files that match, or the files themselves. It changes nothing.

Expressions are RE2's: linear in the text, so no expression can hang it. The clock and a cancel are looked at between
pieces of a file; one call into RE2, over one piece or one very long line, is not interrupted.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Annotated, Any

import re2
from msgspec import Meta, Struct

from twinwire.tools.base import Tool, ToolError, parse, schema
from twinwire.tools.project import File, Project

MAX_FILE_BYTES = 1024 * 1024
"""Files larger than this are skipped."""
_HEAD_BYTES = 1024
_PIECE_BYTES = 8 * 1024
_EXPRESSION_BYTES = 1 << 18
_LINE_CHARACTERS = 300
_BEFORE_MATCH = 100
_GLOB_PART = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\]|\{[^{}]*\}|.", re.DOTALL)


class _Stopped(Exception):
    """The time is up, or nobody waits any more."""


class SearchParameters(Struct, forbid_unknown_fields=True):
    """The parameters that a model gives."""

    pattern: Annotated[
        str | None,
        Meta(description="The text to look for in each line, case-sensitive. Not given: the files are listed"),
    ] = None
    regex: Annotated[bool | None, Meta(description="Whether pattern is an RE2 regular expression")] = None
    glob: Annotated[
        str | None,
        Meta(description="Only these files: *.py goes by file names, server/**/*.{py,toml} by whole relative paths"),
    ] = None


class SearchTool(Tool):
    """Searches under `project_root`; a result has at most `max_hits` lines and takes `seconds`.

    Raises `ValueError` if the root is no folder.
    """

    name = "Search"
    description = (
        "Search the project's text files for lines that hold a text or match an RE2 regular expression (no lookaround "
        "or backreferences; one line at a time; (?i) ignores case, which otherwise counts), or list its files. Give "
        "pattern, glob or both. Each match is one line, path:line: text. Hidden files, files that git ignores, "
        "symbolic links, binary files and, in a search of lines, files over 1 MiB are skipped."
    )
    parameters = schema(SearchParameters)
    effects = "none"

    def __init__(
        self, project_root: str | os.PathLike[str] = ".", *, max_hits: int = 100, seconds: float = 5.0
    ) -> None:
        self._project = Project(project_root)
        self._max_hits = max_hits
        self._seconds = seconds

    async def run(self, parameters: Mapping[str, Any]) -> str:
        """The matches, or a line that says that there are none. Raises `ToolError`. A cancel stops the search."""
        asked = parse(parameters, SearchParameters)
        if not asked.pattern and not asked.glob:
            raise ToolError("The parameters must have `pattern`, `glob` or both.")
        expression = _expression(asked.pattern, literal=not asked.regex) if asked.pattern else None
        chosen = _glob(asked.glob) if asked.glob else None
        cancelled = threading.Event()
        try:
            return await asyncio.to_thread(self._search, expression, chosen, cancelled)
        finally:
            cancelled.set()

    def _search(self, expression: Any, chosen: Callable[[str], bool] | None, cancelled: threading.Event) -> str:
        deadline = time.monotonic() + self._seconds

        def check() -> None:
            if cancelled.is_set() or time.monotonic() >= deadline:
                raise _Stopped

        lines: list[str] = []
        try:
            with closing(self._hits(expression, chosen, check)) as hits:
                for hit in hits:
                    if len(lines) == self._max_hits:
                        lines.append(f"[cut: there are more than these {self._max_hits}; narrow the pattern or glob]")
                        break
                    lines.append(hit)
        except _Stopped:
            lines.append(f"[cut: not all was searched in {self._seconds:g} s; narrow the glob]")
        return "\n".join(lines) or ("no file matches" if expression is None else "no line matches")

    def _hits(
        self, expression: Any, chosen: Callable[[str], bool] | None, check: Callable[[], None]
    ) -> Generator[str, None, None]:
        with closing(self._project.files(check)) as files:
            for file in files:
                if chosen is not None and not chosen(file.path):
                    continue
                if expression is None:
                    yield file.path
                else:
                    for number, text in _matching_lines(_content(file), expression, check):
                        yield f"{file.path}:{number}: {text}"


def _content(file: File) -> bytes:
    """Return a text file's content as valid UTF-8 with LF; empty if it is skipped."""
    try:
        with file.open() as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except OSError:
        return b""
    if len(data) > MAX_FILE_BYTES or b"\0" in data[:_HEAD_BYTES]:
        return b""
    return data.decode("utf-8", "replace").encode().replace(b"\r\n", b"\n")


def _matching_lines(data: bytes, expression: Any, check: Callable[[], None]) -> Iterator[tuple[int, str]]:
    """Give the number of each line that matches, from 1, and the part of it to show."""
    position, number, size = 0, 1, len(data.removesuffix(b"\n"))
    while position < len(data):
        check()
        piece, end = position, data.find(b"\n", position + _PIECE_BYTES, size)
        end = size if end < 0 else end
        while position <= end and (match := expression.search(data, position, end)):
            start = data.rfind(b"\n", 0, match.start()) + 1
            line_end = data.find(b"\n", match.start(), end)
            line_end = end if line_end < 0 else line_end
            yield number + data.count(b"\n", piece, start), _excerpt(data[start:line_end], match.start() - start)
            position = line_end + 1
        number += data.count(b"\n", piece, end) + 1
        position = end + 1


def _excerpt(line: bytes, match: int) -> str:
    """Return the line, or the part around the match if it is long."""
    text = line.decode()
    if len(text) <= _LINE_CHARACTERS:
        return text
    start = max(0, len(line[:match].decode("utf-8", "ignore")) - _BEFORE_MATCH)
    end = start + _LINE_CHARACTERS
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


def _expression(pattern: str, *, literal: bool) -> Any:
    if literal and "\n" in pattern:
        raise ToolError("`pattern` must not have a line break: lines are searched one at a time.")
    return _compile("pattern", pattern if literal else f"(?m){pattern}", literal=literal)


def _glob(glob: str) -> Callable[[str], bool]:
    """Return a test for paths: of the whole path if the glob has a `/`, else of the file's name."""
    glob = glob.removeprefix("./")
    matches = _compile("glob", _translate(glob + "**" if glob.endswith("/") else glob), literal=False).fullmatch
    whole = "/" in glob
    return lambda path: matches(path if whole else path.rpartition("/")[2]) is not None


def _translate(glob: str) -> str:
    """Return a glob as an expression: `*`, `?`, `[a-z]`, `[!a-z]`, `{a,b}`, and `**` over any number of folders."""
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    regex = ""
    for part in _GLOB_PART.findall(glob):
        if part in wild:
            regex += wild[part]
        elif part[0] == "{" and len(part) > 1:
            regex += "(?:" + "|".join(_translate(each) for each in part[1:-1].split(",")) + ")"
        elif part[0] == "[" and len(part) > 1:
            negated = part[1] == "!"
            regex += ("[^/" if negated else "[") + re.sub(r"([\\\[\]^])", r"\\\1", part[1 + negated : -1]) + "]"
        else:
            regex += re2.escape(part)
    return regex


def _compile(parameter: str, expression: str, *, literal: bool) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.never_nl = True
    options.literal = literal
    options.max_mem = _EXPRESSION_BYTES
    try:
        return re2.compile(expression, options)
    except UnicodeEncodeError:
        raise ToolError(f"`{parameter}` must be valid Unicode.") from None
    except re2.error as error:
        reason = error.args[0]
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ToolError(f"`{parameter}` must be an expression that RE2 can run: {text}.") from None
