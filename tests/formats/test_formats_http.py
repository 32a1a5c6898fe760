"""Other protocols' routes: what starts, resumes and stops what, and how they refuse."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from support.chats import frames, http, said
from support.serving import Puppets, Running, echo, serving, until
from twinwire.protocol.errors import BadRequest
from twinwire.transports import Verdict
from twinwire.web.compat.dialects import Turn, question


async def test_a_chats_history(server: Running, puppets: Puppets) -> None:
    """The client's messages are the history; a client that sends its last message alone has the session's."""
    async with http(server) as client:
        for body in ({"messages": said("a", "b", "c")}, {"message": said("d")[0]}):
            asking = asyncio.create_task(client.post("/ai-sdk/chat?agent=mine", json={"id": "c1", **body}))
            puppet = await puppets.next()
            puppet.say("yes")
            puppet.end()
            assert frames(await asking)[-1] == "[DONE]"
            turns = [turn["content"] for turn in puppet.request.history]
            assert turns == (["a", "b"] if "messages" in body else ["c", "yes"])


async def test_a_second_message_interrupts(server: Running, puppets: Puppets) -> None:
    """A new message in a chat ends the run that goes on in it, which its follower sees as an abort."""
    async with http(server) as client:
        first = asyncio.create_task(client.post("/ai-sdk/chat", json={"id": "c1", "messages": said("a")}))
        await puppets.next()
        second = asyncio.create_task(client.post("/ai-sdk/chat", json={"id": "c1", "messages": said("b")}))
        (await puppets.next()).end()
        assert [chunk["type"] for chunk in frames(await first)[:-1]] == ["start", "abort", "finish"]
        assert frames(await second)[-2]["finishReason"] == "stop"


async def test_resume_and_stop(server: Running, puppets: Puppets) -> None:
    """A chat's run is resumed whole, with the same messageId, and stopped; another's chat is not there."""
    async with http(server) as client:
        asked = {"id": "c1", "messages": said("a"), "user_id": "ann"}
        asking = asyncio.create_task(client.post("/ai-sdk/chat", json=asked))
        puppet = await puppets.next()
        puppet.say("one")
        assert (await client.get("/ai-sdk/chat/c1/stream")).status_code == 204
        assert (await client.post("/ai-sdk/chat/c1/stop?user_id=bob")).status_code == 204
        resuming = asyncio.create_task(client.get("/ai-sdk/chat/c1/stream?user_id=ann"))
        await until(lambda: len(server.service.heartbeats.pumps) == 2)
        stopped = await client.post("/ai-sdk/chat/c1/stop?user_id=ann")
        assert (stopped.status_code, stopped.json()["status"]) == (202, "accepted")
        first, second = frames(await asking), frames(await resuming)
        assert first == second
        assert first[0]["messageId"] == stopped.json()["run_id"]
        assert (await client.get("/ai-sdk/chat/c1/stream?user_id=ann")).status_code == 204


@pytest.mark.parametrize("path", ["/ai-sdk/chat", "/ag-ui", "/v1/chat/completions"])
@pytest.mark.parametrize("last", ["assistant", "tool", None])
async def test_the_last_message_is_the_users(path: str, last: str | None, server: Running, puppets: Puppets) -> None:
    """A conversation that ends otherwise, or is empty, is refused, and nothing runs."""
    messages = [] if last is None else [{"role": last, "content": "x", "parts": said("x")[0]["parts"]}]
    body = {"id": "c", "threadId": "t", "runId": "r", "model": "mine", "messages": messages}
    async with http(server) as client:
        answer = await client.post(path, json=body)
        assert answer.status_code == 400
        told = answer.json()
        assert told.get("field", told.get("error", {}).get("param")) == "messages"
    assert puppets.started == 0


async def test_ag_ui_joins_a_run_it_knows(server: Running, puppets: Puppets) -> None:
    """The same runId again follows the same run, also after its end; another one starts another run."""
    body = {"threadId": "t", "runId": "r1", "messages": [{"id": "m", "role": "user", "content": "a"}]}
    async with http(server) as client:
        asking = asyncio.create_task(client.post("/ag-ui", json=body))
        puppet = await puppets.next()
        puppet.say("one")
        puppet.end()
        assert [event["type"] for event in frames(await asking)][-1] == "RUN_FINISHED"
        again = frames(await client.post("/ag-ui", json=body))
        text = ["TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"]
        assert [event["type"] for event in again] == ["RUN_STARTED", "MESSAGES_SNAPSHOT", *text, "RUN_FINISHED"]
        assert (again[1]["messages"], again[3]["delta"]) == (body["messages"], "one")
        assert puppets.started == 1
        asking = asyncio.create_task(client.post("/ag-ui", json={**body, "runId": "r2"}))
        (await puppets.next()).end()
        assert frames(await asking)[0]["runId"] == "r2"


@pytest.mark.parametrize("name", ["ai-sdk", "ag-ui", "openai", "mine"])
async def test_format(name: str) -> None:
    """`?format=` shows the same run in each format, while it goes on and afterwards; its body ends with the run."""
    async with (
        serving({"echo": echo}, formats={"mine": lambda event: event.type.encode()}) as server,
        http(server) as client,
    ):
        live = await client.get(f"/chat?message=a+b&format={name}")
        run_id = live.headers["twinwire-run"]
        later = await client.get(f"/runs/{run_id}/events?format={name}")
        assert live.content.partition(b"\n\n")[2] == later.content.partition(b"\n\n")[2]
        if name == "mine":
            assert live.text.partition("\n\n")[2] == "".join(
                f"data: {kind}\nid: evt-{run_id}-{number}\n\n"
                for number, kind in enumerate(["AGENT_START", "LLM_CHUNK", "LLM_CHUNK", "AGENT_FINISH"], 1)
            )
        resumed = await client.get(f"/runs/{run_id}/events?format={name}&after=2")
        assert resumed.status_code == (200 if name in {"mine", "ag-ui"} else 400)
        for bad in ("types=LLM_CHUNK", "envelope=1"):
            refused = await client.get(f"/chat?message=a&format={name}&{bad}")
            assert (refused.status_code, refused.json()["field"]) == (400, bad.partition("=")[0])


STREAMS = [
    ("POST", "/ai-sdk/chat?user_id=u", {"id": "c2", "messages": said("a")}),
    ("GET", "/ai-sdk/chat/c/stream?user_id=u", None),
    ("POST", "/ag-ui?user_id=u", {"threadId": "t", "runId": "r", "messages": [{"role": "user", "content": "a"}]}),
    ("GET", "/chat?message=a&format=ai-sdk&user_id=u", None),
    ("GET", "/runs/{run_id}/events?format=openai", None),
]
COMPLETION = {"model": "mine", "stream": True, "messages": [{"role": "user", "content": "a"}]}


@pytest.mark.parametrize("bounds", [{"max_connections": 1}, {"user_connections": 1}], ids=["in all", "of one user"])
async def test_no_room(bounds: dict[str, int], puppets: Puppets) -> None:
    """A stream too many is refused in the format's own way, and nothing runs; EventSource alone is put off instead."""
    formats = {"mine": lambda event: event.type.encode()}
    asked = {"id": "c", "messages": said("a"), "user_id": "u"}
    async with (
        serving({"mine": puppets}, formats=formats, **bounds) as server,
        http(server) as client,
        client.stream("POST", "/ai-sdk/chat", json=asked) as first,
    ):
        run_id = first.headers["twinwire-run"]
        for method, path, body in STREAMS:
            refused = await client.request(method, path.format(run_id=run_id), json=body)
            told = refused.json()
            assert (refused.status_code, told["code"]) == (429, "too_many_connections")
            assert refused.headers["retry-after"] == str(told["retry_after"]) == "5"
        if "max_connections" in bounds:
            refused = await client.post("/v1/chat/completions", json=COMPLETION)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
            assert (refused.json()["error"]["type"], refused.json()["error"]["code"]) == (
                "rate_limit_error",
                "too_many_connections",
            )
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"/runs/{run_id}/events?format=mine")
        (await puppets.next()).end()
        await first.aread()
        assert puppets.started == 1
        await until(lambda: not server.service.heartbeats.pumps)
        assert (await client.get(f"/runs/{run_id}/events?format=ai-sdk")).status_code == 200


async def test_a_body_without_its_end_is_broken(server: Running, puppets: Puppets) -> None:
    """In these formats too a stream that stops short is cut off, so that nobody takes it for complete."""
    async with http(server) as client:
        for name in ("ai-sdk", "ag-ui", "openai"):
            with pytest.raises(httpx.RemoteProtocolError):
                async with client.stream("GET", f"/chat?message=x&format={name}") as response:
                    (await puppets.next()).say("a")
                    async for chunk in response.aiter_bytes():
                        if b'"a"' in chunk:
                            for pump in server.service.heartbeats.pumps:
                                pump.end(Verdict.RESTART)


async def test_openai_errors_look_like_openais(tmp_path: Any) -> None:
    """Also those of who comes in without a key, which is the server's bearer token."""
    tokens = tmp_path / "tokens"
    tokens.write_text("ann:0123456789abcdef0123456789abcdef\n")
    body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    async with serving({"echo": echo}, auth_tokens_file=str(tokens)) as server, http(server) as client:
        refused = await client.post("/v1/chat/completions", json=body)
        assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
        key = {"authorization": "Bearer 0123456789abcdef0123456789abcdef"}
        answer = await client.post("/v1/chat/completions", json=body, headers=key)
        assert answer.json()["choices"][0]["message"]["content"] == "hi "
        missing = await client.post("/v1/chat/completions", json={"messages": []}, headers=key)
        assert (missing.status_code, missing.json()["error"]["param"]) == (400, "model")
        for method, path, status, code in (
            ("GET", "/v1/models/nobody", 404, "model_not_found"),
            ("POST", "/v1/responses", 404, "not_found"),
            ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ):
            told = await client.request(method, path, headers=key)
            assert (told.status_code, told.json()["error"]["code"]) == (status, code)


async def test_pages_of_other_origins(puppets: Puppets) -> None:
    """What each protocol's npm client sends from a browser is let through from a listed origin."""
    sent = "authorization,content-type,user-agent,x-stainless-arch,x-stainless-helper-method,x-stainless-lang"
    origin = "https://app.example"
    async with serving({"mine": puppets}, cors_origin=(origin,)) as server, http(server) as client:
        for path in ("/ai-sdk/chat", "/ag-ui", "/v1/chat/completions"):
            asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": sent}
            answer = await client.options(path, headers=asked)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, origin)
            allowed = answer.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
            assert set(sent.split(",")) <= set(allowed)


def test_question() -> None:
    """Of the conversation the newest messages within the limit are kept, if they have a text."""
    turns = [
        Turn("user", "aaaa"),
        Turn("assistant", "bb"),
        Turn("system", "ü"),
        Turn("assistant", " "),
        Turn("user", "c"),
    ]
    assert question(turns, 4) == (
        Turn("user", "c"),
        [{"role": "assistant", "content": "bb"}, {"role": "system", "content": "ü"}],
    )
    assert len(question(turns, 8)[1]) == 3
    with pytest.raises(BadRequest):
        question(turns[:4], 8)
