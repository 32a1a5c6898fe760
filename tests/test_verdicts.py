"""What cannot be served, over both transports: gaps, unknown runs, bad cursors; and starts that are none."""

from __future__ import annotations

import pytest

from followers import (
    KINDS,
    Refused,
    attach,
    number,
    rest,
    start,
)
from serving import Puppets, Running, serving

pytestmark = pytest.mark.parametrize("kind", KINDS)
OTHER = {"sse": "ws", "ws": "sse"}


@pytest.mark.parametrize("after", [99, 2**62])
async def test_a_future_cursor_is_a_gap(kind: str, after: int, server: Running, puppets: Puppets) -> None:
    """A cursor beyond the log is answered with what there is, never with a silent start."""
    follower = await start(kind, server)
    await puppets.next()
    with pytest.raises(Refused) as refused:
        await attach(kind, server, follower.run_id, after)
    assert refused.value.code == "gap"
    assert {"first", "last"} <= refused.value.answer.keys()
    await follower.close()


async def test_a_trimmed_cursor_is_a_gap(kind: str, puppets: Puppets) -> None:
    """A cursor before what is kept is answered with what is kept, from which one can go on."""
    async with serving({"mine": puppets}, log_events=100) as server:
        follower = await start(kind, server, on_disconnect="continue")
        puppet = await puppets.next()
        await follower.close()
        puppet.say(*(str(i) for i in range(500)))
        puppet.end()
        await puppet.closed.wait()
        with pytest.raises(Refused) as refused:
            await attach(kind, server, follower.run_id, 1)
        first, last = refused.value.answer["first"], refused.value.answer["last"]
        assert (refused.value.code, last) == ("gap", 502)
        assert 400 <= first <= 420
        seen = await rest(await attach(kind, server, follower.run_id, first - 1))
        assert number(seen[0]) == first


async def test_unknown_runs(kind: str, server: Running) -> None:
    """An unknown run and an ill-formed id get the same answer."""
    answers = []
    for run_id in ("a" * 26, "A" * 26, "x", "a" * 27):
        with pytest.raises(Refused) as refused:
            await attach(kind, server, run_id, 0)
        answers.append({**refused.value.answer, "run_id": ""})
    assert answers[0]["code"] == "run_not_found"
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("after", ["abc", "$", "+", "1_0", "१", "-1", str(2**64), "evt-x-1", "01", " 1", "", "1e3"])
async def test_bad_cursors(kind: str, after: str, server: Running, puppets: Puppets) -> None:
    """Whatever is no number and no event id is refused and names the field."""
    follower = await start(kind, server)
    await puppets.next()
    with pytest.raises(Refused) as refused:
        await attach(kind, server, follower.run_id, after)
    assert refused.value.code == "bad_request"
    assert refused.value.answer["field"] == ("last-event-id" if kind == "sse" and after.startswith("evt") else "after")
    await follower.close()


async def test_a_cursor_of_another_run(kind: str, server: Running, puppets: Puppets) -> None:
    """An event id of another run is no cursor into this one."""
    follower = await start(kind, server)
    await puppets.next()
    with pytest.raises(Refused) as refused:
        await attach(kind, server, follower.run_id, f"evt-{'a' * 26}-1")
    assert refused.value.code == "bad_request"
    await follower.close()


async def test_a_repeated_start_is_the_same_run(kind: str, server: Running, puppets: Puppets) -> None:
    """A start with a known idempotency key follows the run it started first; for another message it is refused."""
    one = await start(kind, server, "x", idempotency_key="k1", user_id="u")
    puppet = await puppets.next()
    two = await start(OTHER[kind], server, "x", idempotency_key="k1", user_id="u")
    assert one.run_id == two.run_id
    with pytest.raises(Refused) as refused:
        await start(kind, server, "y", idempotency_key="k1", user_id="u")
    assert refused.value.code == "idempotency_mismatch"
    puppet.end()
    assert await rest(one) == await rest(two)
    assert puppets.started == 1
    three = await start(kind, server, "x", idempotency_key="k1", user_id="somebody else")
    assert three.run_id != one.run_id
    await three.close()
