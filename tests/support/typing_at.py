"""A person at a terminal: runs the real program in a pty, types, and looks at what is shown."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from support.processes import COMMAND, ENVIRONMENT, MORTAL

PATIENCE = 20.0


class Typist:
    """At one program. `shown` is all that was shown and not looked at yet."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process = process
        self.shown = ""
        self._terminal = terminal

    def type(self, line: str) -> None:
        """A line, and Return."""
        os.write(self._terminal, f"{line}\n".encode())

    def press(self, key: bytes) -> None:
        """A key that is no text, such as Ctrl-D."""
        os.write(self._terminal, key)

    def sees(self, text: str) -> str:
        """Wait until this is shown; what was shown up to it, and it."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert self._more(deadline), f"{text!r} never came, but {self.shown!r}"
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def end(self) -> tuple[int, str]:
        """Wait until the program ends: its exit code, and what it showed at last."""
        deadline = time.monotonic() + PATIENCE
        while self._more(deadline):
            pass
        return self.process.wait(PATIENCE), self.shown

    def _more(self, deadline: float) -> bool:
        """Look again; False where the program has closed the terminal, or nothing comes."""
        if not select.select([self._terminal], [], [], max(0, deadline - time.monotonic()))[0]:
            return False
        try:
            self.shown += os.read(self._terminal, 65_536).decode().replace("\r\n", "\n")
        except OSError:  # how Linux tells that the other side of a terminal is closed
            return False
        return True


@contextmanager
def at_terminal(*arguments: str, environ: Mapping[str, str] | None = None) -> Iterator[Typist]:
    """`twinwire` with these arguments; it is killed at the end of the block if it still runs."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*MORTAL, str(COMMAND), *arguments],
        env={**ENVIRONMENT, **(environ or {})},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            yield Typist(process, ours)
        finally:
            process.kill()
            os.close(ours)
