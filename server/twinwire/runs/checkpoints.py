"""The start of a run and its checkpoints, as its log keeps them for another process that goes on with the run.

Only this package reads them. One of another version cannot be read: its run ends with its process.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field

from twinwire.models import Message, Usage
from twinwire.protocol.errors import RunError
from twinwire.protocol.events import dump
from twinwire.runs.spec import RunSpec

if TYPE_CHECKING:
    from twinwire.runs.budget import Share
    from twinwire.runs.run import Run

logger = logging.getLogger("twinwire.runs")

VERSION = 1
NOTHING = msgspec.Raw(b"null")


class Unreadable(ValueError):
    """These bytes are no start, and no checkpoint, that this version has written."""


class Beginning(Struct, frozen=True, kw_only=True):
    """The start of a run, with the conversation before it."""

    spec: RunSpec
    history: list[Message]
    version: int = VERSION

    @property
    def encoded(self) -> bytes:
        """The start as a log keeps it."""
        spec = msgspec.structs.replace(self.spec, history=None)  # which is `history`, or of the session
        return dump(msgspec.structs.replace(self, spec=spec))


class Checkpoint(Struct, frozen=True, kw_only=True):
    """A moment of a run, after event number `after`, from which another process can go on with it.

    `state` is the agent's own JSON. What the agent has told since counts if it `counts`; else `kept` is what of the
    step that was not finished counts, as `Fold.kept`. The run had cost `usage` then, had gone on for `elapsed` seconds,
    of which it had `waited` some for its user, and had events of `size` bytes. It had asked `asked` questions, and its
    agent had `read` these messages: their ids and texts.
    """

    state: msgspec.Raw = NOTHING
    after: int = 1
    counts: bool = False
    kept: dict[str, str] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    elapsed: float = 0.0
    waited: float = 0.0
    size: int = 0
    asked: int = 0
    read: list[tuple[str, str]] = field(default_factory=list)
    version: int = VERSION

    @property
    def told(self) -> Any:
        """The agent's state, decoded."""
        return msgspec.json.decode(self.state)

    def void_after(self, last: int) -> int | None:
        """Return the number of the last event that counts, of those up to `last`; None if all of them do."""
        return None if self.counts or self.after >= last else self.after


_beginning = msgspec.json.Decoder(Beginning)
_checkpoint = msgspec.json.Decoder(Checkpoint)


def beginning_of(body: bytes) -> Beginning:
    """Return the start that `Beginning.encoded` has made these bytes of. Raise `Unreadable`."""
    found: Beginning = _read(_beginning, body)
    return found


def checkpoint_of(body: bytes) -> Checkpoint:
    """Return the checkpoint that these bytes are; of none, that of a run of which nothing but its start counts.

    Raise `Unreadable`.
    """
    found: Checkpoint = _read(_checkpoint, body) if body else Checkpoint()
    return found


def _read(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        found = decoder.decode(body)
    except (msgspec.DecodeError, ValueError) as error:
        raise Unreadable(str(error)) from None
    if found.version != VERSION:
        raise Unreadable(f"The version must be {VERSION}, not {found.version}.")
    return found


class Keeper:
    """The `agents.past.Checkpoints` of a run that other processes can go on with.

    A checkpoint has at most `most` bytes, and counts in `share`, as does the start, which has `started` bytes.
    `newest` is the one that this process goes on from, if another has begun the run.
    """

    def __init__(self, run: Run, share: Share | None, *, most: int, started: int, newest: Checkpoint | None) -> None:
        self.kept = True
        self._run = run
        self._share = share
        self._most = most
        self._started = started
        self._newest = newest

    async def write(self, state: Any, *, counts: bool) -> None:
        """See `RunRequest.checkpoint`."""
        body = msgspec.Raw(dump(state))
        run = self._run
        if not self.kept or run.over:
            await asyncio.sleep(0)  # an agent that does so again and again holds up nobody
            return
        try:
            made = run.checkpoint(body, counts=counts)
        except RunError as error:
            run.fail(error)
            return
        self._newest = None
        await run.writer.kept(self._keep(made))

    def again(self) -> None:
        """Write the checkpoint that this process goes on from once more: the run has come as far as it was before.

        So the log sees that the run is not what has ended its processes. Does nothing if there is a newer one.
        """
        if (newest := self._newest) is not None:
            self._newest = None
            elapsed, waited = self._run.spent
            self._keep(msgspec.structs.replace(newest, elapsed=elapsed, waited=waited))

    def _keep(self, checkpoint: Checkpoint) -> int:
        """Have the checkpoint written, or an empty one if it does not fit. Return its number."""
        body, run_id = dump(checkpoint), self._run.info.run_id
        if len(body) > self._most:
            logger.warning(
                "No other process can go on with the run %s: its checkpoint has %d bytes, over `--checkpoint-bytes`.",
                run_id,
                len(body),
            )
        elif self._share is not None and not self._share.keep(self._started + len(body)):
            logger.warning(
                "No other process can go on with the run %s: its checkpoint has %d bytes, for which `--live-bytes` has "
                "no room.",
                run_id,
                len(body),
            )
        else:
            return self._run.writer.keep(body)
        self.kept = False
        if self._share is not None:
            self._share.keep(0)
        return self._run.writer.keep(b"")
