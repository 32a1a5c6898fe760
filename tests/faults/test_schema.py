"""Every route that OpenAPI tells of, asked with what schemathesis makes up: no answer is a server's error."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from support.processes import Process

MINE = """
from twinwire import StreamEvent

async def mine(request):
    yield StreamEvent("LLM_CHUNK", {"content": "hi", "delta": "hi"})
"""


@pytest.mark.full
@pytest.mark.timeout(600)
async def test_the_schema(tmp_path: Path) -> None:
    """What is asked is answered, in time, with no 5xx; the server ends as it should, without a traceback."""
    pytest.importorskip("schemathesis", reason="uv run --group full")
    (tmp_path / "mine.py").write_text(MINE)
    with Process("serve", "mine:mine", "--port", "0", cwd=tmp_path) as process:
        process.ready()
        program = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{process.url}/schema/openapi.json",
            "--checks=not_a_server_error",
            "--max-examples=100",
            "--request-timeout=20",
            "--no-color",
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out = (await program.communicate())[0].decode(errors="replace")
        print("\n".join(re.findall(r"^.*(?:tested|Seed|passed|generated).*$", out, re.MULTILINE)))
        assert program.returncode == 0, out[-5000:]
        process.popen.terminate()
        _, _, err = await asyncio.to_thread(process.end, 10)
        assert "Traceback" not in err, err
