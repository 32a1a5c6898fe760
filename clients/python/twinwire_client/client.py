"""The client: one server, any number of runs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from twinwire.errors import BadRequest, RunNotFound as NoRunId
from twinwire.wire import check_run_id, check_types, parse_after
from twinwire_client import sse, ws
from twinwire_client.api import Api
from twinwire_client.errors import api_error
from twinwire_client.retry import Backoff
from twinwire_client.run import Connect, Position, Run

_CONNECT: dict[str, Connect] = {"sse": sse.connect, "ws": ws.connect}


class Client:
    """A Twinwire server at `url` (`http://host:port`), with these `headers` in every request.

    `token` is a bearer token, or what gives a fresh one for each request, where the server authenticates.
    An async context manager: leaving it closes its connections. Whatever breaks is tried again after `backoff`, up
    to `max_attempts` failures in a row, then `ConnectionLost` is raised. `timeout` is how long to wait for the
    server to answer, in seconds; `heartbeat`, in seconds, how long a WebSocket may be silent before the server is
    asked whether it is there, and what to expect of an SSE stream that announces none. Raises `ValueError`.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        token: str | Callable[[], str] | None = None,
        timeout: float = 10.0,
        heartbeat: float = 15.0,
        backoff: Backoff = Backoff(),  # noqa: B008 - immutable
        max_attempts: int = 10,
    ) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"not a URL: {error}") from None
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise ValueError(f"a URL begins with http:// or https:// and a host; {url!r} does not")
        self._api = Api(
            url,
            headers,
            token=token,
            timeout=timeout,
            heartbeat=heartbeat,
            backoff=backoff,
            max_attempts=max_attempts,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._api.http.aclose()

    def stream(
        self,
        message: str,
        *,
        transport: Literal["sse", "ws"] = "sse",
        agent: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        on_disconnect: str | None = None,
        interrupt: bool = False,
        types: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Start a run and follow it: `async with client.stream("…") as run`.

        `types` are the event types to send beside the terminal event. `on_disconnect` is `continue`, `cancel` or
        `cancel_after:<seconds>` (default: 10 s). A start whose answer is lost is repeated with its
        `idempotency_key`, a fresh one by default, so that it never is two runs. `interrupt` ends the run that the
        session has going on; without it that raises `SessionBusy`.
        """
        start = {
            "message": message,
            "agent": agent,
            "user_id": user_id,
            "session_id": session_id,
            "on_disconnect": on_disconnect or "cancel_after:10",
            "idempotency_key": idempotency_key or uuid.uuid4().hex,
            "interrupt": interrupt,
        }
        position = Position(
            start={name: value for name, value in start.items() if value is not None}, types=_checked(types)
        )
        return self._run(transport, position)

    def attach(
        self,
        run_id: str,
        *,
        after: int | str = 0,
        transport: Literal["sse", "ws"] = "sse",
        types: Sequence[str] | None = None,
    ) -> Run:
        """Follow a run from the event after `after`, a number or an event's id.

        Entering it raises `RunNotFound` and `Gap`.
        """
        try:
            number = parse_after(after, run_id)
        except BadRequest as error:
            raise ValueError(f"after: {error.message}") from None
        return self._run(transport, Position(run_id=_known(run_id), after=number, types=_checked(types)))

    async def get(self, run_id: str) -> dict[str, Any]:
        """What the server knows of a run (PROTOCOL.md, `GET /runs/{run_id}`). Raises `RunNotFound`."""
        return await self._api.ask("GET", f"/runs/{_known(run_id)}")

    async def cancel(self, run_id: str) -> str:
        """Cancel a run: `accepted` or `already_finished`. Its followers see how it ends. Raises `RunNotFound`."""
        return str((await self._api.ask("POST", f"/runs/{_known(run_id)}/cancel")).get("status"))

    def _run(self, transport: str, position: Position) -> Run:
        if transport not in _CONNECT:
            raise ValueError(f'transport is "sse" or "ws", not {transport!r}')
        return Run(self._api, _CONNECT[transport], position)


def _known(run_id: str) -> str:
    """The run id, if it is one: it goes into a path."""
    try:
        return check_run_id(run_id)
    except NoRunId as error:
        raise api_error(error.payload(), error.status) from None


def _checked(types: Sequence[str] | None) -> list[str] | None:
    """Checked here, as a bad filter must not start a run."""
    try:
        check_types(types)
    except BadRequest as error:
        raise ValueError(f"types: {error.message}") from None
    return None if types is None else list(types)
