"""A conversation in a terminal: lines in, runs out, commands between. `render` draws a run.

Lines are read while a run goes on: `/stop` is obeyed at once, other commands wait for its end, and all else is said to
the run (`dialogue`). What was said before is the server's to know: each conversation is a session.
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

from twinwire.cli.console import INTERRUPTED, cancel, unanswered
from twinwire.cli.dialogue import Dialogue
from twinwire.cli.prompt import Keyboard, Prompt
from twinwire.cli.screen import Screen, complain
from twinwire.protocol.errors import SettingsError
from twinwire_client import Client, Question, Run, TwinwireError

PROMPT = "> "
TRANSPORTS = ("auto", "sse", "ws")
HELP = """\
/stop                    cancel the run that goes on, as Ctrl-C does
/new                     begin another conversation
/transport auto|sse|ws   how the next runs are followed
/help                    this
/quit                    leave, as Ctrl-D does
Any other line is said to the run that goes on, or begins one.
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
        self._keyboard = Keyboard(lambda line: line == "/stop" and self._stop())
        self._run: Run | None = None
        self._stopping: asyncio.Task[bool] | None = None

    async def hold(self) -> int:
        """Until its user leaves; the exit code. The first Ctrl-C cancels the run, a second one leaves."""
        loop, talk = asyncio.get_running_loop(), asyncio.create_task(self._talk())
        loop.add_signal_handler(signal.SIGINT, lambda: self._stop() or talk.cancel())
        self._keyboard.open()
        try:
            await talk
        except asyncio.CancelledError:
            return INTERRUPTED
        finally:
            self._keyboard.close()
            loop.remove_signal_handler(signal.SIGINT)
            self._prompt.close()
        return 0

    async def _talk(self) -> None:
        if self._last is not None:
            heard: deque[Question] = deque()
            run = self._client.attach(self._last.run_id, transport=self._transport, on_input=heard.append)
            await self._follow(run, heard)
        while (line := await self._next()) is not None:
            if line.startswith("/"):
                self._obey(*line.split())
            elif line:
                await self._ask(line)

    async def _next(self) -> str | None:
        """The next line, or None if its user leaves."""
        line, keyboard = None, self._keyboard
        if not keyboard.lines and select([sys.stdin], [], [], 0)[0]:
            keyboard.read()
        try:
            if keyboard.lines:
                line = keyboard.lines.popleft()
            else:
                keyboard.close()  # it is the prompt's to read
                line = await self._prompt.line()
                keyboard.open()
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
        heard: deque[Question] = deque()
        run = self._client.stream(
            message,
            transport=self._transport,
            agent=self._agent,
            user_id=self._user,
            session_id=self._session,
            on_disconnect="continue",
            on_input=heard.append,
        )
        await self._follow(run, heard)

    async def _follow(self, run: Run, heard: deque[Question]) -> None:
        dialogue = Dialogue(run, heard, self._screen, self._keyboard, unanswered(self._url), sends=True)
        try:
            async with run:
                self._run = run
                Last(self._url, self._session, run.run_id).save()
                async with dialogue:
                    async for event in run:
                        dialogue.show(event)
                await run.wait()
        except TwinwireError as error:
            self._screen.close()
            complain(str(error))
        finally:
            self._run = self._stopping = None
            self._screen.close()
            self._keyboard.lines.extendleft(reversed(dialogue.left()))
