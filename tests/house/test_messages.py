"""Every message of an error and of a log line is a sentence: a capital letter or a name, a verb and a full stop."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import twinwire
import twinwire_client

ROOTS = {"TwinwireError", "ToolError", "Broken"}
DEVELOPERS = {"AttributeError", "OSError", "RuntimeError", "TypeError", "ValueError"}
LEVELS = {"debug": 0, "info": 0, "warning": 0, "error": 0, "exception": 0, "critical": 0, "log": 1}
LINES = {"Fence": 1, "report": 2, "tell": 1, "_tell": 0}  # which argument is a line for the log
VERBS = re.compile(  # what may be filled in after a name may be a verb
    r"\b(is|are|was|were|has|have|had|must|may|can|cannot|could|do|does|did|requires?|allows|names|takes|sent|failed"
    r"|reads|answered|refused|withheld|reported|redirects|reached|exceeded|started|ended|interrupted|broke|came|died|opens)\b"
    r"|\{\}`? \{\}|server \{\}"
)
TREES = {
    str(path.relative_to(package.parent)): ast.parse(path.read_text())
    for package in (Path(twinwire.__file__).parent, Path(twinwire_client.__file__).parent)
    for path in sorted(package.rglob("*.py"))
}


@functools.cache
def error_classes() -> set[str]:
    """Return the names of all classes whose instances are errors with a message for somebody, developers included."""
    found, before = set(ROOTS), set[str]()
    classes = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while found != before:
        before = set(found)
        found |= {one.name for one in classes if any(_name(base) in found for base in one.bases)}
    return found | DEVELOPERS


def _name(node: ast.AST) -> str:
    return ast.unparse(node).rpartition(".")[2]


def messages(tree: ast.AST, classes: set[str]) -> Iterator[tuple[int, str]]:
    """Give the line and the text of each literal message of these classes; what an f-string fills in is `{}`."""
    for node in ast.walk(tree):
        given: list[ast.expr] = []
        if isinstance(node, ast.Call) and _name(node.func) in classes:
            given = node.args[:1]
        elif isinstance(node, ast.Call) and (at := _line(node.func)) is not None:
            given = node.args[at : at + 1]
        elif isinstance(node, ast.ClassDef) and node.name in classes:
            for call in (call for call in ast.walk(node) if isinstance(call, ast.Call)):
                if ast.unparse(call.func) == "super().__init__":
                    given += call.args[:1]
            for part in node.body:
                if isinstance(part, ast.Assign | ast.AnnAssign) and part.value is not None:
                    names = part.targets if isinstance(part, ast.Assign) else [part.target]
                    given += [part.value for name in names if ast.unparse(name) == "message"]
            for method in (part for part in node.body if isinstance(part, ast.FunctionDef)):
                given += method.args.defaults[:1] if method.name == "__init__" else []
        for line, text in ((value.lineno, text) for value in given if (text := _text(value)) is not None):
            yield line, text


def _line(function: ast.expr) -> int | None:
    """Return which argument of this function is a line for the log."""
    if isinstance(function, ast.Attribute) and function.attr in LEVELS:
        return LEVELS[function.attr] if _name(function.value) in {"log", "logger", "_log"} else None
    return LINES.get(_name(function))


def _text(value: ast.expr) -> str | None:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return re.sub(r"%[.\d]*[dgfrs]", "{}", value.value)
    if isinstance(value, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in value.values)
    return None


def is_sentence(text: str) -> bool:
    """Return whether the text looks like one or more whole sentences, the last of which may be filled in."""
    begins = text[:1].isupper() or text[:1] == "`"
    return begins and text.endswith((".", ". {}")) and VERBS.search(text) is not None


@pytest.mark.parametrize("module", TREES)
def test_messages_are_sentences(module: str) -> None:
    """Each literal message of an error in this module is a sentence."""
    wrong = [(line, text) for line, text in messages(TREES[module], error_classes()) if not is_sentence(text)]
    assert wrong == []


FAULTY = {
    "raise BadRequest('is needed', field='x')": "is needed",
    "raise errors.BadRequest(f'`{x}` is needed')": "`{}` is needed",
    "raise BadRequest(f'{x} is needed.')": "{} is needed.",
    "class Busy(E):\n    def __init__(self):\n        super().__init__('Busy')": "Busy",
    "class Busy(E):\n    def __init__(self, message='busy.'):\n        pass": "busy.",
    "class Busy(E):\n    message = 'Busy.'": "Busy.",
    "class Busy(E):\n    message: str = 'The server is busy'": "The server is busy",
    "raise ValueError('x is at least 1')": "x is at least 1",
    "raise TypeError('No such value.')": "No such value.",
    "logger.warning('run %s: lost', run_id)": "run {}: lost",
    "logger.log(level, 'the run %s is lost', run_id)": "the run {} is lost",
    "self._log.error('The run %s.', run_id)": "The run {}.",
    "report(logger, error, 'agent %s failed', name)": "agent {} failed",
    "with Fence(logger, 'tool %s failed', name): pass": "tool {} failed",
    "tell(logger, 'run started')": "run started",
}
GOOD = [
    "raise BadRequest('`x` is required.', field='x')",
    "raise BadRequest(message)",
    "raise BadRequest(f'`x` is not valid. {error.message}')",
    "raise KeyError('x')",
    "logger.warning('The run %s is lost.', run_id)",
    "argparse.error('nothing')",
]


@pytest.mark.parametrize(("source", "wrong"), [*FAULTY.items(), *((source, None) for source in GOOD)])
def test_what_is_no_sentence_is_found(source: str, wrong: str | None) -> None:
    """The test above sees a message however it is given, and only those of these classes."""
    found = messages(ast.parse(source), {"BadRequest", "Busy", *DEVELOPERS})
    assert [text for _, text in found if not is_sentence(text)] == ([] if wrong is None else [wrong])
