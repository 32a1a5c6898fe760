"""Autobahn's cases for WebSocket servers, through kosoku, against our protocol classes with an app that echoes."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import Litestar, WebSocket, websocket

from suites.environment import HERE, PYTHON, Record, needed, run, tell, version
from support.serving import serving

PARTS = {
    "on each commit": ["1.*", "2.*", "3.*", "4.*", "5.*", "6.2.*", "7.*", "10.*"],
    "whole": [],
}
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
OTHERWISE = {
    "7.1.5": 1002,  # a close frame between two fragments; websockets takes it for an error, Autobahn does not
}
"""Cases that we answer otherwise on purpose, and the close code."""


@websocket("/echo")
async def echo(socket: WebSocket[Any, Any, Any]) -> None:
    """Send back each message, text or binary, until the client leaves."""
    await socket.accept()
    while True:
        message: Any = await socket.receive()
        if message["type"] != "websocket.receive":
            return
        if (text := message.get("text")) is not None:
            await socket.send_text(text)
        else:
            await socket.send_bytes(message["bytes"])


@pytest.mark.parametrize(
    "part",
    ["on each commit", pytest.param("whole", marks=[pytest.mark.full, pytest.mark.timeout(300)])],
)
async def test_autobahn(part: str, record_property: Record) -> None:
    """Every case passes, but for those answered otherwise on purpose, and compression, which is not offered."""
    needed()
    async with serving(max_body=2**25) as server:
        app = server.server.config.app
        assert isinstance(app, Litestar)
        app.register(echo)
        url = f"ws://127.0.0.1:{server.port}/echo"
        results = await run(PYTHON, HERE / "autobahn.py", url, *PARTS[part], seconds=250)
    verdicts = {case: verdict for case, verdict, _ in results}
    codes = {case: code for case, _, code in results}
    assert len(verdicts) == (517 if part == "whole" else len(verdicts))
    offered = {case: verdict for case, verdict in verdicts.items() if not case.startswith(("12.", "13."))}
    assert {verdicts[case] for case in verdicts.keys() - offered.keys()} <= {"UNIMPLEMENTED"}
    failed = {case: verdict for case, verdict in offered.items() if verdict not in PASSED and case not in OTHERWISE}
    assert failed == {}
    declined = sorted(offered.keys() & OTHERWISE.keys())
    assert {case: codes[case] for case in declined} == {case: OTHERWISE[case] for case in declined}
    compressed = len(verdicts) - len(offered)
    note = f"answered otherwise on purpose: {', '.join(declined)}; {compressed} of compression, which is not offered"
    by = f"kosoku {version('kosoku')}"
    tell(record_property, "Autobahn", by, cases=len(offered), passed=len(offered) - len(declined), note=note)
