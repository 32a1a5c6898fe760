"""A question as prompts at a terminal: typed lines in, the answer out. Pure; `dialogue` shows the prompts."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from twinwire.protocol.errors import BadRequest
from twinwire.protocol.schema import check_answer, check_schema


class Step(NamedTuple):
    """The next prompt of a form, and what was wrong with the line before, if anything was."""

    prompt: str
    problem: str = ""


Form = Generator[Step, str, Any]
"""Yields a prompt, is sent the line that was typed, and so on; returns the answer."""

APPROVE = "Approve? [y]es, [n]o, [e]dit: "
_TEXT: Mapping[str, Any] = {"type": "string"}
_WORDS = {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}


class Asked(Protocol):
    """The parts of a question that its form is made of."""

    @property
    def kind(self) -> str:
        """`approval` or `question`."""
        ...

    @property
    def schema(self) -> dict[str, Any] | None:
        """The form of the answer; None is any text."""
        ...


def form(question: Asked) -> Form:
    """Return the form of a question; of one whose schema is not known here, a prompt for JSON."""
    if question.kind == "approval":
        return _approval()
    schema = _TEXT if question.schema is None else question.schema
    try:
        check_schema(schema)
    except ValueError:
        return _any_json()
    return _object(schema) if schema["type"] == "object" else _value(schema)


def filled(form: Form, lines: Sequence[str]) -> Any:
    """Return the answer if these lines are typed, and then Return. Raise `ValueError` if that is no answer."""
    next(form)
    for number, line in enumerate([*lines, ""]):
        try:
            problem = form.send(line.strip()).problem
        except StopIteration as done:
            if number + 1 < len(lines):
                raise ValueError(f"`answer` is complete without {lines[number + 1]!r}.") from None
            return done.value
        if problem:
            raise ValueError(problem)
    raise ValueError("`answer` is not complete.")


def _approval() -> Form:
    problem = ""
    while True:
        match (yield Step(APPROVE, problem)).lower():
            case "y" | "yes":
                return {"decision": "approve"}
            case "n" | "no":
                reason = yield Step("Why not? (Return for no reason) ")
                return {"decision": "reject"} | ({"reason": reason} if reason else {})
            case "e" | "edit":
                problem = ""
                if (parameters := (yield from _parameters())) is not None:
                    return {"decision": "approve", "parameters": parameters}
            case _:
                problem = "`answer` must be y, n or e."


def _parameters() -> Generator[Step, str, dict[str, Any] | None]:
    problem = ""
    while line := (yield Step("Parameters as JSON (Return to go back): ", problem)):
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            problem = '`answer.parameters` must be an object in JSON, such as {"path": "README.md"}.'
    return None


def _any_json() -> Form:
    problem = ""
    while True:
        line = yield Step("Answer as JSON: ", problem)
        try:
            return msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError):
            problem = '`answer` must be JSON, such as "main", 3 or {"name": "Bo"}.'


def _object(schema: Mapping[str, Any]) -> Form:
    answer: dict[str, Any] = {}
    for name, of in schema["properties"].items():
        value = yield from _value(of, name, optional=name not in schema.get("required", ()))
        if value is not None:
            answer[name] = value
    return answer


def _value(schema: Mapping[str, Any], name: str | None = None, *, optional: bool = False) -> Form:
    """Ask for one value, or an object's property of that name. Return is its default, or None if it is `optional`."""
    of = schema if name is None else {"type": "object", "properties": {name: schema}, "required": [name]}
    options: list[str] = schema.get("enum", [])
    told = schema.get("description", "")
    prompt = (f"{told}\n" if told else "") + "".join(f"  {n}  {option}\n" for n, option in enumerate(options, 1))
    prompt += f"{schema.get('title') or name or 'Answer'}{_hint(schema, optional=optional)}: "
    problem = ""
    while True:
        line = yield Step(prompt, problem)
        if not line and "default" in schema:
            return schema["default"]
        if not line and optional:
            return None
        value = _read(schema, line)
        try:
            if not line:
                raise BadRequest(f"`answer{'' if name is None else f'.{name}'}` is required.")
            check_answer(of, value if name is None else {name: value})
        except BadRequest as error:
            problem = str(error)
        else:
            return value


def _hint(schema: Mapping[str, Any], *, optional: bool) -> str:
    words = []
    if "enum" in schema:
        words.append(f"1 to {len(schema['enum'])}")
    if schema["type"] == "boolean":
        words.append("[y]es or [n]o")
    if "default" in schema:
        words.append(f"Return for {_written(schema['default'])}")
    elif optional:
        words.append("Return for none")
    return f" ({', '.join(words)})" if words else ""


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _read(schema: Mapping[str, Any], line: str) -> Any:
    """Return the value that was typed, or the line itself if it is none."""
    match schema["type"]:
        case "boolean":
            return _WORDS.get(line.lower(), line)
        case "number" | "integer":
            return _number(line)
    options: list[str] = schema.get("enum", [])
    if line.isdecimal() and line.isascii() and 1 <= int(line[:9]) <= len(options):
        return options[int(line[:9]) - 1]
    return line


def _number(line: str) -> Any:
    for read in (int, float):
        try:
            number = read(line)
        except ValueError:
            continue
        return line if isinstance(number, float) and not math.isfinite(number) else number
    return line
