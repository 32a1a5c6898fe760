"""The page's and the client's files: kept by the browser until they change, and compressed for who takes that."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from support.serving import Puppets, Running, serving
from twinwire.protocol.errors import NotFound
from twinwire.web.page import CLIENT, CONTENT_SECURITY_POLICY, PAGE, Folder

FILES = ["/", "/page/page.js", "/page/vendor/purify.js", "/page/icon.svg", "/client/index.js"]


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with serving({"mine": Puppets()}) as running:
        yield running


def asking(server: Running, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, verify=False, timeout=20)


async def raw(response: httpx.Response) -> bytes:
    return b"".join([piece async for piece in response.aiter_raw()])


async def test_a_file_is_fetched_once(server: Running) -> None:
    """Asked for again under its ETag it is a 304 without content that says all that the 200 said of it."""
    async with asking(server) as client:
        for path in FILES:
            await check_file(client, path)


async def check_file(client: httpx.AsyncClient, path: str) -> None:
    first = await client.get(path)
    etag = first.headers["etag"]
    assert etag.startswith('"')
    assert first.headers["cache-control"] == "no-cache"
    for known in (etag, f'"x", W/{etag}', "*"):
        again = await client.get(path, headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        for name in ("etag", "cache-control", "vary", "content-security-policy"):
            assert again.headers[name] == first.headers[name]
    for other in ('"x"', etag.strip('"'), ""):
        assert (await client.get(path, headers={"if-none-match": other})).status_code == 200
    assert first.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert not {"last-modified", "accept-ranges"} & first.headers.keys()  # nor are their requests honoured
    whole = await client.get(path, headers={"range": "bytes=0-1", "if-modified-since": first.headers["date"]})
    assert (whole.status_code, whole.content) == (200, first.content)


ACCEPTED = {
    "gzip": True,
    "br, gzip;q=0.5": True,
    "*": True,
    "GZIP": True,
    "br": False,
    "gzip;q=0": False,
    "gzip;q=0, *": False,
    "identity": False,
    "": False,
}


async def test_a_file_is_compressed_if_that_is_accepted(server: Running) -> None:
    """Each form has an ETag of its own, and a cache is told on what the form depends."""
    async with asking(server, **{"accept-encoding": "identity"}) as client:
        whole = (await client.get("/page/vendor/purify.js")).content
        for accepted, packed in ACCEPTED.items():
            async with client.stream(
                "GET", "/page/vendor/purify.js", headers={"accept-encoding": accepted}
            ) as response:
                body = await raw(response)
            assert (response.headers.get("content-encoding") == "gzip") == packed, accepted
            assert response.headers["vary"] == "Accept-Encoding"
            assert int(response.headers["content-length"]) == len(body)
            assert response.headers["etag"].endswith('-gzip"') == packed
            assert (gzip.decompress(body) if packed else body) == whole
            assert not packed or len(body) < len(whole) / 2


async def test_a_form_is_not_another(server: Running) -> None:
    """A client that has the file compressed, and no longer takes that, gets it plain."""
    async with asking(server, **{"accept-encoding": "gzip"}) as client:
        etag = (await client.head("/client/index.js")).headers["etag"]
        asked = {"accept-encoding": "identity", "if-none-match": etag}
        assert (await client.get("/client/index.js", headers=asked)).status_code == 200


NAMES = ["nope.js", "", "%00", "%2e%2e", "%2e%2e/index.html", "a" * 8000, "vendor", "%ff", "vendor/%2e%2e/page.js"]


async def test_no_such_file(server: Running) -> None:
    """Whatever is no name of a file in the folder is a path that we do not have."""
    async with asking(server) as client:
        for path in (f"/{folder}/{name}" for folder in ("page", "client") for name in NAMES):
            response = await client.get(httpx.URL(server.url).copy_with(raw_path=path.encode()))
            assert (response.status_code, response.json()["code"]) == (404, "not_found"), path[:20]


async def test_what_is_not_static_is_not_compressed(server: Running) -> None:
    """An answer that may have both a secret and words of its asker does not tell the secret by its length."""
    async with asking(server, **{"accept-encoding": "gzip"}) as client:
        for path in ("/schema", "/metrics", "/nope"):
            response = await client.get(path)
            assert not {"content-encoding", "etag"} & response.headers.keys()


def test_a_changed_file(tmp_path: Path) -> None:
    """A file that changes under the server is served as it is now; one that goes is none any more."""
    file = tmp_path / "a.js"
    file.write_text("one")
    folder = Folder(tmp_path)
    before = folder.file("a.js")
    assert folder.file("a.js") is before
    file.write_text("two")
    os.utime(file, ns=(1, 1))
    after = folder.file("a.js")
    assert (after.plain.body, after.plain.etag != before.plain.etag) == (b"two", True)
    file.unlink()
    for name in ("a.js", "b.js"):
        with pytest.raises(NotFound):
            folder.file(name)


def loaded(folder: Folder, name: str) -> set[str]:
    """The files that a page loads with this one, which its modules import."""
    found, new = set[str](), {name}
    while new:
        found |= new
        new = {
            path for each in new for path in re.findall(r"from '\./(.*?)'", folder.file(each).plain.body.decode())
        } - found
    return found


def test_all_of_the_page_is_small() -> None:
    """All files of the page, with those that it loads of the client, are small if compressed: so a first visit is."""
    of_client = loaded(CLIENT, "index.js") | loaded(CLIENT, "form.js")
    assert "run.js" in of_client
    for folder, names, limit in ((PAGE, set(PAGE._paths), 90_000), (CLIENT, of_client, 50_000)):
        assert 0 < sum(len(folder.file(name).chosen("gzip").body) for name in names) < limit
