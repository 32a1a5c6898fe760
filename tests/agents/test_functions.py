"""Functions as tools: their schema, what they are given, their results and errors, and their threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from support.followers import KINDS, rest, start
from support.scripted import CALLS, STOP, Scripted, call
from support.serving import serving, until
from twinwire import Progress, ReActAgent, RunRequest, ToolError, ToolRegistry, call_request, tool
from twinwire.agents import functions
from twinwire.tools.base import Tool, ToolResult


@dataclass
class Place:
    """Somewhere on the map."""

    city: str
    zip: int = 0


def travel(
    to: Place,
    days: Annotated[int, Meta(ge=1, description="How long")],
    by: Literal["train", "plane"] = "train",
    notes: list[str] | None = None,
) -> str:
    """Book a journey.

    It costs something.
    """
    return f"{to.city} {to.zip}, {days} days by {by}, {notes}"


async def called(function: Any, **parameters: Any) -> ToolResult:
    """Call this as an agent does, outside of a run."""
    tools = functions.registry_of([function])
    (made,) = tools
    return await tools.call(made.name, parameters, 5)


def test_the_schema() -> None:
    """A model is told of the types, which parameters it must give, and the docstring."""
    spec = tool(travel).spec["function"]
    assert (spec["name"], spec["description"]) == ("travel", "Book a journey.\n\nIt costs something.")
    parameters = spec["parameters"]
    assert parameters["type"] == "object"
    assert parameters["required"] == ["to", "days"]
    assert parameters["additionalProperties"] is False
    assert list(parameters["properties"]) == ["to", "days", "by", "notes"]
    assert parameters["properties"]["days"] == {"type": "integer", "minimum": 1, "description": "How long"}
    assert parameters["properties"]["by"] == {"enum": ["plane", "train"]}
    assert parameters["properties"]["to"] == {"$ref": "#/$defs/Place"}
    assert parameters["$defs"]["Place"]["required"] == ["city"]


def test_a_function_without_parameters() -> None:
    """Its schema is an object without any, which all servers take."""

    def now() -> str:
        return "now"

    assert tool(now).parameters == {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


async def test_what_it_is_given() -> None:
    """The function is given its types, and its own defaults for what the model leaves out."""
    given = {"to": {"city": "Rome"}, "days": 2}
    assert await called(travel, **given) == ToolResult("Rome 0, 2 days by train, None", "ok")
    given |= {"by": "plane", "notes": ["aisle"]}
    assert await called(travel, **given) == ToolResult("Rome 0, 2 days by plane, ['aisle']", "ok")


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"days": 2}, "`to`"),
        ({"to": {"city": 7}, "days": 2}, "$.to.city"),
        ({"to": {"city": "Rome"}, "days": 0}, "$.days"),
        ({"to": {"city": "Rome"}, "days": 1, "by": "foot"}, "$.by"),
        ({"to": {"city": "Rome"}, "days": 1, "food": "all"}, "`food`"),
    ],
)
async def test_parameters_that_do_not_fit(parameters: dict[str, Any], named: str) -> None:
    """The model is told which parameter is wrong, and the function is not called."""
    result = await called(travel, **parameters)
    assert result.status == "error"
    assert result.text.startswith("The parameters are not valid: ")
    assert named in result.text


async def test_results() -> None:
    """A text is the result as it is; anything else is JSON; what is none is a failure."""

    async def give(what: str) -> Any:
        return {"text": "hi", "list": [1, None], "place": Place("Rome"), "nothing": None, "none": object()}[what]

    told = {what: (await called(give, what=what)).text for what in ("text", "list", "place", "nothing")}
    assert told == {"text": "hi", "list": "[1,null]", "place": '{"city":"Rome","zip":0}', "nothing": "null"}
    assert await called(give, what="none") == ToolResult("The tool give failed.", "error")


@pytest.mark.parametrize("error", [ToolError("No luck."), ValueError("secret"), StopIteration(), SystemExit()])
@pytest.mark.parametrize("blocking", [True, False])
async def test_errors(error: BaseException, blocking: bool) -> None:
    """A `ToolError` is told in its own words, and any other is a failure that tells nothing."""

    def plain() -> str:
        raise error

    async def coroutine() -> str:
        raise error

    function: Any = plain if blocking else coroutine
    told = "No luck." if isinstance(error, ToolError) else f"The tool {function.__name__} failed."
    assert await called(function) == ToolResult(told, "error")


def _no_hint(a) -> str:  # type: ignore[no-untyped-def]
    return str(a)


def _any_number(*numbers: int) -> str:
    return str(numbers)


def _by_position(a: int, /) -> str:
    return str(a)


def _no_type(a: threading.Thread) -> str:
    return str(a)


def _unknown(a: Nowhere) -> str:  # type: ignore[name-defined]  # noqa: F821
    return str(a)


async def _yields(a: int) -> AsyncIterator[str]:
    yield str(a)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (_no_hint, "The parameter `a` of the tool _no_hint must have a type hint."),
        (_any_number, "The parameter `numbers` of the tool _any_number must be one that is given by its name."),
        (_by_position, "The parameter `a` of the tool _by_position must be one that is given by its name."),
        (_no_type, "The parameters of the tool _no_type must have types that msgspec knows: "),
        (_unknown, "The type hints of the tool _unknown must be names of its module: name 'Nowhere' is not defined."),
        (_yields, "The tool _yields must return its result."),
        (Place, "A tool must be a function, not <class "),
        (7, "A tool must be a function, not 7."),
    ],
)
def test_what_is_no_tool(function: Any, named: str) -> None:
    """A function that cannot be a tool is refused when it is made, in a sentence that names the parameter."""
    for make in (tool, lambda found: ReActAgent("a", Scripted([STOP]), [found])):
        with pytest.raises(TypeError) as caught:
            make(function)
        assert str(caught.value).startswith(named)


def test_a_registry_takes_tools() -> None:
    """A registry refuses a bare function, and says what makes a tool of it."""
    with pytest.raises(TypeError, match=r"must be a `Tool`, not <function travel .*`twinwire.tool` makes one"):
        ToolRegistry().register_tool(travel)  # type: ignore[arg-type]


def test_what_is_said_of_it() -> None:
    """Its name, description, effects and approval are what `tool` is told, and the function is as it was."""

    @tool(name="book", description="Books.", effects="idempotent", approval=True)
    def booked(to: str) -> str:
        return f"to {to}"

    assert (booked.name, booked.description, booked.effects) == ("book", "Books.", "idempotent")
    assert functions.registry_of([booked]).needs_approval("book", {})
    assert booked("Rome") == booked(to="Rome") == "to Rome"
    with pytest.raises(ValueError, match="`effects` of the tool 'travel'"):
        functions.registry_of([tool(travel, effects="many")])  # type: ignore[call-overload]


class _Whose(Tool):
    name = "whose"
    description = "Tells whose run it is."

    async def run(self, parameters: Any) -> str:  # noqa: ARG002 - the interface
        return call_request().message


@pytest.mark.parametrize("kind", KINDS)
async def test_the_run_that_calls(kind: str) -> None:
    """A tool knows the request of its run, and emits into it; a thread knows it too."""

    async def emits(word: str, run: RunRequest) -> str:
        run.emit(Progress(step=1, total=5))
        return f"{run.message} {word}"

    def blocking(run: RunRequest, word: str) -> str:
        return f"{run.message} {word} {call_request() is run}"

    asked: list[Any] = [call(1, "emits", '{"word": "a"}'), call(2, "blocking", '{"word": "b"}'), call(3, "whose", "{}")]
    model = Scripted([asked, CALLS], [STOP])
    agent = ReActAgent("a", model, [emits, blocking, _Whose()])
    assert "run" not in str(agent.tools.specs[0]["function"]["parameters"])
    async with serving({"a": agent}) as server:
        seen = await rest(await start(kind, server, "mine"))
    results = {
        event["data"]["tool_name"]: event["data"]["result"]
        for event in seen
        if "result" in event["data"] and "tool_name" in event["data"]
    }
    assert results == {"emits": "mine a", "blocking": "mine b True", "whose": "mine"}
    assert 20 in [event["data"]["progress"] for event in seen if event["type"] == "PROGRESS"]


async def test_outside_of_a_run() -> None:
    """There is no request where no agent calls."""
    with pytest.raises(LookupError, match="`call_request` must be called within a tool"):
        call_request()


async def test_a_thread_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late call is given up and keeps its thread; others wait for a place, and go on when there is one."""
    monkeypatch.setattr(functions, "THREADS", 1)
    free, entered = threading.Event(), threading.Event()

    @tool
    def wait(long: bool) -> str:
        if long:
            entered.set()
            free.wait(30)
        return threading.current_thread().name

    tools = functions.registry_of([wait])
    late = await tools.call("wait", {"long": True}, 0.1)
    assert late == ToolResult("The tool wait did not finish in 0.1 s.", "error")
    assert entered.is_set()
    waiting = asyncio.create_task(tools.call("wait", {"long": False}, 20))
    assert await tools.call("wait", {"long": False}, 0.1) == ToolResult(
        "The tool wait did not finish in 0.1 s.", "error"
    )
    assert not waiting.done()
    free.set()
    assert await waiting == ToolResult("tool wait", "ok")
    await until(lambda: not [each for each in threading.enumerate() if each.name == "tool wait"])


async def test_a_loop_that_is_gone() -> None:
    """A thread that ends after its event loop leaves no error."""
    free = threading.Event()
    failed: list[Any] = []

    def wait() -> str:
        free.wait(30)
        return ""

    async def late() -> None:
        assert (await functions.registry_of([wait]).call("wait", {}, 0.1)).status == "error"

    def work() -> None:
        asyncio.run(late())

    hook: Callable[[Any], Any] = failed.append
    before, threading.excepthook = threading.excepthook, hook
    try:
        await asyncio.to_thread(work)
        free.set()
        await until(lambda: not [each for each in threading.enumerate() if each.name == "tool wait"])
    finally:
        threading.excepthook = before
    assert failed == []
