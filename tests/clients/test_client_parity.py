"""Each client has what the other has, by the same name; each difference is listed here, with its reason.

That they do the same is in the vectors: `client`, `consumer`, `events`, `fold`, `cursors` and `run_ids`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, get_type_hints

import pytest

import twinwire_client
from support.node import CLIENT, node
from twinwire_client import (
    ApiError,
    Backoff,
    Client,
    ConnectionLost,
    Gap,
    Question,
    Retry,
    Run,
    RunFailed,
    SyncClient,
    SyncQuestion,
    SyncRun,
)

RENAMED = {"aclose": "close"}
"""The names that Python's custom makes different."""

ONLY_PYTHON = {
    "exports": {
        "SyncClient": "a thread of a browser's cannot wait",
        "SyncRun": "as above",
        "SyncQuestion": "as above",
        "Acknowledgement": "a type in JavaScript",
        "Event": "a type in JavaScript, StreamEvent",
        "Backoff": "a type there",
        "Retry": "a type there",
        "RunInfo": "a type there",
        "RunPage": "runs() has no pages there: fetch asks for them",
        "Snapshot": "a type there",
    },
    "client": {"delete": "fetch does it: the package has no room for what pages seldom need"},
    "run": {"read": "a bound for one wait; in JavaScript a read is raced"},
    "options": {
        "app": "fetch there",
        "on_retry": "Run.on('retry') there",
        "http_client": "fetch there",
        "verify": "an environment's own matter there",
        "backoff": "base, cap and random of retry there",
        "max_attempts": "retry.attempts",
        "first_attempts": "retry.first",
        "max_wait": "retry.maxWait",
        "patience": "retry.patience",
    },
    "stream": {"on_input": "Run.on('input') there"},
    "attach": {"on_input": "as above"},
}
ONLY_JAVASCRIPT = {
    "exports": {"create_client": "what most programs there begin with"},
    "client": {},
    "run": {
        "on": "a Python program has a loop",
        "started": "entering the run waits for that",
        "status": "a listener's, as above",
        "active": "as above",
        "error": "raised by the loop",
    },
    "options": {
        "credentials": "a browser's cookies",
        "fetch": "http_client",
        "web_socket": "an environment may have none",
        "event_source": "as above",
        "retry": "backoff, patience, max_attempts, first_attempts and max_wait",
    },
    "stream": {"signal": "a task is cancelled", "cancel_on_abort": "as above"},
    "attach": {"signal": "a task is cancelled", "cancel_on_abort": "as above"},
}

SOURCE = (CLIENT / "src/client.js").read_text()


def snake(name: str) -> str:
    """A JavaScript name as Python writes it; a class's stays, unless it is an option's."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def options_of(kind: str) -> set[str]:
    """The names that a type of options declares in its JSDoc, with those of the type that it extends."""
    [comment] = [
        text
        for text in re.findall(r"/\*\*(.*?)\*/", SOURCE, re.DOTALL)
        if re.search(rf"(\}}|object) {kind}\b|{kind}$", text)
    ]
    names = set(re.findall(r"@property \{.*?\} \[(\w+)\]", comment)) | set(re.findall(r"(\w+)\?:", comment))
    return names | (options_of("FollowOptions") if "FollowOptions &" in comment else set())


def public(names: Iterable[str]) -> set[str]:
    """Those of them that users meet, by the names they would have in both."""
    return {RENAMED.get(name, name) for name in names if not name.startswith("_")}


def parameters(call: Callable[..., Any], *without: str) -> set[str]:
    """The names of a function's parameters."""
    return set(inspect.signature(call).parameters) - {"self", *without}


def compare(part: str, python: set[str], javascript: set[str]) -> None:
    """See that both have the same names, but for those that are listed."""
    assert python - javascript == set(ONLY_PYTHON[part])
    assert javascript - python == set(ONLY_JAVASCRIPT[part])


@pytest.fixture
async def names() -> Any:
    """The names of the JavaScript client."""
    return json.loads(await node("test/names.js"))


async def test_exports(names: Any) -> None:
    """Both packages export the same classes and functions."""
    theirs = {name if name[0].isupper() else snake(name) for name in names["exports"]}
    compare("exports", set(twinwire_client.__all__), theirs)


async def test_questions(names: Any) -> None:
    """A question has the same attributes and methods."""
    theirs = {snake(name) for name in names["question"]}
    for kind in (Question, SyncQuestion):
        assert public(dir(kind)) | public(get_type_hints(kind)) == theirs


async def test_members(names: Any) -> None:
    """A client and a run have the same methods and attributes, in Python also without an event loop."""
    compare("client", public(dir(Client)), {snake(name) for name in names["client"]})
    ours = public(dir(Run)) | {"snapshot", "terminal"}
    compare("run", ours, {snake(name) for name in names["run"]})
    assert public(dir(SyncClient)) == public(dir(Client))
    assert public(dir(SyncRun)) == ours


def test_options() -> None:
    """A client, a start and an attach take the same options."""
    compare("options", parameters(Client.__init__), {snake(name) for name in options_of("ClientOptions")})
    compare("stream", parameters(Client.stream, "message"), {snake(name) for name in options_of("StartOptions")})
    compare("attach", parameters(Client.attach, "run_id"), {snake(name) for name in options_of("AttachOptions")})


async def test_errors(names: Any) -> None:
    """The tree of errors is the same, and each has the same attributes."""
    body = {"code": "gap", "message": "m", "first": 1, "last": 2}
    ours = {}
    for name in twinwire_client.__all__:
        kind = getattr(twinwire_client, name)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            continue
        if issubclass(kind, ApiError):
            error: Exception = kind(body, 400)
        else:
            error = RunFailed("t", "m") if kind is RunFailed else kind("m")
        has = {attribute for attribute in vars(error) if attribute != "message"}  # an Error's own there
        ours[name] = {"parent": kind.__mro__[1].__name__.replace("Exception", "Error"), "has": has}
    theirs = {
        name: {"parent": told["parent"], "has": {snake(attribute) for attribute in told["has"]}}
        for name, told in names["errors"].items()
    }
    assert ours == theirs
    assert {"code", "status", "retry_after", "attempts"} == ours[ConnectionLost.__name__]["has"]
    assert {"first", "last"} < set(ours[Gap.__name__]["has"])


def test_retries() -> None:
    """A retry, and the rules by which it is made, have the same names."""
    source = (CLIENT / "src/retry.js").read_text()
    told = {
        name: {snake(field) for field in re.findall(r"(\w+):", fields)}
        for fields, name in re.findall(r"@typedef \{\{(.*?)\}\} (\w+)", source, re.DOTALL)
    }
    assert told["Retry"] == set(Retry._fields)
    assert set(Backoff._fields) - {"rng"} <= told["Backoff"]
