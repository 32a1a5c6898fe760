"""`twinwire chat`: ask a server something and show the answer as it comes; without a message, a conversation."""

from __future__ import annotations

import argparse
import sys
from collections import deque

from twinwire.cli import console
from twinwire.cli.prompt import CAN_ASK
from twinwire.cli.repl import Conversation, Last
from twinwire.cli.screen import Screen
from twinwire.protocol.errors import SettingsError
from twinwire_client import Client, Question

DEFAULT_URL = "http://127.0.0.1:8000"


def chat(arguments: argparse.Namespace) -> int:
    """Ask and show; returns the exit code. Raises `SettingsError` for arguments that make no sense."""
    last = Last.load() if arguments.resume else None
    arguments.url = arguments.url or (DEFAULT_URL if last is None else last.url)
    screen = Screen(as_json=arguments.json)
    talks = arguments.message is None and screen.asks
    message = "" if talks else _message(arguments.message)

    async def work(client: Client) -> int:
        if talks:
            return await Conversation(client, screen, arguments, last).hold()
        heard: deque[Question] = deque()
        run = client.stream(
            message,
            transport=arguments.transport,
            agent=arguments.agent,
            user_id=arguments.user,
            session_id=None if last is None else last.session_id,
            on_input=heard.append,
        )
        return await console.follow(run, heard, screen, arguments.url, cancels=True)

    return console.perform(arguments, work)


def _message(given: str | None) -> str:
    """Return the message to send: the argument, or standard input."""
    if given is None and (sys.stdin is None or sys.stdin.isatty()):
        message = "`MESSAGE` is required, as an argument or on standard input."
        if not CAN_ASK:
            message += " A conversation requires a terminal of POSIX."
        raise SettingsError(message, field="MESSAGE")
    try:
        message = sys.stdin.read() if given is None else given
        message.encode()
    except UnicodeError:
        raise SettingsError("`MESSAGE` must be UTF-8.", field="MESSAGE") from None
    if not message.strip():
        raise SettingsError("`MESSAGE` must not be empty.", field="MESSAGE")
    return message
