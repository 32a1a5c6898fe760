"""What reads a client's or a model's bytes, fed with anything: by hypothesis, and for long by atheris."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st

from faults import fuzz

SECONDS = 60
PIECES = st.sampled_from([b"data: ", b"\n", b"\r", b"\r\n", b":", b"[DONE]", b"\xef\xbb\xbf", "é".encode(), b"{}"])


@given(
    st.lists(PIECES | st.binary(max_size=3) | st.sampled_from([fuzz.BODY[:40], fuzz.ALIKE])).map(b"".join),
    st.integers(0, 255),
)
@example(fuzz.BODY, 9)
@example(fuzz.ALIKE + fuzz.BODY, 9)
@example(b"\0a\0" + fuzz.BODY, 3)
def test_any_body_cut_anywhere(body: bytes, at: int) -> None:
    """A model's body of any bytes is the same wherever it is cut, or refused."""
    fuzz.chunks(bytes([at]) + body)


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_inputs_to_begin_with(name: str) -> None:
    """Each target takes the inputs that its fuzzing begins with."""
    target, inputs = fuzz.TARGETS[name]
    for data in inputs:
        target(data)


@pytest.mark.full
@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("target", fuzz.TARGETS)
async def test_for_long(target: str, tmp_path: Path) -> None:
    """A minute of inputs that reach new code finds nothing."""
    pytest.importorskip("atheris", reason="uv run --group full")
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(fuzz.__file__)),
        target,
        f"-max_total_time={SECONDS}",
        "-max_len=4096",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await program.communicate()
    print(out.decode(errors="replace")[-300:])
    assert program.returncode == 0, out.decode(errors="replace")[-3000:]
