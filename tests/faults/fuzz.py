"""Parsers fed with whatever reaches new code in them (atheris): `python fuzz.py TARGET [libFuzzer's flags]`.

A target raises where its parser does anything but read the input or refuse it as it should.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress

from twinwire.models import Part, ToolCall
from twinwire.models.openai.chunks import ChunkDecoder
from twinwire.protocol.commands import decode_command, error_reply, labels
from twinwire.protocol.errors import BadRequest, NotFound
from twinwire.protocol.events import event_id
from twinwire.protocol.wire import parse_after, parse_cursor

RUN = "mfrggzdfmztwq2lknnwg23tpob"


def cursor(data: bytes) -> None:
    """A cursor is written as it was read, else it is refused."""
    text = data.decode("utf-8", "surrogateescape")
    with suppress(BadRequest, NotFound):
        assert event_id(*parse_cursor(text, "after")) == text
    with suppress(BadRequest, NotFound):
        assert f"evt-{RUN}-{parse_after(text, RUN)}" in {text, f"evt-{RUN}-{text}"}


def command(data: bytes) -> None:
    """A message is a command, or an error that can be sent."""
    text = data.decode("utf-8", "replace")
    try:
        decode_command(text)
    except BadRequest as error:
        json.loads(error_reply(error, **labels(text)))


def parts(*pieces: bytes) -> tuple[list[Part], str | None]:
    """Return the parts of a model's body, and the code of its error."""
    decoder = ChunkDecoder()
    found: list[Part] = []
    for piece in pieces:
        found += decoder.feed(piece)
        if decoder.done:
            break
    else:
        found += decoder.end()
    return found, None if decoder.error is None else decoder.error.code


def chunks(data: bytes) -> None:
    """A body is the same wherever it is cut: where its first byte says, and after each event.

    Made-up ids of tool calls are left aside.
    """
    at, body = (data[0] if data else 0), data[1:]
    *events, rest = body.split(b"\n\n")
    whole = parts(body)
    for cut in (parts(body[:at], body[at:]), parts(*(event + b"\n\n" for event in events), rest)):
        assert whole[1] == cut[1]
        assert [type(part) for part in whole[0]] == [type(part) for part in cut[0]]
        for one, other in zip(whole[0], cut[0], strict=True):
            assert one == other or isinstance(one, ToolCall)


BODY = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
ALIKE = b"".join(b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % word for word in (b"a", b"b", b"c", b"d"))
COMMANDS = [b'{"type":"start","request_id":"r","message":"x"}', b'{"type":"attach","run_id":"x","after":1}']
CURSORS = [f"evt-{RUN}-1".encode(), b"0", b"18446744073709551616", "\u0967".encode()]
TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "cursor": (cursor, CURSORS),
    "command": (command, COMMANDS),
    "chunks": (chunks, [b"\x09" + BODY, b"\x09" + ALIKE + BODY]),
}
"""Each with inputs to begin with."""


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    import atheris

    atheris.instrument_all()
    target, seeds = TARGETS[sys.argv[1]]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *sys.argv[2:], corpus], target)
        atheris.Fuzz()
