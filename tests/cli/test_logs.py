"""What a server writes on standard error: little by default, else a line for each run's start and end, no secret."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import pytest
import trustme

from support.documents import ROOT, snippets
from support.processes import Process
from twinwire.telemetry.logging import MAX_EXTRA, MAX_EXTRA_TEXT, Handler, Json, Redactor, Text

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
    assert re.fullmatch(r"\S+ \S+ ERROR twinwire\.runs In the run [a-z2-7]{26} the agent mine failed\.", lines[0])
    assert lines[-1] == "  RuntimeError: the key is ***"
    assert all(line.startswith("  ") for line in lines[1:])
    assert text.count("Traceback") == 1
    assert "FAKE" not in text


def test_text(tmp_path: Path) -> None:
    """A run's start and end are a line each, in which a client's line break is none."""
    lines, _ = served(tmp_path, "--log-level", "info")
    started, ended = (line.split(" twinwire.runs ")[1] for line in lines[:2])
    run_id = started.split('run_id="')[1][:26]
    whose = f'run_id="{run_id}" user_id="eve\\nFAKE line" agent="mine"'
    assert started == f"The run started. {whose}"
    assert re.fullmatch(
        re.escape(f'The run ended. {whose} status="completed" duration=')
        + r'[\d.]+ events=3 usage=\{"prompt_tokens": 0, .*\}',
        ended,
    )
    assert not [line for line in lines if line.startswith("FAKE")]


def test_json(tmp_path: Path) -> None:
    """Each line is a JSON object; a run's end has its status, its time, its events, its usage and its error."""
    lines, _ = served(tmp_path, "--log-format", "json", "--log-level", "info")
    told: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert {"time", "level", "logger", "pid", "message"} <= set.intersection(*(set(line) for line in told))
    first, failed = (line for line in told if line["message"] == "The run ended.")
    assert (first["user_id"], first["status"], first["events"]) == ("eve\nFAKE line", "completed", 3)
    assert first["usage"]["total_tokens"] == 0
    assert first["duration"] >= 0
    assert (failed["status"], failed["error_type"], failed["events"]) == ("error", "agent_error", 3)
    assert [line["level"] for line in told if "exception" in line] == ["error"]
    assert len([line for line in told if line["message"] == "The run started."]) == 2


def test_the_document_s_agent(tmp_path: Path) -> None:
    """The agent of OBSERVABILITY.md is served, and writes the line that the document says."""
    program, _ = snippets((ROOT / "docs/OBSERVABILITY.md").read_text(), "python")
    (tmp_path / "shop.py").write_text(program)
    with Process("serve", "shop:clerk", "--port", "0", "--log-format", "json", cwd=tmp_path) as process:
        process.ready()
        answer = httpx.post(f"{process.url}/chat", json={"message": "hi", "stream": False}, trust_env=False)
        process.popen.terminate()
        _, _, err = process.end()
    line = json.loads(err)
    assert (line["message"], line["order"], line["run_id"]) == ("The order is paid.", 7, answer.json()["run_id"])
    assert line["request_id"] == answer.headers["x-request-id"]


def record_of(**extra: Any) -> logging.LogRecord:
    """Make a record that was logged with this `extra=`."""
    return logging.getLogger("mine").makeRecord("mine", logging.INFO, "", 0, "It is so.", (), None, extra=extra)


def test_extra_is_kept() -> None:
    """A JSON line has what `extra=` has, in its form, and a name of the line's own gets an underscore behind it."""
    given = {"order": 7, "paid": True, "items": [{"sku": "a", "price": 1.5}], "none": None, "level": "deep", "time": 1}
    line = json.loads(Json(Redactor()).format(record_of(**given)))
    own = {"time", "level", "logger", "pid", "message"}
    assert {name: line[name] for name in line if name not in own} == {
        "order": 7,
        "paid": True,
        "items": [{"sku": "a", "price": 1.5}],
        "none": None,
        "level_": "deep",
        "time_": 1,
    }
    assert (line["level"], line["logger"], line["message"]) == ("info", "mine", "It is so.")


def test_extra_shows_no_secret() -> None:
    """No name, text, key or item of `extra=` shows a secret, however deep it is and in whatever object."""
    deep: Any = CANARY
    for _ in range(20):
        deep = {"deep": [deep]}
    given = {"a": CANARY, CANARY: 1, "b": {CANARY: [CANARY]}, "c": Odd(CANARY), "d": deep, "e": CANARY * 1000}
    line = Json(Redactor([CANARY])).format(record_of(**given))
    assert "0815" not in line
    assert isinstance(json.loads(line), dict)


def test_extra_is_bounded() -> None:
    """However much `extra=` has, a line is bounded, and half a secret at the cut is none."""

    class Endless(list[Any]):
        def __iter__(self) -> Any:
            raise RuntimeError("no items")

    huge = {f"name_{number}": ["x" * 100] * 100_000 for number in range(10)}
    many = {f"more_{number}": number for number in range(1000)}
    cut = {"long": "x" * (MAX_EXTRA_TEXT - 1) + CANARY, "bad": Endless([1])}
    line = Json(Redactor([CANARY])).format(record_of(**cut, **huge, **many))
    assert len(line) < MAX_EXTRA * (MAX_EXTRA_TEXT + 200)
    told = json.loads(line)
    assert len(told) <= MAX_EXTRA + 5
    assert told["long"].endswith("… (cut)")
    assert told["bad"] == "Endless"
    assert "0815" not in line
    assert "canary" not in line


WORKER = f"""
import asyncio, logging
from twinwire import StreamEvent

logger = logging.getLogger("mine")

async def mine(request):
    logger.warning("I work.", extra={{"order": 7, "key": {CANARY!r}}})
    yield StreamEvent("LLM_CHUNK", {{"content": "hi", "delta": "hi"}})
"""


def test_lines_of_an_agent(tmp_path: Path) -> None:
    """What an agent logs is a JSON line with its `extra=`, and the ids of its run and of the request."""
    (tmp_path / "mine.py").write_text(WORKER)
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"x-request-id": "req-1", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    flags = ("--port", "0", "--log-format", "json", "--log-level", "info")
    with Process("serve", "mine:mine", *flags, cwd=tmp_path, environ={"TWINWIRE_API_KEY": CANARY}) as process:
        process.ready()
        with httpx.Client(base_url=process.url, trust_env=False, headers=headers) as client:
            answer = client.post("/chat", json={"message": "hi", "session_id": "s1", "stream": False})
            refused = client.get("/chat?ticket=abcdef")
        process.popen.terminate()
        _, _, err = process.end()
    assert answer.headers["x-request-id"] == refused.headers["x-request-id"] == "req-1"
    lines = [json.loads(line) for line in err.splitlines()]
    run_id = answer.json()["run_id"]
    ids = {"request_id": "req-1", "trace_id": trace, "run_id": run_id, "session_id": "s1"}
    started, worked, ended, refusal = lines
    assert all(line.items() >= ids.items() for line in (started, worked, ended))
    assert (worked["message"], worked["order"], worked["key"]) == ("I work.", 7, "***")
    assert (refusal["code"], refusal["path"], refusal["request_id"]) == ("bad_request", "/chat", "req-1")
    assert "run_id" not in refusal
    assert "abcdef" not in err


@pytest.mark.parametrize("kind", [Text, Json])
def test_secrets_and_line_breaks(kind: type[Text]) -> None:
    """A secret is shown in no message, argument, field, exception or stack, however it is written down there."""
    try:
        raise ValueError(f"with {CANARY}")
    except ValueError:
        error = sys.exc_info()
    record = logging.LogRecord(CANARY, logging.ERROR, "", 0, "a\n%s", (CANARY,), error, sinfo=f"Stack of {CANARY}")
    record.fields = {"user_id": CANARY, CANARY: [{"deep": (CANARY, CANARY.encode())}]}
    line = kind(Redactor([CANARY])).format(record)
    assert line.count("***") == 8
    assert "0815" not in line
    assert "a\n" not in line


SECRET = 'p@ss/w0rd +é%"x\\'


def written(secret: str) -> dict[str, str]:
    """Return a secret as programs write it down."""
    data = secret.encode()
    return {
        "as it is": secret,
        "in a URL": quote(secret, safe=""),
        "in a URL, lower": quote(secret, safe="").lower() if secret.islower() else quote(secret),
        "in a form": quote_plus(secret),
        "in JSON": json.dumps(secret),
        "in JSON, not ASCII": json.dumps(secret, ensure_ascii=False),
        "in JSON in JSON": json.dumps(json.dumps({"key": secret})),
        "in Python": repr({"key": secret}),
        "in Python's bytes": repr([(b"authorization", data)]),
        "Base64": base64.b64encode(data).decode(),
        "Base64 for URLs": base64.urlsafe_b64encode(b"?>" + data + b"??").decode(),
        **{
            f"Basic after {len(user)}": "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()
            for user in ("", "a", "al", "ali", "alice")
        },
        "hexadecimal": data.hex(),
    }


@pytest.mark.parametrize("form", written(SECRET))
@pytest.mark.parametrize("kind", [Text, Json])
def test_each_form_of_a_secret_is_hidden(kind: type[Text], form: str) -> None:
    """Raw, percent-encoded, JSON, Python, Base64 at any offset, hexadecimal: nothing that could be decoded is left."""
    text = written(SECRET)[form]
    record = logging.LogRecord("x", logging.ERROR, "", 0, "it is %s, they say", (text,), None)
    line = kind(Redactor(["another secret", SECRET])).format(record)
    assert "***" in line
    around = written("x" * 40)[form]
    for piece in {text[at : at + 8] for at in range(len(text) - 7)}:
        assert piece not in line or piece in around, line


def test_short_secrets_do_not_hide_everything() -> None:
    """From 8 characters on a secret is hidden anywhere, from 4 on as a word of its own, and below that it is not."""
    known = Redactor(["a", "abc", "abcd", "12345678"])
    assert (
        known.scrub("a banana, abc abcd xabcd abcd_ (abcd) x12345678y") == "a banana, abc *** xabcd abcd_ (***) x***y"
    )
    assert Redactor(["", "a"]).scrub("a banana") == "a banana"


def test_what_looks_like_a_credential_is_hidden_whoever_it_belongs_to() -> None:
    """URLs with users, tickets, bearer tokens, cookies and keys of clients, of which there is no list."""
    for text, shown in (
        ("redis://:x@h:6379/0 and http://u:p@h", "redis://***@h:6379/0 and http://***@h"),
        ("GET /chat?ticket=abc&after=1", "GET /chat?ticket=***&after=1"),
        ("/v1?api-key=k&api_key=k&api-version=2024", "/v1?api-key=***&api_key=***&api-version=2024"),
        ("/v1?x-access-token=k#x", "/v1?x-access-token=***#x"),
        ("Authorization: Bearer alice-token-0", "Authorization: Bearer ***"),
        ("{'authorization': 'basic dXNlcjpwYXNz'}", "{'authorization': 'basic ***'}"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.abc", "***"),
        ("twinwire_login=ab.cd; x=1", "twinwire_login=***; x=1"),
        ("sk-abcdefghijklmnopqrstuvwx", "***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- x", "*** x"),
        ("basic authentication, bearer of news; http://h/?q=1", "basic authentication, bearer of news; http://h/?q=1"),
    ):  # fmt: skip
        assert Redactor().scrub(text) == shown


def test_a_text_without_end_is_cut_and_keeps_no_half_of_a_secret() -> None:
    """What is written of one record is bounded, and where it is cut there is no piece of a secret."""
    known = Redactor(["0123456789abcdef"])
    for before in range(70, 101):
        line = known.scrub("x" * before + "0123456789abcdef" * 9, limit=100)
        assert len(line) < 250
        assert "0123" not in line


def test_many_secrets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten where there are too many, as of models that are made for each user."""
    monkeypatch.setattr("twinwire.telemetry.logging.MAX_SECRETS", 3)
    known = Redactor([f"secret-number-{number}" for number in range(2)])
    known.hide("secret-number-3", "secret-number-3", "secret-number-4", "secret-number-5")
    assert known.scrub("secret-number-4 secret-number-5") == "*** ***"
    assert len(known._known) == 3


FORGED = [
    "\n2026-11-26 10:00:00,000 ERROR twinwire.runs forged", "\r\nforged", "\x1b[2K\x1b[1Aforged", "\x85forged",
    "\u2028forged", "\u2029forged", "\0forged", "\x0bforged", "\x0cforged", "\x9b2Kforged", "\u202eforged",
    "\ud800forged", "\bforged", "\x7f", "\ufefforged", "\x1d", "\x1e",
]  # fmt: skip


class Odd:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


@pytest.mark.parametrize("forged", FORGED, ids=ascii)
@pytest.mark.parametrize(
    "place", ["message", "argument", "field", "name", "logger", "exception", "cause", "note", "stack"]
)
def test_no_text_forges_a_line(place: str, forged: str) -> None:
    """Each record is one line, then lines that begin with two blanks; nothing in them moves a terminal's cursor."""
    told = {"message": "m", "argument": "a", "logger": "twinwire", "field": "f", "name": "n", "stack": "Stack:\n  x"}
    if place in told:
        told[place] += forged
    error: Any = ValueError(forged if place == "exception" else "x")
    error.__cause__ = TypeError(forged) if place == "cause" else None
    if place == "note":
        error.add_note(forged)
    record = logging.LogRecord(
        told["logger"], logging.ERROR, "", 0, told["message"] + "%s%r", (told["argument"], Odd(forged)),
        (ValueError, error, None), sinfo=told["stack"],
    )  # fmt: skip
    record.fields = {told["name"]: told["field"], "odd": Odd(forged)}
    first, *more = Text(Redactor()).format(record).split("\n")
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ERROR ", first)
    assert all(line.startswith("  ") for line in more)
    assert all(line.isprintable() for line in (first, *more))
    line = Json(Redactor()).format(record)
    assert line.isprintable()
    assert {"time", "level", "logger", "pid", "message", "exception", "stack"} <= json.loads(line).keys()


@pytest.mark.parametrize("kind", [Text, Json])
def test_a_record_that_is_none_is_written_too(kind: type[Text]) -> None:
    """Arguments that do not fit, values without a text, numbers that JSON has none for, fields that take a name."""

    class Bad(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    loop: list[Any] = []
    loop.append(loop)
    odd = {
        "time": "x",
        "nan": float("nan"),
        "inf": float("-inf"),
        "big": 10**5000,
        "bad": Bad(),
        "loop": loop,
        "level": "x",
    }
    for message, arguments in (("%d", ("x",)), ("%s %s", ("x",)), ("%s", (Bad(),)), (Bad(), ())):
        record = logging.LogRecord("x", logging.ERROR, "", 0, message, arguments, (Bad, Bad(), None))
        for fields in (odd, ["a"], "a", None):
            record.fields = fields
            line = kind(Redactor()).format(record)
            if kind is Json:
                told = json.loads(line, parse_constant=pytest.fail)
                assert (told["level"], told["logger"]) == ("error", "x")


def test_a_record_that_cannot_be_written_is_told_of_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Where even the stream fails, logging's own report, with the message in it, is not printed."""

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError("no space")

    handler = Handler(Full())
    handler.setFormatter(Text(Redactor()))
    handler.handle(logging.LogRecord("x", logging.ERROR, "", 0, CANARY, (), None))
    assert capsys.readouterr().err == "a record of x could not be written: OSError\n"


ENVIRONMENT = {
    "TWINWIRE_API_KEY": "api-key-0815",
    "TWINWIRE_SECRET": "signing-secret-0815-" + "x" * 20,
    "TWINWIRE_AUTH_TOKENS": "alice:env-token-0815abc",
    "TWINWIRE_LOG": "sqlite:///log.db",
    "TWINWIRE_BASE_URL": "http://model:base-pass-0815@127.0.0.1:9/v1?api-key=query-key-0815&api-version=1",
    "TWINWIRE_MODEL": "m",
    "HTTPS_PROXY": "http://proxy:proxy-pass-0815@127.0.0.1:9",
    "DATABASE_URL": "postgres://app:db%2Fpass-0815@h/x",
    "MY_SERVICE_TOKEN": "service-token-0815",
    "PGPASSWORD": "pg-pass-0815",
}
LEAKY = """
import base64, itertools, json, logging, os, sys, threading, urllib.parse, warnings
from twinwire import StreamEvent, create_app
from twinwire.models.openai.model import OpenAIChatModel

model = OpenAIChatModel("m", max_retries=0, api_key="of-a-model-0815", base_url="http://u:of-its-url-0815@127.0.0.1:9/v1")
told = [value for value in os.environ.values() if "0815" in value]
told += [open(name).read() for name in ("tokens", "key", "tls.key")] + ["of-a-model-0815", "of-its-url-0815"]
said = [json.dumps(told), repr(told), *map(urllib.parse.quote, told)]
said += ["Basic " + base64.b64encode(("u:" + one.rpartition(":")[2].strip()).encode()).decode() for one in told]

async def leaky(request):
    from twinwire import Settings
    from twinwire.settings import load
    logger = logging.getLogger(request.message)
    names = itertools.cycle(("uvicorn.error", "httpx", "openai", "litestar", "redis", "asyncio", "mine"))
    for one, name in zip(said, names):
        logging.getLogger(name).error("it is %s", one, extra={"fields": {"one": one}})
    logger.error("here", stack_info=True)
    logger.error("%r", load(os.environ, {}))
    warnings.warn(said[0])
    thread = threading.Thread(target=lambda: 1 / len(said[0:0]) if said else None, name=told[0])
    thread.start()
    thread.join()
    try:
        async for part in model.stream([{"role": "user", "content": "hi"}]):
            pass
    except Exception as error:
        error.add_note(said[0])
        raise RuntimeError(told) from error
    yield

app = create_app({"leaky": leaky})
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_of_the_process_is_printed(form: str, tmp_path: Path) -> None:
    """Of the environment, the settings, URLs, files and models; by any logger, in any form, at the level debug."""
    (tmp_path / "leaky.py").write_text(LEAKY)
    (tmp_path / "tokens").write_text("bob:file-token-0815abc\n")
    (tmp_path / "key").write_text("hmac-secret-0815-" + "y" * 20)
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.pem")
    flags = ["--auth-tokens-file", "tokens", "--jwt-key-file", "key", "--ssl-keyfile", f"{tmp_path}/tls.key"]
    flags += ["--ssl-certfile", "tls.pem", "--log-format", form, "--log-level", "debug", "--port", "0"]
    environ = {**ENVIRONMENT, "PYTHONWARNINGS": "default"}
    with Process("serve", "leaky:app", *flags, cwd=tmp_path, environ=environ) as process:
        ready = process.ready()
        headers = {"authorization": "Bearer env-token-0815abc"}
        with httpx.Client(base_url=process.url, trust_env=False, verify=False, headers=headers, timeout=30) as client:
            answers = [client.post("/chat", json={"message": "hi", "stream": False}).text]
            answers += [client.get(path).text for path in ("/readyz", "/metrics", "/schema", "/nothing?api_key=0815")]
        process.popen.terminate()
        _, out, err = process.end()
    assert "it is" in err
    assert "RuntimeError" in err
    for text in (ready, out, err, *answers):
        assert "0815" not in text
        assert base64.b64encode(b"0815").decode()[:5] not in text
        assert f"{tmp_path}/tls.key" not in text
    key = certificate.private_key_pem.bytes().decode().splitlines()
    assert not [line for line in key if not line.startswith("---") and line in err]
    lines = err.splitlines()
    if form == "json":
        assert all(isinstance(json.loads(line), dict) for line in lines)
    else:
        assert all(line.isprintable() and re.match(r"\d{4}-\d\d-\d\d |  ", line) for line in lines)


@pytest.mark.parametrize(
    ("flags", "environ", "told"),
    [
        (("--api-key", "sk-0815"), {}, "TWINWIRE_API_KEY"),
        (("--secret=0815",), {}, "TWINWIRE_SECRET"),
        (("--log", "redis://:pass-0815@127.0.0.1:1/0"), {}, "does not answer"),
        (("--log", "redis://:pass/0815@127.0.0.1:1/0"), {}, "redis://"),
        (("--log", "redis://:0815#x@127.0.0.1/0"), {}, "redis://"),
        (("--log", "redis://h:1/0?password=pass-0815"), {}, "redis://"),
        (("--log", "pass-0815@127.0.0.1:1"), {}, "`--log` must be"),
        (("--log", "pass-0815"), {}, "`--log` must be"),
        (("--base-url", "ftp://u:pass-0815@h"), {}, "`--base-url` must be a URL"),
        (("--base-url", "u:pass 0815@h"), {}, "`--base-url` must be a URL"),
        (("--nothing", "http://u:pass-0815@h"), {}, "Unrecognized arguments"),
        (("--cors-origin", "http://u:pass-0815@h"), {}, "origin"),
        (("--allowed-host", "http://u:pass-0815@h/"), {}, "allowed-host"),
        ((), {"TWINWIRE_SECRET": "short-0815"}, "TWINWIRE_SECRET"),
        (("--port", "http://u:pass-0815@h"), {}, "--port"),
        ((), {"TWINWIRE_AUTH_TOKENS": "alice:0815"}, "user:token"),
        ((), {"TWINWIRE_API_KEY": "key-0815\n", "TWINWIRE_MODEL": "m\nx", "TWINWIRE_LOG": "x"}, "`--log` must be"),
        (("mine:broken",), {"MY_TOKEN": "token-0815"}, "The module mine cannot be imported."),
    ],
    ids=str,
)
def test_a_start_that_fails_shows_no_secret(
    flags: tuple[str, ...], environ: dict[str, str], told: str, tmp_path: Path
) -> None:
    """What was wrong is told, in a line that names the flag or variable, without its value where that may be secret."""
    (tmp_path / "mine.py").write_text("import os\nraise ValueError(f'http://u:{os.environ[\"MY_TOKEN\"]}@h')")
    with Process("serve", "--port", "0", *flags, cwd=tmp_path, environ=environ) as process:
        code, out, err = process.end()
    assert (code in {1, 2}, out) == (True, "")
    assert told in err
    assert "0815" not in err
