"""Memory that is free is given back to the system, and a process that has not grown is left alone."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest

from twinwire.serving import allocator
from twinwire.serving.allocator import SLACK_BYTES, Allocator

MB = 2**20


class Malloc:
    """An allocator that has what a test says; a trim returns all that is free."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.code, self.in_use, self.free = 50 * MB, 10 * MB, 0
        self.asked = self.trims = 0
        self.now = 0.0
        functions = SimpleNamespace(mallinfo2=partial(self.info), malloc_trim=self.trim)
        monkeypatch.setattr(ctypes, "CDLL", lambda _: functions)
        monkeypatch.setattr(allocator, "_resident", lambda: self.code + self.in_use + self.free)
        for clock in "monotonic", "thread_time":
            monkeypatch.setattr(allocator, clock, lambda: self.now)
        self.allocator = Allocator()
        self.look()

    def info(self) -> SimpleNamespace:
        self.asked += 1
        self.now += 0.2
        return SimpleNamespace(uordblks=self.in_use - 2 * MB, hblkhd=2 * MB)

    def trim(self, _: int) -> None:
        self.trims += 1
        self.free = 0

    def look(self) -> None:
        self.now += 60
        self.allocator.look()


@pytest.fixture
def malloc(monkeypatch: pytest.MonkeyPatch) -> Malloc:
    return Malloc(monkeypatch)


def test_what_was_in_use_is_given_back(malloc: Malloc) -> None:
    """The heap is trimmed once what was in use is free, also if part of it was trimmed before."""
    for most in 500, 100:
        malloc.in_use += most * MB
        malloc.look()
        malloc.in_use, malloc.free = malloc.in_use - MB, SLACK_BYTES
        malloc.look()
        malloc.in_use, malloc.free = 10 * MB, malloc.in_use - 10 * MB
        malloc.look()
        assert malloc.free == 0
    assert malloc.trims == 4


def test_a_quiet_process_is_left_alone(malloc: Malloc) -> None:
    """malloc is not even asked while the process is about as large as it was."""
    asked = malloc.asked
    malloc.free = SLACK_BYTES - 1
    for _ in range(10):
        malloc.look()
    assert (malloc.asked, malloc.trims) == (asked, 0)


def test_what_python_keeps_is_no_reason_to_trim_again(malloc: Malloc) -> None:
    """Growth that a trim does not undo is tried once; when it is undone, later growth counts again."""
    malloc.code += 100 * MB
    for _ in range(10):
        malloc.look()
    assert malloc.trims == 1
    malloc.code -= 90 * MB
    malloc.look()
    malloc.free = SLACK_BYTES
    malloc.look()
    assert (malloc.trims, malloc.free) == (2, 0)


def test_looking_takes_little_of_the_time(malloc: Malloc) -> None:
    """The longer a look takes, the later the next one is."""
    malloc.in_use += 100 * MB
    malloc.look()
    asked = malloc.asked
    malloc.now += 19
    malloc.allocator.look()
    assert malloc.asked == asked
    malloc.now += 2
    malloc.allocator.look()
    assert malloc.asked > asked


def test_another_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where glibc's functions are missing nothing is done."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    monkeypatch.setattr(allocator, "_resident", None)
    Allocator().look()


HEAP = """
from twinwire.serving import allocator

malloc = allocator.Allocator()
malloc.look()
blocks = [bytearray(2000) for _ in range(100_000)]
grown = allocator._resident()
blocks = blocks[::100]
malloc._due = 0.0
malloc.look()
print(len(blocks), grown - allocator._resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this is not glibc from 2.33 on")
def test_a_real_heap() -> None:
    """Small blocks that pin a heap do not keep the rest of it resident."""
    program = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, check=True, text=True)
    count, returned = map(int, program.stdout.split())
    assert count == 1000
    assert returned > 100 * MB
