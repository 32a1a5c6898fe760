"""The npm package as it is packed: what is in it, and strangers' projects that install it and follow a real server."""

from __future__ import annotations

import asyncio
import json
import re
import tarfile
import tomllib
from pathlib import Path

import pytest

from support.documents import ROOT
from support.node import CLIENT, node
from support.packed import SCENE, failing, project
from support.serving import echo, serving

TSC = str(CLIENT / "node_modules/typescript/bin/tsc")


def test_what_is_in_it(npm_archive: Path) -> None:
    """It has the licence, what README and metadata promise, each file that an entry names, and nothing of ours."""
    with tarfile.open(npm_archive) as packed:
        names = {name.removeprefix("package/") for name in packed.getnames()}
    package = json.loads((CLIENT / "package.json").read_text())
    entries = [path for export in package["exports"].values() if isinstance(export, dict) for path in export.values()]
    named = {str(Path(path)) for entry in entries for path in entry.values()} | {"cjs/package.json"}
    assert {"LICENSE", "README.md", "package.json"} | named <= names
    assert {name.split("/")[0] for name in names} == {"LICENSE", "README.md", "cjs", "package.json", "src", "types"}
    assert (CLIENT / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert "dependencies" not in package
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {})
    assert package.get("homepage") == urls.get("Homepage")
    assert re.findall(r"\]\((?!https?://)", (CLIENT / "README.md").read_text()) == [], "npm shows README elsewhere"


@pytest.fixture(scope="module")
def installed(npm_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project on Node that has the package."""
    return project(tmp_path_factory.mktemp("node"), npm_archive, "node", "react", "react-dom", "ws")


@pytest.mark.parametrize("transport", ["sse", "ws", "auto"])
@pytest.mark.parametrize("program", ["esm.mjs", "cjs.cjs"])
async def test_on_node(installed: Path, program: str, transport: str) -> None:
    """An ES module and a CommonJS one follow runs, catch what one failed with, and render the hook on a server."""
    async with serving({"echo": echo, "failing": failing}) as server:
        told = await node(program, server.url, transport, cwd=installed)
    assert json.loads(told) == SCENE


@pytest.mark.parametrize("entry", [".", "./form", "./react"])
async def test_each_name_is_declared(installed: Path, entry: str) -> None:
    """Both kinds of module export the same names, and each of these is in the declarations."""
    package = installed / "node_modules/twinwire-client"
    exports = json.loads((package / "package.json").read_text())["exports"][entry]
    name = entry.replace(".", "twinwire-client", 1)
    told = []
    for kind, module in (("module", f"await import({name!r})"), ("commonjs", f"require({name!r})")):
        program = f"console.log(Object.keys({module}).sort().join())"
        told.append((await node(f"--input-type={kind}", "--eval", program, cwd=installed)).strip())
    assert told[0] == told[1] != ""
    for export in exports.values():
        declared = (package / export["types"]).read_text()
        assert [each for each in told[0].split(",") if not re.search(rf"\b{each}\b", declared)] == []


@pytest.mark.parametrize(
    ("suffix", "module", "resolution"),
    [
        pytest.param(".mts", "node16", "node16", marks=pytest.mark.full),
        pytest.param(".cts", "node16", "node16", marks=pytest.mark.full),
        (".mts", "nodenext", "nodenext"),
        (".cts", "nodenext", "nodenext"),
        (".ts", "esnext", "bundler"),
        pytest.param(".cts", "commonjs", "bundler", marks=pytest.mark.full),
    ],
)
async def test_types(npm_archive: Path, tmp_path: Path, suffix: str, module: str, resolution: str) -> None:
    """A strict TypeScript project without a browser's types finds each name, whichever way it resolves modules."""
    types = ("@types/node", "@types/react", "csstype", "undici-types")
    folder = await asyncio.to_thread(project, tmp_path, npm_archive, "typescript", *types)
    (folder / "follow.ts").rename(folder / f"follow{suffix}")
    options = {
        "target": "es2022",
        "lib": ["es2022", "esnext.disposable"],
        "module": module,
        "moduleResolution": resolution,
        "strict": True,
        "exactOptionalPropertyTypes": True,
        "skipLibCheck": False,
        "noEmit": True,
        "types": ["node"],
    }
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": [f"follow{suffix}"]}))
    await node(TSC, cwd=folder)
