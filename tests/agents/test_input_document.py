"""docs/INPUT.md: its agent, served by its command, is given what its request says."""

from __future__ import annotations

import json
from typing import Any

import httpx

from support.documents import ROOT, run, snippets
from support.serving import serving

DOCUMENT = (ROOT / "docs/INPUT.md").read_text()


async def test_the_document() -> None:
    """The agent answers with the setting, the image and the header of the request; what it does not accept is 400."""
    (program,), (request,) = snippets(DOCUMENT, "python"), snippets(DOCUMENT, "sh")
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - it is the document's
    agents = names["app"].state.service.runs.agents
    assert "`twinwire serve mine:app --agent-header x-tenant`" in DOCUMENT
    async with serving(agents, agent_header=("x-tenant",)) as server:
        code, out, err = await run("bash", "-c", f"{request.strip()} 2>/dev/null", server=server)
        assert (code, err) == (0, "")
        terminal = json.loads(out.strip().splitlines()[-2].removeprefix("data: "))
        assert terminal["result"] == "'Good morning' in Danish, with 1 images, for acme"
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            refused = await client.post("/runs", json={"message": "hi", "params": {"style": "plain"}})
            run_id = out.partition("id: evt-")[2][:26]
            assert (refused.status_code, refused.json()["field"]) == (400, "params.style")
            assert (await client.get(f"/runs/{run_id}")).json()["metadata"] == {"ticket": "4711"}
