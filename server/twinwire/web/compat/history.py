"""The requests of other protocols bring the conversation along: the start that such a request makes."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from twinwire.auth import Identity
from twinwire.protocol.start import AgentName, OnDisconnect, UserId
from twinwire.runs.spec import RunSpec
from twinwire.web.compat.dialects import Asked, question
from twinwire.web.input import StartBody


class Options(Struct, frozen=True, kw_only=True):
    """The fields that an app may add to another protocol's own requests."""

    agent: AgentName = None
    user_id: UserId = None
    on_disconnect: OnDisconnect = None


def answer(
    asked: Asked,
    limit: int,
    by: Identity,
    options: Options,
    *,
    session_id: str | None = None,
    key: str | None = None,
    can_ask: bool = True,
    headers: Mapping[str, str],
) -> RunSpec:
    """The run that answers a conversation, of which `limit` bytes count; the session's run that goes on it interrupts.

    `key` is an idempotency key, `can_ask` whether the caller could answer the agent, `headers` are those of the request
    that agents may read. Raise `BadRequest`, `Forbidden`.
    """
    last, history = question(asked.turns, limit)
    named = {name: getattr(options, name) for name in Options.__struct_fields__}
    start = StartBody(
        message="" if last.parts else last.text,
        parts=last.parts,
        params=asked.params,
        metadata=asked.metadata,
        session_id=session_id,
        idempotency_key=key,
        **named,
    )
    spec = RunSpec.of(start, by, interrupt=True, can_ask=can_ask, headers=headers)
    return msgspec.structs.replace(spec, history=history)
