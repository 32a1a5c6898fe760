"""`twinwire runs`: list one's runs on a server, follow one, cancel one."""

from __future__ import annotations

import argparse

from twinwire.cli import console
from twinwire.cli.render import plain
from twinwire.protocol.events import dump
from twinwire_client import Client, RunInfo


def runs(arguments: argparse.Namespace) -> int:
    """Carry out `twinwire runs`. Return the exit code."""
    screen = console.Screen(as_json=arguments.json)

    async def work(client: Client) -> int:
        if arguments.action == "follow":
            followed = client.attach(arguments.run_id, transport=arguments.transport)
            return await console.follow(followed, screen, cancels=False)
        if arguments.action == "cancel":
            screen.write(f"{plain(await client.cancel(arguments.run_id))}\n")
            return 0
        for run in await client.runs(user_id=arguments.user, limit=arguments.limit):
            screen.write(_json(run) if arguments.json else _line(run))
        return 0

    return console.perform(arguments, work)


def _json(run: RunInfo) -> str:
    return f"{dump(run).decode()}\n"


def _line(run: RunInfo) -> str:
    return plain(f"{run.get('run_id')}  {run.get('status')!s:<9}  {run.get('created')}  {run.get('agent')}\n")
