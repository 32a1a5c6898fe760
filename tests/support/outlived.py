"""What must be true of a run that processes have died under, by its log, its model's requests and its tools' ledger."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from support.followers import check, number
from support.outside import ASK, Asked, Call, Plan
from twinwire_client.events import Event as ClientEvent
from twinwire_client.fold import Fold

Event = dict[str, Any]
INPUT = {"INPUT_REQUESTED", "INPUT_ANSWERED", "USER_MESSAGE"}
EFFECTS = {"Once": "once", "Approved": "once", "Again": "idempotent", "Look": "none"}
UNKNOWN = "The outcome of this call is unknown:"


class Step(Struct):
    """A step, as the events that count tell it; `tools_from` and `until` are numbers of events."""

    at: int
    begun: int
    text: str = ""
    started: list[str] = field(default_factory=list)
    finished: dict[str, Event] = field(default_factory=dict)
    tools_from: int | None = None
    until: int | None = None


def number_after(cuts: Sequence[int]) -> int:
    """Return a number after all of these."""
    return max(cuts, default=0) + 1


def resumptions(log: Sequence[Event]) -> list[int]:
    """Return the numbers of the events at which another process has gone on. Their epochs count up."""
    found = [event for event in log if event["type"] == "RUN_RESUMED"]
    assert [event["data"]["epoch"] for event in found] == list(range(1, len(found) + 1))
    return [number(event) for event in found]


def counted(log: Sequence[Event]) -> list[Event]:
    """Return the events that are not void."""
    kept: list[Event] = []
    for event in log:
        if event["type"] != "RUN_RESUMED":
            kept.append(event)
        elif (after := event["data"]["void_after"]) is not None:
            assert after < number(event)
            kept = [each for each in kept if number(each) <= after or each["type"] in INPUT]
    return kept


def steps(events: Sequence[Event]) -> list[Step]:
    """Return the steps of these events, each of which is begun and ended once, one after the other."""
    found: list[Step] = []
    for event in events:
        data, at = event["data"], number(event)
        match event["type"]:
            case "STEP_START":
                assert not found or found[-1].until is not None
                found.append(Step(data["step"], at))
            case "LLM_CHUNK":
                found[-1].text += data["content"]
            case "TOOL_CALL_START":
                found[-1].started.append(data["tool_call_id"])
            case "TOOL_CALL_FINISH":
                assert data["tool_call_id"] not in found[-1].finished
                found[-1].finished[data["tool_call_id"]] = event
            case "STEP_FINISH":
                assert found[-1].until is None
                found[-1].until = at
        if event["type"] in {"TOOL_CALL_START", "INPUT_REQUESTED"} and found[-1].tools_from is None:
            found[-1].tools_from = at
    assert [step.at for step in found] == list(range(1, len(found) + 1))
    return found


def verify(
    plan: Plan,
    log: Sequence[Event],
    asked: Sequence[Asked],
    ledger: Sequence[Call],
    *,
    status: str = "completed",
    said: Collection[str] = (),
) -> Counter[str]:
    """Raise unless the run has ended with this status, as if its first process had lived. Return what it went through.

    `said` are the ids of the answers and messages that were acknowledged.
    """
    check([*log])
    assert number(log[0]) == 1
    assert log[-1]["type"] == "AGENT_FINISH", log[-1]
    assert log[-1]["data"]["status"] == status
    events, cuts = counted(log), resumptions(log)
    assert [event["type"] for event in events].count("AGENT_START") == 1
    assert events[0]["type"] == "AGENT_START"
    done = steps(events)
    answers = _inputs(log, said)
    unfinished = status != "completed"
    for step in done:
        _check_step(plan, step, last=unfinished and step is done[-1])
    if not unfinished:
        assert log[-1]["data"]["result"] == done[-1].text == plan.result
        assert len(done) > len(plan.steps)
        _check_conversation(plan, log, done, answers, asked)
        _check_fold(log, done[-1].text)
    went: Counter[str] = Counter(runs=1, resumed=len(cuts))
    for step in done:
        went += _check_requests(done, step, cuts, asked)
        went += _check_effects(plan, done, step, cuts, ledger, last=unfinished and step is done[-1])
    reached = {call for step in range(1, len(done) + 1) for call in plan.calls(step)}
    assert {entry.call for entry in ledger} <= reached
    assert len({entry.key for entry in ledger}) == len({entry.call for entry in ledger})
    return went


def _inputs(log: Sequence[Event], said: Collection[str]) -> dict[str, Any]:
    """Return the answer to each question. What was said is there once, and what was acknowledged is there."""
    asked: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    heard: list[str] = []
    for event in log:
        data = event["data"]
        if event["type"] == "INPUT_REQUESTED":
            assert asked.setdefault(data["input_id"], data) == data
        elif event["type"] == "INPUT_ANSWERED":
            assert data["input_id"] not in answers
            answers[data["input_id"]] = data.get("answer")
        if event["type"] in {"INPUT_ANSWERED", "USER_MESSAGE"} and "expired" not in data:
            heard.append(data["message_id"])
    assert len(set(heard)) == len(heard)
    assert {*said} <= {*heard}
    subjects = {input_id: data.get("tool_call_id") or data["prompt"] for input_id, data in asked.items()}
    assert len({*subjects.values()}) == len(subjects)  # no question was asked under two ids
    return {subjects[input_id]: answer for input_id, answer in answers.items()}


def _check_step(plan: Plan, step: Step, *, last: bool) -> None:
    """The step is as the plan has it, or if it was the `last` of a run that was cancelled, as far as it came."""
    text = "".join(plan.words(step.at))
    calls = [call for call, tool in zip(plan.calls(step.at), plan.tools(step.at), strict=True) if tool != ASK]
    if last:
        assert text.startswith(step.text)
        assert step.started in (calls, [])
        assert {*step.finished} <= {*step.started}
    else:
        assert step.text == text
        assert step.started == calls
        assert {*step.finished} == {*calls}
        assert step.until is not None


def _check_conversation(
    plan: Plan, log: Sequence[Event], done: Sequence[Step], answers: Mapping[str, Any], asked: Sequence[Asked]
) -> None:
    """What the model was told at last is what the log has."""
    messages = max(reversed(asked), key=lambda each: each.step).messages  # of a step that was asked again, the newest
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    assert said == [step.text for step in done[:-1]]
    unread = log[-1]["metadata"].get("unread", [])
    heard = [event["data"] for event in log if event["type"] == "USER_MESSAGE"]
    users = [message["content"] for message in messages if message["role"] == "user"]
    assert users == [plan.message, *(data["content"] for data in heard if data["message_id"] not in unread)]
    results = [(message["tool_call_id"], message["content"]) for message in messages if message["role"] == "tool"]
    expected = []
    for step in done:
        for call, tool in zip(plan.calls(step.at), plan.tools(step.at), strict=True):
            if tool == ASK:
                expected.append((call, answers[f"{call}?"]))
            else:
                data = step.finished[call]["data"]
                expected.append((call, f"{'' if data['status'] == 'ok' else 'Error: '}{data['result']}"))
    assert results == expected


def _check_fold(log: Sequence[Event], text: str) -> None:
    """The client's state of the run has nothing that is void."""
    fold = Fold()
    for event in log:
        fold.apply(ClientEvent(**event))
    state = fold.state
    assert (state["text"], state["status"], state["questions"], state["tools"]) == (text, "completed", [], {})


def _check_requests(done: Sequence[Step], step: Step, cuts: Sequence[int], asked: Sequence[Asked]) -> Counter[str]:
    """The model was asked for the step once, and once more at most each time that its answer was cut off."""
    ends = step.tools_from or step.until or number_after(cuts)
    cut = sum(_begins(done, step) < at < ends for at in cuts)
    requests = [each.messages for each in asked if each.step == step.at]
    assert len(requests) <= 1 + cut, (step.at, len(requests), cut)
    requests.sort(key=len)
    for less, more in itertools.pairwise(requests):
        assert more[: len(less)] == less  # a message may have come in between
    return Counter({"cut answers": cut, "repeated requests": len(requests) - 1})


def _begins(done: Sequence[Step], step: Step) -> int:
    """Return the number of the event after which the step may begin."""
    return (done[step.at - 2].until or 0) if step.at > 1 else 0


def _check_effects(
    plan: Plan, done: Sequence[Step], step: Step, cuts: Sequence[int], ledger: Sequence[Call], *, last: bool
) -> Counter[str]:
    """Each call has had its effect, or it is unknown whether; one with effects `once` has never had it twice.

    One that has none may begin before its step's calls are in the log.
    """
    went: Counter[str] = Counter()
    for call, tool in zip(plan.calls(step.at), plan.tools(step.at), strict=True):
        if tool == ASK:
            continue
        entries = [entry for entry in ledger if entry.call == call]
        assert len({entry.key for entry in entries}) <= 1
        assert {entry.tool for entry in entries} <= {tool}
        finish = step.finished.get(call)
        ends = number(finish) if finish else number_after(cuts)
        begins = _begins(done, step) if EFFECTS[tool] == "none" else step.tools_from or ends
        cut = sum(begins < at < ends for at in cuts)
        went["cut calls"] += cut
        once = EFFECTS[tool] == "once"
        assert len(entries) <= 1 + (0 if once else cut), (call, entries, cut)
        if finish is None:
            assert last
        elif finish["data"]["status"] == "ok":
            assert len(entries) >= 1
            assert finish["data"]["result"] == f"{tool} did {call}"
        else:
            assert once
            assert finish["data"]["result"].startswith(UNKNOWN), finish
            assert cut
            went["unknown outcomes"] += 1
        went["repeated calls"] += max(0, len(entries) - 1)
    return went
