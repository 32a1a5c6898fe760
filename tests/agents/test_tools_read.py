"""The Read tool, on real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.tool_files import refusal, write
from twinwire.tools import ReadTool


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({}, "path"),
        ({"path": 1}, "path"),
        ({"path": None}, "path"),
        ({"path": "a" * 5000}, "path"),
        ({"path": "a", "offset": "1"}, "offset"),
        ({"path": "a", "offset": 0}, "offset"),
        ({"path": "a", "limit": True}, "limit"),
        ({"path": "a", "limit": -1}, "limit"),
        ({"path": "a", "file": "a"}, "file"),
    ],
)
async def test_read_names_a_bad_parameter(tmp_path: Path, parameters: dict[str, Any], named: str) -> None:
    """Parameters of a wrong type, missing or unknown are a ToolError that names them."""
    assert named in await refusal(ReadTool(tmp_path), **parameters)


async def test_read_gives_a_file(tmp_path: Path) -> None:
    """A file comes as it is, and invalid UTF-8 in it replaced."""
    write(tmp_path, {"src/a.txt": "one\r\ntwo ü\n", "bad.txt": b"a\xffb", "empty": ""})
    read = ReadTool(tmp_path)
    assert await read.run({"path": "src/a.txt", "offset": None, "limit": None}) == "one\r\ntwo ü\n"
    assert await read.run({"path": "./src//a.txt"}) == "one\r\ntwo ü\n"
    assert await read.run({"path": "bad.txt"}) == "a\N{REPLACEMENT CHARACTER}b"
    assert await read.run({"path": "empty"}) == "[the file is empty]"


async def test_read_goes_by_lines(tmp_path: Path) -> None:
    """Offset and limit choose lines, and the result says where more is."""
    write(tmp_path, {"a": "1\n2\n3\n4", "b": "1\n2\n"})
    read = ReadTool(tmp_path)
    assert await read.run({"path": "a", "offset": 3}) == "3\n4"
    assert await read.run({"path": "a", "offset": 2, "limit": 2}) == (
        "2\n3\n\n[cut: lines 2 to 3 are shown; read on with offset 4]"
    )
    assert await read.run({"path": "a", "offset": 4, "limit": 10**30}) == "4"
    assert await refusal(read, path="a", offset=5) == "The file 'a' has only 4 lines."
    assert await refusal(read, path="b", offset=3) == "The file 'b' has only 2 lines."
    assert await refusal(read, path="b", offset=10**30) == "The file 'b' has only 2 lines."


async def test_read_pages_through_a_long_file(tmp_path: Path) -> None:
    """Reading on with each offset that a cut names gives the whole file, at most 64 KiB at a time."""
    text = "".join(f"{number} {'x' * (number % 300)}\n" for number in range(3000))
    write(tmp_path, {"long": text})
    whole, offset, pieces = "", 1, 0
    while offset:
        piece = await ReadTool(tmp_path).run({"path": "long", "offset": offset})
        shown, _, rest = piece.partition("\n[cut: ")
        assert len(shown) <= 64 * 1024
        whole += shown
        pieces += 1
        offset = int(rest.rpartition(" ")[2].removesuffix("]")) if rest else 0
    assert whole == text
    assert pieces > 5


async def test_read_cuts_a_line_that_is_too_long(tmp_path: Path) -> None:
    """A line over 64 KiB is cut between characters, and what follows it can be read."""
    write(tmp_path, {"long": "x" + "ü" * 70_000 + "\nnext\n"})
    read = ReadTool(tmp_path)
    assert await read.run({"path": "long"}) == (
        "x" + "ü" * 32_767 + "\n[cut: line 1 is longer than 64 KiB; read on after it with offset 2]"
    )
    assert await read.run({"path": "long", "offset": 2}) == "next\n"


async def test_read_never_reads_a_huge_file_whole(tmp_path: Path) -> None:
    """Of a file of a terabyte the first piece comes, and a far line is out of reach."""
    write(tmp_path, {"huge": "x" * 2000 + "\n"})
    with (tmp_path / "huge").open("r+b") as file:
        file.truncate(1 << 40)
    read = ReadTool(tmp_path)
    assert (await read.run({"path": "huge", "limit": 1})).startswith("xxx")
    assert "out of reach" in await refusal(read, path="huge", offset=1000)
