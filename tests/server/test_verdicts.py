"""Where one may join, over both transports: gaps, unknown runs, bad cursors, snapshots; and starts that are none."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from support.followers import KINDS, AnyFollower, Refused, WsFollower, attach, number, rest, start, text
from support.serving import Puppets, Running, serving

pytestmark = [
    pytest.mark.parametrize("kind", KINDS),
    pytest.mark.parametrize("below", ["direct", "plain"], indirect=True),
    pytest.mark.usefixtures("below"),
]
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


async def test_a_snapshot_and_its_tail(kind: str, server: Running, puppets: Puppets) -> None:
    """A late joiner gets the state so far and the events after it: together all there is, without a replay."""
    first = await start(kind, server)
    puppet = await puppets.next()
    puppet.emit("STEP_START", step=1, max_steps=3)
    puppet.emit("TOOL_CALL_START", tool_call_id="c", tool_name="Read", parameters={"path": "x"})
    puppet.say("half ", "an ")
    seen = [json.loads(await first.next() or b"") for _ in range(5)]
    late, snapshot = await join(kind, server, first.run_id)
    assert snapshot["seq"] == number(seen[-1])
    state = snapshot["state"]
    assert (state["text"], state["step"], state["status"]) == ("half an ", 1, "running")
    assert state["tools"] == {"c": {"name": "Read", "parameters": {"path": "x"}}}
    puppet.say("answer")
    puppet.end()
    tail = await rest(late)
    assert number(tail[0]) == snapshot["seq"] + 1
    assert state["text"] + text(tail) == "half an answer"
    seen += await rest(first)
    assert seen[-len(tail) :] == tail
    ended, snapshot = await join(kind, server, first.run_id)
    assert (snapshot["seq"], snapshot["state"]["result"]) == (number(seen[-1]), "half an answer")
    assert ended.ended
    await ended.close()


async def test_no_snapshot_of_an_unknown_run(kind: str, server: Running) -> None:
    """A snapshot of a run that is not there is refused as the run is."""
    with pytest.raises(Refused) as refused:
        await join(kind, server, "a" * 26)
    assert refused.value.code == "run_not_found"


async def join(kind: str, server: Running, run_id: str) -> tuple[AnyFollower, dict[str, Any]]:
    """Follow a run after a snapshot of it."""
    if kind == "ws":
        follower = WsFollower(server.ws_url)
        await follower.open({"type": "attach", "run_id": run_id, "snapshot": True})
        snapshot: dict[str, Any] = follower.opened["snapshot"]
        follower.ended = follower.opened["ended"]
        return follower, snapshot
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
        response = await client.get(f"/runs/{run_id}/snapshot")
    if response.status_code != 200:
        raise Refused(response.json())
    snapshot = response.json()
    return await attach("sse", server, run_id, snapshot["seq"]), snapshot
