"""Commands on a run that goes on: over a socket that is open, else by a request (PROTOCOL.md, sections 3, 5 and 10)."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from twinwire_client.api import Api
from twinwire_client.checks import check
from twinwire_client.errors import ApiError, ProtocolError, RunNotFound
from twinwire_client.retry import Broken
from twinwire_client.socket import LARGE_BYTES, Message
from twinwire_client.talk import Acknowledgement

OverSocket = Callable[[str, Mapping[str, Any]], Awaitable[Message | None]]
"""Give a command about the run of this id to a socket that is open, and return the reply, if there is one in time."""

_STATUSES = {
    "input_expired": "expired",
    "input_not_found": "not_found",
    "not_accepted": "not_accepted",
    "run_ended": "already_finished",
}
"""The codes of errors over HTTP that are a reply's status on a socket."""

_INPUT_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


class Commands:
    """The commands of one client's runs."""

    def __init__(self, api: Api, over_socket: OverSocket) -> None:
        self._api = api
        self._over_socket = over_socket

    async def cancel(self, run_id: str) -> str:
        """Cancel a run: `accepted` or `already_finished`."""
        reply = await self._over_socket(run_id, {"type": "cancel", "run_id": run_id})
        if reply is not None and reply.status in {"accepted", "already_finished"}:
            return str(reply.status)
        return str((await self._api.ask("POST", f"/runs/{run_id}/cancel")).get("status"))

    async def delete(self, run_id: str) -> None:
        """Delete a run. See `Client.delete`. If an answer was lost, that there is no such run means that it is done."""
        attempts, lost = self._api.attempts(), False
        while True:
            try:
                await self._api.call("DELETE", f"/runs/{run_id}")
            except Broken as error:
                lost = True
                await attempts.failed(error)
            except RunNotFound:
                if not lost:
                    raise
                return
            else:
                return

    async def answer(self, run_id: str, input_id: str, value: Any, *, message_id: str | None = None) -> Acknowledgement:
        """Answer a question of a run. See `Client.answer`."""
        check(input_id=input_id, message_id=message_id)
        _check_json(value)
        body = {"answer": value, "message_id": message_id or uuid.uuid4().hex}
        if _INPUT_ID.fullmatch(input_id) is None:
            return Acknowledgement("not_found", body["message_id"])  # as the server has it; it goes into a path
        command = {"type": "answer", "run_id": run_id, "input_id": input_id, **body}
        return await self._say(command, f"/runs/{run_id}/inputs/{input_id}", body)

    async def send(self, run_id: str, content: str, *, message_id: str | None = None) -> Acknowledgement:
        """Say something to a run. See `Client.send`."""
        check(content=content, message_id=message_id)
        body = {"content": content, "message_id": message_id or uuid.uuid4().hex}
        return await self._say({"type": "send", "run_id": run_id, **body}, f"/runs/{run_id}/messages", body)

    async def _say(self, command: dict[str, Any], path: str, body: dict[str, Any]) -> Acknowledgement:
        """Say it again, with the same `message_id`, until it is known what has come of it."""
        attempts = self._api.attempts()
        while True:
            try:
                return await self._say_once(command, path, body)
            except Broken as error:
                await attempts.failed(error)
            except ApiError as error:
                if (status := _STATUSES.get(error.code)) is None:
                    raise
                return Acknowledgement(status, body["message_id"])

    async def _say_once(self, command: dict[str, Any], path: str, body: dict[str, Any]) -> Acknowledgement:
        # As with a start, whatever refuses a large one ends no socket that others use.
        if len(json.dumps(body)) < LARGE_BYTES:
            reply = await self._over_socket(command["run_id"], command)
            if reply is not None and isinstance(reply.status, str):
                return Acknowledgement(reply.status, reply.message_id or body["message_id"], reply.at, reply.by)
        told = await self._api.call("POST", path, body)
        if not isinstance(told.get("status"), str):
            raise ProtocolError(f"The server's answer to POST {path} has no status.")
        texts = {name: text for name in ("at", "by") if isinstance(text := told.get(name), str)}
        return Acknowledgement(told["status"], str(told.get("message_id") or body["message_id"]), **texts)


def _check_json(value: object) -> None:
    """Raise `TypeError` or `ValueError` if this is not JSON."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except TypeError as error:
        raise TypeError(f"`value` must be what JSON can tell, and is not: {error}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`value` must be what JSON can tell, and is not: {error}.") from None
