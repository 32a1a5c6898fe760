"""What the tests of the file tools share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from twinwire.tools import Tool, ToolError


def write(root: Path, files: Mapping[str, str | bytes]) -> None:
    """Put files under a folder."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content.encode() if isinstance(content, str) else content)


async def refusal(tool: Tool, **parameters: Any) -> str:
    """The words of the ToolError that a call ends in."""
    with pytest.raises(ToolError) as caught:
        await tool.run(parameters)
    return str(caught.value)
