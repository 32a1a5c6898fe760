"""Other protocols' routes: what starts, resumes and stops what, and how they refuse."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from formats_rules import datas
from serving import Puppets, Running, echo, serving, until
from twinwire.errors import BadRequest
from twinwire.runs.conversation import question, text
from twinwire.transports import Verdict


def http(server: Running) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20)


def said(*texts: str) -> list[dict[str, Any]]:
    """A chat of the AI SDK: the user's and the assistant's messages in turn."""
    roles = ["user", "assistant"] * len(texts)
    return [
        {"role": role, "parts": [{"type": "text", "text": words}]} for role, words in zip(roles, texts, strict=False)
    ]


def frames(answer: httpx.Response) -> list[Any]:
    """The JSON values of an SSE body, without its comment."""
    return datas([answer.content.removeprefix(b": heartbeat\n\n")])


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
        await until(lambda: len(server.service.sweep.pumps) == 2)
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
    body = {"id": "c", "threadId": "t", "runId": "r", "model": "puppet", "messages": messages}
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
        assert [event["type"] for event in again[:2]] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
        assert [message["content"] for message in again[1]["messages"]] == ["a", "one"]
        assert again[-1]["type"] == "RUN_FINISHED"
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


async def test_a_body_without_its_end_is_broken(server: Running, puppets: Puppets) -> None:
    """In these formats too a stream that stops short is cut off, so that nobody takes it for complete."""
    async with http(server) as client:
        for name in ("ai-sdk", "ag-ui", "openai"):
            with pytest.raises(httpx.RemoteProtocolError):
                async with client.stream("GET", f"/chat?message=x&format={name}") as response:
                    (await puppets.next()).say("a")
                    async for chunk in response.aiter_bytes():
                        if b'"a"' in chunk:
                            for pump in server.service.sweep.pumps:
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


def test_question() -> None:
    """Of the conversation the newest messages within the limit are kept, as texts, and none of other roles."""
    turns = [
        ("user", "aaaa"),
        ("assistant", "bb"),
        ("tool", "x"),
        ("developer", "ü"),
        ("assistant", " "),
        ("user", "c"),
    ]
    assert question(turns, 4) == (
        "c",
        [{"role": "assistant", "content": "bb"}, {"role": "system", "content": "ü"}],
    )
    assert len(question(turns, 8)[1]) == 3
    with pytest.raises(BadRequest):
        question(turns[:2], 8)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("x", "x"),
        (None, ""),
        (7, ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, 5, {"type": "file"}, {"type": "text"}], "a"),
    ],
)
def test_text(content: Any, expected: str) -> None:
    """A content is a text, or parts of which those that are text count."""
    assert text(content) == expected


class Transport:
    """A client of /ai-sdk/ws."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def say(self, kind: str, request: str, **fields: Any) -> None:
        await self._socket.send(json.dumps({"type": kind, "requestId": request, "headers": {}, "body": {}, **fields}))

    async def next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await asyncio.wait_for(self._socket.recv(), 10))
        return message

    async def until(self, kind: str, request: str) -> list[dict[str, Any]]:
        """The messages up to one of this type for this request."""
        seen = [await self.next()]
        while (seen[-1]["type"], seen[-1]["requestId"]) != (kind, request):
            seen.append(await self.next())
        return seen


def opened(server: Running) -> Any:
    return connect(f"ws://127.0.0.1:{server.port}/ai-sdk/ws", compression=None, proxy=None)


async def test_socket_stop(server: Running, puppets: Puppets) -> None:
    """An abort of a send cancels the run at once; a resume of the chat then finds nothing."""
    async with opened(server) as socket:
        client = Transport(socket)
        await client.say("send", "r1", id="c", trigger="submit-message", messages=said("a"))
        puppet = await puppets.next()
        puppet.say("one")
        await client.say("abort", "r1")
        await puppet.closed.wait()
        seen = await client.until("end", "r1")
        assert (seen[0]["type"], seen[-2]["chunk"]["type"]) == ("start", "finish")
        await client.say("resume", "r2", id="c")
        assert await client.next() == {"type": "no-active", "requestId": "r2"}


async def test_socket_resumed_twice(server: Running, puppets: Puppets) -> None:
    """An abort of a resume, before another resume of the chat, does not cancel the run; one with none after it does."""
    async with opened(server) as one, opened(server) as other:
        first, second = Transport(one), Transport(other)
        await first.say("send", "r1", id="c", trigger="submit-message", messages=said("a"))
        puppet = await puppets.next()
        puppet.say("one")
        await second.say("resume", "r2", id="c")
        await second.say("abort", "r2")
        await second.say("resume", "r3", id="c")
        await second.until("start", "r3")
        puppet.say("two")
        await asyncio.sleep(1.1)  # longer than the grace: that nothing happens cannot be waited for
        assert not puppet.closed.is_set()
        seen = [await second.next()]
        assert (seen[0]["sequence"], seen[0]["chunk"]["type"]) == (0, "start")
        await second.say("abort", "r3")
        await asyncio.wait_for(puppet.closed.wait(), 10)
        assert (await first.until("end", "r1"))[-2]["chunk"]["type"] == "finish"


async def test_socket_resumed_by_another_request(server: Running, puppets: Puppets) -> None:
    """A request whose run another one of the socket resumes is told so: one run is followed for one request."""
    async with opened(server) as socket:
        client = Transport(socket)
        await client.say("send", "r1", id="c", trigger="submit-message", messages=said("a"))
        puppet = await puppets.next()
        puppet.say("one")
        await client.until("chunk", "r1")
        await client.say("resume", "r2", id="c")
        told = (await client.until("start", "r2"))[-2]
        assert (told["type"], told["requestId"]) == ("error", "r1")
        puppet.end()
        assert {message["requestId"] for message in await client.until("end", "r2")} == {"r2"}


@pytest.mark.parametrize(
    ("message", "request_id"),
    [
        ("no JSON", ""),
        ("[]", ""),
        ('{"type":"send","requestId":7}', ""),
        ('{"type":"nothing","requestId":"r1"}', "r1"),
        ('{"type":"send","requestId":"r1","id":"c","messages":[]}', "r1"),
        ('{"type":"send","requestId":"r1","id":"c","messages":[5]}', "r1"),
        ('{"type":"resume","requestId":"r1","id":"c","body":{"user_id":5}}', "r1"),
        (
            '{"type":"send","requestId":"r1","id":"c","body":{"agent":"nobody"},"messages":[{"role":"user","parts":[{"type":"text","text":"x"}]}]}',
            "r1",
        ),
    ],
)
async def test_socket_refuses(message: str, request_id: str, server: Running, puppets: Puppets) -> None:
    """Whatever is wrong with a message, its request is told and the socket lives; the client would kill it for less."""
    async with opened(server) as socket:
        await socket.send(message)
        client = Transport(socket)
        answer = await client.next()
        assert (answer["type"], answer["requestId"], bool(answer["errorText"])) == ("error", request_id, True)
        await client.say("resume", "r2", id="c")
        assert (await client.next())["type"] == "no-active"
    assert puppets.started == 0
