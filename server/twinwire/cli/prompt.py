"""Lines that are typed at the terminal: at a prompt, with readline and the lines of before; or while a run goes on."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import termios
except ImportError:  # not POSIX
    termios = None  # type: ignore[assignment]
try:
    import readline
except ImportError:  # a Python that was built without it: lines then have no history
    readline = None  # type: ignore[assignment]

CAN_ASK = termios is not None
"""True if lines can be read from a terminal while a run goes on."""

MAX_HISTORY = 1000


class Prompt:
    """Asks for lines with `text`; keeps them in the file `history`, which only its user may read."""

    def __init__(self, text: str, history: Path) -> None:
        self._text = text
        self._history = history
        self._terminal = termios.tcgetattr(sys.stdin)
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        if readline is not None:
            with suppress(OSError):
                readline.read_history_file(history)

    async def line(self) -> str | None:
        """The next line, without space around it; None at Ctrl-D.

        Nothing interrupts readline: it has a thread, which goes on if this is cancelled, and ends with the process.
        """
        loop = asyncio.get_running_loop()
        typed: asyncio.Future[str | None] = loop.create_future()

        def read() -> None:
            line = None
            with suppress(EOFError, OSError):
                line = input(self._text).strip()
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell, line)

        def tell(line: str | None) -> None:
            if not typed.done():
                typed.set_result(line)

        threading.Thread(target=read, daemon=True).start()
        return await typed

    def close(self) -> None:
        """Leave the terminal as it was, and keep the lines, if there is a place for them."""
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._terminal)
        if readline is not None:
            with suppress(OSError):
                self._history.parent.mkdir(parents=True, exist_ok=True)
                self._history.touch(mode=0o600)
                readline.set_history_length(MAX_HISTORY)
                readline.write_history_file(self._history)


class Keyboard:
    """Lines that are typed while no `Prompt` asks for them, without space around them; None stands for Ctrl-D.

    `swallow` is called with each, and says whether it is not to be kept, since it was obeyed at once.
    """

    def __init__(self, swallow: Callable[[str], bool] = lambda _: False) -> None:
        self.lines: deque[str | None] = deque()
        self.changed = asyncio.Event()
        self.ended = False  # by Ctrl-D
        self._swallow = swallow
        self._typed = b""

    def open(self) -> None:
        """Begin to read."""
        asyncio.get_running_loop().add_reader(sys.stdin, self.read)

    def close(self) -> None:
        """Leave what is typed to whoever reads the terminal next."""
        asyncio.get_running_loop().remove_reader(sys.stdin)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Read within this block, and only what is typed from now on."""
        with suppress(termios.error):
            termios.tcflush(sys.stdin, termios.TCIFLUSH)
        self.lines.clear()
        self._typed, self.ended = b"", False
        self.open()
        try:
            yield
        finally:
            self.close()

    def read(self) -> None:
        """Take what was typed. A terminal gives whole lines, and nothing at Ctrl-D."""
        typed = os.read(sys.stdin.fileno(), 65_536)
        *lines, self._typed = (self._typed + typed).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").strip()
            if not self._swallow(text):
                self.lines.append(text)
        if not typed:
            self.close()
            self.ended = True
            self.lines.append(None)
        self.changed.set()

    async def wait(self) -> None:
        """Wait until something is typed, or `changed` is set by whoever has another reason to look."""
        await self.changed.wait()
        self.changed.clear()
