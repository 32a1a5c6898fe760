"""What of a folder the tools see: outside, hidden, ignored and linked things, and races; on real files."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from support.tool_files import refusal, write
from twinwire.tools import ReadTool, SearchTool, ToolError, ToolRegistry
from twinwire.tools.project import File, Project, _Folder

HIDDEN = {
    "../outside": "leads out",
    "src/../../outside": "leads out",
    "src/../a": "leads out",
    "/etc/passwd": "leads out",
    "/proc/self/environ": "leads out",
    "%2e%2e/outside": "does not exist",
    "..%2foutside": "hidden",
    "..\\outside": "hidden",
    "src\\a": "backslash",
    "a\0.txt": "control character",
    "a\udc80": "control character",
    ".env": "hidden",
    ".git/config": "hidden",
    "src/.secret/key": "hidden",
    "": "is a folder",
    ".": "is a folder",
    "src": "is a folder",
    "missing": "does not exist",
    "a/b": "does not exist",
    "x" * 300: "cannot be opened",
    "d/" * 100 + "a": "more than 64 folders",
    "link": "symbolic link",
    "linked/a": "symbolic link",
    "loop": "symbolic link",
    "fifo": "no regular file",
    "socket": "no regular file",
    "binary": "binary",
    "out/a": "ignored by git",
    "debug.log": "ignored by git",
    "src/local": "ignored by git",
}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A project with everything in it that tools must not see, and `a` and `src/a`, which they may."""
    root = tmp_path / "project"
    seen = {"a": "SECRET? no", "src/a": "SECRET? no", "src/keep.log": "no"}
    hidden = [".env", ".git/config", "src/.secret/key", "out/a", "debug.log", "src/local"]
    write(root, {**seen, **dict.fromkeys(hidden, "SECRET"), "binary": "SECRET".encode("utf-16")})
    write(root, {".gitignore": "*.log\nout/\n", "src/.gitignore": "/local\n!keep.log\n"})
    write(tmp_path, {"outside": "SECRET", "elsewhere/a": "SECRET"})
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "fifo")
    return root


@pytest.mark.parametrize(("path", "why"), HIDDEN.items())
async def test_read_refuses(hostile: Path, monkeypatch: pytest.MonkeyPatch, path: str, why: str) -> None:
    """What is outside, hidden, ignored, linked or no text is refused in words that name no path of the server's."""
    monkeypatch.chdir(hostile)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        words = await refusal(ReadTool(hostile), path=path)
    assert words.startswith((f"The path {path!r} ", f"The file {path!r} "))
    assert why in words
    assert str(hostile.parent) not in words


async def test_search_sees_what_read_sees(hostile: Path) -> None:
    """A listing has the seen files alone (a binary has a name, but no lines), and a link loop ends."""
    search = SearchTool(hostile)
    assert await search.run({"glob": "**"}) == "a\nbinary\nsrc/a\nsrc/keep.log"
    assert await search.run({"pattern": "SECRET"}) == "a:1: SECRET? no\nsrc/a:1: SECRET? no"


async def test_read_refuses_a_device(tmp_path: Path) -> None:
    """A device is no regular file, whatever the root."""
    assert "no regular file" in await refusal(ReadTool("/dev"), path="null")


def test_nothing_is_opened_through_a_link(hostile: Path) -> None:
    """What became a link or a FIFO after it was looked at is not opened: the open itself refuses."""
    with _Folder(os.open(hostile, os.O_RDONLY), "", ()) as folder:
        for name in ("linked", "loop"):
            with pytest.raises(OSError, match=name):
                folder.enter(name)
        for name in ("link", "fifo", "src"):
            with pytest.raises(OSError, match=r"link|regular"):
                File(name, name, folder.fd).open()


async def test_read_survives_a_folder_swapped_for_a_link(tmp_path: Path) -> None:
    """While a folder is swapped for a link to outside over and over, no call ever gives what is outside."""
    root = tmp_path / "project"
    write(root, {"dir/a": "inside"})
    write(tmp_path, {"outside/a": "SECRET"})
    (root / "link").symlink_to(tmp_path / "outside")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "dir").rename(root / "kept")
            (root / "link").rename(root / "dir")
            (root / "dir").rename(root / "link")
            (root / "kept").rename(root / "dir")

    swapper = threading.Thread(target=swap)
    swapper.start()
    registry = ToolRegistry()
    registry.register_tool(ReadTool(root))
    try:
        results = [await registry.call("Read", {"path": "dir/a"}, 5) for _ in range(500)]
    finally:
        stop.set()
        swapper.join()
    assert "inside" in {result.text for result in results}
    assert not [result for result in results if "SECRET" in result.text or "failed" in result.text]


def test_ignored_files_are_the_ones_that_git_ignores(tmp_path: Path) -> None:
    """On made-up trees with made-up ignore files, what is seen is what git itself would list."""
    chance = random.Random(7)
    names = ["a", "b", "c", "foo", "bar.txt", "x.py"]
    globs = [*names, "*", "**", "**", "?", "*.txt", "[ab]", "fo*", "[[:alpha:]]"]

    def pattern() -> str:
        path = "/".join(chance.choices(globs, k=chance.randint(1, 3)))
        return chance.choice(["", "", "!", "/"]) + path + chance.choice(["", "", "/"])

    for number in range(40):
        root = tmp_path / str(number)
        subprocess.run(["git", "init", "-q", root], check=True)
        folders = [root]
        for _ in range(6):
            folders.append(chance.choice(folders) / chance.choice(names))
            folders[-1].mkdir(exist_ok=True)
        for folder in folders:
            for name in chance.sample(names, 3):
                if not (folder / name).is_dir():
                    (folder / name).touch()
        for folder in chance.sample(folders, 2):
            (folder / ".gitignore").write_text("\n".join(pattern() for _ in range(4)))
        (root / ".git/info/exclude").write_text(pattern())
        git = subprocess.run(
            ["git", "-c", "core.excludesFile=", "ls-files", "-o", "--exclude-standard"],
            cwd=root, check=True, capture_output=True, text=True,
        )  # fmt: skip
        wanted = {path for path in git.stdout.splitlines() if not path.endswith(".gitignore")}
        assert {file.path for file in Project(root).files(lambda: None)} == wanted


@pytest.mark.parametrize(
    ("rules", "seen"),
    [
        ("foo/**\n!foo/keep\n", ["foo/keep", "zz"]),
        ("keep\n!foo/\n", ["zz"]),
        ("\\\n!\n[[:foo:]]\n\udcff\nzz\r\n", ["foo/keep"]),
        ("\ufeffzz\n", ["foo/keep"]),
    ],
)
async def test_ignore_file_oddities(tmp_path: Path, rules: str, seen: list[str]) -> None:
    """Files brought back, lines that are no pattern, CRLF and a byte order mark are read as git reads them."""
    write(tmp_path, {"foo/keep": "", "zz": "", ".gitignore": rules.encode("utf-8", "surrogateescape")})
    assert (await SearchTool(tmp_path).run({"glob": "**"})).split("\n") == seen


async def test_ignore_files_above_the_root_hold(tmp_path: Path) -> None:
    """A root inside a work tree obeys the ignore files above it, unless they ignore the root itself."""
    (tmp_path / ".git").mkdir()
    write(tmp_path, {".gitignore": "key\n/build\n", "app/key": "", "app/b": "", "build/key": "", "build/b": ""})
    assert await SearchTool(tmp_path / "app").run({"glob": "*"}) == "b"
    assert await SearchTool(tmp_path / "build").run({"glob": "*"}) == "b\nkey"


async def test_deep_trees_are_seen_to_a_depth(tmp_path: Path) -> None:
    """What lies deeper than 64 names is not seen, by either tool, and a longer chain of folders does no harm."""
    write(tmp_path, {"d/" * depth + "file": "" for depth in (63, 64, 200)})
    assert await SearchTool(tmp_path).run({"glob": "file"}) == "d/" * 63 + "file"
    assert await ReadTool(tmp_path).run({"path": "d/" * 63 + "file"}) == "[the file is empty]"
    assert "more than 64" in await refusal(ReadTool(tmp_path), path="d/" * 64 + "file")


async def test_root_that_has_gone_is_a_tool_error(tmp_path: Path) -> None:
    """A root that was removed after the tools were made is told without its path."""
    (tmp_path / "root").mkdir()
    read, search = ReadTool(tmp_path / "root"), SearchTool(tmp_path / "root")
    (tmp_path / "root").rmdir()
    assert await refusal(read, path="a") == "The path 'a' does not exist."
    assert await refusal(search, glob="*") == "The project's folder cannot be opened."


async def test_no_file_stays_open(hostile: Path) -> None:
    """Whatever a call ends in, what it opened is closed."""
    read, search = ReadTool(hostile), SearchTool(hostile, max_hits=1)
    await read.run({"path": "src/a"})
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208
    for path in ("a", "link", "linked/a", "fifo", "src", "src/local", "binary"):
        with contextlib.suppress(ToolError):
            await read.run({"path": path})
    await search.run({"glob": "*"})
    await search.run({"pattern": "SECRET"})
    assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208
