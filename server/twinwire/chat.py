"""`twinwire chat`: ask a server something and show the answer as it comes. How it looks is `terminal`'s."""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import sys
from pathlib import Path

from twinwire.errors import SettingsError
from twinwire.events import StreamEvent, dump
from twinwire.terminal import Terminal, plain
from twinwire_client import Client, Run, TwinwireClientError

INTERRUPTED = 130  # as a shell tells it: 128 + SIGINT
ATTEMPTS = 4  # about a second: somebody is waiting
CANCEL_SECONDS = 3.0


def chat(arguments: argparse.Namespace) -> int:
    """Ask and show; returns the exit code. Raises `SettingsError` for arguments that make no sense."""
    message = _message(arguments.message)
    try:
        client = Client(arguments.url, max_attempts=ATTEMPTS, token=_token(arguments.token_file))
    except ValueError as error:
        raise SettingsError(str(error), field="--url") from None
    run = client.stream(message, transport=arguments.transport, agent=arguments.agent)
    try:
        return asyncio.run(_follow(client, run, _Screen(as_json=arguments.json)))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TwinwireClientError as error:
        _complain(str(error))
        return 1


def _token(path: str | None) -> str | None:
    """Who asks: what is in the file, or in the environment."""
    try:
        token = os.environ.get("TWINWIRE_TOKEN", "") if path is None else Path(path).read_text()
        token.encode("ascii")
    except (OSError, ValueError):
        raise SettingsError("cannot be read", field="TWINWIRE_TOKEN" if path is None else "--token-file") from None
    return token.strip() or None


def _message(given: str | None) -> str:
    """What to ask: what was given, or what comes on standard input."""
    if given is None and (sys.stdin is None or sys.stdin.isatty()):
        raise SettingsError("is needed, or something on standard input", field="MESSAGE")
    try:
        message = sys.stdin.read() if given is None else given
        message.encode()
    except UnicodeError:
        raise SettingsError("is not UTF-8", field="MESSAGE") from None
    if not message.strip():
        raise SettingsError("is empty", field="MESSAGE")
    return message


def _complain(problem: str) -> None:
    """One line, whatever the server put into its message."""
    sys.stderr.write(f"twinwire: {' '.join(plain(problem).split())}\n")


class _Screen:
    """Standard output."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._terminal = Terminal(style=sys.stdout.isatty())
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal without emoji still gets the words

    def show(self, event: StreamEvent) -> None:
        self._write(dump(event).decode() + "\n" if self._json else self._terminal.render(event))

    def close(self) -> None:
        self._write(self._terminal.close())

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


async def _follow(client: Client, run: Run, screen: _Screen) -> int:
    async with client, run:
        try:
            async for event in run:
                screen.show(event)
            await run.wait()  # raises what the ERROR event told
        except asyncio.CancelledError:  # Ctrl-C; the next one ends the program at once
            await _cancel(run, screen)
            return INTERRUPTED
        finally:
            screen.close()
    return 0


async def _cancel(run: Run, screen: _Screen) -> None:
    """Cancel the run and show what still comes of it, if the server has it end soon."""
    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            await run.cancel()
            async for event in run:
                screen.show(event)
    except TimeoutError:
        _complain("the server did not confirm that the run is cancelled")
    except TwinwireClientError as error:
        _complain(str(error))
