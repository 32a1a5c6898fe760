"""Any sequence of appends, retries, reads, trims, restarts and crashes of the SQLite log, against a list per run."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from msgspec import structs

from logs import LIMITS, Nobody, append, records, run_info
from sqlite_logs import Clock
from twinwire.errors import CursorGone, StaleWriter
from twinwire.events import Record, decode
from twinwire.log.sqlite import SqliteLog

T = TypeVar("T")


class LogMachine(RuleBasedStateMachine):
    """The log keeps 16 events of a run, and a run for a minute after its end."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="log-machine-"))
        self.lives = 0
        self.clock = Clock()
        self.written: dict[str, list[Record]] = {}
        self.ended: dict[str, float] = {}
        self.open()

    def open(self) -> None:
        limits = structs.replace(LIMITS, max_events=16, max_bytes=10**6, retention=60.0)
        self.log = SqliteLog(f"sqlite:///{self.folder}/{self.lives}/log.db", limits, self.clock)
        (self.folder / str(self.lives)).mkdir(exist_ok=True)
        self.run(self.log.open(Nobody()))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        self.run(self.log.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def alive(self, run_id: str) -> bool:
        """Whether the log must still have the run; one that ended over a minute ago is deleted some time."""
        return run_id not in self.ended or self.clock.now < self.ended[run_id] + 60

    def kept(self, run_id: str) -> range:
        state = self.run(self.log.state(run_id))
        return range(state.first, state.last + 1)

    @rule(target=runs)
    def create(self) -> str:
        run_id = self.run(self.log.create(run_info(), idempotency_key=None)).run_id
        self.written[run_id] = []
        return run_id

    @rule(run_id=runs, count=st.integers(1, 20), size=st.integers(0, 700), end=st.booleans())
    def append(self, run_id: str, count: int, size: int, end: bool) -> None:
        if not self.alive(run_id):
            return
        last = len(self.written[run_id])
        batch = records(run_id, last, count, size=size, end=end)
        if run_id in self.ended:
            with pytest.raises(StaleWriter):
                self.run(append(self.log, run_id, last, batch))
            return
        self.written[run_id] += batch
        if end:
            self.ended[run_id] = self.clock.now
        woken: list[int] = []
        leave = self.log.subscribe(run_id, lambda: woken.append(1))
        self.run(append(self.log, run_id, last, batch))
        leave()
        assert woken == [1]

    @rule(run_id=runs, back=st.integers(1, 6))
    def append_again(self, run_id: str, back: int) -> None:
        if self.alive(run_id) and self.written[run_id]:
            batch = self.written[run_id][-min(back, len(self.kept(run_id))) :]
            self.run(append(self.log, run_id, batch[0].seq - 1, batch))

    @rule(run_id=runs, off=st.integers(-3, 3).filter(bool))
    def append_elsewhere(self, run_id: str, off: int) -> None:
        last = len(self.written[run_id]) + off
        if self.alive(run_id) and last >= 0:
            with pytest.raises(StaleWriter):
                self.run(append(self.log, run_id, last, records(run_id, last, 2, size=3)))

    @rule(run_id=runs, after=st.integers(0, 40), limit=st.integers(1, 20))
    def page(self, run_id: str, after: int, limit: int) -> None:
        if not self.alive(run_id):
            return
        numbers = self.kept(run_id)
        if numbers.start - 1 <= after < numbers.stop:
            page = self.run(self.log.page(run_id, after, limit))
            assert list(page.records) == self.written[run_id][after : after + limit]
            assert (page.first, page.last, page.ended) == (numbers.start, numbers.stop - 1, run_id in self.ended)
        else:
            with pytest.raises(CursorGone):
                self.run(self.log.page(run_id, after, limit))

    @rule(seconds=st.sampled_from([1.0, 20.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        """A crash leaves the files as they are at that moment; either way the runs that went on get their end."""
        if crash:
            shutil.copytree(self.folder / str(self.lives), self.folder / str(self.lives + 1))
            self.lives += 1
        self.run(self.log.close())
        self.open()
        for run_id in self.written:
            if run_id not in self.ended:
                state = self.run(self.log.state(run_id))
                assert state.terminal is not None
                known = len(self.written[run_id])
                added = self.run(self.log.page(run_id, known, 10)).records
                kinds = ["ERROR"] if known else ["AGENT_START", "ERROR"]
                assert [record.type for record in added] == kinds
                assert decode(state.terminal.body).data["error_type"] == "interrupted"
                self.written[run_id].extend(added)
                self.ended[run_id] = self.clock.now

    @invariant()
    def newest(self) -> None:
        """What is kept is the newest, within the bound; memory holds only runs that go on."""
        for run_id in self.written:
            if self.alive(run_id):
                numbers = self.kept(run_id)
                assert numbers.stop - 1 == len(self.written[run_id])
                assert len(numbers) <= 16
        assert set(self.log._live) == set(self.written) - set(self.ended)


LogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_any_sequence = LogMachine.TestCase
