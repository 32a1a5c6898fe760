"""The parts that the commands which talk to a server share: options, output and exit codes."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from twinwire.cli.dialogue import Dialogue
from twinwire.cli.prompt import Keyboard
from twinwire.cli.screen import Screen, as_flags, complain
from twinwire.protocol.errors import SettingsError
from twinwire.telemetry.logging import hide
from twinwire_client import Client, Question, Retry, Run, TwinwireError

INTERRUPTED = 130  # as a shell tells it: 128 + SIGINT
FIRST_ATTEMPTS = 4  # about a second: somebody is waiting
CANCEL_SECONDS = 3.0


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
        raise SettingsError(as_flags(str(error))) from None


def _waiting(retry: Retry) -> None:
    """Say once that the server has gone away and is waited for."""
    if retry.attempt == FIRST_ATTEMPTS:
        complain(f"The server cannot be reached, and is waited for. {retry.reason}")


def unanswered(url: str) -> Callable[[Question], None]:
    """Return what says that a question of a run on this server is left to others, and how to answer it."""

    def say(question: Question) -> None:
        command = f"twinwire runs answer {question.input_id} ANSWER --url {shlex.quote(url)}"
        complain(f"The run waits for an answer. To answer it: {command}")

    return say


async def follow(run: Run, heard: deque[Question], screen: Screen, url: str, *, cancels: bool) -> int:
    """Show a run to its end, and ask at a terminal what its `on_input` has `heard`; the exit code.

    Ctrl-C leaves the run, and `cancels` it first; the next one ends the program.
    """
    keyboard = Keyboard() if screen.asks else None
    async with run:
        try:
            async with Dialogue(run, heard, screen, keyboard, unanswered(url)) as dialogue:
                async for event in run:
                    dialogue.show(event)
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
