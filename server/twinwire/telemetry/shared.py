"""The metrics of all workers of one supervisor, in memory that they share: each worker writes its own, any reads all.

A `Board` has a slot for each worker and one for the past. The worker that is in a slot writes the families of its
metrics there, now and then. When it has ended, the supervisor adds its counters to the past: so a sum over all never
falls, and has the gauges of living workers only. Nobody waits for anybody, also not for a worker that hangs.

A slot has two halves. Its first byte says which one holds, and changes once the other half is written: so a reader
finds a whole text, and a writer that is killed leaves the one before.
"""

from __future__ import annotations

import logging
import mmap
import struct
from collections.abc import Iterable, Iterator, Sequence
from zlib import crc32

import msgspec
from msgspec import Struct

logger = logging.getLogger("twinwire.telemetry")

HALF_BYTES = 2**18
HALVES_AT = 64
SLOT_BYTES = HALVES_AT + 2 * HALF_BYTES
TRIES = 100
SUMMED = frozenset({"counter", "histogram"})
"""The types of families that a worker leaves behind."""
WORKER = "worker"
"""The label of samples that are about one process, which no sum has."""

_HEAD = struct.Struct("<QII")  # the writer's number, the length of the text, and its checksum


class Sample(Struct, frozen=True, array_like=True):
    """A number, as Prometheus's text format has it."""

    name: str
    labels: dict[str, str]
    value: float


class Family(Struct, frozen=True, array_like=True):
    """The samples of one metric; `kind` is its type in OpenMetrics."""

    name: str
    text: str
    kind: str
    samples: list[Sample]


class _Past(Struct, frozen=True, array_like=True):
    """The counters of workers that have ended; of each slot the last of these, by its number."""

    ended: list[int]
    families: list[Family]


def summed(families: Iterable[Family]) -> list[Family]:
    """Return each family once, with the sum of each sample."""
    sums: dict[str, tuple[Family, dict[tuple[str, frozenset[tuple[str, str]]], Sample]]] = {}
    for family in families:
        _, samples = sums.setdefault(family.name, (family, {}))
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            before = samples[key].value if key in samples else 0
            samples[key] = Sample(sample.name, sample.labels, before + sample.value)
    return [Family(one.name, one.text, one.kind, [*samples.values()]) for one, samples in sums.values()]


def _left_behind(families: Iterable[Family]) -> Iterator[Family]:
    """Give what stays true of a worker that has ended."""
    for family in families:
        if family.kind in SUMMED:
            samples = [sample for sample in family.samples if WORKER not in sample.labels]
            yield Family(family.name, family.text, family.kind, samples)


class Board:
    """The shared memory, made before the workers are forked: for so many at once. The supervisor alone gives slots."""

    def __init__(self, slots: int) -> None:
        self._memory = mmap.mmap(-1, (slots + 1) * SLOT_BYTES)  # what nobody writes takes no memory
        self._past = slots
        self._free = [*reversed(range(slots))]
        self._last = 0
        self._told = False  # that they were too many

    def take(self) -> Slot:
        """Return a slot for a worker that is about to start."""
        self._last += 1
        return Slot(self, self._free.pop(), self._last)

    def give_back(self, slot: Slot) -> None:
        """Add the counters of a worker that has ended to the past, and let another one have its slot."""
        past = self._read_past()
        families = past.families
        if (found := self._read(slot.index)) is not None and found[0] == slot.number:
            left = _left_behind(msgspec.msgpack.decode(found[1], type=list[Family]))
            families = summed([*past.families, *left])
        ended = past.ended[:]
        ended[slot.index] = slot.number
        if not self.write(self._past, 0, msgspec.msgpack.encode(_Past(ended, families))):
            self.write(self._past, 0, msgspec.msgpack.encode(_Past(ended, past.families)))
        self._free.append(slot.index)

    def families(self) -> list[Family]:
        """Return the metrics of all workers as one."""
        found = [self._read(index) for index in range(self._past)]
        past = self._read_past()  # after the slots: what has gone from one meanwhile is there
        parts = list(past.families)
        for index, each in enumerate(found):
            if each is not None and each[0] > past.ended[index]:
                parts += msgspec.msgpack.decode(each[1], type=list[Family])
        return summed(parts)

    def write(self, index: int, number: int, text: bytes) -> bool:
        """Write a slot's text. Return False, and leave the one before, if it is too long."""
        if len(text) > HALF_BYTES - _HEAD.size:
            if not self._told:
                self._told = True
                logger.warning("The metrics of a worker must have at most %d bytes to be shared.", HALF_BYTES)
            return False
        start = index * SLOT_BYTES
        holds = 2 if self._memory[start] == 1 else 1
        at = self._half(start, holds)
        _HEAD.pack_into(self._memory, at, number, len(text), crc32(text))
        self._memory[at + _HEAD.size : at + _HEAD.size + len(text)] = text
        self._memory[start] = holds
        return True

    def _read(self, index: int) -> tuple[int, bytes] | None:
        """Return the number of the slot's writer, and its text; None if nobody has written one."""
        start = index * SLOT_BYTES
        for _ in range(TRIES):
            if not (holds := self._memory[start]):
                return None
            at = self._half(start, holds)
            number, length, checksum = _HEAD.unpack_from(self._memory, at)
            text = self._memory[at + _HEAD.size : at + _HEAD.size + min(length, HALF_BYTES)]
            if crc32(text) == checksum:
                return number, text
        raise RuntimeError("The metrics of a worker changed too often while they were read.")

    def _read_past(self) -> _Past:
        found = self._read(self._past)
        return _Past([0] * self._past, []) if found is None else msgspec.msgpack.decode(found[1], type=_Past)

    @staticmethod
    def _half(start: int, holds: int) -> int:
        return start + HALVES_AT + (holds - 1) * HALF_BYTES


class Slot:
    """A worker's place on a board. `number` tells it from the workers that had the place before."""

    __slots__ = ("_board", "index", "number")

    def __init__(self, board: Board, index: int, number: int) -> None:
        self._board = board
        self.index = index
        self.number = number

    def write(self, families: Sequence[Family]) -> None:
        """Let the other workers see these metrics of this one."""
        self._board.write(self.index, self.number, msgspec.msgpack.encode(families))

    def families(self) -> list[Family]:
        """Return the metrics of all workers as one."""
        return self._board.families()
