"""A model's server that answers byte for byte as a case of `vectors/upstream/cases.json` says, over real HTTP/1.1.

The last marker in a request's body, `[replay A01 nonce]`, says which case is played. Requests with one (case, nonce)
are counted: the first gets the case's own answer, the next ones those of its `then_respond`, the last of which is
repeated. A body without a case, or of the case ORDINARY, gets the ordinary answer.

A case, and each entry of its `then_respond`, is an answer:

    status, content_type, headers   as they are; a header may hold `<second port>` (see below) or `<date +25 s>`
    chunks      a list; each item is one HTTP chunk, in one write. An item is a string, {"repeat": text, "times": n},
                {"pause": seconds}, which is no chunk, or a list of strings and repeats, which is their concatenation
    encoding    "latin-1" if the strings stand for bytes; else they are UTF-8
    framing     "chunked" (the default); "length", with a Content-Length; "raw": the chunks are all that is written,
                the answer's head included
    then        what follows the last chunk in place of a proper end: "hold" (open and silent, until the client leaves),
                "repeat-last-every-5s", "reset" (RST), "close-without-last-chunk"; "close": a proper end, then a FIN;
                "keep" (raw alone, which else closes): the connection stays for the next request
    first_byte_after_s              how long nothing is sent at all, not even the head
    unless      a condition, such as "assistant.reasoning_content is not empty": a request that meets it gets the
                ordinary answer. A path begins at the body, or with `assistant`, the last message of its that has
                tool calls; what it is can be: there, not there, not empty, a string, JSON
    repeat_first                    (in `then_respond` alone) the case's own answer so many times more

The second port is of another origin: there a GET is 405, a request without Authorization 401, else it is ordinary.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

MISSING = object()
PAUSE = 0.004
"""Seconds between two writes, so that they are two reads for whoever reads."""

_MARK = re.compile(r"\[replay ([\w-]+) ([\w-]+)\]")
_STEP = re.compile(r"\.?(\w+)|\[(-?\d+)\]")
_CONDITION = re.compile(r"(\S+) is (not there|there|not empty|a string|JSON)")


def sse(*values: Any) -> list[str]:
    """Return these values as events, and `[DONE]`."""
    return [f"data: {json.dumps(value, separators=(',', ':'))}\n\n" for value in values] + ["data: [DONE]\n\n"]


def _chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
ORDINARY = {
    "chunks": sse(
        _chunk({"role": "assistant", "content": "ordinary answer"}), _chunk({}, "stop"), {"choices": [], "usage": USAGE}
    )
}


def resolve(path: str, body: Any) -> Any:
    """Return the value at a path such as `messages[-2].content` of a request's body, or MISSING."""
    if path.startswith("assistant"):
        called = [message for message in (body or {}).get("messages", ()) if message.get("tool_calls")]
        body, path = called[-1] if called else MISSING, path.removeprefix("assistant")
    for name, index in _STEP.findall(path):
        try:
            body = body[name] if name else body[int(index)]
        except (KeyError, IndexError, TypeError):
            return MISSING
    return body


def holds(condition: str, body: Any) -> bool:
    """Return whether a request's body meets the condition."""
    match = _CONDITION.fullmatch(condition)
    if match is None:
        raise ValueError(f"no such condition: {condition}")
    value = resolve(match[1], body)
    if match[2] == "not there":
        return value is MISSING
    if match[2] == "there":
        return value is not MISSING
    if match[2] == "not empty":
        return value is not MISSING and bool(value)
    if match[2] == "a string":
        return isinstance(value, str)
    try:
        json.loads(value)
    except (TypeError, ValueError):
        return False
    return True


def pieces(answer: dict[str, Any]) -> Iterator[bytes | float]:
    """Give the writes of an answer's chunks, and the pauses between them."""
    encoding = answer.get("encoding", "utf-8")

    def text(item: Any) -> str:
        if isinstance(item, list):
            return "".join(map(text, item))
        return str(item["repeat"] * item["times"] if isinstance(item, dict) else item)

    for item in answer.get("chunks", ()):
        if isinstance(item, dict) and "pause" in item:
            yield float(item["pause"])
        elif data := text(item).encode(encoding):
            yield data


def reshaped(parts: list[bytes | float], writes: str) -> list[bytes | float]:
    """Return the same bytes in one write, or in one for each byte; pauses stay where they are."""
    joined: list[bytes | float] = []
    for part in parts:
        if isinstance(part, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += part
        else:
            joined.append(part)
    if writes == "one":
        return joined
    return [
        small
        for part in joined
        for small in ([part[at : at + 1] for at in range(len(part))] if isinstance(part, bytes) else [part])
    ]


@dataclass
class Request:
    """One request, and what became of its connection; times are of `time.monotonic`."""

    case: str
    nonce: str
    number: int
    connection: int
    second: bool
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    gone: bool = False
    """Its client has closed the connection."""


@contextmanager
def replaying(cases: list[dict[str, Any]], writes: str) -> Iterator[Replay]:
    """Serve in a thread until the block ends: sockets that a case leaves open are none of the test's event loop's."""
    replay = Replay(cases, writes)
    loop = asyncio.SelectorEventLoop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(replay.start(), loop).result()
        yield replay
    finally:
        asyncio.run_coroutine_threadsafe(replay.aclose(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Replay:
    """The server. `requests[case, nonce]` are those that came, in order."""

    def __init__(self, cases: list[dict[str, Any]], writes: str = "each") -> None:
        self.cases = {case["id"]: case for case in cases}
        self.writes = writes
        self.requests: defaultdict[tuple[str, str], list[Request]] = defaultdict(list)
        self.port = self.second_port = 0
        self._connections = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen, on a port of the system's choice if it is 0."""
        self._servers = [
            await asyncio.start_server(lambda r, w: self._serve(r, w, second=False), host, port, limit=2**20),
            await asyncio.start_server(lambda r, w: self._serve(r, w, second=True), host, 0, limit=2**20),
        ]
        self.port, self.second_port = (server.sockets[0].getsockname()[1] for server in self._servers)

    async def aclose(self) -> None:
        """Take no more connections, and end those that are open."""
        for server in self._servers:
            server.close()
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, second: bool) -> None:
        self._connections += 1
        number = self._connections
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request: Request | None = None
        try:
            while (request := await self._read(reader, number, second)) is not None:
                if not await self._answer(request, reader, writer):
                    return
        except (ConnectionError, RuntimeError, asyncio.IncompleteReadError):  # uvloop raises a RuntimeError
            if request is not None:
                request.gone = True
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()
            with suppress(ConnectionError, RuntimeError, asyncio.CancelledError, TimeoutError):
                async with asyncio.timeout(1):
                    await writer.wait_closed()
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader, connection: int, second: bool) -> Request | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        start, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, path, _ = start.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            data = b""
            while size := int((await reader.readline()).split(b";")[0], 16):
                data += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        else:
            data = await reader.readexactly(int(headers.get("content-length", 0)))
        try:
            body = json.loads(data) if data else None
        except ValueError:
            body = None
        marks = _MARK.findall(data.decode("utf-8", "replace"))
        case, nonce = marks[-1] if marks else ("ORDINARY", "")
        asked = self.requests[case, nonce]
        if "authorization" in headers:
            headers["authorization"] = "there"
        asked.append(Request(case, nonce, len(asked) + 1, connection, second, method, path, headers, body))
        return asked[-1]

    def _choose(self, request: Request) -> dict[str, Any]:
        if request.second:
            if request.method != "POST":
                return _json(405, {"error": {"message": "Method Not Allowed"}})
            return ORDINARY if "authorization" in request.headers else _json(401, {"error": {"message": "no key"}})
        if request.case == "ORDINARY":
            return ORDINARY
        case = self.cases.get(request.case)
        if case is None:
            return _json(404, {"error": {"message": f"there is no case {request.case}"}})
        answers = [case]
        for answer in case.get("then_respond", ()):
            answers += [case] * answer["repeat_first"] if "repeat_first" in answer else [answer]
        chosen = answers[min(request.number, len(answers)) - 1]
        return ORDINARY if "unless" in chosen and holds(chosen["unless"], request.body) else chosen

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Play the answer. Return whether the connection is there for another request."""
        answer = self._choose(request)
        framing, then = answer.get("framing", "chunked"), answer.get("then")
        parts = list(pieces(answer))
        size = sum(len(part) for part in parts if isinstance(part, bytes))
        last = next((part for part in reversed(parts) if isinstance(part, bytes)), b"")
        if self.writes != "each" and (self.writes == "one" or size < 20_000):
            parts = reshaped(parts, self.writes)
        await asyncio.sleep(answer.get("first_byte_after_s", 0))
        if framing != "raw":
            writer.write(self._head(answer, size if framing == "length" else None))
            await writer.drain()

        async def write(part: bytes) -> None:
            writer.write(b"%x\r\n%b\r\n" % (len(part), part) if framing == "chunked" else part)
            await writer.drain()
            await asyncio.sleep(PAUSE if self.writes != "bytes" else PAUSE / 20)

        for part in parts:
            await (asyncio.sleep(part) if isinstance(part, float) else write(part))
        if then == "repeat-last-every-5s":
            while not reader.at_eof():
                try:
                    async with asyncio.timeout(5):
                        await reader.read(1)
                except TimeoutError:
                    await write(last)
        if then in {"hold", "repeat-last-every-5s"}:
            await reader.read(1)
            request.gone = True
            return False
        if then == "reset":
            await asyncio.sleep(0.1)  # what was sent is to arrive
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        if framing == "chunked" and then != "close-without-last-chunk":
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return then == "keep" or (then is None and framing != "raw")

    def _head(self, answer: dict[str, Any], size: int | None) -> bytes:
        status = answer.get("status", 200)
        fields = {"Content-Type": answer.get("content_type", "text/event-stream"), **answer.get("headers", {})}
        fields |= {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}
        lines = [f"HTTP/1.1 {status} {'OK' if status < 300 else 'No'}"]
        for name, value in fields.items():
            told = value.replace("<second port>", f"{self.second_port}")
            told = told.replace("<date +25 s>", formatdate(time.time() + 25, usegmt=True))
            lines += [f"{name}: {told}"] if told else []
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _json(status: int, value: Any) -> dict[str, Any]:
    return {"status": status, "content_type": "application/json", "chunks": [json.dumps(value)]}
