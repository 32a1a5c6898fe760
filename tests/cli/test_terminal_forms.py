"""A question as prompts at a terminal: what is typed becomes an answer, or a sentence that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from twinwire.cli.forms import Form, filled, form
from twinwire_client.events import InputRequested

APPROVE = "Approve? [y]es, [n]o, [e]dit: "
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "title": "Your name", "minLength": 2},
        "branch": {"type": "string", "enum": ["main", "dev"], "description": "To merge into."},
        "news": {"type": "boolean", "default": False},
        "age": {"type": "integer", "maximum": 150},
    },
    "required": ["name", "branch"],
}

BRANCH = {"type": "string", "enum": ["main", "dev"]}
NUMBERS = {"type": "string", "enum": ["2", "1"], "default": "1"}
VECTORS = json.loads((Path(__file__).parents[1] / "vectors/schema.json").read_text())["fits"]


def approval() -> Form:
    return form(InputRequested(kind="approval"))


def question(schema: dict[str, Any] | None) -> Form:
    return form(InputRequested(kind="question", schema=schema))


def talk(asking: Form, *lines: str) -> tuple[list[str], Any]:
    """What is shown before each of these lines is typed, and the answer."""
    step = next(asking)
    shown = []
    for line in lines:
        shown.append(f"{step.problem}|{step.prompt}" if step.problem else step.prompt)
        try:
            step = asking.send(line)
        except StopIteration as done:
            return shown, done.value
    raise AssertionError(f"The form goes on with {step}.")


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        (["y"], {"decision": "approve"}),
        (["YES"], {"decision": "approve"}),
        (["no", ""], {"decision": "reject"}),
        (["n", "Too many."], {"decision": "reject", "reason": "Too many."}),
        (["e", '{"path": "b"}'], {"decision": "approve", "parameters": {"path": "b"}}),
        (["edit", "", "y"], {"decision": "approve"}),
    ],
)
def test_an_approval(lines: list[str], answer: Any) -> None:
    """A call is approved, rejected with a reason, or approved with other parameters."""
    shown, given = talk(approval(), *lines)
    assert given == answer
    assert shown[0] == APPROVE


def test_an_approval_that_is_mistyped() -> None:
    """Whatever is no answer is told in a sentence, and asked for again."""
    parameters = "Parameters as JSON (Return to go back): "
    problem = '`answer.parameters` must be an object in JSON, such as {"path": "README.md"}.'
    shown, given = talk(approval(), "", "perhaps", "e", "{", "[]", "{}")
    assert shown == [
        APPROVE,
        f"`answer` must be y, n or e.|{APPROVE}",
        f"`answer` must be y, n or e.|{APPROVE}",
        parameters,
        f"{problem}|{parameters}",
        f"{problem}|{parameters}",
    ]
    assert given == {"decision": "approve", "parameters": {}}


@pytest.mark.parametrize(
    ("schema", "prompt", "answers"),
    [
        (None, "Answer: ", {"main": "main"}),
        (BRANCH, "  1  main\n  2  dev\nAnswer (1 to 2): ", {"1": "main", "dev": "dev"}),
        (NUMBERS, "  1  2\n  2  1\nAnswer (1 to 2, Return for 1): ", {"1": "2", "": "1"}),
        ({"type": "boolean", "title": "Sure?"}, "Sure? ([y]es or [n]o): ", {"y": True, "No": False, "true": True}),
        ({"type": "boolean", "default": True}, "Answer ([y]es or [n]o, Return for yes): ", {"": True, "n": False}),
        ({"type": "integer"}, "Answer: ", {"3": 3, "-3": -3, "2.0": 2.0, "1" + 30 * "0": 10**30}),
        ({"type": "number", "default": 0.5}, "Answer (Return for 0.5): ", {".5": 0.5, "1e3": 1000.0, "": 0.5}),
    ],
)  # fmt: skip
def test_a_question(schema: dict[str, Any] | None, prompt: str, answers: dict[str, Any]) -> None:
    """An enum is numbered, a boolean yes or no, and Return is the default."""
    for line, answer in answers.items():
        assert talk(question(schema), line) == ([prompt], answer)


def test_an_object() -> None:
    """Each property is a prompt; Return leaves out what is not required, and gives the default of what has one."""
    branch = "To merge into.\n  1  main\n  2  dev\nbranch (1 to 2): "
    shown, answer = talk(question(PERSON), "", "B", "Bo", "3", "2", "", "200", "")
    assert shown == [
        "Your name: ",
        "`answer.name` is required.|Your name: ",
        "`answer.name` must be a text of 2 characters or more.|Your name: ",
        branch,
        f"`answer.branch` must be one of main, dev.|{branch}",
        "news ([y]es or [n]o, Return for no): ",
        "age (Return for none): ",
        "`answer.age` must be 150 or less.|age (Return for none): ",
    ]
    assert answer == {"name": "Bo", "branch": "dev", "news": False}


@pytest.mark.parametrize("line", ["nan", "inf", "1e999", "one", "1,5"])
def test_what_is_no_number(line: str) -> None:
    """What JSON does not take for a number is none."""
    shown, answer = talk(question({"type": "number"}), line, "1")
    assert shown[1] == "`answer` must be a number.|Answer: "
    assert answer == 1


@pytest.mark.parametrize("schema", [{"type": "array"}, {"type": "object", "properties": {}}, {"type": "text"}])
def test_a_schema_of_another_version(schema: dict[str, Any]) -> None:
    """A form that is not known here takes JSON, which the server checks."""
    shown, answer = talk(question(schema), "[", '["a"]')
    problem = '`answer` must be JSON, such as "main", 3 or {"name": "Bo"}.'
    assert (shown, answer) == (["Answer as JSON: ", f"{problem}|Answer as JSON: "], ["a"])


def typed(schema: dict[str, Any], answer: Any) -> list[str]:
    """The lines by which somebody gives this answer."""
    if schema["type"] == "object" and isinstance(answer, dict):
        return [*(typed({"type": "string"}, answer.get(name, ""))[0] for name in schema["properties"])]
    return ["yes" if answer is True else "no" if answer is False else str(answer)]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors(vector: dict[str, Any]) -> None:
    """What fits can be typed, but for an empty text. What does not fit is told with its path, if it can be typed."""
    schema = vector["schema"] or {"type": "string"}
    defaults = {name: of["default"] for name, of in schema.get("properties", {}).items() if "default" in of}
    for answer in vector["good"]:
        if answer != "":
            whole = {**defaults, **answer} if isinstance(answer, dict) else answer
            assert filled(question(vector["schema"]), typed(schema, answer)) == whole
    for bad in vector["bad"]:
        if schema["type"] == "string" and isinstance(bad["answer"], str):
            with pytest.raises(ValueError, match=rf"^`{bad['field']}` "):
                filled(question(vector["schema"]), [bad["answer"]])


@pytest.mark.parametrize(
    ("asking", "lines", "answer"),
    [
        (approval, ["no"], {"decision": "reject"}),
        (approval, ["no", "Too many."], {"decision": "reject", "reason": "Too many."}),
        (lambda: question(PERSON), ["Bo", "main", "y"], {"name": "Bo", "branch": "main", "news": True}),
        (approval, ["yes", "no"], "`answer` is complete without 'no'."),
        (approval, ["edit"], "`answer` is not complete."),
        (approval, ["perhaps"], "`answer` must be y, n or e."),
        (lambda: question(PERSON), ["Bo"], "`answer.branch` is required."),
        (lambda: question({"type": "integer"}), ["x"], "`answer` must be a whole number."),
    ],
)
def test_in_one_go(asking: Any, lines: list[str], answer: Any) -> None:
    """All lines at once are an answer, or a sentence that says why not."""
    if not isinstance(answer, str):
        assert filled(asking(), lines) == answer
        return
    with pytest.raises(ValueError, match="answer") as caught:
        filled(asking(), lines)
    assert str(caught.value) == answer
