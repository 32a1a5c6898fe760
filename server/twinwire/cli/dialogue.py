"""Answers and messages that are typed at a terminal while a run goes on."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from types import TracebackType
from typing import Any, Self

from twinwire.cli import forms
from twinwire.cli.prompt import Keyboard
from twinwire.cli.screen import Screen, complain
from twinwire_client import ApiError, Event, Question, Run, TwinwireError

UNREAD = "The agent reads no messages while it works. What was typed is asked once the run has ended.\n"


class Dialogue:
    """Shows the events of a run, asks whoever is at the terminal what the run asks, and sends what else is typed.

    `heard` are the questions that the run's `on_input` has heard of. Without a `keyboard` each is left to others, of
    which `unanswered` is told. It `sends` what is typed while no question is open; else nothing is read then, since it
    may be meant for the shell.
    """

    def __init__(
        self,
        run: Run,
        heard: deque[Question],
        screen: Screen,
        keyboard: Keyboard | None,
        unanswered: Callable[[Question], object],
        *,
        sends: bool = False,
    ) -> None:
        self._run = run
        self._heard = heard
        self._screen = screen
        self._keyboard = keyboard
        self._unanswered = unanswered
        self._sends = sends
        self._asked: Question | None = None
        self._requests: dict[str, Event] = {}  # what asked each question
        self._latest: Event | None = None
        self._sent: dict[str, str] = {}  # messages by their ids
        self._logged: set[str] = set()  # those that the log has
        self._kept: deque[str | None] = deque()  # lines for after the run
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._keyboard is not None:
            self._task = asyncio.create_task(self._talk(self._keyboard))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()
        self._screen.withdraw()

    def show(self, event: Event) -> None:
        """Show the run's next event; a question that it closes is asked no longer."""
        if self._asked is not None and not self._open(self._asked):
            self._screen.withdraw()
        if event.type == "USER_MESSAGE":
            self._logged.add(str(event.data.get("message_id")))
        if event.type == "INPUT_REQUESTED":
            self._requests[str(event.data.get("input_id"))] = event
        self._latest = event
        self._screen.show(event)
        if self._keyboard is not None:
            self._keyboard.changed.set()
        while self._keyboard is None and (question := self._next()) is not None:
            self._leave(question)

    def left(self) -> list[str | None]:
        """Return the lines that the run has not read, or that were not for it, in their order."""
        unread = () if self._run.terminal is None else self._run.terminal.metadata.get("unread", ())
        sent = [
            line for message_id, line in self._sent.items() if message_id in unread or message_id not in self._logged
        ]
        return [*sent, *self._kept]

    def _next(self) -> Question | None:
        """Return the oldest question that is open, and neither answered here nor left to others."""
        while self._heard and not self._open(self._heard[0]):
            self._heard.popleft()
        return self._heard[0] if self._heard else None

    def _open(self, question: Question) -> bool:
        return any(each.input_id == question.input_id for each in self._run.questions)

    async def _talk(self, keyboard: Keyboard) -> None:
        while True:
            question = self._next()
            if self._sends and keyboard.lines:
                await self._take(keyboard.lines.popleft())
            elif question is None:
                await keyboard.wait()
            elif self._sends and keyboard.ended:
                self._leave(question)
            else:
                with nullcontext() if self._sends else keyboard.listening():
                    await self._ask(question, keyboard)

    async def _take(self, line: str | None) -> None:
        """Send a line, unless it is a command for after the run, or comes after one that waits for its end."""
        if line == "":
            return
        if line is None or line.startswith("/") or self._kept:
            self._kept.append(line)
            return
        message_id = uuid.uuid4().hex
        self._screen.say(message_id)
        self._sent[message_id] = line
        try:
            status = (await self._run.send(line, message_id=message_id)).status
        except TwinwireError as error:
            complain(str(error))
            status = "refused" if isinstance(error, ApiError) else "accepted"  # or not: the log tells in the end
        if status == "not_accepted":
            self._screen.note(UNREAD)
        if status != "accepted":
            self._kept.append(self._sent.pop(message_id))

    async def _ask(self, question: Question, keyboard: Keyboard) -> None:
        form = forms.form(question)
        step = next(form)
        self._asked = question
        request = self._requests.get(question.input_id)
        if request is not None and request is not self._latest:
            self._screen.show(request)  # again: something else came between
        try:
            while True:
                self._screen.ask(f"{step.problem}\n{step.prompt}" if step.problem else step.prompt)
                while self._open(question) and not keyboard.lines:
                    await keyboard.wait()
                if not self._open(question):
                    while keyboard.lines and keyboard.lines[0] is not None:
                        keyboard.lines.popleft()  # it was meant for this question
                    return
                line = keyboard.lines.popleft()
                self._screen.typed()
                if line is None:  # at Ctrl-D nothing more is typed
                    self._screen.write("\n")
                    self._kept.append(None)
                    self._leave(question)
                    return
                step = form.send(line)
        except StopIteration as done:
            await self._answer(question, done.value)
        finally:
            self._asked = None

    def _leave(self, question: Question) -> None:
        """Leave a question to others."""
        self._heard.remove(question)
        self._unanswered(question)

    async def _answer(self, question: Question, answer: Any) -> None:
        message_id = uuid.uuid4().hex
        self._screen.say(message_id)
        try:
            await question.answer(answer, message_id=message_id)
        except TwinwireError as error:
            complain(str(error))  # and ask again
        else:
            self._heard.remove(question)  # whatever came of it is an event
