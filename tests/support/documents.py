"""The documents of the project, and their snippets."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import sys
from pathlib import Path

from support.serving import Running

ROOT = Path(__file__).parents[2]

README = (ROOT / "README.md").read_text()


def snippets(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def defined(body: list[ast.stmt], name: str) -> bool:
    """Return whether a dotted name is a function, a class or a variable in these statements."""
    first, _, rest = name.partition(".")
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == first:
            return not rest or defined(node.body, rest)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if first in [target.id for target in targets if isinstance(target, ast.Name)]:
            return not rest
    return False


async def run(*command: str, server: Running, cwd: Path = ROOT) -> tuple[int, str, str]:
    """A program's exit code, output and errors; the documents' port is the server's."""
    process = await asyncio.create_subprocess_exec(
        *(part.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}") for part in command),
        cwd=cwd,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
