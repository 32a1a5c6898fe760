"""THINKING comes in phrases: put together they are what the agent has told, in its place among all other events."""

# ruff: noqa: RUF001 - texts have quotes and full stops of several languages

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from support.followers import KINDS, AnyFollower, events, rest, start
from support.redis_server import fresh
from support.serving import Puppets, serving, until
from twinwire import RunRequest, StreamEvent
from twinwire.auth import ANYBODY
from twinwire.runs.thoughts import HOLD_SECONDS, MAX_CHARS, Held, Thought


def thinking(text: str, step: int | None = None, **extra: Any) -> StreamEvent:
    return StreamEvent("THINKING", {"content": text, **extra}, metadata={} if step is None else {"step": step})


def joined(*pieces: str) -> tuple[list[str], str]:
    """The phrases that these increments make, and what is held back after them."""
    thought, phrases = Thought(), []
    for piece in pieces:
        phrases += [phrase.data["content"] for phrase in thought.add(thinking(piece)) or []]
    return phrases, thought.text


@pytest.mark.parametrize(
    ("pieces", "phrases", "held"),
    [
        (["I", " shall", " look", "."], ["I shall look."], ""),
        (["I shall", " look. Then", " I tell"], ["I shall look. "], "Then I tell"),
        (["One. Two! Thr", "ee"], ["One. Two! "], "Three"),
        (["It is", " 3.", "14 long"], [], "It is 3.14 long"),
        (["a list:\n", "- one\n- t", "wo"], ["a list:\n", "- one\n"], "- two"),
        (["\r", "\n"], ["\r\n"], ""),
        (["a line\r", "\nand", " more"], ["a line\r\n"], "and more"),
        (["a sentence.\r", "\nand"], ["a sentence.\r\n"], "and"),
        (["a line\r", "and"], ["a line\r"], "and"),
        (['He said "go.', '" And'], ['He said "go." '], "And"),
        (['"One. Two.', '"', " Three"], ['"One. ', 'Two."'], " Three"),
        (["(a note.", ")", "And"], ["(a note.)"], "And"),
        (["“Go.", "” And"], ["“Go.” "], "And"),
        (["It’s", " ‘so.", "’ And"], ["It’s ‘so.’ "], "And"),
        (["'So.", "' And"], ["'So.' "], "And"),
        (['"So.', "And"], ['"So.'], "And"),
        (["「好。", "」然后", "说"], ["「好。」"], "然后说"),
        (["『好！", "』", "然后"], ["『好！』"], "然后"),
        (["（好。", "）然后"], ["（好。）"], "然后"),
        (["“好。", "”然后"], ["“好。”"], "然后"),
        (["「好。」然后。", "再"], ["「好。」", "然后。"], "再"),
        (["「好。", "然后"], ["「好。"], "然后"),
        (["**Done.**"], ["**Done.**"], ""),
        (["...", "."], [], "...."),
        (["我想", "看看。然后", "说"], ["我想看看。"], "然后说"),
        (["x" * (MAX_CHARS - 1), "yz", "!"], ["x" * (MAX_CHARS - 1) + "yz"], "!"),
        (["", ""], [], ""),
    ],
)
def test_phrases(pieces: list[str], phrases: list[str], held: str) -> None:
    """A phrase ends with its sentence, its line or the bound; a number's point ends none."""
    assert joined(*pieces) == (phrases, held)


def test_another_step_begins_a_phrase() -> None:
    """Increments of two steps are never one event."""
    thought = Thought()
    assert thought.add(thinking("one", 1)) == []
    [phrase] = thought.add(thinking("two", 2)) or []
    assert (phrase.data, phrase.metadata, thought.text) == ({"content": "one"}, {"step": 1}, "two")


def test_a_phrase_has_its_first_increments_time() -> None:
    """The timestamp is that of the first increment, also of what a phrase left over."""
    thought = Thought()
    times = [f"2026-02-21T10:30:4{n}.000Z" for n in range(3)]
    told = []
    for time, piece in zip(times, ["It", " is. And", " so."], strict=True):
        told += thought.add(StreamEvent("THINKING", {"content": piece}, time)) or []
    assert [phrase.timestamp for phrase in told] == times[:2]


@pytest.mark.parametrize(
    "event",
    [
        thinking("a", extra=1),
        StreamEvent("THINKING", {"content": 1}),
        StreamEvent("THINKING", {}),
        StreamEvent("THINKING", {"content": "a"}, metadata={"step": 1, "more": 2}),
        StreamEvent("THINKING", {"content": "a"}, metadata={"step": "one"}),
    ],
)
def test_what_is_no_plain_increment(event: StreamEvent) -> None:
    """An event with more than its content and a step is not joined."""
    assert Thought().add(event) is None


PIECES = st.text(st.characters(codec="utf-8") | st.sampled_from(". \n!?。\r\"')*"), max_size=12)
EVENTS = st.lists(
    st.one_of(
        st.builds(thinking, PIECES, st.sampled_from([None, 1, 2])),
        st.builds(thinking, PIECES, st.just(1), extra=st.just(True)),
        st.builds(lambda word: StreamEvent("LLM_CHUNK", {"content": word, "delta": word}), PIECES),
        st.builds(lambda step: StreamEvent("STEP_START", {"step": step}, metadata={"step": step}), st.integers(1, 3)),
        st.just(StreamEvent("MINE", {"a": [1]})),
    ),
    max_size=30,
)


def merged(told: list[tuple[str, Any, Any]]) -> list[tuple[str, Any, Any]]:
    """The same with plain increments next to each other put together."""
    together: list[tuple[str, Any, Any]] = []
    for (plain, metadata), group in groupby(
        told, lambda event: (event[0] == "THINKING" and set(event[1]) == {"content"}, event[2])
    ):
        if plain:
            if text := "".join(event[1]["content"] for event in group):
                together.append(("THINKING", {"content": text}, metadata))
        else:
            together += group
    return together


@pytest.mark.full
@settings(max_examples=40, deadline=None)
@given(EVENTS, st.lists(st.integers(0, 30), max_size=4))
async def test_any_mix(told: list[StreamEvent], pauses: list[int]) -> None:
    """Of any mix of events nothing is lost or moved: only increments that follow each other are put together."""

    async def agent(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        for number, event in enumerate(told):
            if number in pauses:
                await asyncio.sleep(0)
            yield event

    async with serving({"mine": agent}) as server:
        seen = (await rest(await start("ws", server)))[1:-1]
    said = [(event.type, event.data, event.metadata) for event in told]
    assert merged([(event["type"], event["data"], event["metadata"]) for event in seen]) == merged(said)


async def next_of(follower: AnyFollower) -> dict[str, Any]:
    async for event in events(follower):
        return event
    raise AssertionError


@pytest.mark.parametrize("kind", KINDS)
class TestServed:
    """Over either transport."""

    async def test_words_are_one_event(self, kind: str, puppets: Puppets) -> None:
        """A thought that comes word by word, and then a tool's call, is one event before that."""
        async with serving({"mine": puppets}) as server:
            follower = await start(kind, server)
            puppet = await puppets.next()
            for word in ("I ", "shall ", "look"):
                puppet.emit("THINKING", content=word)
            puppet.emit("TOOL_CALL_START", tool_call_id="c1", tool_name="Read", parameters={})
            puppet.end()
            seen = await rest(follower)
            assert [event["type"] for event in seen] == ["AGENT_START", "THINKING", "TOOL_CALL_START", "AGENT_FINISH"]
            assert seen[1]["data"] == {"content": "I shall look"}

    async def test_it_comes_in_time(self, kind: str, puppets: Puppets) -> None:
        """Half a sentence comes by itself, of several runs, and one timer serves them all."""
        async with serving({"mine": puppets}) as server:
            loop = asyncio.get_running_loop()
            followers = [await start(kind, server) for _ in range(3)]
            played = [await puppets.next() for _ in range(3)]
            for puppet in played:
                puppet.emit("THINKING", content="half a ")
                puppet.emit("THINKING", content="sentence")
            await until(lambda: len(server.runs._held) == 3)
            began, timer = loop.time(), server.runs._held._timer
            for follower in followers:
                assert (await next_of(follower))["type"] == "AGENT_START"
                assert (await next_of(follower))["data"] == {"content": "half a sentence"}
            assert loop.time() - began >= HOLD_SECONDS / 2
            assert timer is not None
            assert len(server.runs._held) == 0
            for puppet in played:
                puppet.end()
            for follower in followers:
                await rest(follower)

    @pytest.mark.parametrize("end", ["returns", "cancelled", "deadline", "shutdown", "raises", "finishes"])
    async def test_nothing_is_lost_at_the_end(self, kind: str, end: str, puppets: Puppets) -> None:
        """However a run ends, the thought that was held back is in its log before the terminal event."""
        async with serving({"mine": puppets}, run_timeout=1 if end == "deadline" else 60.0) as server:
            follower = await start(kind, server, on_disconnect="continue")
            puppet = await puppets.next()
            puppet.emit("THINKING", content="unfinished")
            await until(lambda: len(server.runs._held) == 1)
            if end == "returns":
                puppet.end()
            elif end == "raises":
                puppet.fail(RuntimeError())
            elif end == "finishes":
                puppet.emit("AGENT_FINISH", result="mine")
            elif end == "cancelled":
                await server.runs.cancel(follower.run_id, ANYBODY)
            elif end == "shutdown":
                server.runs.interrupt()
            seen = await rest(follower)
            assert [event["type"] for event in seen[:2]] == ["AGENT_START", "THINKING"]
            assert len(seen) == 3
            assert seen[1]["data"] == {"content": "unfinished"}
            assert len(server.runs._held) == 0

    @pytest.mark.parametrize("log", ["memory", "sqlite", "redis"])
    async def test_a_snapshot_has_it(self, kind: str, log: str, puppets: Puppets, tmp_path: Any) -> None:
        """A snapshot has what is held back, and who follows from it sees each increment once."""
        url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/runs.db", "redis": fresh()}[log]
        async with serving({"mine": puppets}, log=url) as server:
            follower = await start(kind, server)
            puppet = await puppets.next()
            puppet.emit("THINKING", content="so ")
            await until(lambda: len(server.runs._held) == 1)
            seq, state = await server.runs.snapshot(follower.run_id, ANYBODY)
            assert (seq, state["thinking"]) == (2, "so ")
            puppet.emit("THINKING", content="far.")
            puppet.end()
            assert [event["data"].get("content") for event in await rest(follower)] == [None, "so ", "far.", None]

    async def test_over_the_budget(self, kind: str, puppets: Puppets) -> None:
        """A thought that there is no room for ends the run with the budget's ERROR, at the latest in half a second."""
        async with serving({"mine": puppets}, run_events=1) as server:
            follower = await start(kind, server)
            (await puppets.next()).emit("THINKING", content="one too many")
            seen = await rest(follower)
            assert [event["type"] for event in seen] == ["AGENT_START", "ERROR"]
            assert seen[-1]["data"]["error_type"] == "budget"


async def test_the_timer_goes_on() -> None:
    """The timer serves who came later too, and is not there when nothing is held."""
    held, released = Held(), []
    held.add(lambda: released.append(1))
    await asyncio.sleep(0.05)
    second = lambda: released.append(2)  # noqa: E731 - its identity counts
    held.add(second)
    held.add(second)
    gone = lambda: released.append(3)  # noqa: E731
    held.add(gone)
    held.remove(gone)
    await until(lambda: len(released) == 2)
    assert released == [1, 2]
    assert held._timer is None
