"""What all clients together have half-sent: a bounded amount of memory, and nobody is shut out by it."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest
import zttp

from support.certificates import Certificate
from support.memory import MB, PROGRAM, Server, unharmed
from twinwire.transports.intake import INTAKE_BYTES

CLIENTS = 200
BODY = b'{"message": "text 0' + b" " * 999_979
STREAMS = 40  # of one connection of HTTP/2
TLS = ssl.SSLContext | None


@pytest.fixture(scope="module", params=["clear", "tls"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, TLS]]:
    """A server with default settings, or one with HTTP/2, and what its clients need to trust it."""
    folder = tmp_path_factory.mktemp("intake")
    (folder / "agents.py").write_text(PROGRAM)
    options, context = ["serve", "agents:parrot", "--port", "0", "--socket-rate", "100000"], None
    if request.param == "tls":
        certificate = Certificate(folder)
        context = ssl.create_default_context(cafile=certificate.ca)
        context.set_alpn_protocols(["h2"])
        options += ["--ssl-certfile", certificate.certfile, "--ssl-keyfile", certificate.keyfile, "--http2"]
    with Server(*options, cwd=folder) as server:
        server.ready()
        if context is not None:
            server.verify = ssl.create_default_context(cafile=certificate.ca)
        yield server, context


class Http2:
    """A connection of HTTP/2 that sends what the server gives credit for."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(connection, server_hostname="127.0.0.1")
        self._connection = zttp.Connection(zttp.CLIENT, protocol=zttp.HTTP2)
        self.statuses: dict[int, int] = {}
        self.resets: dict[int, int] = {}
        self.headers: dict[int, dict[bytes, bytes]] = {}
        self.streams: list[zttp.Stream] = []
        self._bodies: dict[int, bytes] = {}

    def post(self, target: bytes, body: bytes, *, whole: bool) -> None:
        """Send a request, or all but the end of its body."""
        fields = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        stream = self._connection.send_request(b"POST", target, b"", fields)
        self._bodies[stream.stream_id] = body
        self.streams.append(stream)
        if whole:
            stream.send_data(self._bodies.pop(stream.stream_id))
            stream.end_message()

    def turn(self, until: Callable[[], bool]) -> None:
        """Send and take frames until that is so, or the server closes the connection."""
        while True:
            for stream in self.streams:  # by pieces: zttp copies all that waits whenever some of it goes out
                if not stream.pending_bytes and (body := self._bodies.pop(stream.stream_id, b"")):
                    stream.send_data(body[:65536])
                    self._bodies[stream.stream_id] = body[65536:]
            self._socket.sendall(self._connection.data_to_send())
            if until():
                return
            try:
                self._connection.receive_data(self._socket.recv(65536))
            except (zttp.ProtocolError, OSError):
                return
            while (event := self._connection.next_event()) is not zttp.NEED_DATA:
                if isinstance(event, zttp.Response):
                    self.statuses[event.stream_id] = event.status_code
                    self.headers[event.stream_id] = dict(event.headers)
                elif isinstance(event, zttp.RstStream):
                    self.resets[event.stream_id] = event.error_code

    def sent(self) -> bool:
        """Return whether each body is out, or its request is answered."""
        over = {*self.statuses, *self.resets}
        return all(stream.stream_id in over or not self._bodies.get(stream.stream_id) for stream in self.streams)

    def close(self) -> None:
        self._socket.close()


def _http(server: Server, _: TLS) -> Iterator[socket.socket]:
    for _number in range(CLIENTS):
        yield server.silent("/runs", BODY, **{"content-length": str(len(BODY) + 1)})


def _frames(server: Server, _: TLS) -> Iterator[socket.socket]:
    for _number in range(CLIENTS):
        connection = server.deaf()
        connection.sendall(b"\x81\xff" + (len(BODY) + 1).to_bytes(8, "big") + bytes(4) + BODY)
        yield connection


def _fragments(server: Server, _: TLS) -> Iterator[socket.socket]:
    fragments = [BODY[at : at + 50_000] for at in range(0, len(BODY), 50_000)]
    for _number in range(CLIENTS):
        connection = server.deaf()
        for number, fragment in enumerate(fragments):
            head = (b"\x01" if number == 0 else b"\x00") + b"\xfe" + len(fragment).to_bytes(2, "big") + bytes(4)
            connection.sendall(head + fragment)
        yield connection


def _http2(server: Server, context: TLS) -> Iterator[Http2]:
    assert context is not None
    for _number in range(CLIENTS // STREAMS):
        connection = Http2(server.port, context)
        yield connection
        for _stream in range(STREAMS):
            connection.post(b"/runs", BODY, whole=False)
        connection.turn(connection.sent)


def _starts(server: Server, context: TLS) -> None:
    """Start a run, with a short body and with a long one; each is answered."""
    for body in BODY[:19] + b'"}', BODY + b'"}':
        if context is None:
            assert server.post("/runs", json.loads(body))["run_id"]
        else:
            with closing(Http2(server.port, context)) as client:
                client.post(b"/runs", body, whole=True)
                client.turn(lambda client=client: bool(client.statuses or client.resets))  # type: ignore[misc]
                assert list(client.statuses.values()) == [201]


def _refused(connections: list[socket.socket]) -> list[bytes]:
    """Return what those were sent that were sent anything, to the end of its sentence."""
    answers = []
    for connection in connections:
        connection.settimeout(0.01)
        answer = b""
        with suppress(TimeoutError, ConnectionError):
            while b"later." not in answer and (piece := connection.recv(65536)):
                answer += piece
                connection.settimeout(5)  # it may come in two pieces
        answers.append(answer)
    return [answer for answer in answers if answer]


BOUND = INTAKE_BYTES + 20 * MB + CLIENTS * 32 * 1024
"""What the intake may come to, with what the allocator keeps, and the connections themselves."""


@contextmanager
def bounded(server: Server) -> Iterator[ExitStack]:
    """Within the block the server takes much, but no more than the bound, and afterwards has what it had before."""
    before = server.rss()
    with unharmed(server, BOUND, INTAKE_BYTES // 2), ExitStack() as stack:
        yield stack
        deadline = time.monotonic() + 10
        while server.rss() - before > BOUND and time.monotonic() < deadline:  # until the allocator has looked
            time.sleep(0.1)


@pytest.mark.parametrize("place", ["clear"], indirect=True)
@pytest.mark.parametrize("abuse", [_http, _frames, pytest.param(_fragments, marks=pytest.mark.full)])
def test_bodies_that_do_not_end(
    place: tuple[Server, TLS], abuse: Callable[[Server, TLS], Iterator[socket.socket]]
) -> None:
    """Half-sent bodies and messages share one bound; the oldest are told to try again, and others start runs."""
    server, context = place
    with bounded(server) as stack:
        clients = []
        for number, client in enumerate(abuse(server, context)):
            clients.append(stack.enter_context(closing(client)))
            if number % 50 == 49:
                _starts(server, context)
        refused = _refused(clients)
        assert CLIENTS - 150 < len(refused) < CLIENTS - 100
        for answer in refused:
            if abuse is _http:
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nretry-after: 1\r\n" in answer.lower()
                assert b'"code":"busy"' in answer
                assert b"The server is reading too many large requests at the moment. Try again later." in answer
            else:
                close = answer.replace(b"\x89\x00", b"")  # without the pings before it
                assert close[2:4] == (4013).to_bytes(2, "big")
                assert close[4:] == b"The server is reading too many large messages. Reconnect later."


@pytest.mark.full
@pytest.mark.parametrize("place", ["tls"], indirect=True)
def test_bodies_that_do_not_end_over_http2(place: tuple[Server, TLS]) -> None:
    """The same over HTTP/2, where others on the same connection are answered too."""
    server, context = place
    with bounded(server) as stack:
        clients = [stack.enter_context(closing(client)) for client in _http2(server, context)]
        _starts(server, context)
        clients[0].post(b"/runs", BODY[:19] + b'"}', whole=True)
        last = clients[0].streams[-1].stream_id
        clients[0].turn(lambda: last in clients[0].statuses)
        assert clients[0].statuses.pop(last) == 201
        refused = [status for client in clients for status in client.statuses.values()]
        assert not [code for client in clients for code in client.resets.values()]
        assert set(refused) == {503}
        assert clients[0].headers[clients[0].streams[0].stream_id][b"retry-after"] == b"1"


@pytest.mark.parametrize("place", ["clear"], indirect=True)
def test_the_body_of_a_stream_is_not_kept(place: tuple[Server, TLS]) -> None:
    """A request for a stream may have a body, which nobody reads: it takes no memory while the stream goes on."""
    server, context = place
    run_id = server.run("event 10 stay")
    with unharmed(server, 20 * MB), ExitStack() as stack:
        for _ in range(100):
            client = server.silent(f"/runs/{run_id}/events", b"", **{"content-length": "1000000"})
            stack.enter_context(closing(client))
            assert client.recv(15) == b"HTTP/1.1 200 OK"
            client.sendall(b" " * 999_999)
        _starts(server, context)
