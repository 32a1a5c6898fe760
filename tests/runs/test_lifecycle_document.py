"""docs/LIFECYCLE.md: its commands list and delete, and its programs hear of ends, on real servers."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.credentials import asking
from support.documents import ROOT, run, snippets
from support.receiver import SECRET, Receiver
from support.serving import Running, echo, serving
from twinwire.protocol.webhooks import webhook_key
from twinwire.runs.endings import EndedRun
from twinwire.runs.webhooks import payload

DOCUMENT = (ROOT / "docs/LIFECYCLE.md").read_text()
FIND, DELETE, SERVE = snippets(DOCUMENT, "sh")
BILL, VERIFY = snippets(DOCUMENT, "python")


async def ended(server: Running, **body: Any) -> str:
    async with asking(server) as client:
        started = (await client.post("/runs", json={"message": "hi", "user_id": "ada", **body})).json()
        await client.get(f"/runs/{started['run_id']}/events")
    return str(started["run_id"])


async def test_find() -> None:
    """The commands list runs by their filters."""
    async with serving({"react": echo}) as server:
        plain = await ended(server)
        red = await ended(server, metadata={"team": "red", "tier": "1"})
        code, out, err = await run("bash", "-c", FIND, server=server)
        assert code == 0, err
        decoder = json.JSONDecoder()
        completed, end = decoder.raw_decode(out)
        labelled, end = decoder.raw_decode(out, end)
        assert [each["run_id"] for each in completed["runs"]] == [red, plain]
        assert [each["run_id"] for each in labelled["runs"]] == [red]
        assert [line[:26] for line in out[end:].split("\n") if line] == [red, plain]


async def test_delete() -> None:
    """The commands delete a run, and then all that is kept of its user."""
    async with serving({"react": echo}) as server, asking(server) as client:
        one, other = await ended(server), await ended(server)
        first, second = DELETE.splitlines()
        code, out, err = await run("env", f"RUN={one}", "bash", "-c", first, server=server)
        assert (code, out) == (0, "deleted\n"), err
        assert (await client.get(f"/runs/{one}")).status_code == 404
        assert (await client.get(f"/runs/{other}")).status_code == 200
        code, out, err = await run("bash", "-c", second, server=server)
        assert (code, out) == (0, ""), err
        assert (await client.get(f"/runs/{other}")).status_code == 404


async def test_hear_of_each_end(tmp_path: Path) -> None:
    """The program, saved as mine.py and served, writes a line for each run that has ended."""
    (tmp_path / "mine.py").write_text(BILL)
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "twinwire", "serve", "mine:app", "--port", "0", cwd=tmp_path, stdout=-1
    )
    assert process.stdout is not None
    try:
        match = re.search(rb"http://\S+", await process.stdout.readline())
        assert match is not None
        async with httpx.AsyncClient(base_url=match[0].decode(), trust_env=False, timeout=20) as client:
            await client.post("/chat", json={"message": "hi", "user_id": "ada", "stream": False})
        line = (await process.stdout.readline()).decode()
        assert line == "ada pays for 0 tokens of parrot, which ended as completed.\n"
    finally:
        process.terminate()
        await process.wait()


async def test_a_receiver() -> None:
    """The function accepts what the server sends, and nothing that was changed, is old or has another secret."""
    names: dict[str, Any] = {}
    exec(VERIFY, names)  # noqa: S102 - it is the document's
    is_ours = names["is_ours"]
    async with Receiver() as receiver:
        settings = {"webhook": (receiver.url,), "webhook_secret": (SECRET,)}
        async with serving({"react": echo}, **settings) as server:
            await ended(server)
            got = await receiver.next()
    assert is_ours(SECRET, got.headers, got.body)
    assert not is_ours(SECRET, got.headers, got.body + b" ")
    assert not is_ours("whsec_" + "QUJD" * 8, got.headers, got.body)
    old = {**got.headers, "webhook-timestamp": str(int(got.headers["webhook-timestamp"]) - 301)}
    assert not is_ours(SECRET, old, got.body)


def test_the_command_s_secret() -> None:
    """The command makes a secret that the server takes."""
    export = SERVE.splitlines()[0]
    made = subprocess.run(
        ["bash", "-c", f'{export}; printf %s "$TWINWIRE_WEBHOOK_SECRET"'], capture_output=True, check=True, text=True
    ).stdout
    assert len(webhook_key(made)) == 32


def test_the_body() -> None:
    """The example has the fields of a body, and no other."""
    (example,) = snippets(DOCUMENT, "json")
    told = json.loads(example)
    known: dict[str, Any] = {name: told["data"].get(name) for name in EndedRun.__struct_fields__}
    assert json.loads(payload(EndedRun(**known)))["data"] == told["data"]
    assert told.keys() == {"type", "timestamp", "data"}


@pytest.mark.parametrize("name", EndedRun.__struct_fields__)
def test_each_field_is_named(name: str) -> None:
    """The document names each field of an `EndedRun`."""
    assert f"`{name}`" in DOCUMENT
