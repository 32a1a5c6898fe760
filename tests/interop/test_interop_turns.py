"""Other people's clients, as published, and runs that ask: they show a question, answer it, and go on by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from support.interop_scenes import needs_node, node, playing
from support.serving import until


def parts(summary: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(part["type"], part.get("state")) for part in summary["parts"]]


@needs_node
@pytest.mark.parametrize(("version", "wire"), [("ai5", "http"), ("ai6", "http"), ("ai7", "http"), ("ai7", "ws")])
async def test_ai_sdk_asks(version: str, wire: str) -> None:
    """A page with the SDK's own rules for sending by itself approves, rejects and answers, and sends each only once.

    npm `ai` 5 does so by questions alone.
    """
    async with playing() as scene:
        seen = await node("ai_sdk_turns", scene[0].url, version, wire, scene=scene)
        await until(lambda: len(scene[0].runs) == 0)
        assert scene[1].asked == {"approve": 4, "choose": 2, "both": 1, "history": 2, "ask and wait": 1}
    knows = version != "ai5"
    waiting = seen["waiting"]
    assert (waiting["statuses"], waiting.get("error")) == (["submitted", "streaming", "ready"], None)
    [part] = waiting["open"]
    if knows:
        assert (part["state"], part["input"], part["providerExecuted"]) == ("approval-requested", {"path": "a"}, True)
        assert part["approval"].get("requestReason") == ("Delete a?" if version == "ai7" else None)
    else:
        assert (part["toolName"], part["input"]["prompt"]) == ("ask_user", "Delete a?")
    approved, rejected = seen["approved"], seen["rejected"]
    for summary in (approved, rejected):
        assert (summary["statuses"][-1], summary.get("error")) == ("ready", None)
        assert summary["metadata"]["status"] == "completed"
        assert summary["roles"] == ["user", "assistant"]
    delete = [part for part in approved["parts"] if part.get("toolName") == "delete"]
    assert [(part["state"], part["output"]) for part in delete] == [("output-available", "a is gone")]
    states = [part["state"] for part in rejected["parts"] if part.get("toolName") == "delete"]
    assert states == ["output-denied" if knows else "output-error"]
    assert (seen["question"]["input"]["schema"]["enum"], seen["question"].get("providerExecuted")) == (
        ["main", "dev"],
        None,
    )
    assert parts(seen["chosen"]) == [("dynamic-tool", "output-available"), ("step-start", None), ("text", "done")]
    assert seen["second"]["text"] == "user: choose/assistant: dev"
    assert seen["both"]["text"] == "a is gone|; main"
    assert seen["both"].get("error") is None
    assert "`messages[1].parts[0].output` must be one of main, dev." in seen["wrong"]
    assert (seen["mended"]["text"], seen["mended"].get("error")) == ("main", None)
    assert [part["toolName"] for part in seen["fresh"]["open"]] == ["delete" if knows else "ask_user"]
    assert seen["fresh"]["roles"] == ["user", "assistant"]
    for page in seen["page"]:
        assert (page["text"], page.get("error")) == ("b is gone", None)
        [delete] = [part for part in page["parts"] if part.get("toolName") == "delete"]
        assert (delete["state"], delete["output"]) == ("output-available", "b is gone")
        assert not knows or delete["input"] == {"path": "b"}
    assert seen["instead"]["roles"] == ["user", "assistant", "user", "assistant"]
    cut = seen["cut"]
    assert (cut["text"], cut.get("error"), cut["roles"]) == ("main two", None, ["user", "assistant"])
    assert parts(cut) == [("dynamic-tool", "output-available"), ("step-start", None), ("text", "done")]
    if wire == "http":
        assert seen["requests"] == 19, "each message, each answer, the stream that was resumed: none of them again"


@needs_node
@pytest.mark.parametrize(
    ("version", "query"), [("@ag-ui/client", ""), ("ag-ui-0.0.59", ""), ("ag-ui-0.0.42", "?reasoning=false")]
)
async def test_ag_ui_asks(version: str, query: str) -> None:
    """HttpAgent has the questions as pending interrupts, and answers or cancels them; one before that only ends."""
    async with playing() as scene:
        seen = await node("ag_ui_turns", scene[0].url, version, query, scene=scene)
        if "approved" not in seen:
            assert (seen["waiting"]["errors"], seen["waiting"]["types"][-1]) == ([], "RUN_FINISHED")
            return
        await until(lambda: len(scene[0].runs) == 0)
        assert scene[1].asked == {"approve": 5, "both": 1, "choose": 1, "history": 2}
    waiting = seen["waiting"]
    [interrupt] = waiting["pending"]
    assert (waiting["errors"], waiting["last"]["outcome"]["type"]) == ([], "interrupt")
    assert (interrupt["reason"], interrupt["message"]) == ("tool_call", "Delete a?")
    assert interrupt["toolCallId"] == waiting["messages"][-1]["toolCalls"][0]["id"]
    for name, result in (("approved", "b is gone"), ("rejected", "Error: rejected: keep it")):
        after = seen[name]
        assert (after["errors"], after["pending"]) == ([], [])
        assert [message["role"] for message in after["messages"]] == ["user", "assistant", "tool", "assistant"]
        assert after["messages"][2]["content"] == result
    assert seen["next"]["last"]["result"].startswith("user: approve/")
    [second] = seen["first"]["pending"]
    assert (second["reason"], second["responseSchema"]) == ("input_required", {"type": "string"})
    assert [message.get("content") for message in seen["both"]["messages"]][-2:] == ["a is gone", "; main"]
    assert "400" in seen["wrong"]["errors"][0]
    assert len(seen["wrong"]["pending"]) == 1
    assert (seen["mended"]["errors"], seen["mended"]["last"]["result"]) == ([], "main")
    assert seen["fresh"]["types"] == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
    assert len(seen["fresh"]["pending"]) == 1
    assert (seen["late"]["errors"], seen["late"]["last"]["result"]) == ([], "rejected: keep it")
    assert (seen["given"]["errors"], seen["given"]["last"]["type"]) == ([], "RUN_FINISHED")
    assert seen["given"]["last"].get("outcome") == ({"type": "cancelled"} if version == "@ag-ui/client" else None)
    assert (seen["instead"]["errors"], seen["instead"]["pending"]) == ([], [])
    assert seen["instead"]["last"]["result"].startswith("user: approve")
