"""The `Twinwire` object: start, run handles, lifespan, drain, and the first request if nobody has started it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from support.followers import KINDS, rest, start
from support.hosts import HOSTS, fastapi_app, free_port, hosted, settings
from support.serving import Puppets, echo
from twinwire import EndedRun, RunRequest, StreamEvent, Twinwire, create_app
from twinwire.protocol.errors import AgentNotFound, BadRequest, CursorGone, Draining, RunNotFound, SessionBusy

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
async def ai(puppets: Puppets) -> AsyncIterator[Twinwire]:
    """An app that has started, whose only agent is played by the test."""
    made = Twinwire({"mine": puppets}, settings=settings())
    async with made.lifespan():
        yield made


async def test_start_and_wait(ai: Twinwire, puppets: Puppets) -> None:
    """A run that the program starts has what it was given, needs no follower, and tells how it ended."""
    run = await ai.start("mine", "hi", user="ann", session="s1")
    puppet = await puppets.next()
    request = puppet.request
    assert (request.message, request.user_id, request.session_id) == ("hi", "ann", "s1")
    assert request.run_id == run.run_id
    puppet.say("a ", "b")
    puppet.end()
    ended = await run.wait()
    assert (ended.run_id, ended.status, ended.result) == (run.run_id, "completed", "a b")
    assert ended.error_type is None
    assert await run.wait() == ended
    assert repr(run) == f"RunHandle({run.run_id!r})"


async def test_a_run_that_fails(ai: Twinwire, puppets: Puppets) -> None:
    """`wait` raises nothing for a run that failed: it tells its error."""
    run = await ai.start(None, "hi")
    (await puppets.next()).fail(RuntimeError("secret"))
    ended = await run.wait()
    assert isinstance(ended, EndedRun)
    assert (ended.status, ended.error_type) == ("error", "agent_error")


async def test_cancel(ai: Twinwire, puppets: Puppets) -> None:
    """`cancel` ends the run, once."""
    run = await ai.start("mine", "hi")
    await puppets.next()
    assert await run.cancel() == "accepted"
    ended = await run.wait()
    assert (ended.status, ended.reason) == ("cancelled", "user")
    assert await run.cancel() == "already_finished"


async def test_follow(ai: Twinwire, puppets: Puppets) -> None:
    """`follow` gives each event as it comes, from any number on, to the terminal one."""
    run = await ai.start("mine", "hi")
    puppet = await puppets.next()
    puppet.say("a")
    seen: list[StreamEvent] = []
    async with aclosing(run.follow()) as events:
        async for event in events:
            seen.append(event)
            if event.type == "LLM_CHUNK":
                puppet.end()
    assert [event.type for event in seen] == ["AGENT_START", "LLM_CHUNK", "AGENT_FINISH"]
    assert [event.id for event in seen] == [f"evt-{run.run_id}-{number}" for number in (1, 2, 3)]
    assert [event.id async for event in run.follow(after=1)] == [event.id for event in seen[1:]]
    assert [event async for event in run.follow(after=3)] == []
    with pytest.raises(CursorGone):
        await anext(run.follow(after=4))
    with pytest.raises(RunNotFound):
        await anext(ai.run("a" * 26).follow())


async def test_a_program_that_follows_counts(ai: Twinwire, puppets: Puppets) -> None:
    """The run's `on_disconnect` holds for a program that follows: when it stops, the run is cancelled."""
    run = await ai.start("mine", "hi", on_disconnect="cancel")
    (await puppets.next()).say("a")
    async with aclosing(run.follow()) as events:
        await anext(events)
    ended = await run.wait()
    assert (ended.status, ended.reason) == ("cancelled", "nobody_followed")


async def test_refusals(ai: Twinwire, puppets: Puppets) -> None:
    """A start that cannot be is an error that names its field, and no run begins."""
    with pytest.raises(AgentNotFound):
        await ai.start("nobody", "hi")
    for field, told in {
        "message": {"message": " "},
        "user_id": {"message": "hi", "user": ""},
        "session_id": {"message": "hi", "session": "s" * 129},
        "on_disconnect": {"message": "hi", "on_disconnect": "never"},
    }.items():
        with pytest.raises(BadRequest) as caught:
            await ai.start("mine", **told)  # type: ignore[arg-type]
        assert caught.value.field == field
    assert puppets.started == 0
    run = await ai.start("mine", "hi", user="ann", session="s1")
    with pytest.raises(SessionBusy):
        await ai.start("mine", "hi", user="ann", session="s1")
    again = await ai.start("mine", "hi", user="ann", session="s1", interrupt=True)
    assert (await run.wait()).reason == "user"
    assert again.run_id != run.run_id


async def test_one_key_is_one_run(ai: Twinwire, puppets: Puppets) -> None:
    """Two starts with one idempotency key are one run."""
    one = await ai.start("mine", "hi", user="ann", idempotency_key="k")
    two = await ai.start("mine", "hi", user="ann", idempotency_key="k")
    assert one.run_id == two.run_id
    await puppets.next()
    assert puppets.started == 1


async def test_drain(ai: Twinwire, puppets: Puppets) -> None:
    """`drain` interrupts what goes on, from several tasks once; then nothing starts, and the run's end can be read."""
    run = await ai.start("mine", "hi")
    await puppets.next()
    waiting = asyncio.create_task(run.wait())
    await asyncio.gather(ai.drain(), ai.drain())
    ended = await waiting
    assert (ended.error_type, ended.reason) == ("interrupted", "shutdown")
    with pytest.raises(Draining):
        await ai.start("mine", "hi")


def test_create_app_is_the_short_form() -> None:
    """`create_app` returns the `app` of a `Twinwire` with the same arguments."""
    app = create_app({"echo": echo}, settings=settings(), authenticate=lambda _: "ann")
    assert type(app) is type(Twinwire({"echo": echo}, settings=settings()).app)
    assert app.state.service.auth.on


@each_kind
@pytest.mark.parametrize("log", ["memory://", "sqlite"])
async def test_it_starts_with_the_first_request(log: str, kind: str, tmp_path: Path) -> None:
    """Without a lifespan the first request starts it, whichever log it has."""
    url = f"sqlite:///{tmp_path}/log.db" if log == "sqlite" else log
    ai = Twinwire({"echo": echo}, settings=settings(log=url))
    async with hosted(HOSTS["django"](ai), lifespan="off") as address:
        seen = await rest(await start(kind, address, "a b"))
        assert seen[-1]["data"]["result"] == "a b "
        await ai.drain()


async def test_a_program_starts_it(puppets: Puppets) -> None:
    """A program's first `start` starts it, too."""
    ai = Twinwire({"mine": puppets}, settings=settings())
    run = await ai.start("mine", "hi")
    (await puppets.next()).end()
    assert (await run.wait()).status == "completed"
    await ai.drain()


async def test_a_log_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """If the log cannot be reached at the first request, the log line says so, and a later request tries again."""
    ai = Twinwire({"echo": echo}, settings=settings(log=f"redis://127.0.0.1:{free_port()}/0"))
    async with hosted(ai, "", lifespan="off") as address, httpx.AsyncClient(trust_env=False, timeout=20) as http:
        for _ in range(2):
            told = await http.post(f"{address.url}/runs", json={"message": "hi"})
            assert (told.status_code, told.json()["code"]) == (503, "runs_unavailable")
            assert told.headers["x-request-id"]
        assert caplog.text.count("Twinwire could not start with a request. The Redis at") == 2
        with pytest.raises(InvalidStatus):
            await connect(address.ws_url, proxy=None)


async def test_a_start_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If it cannot start for another reason, the answer is 503, and the log says the reason."""
    (tmp_path / "log.db").write_text("This is no database, but it is long enough to be read as one. " * 20)
    ai = Twinwire({"echo": echo}, settings=settings(log=f"sqlite:///{tmp_path}/log.db"))
    async with hosted(ai, "", lifespan="off") as address, httpx.AsyncClient(trust_env=False, timeout=20) as http:
        told = await http.post(f"{address.url}/runs", json={"message": "hi"})
        assert (told.status_code, told.json()["code"]) == (503, "runs_unavailable")
    assert "Twinwire could not start with a request." in caplog.text


async def test_many_first_requests(puppets: Puppets) -> None:
    """Requests that come at once start it once."""
    ai = Twinwire({"mine": puppets}, settings=settings())
    starts = 0
    original = type(ai.service).start

    async def counted(service: Any) -> None:
        nonlocal starts
        starts += 1
        await original(service)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(ai.service), "start", counted)
        async with hosted(ai, "", lifespan="off") as address, httpx.AsyncClient(trust_env=False) as http:
            told = await asyncio.gather(*(http.get(f"{address.url}/healthz") for _ in range(10)))
            assert [answer.status_code for answer in told] == [200] * 10
    assert starts == 1
    await ai.drain()


async def test_a_lifespan_again() -> None:
    """An application that starts a second time, as in a test client, serves again."""
    ai = Twinwire({"echo": echo}, settings=settings())
    app = fastapi_app(ai)
    services = []
    for _ in range(2):
        async with hosted(app) as address:
            seen = await rest(await start("sse", address, "a"))
            assert seen[-1]["data"]["status"] == "completed"
            services.append(ai.service)
            assert ai.app.state.service is ai.service
    assert services[0] is not services[1]


def test_another_event_loop() -> None:
    """A loop that is closed is left behind: each `asyncio.run` serves anew."""
    ai = Twinwire({"echo": echo}, settings=settings())

    async def ask() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=ai), base_url="http://localhost") as http:
            return (await http.post("/chat", json={"message": "a", "stream": False})).status_code

    assert [asyncio.run(ask()) for _ in range(2)] == [200, 200]


async def test_two_event_loops_at_once(ai: Twinwire) -> None:
    """A loop beside the one it has started in is told so."""

    def elsewhere() -> None:
        asyncio.run(ai.start("mine", "hi"))

    with pytest.raises(RuntimeError, match="is in use in another event loop"):
        await asyncio.to_thread(elsewhere)


async def test_an_agent_starts_a_run() -> None:
    """An agent that has the app starts another run, and waits for it."""

    async def outer(request: RunRequest) -> Any:
        run = await made.start("echo", request.message)
        yield StreamEvent("LLM_CHUNK", {"content": (await run.wait()).result})

    made = Twinwire({"outer": outer, "echo": echo}, settings=settings())
    async with made.lifespan():
        run = await made.start("outer", "a b")
        assert (await run.wait()).result == "a b "
