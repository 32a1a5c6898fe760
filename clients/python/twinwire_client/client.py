"""The client: one server, any number of runs."""

from __future__ import annotations

import asyncio
import json
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, cast

import httpx

from twinwire_client import sse
from twinwire_client.api import Api, Token, Verify
from twinwire_client.auto import Auto
from twinwire_client.checks import check
from twinwire_client.commands import Commands
from twinwire_client.errors import ProtocolError, api_error
from twinwire_client.info import RunInfo, RunPage, is_info
from twinwire_client.inprocess import AsgiApp, InProcess
from twinwire_client.retry import Backoff, Patience, Retries, Retry
from twinwire_client.run import Connect, Position, Run
from twinwire_client.talk import Acknowledgement, OnInput, Question, check_on_input
from twinwire_client.wire import check_types, is_run_id, parse_after
from twinwire_client.ws import Sockets

Transport = Literal["auto", "sse", "ws"]

HERE = "http://localhost"
"""The address of an app in this process."""


class Client:
    """A Twinwire server at `url` (`http://host:port`), with these `headers` in every request.

    An async context manager: leaving it closes its runs and connections. It is for one event loop of asyncio, the one
    that it is first used in. Raises `TypeError` or `ValueError` for a bad argument.

    `app`: an ASGI app in this process, to ask in the client's event loop, over SSE and without a network, as in a test.
    `url` may then be left out, or have the prefix that the app is mounted below. The client does not run the app's
    lifespan.
    `transport`: `sse`; `ws`, one WebSocket for all runs; or `auto`, which is SSE, and WebSocket if something between
    holds an event stream back, so that it does not begin within `muted` seconds.
    `token`: a bearer token, if the server authenticates; or a function, async or not, that gives one: it is asked
    for each request and each socket, once more if that is refused, and for a socket again before that expires. It must
    not block the event loop. If it raises, or gives none within `timeout`, that is a failed attempt like others.
    `timeout`: how many seconds to wait for a connection, and for an answer to begin.
    `heartbeat`: how many seconds a WebSocket may be silent before the server is asked whether it is there, and what to
    expect of an SSE stream that announces no interval.
    `backoff`, `patience`, `max_attempts`: whatever breaks is tried again, until failures in a row have gone on for so
    many seconds, or are so many, which is a `ConnectionLost`. `first_attempts` is for a server that was never reached;
    by default they are as many, or 10, and within two seconds if the host is unknown or nobody listens there.
    `max_wait`: the longest Retry-After that is waited for; a longer one is a `ConnectionLost` at once.
    `on_retry`: a function that is called with a `Retry` before each wait. The logger `twinwire_client` tells it, too.
    `verify`: how to check the server's certificate, as in httpx; or the path of a file with the CA to trust.
    `http_client`: an `httpx.AsyncClient` to make all connections with, for a proxy or certificates of the client's; it
    is not closed. Its limit of connections is to allow for one for each run that is followed over SSE.
    """

    def __init__(
        self,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        app: AsgiApp | None = None,
        transport: Transport = "auto",
        token: Token | None = None,
        timeout: float = 10.0,
        heartbeat: float = 15.0,
        muted: float = 3.0,
        backoff: Backoff = Backoff(),  # noqa: B008 - immutable
        patience: float = 300.0,
        max_attempts: int | None = None,
        first_attempts: int | None = None,
        max_wait: float = 60.0,
        on_retry: Callable[[Retry], object] | None = None,
        verify: Verify = True,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        check(app=app, headers=headers, token=token, timeout=timeout, heartbeat=heartbeat, muted=muted, verify=verify)
        url = HERE if url is None and app is not None else cast("str", url)
        check(url=url)
        check(backoff=backoff, patience=patience, max_attempts=max_attempts, first_attempts=first_attempts)
        check(max_wait=max_wait, on_retry=on_retry, http_client=http_client)
        if http_client is not None and verify is not True:
            raise ValueError("`verify` is only valid without `http_client`, which has its own.")
        if http_client is not None and app is not None:
            raise ValueError("`app` is only valid without `http_client`: there is no network to an app.")
        first = first_attempts or max_attempts
        patience_ = Patience(max_attempts, first or 10, patience, max_wait, insists=first is not None)
        self._api = Api(
            url,
            headers,
            token=token,
            timeout=timeout,
            heartbeat=heartbeat,
            retries=Retries(url, backoff, patience_, on_retry),
            verify=verify,
            http=http_client,
            transport=None if app is None else InProcess(app),
        )
        self._sockets = Sockets(self._api)
        self._commands = Commands(self._api, self._sockets.command)
        by_sse, by_ws = partial(sse.connect, self._api), self._sockets.connect
        self._connects: dict[str, Connect] = {
            "auto": Auto(by_sse, by_ws, muted).connect,
            "sse": by_sse,
            "ws": by_ws,
        }
        if app is not None:
            self._connects = {"auto": by_sse, "sse": by_sse}
        self._transport = transport
        self._connect(None)

    def __del__(self) -> None:
        if "_api" in vars(self) and self._api.in_use:
            warnings.warn("A Client was not closed: use it in `async with`, or `aclose` it.", ResourceWarning, 2)
            if not self._api.followed:
                self._api.over_there(partial(_let_go, self._sockets, self._api))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all runs, as `Run.aclose` does, and all connections. From any task, and as often as one likes."""
        self._api.left = True
        if not self._api.here():
            self._api.over_there(self.aclose)
            return
        self._api.retries.closed.set()
        await asyncio.gather(*(run.aclose() for run in tuple(self._api.followed)))
        await _let_go(self._sockets, self._api)

    def stream(
        self,
        message: str,
        *,
        transport: Transport | None = None,
        agent: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        on_disconnect: str | None = None,
        interrupt: bool = False,
        types: Sequence[str] | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        params: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        parts: Sequence[Mapping[str, Any]] | None = None,
        on_input: OnInput | None = None,
    ) -> Run:
        """Start a run and follow it: `async with client.stream("…") as run`. It starts when that is entered.

        `transport` is for this run. `types` are the event types to send beside the terminal event. `on_disconnect` is
        `continue`, `cancel` or `cancel_after:<seconds>` (default: 300 s). A start whose answer is lost is repeated with
        its `idempotency_key`, a fresh one by default, so that it never is two runs. `interrupt` ends the run that the
        session has going on; without it that raises `SessionBusy`. `traceparent` is the span that the run is a part of
        (W3C Trace Context). Raises `TypeError` or `ValueError` for a bad argument.

        `params` are settings of the run, and `parts` images, files and more texts behind the message, in OpenAI's form,
        which the server refuses unless the agent accepts them. With `parts` the message may be empty. `metadata` are
        labels of the run, which `get` and `runs` tell.

        `on_input` is a function, async or not, that is called with each `Question` that the run asks, as it is read. It
        must not block the event loop. What it returns is awaited beside the run, until the run is closed.
        """
        check(interrupt=interrupt, types=types, params=params, metadata=metadata, parts=parts)
        more = {"params": params, "metadata": metadata, "parts": parts}
        start = _checked(
            message=message,
            agent=agent,
            user_id=user_id,
            session_id=session_id,
            on_disconnect=on_disconnect,
            idempotency_key=uuid.uuid4().hex if idempotency_key is None else idempotency_key,
            traceparent=traceparent,
        )
        given = {name: _plain(name, value) for name, value in more.items() if value is not None}
        position = Position(start={**start, **given, "interrupt": interrupt}, types=check_types(types))
        return self._run(transport, position, on_input=on_input)

    def attach(
        self,
        run_id: str,
        *,
        after: int | str = 0,
        transport: Transport | None = None,
        types: Sequence[str] | None = None,
        snapshot: bool = False,
        on_input: OnInput | None = None,
    ) -> Run:
        """Follow a run from the event after `after`, a number or an event's id.

        Or, with `snapshot`, from the state that its events so far come to, which `run.snapshot` then has. Entering it
        raises `RunNotFound` and `Gap`. `on_input` is as of `stream`; it hears of a snapshot's open questions too.
        """
        check(run_id=run_id, after=after, types=types, snapshot=snapshot)
        number = parse_after(after, run_id)
        position = Position(run_id=_known(run_id), after=number, types=check_types(types))
        return self._run(transport, position, snapshot=snapshot, on_input=on_input)

    async def get(self, run_id: str) -> RunInfo:
        """Ask the server about a run. Raises `RunNotFound`."""
        told = await self._api.ask("GET", f"/runs/{_known(run_id)}")
        if not is_info(told):
            raise ProtocolError("The server's answer is not what it knows of a run.")
        return told

    async def cancel(self, run_id: str) -> str:
        """Cancel a run: `accepted` or `already_finished`. Its followers see how it ends. Raises `RunNotFound`."""
        return await self._commands.cancel(_known(run_id))

    async def answer(self, run_id: str, input_id: str, value: Any, *, message_id: str | None = None) -> Acknowledgement:
        """Answer a question of a run: of an approval `{"decision": "approve"}`, or what PROTOCOL.md, section 10, has.

        It is said again, with the same `message_id`, until it is known what has come of it: so it is never two answers.
        By default the id is a fresh one. An answer that does not fit is an `ApiError` whose `field` is the path of what
        is wrong; the question stays open. Raises `RunNotFound`, and `ConnectionLost` when the client's patience ends.
        """
        return await self._commands.answer(_known(run_id), input_id, value, message_id=message_id)

    async def send(self, run_id: str, content: str, *, message_id: str | None = None) -> Acknowledgement:
        """Say something to a run while it goes on: a correction, or more to do. `message_id` is as of `answer`.

        Its agent reads it when it comes to that; what it never read is in `unread` of the terminal event's metadata.
        Raises `RunNotFound`, and `ConnectionLost` when the client's patience ends.
        """
        return await self._commands.send(_known(run_id), content, message_id=message_id)

    async def delete(self, run_id: str) -> None:
        """Delete a run, for good: one that goes on is cancelled first. Its turn stays in its conversation.

        Raises `RunNotFound`.
        """
        await self._commands.delete(_known(run_id))

    async def runs(
        self,
        *,
        user_id: str | None = None,
        limit: int = 20,
        agent: str | None = None,
        status: str | None = None,
        labels: Mapping[str, str] | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        page: str | None = None,
    ) -> RunPage:
        """The user's newest runs, the newest first, each as `get` gives it but without its result.

        `user_id` names the user if the server authenticates nobody. An admin may name any user; without one the list is
        of everybody's runs. Those of this `agent`, `status` and all these `labels` are listed, and those created at the
        first of two times of RFC 3339 or later, and before the second. `page` is the `next` of another page.
        """
        told = {"agent": agent, "status": status, "created_after": created_after, "created_before": created_before}
        check(user_id=user_id, limit=limit, labels=labels, page=page, **told)
        told |= {"user_id": user_id, "page": page}
        pairs = [(name, value) for name, value in told.items() if value is not None]
        pairs += [("label", f"{name}:{value}") for name, value in (labels or {}).items()]
        query = httpx.QueryParams([("limit", str(limit)), *pairs])
        answer = await self._api.ask("GET", f"/runs?{query}")
        match answer:
            case {"runs": list(runs)} if all(is_info(run) for run in runs):
                following = answer.get("next")
                return RunPage(runs, following if isinstance(following, str) else None)
        raise ProtocolError("The server's answer is not a list of runs.")

    def _run(
        self, transport: str | None, position: Position, *, snapshot: bool = False, on_input: OnInput | None
    ) -> Run:
        self._api.retries.check()
        check_on_input(on_input, position.types)
        hears = cast("Callable[[Question], object] | None", on_input)  # a SyncClient hears in the thread that reads
        return Run(self._api, self._connect(transport), self._commands, position, snapshot=snapshot, on_input=hears)

    def _connect(self, transport: str | None) -> Connect:
        chosen = self._transport if transport is None else transport
        check(transport=chosen)
        if chosen not in self._connects:
            raise ValueError("`transport` must be sse or auto with `app`: there is no socket to an app.")
        return self._connects[chosen]


async def _let_go(sockets: Sockets, api: Api) -> None:
    await sockets.aclose()
    await api.aclose()


def _checked(message: str, **options: str | None) -> dict[str, str]:
    """Return what a start says, if it is given. Raise as `check`: a callback may be given anything."""
    check(message=message, **options)
    return {"message": message} | {name: text for name, text in options.items() if text is not None}


def _plain(name: str, value: object) -> Any:
    """Return a copy of JSON. Raise `TypeError` or `ValueError` if it is none."""
    try:
        return json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False, default=_unwrapped).encode())
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"`{name}` must be what JSON can tell, and is not: {error}.") from None


def _unwrapped(value: object) -> Any:
    """Return a mapping that is no dict as one, for it to be told as JSON."""
    return dict(value) if isinstance(value, Mapping) else json.JSONEncoder().default(value)


def _known(run_id: str) -> str:
    """Return the run id, which goes into a path. Raise `RunNotFound` for an ill-formed one, as the server does."""
    check(run_id=run_id)
    if not is_run_id(run_id):
        raise api_error({"code": "run_not_found", "message": "The run does not exist."}, 404)
    return run_id
