"""Webhooks: each run's end reaches a real receiver, signed, although that fails at first."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.credentials import asking
from support.receiver import KEY, SECRET, Receiver
from support.serving import Puppets, Running, serving, until
from twinwire.protocol.errors import SettingsError
from twinwire.protocol.webhooks import webhook_headers, webhook_key
from twinwire.runs import webhooks
from twinwire.runs.endings import EndedRun
from twinwire.settings import Settings, load
from twinwire.web.app import create_app


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pause is short."""
    monkeypatch.setattr(webhooks, "FIRST_SECONDS", 0.02)


def told(receiver: Receiver, **more: Any) -> dict[str, Any]:
    return {"webhook": (receiver.url,), "webhook_secret": (SECRET,), **more}


async def run(server: Running, puppets: Puppets, **body: Any) -> str:
    """A run that says a word and ends: its id."""
    async with asking(server) as client:
        started = (await client.post("/runs", json={"message": "hi", **body})).json()
        puppet = await puppets.next()
        puppet.say("word")
        puppet.end()
        await client.get(f"/runs/{started['run_id']}/events")
    return str(started["run_id"])


async def test_a_webhook(puppets: Puppets) -> None:
    """The receiver gets one POST with the run and how it ended, whose signature is right."""
    async with Receiver() as receiver, serving({"mine": puppets}, **told(receiver)) as server:
        before = int(time.time())
        run_id = await run(server, puppets, user_id="u", session_id="s")
        got = await receiver.next()
        assert got.signed_by()
        assert not got.signed_by(b"another key of some length")
        assert got.path.endswith("?token=in-the-url")
        assert got.headers["content-type"] == "application/json"
        assert before <= int(got.headers["webhook-timestamp"]) <= time.time()
        assert got.id == f"run-ended-{run_id}"
        assert got.data.pop("duration") >= 0
        assert {name: got.data[name] for name in ("run_id", "agent", "user_id", "session_id", "status", "result")} == {
            "run_id": run_id,
            "agent": "mine",
            "user_id": "u",
            "session_id": "s",
            "status": "completed",
            "result": "word",
        }
        assert "error_type" not in got.data
    assert len(receiver.got) == 1


async def test_the_end_of_a_failed_run(puppets: Puppets) -> None:
    """An ERROR is told with its type, and a cancel with its reason."""
    async with Receiver() as receiver, serving({"mine": puppets}, **told(receiver)) as server, asking(server) as client:
        await client.post("/runs", json={"message": "hi"})
        (await puppets.next()).fail(ValueError("a secret of the agent"))
        failed = await receiver.next()
        assert (failed.data["status"], failed.data["error_type"]) == ("error", "agent_error")
        assert b"secret" not in failed.body
        run_id = (await client.post("/runs", json={"message": "hi"})).json()["run_id"]
        (await puppets.next()).say("a")
        await client.post(f"/runs/{run_id}/cancel")
        cancelled = await receiver.next()
        assert (cancelled.data["status"], cancelled.data["reason"]) == ("cancelled", "user")


async def test_a_receiver_that_fails_first(puppets: Puppets, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong, it is sent again, the same and with the same id, until it is received."""
    wrong = [500, None, 404, (302, {"location": "http://127.0.0.1:1/"}), (503, {"retry-after": "0"})]
    async with Receiver(*wrong) as receiver, serving({"mine": puppets}, **told(receiver)) as server:
        await run(server, puppets)
        got = [await receiver.next() for _ in range(len(wrong) + 1)]
        assert len({webhook.id for webhook in got}) == 1
        assert len({webhook.body for webhook in got}) == 1
        assert all(webhook.signed_by() for webhook in got)
        await until(lambda: "is there again" in caplog.text)
    assert caplog.text.count("has failed") == 1
    assert "in-the-url" not in caplog.text


async def test_nobody_there_at_first(puppets: Puppets, caplog: pytest.LogCaptureFixture) -> None:
    """A receiver that cannot be reached gets it once it can."""
    async with Receiver() as receiver:
        port = int(receiver.url.split(":")[2].partition("/")[0])
        receiver._server.close()
        await receiver._server.wait_closed()
        async with serving({"mine": puppets}, **told(receiver)) as server:
            run_id = await run(server, puppets)
            await until(lambda: "The connection has failed (ConnectError)." in caplog.text)
            receiver._server = await asyncio.start_server(receiver._serve, "127.0.0.1", port)
            assert (await receiver.next()).data["run_id"] == run_id


async def test_gone(puppets: Puppets, caplog: pytest.LogCaptureFixture) -> None:
    """A receiver that answers 410 is not sent the same again; the next run's end it is sent."""
    async with Receiver(410) as receiver, serving({"mine": puppets}, **told(receiver)) as server:
        first, second = await run(server, puppets), await run(server, puppets)
        assert [(await receiver.next()).data["run_id"] for _ in range(2)] == [first, second]
    assert len(receiver.got) == 2
    assert f"run-ended-{first} was lost" in caplog.text


async def test_retry_after(puppets: Puppets) -> None:
    """A receiver is not asked again before it says."""
    async with (
        Receiver((429, {"retry-after": "1"})) as receiver,
        serving({"mine": puppets}, **told(receiver)) as server,
    ):
        await run(server, puppets)
        await receiver.next()
        began = time.monotonic()
        await receiver.next()
        assert time.monotonic() - began > 0.9


async def test_a_receiver_that_hangs_holds_nobody_up(puppets: Puppets) -> None:
    """While one receiver does not answer, another gets all; so does a run's follower its end."""
    stuck = asyncio.Event()
    async with Receiver(*[stuck] * 30) as slow, Receiver() as quick:
        both = {"webhook": (slow.url, quick.url), "webhook_secret": (SECRET,)}
        async with serving({"mine": puppets}, **both) as server:
            runs = [await run(server, puppets) for _ in range(webhooks.AT_ONCE + 4)]
            assert {(await quick.next()).data["run_id"] for _ in runs} == {*runs}
            await until(lambda: len(slow.got) == webhooks.AT_ONCE)
            stuck.set()
            assert {(await slow.next()).data["run_id"] for _ in runs} == {*runs}


async def test_too_many(puppets: Puppets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Over the bound a webhook is lost, and a log line names it; the others arrive."""
    monkeypatch.setattr(webhooks, "WAITING", 2)
    stuck = asyncio.Event()
    async with Receiver(stuck, stuck) as receiver, serving({"mine": puppets}, **told(receiver)) as server:
        runs = [await run(server, puppets) for _ in range(3)]
        assert f"The webhook run-ended-{runs[2]} is lost" in caplog.text
        stuck.set()
        assert {(await receiver.next()).data["run_id"] for _ in range(2)} == {*runs[:2]}


async def test_giving_up(puppets: Puppets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """After its patience the webhook is lost, and a log line says which and why."""
    monkeypatch.setattr(webhooks, "PATIENCE_SECONDS", 1.0)
    async with Receiver(*[500] * 100) as receiver, serving({"mine": puppets}, **told(receiver)) as server:
        run_id = await run(server, puppets)
        await until(lambda: f"run-ended-{run_id} was lost" in caplog.text)
    assert "It answered 500." in caplog.text
    assert len(receiver.got) > 1


async def test_the_server_ends(puppets: Puppets, caplog: pytest.LogCaptureFixture) -> None:
    """At the end what waits is tried once more at once; a run that the shutdown interrupts is told of, too."""
    async with Receiver((503, {"retry-after": "600"})) as receiver:
        async with serving({"mine": puppets}, **told(receiver)) as server, asking(server) as client:
            first = await run(server, puppets)
            await receiver.next()
            second = (await client.post("/runs", json={"message": "hi"})).json()["run_id"]
            (await puppets.next()).say("a")
        found = {webhook.data["run_id"]: webhook.data for webhook in receiver.got[1:]}
        assert set(found) == {first, second}
        assert (found[second]["error_type"], found[second]["reason"]) == ("interrupted", "shutdown")
    assert "was lost" not in caplog.text


async def test_the_server_ends_without_its_receiver(
    puppets: Puppets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A receiver that does not answer delays the end for a bounded time, and a log line says what was lost."""
    monkeypatch.setattr("twinwire.runs.endings.DRAIN_SECONDS", 0.3)
    async with Receiver(asyncio.Event()) as receiver:
        async with serving({"mine": puppets}, **told(receiver)) as server:
            run_id = await run(server, puppets)
            await receiver.next()
            began = time.monotonic()
        assert time.monotonic() - began < 5
    assert f"run-ended-{run_id} was lost" in caplog.text


def ended(**fields: Any) -> EndedRun:
    known: dict[str, Any] = dict.fromkeys(EndedRun.__struct_fields__)
    return EndedRun(**{**known, "run_id": "r", "agent": "a", "status": "completed", "duration": 1.0, **fields})


def test_a_long_result_is_left_out() -> None:
    """A result over 64 KiB is not sent, only how long it is."""
    for length, kept in ((webhooks.RESULT_BYTES - 2, True), (webhooks.RESULT_BYTES - 1, False)):
        body = webhooks.payload(ended(result="x" * length))
        assert (b'"result"' in body, b'"result_bytes":' in body) == (kept, not kept)
        assert len(body) < webhooks.RESULT_BYTES + 500


def test_the_specification_s_signature() -> None:
    """A signature is that which the specification's own libraries make of the same secret, id, time and body."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    headers = webhook_headers([webhook_key(secret)], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


async def test_two_secrets(puppets: Puppets) -> None:
    """While a secret is replaced, each webhook has a signature of the old one and one of the new."""
    other = bytes(range(1, 33))
    new = "whsec_" + "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
    assert webhook_key(new) == other
    settings = load({"TWINWIRE_WEBHOOK_SECRET": f"{SECRET}, {new}"}, {})
    async with Receiver() as receiver:
        both = {"webhook": (receiver.url,), "webhook_secret": settings.webhook_secret}
        async with serving({"mine": puppets}, **both) as server:
            await run(server, puppets)
            got = await receiver.next()
            assert got.signed_by(KEY)
            assert got.signed_by(other)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"webhook": ["http://h/x"]}, "--webhook"),
        ({"webhook": ["h/x"], "webhook_secret": [SECRET]}, "--webhook"),
        ({"webhook_secret": ["0123456789abcdef0123456789abcdef"]}, "--webhook-secret"),
        ({"webhook_secret": ["whsec_QUJD"]}, "--webhook-secret"),
        ({"webhook_secret": ["whsec_not base64 at all, whatever its length may be"]}, "--webhook-secret"),
        ({"webhook_secret": [f"whsec_{'QUJD' * 22}"]}, "--webhook-secret"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], field: str) -> None:
    """Webhooks need a URL and a secret of the right form: else it is one line, which does not show the secret."""
    with pytest.raises(SettingsError) as caught:
        create_app(settings=load({}, settings))
    assert caught.value.field == field
    assert "QUJD" not in str(caught.value)
    assert "0123456789" not in str(caught.value)


@pytest.mark.parametrize("url", ["h/x", "ftp://h/x", "http:///x", ""])
def test_urls_that_are_none(url: str) -> None:
    """A URL of the app's own that is none is refused when the app is made."""
    with pytest.raises(ValueError, match="`webhooks` must be URLs"):
        create_app(settings=Settings(webhook_secret=(SECRET,)), webhooks=[url])


def test_no_line_shows_a_secret() -> None:
    """Neither the secret nor the URL, which may have one, is in the settings as they are printed."""
    shown = repr(Settings(webhook=("https://h/secret-path",), webhook_secret=(SECRET,)))
    assert "secret-path" not in shown
    assert SECRET not in shown


async def test_urls_of_the_app(puppets: Puppets) -> None:
    """`create_app(webhooks=…)` adds URLs to those of the settings."""
    async with (
        Receiver() as one,
        Receiver() as two,
        serving({"mine": puppets}, webhooks=[two.url], **told(one)) as server,
    ):
        run_id = await run(server, puppets)
        for receiver in (one, two):
            assert (await receiver.next()).data["run_id"] == run_id


@pytest.fixture(autouse=True)
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Warnings are kept, whatever a test before has set."""
    with caplog.at_level(logging.WARNING, "twinwire"):
        yield
