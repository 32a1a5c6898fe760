"""A server that does what a vector of `vectors/client.json` says, over SSE or WebSocket, and notes what it was asked.

A vector has `connections`, one for each time that the run is followed, the last one for ever: `events` (a number, the
parts of an event that are not the usual ones, or a text as it is), then `then`: `break` (the default), `end`,
`silence`, `wait` (for commands, too), or a close code of the WebSocket. Instead of events there may be `refuse` (an
error's body, with `status` and `retry_after` for HTTP), `ended` (the run has ended at the cursor), or a `body` of SSE
with its `content_type`.
`starts` are what the starts are answered, `{}` for a run. `transport` is there where a vector is for one of them.
`expected`: the numbers of the `events`, the `asked` cursors, how it `end`s (the run's status, or an error's code), the
number of `starts`, and how many seconds it `lasts` at least.

The vectors of `vectors/talk.json` `say` something to the run: `answer` with an input id and a value, or `send` with a
content. `replies` are what comes of that each time: `ack` (a status, or the body of an acknowledgement), which is the
error `http` in place of one over HTTP; `refuse`, as above; or `then`: `break` or `silence`; the last one for ever.
`expected` is the `status` and what else the client tells, or the `error` and its `field`; and how often it is `said`
at least, with one `message_id`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from support.following import NOWHERE

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
    """What one vector's client talks to.

    `asked` are the cursors, `keys` the idempotency keys of the starts, `said` what was said to the run, as an answer's
    input id or None, the words, and the message id.
    """

    def __init__(self, script: Script) -> None:
        self.asked: list[int] = []
        self.keys: list[str] = []
        self.said: list[tuple[str | None, Any, str]] = []
        self.url = ""
        self._connections = list(script["connections"])
        self._replies = list(script.get("replies", []))
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

    def _hear(self, body: Script, input_id: str | None) -> Script:
        words = body["content"] if input_id is None else body["answer"]
        self.said.append((input_id, words, body["message_id"]))
        reply: Script = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if isinstance(reply.get("ack"), str):
            reply = {**reply, "ack": {"status": reply["ack"]}}
        return reply

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, raw: bytes) -> None:
        """One request, whose head was read."""
        try:
            head = raw.decode()
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1])) if length else b"{}"
            if head.startswith("POST /runs "):
                self._answer(writer, self._start(json.loads(body)).get("refuse", {"status": 201, "run_id": NOWHERE}))
            elif after := re.search(r"/events\?\S*after=(\d+)", head):
                await self._stream(reader, writer, self._next(int(after[1])))
            elif said := re.match(r"POST /runs/\w+/(?:inputs/(\S+)|messages) ", head):
                reply = self._hear(json.loads(body), said[1])
                if "then" not in reply:
                    refused = reply.get("http") or reply.get("refuse")
                    self._answer(writer, refused or {"status": 200, "body": json.dumps(reply["ack"])})
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
        if then in {"silence", "wait"}:
            await reader.read()

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
            elif command["type"] in {"answer", "send"}:
                heard = self._hear(command, command.get("input_id"))
                if heard.get("then") == "break":
                    socket.transport.close()
                elif refusal := heard.get("refuse"):
                    await self._say(socket, {"message": "no", **reply, "type": "error", **refusal})
                elif "ack" in heard:
                    told = {"message_id": command["message_id"], **heard["ack"]}
                    await self._say(socket, {"type": f"{command['type']}_ack", **reply, **told})
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


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


@asynccontextmanager
async def playing(script: Script) -> AsyncIterator[ScriptedServer]:
    """A server for one vector, at its `url`."""
    played = ScriptedServer(script)
    tasks: set[asyncio.Task[None]] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, inner: int) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            async with AsyncExitStack() as stack:
                stack.callback(writer.close)
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"GET /ws"):
                    await played.http(reader, writer, head)
                    return
                onward, server = await asyncio.open_connection("127.0.0.1", inner)
                stack.callback(server.close)
                server.write(head)
                await asyncio.gather(_pass(reader, server), _pass(onward, writer))

    async with serve(played.socket, "127.0.0.1", 0) as sockets:
        inner = next(iter(sockets.sockets)).getsockname()[1]

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.create_task(serve_one(reader, writer, inner)))

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as front:
            played.url = f"http://127.0.0.1:{front.sockets[0].getsockname()[1]}"
            yield played
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
