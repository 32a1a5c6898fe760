"""The page at `/` and the JS client it uses, served from the package or, in a checkout, from `clients/`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from litestar import Request, Response, Router, get
from litestar.static_files import create_static_files_router

from twinwire.errors import NotFound

# Everything comes from this server, nothing inline, nowhere else to talk to; whoever may frame it could click in it.
# Trusted types make an assignment to innerHTML an error where the browser knows them, but for DOMPurify's own.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cache-control": "no-cache",
}


def _folder(name: str, in_checkout: str) -> Path:
    packaged = Path(__file__).parent / "_static" / name
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "clients" / in_checkout


@get("/", include_in_schema=False, sync_to_thread=False)
def index() -> Response[bytes]:
    """The page."""
    file = _folder("page", "web") / "index.html"
    if not file.is_file():
        raise NotFound("this server has no page")
    return Response(file.read_bytes(), media_type="text/html", headers=HEADERS)


def static_routers() -> list[Router]:
    """`/page/*`, the page's own files, and `/client/*`, the JS client."""
    folders = {"/page": _folder("page", "web"), "/client": _folder("client", "js/src")}

    def with_headers(response: Response[object]) -> Response[object]:
        response.headers.update(HEADERS)
        return response

    def known(folder: Path) -> Callable[[Request[Any, Any, Any]], None]:
        """Refuse a path that is none of the folder's files, before the file system sees what a client sent."""
        names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}

        def check(request: Request[Any, Any, Any]) -> None:
            if str(request.path_params["file_path"]).removeprefix("/") not in names:
                raise NotFound("no such path")

        return check

    return [
        create_static_files_router(
            path, [folder], name=path[1:], before_request=known(folder), after_request=with_headers
        )
        for path, folder in folders.items()
        if folder.is_dir()
    ]
