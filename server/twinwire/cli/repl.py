"""A conversation in a terminal: lines in, runs out, commands between. `render` draws a run.

Lines are read while a run goes on, so that `/stop` can be typed; other lines wait for its end. What was said before is
the server's to know: each conversation is a session.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import uuid
from collections import deque
from contextlib import suppress
from pathlib import Path
from select import select
from typing import Self

import msgspec
from msgspec import Struct

from twinwire.cli.console import INTERRUPTED, Screen, cancel, complain
from twinwire.cli.prompt import Prompt
from twinwire.protocol.errors import SettingsError
from twinwire_client import Client, Run, TwinwireError

PROMPT = "> "
TRANSPORTS = ("auto", "sse", "ws")
HELP = """\
/stop                    cancel the run that goes on, as Ctrl-C does
/new                     begin another conversation
/transport auto|sse|ws   how the next runs are followed
/help                    this
/quit                    leave, as Ctrl-D does
"""


class Last(Struct):
    """The last run of a conversation, kept for `--resume` in a file that only its user may read."""

    url: str
    session_id: str
    run_id: str

    @classmethod
    def load(cls) -> Self:
        """Return what was saved last. Raises `SettingsError`."""
        try:
            return msgspec.json.decode(_file("last.json").read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError):
            raise SettingsError(
                "`--resume` requires an earlier conversation, but there is none.", field="--resume"
            ) from None

    def save(self) -> None:
        """Keep it, if there is a place for it."""
        path = _file("last.json")
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(msgspec.json.encode(self))


def _file(name: str) -> Path:
    """By the XDG Base Directory specification."""
    home = os.environ.get("XDG_STATE_HOME")
    return Path(home or Path.home() / ".local/state") / "twinwire" / name


class Conversation:
    """One conversation, with `client`; it goes on with the `last` one, if there is one."""

    def __init__(self, client: Client, screen: Screen, arguments: argparse.Namespace, last: Last | None) -> None:
        self._client = client
        self._screen = screen
        self._url = arguments.url
        self._agent = arguments.agent
        self._user = arguments.user
        self._transport = arguments.transport
        self._last = last
        self._session = uuid.uuid4().hex if last is None else last.session_id
        self._prompt = Prompt(PROMPT, _file("history"))
        self._typed = b""
        self._lines: deque[str | None] = deque()  # typed ahead
        self._run: Run | None = None
        self._stopping: asyncio.Task[bool] | None = None

    async def hold(self) -> int:
        """Until its user leaves; the exit code. The first Ctrl-C cancels the run, a second one leaves."""
        loop, talk = asyncio.get_running_loop(), asyncio.create_task(self._talk())
        loop.add_signal_handler(signal.SIGINT, lambda: self._stop() or talk.cancel())
        loop.add_reader(sys.stdin, self._read)
        try:
            await talk
        except asyncio.CancelledError:
            return INTERRUPTED
        finally:
            loop.remove_reader(sys.stdin)
            loop.remove_signal_handler(signal.SIGINT)
            self._prompt.close()
        return 0

    async def _talk(self) -> None:
        if self._last is not None:
            await self._follow(self._client.attach(self._last.run_id, transport=self._transport))
        while (line := await self._next()) is not None:
            if line.startswith("/"):
                self._obey(*line.split())
            elif line:
                await self._ask(line)

    def _read(self) -> None:
        """A terminal gives whole lines, and nothing at Ctrl-D."""
        typed = os.read(sys.stdin.fileno(), 65_536)
        *lines, self._typed = (self._typed + typed).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").strip()
            if not (text == "/stop" and self._stop()):
                self._lines.append(text)
        if not typed:
            asyncio.get_running_loop().remove_reader(sys.stdin)
            self._lines.append(None)

    async def _next(self) -> str | None:
        """The next line, or None if its user leaves."""
        loop = asyncio.get_running_loop()
        line = None
        if not self._lines and select([sys.stdin], [], [], 0)[0]:
            self._read()
        try:
            if self._lines:
                line = self._lines.popleft()
            else:
                loop.remove_reader(sys.stdin)  # it is the prompt's to read
                line = await self._prompt.line()
                loop.add_reader(sys.stdin, self._read)
        finally:
            if line is None:
                self._screen.write("\n")
        return None if line == "/quit" else line

    def _obey(self, command: str, *rest: str) -> None:
        match command, *rest:
            case ("/help",):
                self._screen.write(HELP)
            case ("/new",):
                self._session = uuid.uuid4().hex
            case ("/stop",):
                self._screen.write("No run goes on.\n")
            case ("/transport", name) if name in TRANSPORTS:
                self._transport = name
            case ("/transport", *_):
                self._screen.write("The transport must be auto, sse or ws.\n")
            case _:
                self._screen.write("There is no such command. /help lists the commands.\n")

    def _stop(self) -> bool:
        """Cancel the run that goes on; False if none does, or it is being cancelled already."""
        if self._run is None or self._stopping is not None:
            return False
        self._stopping = asyncio.create_task(cancel(self._run))
        return True

    async def _ask(self, message: str) -> None:
        run = self._client.stream(
            message,
            transport=self._transport,
            agent=self._agent,
            user_id=self._user,
            session_id=self._session,
            on_disconnect="continue",
        )
        await self._follow(run)

    async def _follow(self, run: Run) -> None:
        try:
            async with run:
                self._run = run
                Last(self._url, self._session, run.run_id).save()
                async for event in run:
                    self._screen.show(event)
                await run.wait()
        except TwinwireError as error:
            self._screen.close()
            complain(str(error))
        finally:
            self._run = self._stopping = None
            self._screen.close()
