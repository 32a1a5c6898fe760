"""The AI SDK's `WebSocketChatTransport` over ASGI: many chats on one socket. The requests of its HTTP transport too.

What is asked for is a chat: a session, whose run that goes on is what is resumed and stopped. Answers are those of
`formats.ai_sdk`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from twinwire.auth import Identity, rfc3339, scopes
from twinwire.formats.ai_sdk import Chunks, SocketView, message
from twinwire.formats.registry import FORMATS
from twinwire.log import RunInfo
from twinwire.protocol import commands
from twinwire.protocol.commands import Auth
from twinwire.protocol.errors import BadRequest, LogUnavailable, RunNotFound, TwinwireError, Unauthenticated
from twinwire.protocol.events import StreamEvent
from twinwire.protocol.start import Name
from twinwire.protocol.wire import converted, decode_json
from twinwire.runs import RunSpec
from twinwire.runs.reserve import Claim
from twinwire.transports.follower import Follower
from twinwire.transports.pump import Pump
from twinwire.web import stream
from twinwire.web.compat import turns
from twinwire.web.compat.dialects import ai_sdk as dialect, without_effect
from twinwire.web.compat.history import Options, answer
from twinwire.web.service import Service
from twinwire.web.session import Socket

ABORT_GRACE = 1.0  # seconds in which the client may resume a chat again whose first resume it has just aborted


class ChatOptions(Options, frozen=True, kw_only=True):
    """The fields that an app may add."""

    approval_requests: Annotated[
        bool | None, Meta(description="false for npm `ai` 5, which does not know them: a question asks instead")
    ] = None

    @property
    def chunks(self) -> Chunks:
        """The chunks that the client knows, of no event yet."""
        return Chunks(approvals=self.approval_requests is not False)


class Chat(ChatOptions, frozen=True, kw_only=True):
    """The SDK's request to have a message answered. `dialects.ai_sdk` has what else may be in it."""

    id: Annotated[Name, Meta(description="the chat, which is the session")]
    messages: Annotated[
        Sequence[dict[str, Any]] | None, Meta(description="the conversation, which the user's message ends")
    ] = None
    message: Annotated[
        dict[str, Any] | None, Meta(description="the user's message alone; the session has what was before")
    ] = None
    trigger: Annotated[str | None, Meta(description="submit-message or regenerate-message")] = None


def spec(
    service: Service, asked: Chat, body: dict[str, Any], by: Identity, headers: Mapping[str, str]
) -> tuple[RunSpec, list[str]]:
    """Return the run that a request with this body asks for, and the parts of the request that have no effect.

    `headers` are those of the request that agents may read. The run interrupts the chat's that goes on. Raise
    `BadRequest`, `Forbidden` and `AgentNotFound`.
    """
    said = dialect.read(body, service.runs.accepts(asked.agent))
    found = answer(said, service.settings.session_bytes, by, asked, session_id=asked.id, headers=headers)
    return (msgspec.structs.replace(found, history=None) if dialect.alone(body) else found), said.ignored


class NextTurn(Struct):
    """The next turn of a run: the events after number `after`. `chunks` have taken in those before."""

    run: RunInfo
    after: int
    chunks: Chunks
    ignored: list[str]


async def next_turn(service: Service, asked: Chat, body: dict[str, Any], by: Identity) -> NextTurn | None:
    """Answer the questions in a request that ends with the server's own message; return None if it shows none.

    The message shows all up to the newest question. If it shows more, its stream was cut later on, and the client would
    have the same text twice. Raise `BadRequest`, and as `turns.read` and `turns.answer`.
    """
    if (replies := dialect.replies(body)) is None:
        return None
    ignored = without_effect(body, dialect.FIELDS, service.runs.accepts(asked.agent))
    turn = await turns.read(service, replies, (by.named(asked.user_id), asked.id), by)
    stream.admit(service, FORMATS["ai-sdk"], turn.state.info.user_id)
    chunks = asked.chunks
    first = turn.state.first
    await stream.passed(service, replies.run_id, turn.after, chunks.skip, after=first - 1)
    if first == 1 and dialect.shown(body) > chunks.shown:
        raise BadRequest(
            "`messages` must end with a message that shows nothing after the question. Resume the stream, which ends "
            "at the next question.",
            field="messages",
        )
    await turns.answer(service, turn, replies, by, read_as=lambda _, reply: reply.answer)
    return NextTurn(turn.state.info, turn.after, chunks, ignored)


class Frame(Struct, frozen=True, kw_only=True, tag_field="type", tag=str.lower, rename="camel"):
    """A message of the client's transport."""

    request_id: Name


class Ask(Frame, frozen=True, kw_only=True):
    """A request about a chat.

    `body` is what the app adds to it. Of the `headers`, in lower case, `authorization` and what agents may read count.
    """

    id: Name
    body: dict[str, Any] = msgspec.field(default_factory=dict)
    headers: dict[str, Any] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.request_id!r}, {self.id!r}, headers=***)"


class Send(Ask, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answer the last of these messages; `message_id` has no effect. `metadata` is as in `body`, which wins."""

    messages: Sequence[Any]
    trigger: str | None = None
    message_id: str | None = None
    metadata: Any = None


class Resume(Ask, frozen=True, kw_only=True):
    """Send the run that goes on in this chat, from its first event."""


class Abort(Frame, frozen=True, kw_only=True):
    """Stop what this request has asked for."""


Said = Send | Resume | Abort | Auth

_decoder: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)


def _request_id(data: str) -> str:
    """Return the id of a message's request; empty, which the client does not know, if it has none."""
    try:
        found = decode_json(data, msgspec.json.Decoder(dict[str, Any])).get("requestId")
    except BadRequest:
        return ""
    return found[:128] if isinstance(found, str) else ""


class ChatSocket(Socket):
    """The session of the AI SDK's transport on a WebSocket.

    `options` are the socket's own, from its query; a message's `body` wins over them. A request is known by its id
    until it is aborted; one run is followed for one request at a time.
    """

    def __init__(self, service: Service, pump: Pump, by: Identity | None, *, options: ChatOptions) -> None:
        super().__init__(service, pump, by)
        self._service = service
        self._options = {name: value for name, value in msgspec.structs.asdict(options).items() if value is not None}
        self._resumed: set[str] = set()  # the ids of requests that are resumes
        self._following: dict[str, str] = {}  # the request that a run is followed for
        self._stopping: dict[str, asyncio.Task[None]] = {}

    async def _hear(self, text: str) -> None:
        """See `Socket`."""
        request_id = _request_id(text)
        try:
            asked = decode_json(text, _decoder)
            if (by := self._who(asked)) is None:
                raise Unauthenticated
            by.check(scopes.of_command("/ai-sdk/ws", asked))
            match asked:
                case Send():
                    await self._send(asked, by)
                case Resume():
                    await self._resume(asked, by)
                case Abort():
                    await self._abort(request_id, by)
                case Auth():
                    # The SDK's client passes over what has a requestId that it does not know.
                    expires_at = rfc3339(by.expires_at)
                    self._pump.say(commands.reply("authenticated", asked.ref, requestId="", expires_at=expires_at))
        except TwinwireError as error:
            self._metrics.refuse(error, path="/ai-sdk/ws")
            self._pump.say(message("error", request_id, errorText=error.message))

    def _who(self, asked: Said) -> Identity | None:
        """Return the identity of a message: by `auth`, by a bearer token (RFC 6750) in its `headers`, or the socket's.

        Raises `TwinwireError`; a socket that is nobody's then ends.
        """
        if isinstance(asked, Auth):
            token = asked.token
        else:
            header = asked.headers.get("authorization", "") if isinstance(asked, Ask) and self._known.on else ""
            scheme, _, token = str(header).partition(" ")
            if scheme.lower() != "bearer":
                return self._by
        try:
            return self._authenticate(token.strip())
        except TwinwireError:
            self.give_up()
            raise

    async def _send(self, asked: Send, by: Identity) -> None:
        told = {"metadata": asked.metadata, **self._said(asked)}
        body = {**told, "id": asked.id, "messages": asked.messages, "trigger": asked.trigger}
        chat = converted(body, Chat)
        if (turn := await next_turn(self._service, chat, body, by)) is not None:
            self._check_followed(turn.run.run_id)
            self._follow(asked.request_id, turn.run.run_id, turn.chunks, turn.after)
            return
        named = (name.lower() for name in self._service.settings.agent_header)
        more = {name: value for name in named if isinstance(value := asked.headers.get(name), str)}
        run, _ = spec(self._service, chat, body, by, {**self.headers, **more})
        self._check_followed()
        info, _ = await self._runs.start(run)
        self._follow(asked.request_id, info.run_id, chat.chunks)

    async def _resume(self, asked: Resume, by: Identity) -> None:
        options = converted(self._said(asked), ChatOptions)
        run_id = await self._runs.active((by.named(options.user_id), asked.id), by)
        if run_id is None:
            self._pump.say(message("no-active", asked.request_id))
            return
        self._check_followed(run_id)
        if (stopping := self._stopping.pop(run_id, None)) is not None:
            stopping.cancel()
        state = await self._runs.state(run_id, by)
        after, claim = 0, None
        events: Sequence[StreamEvent] = ()
        if state.first > 1:
            claim = await self._runs.claim(run_id, by)
            after, events = await stream.recapped(self._service, state.info, by)
        self._resumed.add(asked.request_id)
        self._follow(asked.request_id, run_id, options.chunks, after, events=events, claim=claim)

    def _said(self, asked: Ask) -> dict[str, Any]:
        """Return a message's `body`, over what the socket's query says."""
        return {**self._options, **{name: value for name, value in asked.body.items() if value is not None}}

    def _follow(
        self,
        request_id: str,
        run_id: str,
        chunks: Chunks,
        after: int = 0,
        *,
        events: Sequence[StreamEvent] = (),
        claim: Claim | None = None,
    ) -> None:
        """Follow a run for a request, from the event after number `after`.

        The chunks have taken in those before, unless `events` come in their place, for which `claim` is held.
        """
        before = self._following.get(run_id)
        if before in self._requests:
            self._pump.say(message("error", before, errorText="this chat was resumed by another request"))
        self._requests[request_id] = run_id
        self._following[run_id] = request_id
        while self._too_many_requests():
            oldest = next(iter(self._requests))
            followed = self._requests.pop(oldest)
            if self._following.get(followed) == oldest:
                del self._following[followed]
            self._resumed.discard(oldest)
        view = SocketView(request_id, chunks)
        self._pump.say(message("start", request_id))
        if events:
            *frames, last = view.recap(events)
            for frame in frames:
                self._pump.say(frame)
            self._pump.say(last, claim)
        elif after:
            self._pump.say(view.go_on(run_id))
        self._pump.attach(run_id, after, view)

    async def _abort(self, request_id: str, by: Identity) -> None:
        """Cancel the run; if the aborted request is a resume, only in a moment.

        Resuming twice, as two effects of one page do, is an abort of the first resume and then the second one.
        """
        run_id = self._requests.pop(request_id, None)
        if run_id is None:
            return
        if self._following.get(run_id) == request_id:
            del self._following[run_id]
        if request_id not in self._resumed:
            await self._cancel_run(run_id, by)
            return
        self._resumed.discard(request_id)
        if run_id not in self._stopping:
            self._stopping[run_id] = asyncio.create_task(self._cancel_soon(run_id, by))

    async def _cancel_soon(self, run_id: str, by: Identity) -> None:
        try:
            await asyncio.sleep(ABORT_GRACE)
            await self._cancel_run(run_id, by)
        finally:
            if self._stopping.get(run_id) is asyncio.current_task():
                del self._stopping[run_id]

    async def _cancel_run(self, run_id: str, by: Identity) -> None:
        with suppress(RunNotFound, LogUnavailable):
            await self._runs.cancel(run_id, by)

    def _tell_lost(self, follower: Follower, error: TwinwireError) -> None:
        """See `Socket`."""
        self._pump.say(message("error", self._following.get(follower.run_id, ""), errorText=error.message))
