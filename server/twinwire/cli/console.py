"""The parts that the commands which talk to a server share: options, output and exit codes."""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import re
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from twinwire.cli.render import Terminal, plain
from twinwire.protocol.errors import SettingsError
from twinwire.protocol.events import dump
from twinwire.telemetry.logging import hide, scrub
from twinwire_client import Client, Event, Retry, Run, TwinwireError

INTERRUPTED = 130  # as a shell tells it: 128 + SIGINT
FIRST_ATTEMPTS = 4  # about a second: somebody is waiting
CANCEL_SECONDS = 3.0
FLAGS = {"url": "--url", "user_id": "--user", "agent": "--agent", "limit": "--limit", "run_id": "RUN"}


def perform(arguments: argparse.Namespace, work: Callable[[Client], Coroutine[Any, Any, int]]) -> int:
    """Do `work` with a client for the server that was named; the exit code. Raises `SettingsError`."""
    hide(token := _token(arguments.token_file))

    async def main() -> int:
        async with Client(arguments.url, first_attempts=FIRST_ATTEMPTS, token=token, on_retry=_waiting) as client:
            return await work(client)

    try:
        return asyncio.run(main())
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TwinwireError as error:
        complain(str(error))
        return 1
    except ValueError as error:  # of an argument, which the client names
        raise SettingsError(_as_flags(str(error))) from None


def _as_flags(text: str) -> str:
    """Name each argument of the client, or field of the server, as the command line does."""
    return re.sub(r"`(\w+)`", lambda named: f"`{FLAGS.get(named[1], named[1])}`", text)


def _waiting(retry: Retry) -> None:
    """Say once that the server has gone away and is waited for."""
    if retry.attempt == FIRST_ATTEMPTS:
        complain(f"The server cannot be reached, and is waited for. {retry.reason}")


def complain(problem: str) -> None:
    """Write one line, whatever the server put into its message; without a secret of the environment or of a URL."""
    sys.stderr.write(f"twinwire: {' '.join(plain(scrub(_as_flags(problem))).split())}\n")


class Screen:
    """Standard output."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._terminal = Terminal(style=sys.stdout.isatty() and not as_json)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal without emoji still gets the words

    def show(self, event: Event) -> None:
        """One event of a run."""
        self.write(dump(event).decode() + "\n" if self._json else self._terminal.render(event))

    def close(self) -> None:
        """No more comes of the run."""
        self.write(self._terminal.close())

    def write(self, text: str) -> None:
        """Text as it is, at once."""
        sys.stdout.write(text)
        sys.stdout.flush()


async def follow(run: Run, screen: Screen, *, cancels: bool) -> int:
    """Show a run to its end; the exit code. Ctrl-C leaves it, and `cancels` it first; the next one ends the program."""
    async with run:
        try:
            async for event in run:
                screen.show(event)
            await run.wait()  # raises what the ERROR event told
        except asyncio.CancelledError:
            if cancels:
                await _cancel(run, screen)
            return INTERRUPTED
        finally:
            screen.close()
    return 0


async def cancel(run: Run) -> bool:
    """Cancel a run if the server answers soon, else say so."""
    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            await run.cancel()
    except TimeoutError:
        complain("the server did not confirm that the run is cancelled")
    except TwinwireError as error:
        complain(str(error))
    else:
        return True
    return False


async def _cancel(run: Run, screen: Screen) -> None:
    """Cancel the run and show what still comes of it, if the server has it end soon."""
    if not await cancel(run):
        return
    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            async for event in run:
                screen.show(event)
    except TimeoutError:
        complain("the server did not end the run")


def _token(path: str | None) -> str | None:
    """Return the token, from the file or the environment."""
    try:
        token = os.environ.get("TWINWIRE_TOKEN", "") if path is None else Path(path).read_text()
        token.encode("ascii")
        if not token.strip().isprintable():
            raise ValueError("A token must be one line.")
    except (OSError, ValueError):
        field = "TWINWIRE_TOKEN" if path is None else "--token-file"
        raise SettingsError(f"The token of `{field}` must be one line of ASCII.", field=field) from None
    return token.strip() or None
