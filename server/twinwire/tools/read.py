"""The Read tool: the text of one file of the project, in pieces that a model can take. It changes nothing."""

from __future__ import annotations

import asyncio
import codecs
import io
import os
from collections.abc import Mapping
from typing import Annotated, Any, BinaryIO

from msgspec import Meta, Struct

from twinwire.tools.base import Tool, ToolError, parse, schema
from twinwire.tools.project import Project

MAX_BYTES = 64 * 1024
"""The most of a file that one result holds."""
MAX_SKIPPED_BYTES = 64 * 1024 * 1024
"""The part of a file that `offset` reaches."""
_HEAD_BYTES = 1024


class ReadParameters(Struct, forbid_unknown_fields=True):
    """The parameters that a model gives."""

    path: Annotated[
        str, Meta(max_length=4096, description="The file, relative to the project's root, e.g. src/main.py")
    ]
    offset: Annotated[int, Meta(ge=1, description="The first line to read, counted from 1")] | None = None
    limit: Annotated[int, Meta(ge=1, description="How many lines to read; all that fit if not given")] | None = None


class ReadTool(Tool):
    """Reads files under `project_root`. Raises `ValueError` if that is no folder."""

    name = "Read"
    description = (
        "Read a text file of the project. A result holds at most 64 KiB; if it was cut, its last line says which "
        "offset to read on with. Hidden files, files that git ignores, symbolic links and binary files are not read."
    )
    parameters = schema(ReadParameters)
    effects = "none"

    def __init__(self, project_root: str | os.PathLike[str]) -> None:
        self._project = Project(project_root)

    async def run(self, parameters: Mapping[str, Any]) -> str:
        """Return the file's text. Raise `ToolError`, with the path as it was given."""
        return await asyncio.to_thread(self._read, parse(parameters, ReadParameters))

    def _read(self, asked: ReadParameters) -> str:
        first = asked.offset or 1
        with self._project.open(asked.path) as file:
            try:
                if b"\0" in file.read(_HEAD_BYTES):
                    raise ToolError(f"The file {asked.path!r} is binary; only text can be read.")
                file.seek(0)
                _skip_lines(file, first - 1, asked.path)
                data = file.read(MAX_BYTES + 1)
            except OSError:
                raise ToolError(f"The file {asked.path!r} cannot be read.") from None
        if data:
            return _piece(data, first, asked.limit)
        if first > 1:
            raise ToolError(f"The file {asked.path!r} has only {first - 1} lines.")
        return "[the file is empty]"


def _skip_lines(file: BinaryIO, lines: int, path: str) -> None:
    """Go on from the file's start to just after that many line ends, block by block."""
    position = found = 0
    end = -1
    block = b""
    while found < lines:
        position += len(block)
        if position >= MAX_SKIPPED_BYTES:
            raise ToolError(f"Line {lines + 1} of {path!r} is out of reach: its first 64 MiB have {found} line ends.")
        unended = block[-1:] not in {b"", b"\n"}
        block = file.read(MAX_BYTES)
        if not block:
            raise ToolError(f"The file {path!r} has only {found + unended} lines.")
        found += block.count(b"\n")
        end = len(block)
    for _ in range(found - lines + 1 if lines else 0):
        end = block.rindex(b"\n", 0, end)
    file.seek(position + end + 1)


def _piece(data: bytes, first: int, limit: int | None) -> str:
    """Return the lines that fit, of `data` that starts with line `first`, and a last line with the next offset."""
    cut = len(data) > MAX_BYTES
    lines = io.BytesIO(data[:MAX_BYTES]).readlines()
    if cut and len(lines) == 1 and not lines[0].endswith(b"\n"):
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(lines[0])
        return f"{text}\n[cut: line {first} is longer than 64 KiB; read on after it with offset {first + 1}]"
    if cut and not lines[-1].endswith(b"\n"):
        lines.pop()
    shown = lines[:limit]
    text = b"".join(shown).decode("utf-8", "replace")
    if not cut and len(shown) == len(lines):
        return text
    after = first + len(shown)
    return f"{text}\n[cut: lines {first} to {after - 1} are shown; read on with offset {after}]"
