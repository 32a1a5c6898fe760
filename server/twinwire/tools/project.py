"""The files that a tool may see: regular ones, without a dot before any name, not ignored by git, no symlinks.

Both tools look through this module alone, so what Search does not list Read does not open. Every name of a path is
opened by itself, relative to the folder that is already open, so a folder swapped for a symlink leads nowhere.
It does not keep the users of the machine apart (that is the file system's work) and does not read git's global
excludes.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import re2
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from twinwire.tools.base import ToolError

MAX_DEPTH = 64
"""Folders inside folders; what lies deeper is not seen. It bounds the folders that are open at once."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
_IGNORE_FILE_BYTES = 1 << 20
_BAD_CHARACTER = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff\\]")
_INSIDE = re.compile(r"/\*\*(/?)$")
"""`a/**` is what lies inside a, not a itself (else `!a/b` could not bring b back): pathspec needs it as `a/**/*`."""
_FOLDER_MARK = "(?P<ps_d>/)"
"""The place at which pathspec's translation has matched a folder and goes on to match all inside it."""
_OUTSIDE = "leads out of the project; give a path relative to its root, such as src/main.py"


class _IgnoreFile:
    """The lines of an ignore file as git reads them (gitignore(5)); one that is no pattern matches nothing.

    pathspec translates a line, but asks a whole path at once, in which a negated folder (`!app/`) brings back what
    another line ignores inside it. Here each name on the way down is asked for itself, as git does.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        options = re2.Options()
        options.log_errors = False
        self._set = re2.Set.SearchSet(options)
        self._ignored: list[bool] = []
        for line in lines:
            try:
                regex, ignored = GitIgnoreSpecPattern.pattern_to_regex(_INSIDE.sub(r"/**/*\1", line))
                if regex is not None:
                    # pathspec escapes the bracket that ends a class such as [[:digit:]].
                    self._set.Add(regex.replace(_FOLDER_MARK, "/$").replace(r":]\]", ":]]").encode())
                    self._ignored.append(bool(ignored))
            except (ValueError, re2.error):
                continue
        if self._ignored:
            self._set.Compile()

    def check(self, path: str) -> bool | None:
        """Return whether the last line that matches ignores `path` or brings it back; None if none matches."""
        matches = self._set.Match(path.encode("utf-8", "replace")) if self._ignored else ()
        return self._ignored[max(matches)] if matches else None


Rules = tuple[tuple[int, _IgnoreFile], ...]
"""The ignore files that hold in a folder, outermost first, each after the length of its own folder's path."""


class _Refused(Exception):
    """The reason why a path is not opened, to be read after the path."""


class File(NamedTuple):
    """A file that was found: its path with `/` from the root, its name, and its folder, open while it is looked at."""

    path: str
    name: str
    folder: int

    def open(self) -> BinaryIO:
        """Open it for reading. Raise `OSError` if it is no regular file any more."""
        return _open_file(self.name, self.folder)


class _Folder:
    """An open folder, its path from the top of the work tree (with `/` after each name), and the rules in it."""

    def __init__(self, fd: int, path: str, rules: Rules) -> None:
        self.fd = fd
        self.path = path
        self.rules = _with_rules(rules, fd, ".gitignore", len(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def enter(self, name: str) -> _Folder:
        return _Folder(os.open(name, _FOLDER, dir_fd=self.fd), f"{self.path}{name}/", self.rules)

    def ignores(self, name: str) -> bool:
        """Return whether git ignores `name`, which ends with `/` if it is a folder: the innermost rule decides."""
        for length, file in reversed(self.rules):
            ignored = file.check(self.path[length:] + name)
            if ignored is not None:
                return ignored
        return False

    def refusal(self, name: str, mode: int) -> str:
        """Return why an entry of this folder is not seen; empty if it is."""
        if stat.S_ISLNK(mode):
            return "is, or passes through, a symbolic link; links are not followed"
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            return "is no regular file"
        if self.ignores(name + "/" if stat.S_ISDIR(mode) else name):
            return "is ignored by git, and ignored files are not read"
        return ""


class Project:
    """A folder as tools see it. Raises `ValueError` if `root` is no folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(root).resolve()
        if not self._root.is_dir():
            raise ValueError(f"The project's root {os.fspath(root)!r} must be a folder.")

    def open(self, path: str) -> BinaryIO:
        """Open the file at `path`, which a model wrote. Raises `ToolError`, which names the path as it was given."""
        try:
            return self._open(path)
        except _Refused as refused:
            reason = str(refused)
        except (FileNotFoundError, NotADirectoryError):
            reason = "does not exist"
        except OSError:
            reason = "cannot be opened"
        raise ToolError(f"The path {path!r} {reason}.")

    def files(self, check: Callable[[], None]) -> Generator[File, None, None]:
        """All files that are seen, each folder in the order of its names; close the iterator when done with it.

        `check` is called again and again; what it raises (no `OSError`) ends the walk. Raises `ToolError` if
        the root is gone.
        """
        with ExitStack() as stack:
            try:
                root = self._enter_root(stack)
            except OSError:
                raise ToolError("The project's folder cannot be opened.") from None
            yield from _walk(root, len(root.path), MAX_DEPTH, check)

    def _open(self, path: str) -> BinaryIO:
        names = [name for name in path.split("/") if name not in {"", "."}]
        if path.startswith("/") or ".." in names:
            raise _Refused(_OUTSIDE)
        for name in names:
            if reason := _name_refusal(name):
                raise _Refused(reason)
        if len(names) > MAX_DEPTH:
            raise _Refused(f"has more than {MAX_DEPTH} folders")
        with ExitStack() as stack:
            folder = self._enter_root(stack)
            for position, name in enumerate(names, 1):
                mode = os.stat(name, dir_fd=folder.fd, follow_symlinks=False).st_mode
                if reason := folder.refusal(name, mode):
                    raise _Refused(reason)
                if position == len(names) and stat.S_ISREG(mode):
                    return _open_file(name, folder.fd)
                folder = stack.enter_context(folder.enter(name))
        glob = "/".join([*names, "*"])
        raise _Refused(f"is a folder; Search with the glob {glob!r} lists its files")

    def _enter_root(self, stack: ExitStack) -> _Folder:
        """Open the root with the rules that hold there: a root inside a work tree has those of the folders above too.

        If they ignore the root itself they do not count: whoever chose it wants it seen.
        """
        top = next((each for each in (self._root, *self._root.parents) if (each / ".git").exists()), self._root)
        fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        folder = stack.enter_context(_Folder(fd, "", _with_rules((), fd, ".git/info/exclude", 0)))
        for name in self._root.relative_to(top).parts:
            if folder.ignores(name + "/"):
                return stack.enter_context(_Folder(os.open(self._root, os.O_RDONLY | os.O_DIRECTORY), "", ()))
            folder = stack.enter_context(folder.enter(name))
        return folder


def _walk(folder: _Folder, root: int, depth: int, check: Callable[[], None]) -> Iterator[File]:
    """The files in and under `folder`; `root` is the length of the root's path, `depth` how far to go down."""
    for entry in _entries(folder, check):
        check()
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
            if folder.refusal(entry.name, mode):
                continue
            inner = folder.enter(entry.name) if stat.S_ISDIR(mode) and depth > 1 else None
        except OSError:  # gone, or not ours to read
            continue
        if inner is not None:
            with inner:
                yield from _walk(inner, root, depth - 1, check)
        elif stat.S_ISREG(mode):
            yield File(folder.path[root:] + entry.name, entry.name, folder.fd)


def _entries(folder: _Folder, check: Callable[[], None]) -> list[os.DirEntry[str]]:
    """Return the names in a folder that may be seen, sorted; none if the folder cannot be listed."""
    entries = []
    try:
        with os.scandir(folder.fd) as scan:
            for entry in scan:
                check()
                if not _name_refusal(entry.name):
                    entries.append(entry)
    except OSError:
        return []
    return sorted(entries, key=lambda entry: entry.name)


def _name_refusal(name: str) -> str:
    """Return why no file of this name is seen; empty if it may be."""
    if name.startswith("."):
        return "is hidden (a name in it starts with a dot), and hidden files are not read"
    if _BAD_CHARACTER.search(name):
        return "holds a backslash or a control character; separate folders with /"
    return ""


def _open_file(name: str, folder: int) -> BinaryIO:
    """Open a regular file. Raises `OSError` for anything else, without waiting for a FIFO's writer."""
    fd = os.open(name, _FILE, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError("The file must be a regular file.")
    return os.fdopen(fd, "rb")


def _with_rules(rules: Rules, folder: int, name: str, length: int) -> Rules:
    """Return `rules` and those of an ignore file, if it is there and can be read."""
    try:
        with _open_file(name, folder) as file:
            text = file.read(_IGNORE_FILE_BYTES).decode("utf-8-sig", "replace")
    except OSError:
        return rules
    return (*rules, (length, _IgnoreFile(text.replace("\r\n", "\n").split("\n"))))
