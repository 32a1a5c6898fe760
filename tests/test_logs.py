"""What a server writes on standard error: little by default, else a line for each run's start and end, no secret."""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from processes import Process
from twinwire.logs import Json, Text

CANARY = 'canary-"0815"'
MINE = f"""
from twinwire import StreamEvent

async def mine(request):
    yield StreamEvent("LLM_CHUNK", {{"content": "hi", "delta": "hi"}})
    if request.message == "fail":
        raise RuntimeError('the key is {CANARY}')
"""


def served(folder: Path, *flags: str) -> tuple[list[str], str]:
    """What is written while a run completes, one fails, and somebody sends a name and a path with a line break."""
    (folder / "mine.py").write_text(MINE)
    environ = {"TWINWIRE_API_KEY": CANARY}
    with Process("serve", "mine:mine", "--port", "0", *flags, cwd=folder, environ=environ) as process:
        process.ready()
        with httpx.Client(base_url=process.url, trust_env=False) as client:
            for message, user_id in (("hi", "eve\nFAKE line"), ("fail", None)):
                answer = client.post("/chat", json={"message": message, "user_id": user_id, "stream": False})
                assert CANARY not in answer.text
            client.get("/%0aFAKE%20line")
        process.popen.terminate()
        code, _, err = process.end()
    assert code == -signal.SIGTERM
    assert CANARY not in err
    assert json.dumps(CANARY)[1:-1] not in err
    return err.splitlines(), err


def test_by_default_only_what_is_wrong(tmp_path: Path) -> None:
    """Nothing is said of what goes well; an agent's failure is told, with its traceback and without the key."""
    lines, text = served(tmp_path)
    assert re.fullmatch(r"\S+ \S+ ERROR twinwire\.runs run [a-z2-7]{26}: agent mine failed", lines[0])
    assert lines[-1] == "RuntimeError: the key is ***"
    assert text.count("Traceback") == 1
    assert "FAKE" not in text


def test_text(tmp_path: Path) -> None:
    """A run's start and end are a line each, in which a client's line break is none."""
    lines, _ = served(tmp_path, "--log-level", "info")
    started, ended = (line.split(" twinwire.runs ")[1] for line in lines[:2])
    run_id = started.split('run_id="')[1][:26]
    whose = f'run_id="{run_id}" user_id="eve\\nFAKE line" agent="mine"'
    assert started == f"run started {whose}"
    assert re.fullmatch(
        re.escape(f'run ended {whose} status="completed" duration=')
        + r'[\d.]+ events=3 usage=\{"prompt_tokens": 0, .*\}',
        ended,
    )
    assert not [line for line in lines if line.startswith("FAKE")]


def test_json(tmp_path: Path) -> None:
    """Each line is a JSON object; a run's end has its status, its time, its events, its usage and its error."""
    lines, _ = served(tmp_path, "--log-format", "json", "--log-level", "info")
    told: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert {"time", "level", "logger", "pid", "message"} <= set.intersection(*(set(line) for line in told))
    first, failed = (line for line in told if line["message"] == "run ended")
    assert (first["user_id"], first["status"], first["events"]) == ("eve\nFAKE line", "completed", 3)
    assert first["usage"]["total_tokens"] == 0
    assert first["duration"] >= 0
    assert (failed["status"], failed["error_type"], failed["events"]) == ("error", "agent_error", 3)
    assert [line["level"] for line in told if "exception" in line] == ["error"]
    assert len([line for line in told if line["message"] == "run started"]) == 2


@pytest.mark.parametrize("kind", [Text, Json])
def test_secrets_and_line_breaks(kind: type[Text]) -> None:
    """A secret is shown in no message, field or exception, however it is written down there."""
    try:
        raise ValueError(f"with {CANARY}")
    except ValueError:
        error = sys.exc_info()
    record = logging.LogRecord("x", logging.ERROR, "", 0, "a\n%s", (CANARY,), error)
    record.fields = {"user_id": CANARY}
    line = kind([CANARY]).format(record)
    assert line.count("***") == 3
    assert "0815" not in line
    assert "a\n" not in line
