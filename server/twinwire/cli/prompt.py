"""A line that is typed at the terminal: edited as readline does it, with the lines of before at the arrow keys."""

from __future__ import annotations

import asyncio
import io
import sys
import termios
import threading
from contextlib import suppress
from pathlib import Path

try:
    import readline
except ImportError:  # a Python that was built without it: lines then have no history
    readline = None  # type: ignore[assignment]

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
