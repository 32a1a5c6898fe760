"""A receiver of webhooks: a real HTTP server, that answers as it is told to and checks what it gets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections import deque
from types import TracebackType
from typing import Any, Self

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


class Webhook:
    """One request: its `headers`, by their names in lower case, and its `body`."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.path, self.headers, self.body = path, headers, body

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def data(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.body)
        assert set(told) == {"type", "timestamp", "data"}
        assert told["type"] == "run.ended"
        data: dict[str, Any] = told["data"]
        return data

    def signed_by(self, key: bytes = KEY) -> bool:
        """Whether one of the signatures is of this key, as a receiver checks it by the specification."""
        content = f"{self.id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        right = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        return f"v1,{right}" in self.headers["webhook-signature"].split(" ")


class Receiver:
    """Answers each request with the next of `answers`, and then with 204: a status, or a status and headers.

    None closes the connection without an answer, and an event is waited for before a 204.
    """

    def __init__(self, *answers: Any) -> None:
        self.answers: deque[Any] = deque(answers)
        self.got: list[Webhook] = []
        self._new: asyncio.Queue[Webhook] = asyncio.Queue()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/ended?token=in-the-url"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def next(self) -> Webhook:
        """The next request that was not taken yet."""
        async with asyncio.timeout(10):
            return await self._new.get()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")[:-2]
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                webhook = Webhook(first.split()[1], headers, body)
                self.got.append(webhook)
                self._new.put_nowait(webhook)
                answer = self.answers.popleft() if self.answers else 204
                if answer is None:
                    break
                if isinstance(answer, asyncio.Event):
                    await answer.wait()
                    answer = 204
                status, more = answer if isinstance(answer, tuple) else (answer, {})
                fields = {"content-length": "0", **more}
                told = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
                writer.write(f"HTTP/1.1 {status} Whatever\r\n{told}\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
