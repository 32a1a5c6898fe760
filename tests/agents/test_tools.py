"""The interface of tools and their registry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.tool_files import write
from twinwire.tools import (
    AskTool,
    Effects,
    ReadTool,
    SearchTool,
    Tool,
    ToolError,
    ToolRegistry,
    ToolResult,
    call_key,
)
from twinwire.tools.base import Approval
from twinwire.tools.demo import SendTool


class Probe(Tool):
    """A tool that does what a test tells it to."""

    name = "Probe"
    description = "Does what a test needs."

    def __init__(self, answer: Any = "done", *, error: BaseException | None = None, stubborn: bool = False) -> None:
        self.answer = answer
        self.error = error
        self.stubborn = stubborn
        self.waits = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()

    async def run(self, parameters: Mapping[str, Any]) -> str:
        if self.error is not None:
            raise self.error
        if not parameters.get("wait"):
            return self.answer  # type: ignore[no-any-return]
        self.waits.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            if not self.stubborn:
                raise
            await self.release.wait()
        return "late"


async def test_registry_runs_a_tool_and_lists_it() -> None:
    """A registered tool is in the specs in OpenAI's form, and a call gives its text."""
    registry = ToolRegistry()
    registry.register_tool(Probe())
    assert [spec["function"]["name"] for spec in registry.specs] == ["Probe"]
    assert await registry.call("Probe", {}, 5) == ToolResult("done", "ok")


async def test_registry_refuses_a_second_tool_of_the_same_name() -> None:
    """A name belongs to one tool."""
    registry = ToolRegistry()
    registry.register_tool(Probe())
    with pytest.raises(ValueError, match="A tool named 'Probe' is registered already"):
        registry.register_tool(Probe())
    assert len(registry) == 1


def broken(_: Mapping[str, Any]) -> bool:
    raise RuntimeError("hunter2")


def leaving(_: Mapping[str, Any]) -> bool:
    raise SystemExit


@pytest.mark.parametrize(
    ("approval", "needed"),
    [
        (False, (False, False)),
        (True, (True, True)),
        (lambda parameters: parameters["path"] == "/", (True, False)),
        (lambda parameters: parameters.get("force"), (False, True)),
        (broken, (True, True)),
        (leaving, (True, True)),
    ],
)
def test_registry_tells_which_calls_need_approval(approval: Approval, needed: tuple[bool, bool]) -> None:
    """All, none, or those that a function names; if it raises, the user is asked."""
    registry = ToolRegistry()
    registry.register_tool(Probe(), approval=approval)
    calls: list[dict[str, Any]] = [{"path": "/"}, {"path": "a", "force": True}]
    assert tuple(registry.needs_approval("Probe", parameters) for parameters in calls) == needed
    assert not registry.needs_approval("Nope", {})


def test_registry_logs_a_function_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """A function that raises is logged once, with the tool's name."""
    registry = ToolRegistry()
    registry.register_tool(Probe(), approval=broken)
    with caplog.at_level(logging.ERROR, "twinwire.tools"):
        assert registry.needs_approval("Probe", {})
    assert [record.getMessage() for record in caplog.records] == ["The approval function of the tool Probe failed."]


async def later(_: Mapping[str, Any]) -> bool:
    return True


@pytest.mark.parametrize(("approval", "message"), [(later, "not a coroutine function"), ("yes", "True, False or a")])
def test_registry_refuses_what_cannot_decide(approval: Any, message: str) -> None:
    """An `approval` that could not decide is a TypeError, and the tool is not registered."""
    registry = ToolRegistry()
    with pytest.raises(TypeError, match=message):
        registry.register_tool(Probe(), approval=approval)
    assert len(registry) == 0


async def test_tools_of_the_demo() -> None:
    """Send sends nothing and says so; Ask is no tool outside of an agent."""
    registry = ToolRegistry()
    registry.register_tool(SendTool())
    registry.register_tool(AskTool())
    sent = await registry.call("Send", {"to": "a@example.com", "text": "Hi"}, 5)
    assert sent == ToolResult('"Hi" would have gone to a@example.com. This is a demo: nothing was sent.', "ok")
    assert (await registry.call("Send", {"to": 1, "text": "Hi"}, 5)).status == "error"
    assert await registry.call("Ask", {"question": "?"}, 5) == ToolResult("The user cannot be asked here.", "error")


async def test_unknown_tool_is_an_error_that_names_the_known_ones() -> None:
    """A model that makes up a tool is told which there are."""
    registry = ToolRegistry()
    assert (await registry.call("Nope", {}, 5)).text == "There is no tool named 'Nope'. The tools are: none."
    registry.register_tool(Probe())
    assert await registry.call("Nope", {}, 5) == ToolResult(
        "There is no tool named 'Nope'. The tools are: Probe.", "error"
    )


@pytest.mark.parametrize(
    "probe",
    [
        {"error": RuntimeError("password=hunter2")},
        {"error": TimeoutError("hunter2")},
        {"error": asyncio.CancelledError("hunter2")},
        {"answer": {"hunter2": 1}},
    ],
    ids=["exception", "its own timeout", "cancelled itself", "no text"],
)
async def test_tool_that_breaks_is_an_error_without_its_text(
    probe: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """What a tool raises is logged here and told to nobody."""
    registry = ToolRegistry()
    registry.register_tool(Probe(**probe))
    with caplog.at_level(logging.ERROR, "twinwire.tools"):
        assert await registry.call("Probe", {}, 5) == ToolResult("The tool Probe failed.", "error")
    assert caplog.records[0].exc_info


async def test_tool_error_is_told_in_its_words() -> None:
    """A ToolError's text is the result."""
    registry = ToolRegistry()
    registry.register_tool(Probe(error=ToolError("no such page")))
    assert await registry.call("Probe", {}, 5) == ToolResult("no such page", "error")


@pytest.mark.parametrize("stubborn", [False, True])
async def test_late_tool_is_an_error_that_names_the_limit(stubborn: bool) -> None:
    """A tool that is late is cancelled, and one that will not stop is not waited for."""
    registry, probe = ToolRegistry(), Probe(stubborn=stubborn)
    registry.register_tool(probe)
    assert await registry.call("Probe", {"wait": True}, 0.02) == ToolResult(
        "The tool Probe did not finish in 0.02 s.", "error"
    )
    await probe.cancelled.wait()
    probe.release.set()


async def test_cancellation_passes_through_to_the_tool() -> None:
    """Cancelling a call raises CancelledError from it and cancels its tool."""
    registry, probe = ToolRegistry(), Probe()
    registry.register_tool(probe)
    call = asyncio.create_task(registry.call("Probe", {"wait": True}, 30))
    await probe.waits.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await probe.cancelled.wait()


@pytest.mark.parametrize("text", ['{"a":', "nonsense", "[1]", "null", "[" * 100_000, '"a"'])
def test_bad_arguments_text_is_a_tool_error(text: str) -> None:
    """Arguments that are no JSON object are a ToolError, whatever the model wrote."""
    with pytest.raises(ToolError, match="The call's arguments must be"):
        ToolRegistry.parse_arguments(text)


def test_arguments_text_is_parsed() -> None:
    """An empty text is a call without parameters."""
    assert ToolRegistry.parse_arguments("") == {}
    assert ToolRegistry.parse_arguments('{"path": "a"}') == {"path": "a"}


@pytest.mark.parametrize("tool", [ReadTool, SearchTool])
def test_root_that_is_no_folder_is_a_value_error(tmp_path: Path, tool: type[ReadTool | SearchTool]) -> None:
    """A tool is not made for a root that is missing or a file."""
    write(tmp_path, {"file": ""})
    for root in ("file", "missing"):
        with pytest.raises(ValueError, match="must be a folder"):
            tool(tmp_path / root)


def test_tools_are_made_as_in_the_guide() -> None:
    """The guide's constructors work, and tell a model of every parameter."""
    registry = ToolRegistry()
    registry.register_tool(ReadTool(project_root="./"))
    registry.register_tool(SearchTool())
    read, search = registry.specs
    assert read["function"]["parameters"]["required"] == ["path"]
    assert set(search["function"]["parameters"]["properties"]) == {"pattern", "regex", "glob"}


@pytest.mark.parametrize("effects", ["none", "idempotent", "once"])
def test_registry_knows_the_effects_of_a_tool(effects: Effects) -> None:
    """A tool's effects are those that it declares; of one that is not registered they may be anything."""
    registry, probe = ToolRegistry(), Probe()
    assert registry.effects("Probe") == probe.effects == "once"
    probe.effects = effects
    registry.register_tool(probe)
    assert registry.effects("Probe") == effects


@pytest.mark.parametrize("effects", ["twice", "", None, True])
def test_registry_refuses_unknown_effects(effects: Any) -> None:
    """Effects that are none of the three are a ValueError, and the tool is not registered."""
    registry, probe = ToolRegistry(), Probe()
    probe.effects = effects
    with pytest.raises(ValueError, match="The `effects` of the tool 'Probe' must be `none`, `idempotent` or `once`"):
        registry.register_tool(probe)
    assert len(registry) == 0


def test_tools_that_read_have_no_effects() -> None:
    """The tools that come with Twinwire have no effects, but for the demo's, which plays at having some."""
    tools = [ReadTool("."), SearchTool("."), AskTool(), SendTool()]
    assert [tool.effects for tool in tools] == ["none", "none", "none", "once"]


class Keyed(Tool):
    """Returns the key of its call, as a thread sees it."""

    name = "Keyed"
    description = "Returns its key."
    effects = "idempotent"

    async def run(self, parameters: Mapping[str, Any]) -> str:  # noqa: ARG002 - the interface's
        return await asyncio.to_thread(call_key)


async def test_a_call_has_a_key() -> None:
    """A tool has the key that its caller gives, else a new one for each call; outside of a tool there is none."""
    registry = ToolRegistry()
    registry.register_tool(Keyed())
    assert (await registry.call("Keyed", {}, 5, key="k1")).text == "k1"
    given = {(await registry.call("Keyed", {}, 5)).text for _ in range(3)}
    assert (len(given), {len(key) for key in given}) == (3, {32})
    with pytest.raises(LookupError, match="within the `run` of a tool"):
        call_key()
