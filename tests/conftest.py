"""Fixtures for all tests; the event loop is the one the server runs on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from zlib import crc32

import pytest
import uvloop

from support.node import needed
from support.packed import pack
from support.serving import Puppets, Running, plain, serving

# The browser's driver is in a dependency group of its own; CI has it, or fails in e2e/conftest.py.
BROWSER = find_spec("playwright") is not None or "CI" in os.environ
collect_ignore = [] if BROWSER else ["e2e"]

# A shell starts what it puts into the background with SIGINT ignored, `nohup` with SIGHUP, and programs keep that: for
# the programs that the tests start both are to be what they are for a user.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _skip_nothing(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Under CI, turn a skip into a failure: there everything that the tests need is installed."""
    if report.skipped and "CI" in os.environ and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"Nothing may be skipped if CI is set. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _skip_nothing(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _skip_nothing(report)
    return report


LONG_SECONDS = 600
"""The timeout of a test that is marked `full` and names none: one that is over ends the whole process."""


WHOLE = ("tests/house/", "tests/suites/", *(Path(__file__).parent / "core.txt").read_text().split())
"""Of these each commit makes all variants, unless they are `--sampled`; of all others every third."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sampled", action="store_true", help="make every third variant of each test")


def _sample(items: list[pytest.Item], whole: tuple[str, ...]) -> None:
    """Mark two thirds of each test's variants `full`, except in these modules; which, depends on its name alone."""
    variants: dict[str, list[pytest.Item]] = {}
    for item in items:
        if not item.nodeid.startswith(whole):
            variants.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for name, found in variants.items():
        chosen = crc32(name.encode()) % min(3, len(found))
        for number, item in enumerate(found):
            if number % 3 != chosen:
                item.add_marker("full")


@pytest.hookimpl(tryfirst=True)  # before those of `-m` are taken out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _sample(items, () if config.getoption("--sampled") else WHOLE)
    for item in items:
        if item.get_closest_marker("full") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_SECONDS))


def pytest_report_header() -> list[str]:
    return [] if BROWSER else ["e2e: left out, the browser's driver is missing (uv sync --group browser)"]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def below(request: pytest.FixtureRequest) -> Iterator[None]:
    """What is below the app: our server's protocols (`direct`), or plain ASGI."""
    token = plain.set(request.param == "plain")
    yield
    plain.reset(token)


@pytest.fixture
def puppets() -> Puppets:
    return Puppets()


@pytest.fixture
async def server(puppets: Puppets) -> AsyncIterator[Running]:
    """A server whose only agent, `mine`, is played by the test through `puppets`."""
    async with serving({"mine": puppets}) as running:
        yield running


@pytest.fixture(scope="session")
def npm_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JS client as `npm pack` packs it."""
    needed()
    return pack(tmp_path_factory.mktemp("packed"))
