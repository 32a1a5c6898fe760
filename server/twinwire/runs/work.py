"""The steps of a run's agent: from one suspension of its task to the next."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol


class Worked(Protocol):
    """The run whose agent takes the steps."""

    def step(self, proceed: Callable[..., Any], *given: Any) -> Any:
        """Take one step: return what `proceed` does, and raise what it raises."""
        ...

    def thrown(self) -> None:
        """Hear that the agent's next step begins with an error, as of a task that is cancelled."""
        ...


class Work(Coroutine[Any, Any, None]):
    """A coroutine for a task, each step of which is the run's to take.

    A coroutine around the agent's own would take a quarter of a kilobyte for as long as the run goes on.
    """

    __slots__ = ("_run", "_work")

    def __init__(self, run: Worked, work: Coroutine[Any, Any, None]) -> None:
        self._run = run
        self._work = work

    def send(self, value: Any) -> Any:
        """See `Coroutine`."""
        try:
            return self._run.step(self._work.send, value)
        except BaseException:
            self._let_go()
            raise

    def throw(self, *error: Any) -> Any:
        """See `Coroutine`."""
        self._run.thrown()
        try:
            return self._run.step(self._work.throw, *error)
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        """The agent is done: its task, which keeps this, is the run's."""
        del self._run

    def close(self) -> None:
        """See `Coroutine`."""
        self._work.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._work.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)  # its name and its frame, for whoever debugs
