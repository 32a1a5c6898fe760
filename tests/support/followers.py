"""One way to follow, start and cancel a run over either transport, so that every scenario runs over both.

Plain clients on purpose: they show what the server sends, byte for byte, and recover from nothing.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from support.serving import Puppet

KINDS = ("sse", "ws")
OTHER = {"sse": "ws", "ws": "sse"}


class Address(Protocol):
    """Where a server is, or what stands before it."""

    url: str
    ws_url: str


class Broken(Exception):
    """The stream ended without its end: a body cut short, or a socket closed with this code."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__(code)
        self.code = code


class Refused(Exception):
    """The server answered with an error: its code, and all of its answer."""

    def __init__(self, answer: dict[str, Any], status: int | None = None) -> None:
        super().__init__(answer)
        self.code = answer.get("code", answer.get("type"))
        self.answer = answer
        self.status = status


class SseFollower:
    """A run followed over SSE."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._url = url
        self._headers = headers
        self._client = httpx.AsyncClient(timeout=20, trust_env=False, verify=False)
        self._buffer = b""
        self.comments = 0
        self.opening = b""
        self.ended = False  # with nothing more to come: 204

    async def open(self) -> SseFollower:
        request = self._client.build_request("GET", self._url, headers=self._headers)
        try:
            self.response = await self._client.send(request, stream=True)
        except AttributeError as error:  # anyio's, for a connection that breaks while it is made
            raise httpx.ConnectError(str(error)) from error
        if self.response.status_code == 204:
            self.ended = True
        elif self.response.status_code != 200:
            answer = json.loads(await self.response.aread())
            await self.close()
            raise Refused(answer, self.response.status_code)
        self.run_id = self.response.headers.get("twinwire-run", "")  # none of a start that is put off
        self._bytes = self.response.aiter_raw()
        return self

    async def next(self) -> bytes | None:
        """The next event's JSON; None at the clean end."""
        while True:
            while b"\n\n" not in self._buffer:
                try:
                    self._buffer += await anext(self._bytes)
                except StopAsyncIteration:
                    assert self._buffer == b""
                    return None
                except httpx.TransportError:
                    raise Broken from None
            block, _, self._buffer = self._buffer.partition(b"\n\n")
            lines = block.split(b"\n")
            if lines[0].startswith(b":"):
                self.comments += 1
            elif lines[0].startswith(b"retry:"):
                self.opening = block
            else:
                assert [line.split(b": ", 1)[0] for line in lines] == [b"event", b"data", b"id"]
                return lines[1].removeprefix(b"data: ")

    async def close(self) -> None:
        await self.response.aclose()
        await self._client.aclose()


class WsFollower:
    """A run followed over a WebSocket."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.replies: list[dict[str, Any]] = []
        self.ended = False
        self._over = False

    async def open(self, command: dict[str, Any]) -> WsFollower:
        self.socket: ClientConnection = await connect(self._url, compression=None, proxy=None, close_timeout=1)
        await self.say(command)
        reply = await self.reply()
        if reply["type"] not in {"started", "attached"}:
            await self.close()
            raise Refused(reply)
        self.opened = reply
        self.run_id = reply["run_id"]
        self.ended = reply.get("ended", False) and reply["last"] == command.get("after")
        return self

    async def say(self, command: dict[str, Any]) -> None:
        await self.socket.send(json.dumps(command))

    async def receive(self) -> bytes:
        try:
            return (await self.socket.recv(decode=False)) or b""
        except ConnectionClosed as error:
            raise Broken(error.rcvd.code if error.rcvd else None) from None

    async def reply(self) -> dict[str, Any]:
        """The next message, which must be a reply."""
        message: dict[str, Any] = json.loads(await self.receive())
        assert message["type"].islower(), message
        return message

    async def next(self) -> bytes | None:
        """The next event's JSON; None after the terminal event."""
        if self._over:
            return None
        while True:
            body = await self.receive()
            message = json.loads(body)
            if message["type"].islower():
                self.replies.append(message)
                if message["type"] in {"gap", "error"}:
                    raise Refused(message)
                continue
            self._over = message["type"] in {"AGENT_FINISH", "ERROR"}
            return body

    async def close(self) -> None:
        await self.socket.close()


AnyFollower = SseFollower | WsFollower


async def start(kind: str, server: Address, message: str = "hi", **options: Any) -> AnyFollower:
    """Start a run and follow it."""
    if kind == "ws":
        return await WsFollower(server.ws_url).open(
            {"type": "start", "request_id": "r1", "message": message, **options}
        )
    if "types" in options:
        options["types"] = ",".join(options["types"])
    query = urlencode({"message": message, "envelope": "1", **options})
    return await SseFollower(f"{server.url}/chat/stream?{query}", {}).open()


async def attach(
    kind: str, server: Address, run_id: str, after: int | str = 0, types: list[str] | None = None
) -> AnyFollower:
    """Follow a run that was started elsewhere, or resume one."""
    if kind == "ws":
        extra = {} if types is None else {"types": types}
        return await WsFollower(server.ws_url).open({"type": "attach", "run_id": run_id, "after": after, **extra})
    query = {"envelope": "1"} | ({} if types is None else {"types": ",".join(types)})
    headers = {}
    if str(after).startswith("evt-"):
        headers["last-event-id"] = str(after)
    else:
        query["after"] = str(after)
    return await SseFollower(f"{server.url}/runs/{run_id}/events?{urlencode(query)}", headers).open()


async def cancel(kind: str, server: Address, run_id: str) -> str:
    """Cancel a run from a connection of its own; the acknowledgement's status. Raise `Refused` if there is none."""
    if kind == "sse":
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as client:
            response = await client.post(f"{server.url}/runs/{run_id}/cancel")
        if response.status_code == 404:
            return "not_found"
        told = response.json()
        if not response.is_success:
            raise Refused(told, response.status_code)
        status: str = told["status"]
        assert response.status_code == (202 if status == "accepted" else 200)
        return status
    async with connect(server.ws_url, compression=None, proxy=None) as socket:
        await socket.send(json.dumps({"type": "cancel", "run_id": run_id}))
        reply = json.loads(await socket.recv())
        if reply["type"] == "error":
            raise Refused(reply)
        assert reply["type"] == "cancel_ack"
        assert reply["run_id"] == run_id
        return str(reply["status"])


async def events(follower: AnyFollower) -> AsyncIterator[dict[str, Any]]:
    """The rest of the run's events, decoded."""
    while (body := await follower.next()) is not None:
        yield json.loads(body)


async def rest(follower: AnyFollower) -> list[dict[str, Any]]:
    """All of the rest, checked as any client may check it: contiguous to the terminal event; then close."""
    seen = [event async for event in events(follower)]
    await follower.close()
    check(seen)
    return seen


async def cut_often(
    follower: AnyFollower, puppet: Puppet, resume: Callable[[int, str], Awaitable[AnyFollower]]
) -> list[dict[str, Any]]:
    """All events of a run, whose follower is cut off ten times while the agent talks: nothing is lost or repeated.

    The next follower is `resume(cut, cursor)`.
    """
    seen: list[dict[str, Any]] = []
    for cut in range(10):
        puppet.say(f"{cut}a ", f"{cut}b ")
        async for event in events(follower):
            seen.append(event)
            if event["data"].get("content") == f"{cut}b ":
                break
        await follower.close()
        puppet.say(f"{cut}c ")  # while nobody is there
        follower = await resume(cut, seen[-1]["id"])
    puppet.end()
    seen += await rest(follower)
    check(seen)
    assert text(seen) == "".join(f"{cut}{letter} " for cut in range(10) for letter in "abc")
    return seen


def number(event: dict[str, Any]) -> int:
    """An event's number in its run."""
    return int(event["id"].rpartition("-")[2])


def check(seen: list[dict[str, Any]]) -> None:
    """The promises of PROTOCOL.md, section 1, of an unfiltered stream that came to its end."""
    numbers = [number(event) for event in seen]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert [event["type"] in {"AGENT_FINISH", "ERROR"} for event in seen] == [False] * (len(seen) - 1) + [True]
    assert seen[-1]["metadata"]["events"] == numbers[-1]
    assert len({event["id"].rpartition("-")[0] for event in seen}) == 1


def text(seen: list[dict[str, Any]]) -> str:
    """The answer as a client puts it together."""
    return "".join(event["data"]["content"] for event in seen if event["type"] == "LLM_CHUNK")


async def say(kind: str, server: Address, run_id: str, **what: Any) -> dict[str, Any]:
    """Say something to a run from a connection of its own: `content`, or `input_id` and `answer`; the outcome.

    Whichever way it goes, an error is told as its body, and a status as an acknowledgement has it.
    """
    if kind == "ws":
        async with connect(server.ws_url, compression=None, proxy=None) as socket:
            command = "answer" if "input_id" in what else "send"
            await socket.send(json.dumps({"type": command, "run_id": run_id, "ref": 7, **what}))
            reply: dict[str, Any] = json.loads(await socket.recv())
            assert reply.pop("ref") == 7
            assert reply.pop("run_id") == run_id
            assert reply.pop("type") == ("error" if "code" in reply else f"{command}_ack")
            assert reply.pop("input_id", None) == (None if "code" in reply else what.get("input_id"))
            return reply
    path = f"inputs/{what['input_id']}" if "input_id" in what else "messages"
    body = {name: value for name, value in what.items() if name != "input_id"}
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as client:
        response = await client.post(f"{server.url}/runs/{run_id}/{path}", json=body)
    told: dict[str, Any] = response.json()
    if response.is_success:
        assert response.status_code == (200 if "input_id" in what else 202)
        assert told.pop("run_id") == run_id
        assert told.pop("input_id", None) == what.get("input_id")
        return told
    status = {"input_expired": "expired", "run_ended": "already_finished", "not_accepted": "not_accepted"}
    status |= {"input_not_found": "not_found"} | ({"run_not_found": "not_found"} if "input_id" in what else {})
    if told["code"] in status:
        assert response.status_code == (404 if told["code"].endswith("not_found") else 409)
        return {"status": status[told["code"]]}
    return told
