"""How long a log waits for followers that have yet to read what it is to trim: the rules, without a clock or a log."""

from __future__ import annotations

from twinwire.log.backpressure import NOBODY, STALL_SECONDS, TICK_SECONDS, WAIT_SECONDS, Backpressure

STALL = round(STALL_SECONDS / TICK_SECONDS)
WAIT = round(WAIT_SECONDS / TICK_SECONDS)


def waiting(due: int) -> Backpressure:
    """Return the backpressure of a run that is to be trimmed up to this number."""
    backpressure = Backpressure()
    backpressure.due = due
    return backpressure


def test_nobody_is_waited_for_if_nobody_follows() -> None:
    """Without a follower there is no lowest cursor."""
    assert waiting(10).slowest({}) == NOBODY


def test_who_reads_nothing_is_waited_for_a_second() -> None:
    """A follower that reads nothing counts until the stall's ticks are over, and again once it has read."""
    backpressure = waiting(100)
    for tick in range(STALL + 1):
        assert backpressure.slowest({"stalled": 5, "reads": 40 + tick}) == 5
        backpressure.tick({"stalled": 5, "reads": 40 + tick})
    assert backpressure.slowest({"stalled": 5, "reads": 80}) == 80
    backpressure.tick({"stalled": 6, "reads": 80})
    assert backpressure.slowest({"stalled": 6, "reads": 80}) == 6


def test_who_reads_is_waited_for_without_end() -> None:
    """A follower that reads between any two ticks costs nothing of the time that the run may wait."""
    backpressure = waiting(10 * WAIT)
    for cursor in range(5 * WAIT):
        backpressure.tick({"reads": cursor})
    assert backpressure.waits
    assert backpressure.slowest({"reads": 5 * WAIT}) == 5 * WAIT


def test_a_run_waits_in_all_for_a_bounded_time() -> None:
    """A follower that reads now and then, before it counts as stalled, holds the run up until its time is over."""
    backpressure = waiting(10 * WAIT)
    ticks = 0
    while backpressure.waits:
        backpressure.tick({"slow": ticks // 10})
        ticks += 1
        assert ticks < 2 * WAIT
    assert ticks >= WAIT
    assert backpressure.slowest({"slow": ticks // 10}) == NOBODY
    backpressure.end()
    backpressure.due = 20 * WAIT
    assert backpressure.slowest({"another": 0}) == NOBODY


def test_who_has_read_enough_does_not_stall() -> None:
    """A follower that has read all there is may be quiet for long; once there is more, it is waited for again."""
    backpressure = waiting(10)
    for cursor in range(2 * STALL):
        backpressure.tick({"done": 50, "reads": cursor - 2 * STALL})
    backpressure.due = 100
    assert backpressure.slowest({"done": 50, "reads": 60}) == 50


def test_who_has_lost_events_is_waited_for_no_longer() -> None:
    """Once the run is trimmed, a follower from before that counts no more, though its connection is open."""
    backpressure = waiting(10)
    assert backpressure.end() == 10
    backpressure.due = 20
    assert backpressure.slowest({"lost": 9, "reads": 10}) == 10
