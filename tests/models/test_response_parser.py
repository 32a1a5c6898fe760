"""The parser of a model's HTTP/1.1 responses, fed without any I/O: whole, byte by byte, and cut in two anywhere."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable

import pytest

from support.raw_server import BROKEN, CHUNKED, ENDLESS, HEAD, OK, WELL
from twinwire.models.openai.connection import MAX_OVERHEAD, ResponseParser, State


def fed(pieces: Iterable[bytes]) -> tuple[ResponseParser, bytes]:
    """A parser that has received these pieces as long as it takes any, then the end of file; and the body."""
    parser = ResponseParser()
    body = b""
    for piece in pieces:
        body += parser.receive(piece)
        if parser.state in {State.ENDED, State.BROKEN}:
            break
    else:
        parser.receive_eof()
    return parser, body


def bytewise(reply: bytes) -> list[bytes]:
    return [reply[at : at + 1] for at in range(len(reply))]


CUTS: dict[str, Callable[[bytes], list[list[bytes]]]] = {
    "whole": lambda reply: [[reply]],
    "bytewise": lambda reply: [bytewise(reply)],
    "in two": lambda reply: [[reply[:at], reply[at:]] for at in range(1, len(reply))],
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize(("reply", "body"), [(reply, body) for reply, body, _ in WELL.values()], ids=WELL)
def test_well(reply: bytes, body: bytes, cut: Callable[[bytes], list[list[bytes]]]) -> None:
    """A response is the same however its bytes are cut."""
    whole, _ = fed([reply])
    for pieces in cut(reply):
        parser, found = fed(pieces)
        assert (parser.state, parser.error, found) == (State.ENDED, "", body)
        assert (parser.status, parser.version, parser.headers) == (whole.status, whole.version, whole.headers)


@pytest.mark.parametrize(("reply", "kept"), [(reply, kept) for reply, _, kept in WELL.values()], ids=WELL)
def test_keep_alive(reply: bytes, kept: bool) -> None:
    """A connection is kept if the response allows it and nothing follows in the same read."""
    parser, _ = fed([reply])
    assert parser.keep_alive is kept


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_broken(reply: bytes, cut: Callable[[bytes], list[list[bytes]]]) -> None:
    """Bytes that are no whole response break it, with a reason, however they are cut."""
    expected, _ = fed([reply])
    assert expected.error
    for pieces in cut(reply):
        parser, _ = fed(pieces)
        assert (parser.state, parser.error) == (State.BROKEN, expected.error)


@pytest.mark.parametrize(("begin", "more"), ENDLESS.values(), ids=ENDLESS)
def test_endless(begin: bytes, more: bytes) -> None:
    """Bytes without any of the body among them are taken up to the limit."""
    parser, count = ResponseParser(), 0
    parser.receive(begin)
    while parser.state is not State.BROKEN:
        parser.receive(more)
        count += len(more)
    assert parser.error == "the answer's headers are too long"
    assert MAX_OVERHEAD - len(begin) < count <= MAX_OVERHEAD + len(more)


def test_states() -> None:
    """Each state comes with the byte that the table names."""
    parser = ResponseParser()
    seen = [(parser.state, 0)]
    reply = CHUNKED + b"2\r\nok\r\n0\r\n\r\n"
    for number, byte in enumerate(bytewise(reply), 1):
        parser.receive(byte)
        if parser.state is not seen[-1][0]:
            seen.append((parser.state, number))
    assert seen == [(State.HEAD, 0), (State.BODY, len(CHUNKED)), (State.ENDED, len(reply))]


def test_what_came_before_the_break() -> None:
    """The bytes of the body before a break are returned."""
    parser = ResponseParser()
    assert parser.receive(CHUNKED + b"2\r\nok\r\nzz\r\n") == b"ok"
    assert parser.state is State.BROKEN


def test_eof_after_the_end() -> None:
    """The end of file after a whole response changes nothing."""
    parser, _ = fed([OK])
    parser.receive_eof()
    assert (parser.state, parser.keep_alive) == (State.ENDED, True)


def test_it_is_let_go() -> None:
    """A closed parser is freed without the garbage collector."""
    gc.disable()
    try:
        parser = ResponseParser()
        parser.receive(HEAD)
        parser.close()
        gone = weakref.ref(parser)
        del parser
        assert gone() is None
    finally:
        gc.enable()
