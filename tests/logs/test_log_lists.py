"""Lists of runs: which runs, in which order, page by page; on each log of `logs`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from support.logs import FACTORIES, LogFactory, append, at, kept, listed, opened, records
from twinwire.log import Store, Wanted
from twinwire.protocol.events import StreamEvent, encode

ALICE = Wanted(user_id="alice")
HOMES = {
    "twinwire.log.memory": "twinwire.log.order",
    "twinwire.log.sqlite.log": "twinwire.log.sqlite.reader",
    "twinwire.log.redis.log": "twinwire.log.redis.lists",
}
"""The modules that look at a log's runs."""


@pytest.fixture(params=FACTORIES, ids=lambda factory: factory.__name__)
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    factory: LogFactory = request.param
    async with opened(factory(tmp_path)) as log:
        yield log


async def test_the_newest_first(log: Store) -> None:
    """A user's runs are listed by when they were created, whatever the order of their starts, and nobody else's."""
    runs = {second: await kept(log, second, end=bool(second % 2)) for second in (3, 1, 5, 2, 4)}
    await kept(log, 3, user_id="bob")
    await kept(log, 3, user_id=None)
    assert await listed(log, ALICE) == [[runs[second] for second in (5, 4, 3, 2, 1)]]
    assert await listed(log, Wanted(user_id="carol")) == [[]]


async def test_everybody_s_runs(log: Store) -> None:
    """Without a user the list has the runs of all, and those of nobody."""
    runs = [await kept(log, second, user_id=user) for second, user in enumerate(("alice", None, "bob", "null"))]
    assert await listed(log, Wanted()) == [runs[::-1]]
    assert await listed(log, Wanted(user_id="null")) == [[runs[3]]]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_pages(limit: int, log: Store) -> None:
    """Pages are as long as asked for, and together they are the list, also of runs created in one moment."""
    runs = [await kept(log, second // 3) for second in range(7)]
    pages = await listed(log, ALICE, limit)
    assert [len(page) for page in pages if page] == [limit] * (7 // limit) + [7 % limit] * bool(7 % limit)
    assert [*chain(*pages)] == sorted(runs, key=lambda run_id: (runs.index(run_id) // 3, run_id), reverse=True)


async def test_a_page_goes_on_where_the_last_one_ended(log: Store) -> None:
    """What is started or forgotten between two pages puts no run into both, and leaves none out."""
    runs = [await kept(log, second) for second in range(4)]
    first = await log.listed(ALICE, 2)
    await kept(log, 9)
    await log.delete(runs[2])
    second = await log.listed(ALICE, 2, first.next)
    assert ([*first.run_ids], [*second.run_ids]) == ([runs[3], runs[2]], [runs[1], runs[0]])


@pytest.mark.parametrize(
    ("filters", "seconds"),
    [
        ({}, [7, 6, 5, 4, 3, 2, 1, 0]),
        ({"agent": "writer"}, [7, 5, 3, 1]),
        ({"agent": "nobody"}, []),
        ({"labels": ["team:red"]}, [6, 4, 2, 0]),
        ({"labels": ["team:red", "tier:1"]}, [6, 2]),
        ({"labels": ["team:re"]}, []),
        ({"labels": ["url:http://x"]}, [4]),
        ({"status": "running"}, [7, 3]),
        ({"status": "completed"}, [6, 5, 2, 1]),
        ({"status": "error"}, [4, 0]),
        ({"created_after": at(5)}, [7, 6, 5]),
        ({"created_before": at(2)}, [1, 0]),
        ({"created_after": at(2), "created_before": at(5), "agent": "react"}, [4, 2]),
        ({"created_after": at(5), "created_before": at(2)}, []),
    ],
)
@pytest.mark.parametrize("user_id", ["alice", None])
async def test_filters(filters: dict[str, Any], seconds: list[int], user_id: str | None, log: Store) -> None:
    """A list has the runs of an agent, a status, all labels and a time, of one user or of everybody, page by page."""
    runs = []
    for second in range(8):
        metadata = {"tier": str(second // 2 % 2)} | ({} if second % 2 else {"team": "red"})
        metadata |= {"url": "http://x"} if second == 4 else {}
        agent = "writer" if second % 2 else "react"
        run_id = await kept(log, second, end=False, agent=agent, metadata=metadata)
        if second % 4 != 3:
            kind, data = ("ERROR", {"error_type": "budget"}) if second % 4 == 0 else ("AGENT_FINISH", {})
            data = {"status": "completed", **data} if kind == "AGENT_FINISH" else data
            await append(log, run_id, 2, [encode(StreamEvent(kind, data), run_id, 3)])
        runs.append(run_id)
    wanted = Wanted(user_id=user_id, **filters)
    for limit in (100, 2):
        assert [*chain(*await listed(log, wanted, limit))] == [runs[second] for second in seconds]


async def test_a_page_looks_at_a_bounded_number_of_runs(log: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page looks at some runs only: of many that are not wanted it has none, and still says where to go on."""
    if (home := HOMES.get(type(log).__module__)) is None:
        pytest.skip("This log is not one of ours.")
    monkeypatch.setattr(f"{home}.SCANNED", 4)
    runs = [await kept(log, second, metadata={"odd": "yes"} if second == 1 else {}) for second in range(12)]
    pages = await listed(log, Wanted(user_id="alice", labels=["odd:yes"]))
    assert pages[:3] == [[], [], [runs[1]]]
    assert not any(pages[3:])
    assert [len(page) for page in await listed(log, ALICE) if page] == [4, 4, 4]


async def test_a_forgotten_run_is_in_no_list(log: Store) -> None:
    """Of many runs those that were deleted are not listed, whether many or few of them are left."""
    runs = [await kept(log, second) for second in range(10)]
    for number, run_id in enumerate(runs):
        await log.delete(run_id)
        for wanted in (ALICE, Wanted()):
            assert [*chain(*await listed(log, wanted, 3))] == runs[:number:-1]


async def test_a_status_is_that_of_the_last_event(log: Store) -> None:
    """A run is listed as running until its terminal event is there."""
    run_id = await kept(log, 1, end=False)
    assert await listed(log, Wanted(user_id="alice", status="running")) == [[run_id]]
    await append(log, run_id, 2, records(run_id, 2, 1, end=True))
    assert await listed(log, Wanted(user_id="alice", status="running")) == [[]]
