"""The order of the measurements: rounds, in each every profile, in each profile all servers and transports in turn.

SSE and WebSocket are measured side by side and change places from round to round, so that what the machine does
meanwhile falls on both. What cannot be measured is noted, and the rest goes on.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import control, profiles, targets
from benchmarks.environment import calibration, environment
from benchmarks.generators import generators
from benchmarks.histogram import Histogram
from benchmarks.metrics import ABOUT
from benchmarks.profiles import Bench, Row, Sizes
from benchmarks.targets import Target, Unusable

PROFILES = {
    "first": profiles.first,
    "chat": profiles.chat,
    "many": profiles.many,
    "fanout": profiles.fanout,
    "saturate": profiles.saturate,
    "client": control.client,
    "cancel": control.cancel,
    "resume": control.resume,
    "idle": control.idle,
    "lossy": profiles.lossy,
    "tls": profiles.many,
    "slow": control.slow,
}
QUICK = tuple(name for name in PROFILES if name not in {"tls", "slow"})
OWN = {"client", "resume", "lossy", "tls", "slow"}  # only Twinwire is asked: it takes a cursor, or a server of ours
LOCAL = {"client", "lossy", "slow", "tls"}  # needs a server on this machine without TLS, or one of our own
SIDE = {"idle", "lossy", "tls", "slow"}  # fewer rounds in the quick run

UNSTEADY = 1.15  # how much longer a fixed piece of work may take from round to round


class Settings(msgspec.Struct, frozen=True):
    """What to measure."""

    profiles: tuple[str, ...] = QUICK
    rounds: int = 5
    side_rounds: int = 1
    sizes: Sizes = Sizes()
    seed: int = 1
    url: str | None = None
    agent: str | None = None
    peers: tuple[str, ...] = ()


Tell = Callable[[int, int, str], None]
"""Hears how many measurements are done, of how many, and which comes next."""


class Suite:
    """Measures into `result`, which is whole after each measurement."""

    def __init__(self, settings: Settings, tell: Tell) -> None:
        self._settings = settings
        self._tell = tell
        self._folder = Path()
        self._tls: Target | None = None
        self._failed: set[tuple[str, str]] = set()
        self._done = 0
        self.result: dict[str, Any] = {
            "version": 1,
            "environment": environment(),
            "settings": msgspec.to_builtins(settings),
            "calibration": [],
            "profiles": {name: {"about": ABOUT[name], "series": {}} for name in settings.profiles},
            "notes": [],
        }

    async def run(self) -> None:
        """All rounds. Raises `Unusable` where nothing can be measured."""
        settings = self._settings
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        descriptors(max(settings.sizes.many, settings.sizes.fanout, settings.sizes.idle) + 200)
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            found = [
                targets.at_url(settings.url, settings.agent)
                if settings.url
                else stack.enter_context(targets.ours())
            ]  # fmt: skip
            for peer in settings.peers:
                try:
                    found.append(stack.enter_context(targets.peer_of(peer)))
                except (Unusable, SystemExit) as error:
                    self.note(str(error))
            if "tls" in settings.profiles and not settings.url:
                self._tls = stack.enter_context(targets.ours_with_tls(self._folder))
            async with generators() as load:
                bench = Bench(load, settings.sizes, settings.seed)
                await self._warm(bench, found)
                total = sum(1 for number in range(settings.rounds) for _ in self._cells(number, found))
                for number in range(settings.rounds):
                    self.result["calibration"].append(calibration())
                    for cell in self._cells(number, found):
                        await self._measure(bench, *cell, total)
        self._steady()

    def _steady(self) -> None:
        taken = self.result["calibration"]
        if max(taken) > UNSTEADY * min(taken):
            change = max(taken) / min(taken) - 1
            self.note(f"the machine itself was up to {change:.0%} slower in some rounds: heed ratios, not figures")

    async def _warm(self, bench: Bench, found: list[Target]) -> None:
        """Let each server import and compile what it does at first, and find out whether its tokens have stamps."""
        short = Bench(bench.generators, Sizes(seconds=0.2, many=4), bench.seed)
        for target in [*found, *([self._tls] if self._tls else [])]:
            for transport in target.transports:
                row = await profiles.many(short, target, transport)
                if not row.values["tokens"] and target.own and self._settings.url:
                    target.stamped = False
                    row = await profiles.many(short, target, transport)
                if not row.values["tokens"]:
                    raise Unusable(f"{target.name} gives no tokens over {transport}: {'; '.join(row.warnings)}")
        if not found[0].stamped:
            self.note(
                "the server's tokens do not tell when they were due (serve benchmarks.synthetic:llm): no delivery times"
            )

    def _cells(self, number: int, found: list[Target]) -> Iterator[tuple[str, Target, str]]:
        """What is measured in a round, in order."""
        settings = self._settings
        for name in settings.profiles:
            if number >= (settings.side_rounds if name in SIDE else settings.rounds):
                continue
            cells = [
                (name, target, transport)
                for target in found
                if self._able(name, target)
                for transport in target.transports
            ]
            yield from reversed(cells) if number % 2 else cells

    def _able(self, name: str, target: Target) -> bool:
        if not target.own:
            return name not in OWN
        if target.process is not None:
            return True
        plain = target.host in {"127.0.0.1", "localhost"} and not target.tls
        return name not in LOCAL or (plain and name != "tls")

    async def _measure(self, bench: Bench, name: str, target: Target, transport: str, total: int) -> None:
        series = f"{target.name} {transport}"
        self._tell(self._done, total, f"{name}: {series}")
        self._done += 1
        if (name, series) in self._failed:
            return
        try:
            with self._server(name, target) as server:
                row = await PROFILES[name](bench, server, transport)
        except (Unusable, OSError, TimeoutError, AssertionError) as error:
            self._failed.add((name, series))
            self.note(f"{name}, {series}: not measured: {str(error) or 'no answer in time'}")
        else:
            self._keep(name, series, row)

    def _server(self, name: str, target: Target) -> AbstractContextManager[Target]:
        """The server for a profile: what a connection weighs is seen on a fresh one."""
        if name == "tls" and self._tls is not None:
            return nullcontext(self._tls)
        if name != "idle" or target.process is None:
            return nullcontext(target)
        return targets.ours() if target.own else targets.peer_of(target.name)

    def _keep(self, name: str, series: str, row: Row) -> None:
        rows = self.result["profiles"][name]["series"].setdefault(
            series, {"rounds": [], "histograms": {}, "timeline": [], "warnings": []}
        )
        figures = dict(row.values)
        for kind, histogram in row.histograms.items():
            figures |= {f"{kind}.{quantile}": value for quantile, value in histogram.summary().items()}
            whole = Histogram.from_pairs(rows["histograms"].get(kind, []))
            whole.add(histogram)
            rows["histograms"][kind] = whole.pairs()
        rows["rounds"].append({figure: float(f"{value:.5g}") for figure, value in figures.items()})
        rows["timeline"] = row.timeline or rows["timeline"]
        rows["warnings"] += [warning for warning in row.warnings if warning not in rows["warnings"]]

    def note(self, text: str) -> None:
        """Something that whoever reads the result must know."""
        self.result["notes"].append(text)


def descriptors(needed: int) -> None:
    """See to it that so many files can be open, here and in the servers. Raises `Unusable`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Unusable(f"{needed} open files are needed and {hard} are allowed: raise `ulimit -n`, or measure less")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
