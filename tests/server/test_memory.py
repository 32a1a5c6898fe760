"""What clients can make a server keep: a process of its own has its memory back after each abuse."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.memory import MB, PROGRAM, SLACK, Server, unharmed
from twinwire.serving.ceiling import ceiling, table
from twinwire.settings import Settings
from twinwire.transports.limiter import STATE_BYTES


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("memory")
    (folder / "agents.py").write_text(PROGRAM)
    options = (
        "--max-connections",
        "2000",
        "--socket-rate",
        "100000",
        "--run-timeout",
        "300",
        "--reply-bytes",
        str(16 * MB),
    )
    with Server("serve", "agents:parrot", "--port", "0", *options, cwd=folder) as process:
        process.ready()
        for _ in range(3):  # what the first requests of each kind make it load stays
            process.run("text 100000")
            with process.ws() as client:
                client.send('{"type":"ping"}')
                client.recv()
        yield process


def names(start: int, count: int = 32) -> list[str]:
    """So many types of events, each of the largest size, from this one on."""
    return [f"T{number:063d}" for number in range(start, start + count)]


@pytest.mark.full
def test_filters_are_forgotten_with_those_who_use_them(server: Server) -> None:
    """Types that nobody else asks for are kept as long as their followers are there, over both transports."""
    run_id = server.run("event 10 stay")
    with unharmed(server):
        for first in range(20):
            with server.ws() as client:
                for number in range(100):
                    types = names(32 * (100 * first + number))
                    client.send(json.dumps({"type": "attach", "run_id": run_id, "types": types}))
                    assert json.loads(client.recv())["type"] == "attached"
        for number in range(50):
            path = f"/runs/{run_id}/events?types={','.join(names(10**6 + 32 * number))}"
            with closing(server.silent(path)) as stream:
                assert stream.recv(15) == b"HTTP/1.1 200 OK"


def test_too_many_types_are_refused(server: Server) -> None:
    """`types` has 32 names at most, over both transports, in a query, a body and a command; the error names it."""
    run_id = server.run("event 10 stay")
    many = names(0, 33)
    with server.ws() as client:
        for command in {"type": "attach", "run_id": run_id}, {"type": "start", "request_id": "r", "message": "text 0"}:
            client.send(json.dumps({**command, "types": many}))
            error = json.loads(client.recv())
            assert (error["type"], error["code"], error["field"]) == ("error", "bad_request", "types")
        client.send(json.dumps({"type": "attach", "run_id": run_id, "types": names(0)}))
        assert json.loads(client.recv())["type"] == "attached"
    for answer in (
        httpx.get(f"{server.url}/runs/{run_id}/events", params={"types": ",".join(many)}, trust_env=False),
        httpx.post(f"{server.url}/chat", json={"message": "text 0", "types": many}, trust_env=False),
        httpx.post(f"{server.url}/chat", json={"message": "text 0", "types": ",".join(many)}, trust_env=False),
    ):
        assert (answer.status_code, answer.json()["field"]) == (400, "types")


def _answers(server: Server) -> Iterator[socket.socket]:
    run_id = server.run("result 8000000")
    for _ in range(40):
        yield server.silent(f"/runs/{run_id}")


def _bodies(server: Server) -> Iterator[socket.socket]:
    for _ in range(100):
        yield server.silent("/runs", b" " * 1_000_000, **{"content-length": "1000001"})


def _messages(server: Server) -> Iterator[socket.socket]:
    for _ in range(100):
        connection = server.deaf()
        connection.sendall(b"\x81\xff" + (1_000_000).to_bytes(8, "big") + bytes(4) + b" " * 999_999)
        yield connection


@pytest.mark.parametrize("abuse", [_answers, _bodies, _messages])
def test_memory_comes_back(server: Server, abuse: Callable[[Server], Iterator[socket.socket]]) -> None:
    """What connections made the server hold is given back to the system once they have gone."""
    with unharmed(server, least=SLACK), ExitStack() as stack:
        for connection in abuse(server):
            stack.enter_context(closing(connection))
        assert server.get("/healthz")
        time.sleep(1)  # for the server to do its worst


@pytest.mark.parametrize("ended", [False, True], ids=["live", "ended"])
def test_snapshots_nobody_reads(server: Server, ended: bool) -> None:
    """However many snapshots are asked for, over both transports, together they cost what `--reply-bytes` says."""
    run_id = server.run("text 3000000" if ended else "text 3000000 stay")
    attach = json.dumps({"type": "attach", "run_id": run_id, "snapshot": True})
    with unharmed(server, 80 * MB), ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(closing(server.flood([attach] * 64)))
            stack.enter_context(closing(server.silent(f"/runs/{run_id}/snapshot")))
        time.sleep(1)  # for the server to do its worst
        assert server.get("/healthz")


def test_all_snapshots_are_answered(server: Server) -> None:
    """A client that asks for many and then reads them gets each."""
    run_id = server.run("text 1000000 stay")
    with unharmed(server), server.ws() as client:
        for ref in range(64):
            client.send(json.dumps({"type": "attach", "run_id": run_id, "snapshot": True, "ref": ref}))
        for ref in range(64):
            while (reply := json.loads(client.recv()))["type"] != "attached":
                pass
            assert reply["ref"] == ref
            assert len(reply["snapshot"]["state"]["text"]) == 1_000_000


def test_a_large_event_is_there_once(server: Server) -> None:
    """Followers of either transport who take nothing share the bytes of a large event."""
    run_id = server.run("event 8000000 stay")
    attach = json.dumps({"type": "attach", "run_id": run_id})
    with unharmed(server, 40 * MB), ExitStack() as stack:
        for envelope in "01" * 10:
            path = f"/runs/{run_id}/events?envelope={envelope}"
            stream = stack.enter_context(closing(server.silent(path)))
            assert stream.recv(15) == b"HTTP/1.1 200 OK"
            stack.enter_context(closing(server.flood([attach])))


@pytest.mark.full
def test_late_joins_nobody_reads(server: Server) -> None:
    """Who joins a long run in AG-UI's format is sent all its text at once, and shares the reserve for it."""
    name = {"threadId": "t", "runId": "r", "messages": [{"id": "m", "role": "user", "content": "text 2000000 stay"}]}
    body = json.dumps({**name, "state": None, "tools": [], "context": [], "forwardedProps": None}).encode()
    with closing(server.silent("/ag-ui", body)) as first:
        assert first.recv(15) == b"HTTP/1.1 200 OK"
        with unharmed(server, 60 * MB), ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(closing(server.silent("/ag-ui", body)))
            time.sleep(1)
            assert server.get("/healthz")


@pytest.mark.full
def test_conversations_a_client_brings_are_not_kept(server: Server) -> None:
    """What a request of AG-UI has beside its question is not kept for as long as the stream is open."""
    old = [{"id": f"o{i}", "role": "user", "content": "x"} for i in range(6_000)]
    messages = [*old, {"id": "m", "role": "user", "content": "event 10 stay"}]

    def follow(number: int) -> socket.socket:
        name = {"threadId": f"kept {number}", "runId": "r", "messages": messages}
        body = json.dumps({**name, "state": None, "tools": [], "context": [], "forwardedProps": None}).encode()
        stream = server.silent("/ag-ui?on_disconnect=cancel", body)
        assert stream.recv(15) == b"HTTP/1.1 200 OK"
        return stream

    with ExitStack() as stack:  # the interpreter keeps memory for objects that it has once had so many of
        for number in range(15):
            stack.enter_context(closing(follow(number)))
    with unharmed(server, 60 * MB), ExitStack() as stack:
        for number in range(15, 30):
            stack.enter_context(closing(follow(number)))


def test_names_of_any_length_are_not_kept(server: Server) -> None:
    """Paths, hosts and origins, whose parsed forms are kept for those who ask again, are kept if they are short."""

    def status(path: str, **headers: str) -> int:
        with closing(server.silent(path, b"", **headers)) as connection:
            return int(connection.recv(12).split()[1])

    with unharmed(server):
        for number in range(600):
            long = f"{number}{'x' * 50_000}"
            assert status(f"/runs/{long}") == 404
            if not number % 5:
                assert status("/runs/x", host=f"{long}.localhost") in {400, 421}
                assert status("/ws", origin=f"http://{long}") in {403, 426}


def test_a_socket_follows_a_hundred_runs(server: Server) -> None:
    """More than a hundred are refused, by attaching and by starting; who detaches may follow another."""
    runs = [server.run("event 10 stay") for _ in range(2)]
    with server.ws() as client:

        def ask(**command: object) -> dict[str, Any]:
            client.send(json.dumps({"ref": "mine", **command}))
            while (reply := json.loads(client.recv())).get("ref") != "mine":
                pass
            return dict(reply)

        for number in range(100):
            assert ask(type="start", request_id=f"r{number}", message="event 10 stay")["type"] == "started"
        for refused in (
            ask(type="start", request_id="more", message="event 10 stay"),
            ask(type="attach", run_id=runs[0]),
            ask(type="attach", run_id=runs[0], snapshot=True),
        ):
            assert (refused["type"], refused["code"]) == ("error", "too_many_followed")
        last = ask(type="attach", run_id=ask(type="cancel", request_id="r99")["run_id"])
        assert last["type"] == "attached"
        while not last["ended"]:
            last = ask(type="attach", run_id=last["run_id"])
        assert ask(type="detach", run_id=ask(type="cancel", request_id="r98")["run_id"])["type"] == "detached"
        assert ask(type="attach", run_id=runs[0])["type"] == "attached"


def started(server: Server, count: int) -> list[str]:
    """Start so many runs that go on, by one socket, which leaves them; return their ids."""
    found: list[str] = []
    with server.ws() as client:
        for number in range(count):
            start = {"type": "start", "request_id": f"s{number}", "message": "event 10 stay"}
            client.send(json.dumps({**start, "on_disconnect": "continue"}))
        while len(found) < count:
            if (reply := json.loads(client.recv()))["type"] == "started":
                found.append(reply["run_id"])
    return found


def follow_with_filters(server: Server, runs: list[str], least: int, most: int) -> None:
    """Have 220 sockets follow all these runs, each with types of its own, until some are busy; then all leave.

    With all of them there the server has `least` to `most` bytes in memory.
    """
    replies: Counter[str] = Counter()
    with ExitStack() as stack:
        for number in range(220):
            client = stack.enter_context(server.ws())
            for at, run_id in enumerate(runs):
                types = names(32 * (100 * number + at))
                client.send(json.dumps({"type": "attach", "run_id": run_id, "types": types}))
            for _ in runs:
                reply = json.loads(client.recv())
                replies[reply["type"]] += 1
                if reply["type"] == "error":
                    assert reply["code"] == "busy"
                    assert reply["message"].startswith("The server is keeping too many followed runs and filters")
        assert replies["error"] > 10, replies
        assert least < server.rss() < most
        with server.ws() as client:
            for run_id in runs[:5]:
                client.send(json.dumps({"type": "attach", "run_id": run_id}))
                while (reply := json.loads(client.recv()))["type"] != "attached":
                    assert reply["type"] != "error"
    server.settle()


@pytest.mark.full
@pytest.mark.timeout(180)
def test_what_sockets_follow_is_shared(server: Server) -> None:
    """Followers with filters take no more than their bound, who has few is not `busy`, and more crowds take no more.

    Python keeps its arenas of 1 MiB while one small object is in each, so that memory of the first crowd stays.
    """
    before = server.rss()
    runs = started(server, 100)
    least, most = before + STATE_BYTES // 2, before + STATE_BYTES + 60 * MB
    follow_with_filters(server, runs, least, most)
    with unharmed(server, STATE_BYTES):
        for _ in range(2):
            follow_with_filters(server, runs, least, most)
    for run_id in runs:
        server.post(f"/runs/{run_id}/cancel", {})


def test_text_takes_its_bytes(server: Server) -> None:
    """A run's text with an emoji in it takes what its events have, not four times as much."""
    before = server.rss()
    run_id = server.run("emoji 30000000 stay")
    deadline = time.monotonic() + 15
    while server.rss() - before > 90 * MB and time.monotonic() < deadline:  # of the snapshots that were asked for
        time.sleep(0.1)
    assert 30 * MB < server.rss() - before < 90 * MB
    server.post(f"/runs/{run_id}/cancel", {})


def test_replies_nobody_reads(server: Server) -> None:
    """Pings, and commands that are refused, cost no more than the budget of their connection."""
    long = "x" * 128
    commands = [
        {"type": "ping", "ref": long},
        {"type": "attach", "run_id": long, "ref": long},
        {"type": "cancel", "request_id": long, "ref": long},
        {"type": long},
    ]
    messages = [json.dumps(command) for command in commands] * 5000
    with unharmed(server, 60 * MB), ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(closing(server.flood(messages)))


@pytest.mark.parametrize(("what", "count", "runs"), [("small", 1000, 120), ("page", 100, 110)])
@pytest.mark.full
def test_a_full_log(what: str, count: int, runs: int, tmp_path: Path) -> None:
    """A log in memory that runs have filled takes what `--log-bytes` says, of small events and of large ones."""
    bound = 24 * MB
    (tmp_path / "agents.py").write_text(PROGRAM)
    with Server("serve", "agents:parrot", "--port", "0", "--log-bytes", str(bound), cwd=tmp_path) as server:
        server.ready()
        for _ in range(3):
            server.run(f"{what} 10")
        before = server.rss()
        for _ in range(runs):
            server.run(f"{what} {count}")
        assert 0.7 * bound < server.rss() - before < 1.3 * bound


SMALL: dict[str, Any] = {
    "max_connections": 120,
    "max_runs": 60,
    "live_bytes": 16 * MB,
    "run_bytes": 4 * MB,
    "log_bytes": 16 * MB,
    "log_runs": 500,
    "sessions_bytes": 8 * MB,
    "reply_bytes": 8 * MB,
    "max_body": MB // 4,
    "socket_rate": 100_000,
    "run_timeout": 3,
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rounds", [1, pytest.param(12, marks=pytest.mark.full)])
def test_the_ceiling_holds(tmp_path: Path, rounds: int) -> None:
    """Whatever clients do, all at once, a server stays below what `twinwire.serving.ceiling` says of its settings."""
    (tmp_path / "agents.py").write_text(PROGRAM)
    options = [text for name, value in SMALL.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    bound = sum(part.size for part in ceiling(Settings(**SMALL)))
    peak = 0
    assert bound < 800 * MB
    with Server("serve", "agents:parrot", "--port", "0", *options, cwd=tmp_path) as server:
        server.ready()
        before = server.rss()
        for number in range(rounds):
            while server.figure("twinwire_runs_live"):  # those of the round before, which end in their time
                time.sleep(0.1)
            run_id = server.run("event 3000000")
            stay = server.run("text 1000000 stay")
            snapshot = json.dumps({"type": "attach", "run_id": stay, "snapshot": True})
            with ExitStack() as clients:
                for at in range(30):
                    clients.enter_context(closing(server.flood([snapshot] * 64)))
                    clients.enter_context(closing(server.silent(f"/runs/{run_id}/events")))
                    clients.enter_context(closing(server.silent(f"/runs/{run_id}/events?format=ai-sdk")))
                    clients.enter_context(closing(server.silent(f"/runs/{run_id}/snapshot")))
                    start = {"type": "start", "message": "event 10 stay", "types": names(32 * at)}
                    starts = [json.dumps({**start, "request_id": f"{number} {at} {i}"}) for i in range(20)]
                    clients.enter_context(closing(server.flood(starts)))
                    long = f"event 10 {'x' * (MB // 5)}"
                    body = json.dumps({"message": long, "session_id": f"{number} {at}"}).encode()
                    clients.enter_context(closing(server.silent("/runs", body)))
                    unended = {"content-length": str(len(body) + 1)}
                    clients.enter_context(closing(server.silent("/runs", body, **unended)))
                    peak = max(peak, server.rss())
                for _ in range(10):
                    time.sleep(0.1)
                    peak = max(peak, server.rss())
        assert peak < bound, f"{peak / MB:.0f} MiB"
        server.settle()
        while server.figure("twinwire_runs_live"):  # they end in their time; then all is as it was, but for the log
            time.sleep(0.1)
        print(f"{before / MB:.0f} MiB before, {peak / MB:.0f} of {bound / MB:.0f}, {server.rss() / MB:.0f} after")
        kept = SMALL["log_bytes"] * 5 // 4 + SMALL["sessions_bytes"]
        assert server.rss() - before < kept + SLACK


def test_the_documented_ceiling() -> None:
    """docs/SCALING.md shows what the command prints for the default settings."""
    assert table(ceiling(Settings())) in (Path(__file__).parents[2] / "docs/SCALING.md").read_text()
