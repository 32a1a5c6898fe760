"""The model for use without a key and a network: no LLM, but an honest player of one.

It goes through the same loop as any model: it thinks, calls the tools it is offered, and tells in a few sentences
what their results really hold. It understands four requests: to look at the project, to find a word in it, to show an
approval and to ask a question. It says so to any other. The same conversation always gets the same answer.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from itertools import dropwhile, takewhile
from pathlib import PurePosixPath
from textwrap import shorten
from typing import Any, NamedTuple

import msgspec

from twinwire.models import Finish, Message, Part, Text, Thinking, ToolCall, ToolSpec, Usage

WHO = (
    "I am Twinwire's demo model, not a real LLM: I only put together what the tools return. For real answers, set "
    "`OPENAI_API_KEY`, or point `--base-url` at any server that speaks the OpenAI protocol."
)
ABILITY = 'Ask me to *analyse the project*, or to *find "a word"* in it.'
TALK = "Say *approve*, and I call a tool that needs your approval. Say *ask*, and I ask you something."

_OVERVIEW = re.compile(r"\b(?:analy[sz]|overview|structure|summar|describe|explain|readme)", re.IGNORECASE)
_PROJECT = re.compile(r"\b(?:project|repo|code|files?\b|folders?\b)", re.IGNORECASE)
_FIND = re.compile(
    r"\b(?:find(?!\s+out)|search|grep|look\s+for|where\s+is|which\s+files)\b(?P<rest>.*)", re.IGNORECASE | re.DOTALL
)
_QUOTED = re.compile(r"""(?<!\w)["'`“](.+?)["'`”](?!\w)""")
_FILLER = re.compile(
    r"(?:a|all|any|every|files?|for|in|is|mentions?|me|of|out|that|the|uses?|with|contain(?:s|ing)?|wh\w+|how|word)\Z",
    re.IGNORECASE,
)
_APPROVE = re.compile(r"\bapprov", re.IGNORECASE)
_ASK = re.compile(r"\A\W*ask\b|\bask\s+me\b", re.IGNORECASE)
_SENTENCE = re.compile(r"(.+?[.!?])(?:\s|$)", re.DOTALL)
_MATCH = re.compile(r"(.+?):\d+: ")
_ENTRY = re.compile(r"""^[ \t]*"?(name|description)"?[ \t]*[=:][ \t]*(["'])(.*?)\2""", re.MULTILINE)
_NOTE = re.compile(r"\[.*\]")  # the tool's own words in the place of a text
_WORD = re.compile(r"\s*\S+(?:\s+\Z)?")

_MANIFESTS = ("pyproject.toml", "package.json", "Cargo.toml", "go.mod", "composer.json", "setup.cfg")
_ALL = {"glob": "*"}
_MESSAGE = {"to": "everyone@example.com", "text": "Hello from the demo."}
_QUESTION = {
    "question": "How do you like your tea?",
    "schema": {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "title": "Kind", "enum": ["black", "green", "none"], "default": "green"},
            "cups": {"type": "integer", "title": "Cups", "minimum": 1, "maximum": 9, "default": 1},
            "milk": {"type": "boolean", "title": "Milk"},
            "note": {"type": "string", "title": "Anything else?", "maxLength": 200},
        },
        "required": ["kind", "cups"],
    },
}
_KINDS = {
    ".py": "Python",
    ".md": "Markdown",
    ".js": "JavaScript",
    ".ts": "TypeScript",
    ".html": "HTML",
    ".json": "JSON",
    ".toml": "TOML",
    ".yaml": "YAML",
}

_Calls = list[tuple[str, dict[str, Any]]]


class _Result(NamedTuple):
    """A call of a tool, and its answer."""

    tool: str
    parameters: dict[str, Any]
    content: str

    @property
    def failed(self) -> bool:
        return self.content.startswith("Error: ")

    @property
    def cut(self) -> str:
        return " (and more: the list was cut)" if "\n[cut: " in self.content else ""


class _Plan(NamedTuple):
    """One call of the model: what it thinks, the tools it calls, or what it answers."""

    thinking: str = ""
    calls: Sequence[tuple[str, dict[str, Any]]] = ()
    answer: str = ""


class DemoModel:
    """A `ChatModel` that gives `rate` words a second; with 0, all at once. Usage counts words."""

    name = "demo"

    def __init__(self, rate: float = 40.0) -> None:
        if rate < 0:
            raise ValueError("`rate` must be at least 0.")
        self.rate = rate

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> AsyncGenerator[Sequence[Part], None]:
        """One call of the model, as `ChatModel.stream`; it raises nothing."""
        plan = _plan(messages, {tool["function"]["name"] for tool in tools})
        count = 0
        for kind, text in ((Thinking, plan.thinking), (Text, plan.answer)):
            for word in _WORD.findall(text):
                count += 1
                if self.rate:
                    await asyncio.sleep(1 / self.rate)
                elif count % 32 == 0:
                    await asyncio.sleep(0)
                yield [kind(word)]
        calls = [
            ToolCall(f"demo_{len(messages)}_{number}", name, msgspec.json.encode(parameters).decode())
            for number, (name, parameters) in enumerate(plan.calls, 1)
        ]
        prompt = sum(len(_content(message).split()) for message in messages)
        yield [*calls, Finish("tool_calls" if calls else "stop", Usage(prompt, count, prompt + count))]


def _content(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _plan(messages: Sequence[Message], offered: set[str]) -> _Plan:
    asked = [number for number, message in enumerate(messages) if message.get("role") == "user"]
    question = _content(messages[asked[-1]])[:2000] if asked else ""  # long enough for both requests
    since = messages[asked[-1] + 1 :] if asked else ()
    results = _results(since)
    word = _wanted_word(question)
    calls: _Calls = []
    if not results:
        if _OVERVIEW.search(question) or (not word and _PROJECT.search(question)):
            calls += [("Read", {"path": "README.md"}), ("Search", _ALL)]
        if word:
            calls.append(("Search", {"pattern": word}))
        calls = [call for call in calls if call[0] in offered]
        if not calls and (calls := _talk(question, offered)):
            return _Plan("For this I need the user.", calls)
        if calls:
            names = " and ".join(dict.fromkeys(name for name, _ in calls))
            wanted = f"where {_code(word)} occurs" if word else "what this project is"
            return _Plan(f"The user wants to know {wanted}. I start with {names}, all at once.", calls)
        return _Plan("No tool is needed for this.", answer=_small_talk(messages, asked, offered))
    if calls := _next_calls(results) if "Read" in offered else []:
        return _Plan("The list shows where to look further.", calls)
    return _Plan("That is enough for an answer.", answer=_report(results))


def _talk(question: str, offered: set[str]) -> _Calls:
    """Return the calls that show what a run can ask its user."""
    calls: _Calls = []
    if _APPROVE.search(question):
        calls.append(("Send", _MESSAGE))
    if _ASK.search(question):
        calls.append(("Ask", _QUESTION))
    return [call for call in calls if call[0] in offered]


def _results(messages: Iterable[Message]) -> list[_Result]:
    """Return the calls made in these messages, each with its answer."""
    calls: dict[str, tuple[str, dict[str, Any]]] = {}
    results = []
    for message in messages:
        for call in message.get("tool_calls") or ():
            calls[call["id"]] = call["function"]["name"], msgspec.json.decode(call["function"]["arguments"])
        if message.get("role") == "tool":
            results.append(_Result(*calls[message["tool_call_id"]], _content(message)))
    return results


def _wanted_word(question: str) -> str:
    """Return the word to be found: the quoted one, else the first after the verb that is no filler."""
    found = _FIND.search(question)
    if not found:
        return ""
    quoted = _QUOTED.search(found["rest"])
    if quoted:
        return quoted[1]
    rest = found["rest"].rpartition(" for ")[2]
    words = (word.rstrip(".-/") for word in re.findall(r"[\w./-]+", rest))
    return next((word for word in words if word and not _FILLER.match(word)), "")


def _listing(results: Iterable[_Result]) -> list[str]:
    """Return the files that Searches without a pattern listed."""
    lists = [result for result in results if "glob" in result.parameters and not result.failed]
    lines = [line for result in lists for line in result.content.splitlines()]
    return [line for line in lines if line != "no file matches" and not line.startswith("[cut: ")]


def _next_calls(results: Sequence[_Result]) -> _Calls:
    """Search for manifests if a cut list shows none; then read, once, the up to three files that tell most."""
    reads = {result.parameters["path"]: result for result in results if result.tool == "Read"}
    files = sorted(set(_listing(results)).difference(reads), key=lambda name: (name.count("/"), name))
    wanted = [name for name in files if PurePosixPath(name).name in _MANIFESTS]
    lists = [result for result in results if "glob" in result.parameters]
    if not wanted and len(lists) == 1 and lists[0].cut:
        return [("Search", {"glob": "{" + ",".join(_MANIFESTS) + "}"})]
    if reads.keys() - {"README.md"}:
        return []
    if all(result.failed for result in reads.values()):  # the README may have another name
        wanted = [name for name in files if PurePosixPath(name).stem.lower() == "readme"][:1] + wanted
    return [("Read", {"path": name}) for name in wanted[:3] or files[:1]]


def _code(text: str) -> str:
    return "`" + " ".join(text.replace("`", "'").split())[:120] + "`"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _counts(counts: Counter[str], limit: int = 5) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common(limit))


def _report(results: Sequence[_Result]) -> str:
    """Return what the results hold as Markdown."""
    lines = []
    for result in results:
        if result.tool in {"Ask", "Send"}:
            lines.append(_told(result))
            continue
        what = _code(str(result.parameters.get("path", result.parameters.get("pattern", "the list of files"))))
        if result.failed:
            lines.append(f"- {result.tool} of {what} failed: {result.content.removeprefix('Error: ')}")
        elif result.tool == "Read":
            lines.append(f"- {what}: {_about(result)}")
        elif "pattern" in result.parameters:
            files = Counter(_code(match[1]) for line in result.content.splitlines() if (match := _MATCH.match(line)))
            total = f"{_many(files.total(), 'line')} in {_many(len(files), 'file')}"
            where = f"{total}: {_counts(files)}" if files else "no line"
            lines.append(f"- {what} is found in {where}{result.cut}.")
        elif result.parameters == _ALL:
            lines.append(_tree(_listing([result]), result.cut))
    return "Here is what I found:\n\n" + "\n".join(lines) + f"\n\n{WHO}\n"


def _told(result: _Result) -> str:
    """Return what came of a question or of a call that needed approval."""
    text = result.content.removeprefix("Error: ")
    if result.failed:
        return f"- {result.tool} failed: {text}"
    return f"- You answered: {_code(text)}." if result.tool == "Ask" else f"- {' '.join(text.split())}"


def _tree(files: Sequence[str], cut: str) -> str:
    if not files:
        return "- The project has no files that I can see."
    kinds = Counter(_KINDS.get(suffix, suffix) or "other" for suffix in (PurePosixPath(name).suffix for name in files))
    folders = Counter(_code(name.split("/")[0]) for name in files if "/" in name)
    biggest = f" The biggest folders are {_counts(folders, 3)}." if folders else ""
    return f"- I see {_many(len(files), 'file')}{cut}: {_counts(kinds)}.{biggest}"


def _about(result: _Result) -> str:
    """Return what a file is about: a manifest's name and description, else its title and first sentence."""
    entries = {match[1]: match[3] for match in reversed(list(_ENTRY.finditer(result.content)))}
    if PurePosixPath(result.parameters["path"]).name in _MANIFESTS and entries:
        return " - ".join(entries[key] for key in ("name", "description") if key in entries)
    if _NOTE.fullmatch(result.content):
        return result.content[1:-1]
    lines = [line.strip() for line in result.content.splitlines()]
    title = next((f"**{line.lstrip('# ')}**. " for line in lines if line.startswith("# ")), "")
    prose = list(dropwhile(lambda line: not line[:1].isalpha(), lines))
    paragraph = " ".join(takewhile(bool, prose))
    sentence = _SENTENCE.match(paragraph)
    return (title + shorten(sentence[1] if sentence else paragraph, 200, placeholder="…")).strip() or _many(
        len(lines), "line"
    )


def _small_talk(messages: Sequence[Message], asked: Sequence[int], offered: set[str]) -> str:
    able = ABILITY if offered & {"Read", "Search"} else "I was given no tools to look at anything with."
    before = f" Before this you asked: {_code(_content(messages[asked[-2]]))}." if len(asked) > 1 else ""
    if {"Ask", "Send"} <= offered:
        able += f" {TALK}"
    return f"Hello!{before} {able}\n\n{WHO}\n"
