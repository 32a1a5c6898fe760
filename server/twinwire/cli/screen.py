"""The output of the commands that talk to a server: a run's events, prompts, and complaints."""

from __future__ import annotations

import io
import re
import sys

from twinwire.cli.prompt import CAN_ASK
from twinwire.cli.render import Terminal, plain
from twinwire.protocol.events import dump
from twinwire.telemetry.logging import scrub
from twinwire_client import Event

FLAGS = {"url": "--url", "user_id": "--user", "agent": "--agent", "limit": "--limit", "run_id": "RUN"}


def as_flags(text: str) -> str:
    """Name each argument of the client, or field of the server, as the command line does."""
    return re.sub(r"`(\w+)`", lambda named: f"`{FLAGS.get(named[1], named[1])}`", text)


def complain(problem: str) -> None:
    """Write one line, whatever the server put into its message; without a secret of the environment or of a URL."""
    sys.stderr.write(f"twinwire: {' '.join(plain(scrub(as_flags(problem))).split())}\n")


class Screen:
    """Standard output. `asks` is whether somebody at a terminal sees it, and can type an answer."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._terminal = Terminal(style=sys.stdout.isatty() and not as_json)
        at_terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
        self.asks = CAN_ASK and not as_json and at_terminal
        self._prompt = ""  # what is asked, until a line is typed or the question is withdrawn
        self._prompted = False  # whether the prompt is what was written last
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal without emoji still gets the words

    def show(self, event: Event) -> None:
        """One event of a run."""
        if self._json:
            self.write(dump(event).decode() + "\n")
        elif not (self._prompt and event.type == "PROGRESS"):
            self._above(self._terminal.render(event))

    def ask(self, prompt: str) -> None:
        """Show a prompt, and show it again below whatever is shown before a line is typed."""
        self._prompt, self._prompted = plain(prompt), True
        self.write(self._terminal.close() + self._prompt)

    def typed(self) -> None:
        """A line was typed after the prompt, and ended it."""
        self._prompt = ""

    def withdraw(self) -> None:
        """Nobody is asked any more."""
        if self._prompt and self._prompted:
            self.write("\n")
        self._prompt = ""

    def say(self, message_id: str) -> None:
        """Show what has this id as said by whoever is at this terminal."""
        self._terminal.said.add(message_id)

    def note(self, text: str) -> None:
        """Show a line about the run that is no event of it."""
        self._above(self._terminal.close() + text)

    def close(self) -> None:
        """No more comes of the run."""
        self.withdraw()
        self.write(self._terminal.close())

    def write(self, text: str) -> None:
        """Text as it is, at once."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def _above(self, text: str) -> None:
        if self._prompt and text:
            text = f"\n{text}" if self._prompted else text
            self._prompted = text.endswith("\n")
            text += self._prompt if self._prompted else ""
        self.write(text)
