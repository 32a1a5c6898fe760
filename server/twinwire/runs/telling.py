"""The events of one run on their way to its log, and the state that they come to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from twinwire.agents import RunRequest
from twinwire.log import Folded, RunInfo
from twinwire.protocol.errors import RunError
from twinwire.protocol.events import OWN_TYPES, StreamEvent, StreamEventType, checked
from twinwire.protocol.fold import Fold
from twinwire.runs.budget import Share
from twinwire.runs.resumption import Resumption, agent_start
from twinwire.runs.terminal import TerminalEvents
from twinwire.runs.thoughts import Held, Thought
from twinwire.runs.writer import Writer


class Telling(ABC):
    """The part of a `Run` that writes events: within its budget, thoughts in phrases, an AGENT_START first.

    Thoughts that are not yet a phrase wait in `held`. A run that was `resumed` has a past in another process.
    """

    __slots__ = (
        *("__weakref__", "_begun", "_check", "_ends", "_held", "_thought", "fold", "info", "over", "request", "share"),
        "writer",
    )

    def __init__(
        self,
        info: RunInfo,
        request: RunRequest,
        writer: Writer,
        resumed: Resumption | None,
        *,
        share: Share | None,
        held: Held,
        debug: bool,
    ) -> None:
        self.info = info
        self.request = request
        self.fold = Fold() if resumed is None else resumed.found.fold
        self.over = False
        elapsed = 0.0 if resumed is None else resumed.checkpoint.elapsed
        self._ends = TerminalEvents(info, request, self.fold, elapsed=elapsed, debug=debug)
        self.writer = writer
        self.share = share
        self._check = None if share is None else share.check
        if share is not None:
            share.begin(request, self.fold)
        self._held = held
        self._thought = Thought()
        self._begun = resumed is not None

    @abstractmethod
    def fail(self, error: RunError) -> bool:
        """End the run with an ERROR. Return False if it is over already."""

    @abstractmethod
    def _look(self, *, waited: bool) -> None:
        """See whether the run waits for its user, which it did before if it `waited`."""

    @property
    def size(self) -> int:
        """Return how many bytes of events the run has written; its state is no larger."""
        return self.writer.size

    @property
    def folded(self) -> Folded:
        """Return the state so far. Some of its events may not be in the log yet."""
        return Folded(self.writer.last, self.fold.state)

    async def snapshot(self) -> Folded:
        """Return the state that the events in the log come to.

        Raises `LogUnavailable` if the log is no longer ours to write, and so has something else.
        """
        self._release()
        self.writer.flush()
        await self.writer.flushed()
        return self.folded

    def _think(self, phrases: Sequence[StreamEvent]) -> None:
        """Write these phrases of a thought; what comes after them waits for more."""
        if self.writer.last == 0:
            self._begin()
        if phrases:
            self._held.remove(self._release_held)
        for phrase in phrases:
            self._write(phrase)
        if self._thought.text:
            self._held.add(self._release_held)

    def _release(self) -> None:
        """Write the thought that is held back, if there is one. Raises `BudgetSpent`, and then it is lost."""
        if self._thought.text:
            self._held.remove(self._release_held)
            self._write(self._thought.take(len(self._thought.text)))

    def _release_held(self) -> None:
        """Write the thought that is held back, now."""
        try:
            self._release()
        except RunError as error:
            self.fail(error)
        self.writer.flush()

    def _write(self, event: StreamEvent) -> None:
        """Write an event that is no terminal one. Raises `BudgetSpent`."""
        writer = self.writer
        if event.type == StreamEventType.AGENT_START and self._begun:
            return  # something was said to the run before its agent told anything, or the agent goes on with it
        if writer.last == 0 and event.type != StreamEventType.AGENT_START:
            self._begin()
        waited = self.fold.waiting
        writer.put(event, self._check)
        self.fold.apply(event)
        if event.type in OWN_TYPES or self.fold.waiting != waited:
            self._look(waited=waited)

    def _afford(self) -> None:
        """Raise `BudgetSpent` if an agent that would end as completed has used too many tokens."""
        if self.share is not None and not self.over:
            self.share.spend(self._ends.usage(), self.fold.said, self.writer.last, self.writer.size)

    def _begin(self) -> None:
        """Write an AGENT_START: the agent's first event is none."""
        self._begun = True
        self.writer.put(agent_start(self.info, self.request.message))

    def _end_with(self, terminal: StreamEvent, unread: Sequence[str]) -> None:
        """Write the terminal event, completed if the agent left something out."""
        terminal = checked(self._ends.completed(terminal, self.writer.last, unread))
        if self.writer.last == 0:
            self._begin()
        self.writer.put(terminal)
        self.fold.apply(terminal)
