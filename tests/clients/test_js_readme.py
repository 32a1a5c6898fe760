"""The first hour with the npm package: each snippet of its README does what it says, in a project that installed it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from support.documents import README as OF_THE_SERVER, run, snippets
from support.node import CLIENT, node
from support.packed import project
from support.serving import serving

JS, TS, JSX, SH = (snippets((CLIENT / "README.md").read_text(), language) for language in ("js", "ts", "jsx", "sh"))
FIRST, COMMON, LEFT, ANSWERED, BROKEN = JS
TSC = str(CLIENT / "node_modules/typescript/bin/tsc")


def test_all_are_run() -> None:
    """The tests below run each of them; e2e/test_consumers.py runs the one in JSX."""
    assert (len(JS), len(TS), len(JSX)) == (5, 3, 1)
    assert SH == ["npm install twinwire-client\n"]


@pytest.fixture(scope="module")
def folder(npm_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of somebody who has run the first command."""
    return project(tmp_path_factory.mktemp("hour"), npm_archive, "typescript", "@types/node", "undici-types")


async def prints(folder: Path, snippet: str, kind: str = "module", **settings: Any) -> str:
    """Return what a snippet prints. It ends by itself and complains of nothing."""
    async with serving(**settings) as server:
        code, out, err = await run("node", f"--input-type={kind}", "--eval", snippet, server=server, cwd=folder)
    assert (code, err) == (0, "")
    return out


async def test_the_first_run(folder: Path) -> None:
    """It shows the tools that are called, the answer as it comes, and how it ended."""
    out = await prints(folder, FIRST)
    assert "Read { path: 'README.md' }\n" in out
    streamed, length = out.rsplit("completed ", 1)
    assert 0 < int(length) < len(streamed)


async def test_commonjs(folder: Path) -> None:
    """It prints the answer."""
    assert "Twinwire" in await prints(folder, COMMON, "commonjs")


async def test_leave_and_go_on(folder: Path) -> None:
    """The run is left at its first tool and followed to its end."""
    left, *tools, end = (await prints(folder, LEFT, demo_rate=200.0)).splitlines()
    assert re.fullmatch(r"closed \d+", left)
    assert "Read ok" in tools
    assert end == "completed already_finished"


async def test_answer_and_say(folder: Path) -> None:
    """The run asks for an approval and a question, takes a message meanwhile, and ends."""
    *told, end = (await prints(folder, ANSWERED, demo_rate=200.0)).splitlines()
    assert sorted(line.split()[0] for line in told) == ["accepted", "approval", "question"]
    assert end == "completed"


async def test_forms(folder: Path) -> None:
    """The snippet compiles, strictly, shows the fields of a question, and what is wrong with an answer."""
    out = await prints(folder, await compiled(folder, TS[1], "form"), demo_rate=200.0)
    assert "[ 'black', 'green', 'none' ]\n" in out
    assert out.endswith("`answer.cups` must be 9 or less.\n")


async def test_when_something_breaks(folder: Path) -> None:
    """With a server it prints the answer; without one it tells of each attempt and of the last."""
    assert "Twinwire" in await prints(folder, BROKEN)
    async with serving() as server:
        pass  # its port is nobody's now
    code, out, err = await run("node", "--input-type=module", "--eval", BROKEN, server=server, cwd=folder)
    assert (code, err) == (0, "")
    *attempts, end = out.splitlines()
    assert attempts
    assert all(line.startswith("Once more: ") for line in attempts)
    assert end.startswith("No server: The client could not reach http://127.0.0.1")


async def compiled(folder: Path, snippet: str, name: str) -> str:
    """Return what the strict compiler makes of a snippet."""
    options = ("--strict", "--module", "nodenext", "--target", "es2022", "--types", "node")
    (folder / f"{name}.mts").write_text(snippet)
    await node(TSC, "--ignoreConfig", *options, f"{name}.mts", cwd=folder)
    return (folder / f"{name}.mjs").read_text()


@pytest.mark.full
async def test_types(folder: Path) -> None:
    """The snippets of modules are sound in the strict compiler's eyes, too."""
    for name, snippet in {"first": FIRST, "left": LEFT, "broken": BROKEN}.items():
        await compiled(folder, snippet, name)


async def test_await_using(folder: Path) -> None:
    """The client and its run are closed at the end of the block: the program ends."""
    assert await prints(folder, await compiled(folder, TS[2], "block")) == ""


async def test_typescript(folder: Path) -> None:
    """The snippet compiles, strictly, and hears the event of the agent that the server's README serves."""
    (agents,) = (block for block in snippets(OF_THE_SERVER, "python") if "countdown" in block)
    names: dict[str, Any] = {}
    exec(agents, names)  # noqa: S102 - it is the document's
    out = await prints(folder, await compiled(folder, TS[0], "own"), agents={"countdown": names["countdown"]})
    assert out == "GO\n"
