"""A server that does what a vector of `vectors/client.json` says, over SSE or WebSocket, and notes what it was asked.

A vector has `connections`, one for each time that the run is followed, the last one for ever: `events` (a number, the
parts of an event that are not the usual ones, or a text as it is), then `then`: `break` (the default), `end`,
`silence`, or a close code of the WebSocket. Instead of events there may be `refuse` (an error's body, with `status` and
`retry_after` for HTTP), `ended` (the run has ended at the cursor), or a `body` of SSE with its `content_type`.
`starts` are what the starts are answered, `{}` for a run. `transport` is there where a vector is for one of them.
`expected`: the numbers of the `events`, the `asked` cursors, how it `end`s (the run's status, or an error's code), the
number of `starts`, and how many seconds it `lasts` at least.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from support.following import NOWHERE, Transport

Script = dict[str, Any]
_ENDED = '{"status": "completed", "result": "x"}'


def _event(item: int | str | Mapping[str, Any]) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, int):
        item = {"number": item}
    kind = item.get("type", "LLM_CHUNK")
    metadata = {"events": item.get("events", item["number"])} if kind in {"AGENT_FINISH", "ERROR"} else {}
    usual: dict[str, Any] = {
        "type": kind,
        "data": {"content": "x", "status": item.get("status", "completed"), "result": "x"}
        if kind != "ERROR"
        else {"error_type": "timeout", "message": "late"},
        "timestamp": "2026-02-21T10:30:45.123Z",
        "metadata": metadata,
        "id": f"evt-{item.get('run', NOWHERE)}-{item['number']}",
    }
    return json.dumps({name: item.get(name, value) for name, value in usual.items()})


class ScriptedServer:
    """What one vector's client talks to. `asked` are the cursors, `keys` the idempotency keys of the starts."""

    def __init__(self, script: Script) -> None:
        self.asked: list[int] = []
        self.keys: list[str] = []
        self.url = ""
        self._connections = list(script["connections"])
        self._starts = list(script.get("starts", []))
        self._heartbeat = script.get("heartbeat", 15)

    def _next(self, after: int) -> Script:
        self.asked.append(after)
        following: Script = self._connections.pop(0) if len(self._connections) > 1 else self._connections[0]
        return following

    def _start(self, asked: Script) -> Script:
        self.keys.append(asked["idempotency_key"])
        answer: Script = self._starts.pop(0)
        return answer

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1])) if length else b"{}"
            if head.startswith("POST /runs "):
                self._answer(writer, self._start(json.loads(body)).get("refuse", {"status": 201, "run_id": NOWHERE}))
            elif after := re.search(r"/events\?\S*after=(\d+)", head):
                await self._stream(reader, writer, self._next(int(after[1])))
            else:
                self._answer(writer, {"status": 200, "body": _ENDED})
        finally:
            writer.close()

    def _answer(self, writer: asyncio.StreamWriter, answer: Script) -> None:
        text = answer.get("body", json.dumps(answer))
        more = f"Retry-After: {answer['retry_after']}\r\n" if "retry_after" in answer else ""
        head = f"HTTP/1.1 {answer['status']} X\r\nContent-Type: application/json\r\n{more}"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, script: Script) -> None:
        if "refuse" in script or "ended" in script:
            self._answer(writer, script.get("refuse", {"status": 204, "body": ""}))
            return
        events = "".join(f"data: {_event(item)}\n\n" for item in script.get("events", []))
        body = script.get("body", f"retry: 1\nid: evt-{NOWHERE}-0\n\n{events}").replace("$RUN", NOWHERE).encode()
        kind = script.get("content_type", "text/event-stream; charset=utf-8")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTwinwire-Heartbeat: {self._heartbeat}\r\n"
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode() + body + b"\r\n")
        await writer.drain()
        then = script.get("then", "break")
        if then == "end":
            writer.write(b"0\r\n\r\n")
        if then == "silence":
            await reader.read()

    @staticmethod
    def ended(socket: ServerConnection, request: Request) -> Response | None:
        """What a run came to that has ended is asked by HTTP."""
        return socket.respond(200, _ENDED) if request.path.startswith("/runs/") else None

    async def socket(self, socket: ServerConnection) -> None:
        """One socket, which may follow the run again and again."""
        async for text in socket:
            command = json.loads(text)
            after = command.get("after", 0)
            reply = {"run_id": NOWHERE, "request_id": command.get("request_id"), "ref": command.get("ref")}
            refused = self._start(command).get("refuse") if command["type"] == "start" else None
            if command["type"] in {"start", "attach"}:
                script = {"refuse": refused} if refused else self._next(after)
                await self._follow(socket, script, after, {"type": f"{command['type']}ed", **reply})
            elif command["type"] == "detach":
                await self._say(socket, {"type": "detached", **reply})

    async def _follow(self, socket: ServerConnection, script: Script, after: int, reply: Script) -> None:
        if refused := script.get("refuse"):
            await self._say(socket, {"message": "no", **reply, "type": "error", **refused})
            return
        last = after if "ended" in script else 99
        await self._say(socket, {**reply, "first": 1, "last": last, "ended": "ended" in script})
        for item in script.get("events", []):
            await socket.send(_event(item))
        then = script.get("then", "break")
        if isinstance(then, int):
            await socket.close(then, "because")
        elif then == "break":
            socket.transport.close()
        elif then == "silence":
            await socket.wait_closed()

    async def _say(self, socket: ServerConnection, reply: Script) -> None:
        if reply.get("code") == "gap":
            reply["type"] = "gap"
        await socket.send(json.dumps({name: value for name, value in reply.items() if value is not None}))


@asynccontextmanager
async def playing(transport: Transport, script: Script) -> AsyncIterator[ScriptedServer]:
    """A server for one vector, at its `url`."""
    played = ScriptedServer(script)
    if transport == "sse":
        server: Any = await asyncio.start_server(played.http, "127.0.0.1", 0)
    else:
        server = await serve(played.socket, "127.0.0.1", 0, process_request=played.ended)
    played.url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
    try:
        yield played
    finally:
        server.close()
        await server.wait_closed()
