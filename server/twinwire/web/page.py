"""The page at `/` and the JS client it uses, served from the package or, in a checkout, from `clients/`.

A file is in memory as it is and compressed, under a strong ETag of its own each: a reload of the page fetches nothing
again. Nothing else is compressed: an answer that has both a secret and a client's words would tell the secret by its
length (BREACH), and a stream would wait in the compressor.

The files name each other by their paths below the root, and the client's default is the page's own server. They are
served with what is relative to themselves, so that they work below any prefix.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from pathlib import Path
from typing import Any

from litestar import Request, Response, get
from litestar.params import FromPath
from msgspec import Struct

from twinwire.protocol.errors import NotFound
from twinwire.web import answers, mounting
from twinwire.web.guard import header

# Everything comes from this server, nothing inline, nowhere else to talk to; whoever may frame it could click in it.
# Trusted types make an assignment to innerHTML an error in browsers that know them, but for DOMPurify's own.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
ROOTED = (
    (b"'/client/", b"'../client/"),
    (b"'/page/", b"'./"),
    (b'"/page/', b'"page/'),
    (b"address(globalThis.location?.origin)", b"address(new URL('..', import.meta.url).href)"),
)
"""The names that files have for what is below the root, and those from where they are: a folder, or beside it."""
WORTHWHILE = 0.9  # A file is sent compressed if that has at most this share of its size.


class Representation(Struct, frozen=True):
    """A file's bytes as they are sent (RFC 9110, section 8), and their ETag."""

    body: bytes
    etag: str
    coding: str | None = None


class StaticFile(Struct, frozen=True):
    """A file as it was when it was last changed: `stamp` says when."""

    stamp: tuple[int, int]
    media_type: str
    plain: Representation
    packed: Representation | None

    @staticmethod
    def read(path: Path, stamp: tuple[int, int]) -> StaticFile:
        """Read the file and compress it."""
        body = path.read_bytes()
        if path.suffix in {".html", ".js"}:
            for rooted, relative in ROOTED:
                body = body.replace(rooted, relative)
        packed = gzip.compress(body, 9, mtime=0)
        digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()[:16]).decode().rstrip("=")
        return StaticFile(
            stamp,
            TYPES.get(path.suffix, "text/plain"),
            Representation(body, f'"{digest}"'),
            Representation(packed, f'"{digest}-gzip"', "gzip") if len(packed) < WORTHWHILE * len(body) else None,
        )

    def chosen(self, accept_encoding: str) -> Representation:
        """Return the representation for a request with this Accept-Encoding."""
        return self.packed if self.packed and answers.quality(accept_encoding, "gzip", "*") else self.plain


class Folder:
    """The files of a folder, as they are on the disk; those that are added later are not served."""

    def __init__(self, path: Path) -> None:
        self._paths = {str(file.relative_to(path)): file for file in path.rglob("*") if file.is_file()}
        self._files: dict[str, StaticFile] = {}

    def answer(self, name: str, request: Request[Any, Any, Any]) -> Response[bytes | None]:
        """Return the file of this name, or 304 if the client has it (RFC 9110, section 13.1.2). Raises `NotFound`."""
        file = self.file(name)
        sent = file.chosen(header(request.scope["headers"], b"accept-encoding") or "")
        headers = {
            "content-security-policy": CONTENT_SECURITY_POLICY,
            "cache-control": "no-cache",
            "etag": sent.etag,
            "vary": "Accept-Encoding",
        }
        known = header(request.scope["headers"], b"if-none-match") or ""
        if {tag.strip().removeprefix("W/") for tag in known.split(",")} & {sent.etag, "*"}:
            return Response(None, status_code=304, headers=headers)
        if sent.coding is not None:
            headers["content-encoding"] = sent.coding
        return Response(sent.body, status_code=200, headers=headers, media_type=file.media_type)

    def file(self, name: str) -> StaticFile:
        """Return the file of this name as it is now. Raises `NotFound`."""
        try:
            status = self._paths[name].stat()
        except (KeyError, FileNotFoundError):
            raise NotFound from None
        stamp = (status.st_mtime_ns, status.st_size)
        file = self._files.get(name)
        if file is None or file.stamp != stamp:
            file = self._files[name] = StaticFile.read(self._paths[name], stamp)
        return file


def _folder(name: str, in_checkout: str) -> Folder:
    packaged = Path(__file__).parent / "_static" / name
    return Folder(packaged if packaged.is_dir() else Path(__file__).parents[3] / "clients" / in_checkout)


# A package that was built without them lacks the folders: then they are empty.
PAGE, CLIENT = _folder("page", "web"), _folder("client", "js/src")


@get("/", include_in_schema=False)
async def index(request: Request[Any, Any, Any]) -> Response[bytes | None]:
    """Return the page, at a path with a slash at its end: the page's own addresses are relative."""
    if mounting.is_bare(request.scope):
        query = f"?{text}" if (text := request.scope["query_string"].decode("latin-1")) else ""
        return Response(None, status_code=307, headers={"location": f"{mounting.prefix(request.scope)}/{query}"})
    return PAGE.answer("index.html", request)


@get("/page/{file_path:path}", include_in_schema=False)
async def page(request: Request[Any, Any, Any], file_path: FromPath[Path]) -> Response[bytes | None]:
    """Return a file of the page."""
    return PAGE.answer(str(file_path).lstrip("/"), request)


@get("/client/{file_path:path}", include_in_schema=False)
async def client(request: Request[Any, Any, Any], file_path: FromPath[Path]) -> Response[bytes | None]:
    """Return a file of the JS client."""
    return CLIENT.answer(str(file_path).lstrip("/"), request)
