"""`twinwire runs`: list one's runs on a server, follow one, cancel or delete one, answer what one asks."""

from __future__ import annotations

import argparse
from collections import deque
from typing import Any

from msgspec import convert

from twinwire.cli import console, forms
from twinwire.cli.render import plain
from twinwire.cli.screen import Screen
from twinwire.protocol.errors import SettingsError
from twinwire.protocol.events import dump
from twinwire_client import Acknowledgement, Client, Question, RunInfo
from twinwire_client.events import InputRequested


def runs(arguments: argparse.Namespace) -> int:
    """Carry out `twinwire runs`. Return the exit code."""
    screen = Screen(as_json=arguments.json)

    async def work(client: Client) -> int:
        if arguments.action == "follow":
            heard: deque[Question] = deque()
            followed = client.attach(arguments.run_id, transport=arguments.transport, on_input=heard.append)
            return await console.follow(followed, heard, screen, arguments.url, cancels=False)
        if arguments.action == "cancel":
            screen.write(f"{plain(await client.cancel(arguments.run_id))}\n")
            return 0
        if arguments.action == "delete":
            await client.delete(arguments.run_id)
            screen.write("deleted\n")
            return 0
        if arguments.action == "answer":
            said = await _answer(client, arguments.input_id, arguments.answer)
            screen.write(f"{plain(said.status)}\n")
            return 0 if said.status == "accepted" else 1
        labels, left, page = _labels(arguments.label), arguments.limit, None
        while True:
            listed = await client.runs(
                user_id=arguments.user,
                limit=left,
                agent=arguments.agent,
                status=arguments.status,
                labels=labels,
                page=page,
            )
            for run in listed:
                screen.write(_json(run) if arguments.json else _line(run))
            left, page = left - len(listed), listed.next
            if page is None or left <= 0:
                return 0

    return console.perform(arguments, work)


def _labels(told: list[str]) -> dict[str, str]:
    """Return the labels that these `NAME:VALUE` are. Raise `SettingsError` for one that is none."""
    pairs = [text.partition(":") for text in told]
    labels = {name: value for name, colon, value in pairs if colon}
    if len(labels) < len(told):
        raise SettingsError("`--label` must be NAME:VALUE, such as team:red, with each name once.", field="--label")
    return labels


async def _answer(client: Client, input_id: str, lines: list[str]) -> Acknowledgement:
    """Answer a question as if these lines were typed at its prompts. Raise `SettingsError` if that is no answer."""
    run_id = input_id.removeprefix("ask-").rpartition("-")[0]  # PROTOCOL.md, section 10
    asked = (await client.get(run_id)).get("questions", [])
    data = next((each for each in asked if each["input_id"] == input_id), None)
    answer: Any = " ".join(lines)  # of a question that is open no longer
    if data is not None:
        try:
            answer = forms.filled(forms.form(convert(data, InputRequested)), lines)
        except ValueError as error:
            raise SettingsError(f"`ANSWER` does not fit the question. {error}", field="ANSWER") from None
    return await client.answer(run_id, input_id, answer)


def _json(run: RunInfo) -> str:
    return f"{dump(run).decode()}\n"


def _line(run: RunInfo) -> str:
    status = "waiting" if run.get("waiting") else run.get("status")
    return plain(f"{run.get('run_id')}  {status!s:<9}  {run.get('created')}  {run.get('agent')}\n")
