"""Twinwire below a prefix: in the applications of other frameworks, and behind proxies that strip it or do not."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from support.followers import KINDS, attach, cancel, rest, start, text
from support.hosts import HOSTS, Address, each_host, fastapi_app, hosted, settings
from support.serving import Puppets, echo, serving
from twinwire import Twinwire
from twinwire.web import mounting

each_kind = pytest.mark.parametrize("kind", KINDS)


@asynccontextmanager
async def mounted(host: str, agents: Any, path: str = "/ai", **told: Any) -> AsyncIterator[tuple[Twinwire, Address]]:
    """Serve these agents below a path of this host."""
    ai = Twinwire(agents, settings=settings(**told))
    app = HOSTS[host](ai, path)
    async with hosted(app, path, lifespan="off" if host == "django" else "on") as address:
        yield ai, address


def client(address: Address) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=address.home, trust_env=False, timeout=20)


@each_kind
@each_host
async def test_a_run_below_a_prefix(host: str, kind: str, puppets: Puppets) -> None:
    """A run is started, followed, resumed over either transport, and cancelled, below the host's prefix."""
    async with mounted(host, {"mine": puppets}) as (_, address):
        follower = await start(kind, address, "hello there")
        puppet = await puppets.next()
        puppet.say("a ", "b ")
        assert json.loads(await follower.next() or b"")["type"] == "AGENT_START"
        await follower.close()
        resumed = await attach(kind, address, follower.run_id, 1)
        puppet.say("c")
        assert await cancel(kind, address, follower.run_id) == "accepted"
        seen = await rest(resumed)
        assert seen[-1]["data"]["status"] == "cancelled"
        assert seen[-1]["data"]["reason"] == "user"


@each_host
async def test_locations_and_the_page(host: str) -> None:
    """`Location` and the OpenAPI have the prefix, and so have, by being relative to it, the page's addresses."""
    async with mounted(host, {"echo": echo}) as (_, address), client(address) as http:
        made = await http.post("/ai/runs", json={"message": "hi"})
        assert made.status_code == 201
        assert made.headers["location"] == f"/ai/runs/{made.json()['run_id']}"
        assert (await http.get(made.headers["location"])).status_code == 200
        bare = await http.get("/ai?x=1")
        assert bare.status_code in {301, 307}
        assert httpx.URL(bare.headers["location"]).path == "/ai/"
        page = await http.get("/ai/")
        names = re.findall(r'(?:href|src)="([^"]+)"', page.text)
        assert "page/page.js" in names
        assert not [name for name in names if name.startswith("/")]
        for name in names:
            assert (await http.get(f"/ai/{name}")).status_code == 200
        script = (await http.get("/ai/page/page.js")).text
        assert "from '../client/index.js'" in script
        assert "'/client/" not in script
        assert (await http.get("/ai/schema")).json()["servers"] == [{"url": "/ai"}]
        assert (await http.get("/hello")).text == "hello"


@each_host
async def test_errors_keep_their_form(host: str) -> None:
    """A path that does not exist, and an error below `/v1`, have Twinwire's form and OpenAI's, not the host's."""
    async with mounted(host, {"echo": echo}) as (_, address), client(address) as http:
        missing = await http.get("/ai/nowhere")
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
        model = await http.get("/ai/v1/models/nobody")
        assert (model.status_code, model.json()["error"]["code"]) == (404, "model_not_found")
        wrong = await http.post("/ai/v1/chat/completions", json={"model": 7})
        assert wrong.status_code == 400
        assert "error" in wrong.json()
        names = (await http.get("/ai/v1/models")).json()["data"]
        assert [model["id"] for model in names] == ["echo"]


async def test_a_deep_prefix() -> None:
    """A prefix of several segments, with characters that a URL encodes, is in `Location` as a URL has it."""
    path = "/my apps/ai"
    async with mounted("fastapi", {"echo": echo}, path) as (_, address), client(address) as http:
        made = await http.post("/my%20apps/ai/runs", json={"message": "hi"})
        assert made.headers["location"] == f"/my%20apps/ai/runs/{made.json()['run_id']}"
        assert (await http.get(made.headers["location"])).status_code == 200


@each_kind
@pytest.mark.parametrize("strips", [True, False], ids=["stripping", "not stripping"])
async def test_a_proxy_before_our_own_server(strips: bool, kind: str) -> None:
    """With `root_path`, `twinwire serve` is reached below it, whether the proxy strips it or not."""
    async with serving({"echo": echo}, root_path="/ai") as server:
        address = Address(server.url, "" if strips else "/ai")
        assert text(await rest(await start(kind, address, "a b"))) == "a b "
        async with httpx.AsyncClient(base_url=address.url, trust_env=False) as http:
            made = await http.post("/runs", json={"message": "hi"})
            assert made.headers["location"] == f"/ai/runs/{made.json()['run_id']}"
            assert (await http.get("/")).status_code == 200
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            bare = await http.get("/ai")
            assert (bare.status_code, bare.headers["location"]) == (307, "/ai/")


@each_kind
async def test_a_stripping_proxy_before_a_mount(kind: str) -> None:
    """A host below a proxy's prefix, which is in `root_path` and not in `path`, has both prefixes in `Location`."""
    ai = Twinwire({"echo": echo}, settings=settings())
    inner = fastapi_app(ai)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "root_path": "/shop"}, receive, send)

    async with hosted(app) as address:
        assert text(await rest(await start(kind, address, "a b"))) == "a b "
        async with client(address) as http:
            made = await http.post("/ai/runs", json={"message": "hi"})
            assert made.headers["location"] == f"/shop/ai/runs/{made.json()['run_id']}"


@each_kind
async def test_the_root_path_of_a_server(kind: str) -> None:
    """The app alone on another server, which adds the prefix that a proxy has stripped."""
    ai = Twinwire({"echo": echo}, settings=settings())
    async with hosted(ai, "", root_path="/api/v1") as address:
        assert text(await rest(await start(kind, address, "a b"))) == "a b "
        async with client(address) as http:
            made = await http.post("/runs", json={"message": "hi"})
            assert made.headers["location"] == f"/api/v1/runs/{made.json()['run_id']}"
            assert (await http.get("/v1/models")).json()["data"][0]["id"] == "echo"


@pytest.mark.parametrize("middleware", ["gzip", "cors", "dispatch", "bare"])
@each_kind
async def test_middleware_around_the_app(middleware: str, kind: str, puppets: Puppets) -> None:
    """Behind each kind of middleware a stream's first event is there before the run ends."""
    ai = Twinwire({"mine": puppets}, settings=settings())
    app: Any = fastapi_app(ai)
    if middleware == "bare":
        inner = app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await inner(dict(scope), receive, send)

    else:
        _with_middleware(app, middleware)
    async with hosted(app) as address:
        follower = await start(kind, address)
        puppet = await puppets.next()
        puppet.say("a")
        assert json.loads(await follower.next() or b"")["type"] == "AGENT_START"
        assert json.loads(await follower.next() or b"")["data"]["content"] == "a"
        puppet.end()
        assert (await rest_of(follower))[-1]["type"] == "AGENT_FINISH"


async def rest_of(follower: Any) -> list[dict[str, Any]]:
    """Return the rest of a stream, of which some was read."""
    seen = []
    while (body := await follower.next()) is not None:
        seen.append(json.loads(body))
    await follower.close()
    return seen


def _with_middleware(app: Any, name: str) -> None:
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.middleware.cors import CORSMiddleware
    from starlette.middleware.gzip import GZipMiddleware

    async def dispatch(request: Any, call_next: Callable[[Any], Any]) -> Any:
        return await call_next(request)

    if name == "gzip":
        app.add_middleware(GZipMiddleware, minimum_size=1)
    elif name == "cors":
        app.add_middleware(CORSMiddleware, allow_origins=["*"])
    else:
        app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)


async def test_two_apps_in_one_application(puppets: Puppets) -> None:
    """Two of them, below two prefixes, have runs and cookies of their own."""
    one, two = (Twinwire({"echo": echo}, settings=settings(auth_tokens=("ann:" + "t" * 16,))) for _ in range(2))

    async def both(scope: Any, receive: Any, send: Any) -> None:
        await (two.beside(one.beside(_nothing, "/one"), "/two"))(scope, receive, send)

    async with hosted(both, "/one", lifespan="off") as address, client(address) as http:
        headers = {"authorization": "Bearer " + "t" * 16}
        paths = set()
        for name in ("one", "two"):
            told = await http.post(f"/{name}/login", headers=headers)
            paths.add(re.search("Path=([^;]+)", told.headers["set-cookie"], re.IGNORECASE)[1])  # type: ignore[index]
        assert paths == {"/one", "/two"}
        made = await http.post("/one/runs", json={"message": "hi"}, headers=headers)
        assert made.status_code == 201
        assert (await http.get(f"/two/runs/{made.json()['run_id']}", headers=headers)).status_code == 404


async def _nothing(_scope: Any, _receive: Any, _send: Any) -> None:
    raise AssertionError("nothing else is asked for")


KNOWN = {"", "runs", "v1", "ws", "ai-sdk"}


@pytest.mark.parametrize(
    ("path", "root", "told", "inner", "prefix", "bare"),
    [
        ("/ai/runs", "/ai", "", "/runs", "/ai", False),
        ("/ai/runs", "/ai/", "", "/runs", "/ai", False),
        ("/runs", "/ai", "", "/runs", "/ai", False),
        ("/ai", "/ai", "", "/", "/ai", True),
        ("/ai/", "/ai", "", "/", "/ai", False),
        ("/", "/ai", "", "/", "/ai", False),
        ("/ai-sdk/chat", "/ai", "", "/ai-sdk/chat", "/ai", False),
        ("/v1/models", "/api/v1", "", "/v1/models", "/api/v1", False),
        ("/api/v1/models", "/api/v1", "", "/models", "/api/v1", False),
        ("/ai/runs", "/shop/ai", "", "/runs", "/shop/ai", False),
        ("/aix", "/shop/ai", "", "/aix", "/shop/ai", False),
        ("/ai/runs", "", "/ai", "/runs", "/ai", False),
        ("/runs", "", "/ai", "/runs", "/ai", False),
        ("/ai/runs", "/ai", "/shop/ai", "/runs", "/shop/ai", False),
        ("/ai/runs/ai/x", "/ai", "", "/runs/ai/x", "/ai", False),
        ("/é/runs", "/é", "", "/runs", "/%C3%A9", False),
    ],
)
def test_where_the_path_begins(*, path: str, root: str, told: str, inner: str, prefix: str, bare: bool) -> None:
    """Each way to tell a prefix gives the app's own path and the prefix that clients see."""
    scope = {"type": "http", "path": path, "root_path": root, "state": {"theirs": 1}}
    found = mounting.inner(scope, told, KNOWN)
    assert (found["path"], mounting.prefix(found), mounting.is_bare(found)) == (inner, prefix, bare)
    assert found["root_path"] == ""
    assert found["state"] == {}
    outer = mounting.outer(found)
    assert outer["state"] is scope["state"]
    assert outer["path"] == inner
    assert scope["path"] == path


def test_without_a_prefix() -> None:
    """A scope of our own server is not copied."""
    scope = {"type": "http", "path": "/runs", "root_path": ""}
    assert mounting.inner(scope, "", KNOWN) is scope
    assert mounting.prefix(scope) == ""
    assert mounting.outer(scope) is scope


@pytest.mark.parametrize(
    ("raw", "path", "prefix"),
    [(b"/ai/runs", "/runs/", "/ai"), (b"//ai/runs", "/runs/", "/ai"), (b"/ai%20x/runs", "/runs/", "/ai%20x")],
)
def test_a_mount_without_a_root_path(raw: bytes, path: str, prefix: str) -> None:
    """Litestar's mounts change `path` alone; `raw_path` tells the prefix, of which no `//` is left."""
    scope = {"type": "http", "path": path, "root_path": "", "raw_path": raw, "app": object()}
    found = mounting.inner(scope, "", KNOWN)
    assert (found["path"], mounting.prefix(found)) == (path, prefix)


def test_paths_are_checked() -> None:
    """A prefix that is none is refused where it is given."""
    ai = Twinwire({"echo": echo}, settings=settings())
    for path in ("ai", "/ai/", "/", ""):
        with pytest.raises(ValueError, match="`path` must begin with a slash and end without one"):
            ai.plugin(path)
        with pytest.raises(ValueError, match="`path` must begin"):
            ai.beside(_nothing, path)
