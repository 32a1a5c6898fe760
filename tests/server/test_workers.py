"""The supervisor of workers, as a process of its own with workers that do nothing but live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

PROGRAM = """
import asyncio, os, signal, sys
from twinwire.serving.workers import Supervisor

def say(word):
    os.write(1, f"{word} {os.getpid()}\\n".encode())

def work(ready):
    async def live():
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        say("up")  # first, so that it is read before whatever the parent then does
        ready()
        await stop.wait()
        say("end" if supervisor.ends() else "down")
    asyncio.run(live())

supervisor = Supervisor(3, {work}, lambda: say("all"))
supervisor.run()
"""


class Supervised:
    """The supervisor's process and what its workers say."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.workers: list[int] = []

    def hear(self, *words: str) -> list[int]:
        """The pids in the next lines, which say these words in any order."""
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline().split() for _ in words]
        assert sorted(line[0] for line in lines) == sorted(words), lines
        return [int(pid) for _, pid in lines]


@contextmanager
def supervised(work: str = "work") -> Iterator[Supervised]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("{work}", work)], stdout=subprocess.PIPE, stderr=-1, text=True
    ) as process:
        try:
            yield Supervised(process)
        finally:
            process.kill()  # its workers end with it


@pytest.fixture
def three() -> Iterator[Supervised]:
    """A supervisor whose three workers are up."""
    with supervised() as found:
        pids = found.hear("up", "up", "up", "all")
        found.workers = [pid for pid in pids if pid != found.process.pid]
        assert len(found.workers) == 3
        yield found


def soon(condition: Callable[[], bool]) -> bool:
    """Whether something that nothing announces comes true within ten seconds."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all(three: Supervised, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end the workers, which know that all end, then the supervisor by the same signal."""
    three.process.send_signal(number)
    assert sorted(three.hear("end", "end", "end")) == sorted(three.workers)
    assert three.process.wait(10) == -number


def test_a_worker_that_dies_is_replaced(three: Supervised) -> None:
    """Another takes its place, and it is told in the log."""
    os.kill(three.workers[0], signal.SIGKILL)
    (new,) = three.hear("up")
    assert new not in three.workers
    three.process.terminate()
    assert sorted(three.hear("end", "end", "end")) == sorted([new, *three.workers[1:]])
    assert three.process.stderr is not None
    assert f"The worker {three.workers[0]} died (-9). Another takes its place." in three.process.stderr.read()


def test_workers_are_replaced_one_by_one(three: Supervised) -> None:
    """SIGHUP brings three new workers, each up before an old one goes down, which knows that not all end."""
    three.process.send_signal(signal.SIGHUP)
    new, old = [], []
    for _ in range(3):
        new += three.hear("up")
        old += three.hear("down")
    assert sorted(old) == sorted(three.workers)
    assert not set(new) & set(old)
    three.process.terminate()
    assert sorted(three.hear("end", "end", "end")) == sorted(new)


def test_workers_do_not_outlive_their_parent(three: Supervised) -> None:
    """A supervisor that is killed takes its workers along, which know that all end."""
    three.process.kill()
    three.process.wait(10)
    assert sorted(three.hear("end", "end", "end")) == sorted(three.workers)
    assert soon(lambda: not any(alive(pid) for pid in three.workers))


def test_a_worker_that_cannot_start_ends_all() -> None:
    """The first failure is the supervisor's, with the worker's exit code."""
    with supervised("lambda ready: sys.exit(2)") as found:
        assert found.process.wait(10) == 2
    with supervised("lambda ready: 1 / 0") as found:
        assert found.process.wait(10) == 1
        assert found.process.stderr is not None
        assert "ZeroDivisionError" in found.process.stderr.read()


def test_a_second_interrupt_kills() -> None:
    """Workers that do not stop are killed by a second SIGINT."""
    handle = "signal.signal(signal.SIGTERM, lambda *_: say('deaf'))"
    deaf = f"lambda _: ({handle}, say('up'), [signal.pause() for _ in range(9)])"
    with supervised(deaf) as found:
        workers = found.hear("up", "up", "up")
        found.process.send_signal(signal.SIGINT)
        assert sorted(found.hear("deaf", "deaf", "deaf")) == sorted(workers)
        found.process.send_signal(signal.SIGINT)
        assert found.process.wait(10) == -signal.SIGINT
