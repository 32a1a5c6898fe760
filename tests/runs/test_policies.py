"""An agent's own policies: how they are read, and that its runs keep to them, on each route, transport and log."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import pytest
from msgspec import UNSET

from support.chats import Transport, http, opened, said
from support.documents import ROOT, snippets
from support.followers import KINDS, Refused, rest, start
from support.model_server import ModelServer, Script, stall, text
from support.redis_server import fresh
from support.serving import Puppets, Running, echo, serving, until
from twinwire import AgentSpec, OpenAIChatModel, ReActAgent, StreamEvent, create_app
from twinwire.agents import Agent, AgentLimits, RunRequest
from twinwire.auth import ANYBODY
from twinwire.protocol.events import encode
from twinwire.protocol.wire import new_run_id
from twinwire.runs import deadline
from twinwire.runs.deadline import Deadline
from twinwire.runs.policies import policies
from twinwire.settings import Settings

DAY = 86_400.0
Agents = Mapping[str, Agent | AgentSpec]

WRONG = [
    ("timeout", "3 days", "a duration such as 90s, 5m or 1h, above 0 and at most 365d, not '3 days'."),
    ("timeout", 0, "a duration such as 90s, 5m or 1h, above 0 and at most 365d, not 0."),
    ("timeout", True, "a duration such as 90s, 5m or 1h, above 0 and at most 365d, not True."),
    ("retention", "366d", "a duration such as 90s, 5m or 1h, above 0 and at most 365d, not '366d'."),
    ("max_steps", 0, "a whole number, at least 1 and at most 2147483648, not 0."),
    ("max_tool_calls", 1.5, "a whole number, at least 1 and at most 2147483648, not 1.5."),
    ("tool_timeout", [30], "a duration such as 90s, 5m or 1h, above 0 and at most 365d, not [30]."),
    ("model_timeout", "\udcff", r"a duration such as 90s, 5m or 1h, above 0 and at most 365d, not '\udcff'."),
    ("on_disconnect", "stay", "`continue`, `cancel` or `cancel_after:<seconds>`, not 'stay'."),
    ("on_disconnect", 300, "`continue`, `cancel` or `cancel_after:<seconds>`, not '300'."),
    ("resumable", "yes", "True or False, not 'yes'."),
    ("resumable", 1, "True or False, not '1'."),
]


@pytest.mark.parametrize(("field", "value", "right"), WRONG, ids=[f"{field}={value!r}" for field, value, _ in WRONG])
def test_a_wrong_policy_is_refused(field: str, value: Any, right: str) -> None:
    """An app whose agent has a policy that is wrong is not made: one sentence names the field and the agent."""
    agents: Agents = {"good": echo, "deep": AgentSpec(echo, **{field: value})}
    with pytest.raises(ValueError, match="^" + re.escape(f"`{field}` of the agent deep must be {right}") + "$"):
        create_app(agents, settings=Settings())


@pytest.mark.parametrize(("own", "spec", "resumable"), [(None, None, False), (True, None, True), (True, False, False)])
def test_who_is_resumable(own: bool | None, spec: bool | None, resumable: bool) -> None:
    """The agent's own attribute says whether another process can go on with its runs, unless its `AgentSpec` does."""

    async def agent(_: RunRequest) -> None: ...

    if own is not None:
        agent.resumable = own  # type: ignore[attr-defined]
    known = policies({"mine": AgentSpec(agent, resumable=spec)}, deadline=60.0, limits=AgentLimits())
    assert known["mine"].resumable is resumable


def test_a_resumable_that_is_neither() -> None:
    """An attribute `resumable` of an agent that is neither True nor False is refused, as a wrong policy is."""

    async def agent(_: RunRequest) -> None: ...

    agent.resumable = "no"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"^`resumable` of the agent mine must be True or False, not 'no'\.$"):
        create_app({"mine": agent}, settings=Settings())


async def test_the_document() -> None:
    """The policies in docs/SETTINGS.md are those of its agent, and the size of a token's event is as it says."""
    text = (ROOT / "docs/SETTINGS.md").read_text()
    _, program = snippets(text, "python")
    namespace: dict[str, Any] = {}
    exec(program, namespace)  # noqa: S102 - this is what users write
    runs = namespace["app"].state.service.runs
    research, other = runs._policies["research"], runs._policies["chat"]
    assert (research.deadline, research.orphan_timeout, research.retention) == (3 * DAY, None, 30 * DAY)
    assert (other.deadline, other.orphan_timeout, other.retention) == (600.0, UNSET, None)
    chunk = StreamEvent("LLM_CHUNK", {"content": " hello", "delta": " hello"}, metadata={"step": 1})
    size = len(encode(chunk, new_run_id(), 100_000).body)
    assert 165 <= size <= 175
    assert "some 170 bytes" in text
    assert 90 * 60 < Settings().run_bytes / size / 60 < 120 * 60


@pytest.mark.parametrize("kind", KINDS)
async def test_deadlines(kind: str, puppets: Puppets) -> None:
    """Each agent's runs have its deadline, and those of an agent without one the server's."""
    agents: Agents = {
        "brief": AgentSpec(puppets, timeout="0.2s"),
        "long": AgentSpec(puppets, timeout=60),
        "other": puppets,
    }
    async with serving(agents, run_timeout=0.3) as server:
        runs = {name: await start(kind, server, agent=name, session_id=name) for name in agents}
        for name, seconds in (("brief", "0.2"), ("other", "0.3")):
            last = (await rest(runs[name]))[-1]["data"]
            assert (last["error_type"], last["message"]) == ("timeout", f"The run reached its deadline of {seconds} s.")
        assert server.runs.owns(runs["long"].run_id)
        await runs["long"].close()


async def test_a_deadline_of_days(puppets: Puppets) -> None:
    """What depends on the longest run holds for the agent that may take longest: answers, conversations, lists."""
    agents: Agents = {"deep": AgentSpec(puppets, timeout="3d"), "other": puppets}
    async with serving(agents, session_idle=60.0) as server, http(server) as client:
        waiting = asyncio.create_task(client.get("/chat?message=hi&stream=false&agent=deep"))
        run = server.runs._live[(await puppets.next()).request.run_id]
        assert 3 * DAY - 60 < run._deadline.due - time.monotonic() <= 3 * DAY
        assert server.service.lifetimes.answer_seconds > 3 * DAY
        limits = server.runs.log._sessions._limits  # type: ignore[attr-defined]
        assert (limits.session_idle, limits.longest) == (3 * DAY, 10 * DAY)
        waiting.cancel()
        await until(lambda: not len(server.runs))


class Loop:
    """An event loop whose clock the test sets, for `call_later` alone."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, what: Callable[[], None]) -> Loop:
        self._timers = [(self.now + seconds, what)]  # a `Deadline` has one at a time
        return self

    def cancel(self) -> None:
        self._timers.clear()

    def monotonic(self) -> float:
        return self.now

    def get_running_loop(self) -> Loop:
        return self

    def go(self, seconds: float) -> None:
        """Let so much time pass."""
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            self.now, what = self._timers.pop()
            what()
        self.now = until


def test_the_clock_of_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline of three days stands still for as long as the run waits, here a week, and then has what was left."""
    loop, expired = Loop(), list[float]()
    monkeypatch.setattr(deadline, "time", loop)
    monkeypatch.setattr(deadline, "asyncio", loop)
    due = Deadline(3 * DAY, 7 * DAY, lambda: expired.append(loop.now))
    due.start()
    loop.go(DAY)
    due.hold()
    loop.go(7 * DAY)  # which is as long as it may wait
    loop.go(2 * DAY - 1)
    assert expired == []
    loop.go(1)
    assert expired == [10 * DAY]
    assert str(Deadline(21 * DAY, 0, lambda: None).error.message) == "The run reached its deadline of 1814400 s."


async def chat(server: Running, **fields: Any) -> None:
    async with http(server) as client, client.stream("GET", "/chat", params={"message": "hi", **fields}) as answer:
        await anext(answer.aiter_bytes())


async def result(server: Running, **fields: Any) -> None:
    await chat(server, stream="false", **fields)


async def post(server: Running, **fields: Any) -> None:
    async with http(server) as client:
        assert (await client.post("/runs", json={"message": "hi", **fields})).status_code == 201


async def socket(server: Running, **fields: Any) -> None:
    await (await start("ws", server, **fields)).close()


async def ai_sdk(server: Running, **fields: Any) -> None:
    async with http(server) as client:
        await client.post("/ai-sdk/chat", json={"id": "c", "messages": said("hi"), **fields})


async def ai_sdk_socket(server: Running, **fields: Any) -> None:
    async with opened(server) as connection:
        transport = Transport(connection)
        await transport.say("send", "r", id="c", messages=said("hi"), body=fields)
        await transport.until("start", "r")


async def ag_ui(server: Running, **fields: Any) -> None:
    body = {"threadId": "t", "runId": token_hex(4), "messages": [{"id": "m", "role": "user", "content": "hi"}]}
    async with http(server) as client:
        await client.post("/ag-ui", params=fields, json=body)


async def completions(server: Running, **fields: Any) -> None:
    body = {"model": fields["agent"], "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with http(server) as client:
        await client.post("/v1/chat/completions", json=body)


Ask = Callable[..., Coroutine[Any, Any, None]]
ROUTES: list[Ask] = [chat, result, post, socket, ai_sdk, ai_sdk_socket, ag_ui]


@pytest.mark.parametrize("ask", ROUTES)
async def test_nobody_follows(ask: Ask, puppets: Puppets) -> None:
    """A start that names no `on_disconnect` has its agent's on every route; one that names it has its own."""
    agents = {"kept": AgentSpec(puppets, on_disconnect="continue"), "short": AgentSpec(puppets, on_disconnect="cancel")}
    own = {"on_disconnect": "cancel_after:7"}
    async with serving(agents) as server:
        for fields, grace in (({"agent": "kept"}, None), ({"agent": "short"}, 0.0), ({"agent": "short", **own}, 7.0)):
            asking = asyncio.create_task(ask(server, **fields))
            puppet = await puppets.next()
            assert server.runs._live[puppet.request.run_id].followers._grace == grace
            puppet.end()
            await asking


async def test_who_asks_a_model_is_present(puppets: Puppets) -> None:
    """Over `/v1` a client that leaves cancels its run, whatever the agent's policy is."""
    async with serving({"kept": AgentSpec(puppets, on_disconnect="continue")}) as server:
        asking = asyncio.create_task(completions(server, agent="kept"))
        puppet = await puppets.next()
        assert server.runs._live[puppet.request.run_id].followers._grace == 0.0
        puppet.end()
        await asking


@pytest.mark.parametrize("kind", KINDS)
async def test_limits_and_retention(kind: str, puppets: Puppets) -> None:
    """The request has its agent's limits over the server's, and the run the retention that its log is to keep to."""
    deep = AgentSpec(puppets, retention="7d", max_steps=50, max_tool_calls=4, tool_timeout="5m", model_timeout=90)
    async with serving({"deep": deep, "other": puppets}, max_steps=3) as server:
        for name, limits, retention in (
            ("deep", AgentLimits(max_steps=50, max_tool_calls=4, tool_timeout=300.0, model_timeout=90.0), 7 * DAY),
            ("other", AgentLimits(max_steps=3), None),
        ):
            follower = await start(kind, server, agent=name)
            puppet = await puppets.next()
            assert puppet.request.limits == limits
            assert (await server.runs.state(follower.run_id, ANYBODY)).info.retention == retention
            puppet.end()
            await rest(follower)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("script", [[stall], [text("a"), stall]], ids=["head", "body"])
async def test_a_model_that_is_silent(kind: str, script: Script) -> None:
    """An agent's `model_timeout` holds for its model, unless that was made with a timeout of its own."""
    async with ModelServer() as upstream:
        of_the_agent = OpenAIChatModel("m", base_url=upstream.url, max_retries=0)
        of_its_own = OpenAIChatModel("m", base_url=upstream.url, max_retries=0, timeout=0.2)
        agents = {
            "patient": AgentSpec(ReActAgent("patient", of_its_own), model_timeout=60),
            "hasty": AgentSpec(ReActAgent("hasty", of_the_agent), model_timeout="0.3s"),
        }
        async with serving(agents) as server:
            for name, seconds in (("patient", "0.2"), ("hasty", "0.3"), ("hasty", "0.3")):
                upstream.script(*script)
                last = (await rest(await start(kind, server, agent=name)))[-1]["data"]
                told = f"The model sent nothing for {seconds} s, which `--model-timeout` allows."
                assert (last["error_type"], last["message"]) == ("upstream_timeout", told)
        for model in (of_the_agent, of_its_own):
            await model.aclose()


@pytest.mark.parametrize("log", ["memory", "sqlite", "redis"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_user_over_the_quota_is_told_when(kind: str, log: str, puppets: Puppets, tmp_path: Path) -> None:
    """A start over the quota is told to come again when the first of the user's runs must have ended, not the last."""
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/log.db"}.get(log) or fresh()
    agents = {"deep": AgentSpec(puppets, timeout="3d"), "brief": AgentSpec(puppets, timeout="1h")}
    async with serving(agents, log=url, user_runs=2) as server:
        followers = [await start(kind, server, agent="deep", user_id="u", session_id="0")]
        for session_id, name, seconds in (("1", "brief", 3600.0), ("2", "deep", 3 * DAY)):
            followers.append(await start(kind, server, agent=name, user_id="u", session_id=session_id))
            with pytest.raises(Refused) as refused:
                await start(kind, server, user_id="u", session_id="3")
            assert refused.value.code == "too_many_runs"
            assert seconds - 60 < refused.value.answer["retry_after"] <= seconds
            if name == "brief":
                for _ in range(2):
                    puppet = await puppets.next()
                puppet.end()
                await rest(followers.pop())
        for follower in followers:
            await follower.close()


class Told:
    """An agent that waits, or emits for ever, and notes what its request says when it is cancelled."""

    def __init__(self, *, busy: bool = False) -> None:
        self.busy = busy
        self.began = asyncio.Event()
        self.heard: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    async def __call__(self, request: RunRequest) -> None:
        assert request.cancelled_by is None
        self.began.set()
        try:
            while True:
                await self._step(request)
        except asyncio.CancelledError:
            self.heard.set_result(request.cancelled_by)
            raise

    async def _step(self, request: RunRequest) -> None:
        if self.busy:
            request.emit(StreamEvent("PROGRESS", {"progress": 1}))
            await asyncio.sleep(0)
        else:
            await asyncio.Event().wait()


async def by_user(server: Running, run_id: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.post(f"{server.url}/runs/{run_id}/cancel")


async def by_the_log(server: Running, run_id: str) -> None:
    server.runs.interrupt([run_id], "The log has lost events of this run.")


async def by_nobody(server: Running, run_id: str) -> None:
    """Something else ends it."""


ENDS: list[tuple[str, dict[str, Any], Callable[[Running, str], Awaitable[None]]]] = [
    ("user", {}, by_user),
    ("nobody_followed", {}, by_nobody),
    ("deadline", {"run_timeout": 0.2}, by_nobody),
    ("budget", {"run_events": 5}, by_nobody),
    ("interrupted", {}, by_the_log),
    ("shutdown", {}, by_nobody),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("by", "settings", "end"), ENDS, ids=[by for by, *_ in ENDS])
async def test_an_agent_is_told_who_ends_its_run(
    kind: str, by: str, settings: dict[str, Any], end: Callable[[Running, str], Awaitable[None]]
) -> None:
    """When an agent is cancelled, its request says by what; while the run goes on it says nothing."""
    agent = Told(busy=by == "budget")
    policy = "cancel" if by == "nobody_followed" else None
    async with serving({"mine": AgentSpec(agent, on_disconnect=policy)}, **settings) as server:
        follower = await start(kind, server)
        await agent.began.wait()
        await end(server, follower.run_id)
        if by in {"nobody_followed", "shutdown"}:
            await follower.close()
        if by != "shutdown":
            assert await asyncio.wait_for(agent.heard, 10) == by
            await follower.close()
    assert await asyncio.wait_for(agent.heard, 10) == by


async def test_an_agent_that_ends_its_own_run(puppets: Puppets) -> None:
    """Nobody has cancelled a run whose agent tells its end, although the agent is closed then."""
    async with serving({"mine": puppets}) as server:
        follower = await start("ws", server)
        puppet = await puppets.next()
        puppet.emit("AGENT_FINISH", result="done")
        assert (await rest(follower))[-1]["data"]["result"] == "done"
        await puppet.closed.wait()
        assert puppet.request.cancelled_by is None
