"""`twinwire runs`: list one's runs on a server, follow one, cancel one."""

from __future__ import annotations

import argparse

from twinwire import console
from twinwire.errors import SettingsError
from twinwire.events import dump
from twinwire.terminal import plain
from twinwire_client import Client


def runs(arguments: argparse.Namespace) -> int:
    """What was asked for; returns the exit code. Raises `SettingsError` for arguments that make no sense."""
    action, run_id = arguments.action, arguments.run_id
    if (run_id is None) is not (action == "list"):
        raise SettingsError("is needed" if run_id is None else "is for follow and cancel", field="RUN")
    screen = console.Screen(as_json=arguments.json)

    async def work(client: Client) -> int:
        if action == "follow":
            return await console.follow(client.attach(run_id, transport=arguments.transport), screen, cancels=False)
        if action == "cancel":
            screen.write(f"{plain(await client.cancel(run_id))}\n")
            return 0
        for run in await client.runs(user_id=arguments.user, limit=arguments.limit):
            screen.write(_json(run) if arguments.json else _line(run))
        return 0

    return console.perform(arguments, work)


def _json(run: dict[str, object]) -> str:
    return f"{dump(run).decode()}\n"


def _line(run: dict[str, object]) -> str:
    return plain(f"{run.get('run_id')}  {run.get('status')!s:<9}  {run.get('created')}  {run.get('agent')}\n")
